// Any bytes as a GenerateRequest: refused with a status that says why, or made a request that keeps
// every limit.
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "base/check.h"
#include "grpcpp/support/slice.h"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/validation/request_validation.h"
#include "server/grpc/status_mapping.h"
#include "server/grpc/wire_message.h"
#include "tests/server/small_model.h"

namespace kvasir {
namespace {

void CheckRefusal(const absl::Status& status) {
  KVASIR_CHECK(status.code() == absl::StatusCode::kInvalidArgument ||
               status.code() == absl::StatusCode::kUnimplemented);
  const grpc::Status sent = ToGrpcStatus(status, "fuzz");
  KVASIR_CHECK(!sent.error_message().empty());
  KVASIR_CHECK(sent.error_message().size() <= kMaxErrorMessageBytes);
  KVASIR_CHECK(sent.error_details().size() <= 4 * kMaxErrorMessageBytes);
  KVASIR_CHECK(!FindInvalidUtf8(sent.error_message()).has_value());
}

void CheckAccepted(const GenerationRequest& request, const ModelLimits& limits) {
  const auto known = [&limits](TokenId id) { return id >= 0 && id < limits.spec->vocab_size; };
  KVASIR_CHECK(!request.id.empty() && request.id.size() <= 128);
  KVASIR_CHECK(!request.prompt.empty());
  KVASIR_CHECK(request.prompt.size() <= static_cast<size_t>(limits.max_context_tokens));
  for (const TokenId id : request.prompt) KVASIR_CHECK(known(id));
  KVASIR_CHECK(request.automatic_prefix_tokens >= 0 &&
               request.automatic_prefix_tokens <= static_cast<int32_t>(request.prompt.size()));

  const SamplingParams& sampling = request.sampling;
  KVASIR_CHECK(sampling.temperature >= 0 && sampling.temperature <= 100);
  KVASIR_CHECK(sampling.top_p > 0 && sampling.top_p <= 1);
  KVASIR_CHECK(sampling.top_k >= 0);
  KVASIR_CHECK(sampling.min_p >= 0 && sampling.min_p <= 1);
  KVASIR_CHECK(sampling.repetition_penalty > 0 && sampling.repetition_penalty <= 10);
  KVASIR_CHECK(std::abs(sampling.presence_penalty) <= 2);
  KVASIR_CHECK(std::abs(sampling.frequency_penalty) <= 2);
  for (const auto& [id, bias] : sampling.logit_bias) {
    KVASIR_CHECK(known(id) && std::abs(bias) <= 100);
  }
  const StoppingParams& stopping = request.stopping;
  KVASIR_CHECK(stopping.max_tokens >= 1);
  KVASIR_CHECK(stopping.min_tokens >= 0 && stopping.min_tokens <= stopping.max_tokens);
  KVASIR_CHECK(stopping.stop.size() <= 16 && stopping.stop_token_ids.size() <= 64);
  for (const std::string& stop : stopping.stop) {
    KVASIR_CHECK(!stop.empty() && stop.size() <= 256 && !FindInvalidUtf8(stop).has_value());
  }
  for (const TokenId id : stopping.stop_token_ids) KVASIR_CHECK(known(id));

  KVASIR_CHECK(request.n >= 1 && request.n <= limits.max_running);
  KVASIR_CHECK(request.session_id.empty() || request.n == 1);
  KVASIR_CHECK(request.session_id.size() <= 128);
  KVASIR_CHECK(std::abs(request.priority) <= 100);
  KVASIR_CHECK(request.logprobs.value_or(0) >= 0 && request.logprobs.value_or(0) <= 20);
  KVASIR_CHECK(request.prompt_logprobs.value_or(0) >= 0 &&
               request.prompt_logprobs.value_or(0) <= 20);
}

void Validate(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Tokenizer> tokenizer = testing::LetterTokenizer();
  static const ModelSpec spec = testing::SmallSpec();
  static const ModelLimits limits = testing::SmallLimits(spec);

  const grpc::Slice slice(data, size);
  v1::GenerateRequest message;
  if (const absl::Status parsed = ParseWire(grpc::ByteBuffer(&slice, 1), &message); !parsed.ok()) {
    CheckRefusal(parsed);
    return;
  }
  auto checked = CheckGenerateRequest(std::move(message), limits, "");
  if (!checked.ok()) {
    CheckRefusal(checked.status());
    return;
  }
  const auto request = EncodePrompt(*std::move(checked), *tokenizer, limits);
  if (!request.ok()) {
    CheckRefusal(request.status());
    return;
  }
  CheckAccepted(*request, limits);
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvasir::Validate(data, size);
  return 0;
}
