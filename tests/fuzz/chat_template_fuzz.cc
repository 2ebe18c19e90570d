// libFuzzer target: any bytes as a chat template, and any as the conversation that it renders.
//
// Input: the template up to the first zero byte, then the conversation's JSON; a fixed one too,
// which most templates accept.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

constexpr char kTime[] = "2026-11-28T09:30:00";
constexpr char kConversation[] =
    R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"a </s> b"},)"
    R"({"role":"assistant","content":"c","tool_calls":[{"id":"1","type":"function","function":)"
    R"({"name":"f","arguments":{"k":[1,null,true]}}}]},{"role":"tool","tool_call_id":"1",)"
    R"("content":"r"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}],)"
    R"("kwargs":{"enable_thinking":false}})";

void Render(const ChatTemplate& chat, absl::string_view conversation) {
  const auto prompt = chat.Render(conversation, kTime);
  if (!prompt.ok()) {
    KVASIR_CHECK(!prompt.status().message().empty());
    return;
  }
  KVASIR_CHECK(!FindInvalidUtf8(prompt->text));
  size_t end = 0;  // plain spans are in order, apart, and inside of the text
  for (const Tokenizer::TextSpan& span : prompt->plain) {
    KVASIR_CHECK(span.begin >= end && span.begin < span.end && span.end <= prompt->text.size());
    end = span.end;
  }
  // The same conversation, the same prompt.
  const auto again = chat.Render(conversation, kTime);
  KVASIR_CHECK(again.ok() && again->text == prompt->text);
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  static const auto* const tokenizer =
      Tokenizer::FromJson(
          R"({"model":{"type":"BPE","vocab":{"a":0,"<s>":1,"</s>":2},"merges":[]},"added_tokens":[)"
          R"({"id":1,"content":"<s>","special":true,"normalized":false,"lstrip":false,)"
          R"("rstrip":false,"single_word":false},{"id":2,"content":"</s>","special":true,)"
          R"("normalized":false,"lstrip":false,"rstrip":false,"single_word":false}]})",
          R"({"bos_token":"<s>","eos_token":"</s>"})")
          ->release();
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), input.size());
  const auto chat =
      ChatTemplate::FromSources({{"default", std::string(input.substr(0, zero))}}, "", *tokenizer);
  if (!chat.ok()) {
    KVASIR_CHECK(!chat.status().message().empty());
    return 0;
  }
  Render(**chat, kConversation);
  if (zero < input.size()) Render(**chat, input.substr(zero + 1));
  return 0;
}
