#include "runtime/conversion/converted_weights.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "runtime/model/embedding.h"
#include "runtime/model/loading/random_weights.h"

namespace kvasir {
namespace {

// Values widened at once: 16 MiB of f32.
constexpr int64_t kStreamedValues = int64_t{1} << 22;

}  // namespace

bool ConvertedWeights::IsMerged(const WeightId& id) const {
  if (id.role != WeightRole::kKey && id.role != WeightRole::kValue) return false;
  if (target_.spec.attention(id.layer).kv_heads != source_.spec.attention(id.layer).kv_heads) {
    return true;
  }
  return target_.merged_layers[id.layer].size() > 1 &&
         recipe_.layer_recipe() != LayerRecipe::kFirst;
}

absl::Status ConvertedWeights::Stream(
    const WeightId& id, absl::FunctionRef<absl::Status(absl::Span<const float>)> take) const {
  const MappedWeight& weight = target_.map->At(id);
  if (IsMerged(id)) {
    KVASIR_ASSIGN_OR_RETURN(const std::vector<float> values,
                            recipe_.heads == HeadRecipe::kRandom ? Draw(id) : Merge(id));
    return take(values);
  }
  const int64_t step = std::max<int64_t>(1, kStreamedValues / weight.cols);
  for (int64_t begin = 0; begin < weight.rows; begin += step) {
    KVASIR_ASSIGN_OR_RETURN(const std::vector<float> values,
                            source_.Rows(id, begin, std::min(weight.rows, begin + step)));
    KVASIR_RETURN_IF_ERROR(take(values));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> ConvertedWeights::Merge(const WeightId& id) const {
  const MappedWeight& weight = target_.map->At(id);
  const int groups = target_.spec.attention(id.layer).kv_heads;
  KvMerge merge(recipe_.heads, recipe_.layer_recipe(), groups, weight.rows / groups * weight.cols);
  for (const int layer : target_.merged_layers[id.layer]) {
    if (merge.complete()) break;
    WeightId from = id;
    from.layer = layer;
    KVASIR_ASSIGN_OR_RETURN(const std::vector<float> values,
                            source_.Rows(from, 0, source_.map->At(from).rows));
    merge.Add(values);
  }
  return merge.Result();
}

absl::StatusOr<std::vector<float>> ConvertedWeights::Draw(const WeightId& id) const {
  RandomWeights source(target_.spec.num_layers(), recipe_.seed);
  std::vector<float> values;
  for (const StoredPart& part : target_.map->At(id).parts) {
    KVASIR_ASSIGN_OR_RETURN(const PartValues got, source.Get(id, part));
    const size_t begin = values.size();
    values.resize(begin + static_cast<size_t>(part.rows * part.cols));
    WidenToFloat(got.matrix.data, got.matrix.type, part.rows * part.cols, &values[begin]);
  }
  return values;
}

std::vector<float> InStoredOrder(const StoredPart& part, absl::Span<const float> values) {
  std::vector<float> stored(values.size());
  for (int64_t r = 0; r < part.rows; ++r) {
    const int64_t row = part.row_order.empty() ? r : part.row_order[r];
    for (int64_t c = 0; c < part.cols; ++c) {
      stored[row * part.row_stride + c * part.col_stride] = values[r * part.cols + c];
    }
  }
  return stored;
}

}  // namespace kvasir
