#include "server/grpc/neighbours/kserve_messages.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/json_nesting.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_errors.h"

namespace kvasir {
namespace {

namespace pb = ::inference;
using Json = nlohmann::json;

constexpr int kMaxJsonDepth = 16;

// One element of BYTES on the raw wire: its length in four bytes, little-endian, and itself.
std::string RawBytes(const std::string& text) {
  std::string raw(4, '\0');
  for (size_t i = 0; i < 4; ++i) raw[i] = static_cast<char>(text.size() >> (8 * i));
  return raw + text;
}

absl::StatusOr<std::string> BytesElement(const pb::ModelInferRequest::InferInputTensor& input,
                                         const std::string* raw) {
  const std::string& name = input.name();
  if (input.datatype() != "BYTES") {
    return BadFieldError(name,
                         absl::StrCat("is of type ", Quoted(input.datatype()), ", not BYTES"));
  }
  if (raw == nullptr) {
    if (input.contents().bytes_contents_size() == 1) return input.contents().bytes_contents(0);
    return BadFieldError(name, "must have exactly one element");
  }
  uint32_t size = 0;
  for (size_t i = 0; i < 4 && raw->size() >= 4; ++i) {
    size |= static_cast<uint32_t>(static_cast<uint8_t>((*raw)[i])) << (8 * i);
  }
  if (raw->size() < 4 || size != raw->size() - 4) {
    return BadFieldError(name, "must be one element: its length in four bytes, and its bytes");
  }
  return raw->substr(4);
}

// Elsewhere protobuf sees to it that text is text.
absl::StatusOr<std::string> TextInput(const pb::ModelInferRequest::InferInputTensor& input,
                                      const std::string* raw) {
  absl::StatusOr<std::string> text = BytesElement(input, raw);
  if (!text.ok()) return text.status();
  if (const std::optional<size_t> bad = FindInvalidUtf8(*text)) {
    return BadFieldError(input.name(), absl::StrCat("is not UTF-8 at byte ", *bad));
  }
  return text;
}

absl::StatusOr<bool> BoolInput(const pb::ModelInferRequest::InferInputTensor& input,
                               const std::string* raw) {
  if (input.datatype() == "BOOL" && raw != nullptr && raw->size() == 1) return (*raw)[0] != 0;
  if (input.datatype() == "BOOL" && raw == nullptr && input.contents().bool_contents_size() == 1) {
    return input.contents().bool_contents(0);
  }
  return BadFieldError(input.name(), "must be one element of type BOOL");
}

// Numbers come as numbers, or, as Triton's clients send them, as text.
std::optional<double> NumberOf(const Json& value) {
  double number = 0;
  if (value.is_number()) {
    number = value.get<double>();
  } else if (!value.is_string() ||
             !absl::SimpleAtod(value.get_ref<const std::string&>(), &number)) {
    return std::nullopt;
  }
  return std::isfinite(number) ? std::optional<double>(number) : std::nullopt;
}

std::optional<bool> BoolOf(const Json& value) {
  bool flag = false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string() && absl::SimpleAtob(value.get_ref<const std::string&>(), &flag))
    return flag;
  return std::nullopt;
}

std::optional<int32_t> IntOf(const Json& value) {
  const std::optional<double> number = NumberOf(value);
  if (!number || *number != std::floor(*number) || std::abs(*number) > INT32_MAX) {
    return std::nullopt;
  }
  return static_cast<int32_t>(*number);
}

absl::Status Wrong(const std::string& name, const char* expected) {
  return BadFieldError(name, absl::StrCat("must be ", expected));
}

// One setting, of the JSON or of the request's parameters.
absl::Status Set(const std::string& name, const Json& value, v1::GenerateRequest* message) {
  v1::Sampling* const sampling = message->mutable_sampling();
  v1::Stopping* const stopping = message->mutable_stopping();
  const std::pair<const char*, void (v1::Sampling::*)(float)> floats[] = {
      {"temperature", &v1::Sampling::set_temperature},
      {"top_p", &v1::Sampling::set_top_p},
      {"min_p", &v1::Sampling::set_min_p},
      {"presence_penalty", &v1::Sampling::set_presence_penalty},
      {"frequency_penalty", &v1::Sampling::set_frequency_penalty},
      {"repetition_penalty", &v1::Sampling::set_repetition_penalty}};
  for (const auto& [field, setter] : floats) {
    if (name != field) continue;
    const std::optional<double> number = NumberOf(value);
    if (!number) return Wrong(name, "a number");
    (sampling->*setter)(static_cast<float>(*number));
    return absl::OkStatus();
  }
  if (name == "top_k" || name == "max_tokens" || name == "min_tokens" || name == "n" ||
      name == "seed" || name == "priority") {
    const std::optional<int32_t> number = IntOf(value);
    if (!number) return Wrong(name, "a whole number");
    if (name == "top_k") sampling->set_top_k(std::max(*number, 0));  // -1: all
    if (name == "max_tokens") stopping->set_max_tokens(*number);
    if (name == "min_tokens") stopping->set_min_tokens(*number);
    if (name == "n" && *number != 1)
      return BadFieldError(name, "must be 1: there is one text_output");
    if (name == "seed") sampling->set_seed(static_cast<uint64_t>(*number));
    if (name == "priority") message->set_priority(-*number);  // smaller is served first
    return absl::OkStatus();
  }
  if (name == "ignore_eos" || name == "sequence_start" || name == "sequence_end") {
    const std::optional<bool> flag = BoolOf(value);
    if (!flag) return Wrong(name, "true or false");
    // A session begins with its first turn and ends when nobody wants it: the other two say
    // nothing.
    if (name == "ignore_eos") stopping->set_ignore_eos(*flag);
    return absl::OkStatus();
  }
  if (name == "sequence_id") {
    if (!value.is_string() && !value.is_number_integer()) return Wrong(name, "a text or a number");
    const std::string id = value.is_string() ? value.get<std::string>() : value.dump();
    if (id != "0" && !id.empty()) message->set_session_id(id);  // 0: none
    return absl::OkStatus();
  }
  if (name == "stop" && (value.is_string() || value.is_array())) {
    for (const Json& each : value.is_string() ? Json::array({value}) : value) {
      if (!each.is_string()) return Wrong(name, "a text or a list of texts");
      stopping->add_stop(each.get<std::string>());
    }
    return absl::OkStatus();
  }
  if (name == "stop_token_ids" && value.is_array()) {
    for (const Json& each : value) {
      const std::optional<int32_t> id = IntOf(each);
      if (!id) return Wrong(name, "a list of token ids");
      stopping->add_stop_token_ids(*id);
    }
    return absl::OkStatus();
  }
  return BadFieldError(name, "is not supported here; leave it out");
}

Json ToJson(const pb::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case pb::InferParameter::kBoolParam:
      return parameter.bool_param();
    case pb::InferParameter::kInt64Param:
      return parameter.int64_param();
    case pb::InferParameter::kStringParam:
      return parameter.string_param();
    case pb::InferParameter::kDoubleParam:
      return parameter.double_param();
    case pb::InferParameter::kUint64Param:
      return parameter.uint64_param();
    case pb::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

absl::Status ReadSamplingJson(const std::string& text, v1::GenerateRequest* message) {
  const Json json = JsonNestingDepth(text) > kMaxJsonDepth
                        ? Json(Json::value_t::discarded)
                        : Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Wrong("sampling_parameters", "a JSON object");
  for (const auto& [name, value] : json.items()) KVASIR_RETURN_IF_ERROR(Set(name, value, message));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KserveRequest> ReadKserveRequest(const pb::ModelInferRequest& wanted) {
  KserveRequest request;
  request.raw = wanted.raw_input_contents_size() > 0;
  request.model = wanted.model_name();
  request.id = wanted.id();
  request.message.set_model(wanted.model_name());
  if (request.raw && wanted.raw_input_contents_size() != wanted.inputs_size()) {
    return BadFieldError("raw_input_contents",
                         absl::StrCat("has ", wanted.raw_input_contents_size(), " parts for ",
                                      wanted.inputs_size(), " inputs"));
  }
  std::optional<std::string> text;
  bool exclude_input = true;
  for (int i = 0; i < wanted.inputs_size(); ++i) {
    const auto& input = wanted.inputs(i);
    const std::string* const raw = request.raw ? &wanted.raw_input_contents(i) : nullptr;
    if (input.name() == "text_input") {
      KVASIR_ASSIGN_OR_RETURN(text, TextInput(input, raw));
    } else if (input.name() == "stream") {
      KVASIR_ASSIGN_OR_RETURN(request.stream, BoolInput(input, raw));
    } else if (input.name() == "exclude_input_in_output") {
      KVASIR_ASSIGN_OR_RETURN(exclude_input, BoolInput(input, raw));
    } else if (input.name() == "sampling_parameters") {
      KVASIR_ASSIGN_OR_RETURN(const std::string json, TextInput(input, raw));
      KVASIR_RETURN_IF_ERROR(ReadSamplingJson(json, &request.message));
    } else {
      return BadFieldError("inputs", absl::StrCat("has ", Quoted(input.name()),
                                                  ", which is none of text_input, stream, "
                                                  "sampling_parameters, exclude_input_in_output"));
    }
  }
  for (const auto& [name, parameter] : wanted.parameters()) {
    // Triton's clients ask that the last message is marked; it always is.
    if (name == "triton_enable_empty_final_response" || name == "binary_data_output") continue;
    KVASIR_RETURN_IF_ERROR(Set(name, ToJson(parameter), &request.message));
  }
  for (const auto& output : wanted.outputs()) {
    if (output.name() != "text_output") {
      return BadFieldError(
          "outputs", absl::StrCat("has ", Quoted(output.name()), "; there is text_output only"));
    }
  }
  if (!text) return BadFieldError("inputs", "has no text_input; send the prompt as BYTES");
  if (!exclude_input) request.echo = *text;
  request.message.set_text(*std::move(text));
  return request;
}

pb::ModelInferResponse KserveAnswer(const KserveRequest& request, const std::string& text,
                                    bool is_last) {
  pb::ModelInferResponse answer;
  answer.set_model_name(request.model);
  answer.set_model_version("1");
  answer.set_id(request.id);
  (*answer.mutable_parameters())["triton_final_response"].set_bool_param(is_last);
  auto* const output = answer.add_outputs();
  output->set_name("text_output");
  output->set_datatype("BYTES");
  output->add_shape(1);
  if (request.raw) {
    answer.add_raw_output_contents(RawBytes(text));
  } else {
    output->mutable_contents()->add_bytes_contents(text);
  }
  return answer;
}

}  // namespace kvasir
