#include "server/http/responses_answer.h"

#include <iterator>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "server/http/openai_errors.h"

namespace kvasir {
namespace {

class ResponsesAnswer final : public OpenAiAnswer {
 public:
  ResponsesAnswer(AnswerIdentity identity, const Tokenizer* tokenizer)
      : OpenAiAnswer(std::move(identity), tokenizer) {}

  std::string OnEvent(int prompt, OutputEvent event) override {
    auto* delta = std::get_if<OutputDelta>(&event);
    if (delta == nullptr) return "";
    std::string out = Opening();
    Keep(std::move(delta->logprobs), /*of_text=*/delta->reasoning.empty());
    if (!delta->reasoning.empty()) absl::StrAppend(&out, Add(Kind::kReasoning, delta->reasoning));
    if (!delta->text.empty()) absl::StrAppend(&out, Add(Kind::kMessage, delta->text));
    for (ToolCallDelta& call : delta->tool_calls) absl::StrAppend(&out, AddCall(std::move(call)));
    return streams() ? out : "";
  }

  std::string OnFinished(int prompt, OutputFinished event) override {
    AddUsage(event);
    result_ = event.completions.empty() ? CompletionResult() : event.completions.front();
    return streams() ? Opening() : "";
  }

  std::string Complete() override {
    completed_at_ = absl::ToUnixSeconds(absl::Now());
    // An answer without any text is an empty message.
    std::string out = items_.empty() ? Open(Kind::kMessage) : "";
    absl::StrAppend(&out, Close());
    if (!streams()) return Dump(Response(Status()));
    return absl::StrCat(
        out, WithResponse(IsCut() ? "response.incomplete" : "response.completed", Status()));
  }

  std::string Failed(const absl::Status& status, absl::string_view request_id) override {
    Json error = Json::parse(ErrorJson(status, request_id))["error"];
    Json fields;
    fields["code"] = error["code"];
    fields["message"] = error["message"];
    fields["param"] = error["param"];
    const std::string out = Typed("error", std::move(fields));
    // The codes that a response may have are fewer.
    error_["code"] = absl::IsResourceExhausted(status) ? "rate_limit_exceeded" : "server_error";
    error_["message"] = error["message"];
    return absl::StrCat(out, WithResponse("response.failed", "failed"));
  }

 private:
  // Of `output`: pieces of one kind are one item, each call is one.
  enum class Kind { kMessage, kReasoning, kCall };
  struct Item {
    Kind kind;
    std::string id;
    std::string text = "";          // not of kCall
    ToolCallDelta call = {};        // kCall
    Json logprobs = Json::array();  // kMessage, if asked for
  };

  bool IsCut() const { return std::string(FinishReasonOf(result_)) == "length"; }
  const char* Status() const { return IsCut() ? "incomplete" : "completed"; }

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

  // What names the newest item in an event.
  Json Here(bool content) const {
    Json fields;
    fields["item_id"] = items_.back().id;
    fields["output_index"] = items_.size() - 1;
    if (content) fields["content_index"] = 0;
    return fields;
  }

  std::string ItemEvent(const char* type, const char* status) {
    Json fields;
    fields["output_index"] = items_.size() - 1;
    fields["item"] = ItemJson(items_.back(), status);
    return Typed(type, std::move(fields));
  }

  static Json TextPart(const Item& item) {
    Json part;
    part["type"] = item.kind == Kind::kMessage ? "output_text" : "reasoning_text";
    part["text"] = item.text;
    if (item.kind == Kind::kMessage) {
      part["annotations"] = Json::array();
      part["logprobs"] = item.logprobs;
    }
    return part;
  }

  // Tokens whose text is held back yet are told with the text that they become part of. Those of
  // reasoning are not told.
  void Keep(std::vector<TokenLogprob> logprobs, bool of_text) {
    if (!identity_.options.logprobs) return;
    if (!of_text) return logprobs_.clear();
    logprobs_.insert(logprobs_.end(), std::make_move_iterator(logprobs.begin()),
                     std::make_move_iterator(logprobs.end()));
  }
  Json TakeLogprobs() { return ChatLogprobs(std::exchange(logprobs_, {})); }

  static Json ItemJson(const Item& item, const std::string& status) {
    Json json;
    json["id"] = item.id;
    if (item.kind == Kind::kCall) {
      json["type"] = "function_call";
      json["status"] = status;
      json["call_id"] = item.call.id;
      json["name"] = item.call.name;
      json["arguments"] = status == "in_progress" ? "" : item.call.arguments;
      return json;
    }
    json["type"] = item.kind == Kind::kMessage ? "message" : "reasoning";
    json["status"] = status;
    if (item.kind == Kind::kMessage) json["role"] = "assistant";
    if (item.kind == Kind::kReasoning) json["summary"] = Json::array();
    json["content"] = status == "in_progress" ? Json::array() : Json::array({TextPart(item)});
    return json;
  }

  // The newest item begins; it is of no call.
  std::string Open(Kind kind) {
    std::string out = Close();
    const char* const prefix = kind == Kind::kMessage ? "msg_" : "rs_";
    // The first message has the name of the response.
    const bool first = !std::exchange(has_[kind == Kind::kMessage ? 0 : 1], true);
    items_.push_back(
        {kind, absl::StrCat(prefix, identity_.id, first ? "" : absl::StrCat("_", items_.size()))});
    open_ = true;
    Json part = Here(/*content=*/true);
    part["part"] = TextPart(items_.back());
    // Each on its own: events are numbered as they are made.
    absl::StrAppend(&out, ItemEvent("response.output_item.added", "in_progress"));
    absl::StrAppend(&out, Typed("response.content_part.added", std::move(part)));
    return out;
  }

  std::string Add(Kind kind, const std::string& text) {
    std::string out;
    if (!open_ || items_.back().kind != kind) out = Open(kind);
    items_.back().text += text;
    Json fields = Here(/*content=*/true);
    fields["delta"] = text;
    if (kind == Kind::kMessage) {
      Json& told = fields["logprobs"] = TakeLogprobs();
      Json& all = items_.back().logprobs;
      all.insert(all.end(), told.begin(), told.end());
    }
    const char* const type =
        kind == Kind::kMessage ? "response.output_text.delta" : "response.reasoning_text.delta";
    return absl::StrCat(out, Typed(type, std::move(fields)));
  }

  std::string AddCall(ToolCallDelta call) {
    std::string out = Close();
    items_.push_back(
        {Kind::kCall, absl::StrCat("fc_", identity_.id, "_", items_.size()), "", std::move(call)});
    logprobs_.clear();
    absl::StrAppend(&out, ItemEvent("response.output_item.added", "in_progress"));
    const ToolCallDelta& added = items_.back().call;
    Json delta = Here(/*content=*/false);
    delta["delta"] = added.arguments;
    Json done = Here(/*content=*/false);
    done["name"] = added.name;
    done["arguments"] = added.arguments;
    absl::StrAppend(&out, Typed("response.function_call_arguments.delta", std::move(delta)));
    absl::StrAppend(&out, Typed("response.function_call_arguments.done", std::move(done)));
    absl::StrAppend(&out, ItemEvent("response.output_item.done", "completed"));
    return out;
  }

  // The open item, if there is one, ends.
  std::string Close() {
    if (!std::exchange(open_, false)) return "";
    Item& item = items_.back();
    if (item.kind == Kind::kMessage) {
      // Of tokens without text: a stop string's.
      const Json rest = TakeLogprobs();
      item.logprobs.insert(item.logprobs.end(), rest.begin(), rest.end());
    }
    Json text = Here(/*content=*/true);
    text["text"] = item.text;
    if (item.kind == Kind::kMessage) text["logprobs"] = item.logprobs;
    Json part = Here(/*content=*/true);
    part["part"] = TextPart(item);
    const char* const type =
        item.kind == Kind::kMessage ? "response.output_text.done" : "response.reasoning_text.done";
    std::string out = Typed(type, std::move(text));
    absl::StrAppend(&out, Typed("response.content_part.done", std::move(part)));
    absl::StrAppend(&out, ItemEvent("response.output_item.done", Status()));
    return out;
  }

  Json Response(const std::string& status) const {
    const bool ended = status != "in_progress";
    Json response;
    response["id"] = identity_.id;
    response["object"] = "response";
    response["created_at"] = identity_.created;
    response["status"] = status;
    response["completed_at"] = status == "completed" ? Json(completed_at_) : Json();
    response["error"] = error_;
    response["incomplete_details"] =
        status == "incomplete" ? Json({{"reason", "max_output_tokens"}}) : Json();
    response["model"] = identity_.model;
    Json& output = response["output"] = Json::array();
    if (ended) {
      for (const Item& item : items_) {
        const bool cut =
            status != "completed" && &item == &items_.back() && item.kind != Kind::kCall;
        output.push_back(ItemJson(item, cut ? "incomplete" : "completed"));
      }
    }
    response.update(identity_.request);
    response["usage"] = ended && error_.is_null() ? ResponsesUsage() : Json();
    return response;
  }

  Json ResponsesUsage() const {
    const Json usage = UsageJson();
    Json out;
    out["input_tokens"] = usage["prompt_tokens"];
    out["input_tokens_details"] = usage["prompt_tokens_details"];
    out["input_tokens_details"]["cache_write_tokens"] = 0;  // nothing costs more for being kept
    out["output_tokens"] = usage["completion_tokens"];
    out["output_tokens_details"] = usage["completion_tokens_details"];
    out["total_tokens"] = usage["total_tokens"];
    out["kvasir"] = usage["kvasir"];
    return out;
  }

  std::string Opening() {
    if (std::exchange(opened_, true)) return "";
    std::string out = WithResponse("response.created", "in_progress");
    absl::StrAppend(&out, WithResponse("response.in_progress", "in_progress"));
    return out;
  }

  std::vector<Item> items_;
  bool open_ = false;                   // the newest one
  bool has_[2] = {false, false};        // messages, reasoning
  std::vector<TokenLogprob> logprobs_;  // of tokens that no text was told of
  CompletionResult result_;
  Json error_;  // null unless it failed
  int64_t completed_at_ = 0;
  bool opened_ = false;
  int64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<OpenAiAnswer> MakeResponsesAnswer(AnswerIdentity identity,
                                                  const Tokenizer* tokenizer) {
  return std::make_unique<ResponsesAnswer>(std::move(identity), tokenizer);
}

}  // namespace kvasir
