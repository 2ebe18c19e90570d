#include "base/huge_buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace kvasir {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : bytes_(bytes) {
  const size_t alignment = bytes >= kHugePageBytes ? kHugePageBytes : 64;
  const size_t allocated = (bytes + alignment - 1) / alignment * alignment;
  data_.reset(static_cast<uint8_t*>(std::aligned_alloc(alignment, allocated)));
  if (data_ == nullptr) throw std::bad_alloc();
  if (alignment == kHugePageBytes) madvise(data_.get(), allocated, MADV_HUGEPAGE);
}

void HugeBuffer::Free::operator()(uint8_t* memory) const { std::free(memory); }

}  // namespace kvasir
