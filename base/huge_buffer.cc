#include "base/huge_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace kvasir {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

// The last, incomplete page is huge too where that wastes at most this part of the buffer.
constexpr size_t kMaxWaste = 32;

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : bytes_(bytes) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 64;
  size_t huge = bytes / kHugePageBytes * kHugePageBytes;
  // A model has some hundred buffers of a few megabytes: last pages that are all rounded up would
  // add a fifth to it.
  if (huge + kHugePageBytes - bytes <= bytes / kMaxWaste) huge += kHugePageBytes;
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, std::max(bytes, huge)) != 0) throw std::bad_alloc();
  data_.reset(static_cast<uint8_t*>(memory));
  if (huge > 0) madvise(memory, huge, MADV_HUGEPAGE);
}

void HugeBuffer::Free::operator()(uint8_t* memory) const { std::free(memory); }

}  // namespace kvasir
