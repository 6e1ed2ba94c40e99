# shellcheck shell=bash
# The table, the JSON, and the targets. Sourced by scripts/bench.

# Each workload: its name in the table, how many times faster than buildah it is to be, and how many times
# what the bare work takes it may take; - where nothing is asked.
declare -A NAMES=(
    [A]='20 RUN steps' [B]='the same, cached' [C]='50,000 files' [D]='the same, cached'
    [E]='the same, 1 file new' [F]='RUN writes 810 MB' [G]='two busy stages' [H]='pull of C, a RUN'
)
declare -A FASTER=([A]=45 [B]=25 [C]=7 [D]=80 [E]=15 [F]=4 [G]=1.9 [H]=4)
declare -A OVER_BARE=([C]=1.3 [G]=1.1)
CACHED_MOST_US=10000 # B, the whole process
BLOB_MOST=1.08       # F, against buildah's
MEMORY_MOST_KIB=65536

ms() { awk -v us="$1" 'BEGIN { printf us < 100000 ? "%.1f ms" : us < 10000000 ? "%.0f ms" : "%.1f s", us / (us < 10000000 ? 1000 : 1000000) }'; }
ratio() { awk -v a="$1" -v b="$2" -v digits="${3-1}" 'BEGIN { printf "%.*f", digits, a / b }'; }
mib() { awk -v kib="$1" 'BEGIN { printf "%.0f", kib / 1024 }'; }

buildah_version() { buildah --version | awk '{ print $3 }'; }
buildah_user() { if is_root; then echo root; else echo "$RUN_USER"; fi; }
has_bare() { [ -e "$work/figures/$1-bare.us" ]; }

# workload_figures LETTER: sets ours, theirs and bare, medians in microseconds, and way, how buildah did it.
workload_figures() {
    way=$(buildah_of "$1")
    ours=$(median "$1-cooper") theirs=$(median "$1-$way") bare=''
    ! has_bare "$1" || bare=$(median "$1-bare")
}

measured_workloads() {
    local letter
    for letter in A B C D E F G H; do
        ! wanted "$letter" || printf '%s\n' "$letter"
    done
}

# 80 columns. (x instead of ×: printf counts bytes.)
print_table() {
    local letter ours theirs bare way
    [ -z "$small" ] || printf 'small workloads: these figures mean nothing\n'
    printf 'medians; rounds: %d; buildah %s as %s, cooper as %s\n' \
        "$runs" "$(buildah_version)" "$(buildah_user)" "$RUN_USER"
    printf '%s; %d cores, Linux %s\n' "$(place_name)" "$(nproc)" "$(uname -r)"
    if [ -n "$(measured_workloads)" ]; then
        printf '\n%-23s %9s %9s %7s %9s %7s %10s\n' '' '' '' '' bare times peak
        printf '%-23s %9s %9s %7s %9s %7s %10s\n' '' cooper buildah faster work that 'MiB (b.)'
        for letter in $(measured_workloads); do
            workload_figures "$letter"
            printf '%s %-21s %9s %9s %6sx %9s %7s %10s\n' "$letter" "${NAMES[$letter]}" \
                "$(ms "$ours")" "$(ms "$theirs")" \
                "$(ratio "$theirs" "$ours")" "${bare:+$(ms "$bare")}" "${bare:+$(ratio "$ours" "$bare" 2)}" \
                "$(mib "$(peak "$letter-cooper")") ($(mib "$(peak "$letter-$way")"))"
        done
        ! [[ $only =~ [ACF] ]] || printf '\n'
        for letter in A C; do
            ! wanted "$letter" || printf '%s: buildah was faster %s\n' "$letter" "$(way_name "$(buildah_of "$letter")")"
        done
        ! wanted F || printf "F: cooper's blob has %s, buildah's %s: %s times as much\n" \
            "$(human "$(blob cooper)")" "$(human "$(blob buildah)")" "$(ratio "$(blob cooper)" "$(blob buildah)" 3)"
    fi
    if wanted detect; then
        printf '\n%-33s %9s\n' "what changed in $tree_files files" median
        for letter in "${backends[@]}" find hash; do
            printf '%-33s %9s\n' "$(detection_name "$letter")" "$(ms "$(median "detect-$letter")")"
        done
    fi
}

place_name() { if [ -n "$disk" ]; then printf 'on disk (%s)' "$(stat -f -c %T "$disk")"; else printf 'on a tmpfs'; fi; }
way_name() { if [ "$1" = buildah-layers ]; then echo "with --layers"; else echo "making one layer of all steps"; fi; }
detection_name() {
    case $1 in
    find) echo 'find, the same fields' ;;
    hash) echo 'hashing all files' ;;
    *) echo "--storage=$1" ;;
    esac
}

# The median of the sizes of F's blobs, in bytes: the random bytes differ each time.
blob() { jq -s 'sort | .[length / 2 | floor]' "$work/figures/F-$1.blob"; }

# runner_json NAME: an object, or null if it did not run.
runner_json() {
    if [ -e "$work/figures/$1.us" ]; then
        jq -n --argjson median "$(median "$1")" --slurpfile times "$work/figures/$1.us" \
            --slurpfile peaks <(if [ -e "$work/figures/$1.kib" ]; then cat "$work/figures/$1.kib"; fi) \
            '{ median_us: $median, times_us: $times, peak_kib: ($peaks | max) }'
    else
        echo null
    fi
}

print_json() {
    local letter ours theirs bare way workloads='{}' detected=null
    for letter in $(measured_workloads); do
        workload_figures "$letter"
        workloads=$(jq --arg letter "$letter" --arg what "${NAMES[$letter]}" --arg way "$way" \
            --argjson cooper "$(runner_json "$letter-cooper")" --argjson buildah "$(runner_json "$letter-$way")" \
            --argjson bare "$(runner_json "$letter-bare")" '.[$letter] = {
                what: $what, cooper: $cooper, buildah: $buildah, buildah_way: $way, bare: $bare,
                faster: ($buildah.median_us / $cooper.median_us),
                over_bare: (if $bare then $cooper.median_us / $bare.median_us else null end)
            }' <<<"$workloads")
    done
    ! wanted F || workloads=$(jq --argjson cooper "$(blob cooper)" --argjson buildah "$(blob buildah)" \
        '.F.blob_bytes = { cooper: $cooper, buildah: $buildah }' <<<"$workloads")
    if wanted detect; then
        detected=$(jq -n --argjson files "$tree_files" '{ files: $files }')
        for letter in "${backends[@]}" find hash; do
            detected=$(jq --arg name "$letter" --argjson us "$(median "detect-$letter")" '.median_us[$name] = $us' <<<"$detected")
        done
    fi
    jq -n --arg version "$(buildah_version)" --arg user "$(buildah_user)" --arg kernel "$(uname -r)" \
        --arg cooper "$(cooper_do --version)" --arg place "$(place_name)" --argjson small "$([ -n "$small" ] && echo true || echo false)" \
        --argjson cores "$(nproc)" --argjson runs "$runs" --argjson workloads "$workloads" --argjson detected "$detected" '{
            machine: { cores: $cores, kernel: $kernel, place: $place },
            runs: $runs, small: $small, cooper: $cooper,
            buildah: { version: $version, user: $user },
            workloads: $workloads, change_detection: $detected
        }'
}

# --- Targets --------------------------------------------------------------------------------------------

# most VALUE LIMIT WHAT and least VALUE LIMIT WHAT: note it when a target is missed.
most() { if above "$1" "$2"; then missed "$3: $1, and at most $2 is wanted"; fi; }
least() { if above "$2" "$1"; then missed "$3: $1, and at least $2 is wanted"; fi; }
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
missed() {
    warn "$1"
    status=1
}

# Ends with exit code 1 when something that was measured misses its target.
check_targets() {
    local letter ours theirs bare way status=0 copy
    for letter in $(measured_workloads); do
        workload_figures "$letter"
        least "$(ratio "$theirs" "$ours" 2)" "${FASTER[$letter]}" "$letter, times as fast as buildah"
        [ -z "${OVER_BARE[$letter]-}" ] ||
            most "$(ratio "$ours" "$bare" 2)" "${OVER_BARE[$letter]}" "$letter, times the bare work"
        most "$(peak "$letter-cooper")" "$MEMORY_MOST_KIB" "$letter, peak memory in KiB"
    done
    ! wanted B || most "$(median B-cooper)" "$CACHED_MOST_US" "B, microseconds"
    ! wanted F || most "$(ratio "$(blob cooper)" "$(blob buildah)" 3)" "$BLOB_MOST" "F, size of the blob against buildah's"
    if wanted detect; then
        copy=$(median detect-copy)
        most "$copy" 500000 "finding changes with --storage=copy, microseconds"
        least "$(ratio "$(median detect-hash)" "$copy")" 20 "hashing against finding changes with --storage=copy"
    fi
    return $status
}
