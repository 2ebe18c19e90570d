#include "server/frontend/response/response_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "server/frontend/response/call_body.h"

namespace kvasir {
namespace {

// gpt-oss: "assistant<|channel|>commentary to=functions.f <|constrain|>json".
constexpr size_t kMaxHeaderBytes = 512;

bool IsSpace(absl::string_view text) { return absl::StripAsciiWhitespace(text).empty(); }

// Moves the white space at the end of *held + text to *held, and gives the rest. Of a longer run
// than fits the newest part is held.
std::string HoldSpace(absl::string_view text, std::string* held) {
  std::string all = std::move(*held);
  all.append(text.data(), text.size());
  size_t end = absl::StripTrailingAsciiWhitespace(all).size();
  if (all.size() - end > ResponseParser::kMaxHeldBytes) {
    end = all.size() - ResponseParser::kMaxHeldBytes;
  }
  *held = all.substr(end);
  all.resize(end);
  return all;
}

}  // namespace

ResponseParser::ResponseParser(const ResponseFormat* format, const ToolSchemas* tools,
                               bool in_reasoning, bool at_most_one)
    : format_(format), tools_(tools), at_most_one_(at_most_one) {
  for (const ResponseRegion& region : format->regions) {
    for (const std::string& literal : region.open) {
      if (!absl::StrContains(first_bytes_, literal[0])) first_bytes_ += literal[0];
    }
  }
  if (in_reasoning && format->reasoning() != nullptr) {
    region_ = format->reasoning();
    state_ = State::kReasoning;
  }
}

void ResponseParser::Feed(absl::string_view text, ResponsePieces* out) {
  buffer_.append(text.data(), text.size());
  Run(/*at_end=*/false, out);
}

void ResponseParser::Finish(ResponsePieces* out) {
  Run(/*at_end=*/true, out);
  // White space after a region says nothing, that at the end of plain text is the text's.
  if (!trims_content_) out->content += held_;
  held_.clear();
  held_reasoning_.clear();
}

void ResponseParser::Run(bool at_end, ResponsePieces* out) {
  bool goes_on = true;
  while (goes_on) {
    switch (state_) {
      case State::kContent:
        goes_on = Content(at_end, out);
        break;
      case State::kReasoning:
        goes_on = Until(region_->close, at_end, out);
        break;
      case State::kMessage:
        goes_on = Until(format_->message.close, at_end, out);
        break;
      case State::kCall:
        goes_on = Call(at_end, out);
        break;
      case State::kHeader:
        goes_on = Header(at_end, out);
        break;
    }
  }
  buffer_.erase(0, at_);
  at_ = 0;
}

bool ResponseParser::Watches(const ResponseRegion& region) const {
  if (region.at_start && content_begun_) return false;
  if (region.part != ResponsePart::kCalls) return true;
  return tools_ != nullptr && num_calls_ < kMaxCalls && broken_bytes_ < kMaxBrokenBytes;
}

bool ResponseParser::Content(bool at_end, ResponsePieces* out) {
  const absl::string_view text = rest();
  for (size_t at = 0; at < text.size(); ++at) {
    const size_t next = text.find_first_of(first_bytes_, at);
    const size_t skipped = std::min(next, text.size());
    if (!content_begun_ && !IsSpace(text.substr(at, skipped - at))) content_begun_ = true;
    if (next == absl::string_view::npos) break;
    at = next;
    const ResponseRegion* found = nullptr;
    size_t bytes = 0;
    bool may_grow = false;
    for (const ResponseRegion& region : format_->regions) {
      if (!Watches(region)) continue;
      bool grows = false;
      const size_t matched = MatchLiteral(text.substr(at), region.open, &grows);
      may_grow = may_grow || grows;
      if (matched > bytes) {
        bytes = matched;
        found = &region;
      }
    }
    if (may_grow && !at_end) {
      AddContent(text.substr(0, at), out);
      at_ += at;
      return false;
    }
    if (found != nullptr) {
      AddContent(text.substr(0, at), out);
      at_ += at;
      Open(found, bytes, out);
      return true;
    }
    content_begun_ = content_begun_ || !absl::ascii_isspace(text[at]);
  }
  AddContent(text, out);
  at_ = buffer_.size();
  return false;
}

void ResponseParser::Open(const ResponseRegion* region, size_t literal_bytes, ResponsePieces* out) {
  opened_ = std::string(rest().substr(0, literal_bytes));
  if (!region->keep_open) at_ += literal_bytes;
  region_ = region;
  switch (region->part) {
    case ResponsePart::kDropped:
      EndContent();
      break;
    case ResponsePart::kReasoning:
      EndContent();
      trims_reasoning_ = true;
      state_ = State::kReasoning;
      break;
    case ResponsePart::kCalls:
      scanner_.emplace(region);
      state_ = State::kCall;
      break;
    case ResponsePart::kHeader:
      state_ = State::kHeader;
      break;
  }
}

void ResponseParser::Reject(ResponsePieces* out) {
  if (scanner_) {
    const size_t bytes = std::min(scanner_->scanned_bytes(), kMaxCallBytes);
    broken_bytes_ += bytes * static_cast<size_t>(scanner_->num_readings());
  }
  content_begun_ = true;
  if (region_->keep_open) at_ += opened_.size();
  AddContent(opened_, out);
  scanner_.reset();
  state_ = State::kContent;
}

bool ResponseParser::Until(const std::vector<std::string>& close, bool at_end,
                           ResponsePieces* out) {
  const bool reasoning = state_ == State::kReasoning || message_is_reasoning_;
  const auto add = [&](absl::string_view text) {
    reasoning ? AddReasoning(text, out) : AddContent(text, out);
  };
  const absl::string_view text = rest();
  for (size_t at = 0; at < text.size(); ++at) {
    bool may_grow = false;
    const size_t bytes = MatchLiteral(text.substr(at), close, &may_grow);
    if (bytes == 0 && (!may_grow || at_end)) continue;
    add(text.substr(0, at));
    at_ += at;
    if (may_grow && !at_end) return false;
    at_ += bytes;
    EndContent();
    held_reasoning_.clear();
    message_is_reasoning_ = false;
    state_ = State::kContent;
    return true;
  }
  add(text);
  at_ = buffer_.size();
  return false;
}

bool ResponseParser::Call(bool at_end, ResponsePieces* out) {
  const absl::string_view text = rest();
  CallScanner::Verdict verdict = scanner_->Advance(text, at_end);
  // What may follow a call before it counts as ended: the same calls are too long in any pieces.
  constexpr size_t kPauseBytes = 4 * CallScanner::kMaxHeadBytes;
  const bool too_long = verdict == CallScanner::Verdict::kEnd
                            ? scanner_->body_bytes() > kMaxCallBytes
                            : text.size() > kMaxCallBytes + kPauseBytes;
  if (too_long) verdict = CallScanner::Verdict::kBroken;
  if (verdict == CallScanner::Verdict::kMore) return false;
  std::optional<std::vector<ToolCall>> calls;
  if (verdict == CallScanner::Verdict::kEnd) {
    bool cut = false;
    calls =
        ReadCalls(*region_, text.substr(0, scanner_->body_bytes()), header_name_, *tools_, &cut);
    if (!calls && cut && scanner_->GoOn()) return true;
  }
  if (!calls || num_calls_ + static_cast<int>(calls->size()) > kMaxCalls) {
    Reject(out);
    return true;
  }
  calls->erase(std::remove_if(calls->begin(), calls->end(),
                              [this](const ToolCall& call) { return !tools_->Allows(call.name); }),
               calls->end());
  if (at_most_one_) calls->resize(std::min<size_t>(calls->size(), num_calls_ == 0 ? 1 : 0));
  num_calls_ += static_cast<int>(calls->size());
  for (ToolCall& call : *calls) out->calls.push_back(std::move(call));
  at_ += scanner_->consumed_bytes();
  scanner_.reset();
  EndContent();
  state_ = State::kContent;
  return true;
}

bool ResponseParser::Header(bool at_end, ResponsePieces* out) {
  const std::string& close = region_->close.front();
  const absl::string_view text = rest().substr(0, kMaxHeaderBytes + close.size());
  const size_t end = text.find(close);
  if (end == absl::string_view::npos) {
    if (text.size() < kMaxHeaderBytes + close.size() && !at_end) return false;
    Reject(out);
    return true;
  }
  const absl::string_view header = text.substr(0, end);
  constexpr absl::string_view kRecipient = "to=";
  const size_t recipient = header.find(kRecipient);
  header_name_.clear();
  if (recipient != absl::string_view::npos) {
    absl::string_view name = header.substr(recipient + kRecipient.size());
    name = name.substr(0, name.find_first_of(" \t\n<"));
    // Without the namespace what has no tool's name is a tool that the model brings along.
    const bool function = absl::ConsumePrefix(&name, "functions.");
    if (function || (tools_ != nullptr && tools_->Has(name))) header_name_ = std::string(name);
  }
  if (!region_->keep_open) opened_.append(header.data(), header.size());
  opened_ = region_->keep_open ? absl::StrCat(header, close) : absl::StrCat(opened_, close);
  at_ += end + close.size();
  EndContent();
  content_begun_ = true;
  if (IsToolName(header_name_) && tools_ != nullptr && num_calls_ < kMaxCalls &&
      broken_bytes_ < kMaxBrokenBytes) {
    region_ = &format_->message;
    scanner_.emplace(region_);
    state_ = State::kCall;
    return true;
  }
  message_is_reasoning_ = absl::StrContains(header, "analysis");
  trims_reasoning_ = true;
  state_ = State::kMessage;
  return true;
}

void ResponseParser::AddContent(absl::string_view text, ResponsePieces* out) {
  if (trims_content_) {
    text = absl::StripLeadingAsciiWhitespace(text);
    if (text.empty()) return;
    trims_content_ = false;
    if (has_content_) out->content += '\n';
  }
  const std::string given = HoldSpace(text, &held_);
  has_content_ = has_content_ || !given.empty();
  out->content += given;
}

void ResponseParser::AddReasoning(absl::string_view text, ResponsePieces* out) {
  if (trims_reasoning_) {
    text = absl::StripLeadingAsciiWhitespace(text);
    if (text.empty()) return;
    trims_reasoning_ = false;
    if (has_reasoning_) out->reasoning += '\n';
    has_reasoning_ = true;
  }
  out->reasoning += HoldSpace(text, &held_reasoning_);
}

void ResponseParser::EndContent() {
  held_.clear();
  trims_content_ = true;
}

}  // namespace kvasir
