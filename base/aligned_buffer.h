// An owned, 64-byte aligned array of trivial elements that is not initialised: scratch and
// activations. Resize keeps nothing. Not thread safe.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

#include "absl/types/span.h"

namespace kvasir {

template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  // One cache line, and the widest vector register (AVX-512).
  static constexpr size_t kAlignment = 64;

  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t size) { Resize(size); }

  // Makes room for `size` elements; the old contents are lost when the buffer has to grow.
  void Resize(size_t size) {
    if (size > capacity_) {
      const size_t bytes = (size * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
      T* memory = static_cast<T*>(std::aligned_alloc(kAlignment, bytes));
      if (memory == nullptr) throw std::bad_alloc();
      data_.reset(memory);
      capacity_ = size;
    }
    size_ = size;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  absl::Span<T> span() { return absl::MakeSpan(data_.get(), size_); }
  absl::Span<const T> span() const { return absl::MakeConstSpan(data_.get(), size_); }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace kvasir
