// Vocabulary: the names of tokens and their ids, in both directions, added tokens included.
//
// Filled while loading, then immutable: const methods are safe from any thread. All names lie in
// one string, so 150 000 tokens cost no 150 000 allocations.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class Vocabulary {
 public:
  Vocabulary() = default;
  // Not copyable or movable: the map's keys point into names_.
  Vocabulary(const Vocabulary&) = delete;
  Vocabulary& operator=(const Vocabulary&) = delete;

  struct Entry {
    std::string name;
    int64_t id;  // as the file says, not yet checked
  };

  // Fills the empty vocabulary; called once. Equal entries count once (added tokens often stand in
  // the model's vocabulary, too). Errors: InvalidArgument for an id that is negative or not below
  // Tokenizer::kMaxVocabSize, for two names with one id, for two ids with one name, and for more
  // than 2^31 bytes of names.
  absl::Status Fill(std::vector<Entry> entries);

  int size() const { return static_cast<int>(offsets_.size()) - 1; }  // 1 + largest id

  std::optional<TokenId> IdOf(absl::string_view name) const;

  // False for holes and ids out of range.
  bool Has(TokenId id) const { return id >= 0 && id < size() && present_[id]; }

  // Empty for holes and ids out of range.
  absl::string_view NameOf(TokenId id) const {
    if (id < 0 || id >= size()) return {};
    return absl::string_view(names_).substr(offsets_[id], offsets_[id + 1] - offsets_[id]);
  }

  // Id of the byte token "<0xXX>", when it exists.
  std::optional<TokenId> IdOfByte(uint8_t byte) const;

 private:
  std::string names_;
  std::vector<uint32_t> offsets_ = {0};  // [size() + 1] into names_
  std::vector<bool> present_;            // [size()]
  absl::flat_hash_map<absl::string_view, TokenId> ids_;
};

// The byte of a name of the form "<0xXX>".
std::optional<uint8_t> ByteOfByteToken(absl::string_view name);

}  // namespace kvasir
