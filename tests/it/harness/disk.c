// The disk of a program that was started with this as LD_PRELOAD: it hangs, fails, or only tells.
// $DISK_FOLDER/fault says what becomes of a sync: "hang x" and "fail x" are about files whose names
// end with x. Each sync adds a line to $DISK_FOLDER/syncs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void in_folder(char *path, size_t size, const char *name) {
    const char *folder = getenv("DISK_FOLDER");
    snprintf(path, size, "%s/%s", folder ? folder : "/nonexistent", name);
}

static void note(const char *what, const char *file) {
    char path[4096], line[8192];
    in_folder(path, sizeof path, "syncs");
    int length = snprintf(line, sizeof line, "%s %s\n", what, file);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, length) != length) abort();
    close(fd);
}

static int has_fault(const char *fault, const char *file) {
    char path[4096], text[4096];
    in_folder(path, sizeof path, "fault");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0) return 0;
    text[length] = 0;
    char *end = strchr(text, ' ');
    if (!end) return 0;
    *end++ = 0;
    size_t ending = strlen(end), whole = strlen(file);
    return !strcmp(text, fault) && whole >= ending && !strcmp(file + whole - ending, end);
}

static int sync_with(const char *call, int fd) {
    char link[64], file[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, file, sizeof file - 1);
    file[length > 0 ? length : 0] = 0;
    if (has_fault("hang", file)) {
        note("hangs", file);
        while (has_fault("hang", file)) usleep(1000);
    }
    if (has_fault("fail", file)) {
        note("fails", file);
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    int result = real(fd);
    if (result == 0) note("synced", file);
    return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
