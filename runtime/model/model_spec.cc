#include "runtime/model/model_spec.h"

#include <utility>

#include "runtime/model/tensor_inventory.h"

namespace kvasir {

int64_t ModelSpec::num_parameters() const {
  int64_t count = 0;
  for (const TensorShape& tensor : ExpectedTensors(*this)) count += tensor.rows * tensor.cols;
  return count;
}

absl::StatusOr<KvLayout> ModelSpec::MakeKvLayout(KvElementType element_type, int block_tokens,
                                                 SparqKeys sparq_keys) const {
  KvLayoutSpec layout;
  for (int layer = 0; layer < num_layers; ++layer) {
    layout.layers.push_back(
        {.owner = owner[layer], .kv_heads = kv_heads[layer], .k_dim = head_dim, .v_dim = head_dim});
  }
  layout.element_type = element_type;
  layout.block_tokens = block_tokens;
  layout.sparq_keys = sparq_keys;
  return KvLayout::Create(std::move(layout));
}

std::string ModelSpec::SharingName() const {
  // Neither the element type nor the block size has a part in the name.
  const absl::StatusOr<KvLayout> layout =
      MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens);
  return layout.ok() ? SharingSchemeName(*layout, num_query_heads, sharing_rule) : "invalid";
}

}  // namespace kvasir
