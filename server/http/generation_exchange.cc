#include "server/http/generation_exchange.h"

#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "server/frontend/request_id.h"
#include "server/http/json_fields.h"
#include "server/http/json_member.h"
#include "server/http/openai_errors.h"
#include "server/http/openai_request.h"

namespace kvasir {
namespace {

constexpr char kSessionHeader[] = "x-session-id";

// A generation that has begun, before anybody listens to it.
struct Begun {
  std::shared_ptr<GenerationCall> call;
  std::shared_ptr<TokenStream> stream;
};

class GenerationExchange final : public std::enable_shared_from_this<GenerationExchange> {
 public:
  // `tokenizer`: the one that the answer uses.
  GenerationExchange(std::shared_ptr<HttpExchange> exchange, std::unique_ptr<OpenAiAnswer> answer,
                     std::shared_ptr<const Tokenizer> tokenizer, std::string request_id,
                     HttpHeaders headers)
      : exchange_(std::move(exchange)),
        tokenizer_(std::move(tokenizer)),
        request_id_(std::move(request_id)),
        headers_(std::move(headers)),
        answer_(std::move(answer)),
        streams_(answer_->streams()) {}

  void Start(std::vector<Begun> begun, WorkerThread* stream_writer) {
    std::vector<std::shared_ptr<GenerationPump>> pumps;
    for (Begun& each : begun) {
      pumps.push_back(std::make_shared<GenerationPump>(std::move(each.stream), stream_writer,
                                                       each.call->arrival, each.call->deadline,
                                                       std::move(each.call->reader)));
      calls_.push_back(std::move(each.call));
    }
    {
      absl::MutexLock lock(&mutex_);
      pumps_ = pumps;
      running_ = static_cast<int>(pumps.size());
    }
    exchange_->OnClientGone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->CancelAll();
    });
    if (streams_) {
      exchange_->EveryWhile(kKeepAliveSeconds, [weak = weak_from_this()] {
        if (const auto self = weak.lock()) self->KeepAlive();
      });
    }
    for (size_t i = 0; i < pumps.size(); ++i) {
      pumps[i]->Start(std::make_shared<Part>(shared_from_this(), static_cast<int>(i)));
    }
  }

 private:
  // The sink of one prompt's generation.
  class Part final : public EventSink {
   public:
    Part(std::shared_ptr<GenerationExchange> owner, int prompt)
        : owner_(std::move(owner)), prompt_(prompt) {}
    bool Write(OutputEvent event) override { return owner_->Write(prompt_, std::move(event)); }
    void End(const absl::Status& status, OutputFinished finished) override {
      owner_->End(prompt_, status, std::move(finished));
    }

   private:
    const std::shared_ptr<GenerationExchange> owner_;
    const int prompt_;
  };

  bool Write(int prompt, OutputEvent event) {
    absl::MutexLock lock(&mutex_);
    if (failed_) return false;
    std::string bytes = answer_->OnEvent(prompt, std::move(event));
    if (bytes.empty()) return false;
    SendPiece(std::move(bytes),
              [pump = pumps_[static_cast<size_t>(prompt)]](bool ok) { pump->OnWriteDone(ok); });
    return true;
  }

  void End(int prompt, const absl::Status& status, OutputFinished finished) {
    Frontend::Finish(status, calls_[static_cast<size_t>(prompt)].get());
    absl::MutexLock lock(&mutex_);
    --running_;
    if (!failed_ && !status.ok()) {
      Fail(status);
    } else if (!failed_) {
      std::string bytes = answer_->OnFinished(prompt, std::move(finished));
      if (running_ == 0) {
        Complete(std::move(bytes));
      } else if (!bytes.empty()) {
        SendPiece(std::move(bytes), [](bool) {});
      }
    }
    // A pump holds its sink until its end, and the sink this.
    if (running_ == 0) pumps_.clear();
  }

  void SendPiece(std::string bytes, std::function<void(bool)> done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    quiet_ = false;
    if (!std::exchange(headers_sent_, true)) {
      HttpResponse response;
      response.content_type = "text/event-stream; charset=utf-8";
      response.headers = headers_;
      response.headers.emplace_back("Cache-Control", "no-cache");
      response.headers.emplace_back("X-Accel-Buffering", "no");
      exchange_->StartStream(std::move(response));
    }
    exchange_->Write(std::move(bytes), std::move(done));
  }

  // The calls are over when the client has everything.
  std::function<void(bool)> UntilDelivered() {
    return [self = shared_from_this()](bool) {};
  }

  void Complete(std::string bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bytes += answer_->Complete();
    if (streams_) {
      SendPiece(std::move(bytes), UntilDelivered());
      return exchange_->EndStream();
    }
    HttpResponse response;
    response.body = std::move(bytes);
    response.headers = headers_;
    const RequestUsage& usage = answer_->usage();
    const auto add = [&](const char* name, int64_t value) {
      response.headers.emplace_back(name, absl::StrCat(value));
    };
    add("kvasir-cached-tokens", usage.cached_tokens);
    add("kvasir-kv-bytes-peak", usage.kv_bytes_peak);
    add("kvasir-queue-ms", absl::ToInt64Milliseconds(usage.queue_time));
    add("kvasir-total-ms", absl::ToInt64Milliseconds(usage.total_time));
    exchange_->Send(std::move(response), UntilDelivered());
  }

  void Fail(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    failed_ = true;
    if (headers_sent_) {
      SendPiece(answer_->Failed(status, request_id_), UntilDelivered());
      exchange_->EndStream();
    } else {
      HttpResponse response = ErrorResponse(status, request_id_);
      response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
      exchange_->Send(std::move(response), UntilDelivered());
    }
    for (const auto& pump : pumps_) pump->Cancel();
  }

  void CancelAll() {
    absl::MutexLock lock(&mutex_);
    for (const auto& pump : pumps_) pump->Cancel();
  }

  void KeepAlive() {
    absl::MutexLock lock(&mutex_);
    if (failed_ || running_ == 0 || comment_in_flight_) return;
    if (!std::exchange(quiet_, true)) return;  // something was sent since the last tick
    comment_in_flight_ = true;
    SendPiece(":\n\n", [self = shared_from_this()](bool) {
      absl::MutexLock lock(&self->mutex_);
      self->comment_in_flight_ = false;
    });
    quiet_ = true;
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const std::shared_ptr<const Tokenizer> tokenizer_;  // answer_ borrows it
  const std::string request_id_;
  const HttpHeaders headers_;
  std::vector<std::shared_ptr<GenerationCall>> calls_;  // constant after Start

  // Taken after a pump's own mutex.
  absl::Mutex mutex_;
  const std::unique_ptr<OpenAiAnswer> answer_ ABSL_PT_GUARDED_BY(mutex_);
  const bool streams_;
  std::vector<std::shared_ptr<GenerationPump>> pumps_ ABSL_GUARDED_BY(mutex_);
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool headers_sent_ ABSL_GUARDED_BY(mutex_) = false;
  bool failed_ ABSL_GUARDED_BY(mutex_) = false;
  bool quiet_ ABSL_GUARDED_BY(mutex_) = true;  // nothing sent since the last tick
  bool comment_in_flight_ ABSL_GUARDED_BY(mutex_) = false;
};

const char* IdPrefix(AnswerForm form) {
  switch (form) {
    case AnswerForm::kChat:
      return "chatcmpl-";
    case AnswerForm::kCompletion:
      return "cmpl-";
    case AnswerForm::kResponses:
      return "resp_";
  }
  return "";
}

absl::StatusOr<OpenAiRequest> Parse(const HttpRequest& request, AnswerForm form) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json body, ParseJsonObject(request.body));
  const absl::string_view session = request.Header(kSessionHeader);
  switch (form) {
    case AnswerForm::kChat:
      return ParseChatRequest(body, session, request.body);
    case AnswerForm::kCompletion:
      return ParseCompletionRequest(body, session, request.body);
    case AnswerForm::kResponses:
      return ParseResponsesRequest(body, session, request.body);
  }
  return absl::InternalError("no such form");
}

// What echo shows of a prompt.
absl::Status AddEcho(const v1::GenerateRequest& prompt, const Tokenizer& tokenizer, bool logprobs,
                     AnswerIdentity* identity) {
  std::vector<TokenId> ids(prompt.token_ids().ids().begin(), prompt.token_ids().ids().end());
  std::string text = prompt.text();
  if (prompt.has_token_ids()) {
    KVASIR_ASSIGN_OR_RETURN(text, tokenizer.Decode(ids, /*skip_special_tokens=*/false));
  } else if (logprobs) {
    Tokenizer::EncodeOptions options;
    if (prompt.has_add_special_tokens()) options.add_special_tokens = prompt.add_special_tokens();
    KVASIR_ASSIGN_OR_RETURN(ids, tokenizer.Encode(text, options));
  }
  identity->prompt_texts.push_back(std::move(text));
  identity->prompt_tokens.push_back(std::move(ids));
  return absl::OkStatus();
}

// The request as a response repeats it, with what holds where it says nothing.
nlohmann::ordered_json WithDefaults(const OpenAiRequest& wanted, const ServedModel& served) {
  nlohmann::ordered_json request = wanted.echo;
  const ModelSpec& spec = served.model->spec();
  const SamplingParams otherwise;
  const auto fill = [&](const char* name, float value) {
    // 0.6f is 0.6 to its reader.
    if (request[name].is_null()) request[name] = std::round(double{value} * 1e6) / 1e6;
  };
  fill("temperature", spec.default_temperature.value_or(otherwise.temperature));
  fill("top_p", spec.default_top_p.value_or(otherwise.top_p));
  return request;
}

// A request from its arrival to its streams.
struct Beginning {
  std::vector<Begun> begun;  // at least one
  AnswerIdentity identity;
  std::shared_ptr<const Tokenizer> tokenizer;
};

// Under which id the request runs: that of the body, before the body is parsed, or of the header.
std::string WantedRequestId(const HttpRequest& request) {
  constexpr size_t kMaxBytes = 1024;
  // Most bodies have none, and a search is all that they cost here.
  if (absl::StrContains(request.body, "\"request_id\"")) {
    const absl::string_view value = JsonMember(request.body, {"request_id"});
    const nlohmann::json id =
        nlohmann::json::parse(value.substr(0, kMaxBytes), nullptr, /*allow_exceptions=*/false);
    if (id.is_string()) return id.get<std::string>();
  }
  return std::string(request.Header(kRequestIdKey));
}

// From the body to streams of events, on a text worker.
absl::StatusOr<std::shared_ptr<TokenStream>> Begin(const Frontend& frontend,
                                                   const HttpRequest& request, const Caller& caller,
                                                   const TextJob& job, Beginning* beginning) {
  std::vector<Begun>* const begun = &beginning->begun;
  AnswerIdentity* const identity = &beginning->identity;
  KVASIR_ASSIGN_OR_RETURN(OpenAiRequest wanted, Parse(request, identity->form));
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, frontend.environment().models->Find(
                                                           wanted.prompts.front().model(), caller));
  beginning->tokenizer = served->tokenizer;
  identity->model = served->name;
  identity->n = wanted.n;
  identity->options = wanted.answer;
  identity->num_prompts = static_cast<int>(wanted.prompts.size());
  if (identity->form == AnswerForm::kResponses) identity->request = WithDefaults(wanted, *served);

  const absl::string_view wanted_id = request.Header(kRequestIdKey);
  for (size_t i = 0; i < wanted.prompts.size(); ++i) {
    if (wanted.answer.echo) {
      const absl::Status echoed =
          AddEcho(wanted.prompts[i], *beginning->tokenizer, wanted.answer.logprobs, identity);
      if (absl::IsInvalidArgument(echoed)) return BadFieldError("prompt", echoed.message());
      KVASIR_RETURN_IF_ERROR(echoed);
    }
    const std::string own_id =
        i == 0 || wanted_id.empty() ? std::string(wanted_id) : absl::StrCat(wanted_id, "-", i);
    if (i > 0) {
      begun->push_back({frontend.Begin(own_id, absl::InfiniteFuture()), nullptr});
      begun->back().call->tenant = caller.tenant();
    }
    KVASIR_ASSIGN_OR_RETURN(
        (*begun)[i].stream,
        frontend.Start(std::move(wanted.prompts[i]), caller, own_id, job, (*begun)[i].call.get()));
  }
  return begun->front().stream;
}

}  // namespace

void AnswerGeneration(const Frontend& frontend, std::shared_ptr<HttpExchange> exchange,
                      AnswerForm form, HttpHeaders headers) {
  const auto beginning = std::make_shared<Beginning>();
  const HttpRequest& request = exchange->request();
  const std::shared_ptr<GenerationCall> first =
      frontend.Begin(WantedRequestId(request), absl::InfiniteFuture());
  beginning->begun.push_back({first, nullptr});
  beginning->identity.form = form;
  exchange->OnClientGone([first] { first->Cancel(); });
  const auto start = [&frontend, exchange, beginning](const Caller& caller, const TextJob& job) {
    return Begin(frontend, exchange->request(), caller, job, beginning.get());
  };
  const auto answer = [&frontend, exchange, beginning, headers = std::move(headers)](
                          const absl::StatusOr<std::shared_ptr<TokenStream>>& stream) mutable {
    std::vector<Begun>& begun = beginning->begun;
    const std::string request_id = begun.front().call->request_id;
    headers.emplace_back(kRequestIdKey, request_id);
    if (!stream.ok()) {
      // What has begun when a later prompt is refused.
      for (Begun& each : begun) {
        each.call->SetOutcome(stream.status());
        if (each.stream != nullptr) each.stream->Cancel();
      }
      HttpResponse response = ErrorResponse(stream.status(), request_id);
      response.headers.insert(response.headers.end(), headers.begin(), headers.end());
      exchange->Send(std::move(response));
      return;
    }
    AnswerIdentity& identity = beginning->identity;
    identity.id = absl::StrCat(IdPrefix(identity.form), request_id);
    identity.created = absl::ToUnixSeconds(absl::Now());
    std::make_shared<GenerationExchange>(
        exchange, MakeAnswer(std::move(identity), beginning->tokenizer.get()), beginning->tokenizer,
        request_id, std::move(headers))
        ->Start(std::move(begun), frontend.environment().stream_writer);
  };
  frontend.Judge(request, request.body.size(), first.get(), start, answer);
}

}  // namespace kvasir
