// What the scenarios need of the kernel and no shell's command does, a call at a time.

#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define OLD 1000000000

static size_t unhex(const char *text, unsigned char *out) {
    size_t n = 0;
    for (; text[0] && text[1]; text += 2) {
        char digits[3] = {text[0], text[1], 0};
        out[n++] = (unsigned char)strtoul(digits, NULL, 16);
    }
    return n;
}

static void date(int dir, const char *name, long long sec, long nsec) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = sec, .tv_nsec = nsec}};
    if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW)) err(1, "utimensat %s", name);
}

// Dates whatever was modified today. Inner names first: it changes no directory.
static void settle(int dir, const char *name, time_t today) {
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW)) err(1, "fstatat %s", name);
    if (S_ISDIR(st.st_mode)) {
        int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (fd < 0) err(1, "openat %s", name);
        DIR *list = fdopendir(fd);
        for (struct dirent *e; (e = readdir(list));)
            if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) settle(fd, e->d_name, today);
        closedir(list);
    }
    if (st.st_mtime > today - 86400 && st.st_mtime < today + 86400) date(dir, name, OLD, 0);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    static unsigned char value[65536];
    umask(022);
    if (!strcmp(what, "settle") && argc == 3) {
        settle(AT_FDCWD, argv[2], time(NULL));
    } else if (!strcmp(what, "setxattr") && argc == 5) {
        size_t n = unhex(argv[4], value);
        if (lsetxattr(argv[2], argv[3], value, n, 0)) err(1, "lsetxattr %s", argv[3]);
    } else if (!strcmp(what, "removexattr") && argc == 4) {
        if (lremovexattr(argv[2], argv[3])) err(1, "lremovexattr %s", argv[3]);
    } else if (!strcmp(what, "getxattr") && argc == 4) {
        ssize_t n = lgetxattr(argv[2], argv[3], value, sizeof value);
        if (n < 0) err(1, "lgetxattr %s", argv[3]);
        for (ssize_t i = 0; i < n; i++) printf("%02x", value[i]);
        printf("\n");
    } else if (!strcmp(what, "mtime") && argc == 5) {
        date(AT_FDCWD, argv[2], atoll(argv[3]), atol(argv[4]));
    } else if (!strcmp(what, "open-write") && argc == 3) {
        int fd = open(argv[2], O_RDWR);
        if (fd < 0) err(1, "open %s", argv[2]);
        close(fd);
    } else if (!strcmp(what, "write-at") && argc == 5) {
        // In place: a shell's redirection would truncate the file first.
        int fd = open(argv[2], O_WRONLY);
        size_t n = strlen(argv[4]);
        if (fd < 0 || pwrite(fd, argv[4], n, atoll(argv[3])) != (ssize_t)n) err(1, "write %s", argv[2]);
        close(fd);
    } else if (!strcmp(what, "write-quietly") && argc == 4) {
        // Replaces the beginning within one tick of the clock, and puts the time back.
        struct stat st;
        int fd = open(argv[2], O_RDWR);
        if (fd < 0 || fstat(fd, &st)) err(1, "open %s", argv[2]);
        size_t n = strlen(argv[3]);
        if (pwrite(fd, argv[3], n, 0) != (ssize_t)n) err(1, "write %s", argv[2]);
        struct timespec times[2] = {st.st_atim, st.st_mtim};
        if (futimens(fd, times)) err(1, "futimens %s", argv[2]);
        close(fd);
    } else if (!strcmp(what, "exchange") && argc == 4) {
        if (renameat2(AT_FDCWD, argv[2], AT_FDCWD, argv[3], RENAME_EXCHANGE)) err(1, "exchange %s", argv[2]);
    } else if (!strcmp(what, "rename") && argc == 4) {
        if (rename(argv[2], argv[3])) err(1, "rename %s", argv[2]);
    } else if (!strcmp(what, "socket") && argc == 3) {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, argv[2], sizeof address.sun_path - 1);
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address)) err(1, "bind %s", argv[2]);
    } else if (!strcmp(what, "descend") && argc >= 5) {
        // Goes down N directories with names of LENGTH bytes, making those that are missing, and starts
        // a command there: longer paths than the kernel takes at once.
        static char name[256];
        memset(name, 'x', (size_t)atoi(argv[3]));
        for (int n = atoi(argv[2]); n > 0; n--) {
            if (mkdir(name, 0755) && errno != EEXIST) err(1, "mkdir");
            if (chdir(name)) err(1, "chdir");
        }
        execvp(argv[4], argv + 4);
        err(1, "exec %s", argv[4]);
    } else if (!strcmp(what, "as") && argc >= 4) {
        // Becomes another user, who is in no group but one of the same number.
        uid_t id = (uid_t)atoll(argv[2]);
        if (setgroups(0, NULL) || setresgid(id, id, id) || setresuid(id, id, id)) err(1, "become %s", argv[2]);
        execvp(argv[3], argv + 3);
        err(1, "exec %s", argv[3]);
    } else if (!strcmp(what, "many") && argc == 3) {
        char name[16];
        for (int n = atoi(argv[2]); n > 0; n--) {
            snprintf(name, sizeof name, "f%06d", n - 1);
            int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
            if (fd < 0) err(1, "open %s", name);
            close(fd);
        }
    } else {
        errx(2, "unknown call: %s", what);
    }
    return 0;
}
