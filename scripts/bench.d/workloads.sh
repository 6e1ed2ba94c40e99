# shellcheck shell=bash
# The workloads: their contexts, and the commands that are measured. Sourced by scripts/bench.

# Sets how large they are.
size_workloads() {
    steps=20 made=300 copied=200 random=300000000 programs=510000000 loops=3000000 tree_files=300000
    if [ -n "$small" ]; then
        steps=2 made=3 copied=2 random=3000000 programs=5000000 loops=30000 tree_files=3000
    fi
    tree_files=${files:-$tree_files}
}

# The commands of steps that the bare work has, too.
# shellcheck disable=SC2016
many_files() {
    printf '%s' "mkdir $1 && cd $1 && " 'for d in $(seq '"$made"'); do mkdir $d && ' \
        'for f in $(seq 100); do echo $d $f > $d/$f; done; done'
}
# shellcheck disable=SC2016
calculate() { printf 'i=0; while [ $i -lt %d ]; do i=$((i+1)); done; echo %s > /%s' "$loops" "$1" "$1"; }

# --- What is prepared -----------------------------------------------------------------------------------

# context NAME: its Containerfile comes from standard input.
context() {
    as_user mkdir -p "$work/context/$1"
    as_user tee "$work/context/$1/Containerfile" >/dev/null
}

# Directories of 100 files of 100 to 11,000 bytes: pieces of programs and texts that every Debian has, the
# same ones each time.
tree_of_pieces() {
    perl -e '
        my ($dir, $dirs) = @ARGV;
        local $/;
        my $pool = join "", map { open my $f, "<:raw", $_ or die "$_: $!"; <$f> }
            "/usr/bin/bash", "/usr/bin/perl", sort glob "/usr/share/common-licenses/*";
        srand 1;
        mkdir $dir or die "$dir: $!";
        for my $d (0 .. $dirs - 1) {
            mkdir "$dir/d$d" or die $!;
            for my $f (0 .. 99) {
                my $size = 100 + int rand 10901;
                open my $out, ">:raw", "$dir/d$d/f$f" or die $!;
                print $out substr $pool, int rand(length($pool) - $size), $size;
                close $out or die $!;
            }
        }' "$1" "$2"
}

# The first so many bytes of the programs and libraries of a Debian with compilers, as a tar: made once,
# since it takes minutes.
programs_base() (
    local out=$1 bytes=$2 root
    say F "making a Debian with compilers, which is kept"
    root=$(mktemp -d -p "$work")
    trap 'rm -rf "$root"' EXIT
    debian_base "$root/all.tar" --include=g++,git,python3,clang
    mkdir "$root/tree"
    tar -C "$root/tree" --no-same-owner -xf "$root/all.tar" ./usr
    cd "$root/tree" || exit
    find usr -type f -printf '%p\t%s\n' | LC_ALL=C sort |
        awk -F'\t' -v bytes="$bytes" '{ sum += $2 } sum <= bytes { print $1 }' >"$root/files"
    tar -c "${DETERMINISTIC[@]}" -T "$root/files" -f "$out.part"
    mv "$out.part" "$out"
)

setup_A() {
    {
        printf 'FROM localhost/busybox:latest\n'
        for step in $(seq "$steps"); do printf 'RUN echo %d > /step-%d\n' "$step" "$step"; done
    } | context a
    as_user mkdir -p "$work/bare/root"
    as_user tar -C "$work/bare/root" -xf "$work/seed/busybox.tar"
    fill_cache A
}
setup_B() { [ "$CACHED" = A ] || setup_A; }

setup_C() {
    context c <<END
FROM localhost/debian:latest
RUN $(many_files /many)
COPY tree /srv/tree
RUN echo 1 > /one
RUN echo 2 > /two
RUN echo 3 > /three
RUN echo 4 > /four
END
    as_user mkdir -p "$work/bare"
    remove "$work/context/c/tree"
    quietly "making the tree" tree_of_pieces "$work/context/c/tree" "$copied"
    ! is_root || chown -R "$RUN_UID:$RUN_GID" "$work/context/c/tree"
    chmod -R a+rX "$work/context/c/tree"
    base_layer
}
setup_D() {
    [ -e "$work/context/c" ] || setup_C
    [ "$CACHED" = C ] || fill_cache C
}
setup_E() { setup_D; }

base_layer() { as_user sh -c 'igzip -c <"$1" >"$2"' sh "$work/seed/debian.tar" "$work/bare/base.gz"; }

setup_F() {
    context f <<END
FROM localhost/debian:latest
RUN --mount=type=bind,from=big,target=/in cp -r /in /out && head -c $random /dev/urandom > /out/random
END
    as_user mkdir -p "$work/bare" "$work/big"
    if [ -n "$small" ]; then
        as_user head -c "$programs" /dev/zero | as_user tee "$work/big/zeros" >/dev/null
    else
        cached_base bench-programs programs_base "$programs"
        as_user tar -C "$work/big" -x <"$BASE"
    fi
    base_layer
}

setup_G() {
    context g <<END
FROM localhost/busybox:latest AS a
RUN $(calculate a)
FROM localhost/busybox:latest AS b
RUN $(calculate b)
FROM scratch
COPY --from=a /a /a
COPY --from=b /b /b
END
    as_user mkdir -p "$work/bare/root"
    as_user tar -C "$work/bare/root" -xf "$work/seed/busybox.tar"
    reset_store cooper
    reset_store buildah
}

# The image in the registry is buildah's, so that nobody can say that cooper's suits cooper.
setup_H() {
    setup_D
    mkdir -p "$work/registry"
    start_registry "$work/registry"
    quietly "pushing to the registry" \
        buildah_do push --tls-verify=false bench-c "docker://$REGISTRY/c:1"
    context h <<END
FROM $REGISTRY/c:1
RUN echo hi > /hi
END
}

# fill_cache A|C: both stores have that workload's steps in their caches, and little else.
fill_cache() {
    local cached=B
    [ "$1" = A ] || cached=D
    reset_store cooper
    reset_store buildah
    run_once $cached cooper unmeasured
    run_once $cached buildah-layers unmeasured
    CACHED=$1
}

# Makes room.
forget_workloads() {
    remove "$work"/{context,cooper,buildah,big,out,bare}
    as_user mkdir -p "$work/context"
}

# --- What is run ------------------------------------------------------------------------------------------

# Who runs a workload.
runners_of() {
    case $1 in
    A | C) printf '%s\n' cooper buildah-one-layer buildah-layers bare ;;
    B | D | E) printf '%s\n' cooper buildah-layers ;;
    F | G | H) printf '%s\n' cooper buildah bare ;;
    esac
}

# before WORKLOAD RUNNER: what comes before each run, outside of the time.
before() {
    local builder=${2%%-*}
    remove "$work/out/$builder"
    case $1-$builder in
    *-bare) ;;
    C-* | F-*) reset_store "$builder" ;;
    E-*)
        # Another change each time, and each builder sees it for the first time.
        changes=$((${changes-0} + 1))
        printf 'changed for the %d. time\n' $changes >"$work/context/c/tree/d1/f50"
        ;;
    H-*)
        CACHED=''
        remove "$work/$builder"
        ;;
    esac
    settle
}

# command_of WORKLOAD RUNNER: sets RUN_AS and COMMAND.
command_of() {
    local context options=() push
    case $1 in
    A | B) context=a ;;
    C | D | E) context=c ;;
    *) context=${1,} ;;
    esac
    case $1 in A | C | F | G) options+=(--no-cache) ;; esac
    [ "$1" != F ] || options+=(--build-context "big=$work/big")
    case $2 in
    cooper)
        RUN_AS=run_cooper
        case $1 in [C-FH]) options+=(-o "oci:$work/out/cooper:bench") ;; esac
        cooper_command build -t "bench-$context" "${options[@]}" "$work/context/$context"
        ;;
    buildah*)
        RUN_AS=run_buildah
        [ "$2" != buildah-layers ] || options+=(--layers)
        [ "$1" != H ] || options+=(--tls-verify=false)
        buildah_command build --quiet --isolation chroot -t "bench-$context" "${options[@]}" "$work/context/$context"
        case $1 in
        [C-FH])
            push=$(printf '%q ' "${COMMAND[@]}")
            buildah_command push --quiet "bench-$context" "oci:$work/out/buildah:bench"
            push="$push && $(printf '%q ' "${COMMAND[@]}")"
            COMMAND=(sh -c "$push")
            ;;
        esac
        ;;
    bare)
        RUN_AS=as_user
        COMMAND=("$work/bin/bare" "$1" "$work")
        case $1 in
        A) COMMAND+=("$steps") ;;
        C) COMMAND+=("$(many_files many)") ;;
        F) COMMAND+=("$random") ;;
        G) COMMAND+=("$(calculate a)") ;;
        H) COMMAND+=("$REGISTRY") ;;
        esac
        ;;
    esac
}

# after WORKLOAD RUNNER: what of it is looked at, and what must not stay.
after() {
    case $1-$2 in
    *-bare) remove "$work/bare/run" ;;
    F-*) last_blob "$work/out/$2" >>"$work/figures/F-$2.blob" ;;
    esac
}
