#include "runtime/conversion/kv_merge.h"

#include "base/check.h"

namespace kvasir {

KvMerge::KvMerge(HeadRecipe heads, LayerRecipe layers, int groups, int64_t head_values)
    : heads_(heads),
      layers_(layers),
      groups_(groups),
      head_values_(head_values),
      sum_(static_cast<size_t>(groups * head_values), 0.0) {
  KVASIR_CHECK(heads != HeadRecipe::kRandom);
}

double KvMerge::Pooled(absl::Span<const float> values, int64_t group, int64_t group_heads,
                       int64_t i) const {
  const float* const first = values.data() + group * group_heads * head_values_ + i;
  if (heads_ == HeadRecipe::kFirst) return *first;
  double sum = 0;
  for (int64_t head = 0; head < group_heads; ++head) sum += first[head * head_values_];
  return sum / static_cast<double>(group_heads);
}

void KvMerge::Add(absl::Span<const float> values) {
  const auto size = static_cast<int64_t>(sum_.size());
  KVASIR_CHECK(!values.empty() && static_cast<int64_t>(values.size()) % size == 0);
  if (complete()) return;
  const int64_t group_heads = static_cast<int64_t>(values.size()) / size;
  for (int64_t group = 0; group < groups_; ++group) {
    for (int64_t i = 0; i < head_values_; ++i) {
      double& sum = sum_[group * head_values_ + i];
      const double value = Pooled(values, group, group_heads, i);
      if (layers_ == LayerRecipe::kRunningMean && count_ > 0) {
        sum = (sum + value) / 2;
      } else {
        sum += value;
      }
    }
  }
  ++count_;
}

std::vector<float> KvMerge::Result() const {
  KVASIR_CHECK(count_ > 0);
  const double scale = layers_ == LayerRecipe::kMean ? 1.0 / count_ : 1.0;
  std::vector<float> result(sum_.size());
  for (size_t i = 0; i < sum_.size(); ++i) result[i] = static_cast<float>(sum_[i] * scale);
  return result;
}

}  // namespace kvasir
