# shellcheck shell=bash
# Becoming an ordinary user. Sourced after common.sh.
#
# cooper is made for ordinary users, so that is how it is tried. Started by root, the scripts make a
# throw-away user; started by an ordinary user, they stay that user, but with a home of their own, so
# that the user's real images and settings are neither read nor changed.

RUN_USER='' RUN_UID='' RUN_GID='' RUN_HOME='' SECOND_USER=''

# Gives a user subordinate ids, which rootless builders map into their user namespaces, if it has none.
ensure_subids() {
    local user=$1 kind file first
    for kind in uid gid; do
        file=/etc/sub$kind
        if [ -e "$file" ] && grep -q -e "^$user:" -e "^$(id -u "$user"):" "$file"; then
            continue
        fi
        # The first range of 65,536 above all that are given away already.
        first=$(cat /etc/subuid /etc/subgid 2>/dev/null |
            awk -F: '$2 + $3 > m { m = $2 + $3 } END { print (m > 100000 ? m : 100000) }')
        as_root usermod "--add-sub${kind}s" "$first-$((first + 65535))" "$user" ||
            die "$user has no subordinate ids; as root: usermod --add-sub${kind}s $first-$((first + 65535)) $user"
        # A person's account is changed only with a word about it.
        [ "$user" != "$(id -un)" ] || say "rootless" "gave $user the sub${kind}s $first-$((first + 65535))"
    done
}

# Sets RUN_USER and its friends to a user that has the directory `$1` for a home.
ordinary_user() {
    local home=$1
    RUN_HOME=$home
    if ! is_root; then
        RUN_USER=$(id -un)
        ensure_subids "$RUN_USER"
    else
        RUN_USER=cooper-$$
        throw_away_user "$RUN_USER" "$home"
    fi
    RUN_UID=$(id -u "$RUN_USER")
    RUN_GID=$(id -g "$RUN_USER")
    ! is_root || chown "$RUN_UID:$RUN_GID" "$home"
    chmod 0755 "$home"
}

# Sets SECOND_USER to another such user; who is not root has only the one.
second_user() {
    SECOND_USER=$RUN_USER
    is_root || return 0
    SECOND_USER=cooper-$$-2
    throw_away_user "$SECOND_USER" "$RUN_HOME"
}

# Makes a user with subordinate ids who is there until the script ends: `throw_away_user NAME HOME`.
throw_away_user() {
    local try
    # The account files are locked while someone else changes them.
    for try in 1 2 3 4 5; do
        useradd --user-group --no-create-home --home-dir "$2" --shell /bin/sh \
            --comment "throw-away user of cooper's scripts" "$1" && break
        [ "$try" -lt 5 ] || die "could not make a throw-away user"
        sleep 1
    done
    at_exit remove_user "$1"
    ensure_subids "$1"
}

remove_user() {
    local try
    # userdel refuses while the user's processes are there; after an interrupt they may take a moment.
    for try in 1 2 3 4 5 6 7 8 9 10; do
        userdel "$1" >/dev/null 2>&1 && return 0
        sleep 0.3
    done
    userdel "$1"
}

# Runs a command as RUN_USER with an environment of its own: nothing of the caller's reaches it but
# the terminal, proxies, and assignments given before the command as env takes them.
as_user() {
    local -a drop=() keep=()
    local name
    if is_root; then
        drop=(setpriv "--reuid=$RUN_UID" "--regid=$RUN_GID" --init-groups --)
    fi
    for name in TERM NO_COLOR http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [ -z "${!name-}" ] || keep+=("$name=${!name}")
    done
    # A place to stand that the user may look at: the caller's directory may be closed to it.
    (cd "$RUN_HOME" && exec "${drop[@]}" env -i HOME="$RUN_HOME" USER="$RUN_USER" LOGNAME="$RUN_USER" \
        PATH="$RUN_HOME/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" LANG=C.UTF-8 \
        "${keep[@]}" "$@")
}

# Copies files where RUN_USER can read them: the repository may lie under a closed directory.
give_user() {
    local target=$1
    shift
    mkdir -p "$target"
    cp -R --preserve=mode,timestamps -- "$@" "$target/"
    ! is_root || chown -R "$RUN_UID:$RUN_GID" "$target"
}

# Lets ordinary users open /dev/fuse, as they may on most machines: udev sees to that, and where there is
# no udev nobody does.
open_fuse() {
    [ -c /dev/fuse ] || as_root modprobe fuse ||
        die "there is no /dev/fuse: the kernel has no FUSE, or this container was not given the device"
    [ "$(stat -c %a /dev/fuse)" = 666 ] || as_root chmod 666 /dev/fuse ||
        die "/dev/fuse cannot be opened to ordinary users; as root: chmod 666 /dev/fuse"
}
