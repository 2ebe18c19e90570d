// Any bytes as a request of KServe's protocol: refused as InvalidArgument with words, or made a
// request that survives the wire. The bytes stand for a whole message, for its JSON of parameters,
// and for a raw tensor.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "server/frontend/request_errors.h"
#include "server/grpc/neighbours/kserve_messages.h"

namespace kvasir {
namespace {

void Check(const ::inference::ModelInferRequest& wanted) {
  const absl::StatusOr<KserveRequest> read = ReadKserveRequest(wanted);
  if (!read.ok()) {
    KVASIR_CHECK(read.status().code() == absl::StatusCode::kInvalidArgument);
    KVASIR_CHECK(read.status().message().size() <= kMaxErrorMessageBytes);
    return;
  }
  KVASIR_CHECK(read->message.prompt_case() != v1::GenerateRequest::PROMPT_NOT_SET);
  // Text that is no UTF-8 would not survive this.
  std::string bytes;
  KVASIR_CHECK(read->message.SerializeToString(&bytes));
  KVASIR_CHECK(KserveAnswer(*read, "text", /*is_last=*/true).SerializeToString(&bytes));
}

::inference::ModelInferRequest::InferInputTensor* AddBytes(const char* name,
                                                           ::inference::ModelInferRequest* to) {
  auto* const tensor = to->add_inputs();
  tensor->set_name(name);
  tensor->set_datatype("BYTES");
  tensor->add_shape(1);
  return tensor;
}

void Read(const std::string& data) {
  ::inference::ModelInferRequest whole;
  if (whole.ParseFromString(data)) Check(whole);

  ::inference::ModelInferRequest parameters;
  AddBytes("text_input", &parameters)->mutable_contents()->add_bytes_contents("Once");
  AddBytes("sampling_parameters", &parameters)->mutable_contents()->add_bytes_contents(data);
  Check(parameters);

  ::inference::ModelInferRequest raw;
  AddBytes("text_input", &raw);
  raw.add_raw_input_contents(data);
  Check(raw);
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvasir::Read({reinterpret_cast<const char*>(data), size});
  return 0;
}
