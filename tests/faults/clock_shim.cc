// Preloaded into a daemon (LD_PRELOAD): its time of day is the machine's plus the seconds that
// stand in a file of 8 bytes, CLOCK_SECONDS_FILE, which a test may change at any time: a clock that
// is set. Waits of the kernel that end at a time of day go by the machine's clock, so those that
// were begun before the clock was set back last that much longer, as they really do.
// CLOCK_MONOTONIC and waits by it are left alone.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

extern "C" {

static const int64_t* offset;

__attribute__((constructor)) static void Begin(void) {
  const char* path = getenv("CLOCK_SECONDS_FILE");
  const int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  void* memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (memory != MAP_FAILED) offset = static_cast<const int64_t*>(memory);
  close(file);
}

static time_t Offset(void) {
  return offset == NULL ? 0 : __atomic_load_n(offset, __ATOMIC_SEQ_CST);
}

int clock_gettime(clockid_t clock, struct timespec* now) noexcept {
  static int (*real)(clockid_t, struct timespec*);
  if (real == NULL) real = (int (*)(clockid_t, struct timespec*))dlsym(RTLD_NEXT, "clock_gettime");
  const int code = real(clock, now);
  if (code == 0 && clock == CLOCK_REALTIME) now->tv_sec += Offset();
  return code;
}

int gettimeofday(struct timeval* now, void* zone) noexcept {
  static int (*real)(struct timeval*, void*);
  if (real == NULL) real = (int (*)(struct timeval*, void*))dlsym(RTLD_NEXT, "gettimeofday");
  const int code = real(now, zone);
  if (code == 0) now->tv_sec += Offset();
  return code;
}

time_t time(time_t* now) noexcept {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now != NULL) *now = precise.tv_sec;
  return precise.tv_sec;
}

}  // extern "C"
