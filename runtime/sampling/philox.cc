#include "runtime/sampling/philox.h"

namespace kvasir {
namespace {

constexpr int kRounds = 10;  // the authors' choice for a safety margin; 7 pass BigCrush
constexpr uint64_t kMultiplier0 = 0xD2511F53;
constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;  // golden ratio
constexpr uint32_t kWeyl1 = 0xBB67AE85;  // sqrt(3) - 1

}  // namespace

PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

double TokenUniform(uint64_t seed, int32_t completion_index, int32_t output_position) {
  const PhiloxCounter random = Philox4x32(
      {static_cast<uint32_t>(output_position), static_cast<uint32_t>(completion_index), 0, 0},
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{random[0]} << 32) | random[1];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace kvasir
