// libFuzzer target: any bytes as a constraint of the output, and a walk through what compiles.
//
// Input: one byte for the kind, then the constraint's text.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {
namespace {

constexpr int kVocabSize = 260;
constexpr TokenId kEos = 256;

// The ASCII characters, as a byte-level vocabulary names them, and two special tokens.
std::unique_ptr<Tokenizer> AsciiTokenizer() {
  std::string vocab;
  for (int byte = 33; byte < 127; ++byte) {
    vocab += vocab.empty() ? "\"" : ",\"";
    if (byte == '"' || byte == '\\') vocab += '\\';
    vocab += static_cast<char>(byte);
    vocab += "\":" + std::to_string(byte);
  }
  vocab += R"(,"Ġ":32,"Ċ":10,"</s>":256,"<tool>":257)";
  auto tokenizer = Tokenizer::FromJson(
      R"({"model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":[]},)" +
          R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true},)" +
          R"("decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true},)" +
          R"("added_tokens":[)" +
          R"({"id":256,"content":"</s>","special":true,"normalized":false,"lstrip":false,)" +
          R"("rstrip":false,"single_word":false},)" +
          R"({"id":257,"content":"<tool>","special":true,"normalized":false,"lstrip":false,)" +
          R"("rstrip":false,"single_word":false}]})",
      "");
  KVASIR_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  static const auto* const tokenizer = AsciiTokenizer().release();
  static auto* const compiler = [] {
    GrammarLimits limits;
    limits.max_source_bytes = 4096;
    limits.compile_fuel = 100'000;
    limits.step_fuel = 20'000;
    return new GrammarCompiler(tokenizer, kVocabSize, {kEos}, limits);
  }();
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto compiled = compiler->Compile(
      {.kind = static_cast<Constraint::Kind>(data[0] % 6), .text = text}, absl::InfiniteFuture());
  if (!compiled.ok()) {
    KVASIR_CHECK(!compiled.status().message().empty());
    return 0;
  }
  TokenMatcher& matcher = **compiled;
  std::vector<uint32_t> mask(MaskWords(kVocabSize));
  for (size_t i = 0; i < 16 && !matcher.IsComplete(); ++i) {
    if (!matcher.FillMask(absl::MakeSpan(mask)).ok()) break;
    TokenId token = (data[i % size] * 7 + static_cast<TokenId>(i)) % kVocabSize;
    const auto allowed = [&] { return (mask[token / 32] >> (token % 32)) & 1; };
    for (int tried = 0; tried < kVocabSize && !allowed(); ++tried) token = (token + 1) % kVocabSize;
    KVASIR_CHECK(allowed());
    const bool may_end = matcher.IsAccepting();
    KVASIR_CHECK(token != kEos || may_end);
    if (!matcher.Commit(token).ok()) break;
  }
  return 0;
}
