// What a model's own template writes for an assistant's turn, our parser reads: the same content,
// reasoning and typed calls, whole and in every split. The templates are those of
// $KVASIR_SHARED/text/templates; without them the tests say so and are skipped.
//
// A template that loses something is named below with what it loses, and the test sees to it that
// this is so. Of the notations that write strings as they are (Qwen3-Coder's, GLM's, Gemma's), none
// can spell its own closing markers: ArgumentWriting::forbidden, which CallMaker leaves out.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/chat_template.h"
#include "tests/server/response/made_calls.h"
#include "tests/server/response/parsed_response.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;
using testing::CallMaker;
using testing::Describe;
using testing::ExpectSameInPieces;
using testing::OrderTools;
using testing::Parse;

constexpr char kContent[] = "I look: 5 < 6 & {a} [b], it's \"fine\".\n\nÅse 日本 😀";
constexpr char kReasoning[] = "First {this}.\n\nThen <that>, \"quoted\".";

// kTurnOfItsOwn: written behind the end of the turn, as another one.
enum class Beside { kKept, kDropped, kBecomesReasoning, kTurnOfItsOwn };
enum class Thought { kKept, kDropped, kOnlyWithCalls };

struct Model {
  const char* folder;
  const char* begin;  // of the assistant's turn, up to where the model itself writes
  std::vector<const char*> ends;
  Beside content_beside_calls = Beside::kKept;
  Thought reasoning = Thought::kKept;
  bool one_call = false;         // raises an error for several, or writes the first only
  bool sorts_arguments = false;  // by name
};

std::ostream& operator<<(std::ostream& out, const Model& model) { return out << model.folder; }

const Model kModels[] = {
    {"GLM-4.6", "<|assistant|>", {}},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
     "<|im_start|>assistant\n",
     {"<|im_end|>\n"},
     Beside::kDropped,
     Thought::kDropped},
    {"Qwen-Qwen2.5-7B-Instruct",
     "<|im_start|>assistant\n",
     {"<|im_end|>\n"},
     Beside::kKept,
     Thought::kDropped},
    {"Qwen-Qwen3-0.6B", "<|im_start|>assistant\n", {"<|im_end|>\n"}},
    {"Qwen3-Coder", "<|im_start|>assistant\n", {"<|im_end|>\n"}, Beside::kKept, Thought::kDropped},
    {"Qwen3.5-4B", "<|im_start|>assistant\n", {"<|im_end|>\n"}},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
     "<｜Assistant｜>",
     {"<｜end▁of▁sentence｜>"},
     Beside::kTurnOfItsOwn,
     Thought::kDropped},
    {.folder = "google-gemma-4-31B-it",
     .begin = "<|turn>model\n",
     .ends = {"<turn|>\n", "<|tool_response>"},
     .reasoning = Thought::kOnlyWithCalls,
     .sorts_arguments = true},
    {"meta-llama-Llama-3.1-8B-Instruct",
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     {"<|eot_id|>"},
     Beside::kDropped,
     Thought::kDropped,
     true},
    {"meta-llama-Llama-3.2-3B-Instruct",
     "<|start_header_id|>assistant<|end_header_id|>\n\n",
     {"<|eot_id|>"},
     Beside::kDropped,
     Thought::kDropped,
     true},
    {"mistralai-Mistral-Nemo-Instruct-2407", "", {"</s>"}, Beside::kDropped, Thought::kDropped},
    {"openai-gpt-oss-120b",
     "<|start|>assistant",
     {"<|call|>", "<|return|>"},
     Beside::kBecomesReasoning,
     Thought::kKept,
     true},
};

// Their templates write no calls at all, so there is nothing to compare.
const char* const kWithoutCalls[] = {"HuggingFaceTB-SmolLM3-3B", "LFM2-8B-A1B",
                                     "google-gemma-2-2b-it", "ibm-granite-granite-3.3-2B-Instruct",
                                     "microsoft-Phi-3.5-mini-instruct"};

std::filesystem::path Templates() {
  const char* const shared = std::getenv("KVASIR_SHARED");
  return (shared != nullptr ? std::filesystem::path(shared) : testing::SourceRoot() / "../shared") /
         "text/templates";
}

struct Turn {
  std::string content, reasoning;
  std::vector<CallMaker::Call> calls;
};

Json Message(const Turn& turn) {
  Json message = {{"role", "assistant"}, {"content", turn.content}};
  if (!turn.reasoning.empty()) {
    message["reasoning_content"] = message["thinking"] = turn.reasoning;
  }
  for (const CallMaker::Call& call : turn.calls) {
    message["tool_calls"].push_back(
        {{"id", "aaaaaaaaa"},
         {"type", "function"},
         {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
  }
  return message;
}

class RenderedCalls : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const std::filesystem::path folder = Templates() / GetParam().folder;
    if (!std::filesystem::exists(folder)) {
      GTEST_SKIP() << folder << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
    }
    const Json golden = Json::parse(testing::ReadTextFile(folder / "golden.json"));
    tokenizer_ = testing::MustLoad(testing::BpeFile({"a"}, {}));
    auto chat = ChatTemplate::FromSources(
        {{"default", testing::ReadTextFile(folder / "chat_template.jinja")}},
        golden["special_tokens"].dump(), *tokenizer_);
    ASSERT_TRUE(chat.ok()) << chat.status();
    chat_ = *std::move(chat);
    format_ = DetectResponseFormat(
        chat_->sources(), [](absl::string_view) { return false; }, "");
    ASSERT_TRUE(format_.writing.has_value());
  }

  // Of a turn, what the model writes.
  absl::string_view WithoutEnd(absl::string_view turn) const {
    if (GetParam().content_beside_calls == Beside::kTurnOfItsOwn) {
      return turn.substr(0, turn.find(GetParam().ends.front()));
    }
    for (const char* end : GetParam().ends) {
      if (absl::ConsumeSuffix(&turn, end)) break;
    }
    return turn;
  }

  std::string Render(const Json& messages, bool add_generation_prompt) const {
    static const Json kParameters = {
        {"type", "object"},
        {"properties", {{"text", {{"type", "string"}, {"description", "Any"}}}}}};
    Json tools = Json::array();
    for (const char* name : {"order", "parse_json", "list-all"}) {
      tools.push_back(
          {{"type", "function"},
           {"function", {{"name", name}, {"description", "A tool"}, {"parameters", kParameters}}}});
    }
    const Json conversation = {
        {"messages", messages}, {"tools", tools}, {"add_generation_prompt", add_generation_prompt}};
    const auto prompt = chat_->Render(conversation.dump(), "2026-11-28T09:30:00");
    EXPECT_TRUE(prompt.ok()) << prompt.status();
    return prompt.ok() ? prompt->text : "";
  }

  void ExpectRead(const std::string& text, bool in_reasoning, const Turn& expected,
                  bool in_pieces) {
    SCOPED_TRACE(text);
    const ResponsePieces read = Parse(format_, {text}, in_reasoning, &OrderTools());
    EXPECT_EQ(read.content, expected.content);
    EXPECT_EQ(read.reasoning, expected.reasoning);
    ASSERT_EQ(read.calls.size(), expected.calls.size()) << Describe(read);
    for (size_t i = 0; i < read.calls.size(); ++i) {
      EXPECT_EQ(read.calls[i].name, expected.calls[i].name);
      const std::string arguments = GetParam().sorts_arguments
                                        ? nlohmann::json(expected.calls[i].arguments).dump()
                                        : expected.calls[i].arguments.dump();
      EXPECT_EQ(Json::parse(read.calls[i].arguments), Json::parse(arguments));
    }
    if (in_pieces) ExpectSameInPieces(format_, text, in_reasoning, &OrderTools());
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_;
  ResponseFormat format_;
};

TEST_P(RenderedCalls, ComeBack) {
  const Model& model = GetParam();
  const Json user = {{"role", "user"}, {"content", "Go on"}};
  int after_prompt = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    CallMaker maker(format_, seed);
    Turn turn;
    const uint32_t calls = seed % 4 == 0 ? 0 : 1 + maker.Below(model.one_call ? 1 : 3);
    for (uint32_t i = 0; i < calls; ++i) turn.calls.push_back(maker.Make());
    if (calls == 0 || maker.Below(2) == 0) turn.content = kContent;
    if (maker.Below(2) == 0) turn.reasoning = kReasoning;
    const bool beside = calls > 0 && !turn.content.empty();
    if (beside && model.content_beside_calls == Beside::kBecomesReasoning) turn.reasoning.clear();

    const std::string before = Render(Json::array({user}), false);
    const std::string all = Render(Json::array({user, Message(turn)}), false);
    ASSERT_TRUE(absl::StartsWith(all, before)) << all;
    absl::string_view text = absl::string_view(all).substr(before.size());
    ASSERT_TRUE(absl::ConsumePrefix(&text, model.begin)) << text;
    text = WithoutEnd(text);

    Turn expected = turn;
    if (beside && model.content_beside_calls != Beside::kKept) {
      if (model.content_beside_calls == Beside::kBecomesReasoning)
        expected.reasoning = turn.content;
      if (model.content_beside_calls == Beside::kDropped) {
        EXPECT_FALSE(absl::StrContains(text, kContent)) << "nothing is lost any more";
      }
      expected.content.clear();
    }
    if (model.reasoning == Thought::kDropped ||
        (model.reasoning == Thought::kOnlyWithCalls && calls == 0)) {
      EXPECT_FALSE(absl::StrContains(text, kReasoning)) << "nothing is lost any more";
      expected.reasoning.clear();
    }
    SCOPED_TRACE(seed);
    ExpectRead(std::string(text), /*in_reasoning=*/false, expected, seed < 40);

    // As a completion of the prompt, where the template's prompt goes on so: it may have opened
    // the reasoning.
    const std::string prompt = Render(Json::array({user}), true);
    const ResponseRegion* const reasoning = format_.reasoning();
    if (reasoning != nullptr && absl::ConsumePrefix(&(text = all), prompt)) {
      text = WithoutEnd(text);
      const bool opened =
          absl::EndsWith(absl::StripTrailingAsciiWhitespace(prompt), reasoning->open.front());
      ExpectRead(std::string(text), opened, expected, seed < 10);
      ++after_prompt;
    }
    if (HasFailure()) return;
  }
  RecordProperty("completions", after_prompt);
}

INSTANTIATE_TEST_SUITE_P(Published, RenderedCalls, ::testing::ValuesIn(kModels),
                         [](const auto& info) {
                           return absl::StrReplaceAll(info.param.folder, {{"-", "_"}, {".", "_"}});
                         });

// Every template that is here is in one of the two lists.
TEST(RenderedCallsTest, NoTemplateIsLeftOut) {
  if (!std::filesystem::exists(Templates())) {
    GTEST_SKIP() << Templates() << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  for (const auto& entry : std::filesystem::directory_iterator(Templates())) {
    const std::string name = entry.path().filename().string();
    const bool compared = std::any_of(std::begin(kModels), std::end(kModels),
                                      [&](const Model& model) { return name == model.folder; });
    const bool without = absl::c_linear_search(kWithoutCalls, name);
    EXPECT_NE(compared, without) << name;
    if (without) {
      const std::string source = testing::ReadTextFile(entry.path() / "chat_template.jinja");
      EXPECT_FALSE(absl::StrContains(source, "tool_calls")) << name;
    }
  }
}

}  // namespace
}  // namespace kvasir
