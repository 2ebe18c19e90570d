// Chat templates beside the reference's renderings, and what conversations may not do.
#include "runtime/tokenizer/chat_template.h"

#include <cstdlib>
#include <filesystem>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;
using ::nlohmann::ordered_json;
using testing::AddedTokenJson;
using testing::BpeFile;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::MustLoad;

constexpr char kTime[] = "2026-11-28T09:30:00";

// Ids 0 to 4 are characters, 5 and 6 special tokens.
const Tokenizer& SmallTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    auto file = BpeFile({"<", "s", ">", "a", "/", "<s>", "</s>"}, {});
    file["added_tokens"] =
        nlohmann::json::array({AddedTokenJson(5, "<s>", true), AddedTokenJson(6, "</s>", true)});
    return MustLoad(file);
  }();
  return *tokenizer;
}

std::unique_ptr<ChatTemplate> Template(const std::string& source) {
  auto made = ChatTemplate::FromSources({{"default", source}}, "", SmallTokenizer());
  EXPECT_TRUE(made.ok()) << made.status();
  return made.ok() ? *std::move(made) : nullptr;
}

std::string Rendered(const std::string& source, const std::string& conversation) {
  const auto prompt = Template(source)->Render(conversation, kTime);
  return prompt.ok() ? prompt->text : prompt.status().ToString();
}

constexpr char kHello[] = R"({"messages":[{"role":"user","content":"hello"}]})";

TEST(ChatTemplate, EqualsTheReference) {
  const char* shared = std::getenv("KVASIR_SHARED");
  const fs::path folder =
      fs::path(shared != nullptr ? shared : (testing::SourceRoot() / "../shared").string()) /
      "text/templates";
  if (!fs::exists(folder)) GTEST_SKIP() << folder << " is not here: NO TEMPLATE WAS COMPARED";
  int cases = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto golden = ordered_json::parse(testing::ReadTextFile(entry.path() / "golden.json"));
    const auto chat = ChatTemplate::FromSources(
        {{"default", testing::ReadTextFile(entry.path() / "chat_template.jinja")}},
        golden["special_tokens"].dump(), SmallTokenizer());
    ASSERT_TRUE(chat.ok()) << entry.path() << chat.status();
    for (const ordered_json& item : golden["cases"]) {
      ordered_json conversation;
      for (const char* key :
           {"messages", "tools", "add_generation_prompt", "continue_final_message", "kwargs"}) {
        conversation[key] = item[key];
      }
      const auto prompt = (*chat)->Render(conversation.dump(), kTime);
      const std::string name = entry.path().filename().string() + " " + std::string(item["name"]);
      if (item.contains("rendered")) {
        ASSERT_TRUE(prompt.ok()) << name << prompt.status();
        EXPECT_EQ(prompt->text, item["rendered"].get<std::string>()) << name;
      } else {
        EXPECT_EQ(prompt.status().code(), absl::StatusCode::kInvalidArgument) << name;
        constexpr char kRaised[] = "TemplateError: ";
        const std::string error = item["error"];
        if (error.rfind(kRaised, 0) == 0) {
          EXPECT_EQ(prompt.status().message(), error.substr(sizeof(kRaised) - 1)) << name;
        }
      }
      ++cases;
    }
  }
  EXPECT_GE(cases, 255);
}

TEST(ChatTemplate, SpecialTokensOfTheConversationAreText) {
  const auto chat = Template("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}");
  const auto prompt = chat->Render(R"({"messages":[{"role":"user","content":"a</s><s>"}]})", kTime);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->text, "<s>a</s><s></s>");
  const auto ids = SmallTokenizer().Encode(
      prompt->text,
      {.add_special_tokens = false, .parse_special_tokens = true, .plain = prompt->plain});
  EXPECT_THAT(*ids, ElementsAre(5, 3, 0, 4, 1, 2, 0, 1, 2, 6));
}

// The template's own tests must see what was sent, and may cut it.
TEST(ChatTemplate, ATemplateThatActsOnASpecialTokenIsNotFooled) {
  const std::string conversation =
      R"({"messages":[{"role":"user","content":"a</s>"},{"role":"assistant","content":"a</s>"}]})";
  EXPECT_THAT(Rendered("{% if '</s>' in messages[0].content %}"
                       "{{ raise_exception('no </s> please') }}{% endif %}",
                       conversation),
              "INVALID_ARGUMENT: no </s> please");
  EXPECT_THAT(Rendered("{{ messages[0].content.split('</s>')[0] }}</s>", conversation),
              HasSubstr("INVALID_ARGUMENT: the conversation spells one of the model's special"));
  EXPECT_EQ(Rendered("{{ messages[1].content.split('</s>')[0] }}</s>", conversation), "a</s>");
}

TEST(ChatTemplate, ErrorsNameWhatIsWrong) {
  const auto none = ChatTemplate::FromSources({}, "", SmallTokenizer());
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnimplemented);
  const auto broken = ChatTemplate::FromSources({{"default", "a\n{% if %}"}}, "", SmallTokenizer());
  EXPECT_THAT(broken.status().ToString(), HasSubstr("line 2 of the chat template"));
  EXPECT_THAT(Rendered("{{ 1 // 0 }}", kHello), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(Rendered("x", "{"), HasSubstr("the conversation is not JSON"));
  EXPECT_THAT(Rendered("x", "{}"), HasSubstr("messages must be a list"));
  EXPECT_THAT(Rendered("x", R"({"messages":[]})"), HasSubstr("has no messages"));
  EXPECT_THAT(Rendered("x", R"({"messages":[{}],"tool":[]})"), HasSubstr("unknown field \"tool\""));
  EXPECT_THAT(Rendered("x", R"({"messages":[{}],"kwargs":{"messages":1}})"),
              HasSubstr("kwargs may not set messages"));
  EXPECT_THAT(Rendered("x", R"({"messages":[{}],"chat_template":"rag"})"),
              HasSubstr("no chat template \"rag\"; it has: default"));
  EXPECT_THAT(Rendered("x", std::string(200, '[')), HasSubstr("not JSON"));
}

TEST(ChatTemplate, LimitsHold) {
  EXPECT_THAT(Rendered("{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}"
                       "{% endfor %}",
                       kHello),
              HasSubstr("RESOURCE_EXHAUSTED: the chat template takes too many steps"));
  EXPECT_THAT(Rendered("{% set ns = namespace(t='aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') %}"
                       "{% for a in range(17) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}"
                       "{{ ns.t }}{{ ns.t }}",
                       kHello),
              HasSubstr("RESOURCE_EXHAUSTED"));
  EXPECT_THAT(Rendered("{{ '{:>9223372036854775806}'.format('a') }}", kHello),
              HasSubstr("a width of the format is too large"));
  EXPECT_THAT(Rendered("{{ '%9223372036854775806d' % 1 }}", kHello),
              HasSubstr("a width of the format is too large"));
  EXPECT_THAT(Rendered("{{ '{:>99999}'.format('a') | length }}", kHello), "99999");
  EXPECT_THAT(
      Rendered("{% for a in range(100000) %}{{ '{:>99999}'.format(a) | length }}{% endfor %}",
               kHello),
      HasSubstr("RESOURCE_EXHAUSTED: the chat template takes too many steps"));
  EXPECT_THAT(Rendered("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", kHello),
              HasSubstr("INVALID_ARGUMENT"));
}

TEST(ChatTemplate, NamedTemplatesAndTime) {
  const auto chat = ChatTemplate::FromSources({{"default", "plain"}, {"tool_use", "tools"}}, "",
                                              SmallTokenizer());
  const auto text = [&](const char* conversation) {
    const auto prompt = (*chat)->Render(conversation, kTime);
    return prompt.ok() ? prompt->text : prompt.status().ToString();
  };
  EXPECT_EQ(text(kHello), "plain");
  EXPECT_EQ(text(R"({"messages":[{}],"tools":[]})"), "tools");
  EXPECT_EQ(text(R"({"messages":[{}],"tools":[],"chat_template":"default"})"), "plain");
  EXPECT_EQ(Rendered("{{ strftime_now('%d %b %Y, %A %H:%M %j %-d') }}", kHello),
            "28 Nov 2026, Saturday 09:30 332 28");
  EXPECT_TRUE(CheckLocalTime(LocalTimeText(absl::Now())).ok());
  for (const char* wrong : {"", "2026-11-28", "2026-02-30T00:00:00", "2026-11-28T24:00:00", "x"}) {
    EXPECT_FALSE(CheckLocalTime(wrong).ok()) << wrong;
  }
}

// What the reference makes of a thousand small templates, its errors too
// (make_template_vectors.py).
TEST(ChatTemplate, EqualsTheReferenceInTheSmall) {
  const auto golden = ordered_json::parse(
      testing::ReadTextFile(testing::SourceRoot() / "tests/golden/template_vectors.json"));
  const std::string conversation = golden["conversation"].dump();
  const std::string special_tokens = golden["special_tokens"].dump();
  int cases = 0;
  for (const ordered_json& item : golden["cases"]) {
    const std::string source = item[0];
    const auto chat =
        ChatTemplate::FromSources({{"default", source}}, special_tokens, SmallTokenizer());
    const absl::StatusOr<ChatTemplate::Prompt> prompt =
        chat.ok() ? (*chat)->Render(conversation, kTime) : chat.status();
    if (item[1].is_string()) {
      ASSERT_TRUE(prompt.ok()) << source << "\n" << prompt.status();
      EXPECT_EQ(prompt->text, item[1].get<std::string>()) << source;
    } else {
      EXPECT_FALSE(prompt.ok()) << source << "\n" << prompt->text;
      const std::string raised = item[2];
      if (!raised.empty()) {
        EXPECT_EQ(prompt.status().message(), raised) << source;
      }
    }
    ++cases;
  }
  EXPECT_GT(cases, 1000);
}

// As Python prints and counts, where the engine has its own mind.
TEST(ChatTemplate, SpeaksPython) {
  const std::string conversation =
      R"({"messages":[{"role":"user","content":"b"}],)"
      R"("kwargs":{"f":1e16,"g":2.50,"n":null,"l":["a",1,true,null],"d":{"items":[1],"x":"é<"}}})";
  for (const auto& [source, expected] : std::vector<std::pair<std::string, std::string>>{
           {"{{ f }} {{ g }} {{ n }} {{ true }}", "1e+16 2.5 None True"},
           {"{{ l }} {{ d }}", "['a', 1, True, None] {'items': [1], 'x': 'é<'}"},
           {"{{ d|tojson }} {{ l|tojson }}", R"({"items": [1], "x": "é<"} ["a", 1, true, null])"},
           {"{{ d|tojson(ensure_ascii=True, indent=1, sort_keys=true) }}",
            "{\n \"items\": [\n  1\n ],\n \"x\": \"\\u00e9<\"\n}"},
           {"{{ d|tojson(separators=(',', ':')) }}", R"({"items":[1],"x":"é<"})"},
           {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "items=[1];x=é<;"},
           {"{{ undefined_thing|length }}{{ undefined_thing|join }}{{ undefined_thing }}", "0"},
           {"{{ 'a b  c'.rsplit(' ', 1) }}{{ 'abc'.removeprefix('a') }}", "['a b ', 'c']bc"},
           {"{{ messages is sequence }}{{ 'x' is iterable }}{{ d is mapping }}", "TrueTrueTrue"},
           {"{%- generation %}a{% endgeneration -%}  b", "ab"},
       }) {
    EXPECT_EQ(Rendered(source, conversation), expected) << source;
  }
  EXPECT_THAT(Rendered("{% for a in n %}{% endfor %}", conversation),
              HasSubstr("'NoneType' object is not iterable"));
  EXPECT_THAT(Rendered("{{ nothing|tojson }}", conversation),
              HasSubstr("Undefined is not JSON serializable"));
}

TEST(ChatTemplate, ArgumentsOfCallsAreOpenedAndReasoningIsNamed) {
  EXPECT_EQ(
      Rendered("{{ messages[0].tool_calls[0].function.arguments.city }} "
               "{{ messages[0].thinking }} {{ messages[0].reasoning_content }}"
               "{{ messages[0].content is defined }}",
               R"({"messages":[{"role":"assistant","content":null,"reasoning":"hm",)"
               R"("tool_calls":[{"function":{"name":"w","arguments":"{\"city\":\"Rom\"}"}}]}]})"),
      "Rom hm hmFalse");
}

}  // namespace
}  // namespace kvasir
