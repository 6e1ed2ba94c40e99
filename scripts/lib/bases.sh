# shellcheck shell=bash
# Base images without a registry: root file systems as tar files, for `cooper import`.
# Sourced after common.sh and apt.sh.

# What a tar file must not depend on: order, time and owner.
DETERMINISTIC=(--sort=name --mtime="@${SOURCE_DATE_EPOCH:-0}" --owner=0 --group=0 --numeric-owner)

# Writes the file system that Debian's busybox-static package makes: the one program, a link for each
# of its applets, and the few files and directories that programs take for granted. There is no /proc,
# /sys or /dev on purpose, as in many small images: the builder has to cope.
busybox_base() (
    local out=$1 root
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    mkdir "$root/package" "$root/root"

    # Installing busybox-static would remove the busybox package, which initramfs-tools may use: unless
    # it is there anyway, its files are only unpacked.
    if [ "$(dpkg-query -W -f '${db:Status-Status}' busybox-static 2>/dev/null)" = installed ]; then
        mkdir -p "$root/package/bin"
        cp "$(type -P busybox)" "$root/package/bin/busybox"
    else
        unpack_package busybox-static "$root/package"
    fi

    cd "$root/root" || exit
    mkdir -m 0755 bin etc home sbin usr usr/bin usr/sbin var
    mkdir -m 0700 root
    mkdir -m 1777 tmp var/tmp
    install -m 0755 "$root"/package/*bin/busybox bin/busybox 2>/dev/null ||
        install -m 0755 "$root"/package/usr/bin/busybox bin/busybox
    bin/busybox --list-full | while read -r applet; do
        # Some packages list applets without a directory.
        case $applet in */*) ;; *) applet=bin/$applet ;; esac
        [ -e "$applet" ] || ln -s /bin/busybox "$applet"
    done

    cat >etc/passwd <<'END'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
END
    cat >etc/group <<'END'
root:x:0:
daemon:x:1:
www-data:x:33:
users:x:100:
nogroup:x:65534:
END
    chmod 0644 etc/passwd etc/group
    tar -c "${DETERMINISTIC[@]}" --format=ustar -f "$out.part" .
    mv "$out.part" "$out"
)

# The machine's own Debian sources, one line each as apt writes them. Asking apt instead of reading
# its files covers both file formats; other origins' repositories are none of the base's business.
debian_sources() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(ORIGIN)|$(SIGNED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' \
        'Created-By: Packages' 'Identifier: Packages' |
        awk -F'|' '$1 == "Debian" {
            options = $2 ~ /^\// ? "[signed-by=" $2 "] " : ""
            print "deb " options $3, $4, $5
        }' | LC_ALL=C sort -u
}

# debian_base OUT [mmdebstrap options…]: a minimal Debian of the machine's release and sources, with
# the machine's CA certificates: what the machine trusts (a company's proxy, say), builds on it trust.
debian_base() (
    local out=$1 sources bundle=/etc/ssl/certs/ca-certificates.crt
    shift
    sources=$(mktemp)
    trap 'rm -f "$sources"' EXIT
    debian_sources >"$sources"
    if [ ! -s "$sources" ]; then
        quietly "apt-get update" apt_get update
        debian_sources >"$sources"
    fi
    [ -s "$sources" ] || die "apt knows no Debian sources on this machine"
    # What is unpacked here becomes a tar and is thrown away: in memory if there is room (dpkg's many
    # fsyncs are half of the time on a disk), without documentation and caches.
    quietly "mmdebstrap" env TMPDIR="$(scratch_memory 2000)" SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-0}" mmdebstrap --quiet --variant=minbase \
        --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='force-unsafe-io' \
        --include=ca-certificates \
        --customize-hook="upload $bundle $bundle" \
        --format=tar "$@" "$(debian_release)" "$out.part" "$sources"
    mv "$out.part" "$out"
)

# A directory in memory with so many free megabytes, if there is one in which programs and devices may
# be: containers often mount /dev/shm small and noexec. Else the ordinary temporary directory.
scratch_memory() {
    local free options
    free=$(df --output=avail -m /dev/shm 2>/dev/null | tail -n 1)
    options=$(findmnt -n -o OPTIONS -T /dev/shm 2>/dev/null || true)
    if [ "${free:-0}" -gt "$1" ] && ! grep -q -E '(^|,)(noexec|nodev|nosuid)(,|$)' <<<"$options"; then
        printf '/dev/shm\n'
    else
        printf '%s\n' "${TMPDIR:-/var/tmp}"
    fi
}

debian_release() { (. /etc/os-release && printf '%s\n' "$VERSION_CODENAME"); }

# Base files take seconds to make and change only with the packages: kept in the target directory,
# which `cargo clean` empties. `cached_base NAME maker…` sets BASE to the file; the maker gets its path
# as first argument.
cached_base() {
    local name=$1 maker=$2 dir
    shift 2
    dir=$(target_dir)/bases
    BASE=$dir/$name.tar
    [ -e "$BASE" ] && return
    mkdir -p "$dir"
    "$maker" "$BASE" "$@"
}

# A Debian with a C compiler and this machine's Rust toolchain in /usr/local: what the Containerfile of
# the repository starts from. Of the toolchain only what compiles comes along: documentation, clippy and
# rustfmt are two thirds of it. (Sourced after cargo.sh too.)
rust_base() (
    local out=$1 sysroot host toolchain
    sysroot=$(cd "$REPO" && "${CARGO_AS[@]}" "$(dirname "$CARGO")/rustc" --print sysroot)
    host=$(cd "$REPO" && "${CARGO_AS[@]}" "$(dirname "$CARGO")/rustc" -vV | sed -n 's/^host: //p')
    [ "$sysroot" != /usr ] || die "the Rust toolchain is the distribution's; this needs one of rustup's, which can be moved"
    toolchain=$(mktemp)
    trap 'rm -f "$toolchain"' EXIT
    (
        cd "$sysroot" || exit
        tar -c "${DETERMINISTIC[@]}" --format=posix --pax-option=delete=atime,delete=ctime -f "$toolchain" \
            bin/cargo bin/rustc lib/*.so* "lib/rustlib/$host"
    )
    debian_base "$out" --include=gcc,libc6-dev --customize-hook="tar-in $toolchain /usr/local"
)
