// OpenAI's bodies to requests of the API: what each field becomes, and what is refused by name.
#include "server/http/openai_request.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/frontend/request_errors.h"
#include "server/http/json_fields.h"
#include "server/http/json_member.h"
#include "server/http/openai_messages.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

nlohmann::json Json(const std::string& text) {
  const absl::StatusOr<nlohmann::json> json = ParseJsonObject(text);
  EXPECT_TRUE(json.ok()) << json.status();
  return json.ok() ? *json : nlohmann::json::object();
}

absl::StatusOr<OpenAiRequest> Completion(const std::string& fields) {
  return ParseCompletionRequest(Json(absl::StrCat(R"({"prompt": "hi", )", fields, "}")), "");
}
absl::StatusOr<OpenAiRequest> Chat(const std::string& fields) {
  return ParseChatRequest(
      Json(absl::StrCat(R"({"messages": [{"role": "user", "content": "hi"}], )", fields, "}")), "");
}

// The message of the refusal; it must name `field`.
std::string Refusal(const absl::StatusOr<OpenAiRequest>& parsed, const std::string& field) {
  EXPECT_FALSE(parsed.ok()) << field;
  if (parsed.ok()) return "";
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(FirstBadField(parsed.status()), field);
  return std::string(parsed.status().message());
}

TEST(ParseCompletionRequestTest, MapsEveryField) {
  const absl::StatusOr<OpenAiRequest> parsed = Completion(R"(
      "model": "m", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1,
      "presence_penalty": -1, "frequency_penalty": 1.5, "repetition_penalty": 1.1, "seed": -1,
      "n": 2, "best_of": 2, "stop": ["a", "b"], "stop_token_ids": [5], "min_tokens": 3,
      "ignore_eos": true, "logit_bias": {"12": -100, "7": 2.5}, "logprobs": 4, "stream": true,
      "stream_options": {"include_usage": true, "continuous_usage_stats": true}, "priority": -5,
      "request_id": "r1", "skip_special_tokens": false, "add_special_tokens": false,
      "return_token_ids": true, "include_stop_str_in_output": true)");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_THAT(parsed->prompts, SizeIs(1));
  const v1::GenerateRequest& request = parsed->prompts[0];
  EXPECT_EQ(request.model(), "m");
  EXPECT_EQ(request.text(), "hi");
  EXPECT_EQ(request.stopping().max_tokens(), 7);
  EXPECT_EQ(request.stopping().min_tokens(), 3);
  EXPECT_TRUE(request.stopping().ignore_eos());
  EXPECT_THAT(request.stopping().stop(), ElementsAre("a", "b"));
  EXPECT_THAT(request.stopping().stop_token_ids(), ElementsAre(5));
  EXPECT_EQ(request.sampling().temperature(), 0.5f);
  EXPECT_EQ(request.sampling().top_p(), 0.9f);
  EXPECT_EQ(request.sampling().top_k(), 0);
  EXPECT_EQ(request.sampling().min_p(), 0.1f);
  EXPECT_EQ(request.sampling().presence_penalty(), -1);
  EXPECT_EQ(request.sampling().frequency_penalty(), 1.5f);
  EXPECT_EQ(request.sampling().repetition_penalty(), 1.1f);
  EXPECT_EQ(request.sampling().seed(), ~uint64_t{0});
  EXPECT_EQ(request.sampling().n(), 2);
  EXPECT_EQ(request.sampling().logit_bias().at(12), -100);
  EXPECT_EQ(request.sampling().logit_bias().at(7), 2.5f);
  EXPECT_EQ(request.output().logprobs(), 4);
  EXPECT_FALSE(request.output().has_prompt_logprobs());
  EXPECT_FALSE(request.output().skip_special_tokens());
  EXPECT_FALSE(request.add_special_tokens());
  EXPECT_EQ(request.priority(), 5);  // vLLM's smaller is our larger
  EXPECT_EQ(request.request_id(), "r1");
  EXPECT_EQ(parsed->n, 2);
  EXPECT_TRUE(parsed->answer.stream && parsed->answer.include_usage &&
              parsed->answer.continuous_usage && parsed->answer.logprobs &&
              parsed->answer.token_ids && parsed->answer.keep_stop_string);
}

TEST(ParseCompletionRequestTest, AbsentAndNullFieldsAreDefaults) {
  const absl::StatusOr<OpenAiRequest> parsed = Completion(
      R"("max_tokens": null, "temperature": null, "stop": null, "n": null, "logprobs": null)");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const v1::GenerateRequest& request = parsed->prompts[0];
  EXPECT_EQ(request.stopping().max_tokens(), 16);
  EXPECT_FALSE(request.sampling().has_temperature());
  EXPECT_FALSE(request.output().has_logprobs());
  EXPECT_EQ(parsed->n, 1);
  EXPECT_FALSE(parsed->answer.stream);
}

TEST(ParseCompletionRequestTest, TakesPromptsOfEveryShape) {
  const auto prompts = [](const std::string& prompt) {
    return ParseCompletionRequest(Json(absl::StrCat(R"({"prompt": )", prompt, "}")), "");
  };
  EXPECT_EQ(prompts(R"(["a", "b"])")->prompts[1].text(), "b");
  EXPECT_THAT(prompts("[1, 2, 3]")->prompts[0].token_ids().ids(), ElementsAre(1, 2, 3));
  const auto lists = prompts("[[1, 2], [3]]");
  ASSERT_THAT(lists->prompts, SizeIs(2));
  EXPECT_THAT(lists->prompts[1].token_ids().ids(), ElementsAre(3));
  EXPECT_EQ(prompts(R"([[1], "b"])")->prompts[1].text(), "b");
  for (const char* bad :
       {"7", "true", "{}", "[1, \"a\"]", "[[1.5]]", "[-1]", "[[[1]]]", "[1, 99999999999]"}) {
    Refusal(prompts(bad), "prompt");
  }
  std::string many = "[\"a\"";
  for (size_t i = 0; i < kMaxPrompts; ++i) many += ",\"a\"";
  EXPECT_THAT(Refusal(prompts(many + "]"), "prompt"), HasSubstr("limit is 64"));
}

TEST(ParseCompletionRequestTest, EchoScoresThePrompt) {
  const auto parsed = Completion(R"("echo": true, "logprobs": 1, "max_tokens": 0)");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->answer.echo);
  EXPECT_TRUE(parsed->answer.drop_output);
  EXPECT_EQ(parsed->prompts[0].output().prompt_logprobs(), 1);
  EXPECT_EQ(parsed->prompts[0].stopping().max_tokens(), 1);
  // Without echo there would be nothing to answer: request_validation refuses it.
  EXPECT_EQ(Completion(R"("max_tokens": 0)")->prompts[0].stopping().max_tokens(), 0);
}

TEST(ParseChatRequestTest, ReadsMessages) {
  const auto parsed =
      ParseChatRequest(Json(R"({"messages": [{"role": "developer", "content": "be brief"},
               {"role": "user", "content": [{"type": "text", "text": "a"},
                                            {"type": "text", "text": "b"}]},
               {"role": "assistant", "content": null}], "max_completion_tokens": 5,
               "max_tokens": 9, "logprobs": true, "top_logprobs": 2})"),
                       "header-session");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const v1::GenerateRequest& request = parsed->prompts[0];
  ASSERT_EQ(request.messages().messages_size(), 3);
  EXPECT_EQ(request.messages().messages(0).role(), "system");
  EXPECT_EQ(request.messages().messages(1).content(), "ab");
  EXPECT_EQ(request.messages().messages(2).content(), "");
  EXPECT_EQ(request.stopping().max_tokens(), 5);
  EXPECT_EQ(request.output().logprobs(), 2);
  EXPECT_EQ(request.session_id(), "header-session");
  EXPECT_EQ(request.session_input(), v1::SESSION_INPUT_FULL_HISTORY);
}

TEST(ParseChatRequestTest, RefusesWhatItCannotReadByName) {
  const auto messages = [](const std::string& list) {
    return ParseChatRequest(Json(absl::StrCat(R"({"messages": )", list, "}")), "");
  };
  Refusal(messages("[]"), "messages");
  Refusal(messages("7"), "messages");
  Refusal(messages("[7]"), "messages[0]");
  Refusal(messages(R"([{"content": "a"}])"), "messages[0].role");
  Refusal(messages(R"([{"role": "user", "content": 7}])"), "messages[0].content");
  Refusal(messages(R"([{"role": "user", "content": [{"type": "text"}]}])"),
          "messages[0].content[0].text");
  Refusal(
      ParseResponsesRequest(Json(R"({"input": [{"type": "function_call", "call_id": "a"}]})"), ""),
      "input[0].name");
  const auto called =
      messages(R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}])");
  ASSERT_TRUE(called.ok()) << called.status();
  EXPECT_THAT(called->prompts[0].messages().messages(0).json(), HasSubstr(R"("arguments":"{}")"));
  EXPECT_THAT(Refusal(messages(R"([{"role": "user", "content": [{"type": "image_url"}]}])"),
                      "messages[0].content[0].type"),
              HasSubstr("image_url"));
}

const v1::Constraint& ConstraintOf(const absl::StatusOr<OpenAiRequest>& parsed) {
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  static const v1::Constraint none;
  return parsed.ok() ? parsed->prompts[0].sampling().constraint() : none;
}

TEST(OpenAiRequestTest, ReadsStructuredOutputInEveryForm) {
  const std::string schema = R"({"type": "object", "properties": {"z": {}, "a": {}}})";
  for (const std::string& field :
       {absl::StrCat(R"("response_format": {"type": "json_schema", "json_schema": )",
                     R"({"name": "n", "strict": true, "schema": )", schema, "}}"),
        absl::StrCat(R"("structured_outputs": {"json": )", schema, "}"),
        absl::StrCat(R"("guided_json": )", schema)}) {
    const std::string body = absl::StrCat(R"({"prompt": "hi", )", field, "}");
    // As it was written: the order of its properties says in which order they come out.
    EXPECT_EQ(ConstraintOf(ParseCompletionRequest(Json(body), "", body)).json_schema(), schema);
    EXPECT_EQ(nlohmann::json::parse(ConstraintOf(Completion(field)).json_schema()),
              nlohmann::json::parse(schema));
  }
  EXPECT_EQ(ConstraintOf(Completion(R"("guided_json": "{}")")).json_schema(), "{}");
  EXPECT_TRUE(
      ConstraintOf(Chat(R"("response_format": {"type": "json_object"})")).json().only_object());
  EXPECT_EQ(ConstraintOf(Chat(R"("response_format": {"type": "text"})")).kind_case(),
            v1::Constraint::KIND_NOT_SET);
  EXPECT_EQ(ConstraintOf(Completion(R"("guided_regex": "a+")")).regex(), "a+");
  EXPECT_EQ(ConstraintOf(Completion(R"("structured_outputs": {"grammar": "start: \"a\""})")).lark(),
            "start: \"a\"");
  EXPECT_THAT(ConstraintOf(Completion(R"("guided_choice": ["a", "b"])")).choice().options(),
              ElementsAre("a", "b"));
  const v1::Constraint tag = ConstraintOf(
      Chat(R"("response_format": {"type": "structural_tag", "triggers": ["<"], "structures":)"
           R"( [{"begin": "<f>", "schema": {"type": "null"}, "end": "</f>"}]})"));
  ASSERT_EQ(tag.structural_tag().tags_size(), 1);
  EXPECT_EQ(tag.structural_tag().tags(0).begin(), "<f>");
  const auto responses = ParseResponsesRequest(
      Json(R"({"input": "hi", "text": {"format": {"type": "json_schema", "name": "n",)"
           R"( "schema": {"type": "null"}}}})"),
      "");
  EXPECT_EQ(ConstraintOf(responses).json_schema(), R"({"type":"null"})");
}

TEST(OpenAiRequestTest, RefusesStructuredOutputThatItCannotRead) {
  Refusal(Chat(R"("response_format": {"type": "xml"})"), "response_format.type");
  Refusal(Chat(R"("response_format": {"type": "json_schema"})"), "response_format.schema");
  Refusal(Completion(R"("guided_choice": "a")"), "guided_choice");
  Refusal(Completion(R"("guided_json": 7)"), "guided_json");
  Refusal(Completion(R"("guided_regex": {})"), "guided_regex");
  Refusal(Completion(R"("structured_outputs": "x")"), "structured_outputs");
  Refusal(Completion(R"("guided_regex": "a", "guided_choice": ["b"])"), "guided_choice");
}

TEST(JsonMemberTest, FindsValuesAsTheyWereWritten) {
  const std::string document =
      R"( {"a\u0062" : [1, {"x":"}"}] , "b":{ "c" : "\"," , "d" : {"z":1, "a":2 } }, "b" : {"d":-1e5}})";
  EXPECT_EQ(JsonMember(document, {"ab"}), R"([1, {"x":"}"}])");
  EXPECT_EQ(JsonMember(document, {"b", "d"}), "-1e5");
  EXPECT_EQ(JsonMember(R"({"b":{ "c" : "\"," , "d" : {"z":1, "a":2 } }})", {"b", "d"}),
            R"({"z":1, "a":2 })");
  EXPECT_EQ(JsonMember(document, {"b", "c", "d"}), "");
  EXPECT_EQ(JsonMember(document, {"missing"}), "");
  EXPECT_EQ(JsonMember("[]", {"a"}), "");
  EXPECT_EQ(JsonMember("", {"a"}), "");
}

// A field that would change the answer is never ignored.
TEST(OpenAiRequestTest, RefusesUnsupportedFieldsByName) {
  Refusal(Chat(R"("functions": [{"name": "f"}])"), "functions");
  Refusal(Completion(R"("suffix": "end")"), "suffix");
  EXPECT_TRUE(Completion(R"("suffix": "", "bad_words": [], "use_beam_search": false)").ok());
  Refusal(Completion(R"("best_of": 3)"), "best_of");
  Refusal(Chat(R"("web_search_options": {})"), "web_search_options");
  Refusal(Chat(R"("modalities": ["text", "audio"])"), "modalities");
  Refusal(Chat(R"("audio": {"voice": "a", "format": "mp3"})"), "audio");
  EXPECT_TRUE(Chat(R"("modalities": ["text"], "audio": null)").ok());
  // Ranges whose fields have other names in the API.
  Refusal(Chat(R"("max_completion_tokens": 0)"), "max_completion_tokens");
  Refusal(Chat(R"("logprobs": true, "top_logprobs": 21)"), "top_logprobs");
  Refusal(Chat(R"("logprobs": true, "top_logprobs": -1)"), "top_logprobs");
  Refusal(Completion(R"("session_input": "both", "session_id": "s")"), "session_input");
}

TEST(OpenAiRequestTest, ReadsTools) {
  const auto tools = [](const absl::StatusOr<OpenAiRequest>& parsed) {
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed->prompts.front().messages();
  };
  const auto chat = tools(Chat(R"("tools": [{"type": "function", "function": {"name": "f"}}])"));
  EXPECT_EQ(chat.tools_json(), R"([{"type":"function","function":{"name":"f"}}])");
  EXPECT_EQ(chat.tool_choice().mode(), v1::TOOL_CHOICE_MODE_AUTO);
  const auto flat = tools(Chat(
      R"("tools": [{"type": "function", "name": "f", "strict": true}], "tool_choice": "none")"));
  EXPECT_EQ(flat.tools_json(), chat.tools_json());
  EXPECT_EQ(flat.tool_choice().mode(), v1::TOOL_CHOICE_MODE_NONE);
  const auto named = tools(Chat(R"("tools": [{"function": {"name": "f"}}],
      "tool_choice": {"type": "function", "function": {"name": "f"}})"));
  EXPECT_EQ(named.tool_choice().mode(), v1::TOOL_CHOICE_MODE_NAMED);
  EXPECT_EQ(named.tool_choice().name(), "f");
  EXPECT_FALSE(named.tool_choice().at_most_one());
  const auto single =
      tools(Chat(R"("tools": [{"function": {"name": "f"}}], "parallel_tool_calls": false)"));
  EXPECT_TRUE(single.tool_choice().at_most_one());
  EXPECT_EQ(tools(Chat(R"("tools": [])")).tools_json(), "");
  // In chat's form and in that of responses.
  for (
      const char* choice :
      {R"({"type": "allowed_tools", "allowed_tools": {"mode": "required",
            "tools": [{"type": "function", "function": {"name": "f"}}]}})",
       R"({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]})"}) {
    const auto some = tools(Chat(absl::StrCat(
        R"("tools": [{"function": {"name": "f"}}, {"function": {"name": "g"}}], "tool_choice": )",
        choice)));
    EXPECT_EQ(some.tool_choice().mode(), v1::TOOL_CHOICE_MODE_REQUIRED);
    EXPECT_THAT(some.tool_choice().allowed_tools(), ElementsAre("f"));
  }

  v1::GenerateRequest request;
  request.mutable_messages()->set_tools_json("[]");
  KeepToolsAsWritten(
      R"({"a": {"tools": [1]}, "b": "\"}", "tools" : [ {"z": 1, "function": {"b": 2}}] ,
                         "c": ["tools", {}]})",
      &request);
  EXPECT_EQ(request.messages().tools_json(), R"([ {"z": 1, "function": {"b": 2}}])");

  Refusal(Chat(R"("tools": [{"type": "function"}])"), "tools[0].function");
  Refusal(Chat(R"("tools": [{"type": "web_search"}])"), "tools[0].type");
  Refusal(Chat(R"("tools": {})"), "tools");
  Refusal(Chat(R"("tool_choice": "required")"), "tool_choice");
  Refusal(Chat(R"("tool_choice": "maybe")"), "tool_choice");
  const std::string one = R"("tools": [{"function": {"name": "f"}}], "tool_choice": )";
  Refusal(Chat(R"("tool_choice": {"type": "allowed_tools", "mode": "auto",
                                  "tools": [{"name": "f"}]})"),
          "tool_choice");
  Refusal(Chat(one + R"({"type": "allowed_tools", "mode": "any", "tools": [{"name": "f"}]})"),
          "tool_choice.mode");
  for (const char* list : {"[]", "[1]", R"([{"type": "mcp", "name": "f"}])", R"([{"name": 1}])",
                           R"([{"function": "f"}])", "{}", "null"}) {
    Refusal(Chat(absl::StrCat(one, R"({"type": "allowed_tools", "allowed_tools": {"mode": "auto",
                                       "tools": )",
                              list, "}}")),
            "tool_choice.allowed_tools.tools");
  }
}

TEST(OpenAiRequestTest, IgnoresWhatChangesNothing) {
  EXPECT_TRUE(Chat(R"("user": "u", "store": true, "metadata": {"a": "b"}, "service_tier": "auto",
                      "parallel_tool_calls": true, "verbosity": "low", "no_such_field": [1])")
                  .ok());
}

TEST(OpenAiRequestTest, NamesEveryFieldOfTheWrongType) {
  const auto parsed = Completion(R"("temperature": "hot", "n": 1.5, "stream": 1, "seed": 1e30)");
  ASSERT_FALSE(parsed.ok());
  for (const char* field : {"temperature", "n", "stream", "seed"}) {
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(absl::StrCat(field, ": ")));
  }
  Refusal(Completion(R"("logit_bias": {"x": 1})"), "logit_bias");
  Refusal(Completion(R"("stop": [1])"), "stop");
  Refusal(Completion(R"("stop_token_ids": [-1])"), "stop_token_ids");
  Refusal(Completion(R"("max_tokens": 4294967296)"), "max_tokens");
}

TEST(OpenAiRequestTest, AttentionIsThatOfTheApi) {
  const auto parsed = Completion(R"("attention": {"sparq": {"rank": 16, "compression": 4}})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->prompts[0].attention().sparq().rank(), 16);
  Refusal(Completion(R"("attention": {"sprq": {}})"), "attention");
}

TEST(ParseResponsesRequestTest, ReadsInputAndRefusesState) {
  const auto input = [](const std::string& fields) {
    return ParseResponsesRequest(Json(absl::StrCat("{", fields, "}")), "");
  };
  const auto text = input(R"("instructions": "be brief", "input": "hi", "max_output_tokens": 3)");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->prompts[0].messages().messages(0).role(), "system");
  EXPECT_EQ(text->prompts[0].messages().messages(1).content(), "hi");
  EXPECT_EQ(text->prompts[0].stopping().max_tokens(), 3);
  const auto list =
      input(R"("input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]}])");
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(list->prompts[0].messages().messages(0).content(), "a");
  Refusal(input(R"("input": "a", "previous_response_id": "resp_1")"), "previous_response_id");
  Refusal(input(R"("input": "a", "max_output_tokens": 0)"), "max_output_tokens");
  Refusal(input(R"("input": [{"type": "item_reference", "id": "msg_1"}])"), "input[0].type");
  const auto declined = input(R"("input": [{"role": "user", "content": "a"},
      {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}])");
  ASSERT_TRUE(declined.ok()) << declined.status();
  EXPECT_EQ(declined->prompts[0].messages().messages(1).content(), "no");
  Refusal(input(R"("input": "a", "metadata": [])"), "metadata");
  Refusal(input(R"("input": "a", "metadata": {"k": 1})"), "metadata");
  Refusal(input(R"("input": "a", "text": 7)"), "text");
  Refusal(input(R"("input": "a", "reasoning": "low")"), "reasoning");
  Refusal(input(R"("input": "a", "text": {"format": {"type": "json_schema"}})"),
          "text.format.schema");
  Refusal(input("\"a\": 1"), "input");
}

TEST(ParseResponsesRequestTest, KeepsWhatTheAnswerRepeats) {
  const auto echo = [](const std::string& fields) {
    const auto parsed =
        ParseResponsesRequest(Json(absl::StrCat("{\"input\": \"a\", ", fields, "}")), "");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    return parsed.ok() ? parsed->echo : nlohmann::ordered_json();
  };
  const auto asked = echo(R"("instructions": "be brief", "temperature": 0.25, "top_p": 0.5,
      "max_output_tokens": 9, "metadata": {"k": "v"}, "parallel_tool_calls": false,
      "reasoning": {"effort": "low"}, "user": "u", "text": {"format": {"type": "json_object"}},
      "tool_choice": {"type": "function", "function": {"name": "f"}},
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
      "store": true, "truncation": "auto")");
  EXPECT_EQ(asked["instructions"], "be brief");
  EXPECT_EQ(asked["temperature"], 0.25);
  EXPECT_EQ(asked["top_p"], 0.5);
  EXPECT_EQ(asked["max_output_tokens"], 9);
  EXPECT_EQ(asked["metadata"]["k"], "v");
  EXPECT_EQ(asked["parallel_tool_calls"], false);
  EXPECT_EQ(asked["reasoning"].dump(), R"({"effort":"low","summary":null})");
  EXPECT_EQ(asked["text"]["format"]["type"], "json_object");
  EXPECT_EQ(asked["tool_choice"].dump(), R"({"type":"function","name":"f"})");
  EXPECT_EQ(asked["tools"][0]["name"], "f");
  EXPECT_EQ(asked["tools"][0]["parameters"]["type"], "object");
  // What was done, not what was asked.
  EXPECT_EQ(asked["store"], false);
  EXPECT_EQ(asked["truncation"], "disabled");

  const auto bare = echo(R"("metadata": null, "tools": null)");
  EXPECT_EQ(bare["metadata"].dump(), "{}");
  EXPECT_EQ(bare["tools"].dump(), "[]");
  EXPECT_EQ(bare["tool_choice"], "auto");
  EXPECT_EQ(bare["parallel_tool_calls"], true);
  EXPECT_EQ(bare["text"]["format"]["type"], "text");
  EXPECT_TRUE(bare["temperature"].is_null());
}

TEST(ParseJsonObjectTest, IsBoundedAndSaysWhatIsWrong) {
  const auto message = [](const std::string& text) {
    return std::string(ParseJsonObject(text).status().message());
  };
  EXPECT_THAT(message("{\"a\": 1"), HasSubstr("breaks at byte"));
  EXPECT_THAT(message("[1]"), HasSubstr("array"));
  EXPECT_THAT(message(""), HasSubstr("0 bytes"));
  EXPECT_THAT(message("{\"a\": \"\xFF\"}"), HasSubstr("UTF-8"));
  EXPECT_THAT(message("{\"a\": 1e999}"), HasSubstr("range"));
  const auto nested = [](int depth) {
    return absl::StrCat("{\"a\": ", std::string(static_cast<size_t>(depth), '['),
                        std::string(static_cast<size_t>(depth), ']'), "}");
  };
  EXPECT_TRUE(ParseJsonObject(nested(kMaxJsonDepth - 1)).ok());
  EXPECT_THAT(message(nested(kMaxJsonDepth)), HasSubstr("deeper"));
  EXPECT_THAT(message(nested(1'000'000)), HasSubstr("deeper"));
  // Brackets inside of strings nest nothing.
  EXPECT_TRUE(ParseJsonObject(absl::StrCat("{\"a\": \"\\\"", std::string(1000, '['), "\"}")).ok());
}

}  // namespace
}  // namespace kvasir
