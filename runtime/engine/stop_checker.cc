#include "runtime/engine/stop_checker.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"

namespace kvasir {

// A node stands for a prefix of a stop string; the current node is the longest one that the text
// ends with.
class StopChecker::Automaton {
 public:
  explicit Automaton(const std::vector<std::string>& stop) {
    nodes_.emplace_back();
    root_children_.fill(kNone);
    for (const std::string& pattern : stop) {
      if (!pattern.empty()) Insert(pattern);
    }
    Link();
  }

  int32_t Step(int32_t node, char byte) const {
    for (; node != kRoot; node = nodes_[node].fallback) {
      const int32_t child = Child(node, byte);
      if (child != kNone) return child;
    }
    const int32_t child = root_children_[static_cast<uint8_t>(byte)];
    return child != kNone ? child : kRoot;
  }

  // The longest stop string that ends here, by its length; 0 = none.
  size_t match_bytes(int32_t node) const { return nodes_[node].match_bytes; }
  // How much of the text's end could still grow into a stop string.
  size_t open_bytes(int32_t node) const { return nodes_[node].open_bytes; }

 private:
  static constexpr int32_t kRoot = 0;
  static constexpr int32_t kNone = -1;

  // Children as a list, because tables of 256 would cost megabytes per completion; it has at most
  // as many members as there are stop strings.
  struct Node {
    int32_t first_child = kNone;
    int32_t next_sibling = kNone;
    int32_t fallback = kRoot;  // the longest proper suffix that is a node, too
    uint32_t depth_bytes = 0;
    uint32_t match_bytes = 0;
    uint32_t open_bytes = 0;
    char byte = 0;  // on the edge that leads here
  };

  int32_t Child(int32_t node, char byte) const {
    if (node == kRoot) return root_children_[static_cast<uint8_t>(byte)];
    int32_t child = nodes_[node].first_child;
    while (child != kNone && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
    return child;
  }

  void Insert(absl::string_view pattern) {
    int32_t node = kRoot;
    for (const char byte : pattern) {
      int32_t child = Child(node, byte);
      if (child == kNone) {
        child = static_cast<int32_t>(nodes_.size());
        nodes_.emplace_back();
        nodes_[child].byte = byte;
        nodes_[child].depth_bytes = nodes_[node].depth_bytes + 1;
        nodes_[child].next_sibling = std::exchange(nodes_[node].first_child, child);
        if (node == kRoot) root_children_[static_cast<uint8_t>(byte)] = child;
      }
      node = child;
    }
    nodes_[node].match_bytes = nodes_[node].depth_bytes;
  }

  // Breadth first, so that a node's fallback, which is nearer to the root, is complete before the
  // node.
  void Link() {
    std::vector<int32_t> queue = {kRoot};
    for (size_t i = 0; i < queue.size(); ++i) {
      const int32_t parent = queue[i];
      for (int32_t child = nodes_[parent].first_child; child != kNone;
           child = nodes_[child].next_sibling) {
        queue.push_back(child);
        Node& node = nodes_[child];
        if (parent != kRoot) node.fallback = Step(nodes_[parent].fallback, node.byte);
        const Node& fallback = nodes_[node.fallback];
        // The node itself is longer than its suffixes.
        if (node.match_bytes == 0) node.match_bytes = fallback.match_bytes;
        node.open_bytes = node.first_child != kNone ? node.depth_bytes : fallback.open_bytes;
      }
    }
  }

  std::vector<Node> nodes_;
  std::array<int32_t, 256>
      root_children_;  // by byte: nearly every byte of ordinary text starts here
};

StopChecker::StopChecker(const StoppingParams* params, absl::Span<const TokenId> eos_token_ids,
                         int32_t max_tokens_effective)
    : max_tokens_(max_tokens_effective),
      min_tokens_(params->min_tokens),
      limit_reason_(max_tokens_effective < params->max_tokens ? FinishReason::kContextFull
                                                              : FinishReason::kLength),
      num_eos_tokens_(params->ignore_eos ? 0 : eos_token_ids.size()),
      end_tokens_(eos_token_ids.begin(), eos_token_ids.begin() + num_eos_tokens_) {
  KVASIR_CHECK(max_tokens_ >= 1);
  end_tokens_.insert(end_tokens_.end(), params->stop_token_ids.begin(),
                     params->stop_token_ids.end());
  const bool has_stop_string =
      std::any_of(params->stop.begin(), params->stop.end(),
                  [](const std::string& pattern) { return !pattern.empty(); });
  if (has_stop_string) automaton_ = std::make_unique<const Automaton>(params->stop);
}

StopChecker::StopChecker(StopChecker&&) noexcept = default;
StopChecker& StopChecker::operator=(StopChecker&&) noexcept = default;
StopChecker::~StopChecker() = default;

StopChecker::Verdict StopChecker::Append(TokenId token, absl::string_view new_text) {
  ++generated_;
  Verdict verdict;
  const auto end = std::find(end_tokens_.begin(), end_tokens_.end(), token);
  if (generated_ > min_tokens_ && end != end_tokens_.end()) {
    verdict.finished = true;
    const bool is_eos = static_cast<size_t>(end - end_tokens_.begin()) < num_eos_tokens_;
    verdict.reason = is_eos ? FinishReason::kEos : FinishReason::kStop;
    if (!is_eos) verdict.stop_token = token;
    verdict.text = Flush();
    return verdict;
  }
  if (automaton_ == nullptr) {
    verdict.text.assign(new_text.data(), new_text.size());
  } else {
    MatchText(new_text, &verdict);
  }
  if (!verdict.finished && generated_ >= max_tokens_) {
    verdict.finished = true;
    verdict.reason = limit_reason_;
    verdict.text += Flush();
  }
  return verdict;
}

void StopChecker::MatchText(absl::string_view new_text, Verdict* verdict) {
  const size_t old_bytes = held_.size();
  held_.append(new_text.data(), new_text.size());
  for (size_t end = old_bytes; end < held_.size();) {
    state_ = automaton_->Step(state_, held_[end++]);
    const size_t match_bytes = automaton_->match_bytes(state_);
    if (match_bytes == 0 || generated_ <= min_tokens_) continue;
    // What can become a match was held back, so the match lies in held_ as a whole.
    KVASIR_CHECK(match_bytes <= end);
    verdict->finished = true;
    verdict->reason = FinishReason::kStop;
    verdict->stop_string = held_.substr(end - match_bytes, match_bytes);
    verdict->text = held_.substr(0, end - match_bytes);
    held_.clear();
    return;
  }
  const size_t safe_bytes = held_.size() - automaton_->open_bytes(state_);
  verdict->text = held_.substr(0, safe_bytes);
  held_.erase(0, safe_bytes);
}

std::string StopChecker::Flush() {
  state_ = 0;
  return std::exchange(held_, std::string());
}

absl::Span<const TokenId> StopChecker::banned_tokens(int32_t ahead) const {
  return generated_ + ahead < min_tokens_ ? absl::MakeConstSpan(end_tokens_)
                                          : absl::Span<const TokenId>();
}

}  // namespace kvasir
