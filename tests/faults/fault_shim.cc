// Preloaded into a daemon (LD_PRELOAD): the N-th call of one function fails with a given errno,
// once. Functions of files count on those below one directory only, and on the daemon's files in
// memory (memfd_create); threads (pthread_create), maps (mmap) and memory (new and memalign, from
// 64 KiB on) those that the daemon's own code or the C++ library asks for. Environment:
// FAULT_DIRECTORY, FAULT_FUNCTION (empty: none fails), FAULT_CALL (N, from 1), FAULT_ERRNO, and
// FAULT_COUNT, a file of 8 bytes that holds how many such calls there were, also after a kill.
// FAULT_ARMED: a file without which memory does not count. With FAULT_FUNCTION "*" the file of
// FAULT_COUNT holds all of it, and a test may change it while the daemon runs: the count, N and the
// errno of 8 bytes each, and the name with a zero behind it, 40 bytes.
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" {

static const char* directory;
static const char* function;
static const char* armed;
static int64_t call_at_start, error_at_start;
static const int64_t* call = &call_at_start;
static const int64_t* error = &error_at_start;
static int64_t* count;

__attribute__((constructor)) static void Begin(void) {
  directory = getenv("FAULT_DIRECTORY");
  function = getenv("FAULT_FUNCTION");
  armed = getenv("FAULT_ARMED");
  const char* path = getenv("FAULT_COUNT");
  if (directory == NULL || function == NULL || path == NULL) return;
  const bool changes = strcmp(function, "*") == 0;
  if (!changes) {
    call_at_start = atol(getenv("FAULT_CALL"));
    error_at_start = atoi(getenv("FAULT_ERRNO"));
  }
  int (*real_open)(const char*, int, ...) =
      (int (*)(const char*, int, ...))dlsym(RTLD_NEXT, "open");
  void* (*real_mmap)(void*, size_t, int, int, int, off_t) =
      (void* (*)(void*, size_t, int, int, int, off_t))dlsym(RTLD_NEXT, "mmap");
  const int fd = real_open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void* memory = real_mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return;
  count = static_cast<int64_t*>(memory);
  if (!changes) return;
  call = count + 1;
  error = count + 2;
  function = reinterpret_cast<const char*>(count + 3);
}

static int Below(const char* path) {
  if (strncmp(path, "/memfd:kvasird", 14) == 0) return 1;
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
  if (!below || __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) != *call) return 0;
  errno = static_cast<int>(*error);
  return 1;
}

// The same of calls that are on no file: `from`, where it comes from, is the daemon's own code or
// the C++ library's.
static int FailsAnywhere(const char* name, const void* from) {
  if (count == NULL || strcmp(function, name) != 0) return 0;
  Dl_info caller;
  if (dladdr(from, &caller) == 0 || caller.dli_fname == NULL) return 0;
  const char* const base = strrchr(caller.dli_fname, '/');
  const char* const file = base == NULL ? caller.dli_fname : base + 1;
  if (strcmp(file, "kvasird") != 0 && strncmp(file, "libstdc++", 9) != 0) return 0;
  if (__atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST) != *call) return 0;
  errno = static_cast<int>(*error);
  return 1;
}

static int FailsToAllocate(const char* name, size_t size, const void* from) {
  return size >= (64 << 10) && count != NULL && strcmp(function, name) == 0 && armed != NULL &&
         access(armed, F_OK) == 0 && FailsAnywhere(name, from);
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

ssize_t read(int fd, void* data, size_t size) {
  REAL(ssize_t, read, int, void*, size_t);
  return Fails("read", fd, NULL) ? -1 : real(fd, data, size);
}

#define FOPEN(name)                                            \
  FILE* name(const char* path, const char* mode) {             \
    REAL(FILE*, name, const char*, const char*);               \
    return Fails("fopen", -1, path) ? NULL : real(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

DIR* opendir(const char* path) {
  REAL(DIR*, opendir, const char*);
  return Fails("opendir", -1, path) ? NULL : real(path);
}

#define STAT(name, type)                                    \
  int name(const char* path, type* file) noexcept {         \
    REAL(int, name, const char*, type*);                    \
    return Fails("stat", -1, path) ? -1 : real(path, file); \
  }
STAT(stat, struct stat)
STAT(stat64, struct stat64)
STAT(lstat, struct stat)
STAT(lstat64, struct stat64)

#define FSTAT(name, type)                                  \
  int name(int fd, type* file) noexcept {                  \
    REAL(int, name, int, type*);                           \
    return Fails("fstat", fd, NULL) ? -1 : real(fd, file); \
  }
FSTAT(fstat, struct stat)
FSTAT(fstat64, struct stat64)

// Sockets of the daemon's own code: HTTP and /metrics, and the door of gRPC.
int accept(int fd, struct sockaddr* address, socklen_t* size) {
  REAL(int, accept, int, struct sockaddr*, socklen_t*);
  return FailsAnywhere("accept", __builtin_return_address(0)) ? -1 : real(fd, address, size);
}

int accept4(int fd, struct sockaddr* address, socklen_t* size, int flags) {
  REAL(int, accept4, int, struct sockaddr*, socklen_t*, int);
  return FailsAnywhere("accept", __builtin_return_address(0)) ? -1 : real(fd, address, size, flags);
}

ssize_t send(int fd, const void* data, size_t size, int flags) {
  REAL(ssize_t, send, int, const void*, size_t, int);
  return FailsAnywhere("send", __builtin_return_address(0)) ? -1 : real(fd, data, size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr* message, int flags) {
  REAL(ssize_t, sendmsg, int, const struct msghdr*, int);
  return FailsAnywhere("send", __builtin_return_address(0)) ? -1 : real(fd, message, flags);
}

ssize_t recv(int fd, void* data, size_t size, int flags) {
  REAL(ssize_t, recv, int, void*, size_t, int);
  return FailsAnywhere("recv", __builtin_return_address(0)) ? -1 : real(fd, data, size, flags);
}

ssize_t recvmsg(int fd, struct msghdr* message, int flags) {
  REAL(ssize_t, recvmsg, int, struct msghdr*, int);
  return FailsAnywhere("recv", __builtin_return_address(0)) ? -1 : real(fd, message, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event* event) noexcept {
  REAL(int, epoll_ctl, int, int, int, struct epoll_event*);
  return operation == EPOLL_CTL_ADD && FailsAnywhere("epoll_ctl", __builtin_return_address(0))
             ? -1
             : real(epoll, operation, fd, event);
}

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

int mkdir(const char* path, mode_t mode) noexcept {
  REAL(int, mkdir, const char*, mode_t);
  return Fails("mkdir", -1, path) ? -1 : real(path, mode);
}

int linkat(int from_fd, const char* from, int to_fd, const char* to, int flags) noexcept {
  REAL(int, linkat, int, const char*, int, const char*, int);
  return Fails("linkat", from_fd, from) ? -1 : real(from_fd, from, to_fd, to, flags);
}

int utimensat(int fd, const char* path, const struct timespec times[2], int flags) noexcept {
  REAL(int, utimensat, int, const char*, const struct timespec*, int);
  return Fails("utimensat", fd, path) ? -1 : real(fd, path, times, flags);
}

int flock(int fd, int operation) noexcept {
  REAL(int, flock, int, int);
  return Fails("flock", fd, NULL) ? -1 : real(fd, operation);
}

DIR* fdopendir(int fd) {
  REAL(DIR*, fdopendir, int);
  return Fails("fdopendir", fd, NULL) ? NULL : real(fd);
}

#define READDIR(name, type)                                         \
  type* name(DIR* open) {                                           \
    REAL(type*, name, DIR*);                                        \
    return Fails("readdir", dirfd(open), NULL) ? NULL : real(open); \
  }
READDIR(readdir, struct dirent)
READDIR(readdir64, struct dirent64)

#define FSTATAT(name, type)                                               \
  int name(int fd, const char* path, type* file, int flags) noexcept {    \
    REAL(int, name, int, const char*, type*, int);                        \
    return Fails("fstatat", fd, path) ? -1 : real(fd, path, file, flags); \
  }
FSTATAT(fstatat, struct stat)
FSTATAT(fstatat64, struct stat64)

#define FCNTL(name)                                                     \
  int name(int fd, int command, ...) {                                  \
    REAL(int, name, int, int, ...);                                     \
    va_list list;                                                       \
    va_start(list, command);                                            \
    void* const argument = va_arg(list, void*);                         \
    va_end(list);                                                       \
    return Fails("fcntl", fd, NULL) ? -1 : real(fd, command, argument); \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

#define MMAP(name)                                                                              \
  void* name(void* at, size_t size, int protection, int flags, int fd, off_t offset) noexcept { \
    REAL(void*, name, void*, size_t, int, int, int, off_t);                                     \
    return FailsAnywhere("mmap", __builtin_return_address(0)) ||                                \
                   (fd >= 0 && Fails("mmap_file", fd, NULL))                                    \
               ? MAP_FAILED                                                                     \
               : real(at, size, protection, flags, fd, offset);                                 \
  }
MMAP(mmap)
MMAP(mmap64)

int memfd_create(const char* name, unsigned flags) noexcept {
  REAL(int, memfd_create, const char*, unsigned);
  return FailsAnywhere("memfd_create", __builtin_return_address(0)) ? -1 : real(name, flags);
}

int dup3(int from, int to, int flags) noexcept {
  REAL(int, dup3, int, int, int);
  return FailsAnywhere("dup3", __builtin_return_address(0)) ? -1 : real(from, to, flags);
}

int posix_memalign(void** memory, size_t alignment, size_t size) noexcept {
  REAL(int, posix_memalign, void**, size_t, size_t);
  return FailsToAllocate("memalign", size, __builtin_return_address(0))
             ? errno
             : real(memory, alignment, size);
}

void* aligned_alloc(size_t alignment, size_t size) noexcept {
  REAL(void*, aligned_alloc, size_t, size_t);
  return FailsToAllocate("memalign", size, __builtin_return_address(0)) ? NULL
                                                                        : real(alignment, size);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
  REAL(int, pthread_create, pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  if (FailsAnywhere("pthread_create", __builtin_return_address(0))) return errno;
  return real(thread, attributes, start, argument);
}

}  // extern "C"

void* operator new(size_t size) {
  void* const memory = FailsToAllocate("new", size, __builtin_return_address(0))
                           ? nullptr
                           : malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { free(memory); }
void operator delete(void* memory, size_t) noexcept { free(memory); }
