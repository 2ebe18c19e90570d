#include "runtime/ops/layers/alternating_updates.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

struct Maps {
  Maps(int streams, int64_t hidden)
      : streams(streams),
        router(RandomMatrix(streams, hidden, 1, 3.0f)),
        norm(RandomMatrix(1, hidden, 2)),
        prediction(RandomMatrix(streams * streams, streams, 3)),
        correction(RandomMatrix(streams, streams, 4)) {}

  AltUpParameters parameters(int active) const {
    return {active, router.data.data(),     norm.data.data(),
            1e-6f,  prediction.data.data(), correction.data.data()};
  }

  std::vector<double> Modalities(const float* x) const {
    const int64_t hidden = router.cols;
    double squares = 0;
    for (int64_t c = 0; c < hidden; ++c) squares += double{x[c]} * x[c];
    std::vector<double> m;
    for (int s = 0; s < streams; ++s) {
      double sum = 0;
      for (int64_t c = 0; c < hidden; ++c) {
        sum += router.at(s, c) * x[c] / std::sqrt(squares / hidden + 1e-6) * norm.data[c] / hidden;
      }
      m.push_back(std::tanh(sum));
    }
    return m;
  }

  int streams;
  Matrix router, norm, prediction, correction;
};

std::vector<Matrix> Streams(int streams, int64_t rows, int64_t hidden) {
  std::vector<Matrix> all;
  for (int s = 0; s < streams; ++s) all.push_back(RandomMatrix(rows, hidden, 10 + s));
  return all;
}

std::vector<MatrixView> Views(std::vector<Matrix>& streams) {
  std::vector<MatrixView> views;
  for (Matrix& stream : streams) views.push_back(View(stream));
  return views;
}

TEST(AlternatingUpdates, PredictAndCorrectAgreeWithNaive) {
  ForEachDispatchTarget([] {
    for (const int n : {1, 2, 4, 8}) {
      for (const int64_t hidden : {1, 19, 64}) {
        for (const int active : {0, n - 1}) {
          const Maps maps(n, hidden);
          std::vector<Matrix> streams = Streams(n, 5, hidden);
          std::vector<Matrix> expected = streams;
          for (int64_t r = 0; r < 5; ++r) {
            const std::vector<double> m = maps.Modalities(streams[active].row(r));
            for (int b = 0; b < n; ++b) {
              for (int a = 0; a < n; ++a) {
                double c = 0;
                for (int i = 0; i < n; ++i) c += maps.prediction.at(b * n + a, i) * m[i];
                for (int64_t i = 0; i < hidden; ++i) {
                  expected[b].at(r, i) += static_cast<float>(c * streams[a].at(r, i));
                }
              }
            }
          }
          PredictStreams(Views(streams), maps.parameters(active));
          for (int s = 0; s < n; ++s) {
            ASSERT_LE(reference::MaxDifference(streams[s], expected[s]), 1e-4) << n << " " << s;
          }

          Matrix computed = RandomMatrix(5, hidden, 30);
          expected = streams;
          for (int64_t r = 0; r < 5; ++r) {
            const std::vector<double> m = maps.Modalities(computed.row(r));
            for (int b = 0; b < n; ++b) {
              double d = 1;
              for (int i = 0; i < n; ++i) d += maps.correction.at(b, i) * m[i];
              for (int64_t i = 0; i < hidden; ++i) {
                expected[b].at(r, i) +=
                    static_cast<float>(d * (computed.at(r, i) - streams[active].at(r, i)));
              }
            }
          }
          CorrectStreams(Views(streams), View(computed), maps.parameters(active));
          for (int s = 0; s < n; ++s) {
            ASSERT_LE(reference::MaxDifference(streams[s], expected[s]), 1e-4) << n << " " << s;
          }
        }
      }
    }
  });
}

TEST(AlternatingUpdates, MatchMagnitudeGivesTheOthersRms) {
  ForEachDispatchTarget([] {
    Matrix like = RandomMatrix(4, 37, 1, 5.0f), x = RandomMatrix(4, 37, 2);
    for (int64_t c = 0; c < 37; ++c) x.at(3, c) = 0;
    MatchMagnitude(View(like), View(x));
    for (int64_t r = 0; r < 3; ++r) {
      double a = 0, b = 0;
      for (int64_t c = 0; c < 37; ++c) {
        a += double{like.at(r, c)} * like.at(r, c);
        b += double{x.at(r, c)} * x.at(r, c);
      }
      EXPECT_NEAR(b / a, 1, 1e-5);
    }
    for (int64_t c = 0; c < 37; ++c) EXPECT_EQ(x.at(3, c), 0) << "a row of zeros stays one";
  });
}

}  // namespace
}  // namespace kvasir
