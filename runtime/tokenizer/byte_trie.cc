#include "runtime/tokenizer/byte_trie.h"

#include <algorithm>

namespace kvasir {

ByteTrie::ByteTrie(std::vector<Entry> entries) {
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.first < b.first; });

  // Breadth first, so that a node's children are made together. A node is the range of sorted keys
  // that share its prefix; [begin, end) shrinks with the depth, so the whole costs one pass over
  // all key bytes.
  struct Pending {
    int32_t node;  // kNone: the root
    size_t begin, end, depth;
  };
  std::vector<Pending> queue = {{kNone, 0, entries.size(), 0}};
  for (size_t next = 0; next < queue.size(); ++next) {
    const Pending parent = queue[next];
    const int32_t first_child = static_cast<int32_t>(nodes_.size());
    size_t i = parent.begin;
    // Keys that end here sort before the longer ones.
    while (i < parent.end && entries[i].first.size() == parent.depth) {
      if (parent.node != kNone) nodes_[parent.node].value = entries[i].second;
      ++i;
    }
    while (i < parent.end) {
      const uint8_t byte = static_cast<uint8_t>(entries[i].first[parent.depth]);
      const size_t group_begin = i;
      while (i < parent.end && static_cast<uint8_t>(entries[i].first[parent.depth]) == byte) ++i;
      const int32_t child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back(Node{.byte = byte});
      if (parent.node == kNone) root_child_[byte] = child;
      queue.push_back({child, group_begin, i, parent.depth + 1});
    }
    if (parent.node != kNone) {
      nodes_[parent.node].first_child = first_child;
      nodes_[parent.node].child_count = static_cast<uint16_t>(nodes_.size() - first_child);
    }
  }
}

}  // namespace kvasir
