# shellcheck shell=bash
# A registry of our own, on a loopback port: Debian's docker-registry. Sourced after common.sh, apt.sh
# and cargo.sh.

# Sets REGISTRY_PROGRAM. Installing the package would also start a service of the machine's own, which
# nobody asked for: its program is only unpacked.
find_registry() {
    local dir
    REGISTRY_PROGRAM=$(type -P docker-registry) && return
    dir=$(target_dir)/tools/docker-registry
    REGISTRY_PROGRAM=$dir/usr/bin/docker-registry
    [ -x "$REGISTRY_PROGRAM" ] && return
    mkdir -p "$dir"
    unpack_package docker-registry "$dir"
}

# Starts one that lives until the script ends, and sets REGISTRY to its host:port.
start_registry() {
    local dir=$1 log=$1/registry.log pid
    find_registry
    mkdir -p "$dir/data"
    cat >"$dir/registry.yml" <<END
version: 0.1
log: { level: info, formatter: json }
storage:
  filesystem: { rootdirectory: $dir/data }
  delete: { enabled: true }
http: { addr: "127.0.0.1:0" }
END
    "$REGISTRY_PROGRAM" serve "$dir/registry.yml" >"$log" 2>&1 &
    pid=$!
    at_exit stop_process "$pid"
    # Port 0 lets the kernel choose a free one; the log tells which.
    for _ in $(seq 100); do
        REGISTRY=$(sed -n 's/.*listening on \(127\.0\.0\.1:[0-9]*\).*/\1/p' "$log" | head -n 1)
        [ -n "$REGISTRY" ] && return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 5 "$log" >&2
    die "docker-registry did not start"
}

stop_process() {
    kill "$1" 2>/dev/null || return 0
    wait "$1" 2>/dev/null || true
}
