// The disk of a program that was started with this as LD_PRELOAD: it hangs, fails, is full, or only
// tells. $DISK_FOLDER/fault says what becomes of a call:
//   hang x, fail x   a sync of a file whose name ends with x does not return, or is an I/O error
//   bad x            a read of one page in eight of a file whose name ends with x is an I/O error
//   full x           a file with x in its name cannot grow
// Each sync, and each call that fails, adds a line to $DISK_FOLDER/syncs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE_BYTES 4096
#define PAGES_PER_BAD_ONE 8

// The function of that name and type that this one stands before.
#define REAL(type, name, ...)                                         \
    static type (*real)(__VA_ARGS__);                                 \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t real_read(int fd, void *bytes, size_t count) {
    REAL(ssize_t, "read", int, void *, size_t);
    return real(fd, bytes, count);
}

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

// What the fault says of files, if it is this one; it is written to `text`.
static const char *about(const char *fault, char *text, size_t size) {
    char path[4096];
    in_folder(path, sizeof path, "fault");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    ssize_t length = real_read(fd, text, size - 1);
    close(fd);
    if (length <= 0) return NULL;
    text[length] = 0;
    char *name = strchr(text, ' ');
    if (!name) return NULL;
    *name++ = 0;
    return strcmp(text, fault) ? NULL : name;
}

static void name_of(int fd, char *file, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, file, size - 1);
    file[length > 0 ? length : 0] = 0;
}

static int has_fault(const char *fault, const char *file) {
    char text[4096];
    const char *end = about(fault, text, sizeof text);
    if (!end) return 0;
    size_t ending = strlen(end), whole = strlen(file);
    return whole >= ending && !strcmp(file + whole - ending, end);
}

static int sync_with(const char *call, int fd) {
    char file[4096];
    name_of(fd, file, sizeof file);
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

// Whether a file that would end there is one that cannot grow.
static int is_full(int fd, off64_t end) {
    char text[4096], file[4096];
    struct stat64 status;
    int saved = errno;
    const char *part = about("full", text, sizeof text);
    int result = 0;
    if (part) {
        name_of(fd, file, sizeof file);
        result = strstr(file, part) && !fstat64(fd, &status) && end > status.st_size;
        if (result) note("full", file);
    }
    errno = saved;
    return result;
}

static off64_t bytes_of(const struct iovec *parts, int count) {
    off64_t bytes = 0;
    for (int part = 0; part < count; part++) bytes += parts[part].iov_len;
    return bytes;
}

#define PWRITE(name)                                                                  \
    ssize_t name(int fd, const void *bytes, size_t count, off64_t offset) {           \
        REAL(ssize_t, #name, int, const void *, size_t, off64_t);                     \
        if (is_full(fd, offset + (off64_t)count)) return errno = ENOSPC, -1;          \
        return real(fd, bytes, count, offset);                                        \
    }
#define PWRITEV(name)                                                                 \
    ssize_t name(int fd, const struct iovec *parts, int count, off64_t offset) {      \
        REAL(ssize_t, #name, int, const struct iovec *, int, off64_t);                \
        if (is_full(fd, offset + bytes_of(parts, count))) return errno = ENOSPC, -1;  \
        return real(fd, parts, count, offset);                                        \
    }
#define ALLOCATE(name)                                                                \
    int name(int fd, off64_t offset, off64_t count) {                                 \
        REAL(int, #name, int, off64_t, off64_t);                                      \
        return is_full(fd, offset + count) ? ENOSPC : real(fd, offset, count);        \
    }
PWRITE(pwrite)
PWRITE(pwrite64)
PWRITEV(pwritev)
PWRITEV(pwritev64)
ALLOCATE(posix_fallocate)
ALLOCATE(posix_fallocate64)

// Whether what is read there is on a bad page.
static int is_bad(int fd, off64_t offset) {
    char text[4096], file[4096];
    int saved = errno;
    const char *end = about("bad", text, sizeof text);
    int result = 0;
    if (end && offset >= 0) {
        name_of(fd, file, sizeof file);
        size_t ending = strlen(end), whole = strlen(file);
        result = whole >= ending && !strcmp(file + whole - ending, end) &&
                 offset / PAGE_BYTES % PAGES_PER_BAD_ONE == PAGES_PER_BAD_ONE - 1;
        if (result) note("bad", file);
    }
    errno = saved;
    return result;
}

ssize_t read(int fd, void *bytes, size_t count) {
    int saved = errno;
    off64_t offset = lseek64(fd, 0, SEEK_CUR);
    errno = saved;
    if (is_bad(fd, offset)) return errno = EIO, -1;
    return real_read(fd, bytes, count);
}

#define PREAD(name)                                                                   \
    ssize_t name(int fd, void *bytes, size_t count, off64_t offset) {                 \
        REAL(ssize_t, #name, int, void *, size_t, off64_t);                           \
        if (is_bad(fd, offset)) return errno = EIO, -1;                               \
        return real(fd, bytes, count, offset);                                        \
    }
PREAD(pread)
PREAD(pread64)
