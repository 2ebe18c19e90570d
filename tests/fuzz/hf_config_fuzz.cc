// Any bytes as config.json and, behind the first zero byte, generation_config.json. An accepted
// spec must keep the promises that everything behind the parser relies on.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/rope_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const size_t zero = bytes.find('\0');
  const std::string config = bytes.substr(0, zero);
  const std::string generation_config = zero == std::string::npos ? "" : bytes.substr(zero + 1);
  const auto spec = kvasir::ParseHfConfig(config, generation_config);
  if (!spec.ok()) {
    KVASIR_CHECK(!spec.status().message().empty());
    return 0;
  }
  KVASIR_CHECK(spec->num_parameters() > 0);
  KVASIR_CHECK(spec->num_layers() > 0);
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    const int owner = spec->attention(layer).kv_owner;
    KVASIR_CHECK(owner >= 0 && owner <= layer && spec->attention(owner).kv_owner == owner);
    KVASIR_CHECK(spec->attention(layer).kv_heads == spec->attention(owner).kv_heads);
    KVASIR_CHECK(spec->query_heads() % spec->attention(layer).kv_heads == 0);
  }
  for (const int id : spec->eos_token_ids) KVASIR_CHECK(id >= 0 && id < spec->vocab_size);
  for (const float frequency : kvasir::RopeInverseFrequencies(spec->ropes[0])) {
    KVASIR_CHECK(std::isfinite(frequency) && frequency >= 0);
  }
  KVASIR_CHECK(spec->SharingName() != "invalid");
  return 0;
}
