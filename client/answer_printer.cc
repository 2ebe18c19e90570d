#include "client/answer_printer.h"

namespace kvasir {

void AnswerPrinter::BeginReasoning() {
  if (in_reasoning_) return;
  in_reasoning_ = true;
  *out_ << (dims_ ? "\033[2m" : "(thinking)\n");
}

void AnswerPrinter::EndReasoning() {
  if (!in_reasoning_) return;
  in_reasoning_ = false;
  *out_ << (dims_ ? "\033[0m\n\n" : "\n(answer)\n");
  at_line_start_ = true;
}

void AnswerPrinter::Print(const v1::Delta& delta) {
  printed_ = printed_ || !delta.reasoning().empty() || !delta.text().empty() ||
             delta.tool_calls_size() > 0;
  if (!delta.reasoning().empty()) {
    BeginReasoning();
    *out_ << delta.reasoning();
  }
  if (!delta.text().empty()) {
    EndReasoning();
    *out_ << delta.text();
    at_line_start_ = delta.text().back() == '\n';
  }
  for (const v1::ToolCallDelta& call : delta.tool_calls()) {
    EndReasoning();
    if (!call.name().empty()) {
      *out_ << (at_line_start_ ? "" : "\n") << "-> " << call.name() << " ";
    }
    *out_ << call.arguments();
    at_line_start_ = false;
  }
  *out_ << std::flush;
}

void AnswerPrinter::Finish() {
  EndReasoning();
  *out_ << std::endl;
}

void AnswerPrinter::Abandon() {
  if (printed_) Finish();
}

}  // namespace kvasir
