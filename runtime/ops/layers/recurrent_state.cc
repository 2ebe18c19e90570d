#include "runtime/ops/layers/recurrent_state.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/layer_kernels.h"

namespace kvasir {
namespace {

static_assert(kMaxConvolutionInputs <= static_cast<int>(kMaxConvKernel));

// Channels per task: some microseconds of work.
constexpr int64_t kChannels = 2048;

// Input `index` of a sequence; those before the step stand in its state.
const float* Input(MatrixView x, const RecurrentSequence& sequence, int kernel, int64_t index) {
  if (index >= 0) return x.row(sequence.first_row + index);
  return sequence.state + (kernel - 1 + index) * x.cols;
}

void ConvolveOne(MatrixView x, const RecurrentSequence& sequence, int kernel, const float* weight,
                 const float* bias, bool silu, MatrixView out) {
  const int64_t parts = (x.cols + kChannels - 1) / kChannels;
  const auto task = [&](size_t index, int) {
    const int64_t row = static_cast<int64_t>(index) / parts;
    const int64_t first = static_cast<int64_t>(index) % parts * kChannels;
    std::array<const float*, kMaxConvKernel> window;
    for (int j = 0; j < kernel; ++j) {
      window[j] = Input(x, sequence, kernel, row - kernel + 1 + j) + first;
    }
    ConvolveRow(window.data(), kernel, weight + first, x.cols,
                bias == nullptr ? nullptr : bias + first, silu, std::min(kChannels, x.cols - first),
                out.row(sequence.first_row + row) + first);
  };
  const int64_t tasks = sequence.num_rows * parts;
  if (tasks <= 4) {
    for (int64_t i = 0; i < tasks; ++i) task(i, 0);
  } else {
    ParallelFor(static_cast<size_t>(tasks), task);
  }
}

// The last kernel - 1 inputs. Ascending, so that no row of the state is overwritten before it has
// moved.
void KeepInputs(MatrixView x, const RecurrentSequence& sequence, int kernel) {
  for (int64_t r = 0; r + 1 < kernel; ++r) {
    const float* from = Input(x, sequence, kernel, sequence.num_rows - kernel + 1 + r);
    std::memcpy(sequence.state + r * x.cols, from, x.cols * sizeof(float));
  }
}

}  // namespace

void CausalConvolution(MatrixView x, absl::Span<const RecurrentSequence> sequences, int kernel,
                       const float* weight, const float* bias, bool silu, MatrixView out) {
  KVASIR_CHECK(kernel >= 1 && kernel <= kMaxConvolutionInputs && x.cols == out.cols);
  for (const RecurrentSequence& sequence : sequences) {
    if (sequence.fresh) std::fill_n(sequence.state, (kernel - 1) * x.cols, 0.0f);
    ConvolveOne(x, sequence, kernel, weight, bias, silu, out);
    KeepInputs(x, sequence, kernel);
  }
}

}  // namespace kvasir
