//! The memory of another process, and results of system calls in the form in which they lie there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads at most `buffer.len()` bytes at an address of a thread's memory; fewer where it ends before.
///
/// process_vm_readv(2): asks for the rights of ptrace(2).
pub fn read(tid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // Split at the page's end: an element that reaches into a page that is not there may fail whole.
    let first = buffer.len().min((PAGE - address % PAGE) as usize);
    let remote = [
        libc::iovec { iov_base: address as *mut _, iov_len: first },
        libc::iovec { iov_base: address.wrapping_add(first as u64) as *mut _, iov_len: buffer.len() - first },
    ];
    // SAFETY: the local vector names `buffer`, which is alive and writable; the remote ones name another
    // process's memory, which the kernel checks.
    let got = unsafe { libc::process_vm_readv(tid as i32, &raw const local, 1, remote.as_ptr(), 2, 0) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
}

/// The smallest page that there is; a larger one ends at a multiple of it.
const PAGE: u64 = 4096;

/// Writes all of `bytes` at an address of a thread's memory.
///
/// # Errors
/// `EFAULT` where it may not write itself.
pub fn write(tid: u32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes.len() };
    // SAFETY: the kernel only reads from the local vector, which names `bytes`; the remote one names
    // another process's memory, which the kernel checks.
    let put = unsafe { libc::process_vm_writev(tid as i32, &raw const local, 1, &raw const remote, 1, 0) };
    match put {
        -1 => Err(io::Error::last_os_error()),
        put if put as usize == bytes.len() => Ok(()),
        _ => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// What `newfstatat` gives, field for field.
pub type KernelStat = libc::stat;

/// What `statx` gives, field for field.
pub type KernelStatx = libc::statx;

/// The kernel's own answer to `newfstatat`.
pub fn stat(dir: BorrowedFd<'_>, path: &CStr, flags: i32) -> io::Result<KernelStat> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut stat: KernelStat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the structure is what this call fills on a 64-bit machine; by
    // number, because a C library may have another structure behind its own name.
    let done =
        unsafe { libc::syscall(libc::SYS_newfstatat, dir.as_raw_fd(), path.as_ptr(), &raw mut stat, flags) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(stat) }
}

/// The kernel's own answer to `statx`.
pub fn statx(dir: BorrowedFd<'_>, path: &CStr, flags: i32, mask: u32) -> io::Result<KernelStatx> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut statx: KernelStatx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the structure is what this call fills.
    let done = unsafe {
        libc::syscall(libc::SYS_statx, dir.as_raw_fd(), path.as_ptr(), flags, mask, &raw mut statx)
    };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(statx) }
}

/// The bytes of a structure for another process.
pub trait Bytes: Sized {
    /// As they lie in memory.
    fn bytes(&self) -> &[u8] {
        // SAFETY: implemented here alone, for structures that came out of zeroed memory and hold plain
        // integers without gaps that were never written; they live as long as `self`.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

impl Bytes for KernelStat {}
impl Bytes for KernelStatx {}
