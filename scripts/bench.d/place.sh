# shellcheck shell=bash
# Where the benchmark takes place: mounts of its own, a tmpfs, a user. Sourced by scripts/bench.

# Starts the script again in a mount namespace of its own, if root runs it: its tmpfs goes away with it
# whatever happens, and what it mounts over the machine's directories nobody else sees.
private_mounts() {
    # exec keeps the process id, so nobody inherits the variable by accident.
    if is_root && [ "${COOPER_BENCH_MOUNTS-}" != $$ ]; then
        COOPER_BENCH_MOUNTS=$$ exec unshare --mount --propagation private -- "$BASH" "$0" "$@"
    fi
}

# Sets work, an empty directory of the ordinary user's on a tmpfs or below --disk.
find_place() {
    local free
    if [ -n "$disk" ]; then
        TMPDIR=$disk temp_dir
    elif is_root; then
        temp_dir
        # Root mounts one: /dev/shm may be small.
        mount -t tmpfs -o mode=0755 cooper-bench "$TEMP"
        at_exit umount "$TEMP"
    else
        TMPDIR=/dev/shm temp_dir
    fi
    work=$TEMP
    free=$(awk '/^MemAvailable:/ { print int($2 / 1e6) }' /proc/meminfo)
    [ -n "$disk$small" ] || [ "$free" -ge 8 ] ||
        warn "only $free GB of memory are free; if that is too little, try --disk DIR, or leave out F and detect with --only"

    # Libraries that buildah is made of keep a database in here, as root even if all else is told to lie
    # elsewhere, and wait for the disk to have it.
    if is_root; then
        mkdir -p "$work/containers" /var/lib/containers
        mount --bind "$work/containers" /var/lib/containers
        at_exit umount /var/lib/containers
    fi

    ordinary_user "$work"
    as_user mkdir -p "$work"/{context,figures,out,seed,tmp,xdg}
    # root's buildah writes there, too
    chmod 1777 "$work"/{figures,out,tmp}
}

# What one run has left to be written to the disk must not slow down the next.
settle() { [ -z "$disk" ] || sync -f "$work"; }

# remove PATH…: whoever they belong to.
remove() {
    local path
    for path in "$@"; do
        remove_tree "$path"
    done
}

# Copies a tree with its owners, which may be subordinate ids.
copy_tree() {
    if is_root; then
        cp -a "$1" "$2"
    else
        unshare --user --map-root-user --map-auto -- cp -a "$1" "$2"
    fi
}
