// What every call of text/kvasir_text.h needs on this side: views of strings, buffers that free
// themselves, and its error as a Status.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "text/kvasir_text.h"

namespace kvasir {

inline KvasirTextView ViewOf(absl::string_view text) { return {text.data(), text.size()}; }

// Bytes that the text library made.
class TextBuffer {
 public:
  TextBuffer() = default;
  ~TextBuffer() { kvasir_text_buffer_free(&buffer_); }
  TextBuffer(const TextBuffer&) = delete;
  TextBuffer& operator=(const TextBuffer&) = delete;

  KvasirTextBuffer* out() { return &buffer_; }
  absl::string_view view() const { return {buffer_.data, buffer_.size}; }

 private:
  KvasirTextBuffer buffer_ = {};
};

// The codes have the numbers of absl's.
inline absl::Status TextStatus(KvasirTextCode code, const TextBuffer& error) {
  return absl::Status(static_cast<absl::StatusCode>(code), error.view());
}

}  // namespace kvasir
