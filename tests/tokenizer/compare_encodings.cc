// Our tokenizer beside the reference's encodings (reference_encodings.py): ids, the whole text, and
// the streamed text. One argument, the file of them. Exit code 1 with what differs.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {
namespace {

using Json = nlohmann::json;

std::string Streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  IncrementalDetokenizer detokenizer(&tokenizer, /*skip_special_tokens=*/false);
  std::string text;
  for (const TokenId id : ids) text += detokenizer.Append(id);
  return text + detokenizer.Flush();
}

// The reference's stream never gives out an unfinished character at the end.
bool SameStream(absl::string_view ours, absl::string_view theirs) {
  if (!absl::ConsumePrefix(&ours, theirs)) return false;
  while (absl::ConsumePrefix(&ours, "\xEF\xBF\xBD")) {
  }
  return ours.empty();
}

// How many differ. `*no_streams` counts those of which the reference has no stream.
int Compare(const Json& texts, const Json& entry, int* no_streams) {
  const std::string name = entry.at("name").get<std::string>();
  // dump() sorts nothing: vocabularies are objects, whose order says nothing.
  const auto tokenizer = Tokenizer::FromJson(entry.at("tokenizer").dump(), "");
  if (!tokenizer.ok()) {
    std::cout << name << ": " << tokenizer.status() << "\n";
    return 1;
  }
  int differ = 0;
  const auto complain = [&](size_t i, const char* what, const Json& ours, const Json& theirs) {
    if (++differ > 3) return;
    std::cout << name << ": " << what << " of " << texts.at(i).dump() << "\n  ours   "
              << ours.dump() << "\n  theirs " << theirs.dump() << "\n";
  };
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = (*tokenizer)
                         ->Encode(texts.at(i).get<std::string>(),
                                  {.add_special_tokens = true, .parse_special_tokens = true});
    const auto expected = entry.at("ids").at(i).get<std::vector<TokenId>>();
    if (!ids.ok() || *ids != expected) {
      complain(i, "ids", ids.ok() ? Json(*ids) : Json(std::string(ids.status().message())),
               expected);
      continue;
    }
    const auto whole = (*tokenizer)->Decode(expected, /*skip_special_tokens=*/false);
    const Json& text = entry.at("texts").at(i);
    if (!whole.ok() || *whole != text.get<std::string>()) {
      complain(i, "text", whole.ok() ? *whole : std::string(whole.status().message()), text);
      continue;
    }
    // The reference's stream gives up where a decoder rewrites what it said before.
    if (entry.at("streams").at(i).is_null()) {
      ++*no_streams;
      continue;
    }
    const std::string stream = Streamed(**tokenizer, expected);
    const std::string theirs = entry.at("streams").at(i).get<std::string>();
    if (!SameStream(stream, theirs)) complain(i, "stream", stream, theirs);
  }
  if (differ > 0) std::cout << name << ": " << differ << " of " << texts.size() << " differ\n";
  return differ;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  if (argc != 2) return std::fputs("give the file of the reference's encodings\n", stderr), 2;
  std::ifstream file(argv[1]);
  std::string line;
  std::getline(file, line);
  const nlohmann::json texts = nlohmann::json::parse(line);
  int tokenizers = 0, differ = 0, no_streams = 0;
  while (std::getline(file, line)) {
    differ += kvasir::Compare(texts, nlohmann::json::parse(line), &no_streams);
    ++tokenizers;
  }
  std::cout << tokenizers << " tokenizers, " << texts.size() << " texts, " << differ << " differ, "
            << no_streams << " without a stream\n";
  return differ == 0 && tokenizers > 0 ? 0 : 1;
}
