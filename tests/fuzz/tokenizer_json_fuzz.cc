// libFuzzer target: any bytes as tokenizer.json, and texts and ids through whatever loads.
//
// Input: the file, then optionally a zero byte and a text to encode. A byte of JSON is never zero,
// so corpora of plain tokenizer.json files are valid seeds.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

constexpr absl::string_view kTexts[] = {"", "  Hello, <s>world</s>!\n\n 123 aaaaaaaaaaaa",
                                        "caf\u00e9 e\u0301 \u5317\u4eac \U0001F642\u200d "};

void EncodeAndDecode(const Tokenizer& tokenizer, absl::string_view text) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, {/*add_special_tokens=*/true, parse_special});
    if (!ids.ok()) {
      KVASIR_CHECK(!ids.status().message().empty());
      continue;
    }
    for (const TokenId id : *ids) KVASIR_CHECK(id >= 0 && id < tokenizer.vocab_size());
    const auto decoded = tokenizer.Decode(*ids, /*skip_special_tokens=*/false);
    // A decoder's pattern may give up, too.
    KVASIR_CHECK(decoded.ok() ? !FindInvalidUtf8(*decoded).has_value()
                              : !decoded.status().message().empty());
  }
}

// Ids from the fuzzer through the incremental detokenizer. That it says what Decode() says holds
// for decoders of one token after another; a file from the fuzzer may name others, of which only
// whole characters are promised.
void StreamIds(const Tokenizer& tokenizer, absl::string_view bytes) {
  IncrementalDetokenizer detokenizer(&tokenizer, /*skip_special_tokens=*/false);
  for (const char byte : bytes.substr(0, 64)) {
    const TokenId id = static_cast<uint8_t>(byte) % tokenizer.vocab_size();
    KVASIR_CHECK(!FindInvalidUtf8(detokenizer.Append(id)).has_value());
  }
  KVASIR_CHECK(!FindInvalidUtf8(detokenizer.Flush()).has_value());
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), input.size());
  const absl::string_view file = input.substr(0, zero);
  const absl::string_view text = zero < input.size() ? input.substr(zero + 1) : absl::string_view();
  const auto tokenizer = kvasir::Tokenizer::FromJson(file, "");
  if (!tokenizer.ok()) {
    KVASIR_CHECK(!tokenizer.status().message().empty());
    kvasir::Tokenizer::FromJson(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]}})", input)
        .status()
        .IgnoreError();  // the same bytes as tokenizer_config.json
    return 0;
  }
  for (const absl::string_view fixed : kvasir::kTexts) kvasir::EncodeAndDecode(**tokenizer, fixed);
  kvasir::EncodeAndDecode(**tokenizer, text);
  kvasir::StreamIds(**tokenizer, text);
  return 0;
}
