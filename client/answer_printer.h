// A streamed answer on a terminal: reasoning dimmed and apart from the text, tool calls one on a
// line. Used by one thread at a time.
#pragma once

#include <ostream>
#include <string>

#include "kvasir/v1/generation.pb.h"

namespace kvasir {

class AnswerPrinter {
 public:
  // `out` outlives the printer. `dims`: whether it is a terminal that knows escape sequences; else
  // reasoning stands between the lines "(thinking)" and "(answer)".
  AnswerPrinter(std::ostream* out, bool dims) : out_(out), dims_(dims) {}

  void Print(const v1::Delta& delta);
  // The end of the answer.
  void Finish();
  // It broke off: ends the line, where there is one.
  void Abandon();

 private:
  void BeginReasoning();
  void EndReasoning();

  std::ostream* const out_;
  const bool dims_;
  bool in_reasoning_ = false;
  bool at_line_start_ = true;
  bool printed_ = false;
};

}  // namespace kvasir
