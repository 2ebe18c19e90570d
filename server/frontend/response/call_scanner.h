// Where a tool call ends in a text that grows: after the bracket that closes its JSON, however many
// brackets and markers its strings hold, or at its closing marker.
//
// One per call, not thread safe. Looks at each byte once, and what it says does not depend on how
// the text came in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/frontend/response/response_format.h"

namespace kvasir {

class CallScanner {
 public:
  // Longest name before a call's arguments, markers included.
  static constexpr size_t kMaxHeadBytes = 512;
  // Closing markers inside of a call's strings: each is read anew.
  static constexpr int kMaxInnerMarkers = 64;

  enum class Verdict { kMore, kEnd, kBroken };

  // `region` outlives the scanner.
  explicit CallScanner(const ResponseRegion* region);

  // `text`: all that follows the opening literal, from its first byte (with keep_open: the literal
  // too); longer with each call. `at_end`: nothing more will come.
  Verdict Advance(absl::string_view text, bool at_end);

  // After kEnd at a closing marker: that is a part of the call, which goes on. False when there was
  // no marker, or too many were such parts.
  bool GoOn();

  // After kEnd: the bytes of the call, and with its closing marker.
  size_t body_bytes() const { return body_bytes_; }
  size_t consumed_bytes() const { return consumed_bytes_; }
  // How often the text was read from its start, in GoOn's way.
  int num_readings() const { return 1 + inner_markers_; }
  // The bytes that were looked at.
  size_t scanned_bytes() const { return at_; }

 private:
  enum class Phase { kHead, kValue, kTail, kUntilClose };

  Verdict Head(absl::string_view text, bool at_end);
  // Whether an object that no marker announces, or a list of objects, begins like a call, so that
  // an answer in JSON is not held back: kEnd when it does. `text` begins with the bracket.
  static Verdict FirstKey(absl::string_view text, bool at_end);
  Verdict Value(absl::string_view text, bool at_end);
  Verdict Tail(absl::string_view text, bool at_end);
  Verdict UntilClose(absl::string_view text, bool at_end);
  // The region's tail may stand behind its closing marker, which ends at `closed`.
  Verdict AfterClose(absl::string_view text, size_t closed, bool at_end);
  Verdict End(size_t body, size_t consumed);

  const ResponseRegion* const region_;
  Phase phase_;
  size_t at_ = 0;   // of the text, what was looked at
  int depth_ = 0;   // open brackets
  char quote_ = 0;  // of the string that is open; 0 = none
  bool escaped_ = false;
  size_t body_bytes_ = 0;
  size_t consumed_bytes_ = 0;
  int inner_markers_ = 0;
};

// The longest of `literals` that `text` begins with; 0 = none. `*may_grow`: the text is too short
// to tell whether a longer one follows.
size_t MatchLiteral(absl::string_view text, const std::vector<std::string>& literals,
                    bool* may_grow);

}  // namespace kvasir
