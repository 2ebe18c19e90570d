// Preloaded into a daemon (LD_PRELOAD): the N-th call of one function on files below one directory
// fails with a given errno, once. Environment: FAULT_DIRECTORY, FAULT_FUNCTION (empty: none fails),
// FAULT_CALL (N, from 1), FAULT_ERRNO, and FAULT_COUNT, a file of 8 bytes that holds how many such
// calls there were, also after a kill.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

extern "C" {

static const char* directory;
static const char* function;
static long call;
static int error;
static int64_t* count;

__attribute__((constructor)) static void Begin(void) {
  directory = getenv("FAULT_DIRECTORY");
  function = getenv("FAULT_FUNCTION");
  const char* path = getenv("FAULT_COUNT");
  if (directory == NULL || function == NULL || path == NULL) return;
  call = atol(getenv("FAULT_CALL"));
  error = atoi(getenv("FAULT_ERRNO"));
  int (*real_open)(const char*, int, ...) =
      (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open");
  void* (*real_mmap)(void*, size_t, int, int, int, off_t) =
      (void* (*)(void*, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
  const int fd = real_open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* memory = real_mmap(NULL, sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory != MAP_FAILED) count = static_cast<int64_t*>(memory);
}

static int Below(const char* path) {
  const size_t length = strlen(directory);
  return strncmp(path, directory, length) == 0 && (path[length] == '/' || path[length] == 0);
}

// Whether this call is the one; counts it if it is of the kind.
static int Fails(const char* name, int fd, const char* path) {
  if (count == NULL || strcmp(function, name) != 0) return 0;
  char link[64], target[4096];
  int below = path != NULL && path[0] == '/' && Below(path);
  if (!below && fd >= 0) {
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const int saved = errno;
    const ssize_t size = readlink(link, target, sizeof(target) - 1);
    errno = saved;
    if (size > 0) {
      target[size] = 0;
      below = Below(target);
    }
  }
  if (!below || __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) != call) return 0;
  errno = error;
  return 1;
}

#define REAL(type, name, ...)       \
  static type (*real)(__VA_ARGS__); \
  if (real == NULL) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

#define OPENAT(name)                                                     \
  int name(int fd, const char* path, int flags, ...) {                   \
    REAL(int, name, int, const char*, int, ...);                         \
    va_list list;                                                        \
    va_start(list, flags);                                               \
    const mode_t mode = (flags & O_CREAT) ? va_arg(list, mode_t) : 0;    \
    va_end(list);                                                        \
    return Fails("openat", fd, path) ? -1 : real(fd, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define OPEN(name)                                                    \
  int name(const char* path, int flags, ...) {                        \
    REAL(int, name, const char*, int, ...);                           \
    va_list list;                                                     \
    va_start(list, flags);                                            \
    const mode_t mode = (flags & O_CREAT) ? va_arg(list, mode_t) : 0; \
    va_end(list);                                                     \
    return Fails("open", -1, path) ? -1 : real(path, flags, mode);    \
  }
OPEN(open)
OPEN(open64)

#define PREAD(name)                                                      \
  ssize_t name(int fd, void* data, size_t size, off_t offset) {          \
    REAL(ssize_t, name, int, void*, size_t, off_t);                      \
    return Fails("pread", fd, NULL) ? -1 : real(fd, data, size, offset); \
  }
PREAD(pread)
PREAD(pread64)

ssize_t write(int fd, const void* data, size_t size) {
  REAL(ssize_t, write, int, const void*, size_t);
  return Fails("write", fd, NULL) ? -1 : real(fd, data, size);
}

int fsync(int fd) {
  REAL(int, fsync, int);
  return Fails("fsync", fd, NULL) ? -1 : real(fd);
}

int renameat(int from_fd, const char* from, int to_fd, const char* to) noexcept {
  REAL(int, renameat, int, const char*, int, const char*);
  return Fails("renameat", from_fd, from) ? -1 : real(from_fd, from, to_fd, to);
}

int unlinkat(int fd, const char* path, int flags) noexcept {
  REAL(int, unlinkat, int, const char*, int);
  return Fails("unlinkat", fd, path) ? -1 : real(fd, path, flags);
}

int futimens(int fd, const struct timespec times[2]) noexcept {
  REAL(int, futimens, int, const struct timespec*);
  return Fails("futimens", fd, NULL) ? -1 : real(fd, times);
}

}  // extern "C"
