// Memory for packed weights: on huge pages where the kernel agrees, for streaming gigabytes per
// step through 4 KiB pages costs page walks. Uninitialised. Move-only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace kvasir {

class HugeBuffer {
 public:
  HugeBuffer() = default;
  // Throws std::bad_alloc.
  explicit HugeBuffer(size_t bytes);

  uint8_t* data() { return data_.get(); }
  const uint8_t* data() const { return data_.get(); }
  size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* memory) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  size_t bytes_ = 0;
};

}  // namespace kvasir
