// ByteTrie: which keys of a fixed set are prefixes of a text? Used to find added tokens and to walk
// a Unigram vocabulary.
//
// Built once; const methods are safe from any thread. Keys are not kept: a node is 12 bytes, and
// the children of a node stand side by side in the order of their bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace kvasir {

class ByteTrie {
 public:
  using Entry = std::pair<absl::string_view, int32_t>;  // key, value >= 0

  ByteTrie() = default;

  // Keys in any order; of equal keys the last one's value counts, and empty keys are ignored.
  explicit ByteTrie(std::vector<Entry> entries);

  // Whether any key begins with this byte: the cheap question before ForEachPrefix().
  bool CanBeginWith(char byte) const { return root_child_[static_cast<uint8_t>(byte)] != kNone; }

  // Calls visit(size_t length_bytes, int32_t value) for each key that `text` begins with, shortest
  // first.
  template <typename Visit>
  void ForEachPrefix(absl::string_view text, Visit visit) const {
    if (text.empty()) return;
    int32_t node = root_child_[static_cast<uint8_t>(text[0])];
    for (size_t length = 1; node != kNone; ++length) {
      if (nodes_[node].value != kNone) visit(length, nodes_[node].value);
      if (length == text.size()) return;
      node = Child(nodes_[node], static_cast<uint8_t>(text[length]));
    }
  }

 private:
  static constexpr int32_t kNone = -1;

  struct Node {
    int32_t first_child = 0;   // index into nodes_
    uint16_t child_count = 0;  // up to 256
    uint8_t byte = 0;          // on the edge that leads here
    int32_t value = kNone;
  };

  int32_t Child(const Node& parent, uint8_t byte) const {
    const Node* first = nodes_.data() + parent.first_child;
    // Few nodes have many children: a scan beats a binary search on real vocabularies.
    for (int i = 0; i < parent.child_count && first[i].byte <= byte; ++i) {
      if (first[i].byte == byte) return parent.first_child + i;
    }
    return kNone;
  }

  std::vector<Node> nodes_;
  std::array<int32_t, 256> root_child_ = MakeEmptyRoot();

  static std::array<int32_t, 256> MakeEmptyRoot() {
    std::array<int32_t, 256> root;
    root.fill(kNone);
    return root;
  }
};

}  // namespace kvasir
