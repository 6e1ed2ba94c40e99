# shellcheck shell=bash
# Running, timing, and looking at what came out. Sourced by scripts/bench.
#
# figures/WORKLOAD-RUNNER.us has the microseconds of each run, a line each; .kib the peaks of memory.

CACHED=''

# run_once WORKLOAD RUNNER [unmeasured]
run_once() {
    local RUN_AS COMMAND=() figures=$work/figures/$1-$2
    before "$1" "$2"
    command_of "$1" "$2"
    if [ $# -gt 2 ]; then
        quietly "$1 by $2" "$RUN_AS" "${COMMAND[@]}" || die "could not prepare $1 for $2"
    else
        quietly "$1 by $2" "$RUN_AS" "$work/bin/timed" "$figures" "${COMMAND[@]}" || die "could not measure $1 by $2"
        after "$1" "$2"
    fi
}

# run_often WORKLOAD RUNNER TIMES: for milliseconds, which hyperfine measures without anything between.
run_often() {
    local RUN_AS COMMAND=()
    command_of "$1" "$2"
    hyperfine_times "$1-$2" "$RUN_AS" "$3" "${COMMAND[@]}"
}

# hyperfine_times NAME RUN_AS TIMES COMMAND…
hyperfine_times() {
    local name=$1 run_as=$2 times=$3
    shift 3
    quietly "hyperfine" "$run_as" hyperfine --shell none --warmup 1 --runs "$times" \
        --export-json "$work/figures/$name.json" "$(printf '%q ' "$@")" || die "could not measure: $*"
    jq '.results[0].times[] * 1e6 | round' "$work/figures/$name.json" >>"$work/figures/$name.us"
}

measure_workload() {
    local round runner runners
    "setup_$1"
    mapfile -t runners < <(runners_of "$1")
    case $1 in
    A | B)
        # Memory by itself: what measures it takes a millisecond, too.
        for runner in "${runners[@]}"; do
            run_once "$1" "$runner"
            rm "$work/figures/$1-$runner.us"
        done
        ;;
    esac
    for ((round = 1; round <= runs; round++)); do
        for runner in "${runners[@]}"; do
            case $1-$runner in
            # After a run to warm up: behind buildah, the kernel is still tidying up for a while.
            A-cooper) run_often A "$runner" 5 ;;
            A-buildah*) run_often A "$runner" 2 ;;
            B-cooper) run_often B "$runner" 20 ;;
            B-*) run_often B "$runner" 5 ;;
            *) run_once "$1" "$runner" ;;
            esac
        done
        if [ $round = 1 ] && [[ " ${runners[*]} " = *one-layer* ]]; then
            mapfile -t runners < <(printf '%s\n' "${runners[@]}" | grep -v -x "$(slower_buildah "$1")")
        fi
    done
    case $1 in
    C | F) "validate_$1" || die "what cooper made of $1 is not what it should be" ;;
    esac
    say "$1" "cooper $(figure_list "$1-cooper"), buildah $(figure_list "$1-$(buildah_of "$1")")"
}

# --- Figures ----------------------------------------------------------------------------------------------

# The median of all times of NAME, in microseconds.
median() { jq -s 'sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2 | round' "$work/figures/$1.us"; }

# Its largest peak, in KiB.
peak() { jq -s 'max' "$work/figures/$1.kib"; }

# buildah_of WORKLOAD: the way of buildah's that counts.
buildah_of() {
    case $1 in
    A | C) if [ "$(slower_buildah "$1")" = buildah-layers ]; then echo buildah-one-layer; else echo buildah-layers; fi ;;
    B | D | E) echo buildah-layers ;;
    *) echo buildah ;;
    esac
}

# The slower of its two ways, in the first round.
slower_buildah() {
    local one layers
    read -r one <"$work/figures/$1-buildah-one-layer.us"
    read -r layers <"$work/figures/$1-buildah-layers.us"
    if [ "$one" -lt "$layers" ]; then echo buildah-layers; else echo buildah-one-layer; fi
}

figure_list() {
    local us list=()
    while read -r us; do list+=("$(ms "$us")"); done < <(head -n 5 "$work/figures/$1.us")
    printf '%s' "${list[*]}"
}

# --- What came out ----------------------------------------------------------------------------------------

# The size of the last layer in an OCI layout.
last_blob() {
    local manifest
    manifest=$(jq -r '.manifests[0].digest' "$1/index.json")
    jq '.layers[-1].size' "$1/blobs/${manifest/:/\/}"
}

# unpack_layout: skopeo reads cooper's last one, and umoci unpacks it, checking every digest on its way.
unpack_layout() {
    quietly "skopeo inspect" as_user skopeo inspect "oci:$work/out/cooper:bench" &&
        quietly "umoci unpack" as_user umoci unpack --rootless --image "$work/out/cooper:bench" "$work/bundle"
}

validate_C() {
    local root=$work/bundle/rootfs status=0
    unpack_layout || return
    [ "$(find "$root/many" -type f | wc -l)" -eq $((made * 100)) ] &&
        [ "$(cat "$root/many/$made/100")" = "$made 100" ] &&
        diff -r "$work/context/c/tree" "$root/srv/tree" &&
        [ "$(cat "$root/four")" = 4 ] || status=1
    remove "$work/bundle"
    return $status
}

validate_F() {
    local root=$work/bundle/rootfs status=0
    unpack_layout || return
    [ "$(stat -c %s "$root/out/random")" = "$random" ] &&
        diff -r --exclude random "$work/big" "$root/out" || status=1
    remove "$work/bundle"
    return $status
}
