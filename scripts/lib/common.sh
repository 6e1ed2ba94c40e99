# shellcheck shell=bash
# What every script here starts with: strict mode, messages, temporary places that are always removed.
# Sourced, never run.

set -euo pipefail

# Without this an error inside $(…) goes unnoticed.
shopt -s inherit_errexit

# A login shell without /usr/sbin in its PATH is common, and useradd lives there.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PATH

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
export REPO
SCRIPT=$(basename "$0")

# One aligned line: what it is about, and what there is to say.
say() { printf '  %-10s %s\n' "$1" "${*:2}"; }

warn() { printf '%s: warning: %s\n' "$SCRIPT" "$*" >&2; }

die() {
    printf '%s: %s\n' "$SCRIPT" "$*" >&2
    exit 1
}

# Microseconds since the epoch. EPOCHREALTIME's separator follows the locale.
now() { printf '%s\n' "${EPOCHREALTIME//[.,]/}"; }

# The time since `$1` (as `now` gave it), for people.
since() {
    local us=$(($(now) - $1))
    if [ $us -lt 1000000 ]; then
        printf '%d ms\n' $((us / 1000))
    else
        printf '%d.%01d s\n' $((us / 1000000)) $((us % 1000000 / 100000))
    fi
}

# Bytes as people read them.
human() { numfmt --to=si --suffix=B --format=%.1f "$1"; }

# Runs a command whose output matters only when it fails: `quietly "what it does" command…`.
quietly() {
    local what=$1 log status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ "$status" -ne 0 ]; then
        printf '%s: %s failed (exit code %d):\n' "$SCRIPT" "$what" "$status" >&2
        tail -n 40 "$log" | sed 's/^/    /' >&2
    fi
    rm -f "$log"
    return "$status"
}

# --- What is to be undone, whatever happens ---------------------------------------------------------

CLEANUPS=()
MAIN_PID=$BASHPID

# Remembers a command to run when the script ends; the last one remembered runs first.
at_exit() { CLEANUPS+=("$(printf '%q ' "$@")"); }

run_cleanups() {
    local status=$? i
    # A subshell inherits the trap in some bash versions; only the script itself cleans up.
    [ "$BASHPID" = "$MAIN_PID" ] || return
    trap - EXIT
    trap '' INT TERM HUP # the clean-up itself is not interrupted
    cd /
    for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do
        eval "${CLEANUPS[i]}" || warn "clean-up failed: ${CLEANUPS[i]}"
    done
    exit "$status"
}

trap run_cleanups EXIT
# Turned into an ordinary exit, so that the EXIT trap runs for them too.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Removes a directory in which a rootless builder may have left files owned by subordinate ids: to
# their creator they are a stranger's, but root of a user namespace over the same ids may remove them.
remove_tree() {
    [ -e "$1" ] || return 0
    rm -rf "$1" 2>/dev/null && return 0
    # --map-auto does not cover single-id stores, which the plain rm above has dealt with.
    unshare --user --map-root-user --map-auto -- rm -rf "$1"
}

# Makes a temporary directory that goes away with the script, and sets TEMP to it. It is on disk
# rather than in /tmp, which may be a small tmpfs or noexec.
temp_dir() {
    TEMP=$(mktemp -d "${TMPDIR:-/var/tmp}/cooper-$SCRIPT.XXXXXX")
    at_exit remove_tree "$TEMP"
}

# Prints the comment at the top of the calling script, which is its help, and ends.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
}

# --- Root --------------------------------------------------------------------------------------------

is_root() { [ "$EUID" -eq 0 ]; }

# Runs a command as root: directly, or by sudo.
as_root() {
    if is_root; then
        "$@"
    elif type -P sudo >/dev/null; then
        sudo -- "$@"
    else
        die "this needs root, and there is no sudo: $*"
    fi
}
