// Collects what is wrong with a request, field by field, so that one answer names every fault. Used
// while checking one message, by one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_errors.h"

namespace kvasir {

class Violations {
 public:
  void Add(absl::string_view field, std::string description) {
    violations_.push_back({std::string(field), std::move(description)});
  }

  // `value` must lie in [low, high]; NaN lies nowhere.
  template <typename Number>
  void CheckRange(absl::string_view field, Number value, Number low, Number high,
                  absl::string_view remedy) {
    if (value >= low && value <= high) return;
    Add(field, absl::StrCat(value, " is outside the range ", low, " to ", high, "; ", remedy));
  }

  // The same for (0, high].
  void CheckPositive(absl::string_view field, float value, float high, absl::string_view remedy) {
    if (value > 0 && value <= high) return;
    Add(field, absl::StrCat(value, " is outside the range above 0 to ", high, "; ", remedy));
  }

  void CheckTokenId(absl::string_view field, int64_t id, int vocab_size) {
    if (id >= 0 && id < vocab_size) return;
    Add(field, absl::StrCat("no token has the id ", id, ": the model's ids are 0 to ",
                            vocab_size - 1, "; encode with this model's tokenizer"));
  }

  // True when `count` keeps the limit, so that looking at the elements is bounded work.
  bool CheckCount(absl::string_view field, int64_t count, int64_t limit, absl::string_view what) {
    if (count <= limit) return true;
    Add(field,
        absl::StrCat(count, " ", what, " are too many, the limit is ", limit, "; send fewer"));
    return false;
  }

  void CheckUtf8(absl::string_view field, absl::string_view text) {
    if (const std::optional<size_t> offset = FindInvalidUtf8(text)) {
      Add(field, absl::StrCat("not UTF-8: byte 0x",
                              absl::Hex(static_cast<uint8_t>(text[*offset]), absl::kZeroPad2),
                              " at offset ", *offset,
                              " begins no valid character; send the text as UTF-8"));
    }
  }

  absl::Status status() const {
    return violations_.empty() ? absl::OkStatus() : BadRequestError(violations_);
  }

 private:
  std::vector<FieldViolation> violations_;
};

}  // namespace kvasir
