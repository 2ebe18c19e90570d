#include "server/frontend/response/call_scanner.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace kvasir {
namespace {

// What JSON can have outside of strings; for Python calls nearly everything can stand there.
bool IsJsonByte(char c) {
  return absl::ascii_isalnum(c) || absl::ascii_isspace(c) || absl::StrContains("{}[],:+-.\"", c);
}

}  // namespace

size_t MatchLiteral(absl::string_view text, const std::vector<std::string>& literals,
                    bool* may_grow) {
  size_t best = 0;
  *may_grow = false;
  for (const std::string& literal : literals) {
    if (absl::StartsWith(text, literal)) {
      best = std::max(best, literal.size());
    } else if (absl::StartsWith(literal, text)) {
      *may_grow = true;
    }
  }
  return best;
}

CallScanner::CallScanner(const ResponseRegion* region) : region_(region) {
  switch (region->syntax) {
    case CallSyntax::kJson:
    case CallSyntax::kNamedJson:
    case CallSyntax::kArguments:
      phase_ = Phase::kHead;
      break;
    case CallSyntax::kPythonCalls:
      // With a closing marker that decides; bare, the bracket does.
      phase_ = region->close.empty() ? Phase::kHead : Phase::kUntilClose;
      break;
    case CallSyntax::kXmlParameters:
    case CallSyntax::kArgPairs:
    case CallSyntax::kLooseObject:
      phase_ = Phase::kUntilClose;
      break;
  }
}

CallScanner::Verdict CallScanner::Advance(absl::string_view text, bool at_end) {
  while (true) {
    const Phase before = phase_;
    Verdict verdict = Verdict::kMore;
    switch (phase_) {
      case Phase::kHead:
        verdict = Head(text, at_end);
        break;
      case Phase::kValue:
        verdict = Value(text, at_end);
        break;
      case Phase::kTail:
        verdict = Tail(text, at_end);
        break;
      case Phase::kUntilClose:
        verdict = UntilClose(text, at_end);
        break;
    }
    if (verdict != Verdict::kMore || phase_ == before) return verdict;
  }
}

CallScanner::Verdict CallScanner::End(size_t body, size_t consumed) {
  body_bytes_ = body;
  consumed_bytes_ = consumed;
  return Verdict::kEnd;
}

bool CallScanner::GoOn() {
  if (phase_ != Phase::kUntilClose || consumed_bytes_ == body_bytes_) return false;
  if (++inner_markers_ > kMaxInnerMarkers) return false;
  at_ = consumed_bytes_;
  return true;
}

CallScanner::Verdict CallScanner::Head(absl::string_view text, bool at_end) {
  const bool named = region_->syntax == CallSyntax::kNamedJson;
  for (; at_ < text.size(); ++at_) {
    const char c = text[at_];
    if (at_ >= kMaxHeadBytes) return Verdict::kBroken;
    if (absl::ascii_isspace(c)) continue;
    // A list is one of whole calls, so no name stands before it.
    const bool list = c == '[' && absl::StripAsciiWhitespace(text.substr(0, at_)).empty();
    if (c == '{' || (list && region_->syntax != CallSyntax::kArguments)) {
      if (region_->syntax == CallSyntax::kNamedJson && list) {
        // [ARGS] before any name is no list.
        bool may_grow = false;
        const size_t marker = MatchLiteral(text.substr(at_), {region_->head_separator}, &may_grow);
        if (marker > 0) return Verdict::kBroken;
        if (may_grow && !at_end) return Verdict::kMore;
      }
      if (region_->keep_open && region_->syntax == CallSyntax::kJson) {
        const Verdict verdict = FirstKey(text.substr(at_), at_end);
        if (verdict != Verdict::kEnd) return verdict;
      }
      phase_ = Phase::kValue;
      return Verdict::kMore;
    }
    if (region_->syntax == CallSyntax::kArguments) {
      // No arguments at all.
      bool may_grow = false;
      const size_t bytes = MatchLiteral(text.substr(at_), region_->close, &may_grow);
      if (bytes > 0) return End(at_, at_ + bytes);
      return may_grow && !at_end ? Verdict::kMore : Verdict::kBroken;
    }
    if (!named) return Verdict::kBroken;
  }
  return at_end ? Verdict::kBroken : Verdict::kMore;
}

CallScanner::Verdict CallScanner::FirstKey(absl::string_view text, bool at_end) {
  static const auto* const kKeys = new std::vector<std::string>{
      "\"name\"", "\"type\"", "\"function\"", "\"id\"", "\"parameters\"", "\"arguments\""};
  size_t at = 0;
  const auto skip_space = [&] {
    while (at < text.size() && absl::ascii_isspace(text[at])) ++at;
  };
  if (text[at] == '[') {
    ++at;
    skip_space();
    if (at < text.size() && text[at] != '{') return Verdict::kBroken;
  }
  if (at < text.size()) ++at;
  skip_space();
  if (at > kMaxHeadBytes) return Verdict::kBroken;
  bool may_grow = false;
  if (MatchLiteral(text.substr(at), *kKeys, &may_grow) > 0) return Verdict::kEnd;
  return may_grow && !at_end ? Verdict::kMore : Verdict::kBroken;
}

CallScanner::Verdict CallScanner::Value(absl::string_view text, bool at_end) {
  const bool python = region_->syntax == CallSyntax::kPythonCalls;
  while (at_ < text.size()) {
    const char c = text[at_++];
    if (quote_ != 0) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == quote_) {
        quote_ = 0;
      } else if (static_cast<unsigned char>(c) < 0x20 && !python) {
        return Verdict::kBroken;  // JSON has no such byte in a string: the quote was forgotten
      }
      continue;
    }
    if (c == '"' || (python && c == '\'')) {
      quote_ = c;
    } else if (c == '{' || c == '[' || (python && c == '(')) {
      ++depth_;
    } else if (c == '}' || c == ']' || (python && c == ')')) {
      if (--depth_ == 0) {
        body_bytes_ = at_;
        phase_ = Phase::kTail;
        return Verdict::kMore;
      }
    } else if (!python && !IsJsonByte(c)) {
      return Verdict::kBroken;
    }
  }
  return at_end ? Verdict::kBroken : Verdict::kMore;
}

CallScanner::Verdict CallScanner::Tail(absl::string_view text, bool at_end) {
  if (region_->close.empty() && region_->separator.empty()) return End(body_bytes_, body_bytes_);
  size_t at = body_bytes_;
  bool tail_seen = region_->tail.empty();
  size_t consumed = body_bytes_;
  while (true) {
    while (at < text.size() && absl::ascii_isspace(text[at])) ++at;
    // So much is no pause between two calls.
    if (at - body_bytes_ > kMaxHeadBytes) return End(body_bytes_, consumed);
    const absl::string_view rest = text.substr(at);
    bool may_grow = false;
    if (const size_t bytes = MatchLiteral(rest, region_->close, &may_grow); bytes > 0) {
      if (may_grow && !at_end) return Verdict::kMore;
      return End(body_bytes_, at + bytes);
    }
    if (may_grow && !at_end) return Verdict::kMore;
    if (!tail_seen) {
      const size_t bytes = MatchLiteral(rest, {region_->tail}, &may_grow);
      if (bytes == 0 && may_grow && !at_end) return Verdict::kMore;
      tail_seen = true;
      at += bytes;
      if (bytes > 0) {
        consumed = at;
        continue;
      }
    }
    break;
  }
  if (at >= text.size() && !at_end) return Verdict::kMore;
  // Another call in the same region.
  size_t next = at;
  if (!region_->separator.empty() && absl::StartsWith(text.substr(at), region_->separator)) {
    next = at + region_->separator.size();
    while (next < text.size() && absl::ascii_isspace(text[next])) ++next;
    if (next - at > kMaxHeadBytes) return End(body_bytes_, consumed);
    if (next >= text.size() && !at_end) return Verdict::kMore;
  }
  const bool several = next > at || !region_->close.empty();
  if (several && region_->syntax == CallSyntax::kJson && next < text.size() && text[next] == '{') {
    at_ = next;
    phase_ = Phase::kValue;
    return Verdict::kMore;
  }
  return End(body_bytes_, consumed);
}

CallScanner::Verdict CallScanner::UntilClose(absl::string_view text, bool at_end) {
  for (; at_ < text.size(); ++at_) {
    bool may_grow = false;
    const size_t bytes = MatchLiteral(text.substr(at_), region_->close, &may_grow);
    if (may_grow && !at_end) return Verdict::kMore;
    if (bytes > 0) return AfterClose(text, at_ + bytes, at_end);
  }
  if (!at_end) return Verdict::kMore;
  // A model may end its turn in place of the marker; whether the call is whole, its own notation
  // shows. Of pairs it does not, nor where the marker is the notation's.
  if (region_->syntax == CallSyntax::kArgPairs || region_->keep_open) return Verdict::kBroken;
  return End(text.size(), text.size());
}

CallScanner::Verdict CallScanner::AfterClose(absl::string_view text, size_t closed, bool at_end) {
  if (region_->tail.empty()) return End(at_, closed);
  size_t at = closed;
  while (at < text.size() && absl::ascii_isspace(text[at])) ++at;
  if (at - closed > kMaxHeadBytes) return End(at_, closed);
  bool may_grow = false;
  const size_t bytes = MatchLiteral(text.substr(at), {region_->tail}, &may_grow);
  if (may_grow && !at_end) return Verdict::kMore;
  return End(at_, bytes > 0 ? at + bytes : closed);
}

}  // namespace kvasir
