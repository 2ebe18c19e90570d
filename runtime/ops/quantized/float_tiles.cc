#include "runtime/ops/quantized/float_tiles.h"

#include <algorithm>

#include "runtime/kernels/blocks/block_kernels.h"

namespace kvasir {
namespace {

// Inputs that panels are unpacked for at once: a chunk of theirs, 64 KiB with four panels.
constexpr int64_t kTileInputs = int64_t{kChunkSteps} * kStepInputs;
constexpr int64_t kPanelValues = kTileInputs * kPanelRows;

static_assert(kPanelRows == kPanelOutputs);

}  // namespace

void FloatTileProduct(const PackedBlocks& blocks, int64_t begin, int64_t end, const float* x,
                      int64_t rows, int64_t in, FloatTileScratch* scratch) {
  scratch->panels.Resize(kFloatTilePanels * kPanelValues);
  scratch->sums.Resize(rows * kFloatTileColumns);
  const int64_t chunk_bytes = kBlockKinds[blocks.kind].chunk_bytes(kChunkSteps);
  for (int64_t k = 0; k < in; k += kTileInputs) {
    const int64_t depth = std::min(kTileInputs, in - k);
    for (int64_t p = begin; p < end; ++p) {
      BlockPanel panel = blocks.panel(p);
      panel.data += k / kTileInputs * chunk_bytes;
      BlockUnpack(panel, depth, scratch->panels.data() + (p - begin) * kPanelValues, kPanelRows);
    }
    PanelProduct(
        x + k, in, rows, depth,
        WeightPanels<float>{scratch->panels.data(), kPanelValues, static_cast<size_t>(end - begin)},
        /*add=*/k > 0, scratch->sums.data());
  }
}

}  // namespace kvasir
