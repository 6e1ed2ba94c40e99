# shellcheck shell=bash
# Finding and running cargo. Sourced after common.sh.

CARGO_AS=()

# Sets CARGO. rustup's installer puts ~/.cargo/bin into the login shell's PATH only.
find_cargo() {
    local home
    if CARGO=$(type -P cargo); then
        return
    fi
    CARGO=$HOME/.cargo/bin/cargo
    if [ ! -x "$CARGO" ] && is_root && [ -n "${SUDO_USER-}" ]; then
        # Under sudo the toolchain is the calling user's, and so should be what it builds.
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        CARGO=$home/.cargo/bin/cargo
        CARGO_AS=(setpriv "--reuid=$SUDO_USER" "--regid=$(id -g "$SUDO_USER")" --init-groups -- env "HOME=$home")
    fi
    [ -x "$CARGO" ] ||
        die "cargo was found neither in PATH nor in ~/.cargo/bin; cooper needs Rust $(rust_version) or newer (https://rustup.rs)"
    # cargo starts rustc by name.
    PATH=$(dirname "$CARGO"):$PATH
}

rust_version() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$REPO/Cargo.toml"; }

run_cargo() { (cd "$REPO" && "${CARGO_AS[@]}" "$CARGO" "$@"); }

# Where cargo puts what it builds.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    case $dir in /*) ;; *) dir=$REPO/$dir ;; esac
    printf '%s\n' "$dir"
}

# Builds the release program and sets COOPER to it. The build's own progress goes to the terminal.
build_release() {
    run_cargo build --release --locked --bin cooper || die "cargo build failed"
    # shellcheck disable=SC2034 # for the calling script
    COOPER=$(target_dir)/release/cooper
}
