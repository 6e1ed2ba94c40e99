//! Layers: from entries to a canonical tar and a compressed blob, and from a blob to files.
//!
//! | file | does |
//! |---|---|
//! | [`entry`] | what a layer says about one name, and which extended attributes it speaks of |
//! | [`content`] | a file's bytes, without reading its holes |
//! | [`write`](mod@write) | entries → the canonical tar; its header defines the format byte for byte |
//! | [`compress`] | the tar's bytes → diff ID, compressed blob, digest, in one pass |
//! | `gzip`, `chunk` | gzip by several threads; where it is cut, so that equal parts of two tars are equal in their blobs |
//! | [`reuse`] | what was compressed before need not be again |
//! | [`decompress`] | a blob → the tar's bytes, whatever compressed them |
//! | [`read`] | tar as anybody writes it → entries |
//! | [`apply`](mod@apply) | a tar → a directory that the kernel's overlay takes as a lower layer |
//!
//! On disk this part knows one thing only: the directory that [`apply`](mod@apply) fills. Who makes
//! it, locks it, gives it its final name and removes it is the store's business. Nothing here knows of
//! images, registries, the store or the runtime's processes; the only thing used of `cooper-runtime`
//! is `sys::fs`, the file primitives.

pub mod apply;
mod chunk;
pub mod compress;
pub mod content;
pub mod decompress;
pub mod entry;
mod gzip;
mod pax;
pub mod read;
pub mod reuse;
mod sparse;
pub mod write;

#[cfg(test)]
mod tests;
