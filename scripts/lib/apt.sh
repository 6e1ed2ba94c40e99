# shellcheck shell=bash
# Installing what is missing from Debian's packages. Sourced after common.sh.

WANTED=()

# Notes that a package is wanted unless `check` is there: a command's name or an absolute path. Asking
# for what is used instead of for the package leaves machines alone that got it some other way.
want() {
    local check=$1 package=$2
    case $check in
    /*) [ -e "$check" ] && return ;;
    *) type -P "$check" >/dev/null && return ;;
    esac
    WANTED+=("$package")
}

apt_get() {
    # A fresh machine is often still busy with its own first upgrade: wait for the lock.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"
}

# Installs all that was wanted so far, and sets INSTALLED to it.
install_wanted() {
    INSTALLED=("${WANTED[@]}")
    WANTED=()
    [ ${#INSTALLED[@]} -gt 0 ] || return 0
    type -P apt-get >/dev/null ||
        die "this machine has no apt-get; please install by hand what these Debian packages hold: ${INSTALLED[*]}"

    # The package lists are brought up to date only if it does not work without.
    if ! apt_get install --no-install-recommends "${INSTALLED[@]}" >/dev/null 2>&1; then
        quietly "apt-get update" apt_get update ||
            die "the package lists could not be fetched; needed: ${INSTALLED[*]}"
        quietly "apt-get install ${INSTALLED[*]}" \
            apt_get install --no-install-recommends "${INSTALLED[@]}" ||
            die "some packages could not be installed: ${INSTALLED[*]}"
    fi
    hash -r
}

# Unpacks a package's files into a directory without installing it.
unpack_package() {
    local package=$1 dir=$2
    (
        cd "$dir" || exit
        # As root apt drops to its own user for downloads, which may not write here; it then says so
        # and goes on as root. That is fine.
        apt-get -q download "$package" >/dev/null 2>&1 || {
            quietly "apt-get update" apt_get update
            quietly "apt-get download $package" apt-get -q download "$package"
        }
        dpkg-deb --extract "$package"_*.deb .
        rm "$package"_*.deb
    )
}
