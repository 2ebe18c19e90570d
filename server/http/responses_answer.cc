#include "server/http/responses_answer.h"

#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "server/http/openai_errors.h"

namespace kvasir {
namespace {

class ResponsesAnswer final : public OpenAiAnswer {
 public:
  ResponsesAnswer(AnswerIdentity identity, const Tokenizer* tokenizer)
      : OpenAiAnswer(std::move(identity), tokenizer) {}

  std::string OnEvent(int prompt, StreamEvent event) override {
    auto* delta = std::get_if<DeltaEvent>(&event);
    if (delta == nullptr) return "";
    text_ += delta->text;
    if (!streams()) return "";
    std::string out = Opening();
    if (delta->text.empty()) return out;
    Json fields = Part();
    fields["delta"] = std::move(delta->text);
    fields["logprobs"] = Json::array();
    return out + Typed("response.output_text.delta", std::move(fields));
  }

  std::string OnFinished(int prompt, FinishedEvent event) override {
    AddUsage(event.usage);
    result_ = event.completions.empty() ? CompletionResult() : event.completions.front();
    return streams() ? Opening() : "";
  }

  std::string Complete() override {
    if (!streams()) return Dump(Response(Status()));
    Json text = Part();
    text["text"] = text_;
    text["logprobs"] = Json::array();
    Json part = Part();
    part["part"] = TextPart(text_);
    Json item;
    item["output_index"] = 0;
    item["item"] = Item(Status());
    return absl::StrCat(
        Typed("response.output_text.done", std::move(text)),
        Typed("response.content_part.done", std::move(part)),
        Typed("response.output_item.done", std::move(item)),
        WithResponse(IsCut() ? "response.incomplete" : "response.completed", Status()));
  }

  std::string Failed(const absl::Status& status, absl::string_view request_id) const override {
    Json error = Json::parse(ErrorJson(status, request_id))["error"];
    Json event;
    event["type"] = "error";
    event["code"] = error["code"];
    event["message"] = error["message"];
    event["param"] = error["param"];
    event["sequence_number"] = sequence_;
    return absl::StrCat("event: error\n", Event(event));
  }

 private:
  bool IsCut() const { return std::string(FinishReasonOf(result_)) == "length"; }
  const char* Status() const { return IsCut() ? "incomplete" : "completed"; }
  std::string ItemId() const { return absl::StrCat("msg_", identity_.id); }

  std::string Typed(const char* type, Json fields) {
    Json event;
    event["type"] = type;
    for (auto& [name, value] : fields.items()) event[name] = std::move(value);
    event["sequence_number"] = sequence_++;
    return absl::StrCat("event: ", type, "\n", Event(event));
  }

  std::string WithResponse(const char* type, const char* status) {
    Json fields;
    fields["response"] = Response(status);
    return Typed(type, std::move(fields));
  }

  Json Part() const {
    Json fields;
    fields["item_id"] = ItemId();
    fields["output_index"] = 0;
    fields["content_index"] = 0;
    return fields;
  }

  static Json TextPart(const std::string& text) {
    Json part;
    part["type"] = "output_text";
    part["text"] = text;
    part["annotations"] = Json::array();
    part["logprobs"] = Json::array();
    return part;
  }

  Json Item(const std::string& status) const {
    Json item;
    item["id"] = ItemId();
    item["type"] = "message";
    item["status"] = status;
    item["role"] = "assistant";
    item["content"] = status == "in_progress" ? Json::array() : Json::array({TextPart(text_)});
    return item;
  }

  Json Response(const std::string& status) const {
    const bool ended = status != "in_progress";
    Json response;
    response["id"] = identity_.id;
    response["object"] = "response";
    response["created_at"] = identity_.created;
    response["status"] = status;
    response["error"] = nullptr;
    response["incomplete_details"] =
        status == "incomplete" ? Json({{"reason", "max_output_tokens"}}) : Json();
    response["model"] = identity_.model;
    response["output"] = ended ? Json::array({Item(status)}) : Json::array();
    response["parallel_tool_calls"] = false;
    response["previous_response_id"] = nullptr;
    response["store"] = false;
    response["tool_choice"] = "none";
    response["tools"] = Json::array();
    response["usage"] = ended ? ResponsesUsage() : Json();
    return response;
  }

  Json ResponsesUsage() const {
    const Json usage = UsageJson();
    Json out;
    out["input_tokens"] = usage["prompt_tokens"];
    out["input_tokens_details"] = usage["prompt_tokens_details"];
    out["output_tokens"] = usage["completion_tokens"];
    out["output_tokens_details"] = usage["completion_tokens_details"];
    out["total_tokens"] = usage["total_tokens"];
    out["kvasir"] = usage["kvasir"];
    return out;
  }

  std::string Opening() {
    if (std::exchange(opened_, true)) return "";
    Json item;
    item["output_index"] = 0;
    item["item"] = Item("in_progress");
    Json part = Part();
    part["part"] = TextPart("");
    std::string out = WithResponse("response.created", "in_progress");
    absl::StrAppend(&out, WithResponse("response.in_progress", "in_progress"));
    absl::StrAppend(&out, Typed("response.output_item.added", std::move(item)));
    absl::StrAppend(&out, Typed("response.content_part.added", std::move(part)));
    return out;
  }

  std::string text_;
  CompletionResult result_;
  bool opened_ = false;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<OpenAiAnswer> MakeResponsesAnswer(AnswerIdentity identity,
                                                  const Tokenizer* tokenizer) {
  return std::make_unique<ResponsesAnswer>(std::move(identity), tokenizer);
}

}  // namespace kvasir
