#include "runtime/engine/attention_params.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

// r / (2 d) + k / S, the share of dense attention's bytes.
double Share(const SparqParams& params, int head_dim, int context) {
  return params.rank / (2.0 * head_dim) + static_cast<double>(params.top_k) / context;
}

TEST(ResolveSparq, MeetsTheCompressionByTheByteModel) {
  for (const float compression : {2.0f, 4.0f, 8.0f}) {
    SparqRequest request;
    request.compression = compression;
    const SparqParams params = ResolveSparq(request, 128, 4, 32768);
    EXPECT_NEAR(Share(params, 128, 32768), 1 / compression, 1e-3);
    EXPECT_EQ(params.local_window, params.top_k / 4);
    EXPECT_FALSE(params.mean_value);
  }
  EXPECT_TRUE(ResolveSparq({}, 128, 1, 32768).mean_value);
}

TEST(ResolveSparq, KeepsFloorsAndWhatWasAsked) {
  SparqRequest request;
  request.compression = 64;
  EXPECT_EQ(ResolveSparq(request, 64, 1, 4096).rank, 8);
  EXPECT_EQ(ResolveSparq(request, 64, 1, 4096).top_k, 128);
  EXPECT_EQ(ResolveSparq(request, 4, 1, 4096).rank, 4);
  request.rank = 3;
  request.top_k = 10;
  request.local_window = 50;
  request.mean_value = false;
  const SparqParams params = ResolveSparq(request, 64, 1, 4096);
  EXPECT_EQ(params.rank, 3);
  EXPECT_EQ(params.top_k, 10);
  EXPECT_EQ(params.local_window, 10);
  EXPECT_FALSE(params.mean_value);
}

}  // namespace
}  // namespace kvasir
