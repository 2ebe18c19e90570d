#include "runtime/tokenizer/vocabulary.h"

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {
namespace {

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;  // byte tokens are written in capitals
}

}  // namespace

std::optional<uint8_t> ByteOfByteToken(absl::string_view name) {
  if (name.size() != 6 || name.substr(0, 3) != "<0x" || name[5] != '>') return std::nullopt;
  const int high = HexDigit(name[3]), low = HexDigit(name[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high << 4 | low);
}

absl::Status Vocabulary::Fill(std::vector<Entry> entries) {
  uint64_t total_bytes = 0;
  for (const Entry& entry : entries) {
    if (entry.id < 0 || entry.id >= Tokenizer::kMaxVocabSize) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token \"", absl::CHexEscape(entry.name), "\" has id ", entry.id, "; ids must be in [0, ",
          Tokenizer::kMaxVocabSize, "). Is this the right file?"));
    }
    total_bytes += entry.name.size();
  }
  if (total_bytes > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the vocabulary's names have ", total_bytes, " bytes; the limit is 2^31"));
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.id < b.id; });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].id == entries[i - 1].id && entries[i].name != entries[i - 1].name) {
      return absl::InvalidArgumentError(absl::StrCat(
          "id ", entries[i].id, " stands for both \"", absl::CHexEscape(entries[i - 1].name),
          "\" and \"", absl::CHexEscape(entries[i].name), "\"; an id must have one token"));
    }
  }

  const int size = entries.empty() ? 0 : static_cast<int>(entries.back().id) + 1;
  offsets_.assign(size + 1, 0);
  present_.assign(size, false);
  names_.clear();
  names_.reserve(total_bytes);
  TokenId filled = -1;  // offsets_ are set up to and including filled + 1
  for (const Entry& entry : entries) {
    if (entry.id == filled) continue;  // an equal entry
    while (filled < entry.id - 1) offsets_[++filled + 1] = static_cast<uint32_t>(names_.size());
    names_ += entry.name;
    offsets_[++filled + 1] = static_cast<uint32_t>(names_.size());
    present_[entry.id] = true;
  }
  ids_.reserve(entries.size());
  for (TokenId id = 0; id < size; ++id) {
    if (!present_[id]) continue;
    const auto [it, is_new] = ids_.try_emplace(NameOf(id), id);
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat("token \"", absl::CHexEscape(NameOf(id)),
                                                     "\" has the ids ", it->second, " and ", id,
                                                     "; it must have one"));
    }
  }
  return absl::OkStatus();
}

std::optional<TokenId> Vocabulary::IdOf(absl::string_view name) const {
  const auto it = ids_.find(name);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<TokenId> Vocabulary::IdOfByte(uint8_t byte) const {
  constexpr char kHex[] = "0123456789ABCDEF";
  const char name[] = {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
  return IdOf(absl::string_view(name, sizeof(name)));
}

}  // namespace kvasir
