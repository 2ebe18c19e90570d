// Calls that published templates render as the model's own turn are read back as they were: what a
// template shows of earlier turns is what its model has learnt to write.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/chat_template.h"
#include "server/frontend/response/response_reader.h"
#include "tests/server/response/made_calls.h"
#include "tests/server/response/parsed_response.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using testing::CallMaker;
using testing::OrderTools;

constexpr char kTime[] = "2026-11-28T09:30:00";

// `calls` empty: the prompt of the turn that makes them.
Json Conversation(const std::vector<CallMaker::Call>& calls) {
  Json messages = Json::array({{{"role", "user"}, {"content", "Order it."}}});
  Json tools = Json::array();
  for (const Json& tool : Json::parse(testing::kOrderTools)) {
    tools.push_back({{"type", "function"}, {"function", tool}});
    Json& function = tools.back()["function"];
    function["description"] = "d";
    if (!function.contains("parameters")) {
      function["parameters"] = {{"type", "object"}, {"properties", Json::object()}};
    }
  }
  if (!calls.empty()) {
    Json made = Json::array();
    for (size_t i = 0; i < calls.size(); ++i) {
      made.push_back({{"id", absl::StrCat("abcdefgh", i)},
                      {"type", "function"},
                      {"function", {{"name", calls[i].name}, {"arguments", calls[i].arguments}}}});
    }
    messages.push_back({{"role", "assistant"}, {"content", ""}, {"tool_calls", made}});
  }
  return {{"messages", messages}, {"tools", tools}, {"add_generation_prompt", calls.empty()}};
}

// What the model wrote of `rendered`: behind the prompt, without what ends a turn.
std::string ModelText(const std::string& prompt, const std::string& rendered,
                      const std::string& end_of_sequence) {
  const auto differs =
      std::mismatch(prompt.begin(), prompt.end(), rendered.begin(), rendered.end());
  std::string text(differs.second, rendered.end());
  for (const std::string& end :
       {end_of_sequence, std::string("<|im_end|>"), std::string("<|eot_id|>"),
        std::string("<turn|>"), std::string("<|tool_response>")}) {
    absl::string_view kept = absl::StripTrailingAsciiWhitespace(text);
    if (!end.empty() && absl::ConsumeSuffix(&kept, end)) text = std::string(kept);
  }
  return text;
}

// True when the template renders such calls; they are compared then.
bool Compare(const ChatTemplate& chat, const ResponseFormat& format, const std::string& prompt,
             const std::string& end_of_sequence, const std::vector<CallMaker::Call>& calls) {
  const auto rendered = chat.Render(Conversation(calls).dump(), kTime);
  if (!rendered.ok()) return false;
  const std::string text = ModelText(prompt, rendered->text, end_of_sequence);
  const bool in_reasoning = BeginsInReasoning(format, prompt, false);
  SCOPED_TRACE(text);
  const ResponsePieces pieces = testing::Parse(format, {text}, in_reasoning, &OrderTools());
  EXPECT_EQ(pieces.content, "");
  EXPECT_EQ(pieces.calls.size(), calls.size());
  for (size_t i = 0; i < std::min(calls.size(), pieces.calls.size()); ++i) {
    EXPECT_EQ(pieces.calls[i].name, calls[i].name);
    // Some templates sort the keys.
    EXPECT_EQ(nlohmann::json::parse(pieces.calls[i].arguments),
              nlohmann::json::parse(calls[i].arguments.dump()));
  }
  testing::ExpectSameInPieces(format, text, in_reasoning, &OrderTools());
  return true;
}

TEST(RenderedCalls, AreReadBack) {
  const char* shared = std::getenv("KVASIR_SHARED");
  const fs::path folder =
      fs::path(shared != nullptr ? shared : (testing::SourceRoot() / "../shared").string()) /
      "text/templates";
  if (!fs::exists(folder)) GTEST_SKIP() << folder << " is not here: NO TEMPLATE WAS COMPARED";
  const auto tokenizer = testing::MustLoad(testing::BpeFile({"a"}, {}));
  int templates = 0;
  int renderings = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string source = testing::ReadTextFile(entry.path() / "chat_template.jinja");
    const auto golden = Json::parse(testing::ReadTextFile(entry.path() / "golden.json"));
    const ResponseFormat format = DetectResponseFormat(
        source, [](absl::string_view) { return false; }, "");
    if (!format.writing || !absl::StrContains(source, "tool_calls")) continue;
    const auto chat = ChatTemplate::FromSources({{"default", source}},
                                                golden["special_tokens"].dump(), *tokenizer);
    ASSERT_TRUE(chat.ok()) << entry.path() << chat.status();
    const auto prompt = (*chat)->Render(Conversation({}).dump(), kTime);
    ASSERT_TRUE(prompt.ok()) << entry.path() << prompt.status();
    const std::string end = golden["special_tokens"].value("eos_token", std::string());
    int compared = 0;
    for (uint32_t seed = 0; seed < 24; ++seed) {
      SCOPED_TRACE(absl::StrCat(entry.path().filename().string(), " ", format.name, " ", seed));
      CallMaker maker(format, seed);
      std::vector<CallMaker::Call> calls;
      for (uint32_t i = 0; i <= seed % 3; ++i) calls.push_back(maker.Make());
      compared += Compare(**chat, format, prompt->text, end, calls) ? 1 : 0;
      if (::testing::Test::HasFailure()) return;
    }
    EXPECT_GE(compared, 8) << entry.path();  // some templates know one call alone
    ++templates;
    renderings += compared;
  }
  EXPECT_GE(templates, 9);
  EXPECT_GE(renderings, 9 * 8);
}

}  // namespace
}  // namespace kvasir
