# shellcheck shell=bash
# The two builders: how they are run, and their stores. Sourced by scripts/bench.
#
# Each has one store, always at the same path. `reset_store` makes it what it was at the start, with the
# bases in it and nothing else, from a copy: cooper cannot remove images yet, and both are to find the
# same state before each run.

run_cooper() { as_user COOPER_ROOT="$work/cooper" "$@"; }

# buildah keeps to its own directories, and to storage options that do not depend on the machine's
# configuration files.
run_buildah() {
    if is_root; then
        (cd "$work" && env TMPDIR="$work/tmp" "$@")
    else
        as_user XDG_RUNTIME_DIR="$work/xdg" TMPDIR="$work/tmp" "$@"
    fi
}

# cooper NAME… and buildah NAME…: what the commands start with.
cooper_command() { COMMAND=("$work/bin/$COOPER_NAME" --progress quiet "$@"); }
buildah_command() {
    COMMAND=(buildah --root "$work/buildah" --runroot "$work/xdg/run" --storage-driver overlay "$@")
}

cooper_do() {
    local -a COMMAND
    cooper_command "$@"
    run_cooper "${COMMAND[@]}"
}
buildah_do() {
    local -a COMMAND
    buildah_command "$@"
    run_buildah "${COMMAND[@]}"
}

import_into_buildah() {
    local container
    container=$(buildah_do from scratch)
    buildah_do add "$container" "$1" /
    buildah_do commit "$container" "$2"
    buildah_do rm "$container"
}

# Makes the stores that every workload starts with. In both a step has run on each base: so they have it as
# steps want it, and not only as it came.
seed_stores() {
    local base
    for base in busybox debian; do
        if [ -n "$small" ]; then
            cached_base busybox busybox_base
        else
            cached_base "$base" "${base}_base"
        fi
        cp "$BASE" "$work/seed/$base.tar"
        quietly "cooper import" cooper_do import "$work/seed/$base.tar" "localhost/$base:latest"
        quietly "the import into buildah" import_into_buildah "$work/seed/$base.tar" "localhost/$base:latest"
        mkdir -p "$work/seed/warm"
        printf 'FROM localhost/%s:latest\nRUN true\n' "$base" >"$work/seed/warm/Containerfile"
        chmod -R a+rX "$work/seed/warm"
        quietly "a step by cooper" cooper_do build "$work/seed/warm"
        quietly "a step by buildah" buildah_do build --isolation chroot --layers "$work/seed/warm"
    done
    mv "$work/cooper" "$work/seed/cooper"
    mv "$work/buildah" "$work/seed/buildah"
}

# reset_store BUILDER
reset_store() {
    CACHED=''
    remove "$work/$1"
    copy_tree "$work/seed/$1" "$work/$1"
}
