# shellcheck shell=bash
# Finding what a step has changed: cooper alone, with each storage backend that works here, beside `find`
# and hashing all files. Sourced by scripts/bench.

# A tree of directories of 100 files, beside what busybox needs to run.
make_big_tree() {
    local number dir
    for ((number = 0; number < tree_files / 100; number++)); do
        dir=$work/big/tree/$((number / 60))/$number
        mkdir -p "$dir"
        (cd "$dir" && head -c 409600 /dev/urandom | split -b 4096 -a 2 - f) || return
    done
    cp "$work/seed/busybox.tar" "$work/big.tar"
    chmod u+w "$work/big.tar"
    tar --append --owner=0 --group=0 -C "$work/big" -f "$work/big.tar" tree
}

# detect BACKEND: the times from the end of a step to the list of what it has changed, as cooper logs them.
detect() {
    local log=$work/figures/detect-$1.log
    run_cooper "$work/bin/$COOPER_NAME" --storage="$1" --log-level debug --progress plain build --no-cache \
        "$work/context/detect" >"$log" 2>&1 || return
    awk '/ entries differ, found in / {
        time = $NF
        unit = time ~ /µs$/ ? 1 : time ~ /ms$/ ? 1000 : time ~ /ns$/ ? 0.001 : 1000000
        sub(/[^0-9.]+$/, "", time)
        printf "%.3f\n", time * unit
    }' "$log" >"$work/figures/detect-$1.us"
    [ -s "$work/figures/detect-$1.us" ] || die "no times in cooper's log"
}

# Sets backends to those that were measured.
measure_detection() {
    local run backend times=$((runs < 2 ? 2 : runs))
    mkdir "$work/big"
    quietly "making the tree" make_big_tree
    quietly "cooper import" cooper_do import --compression none "$work/big.tar" localhost/big:latest
    rm "$work/big.tar"
    {
        printf 'FROM localhost/big:latest\n'
        for ((run = 0; run < runs; run++)); do
            printf "RUN for f in a b c d e f g h i j; do echo %d >> /tree/0/%d/fa\$f; done\n" "$run" $((run % 10))
        done
    } | context detect

    backends=()
    for backend in overlay fuse copy; do
        if detect "$backend"; then
            backends+=("$backend")
        else
            warn "not measured: $(grep '^error' "$work/figures/detect-$backend.log")"
        fi
    done

    # Files of scripts, since hyperfine is to start no shell of its own.
    printf '%s\n' "find '$work/big' -type f -print0 | xargs -0 -P$(nproc) -n 500 sha256sum >/dev/null" >"$work/hash.sh"
    printf '%s\n' "find '$work/big' -printf '%i %C@ %s %m %U %G %n %D %p\\n' >/dev/null" >"$work/find.sh"
    chmod -R a+rX "$work/big" "$work/hash.sh" "$work/find.sh"
    hyperfine_times detect-hash as_user "$times" sh "$work/hash.sh"
    hyperfine_times detect-find as_user "$times" sh "$work/find.sh"
}
