#include "runtime/model/loading/tensor_forms.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"

namespace kvasir {
namespace {

using Parts = std::vector<StoredPart>;

// Rows first, first + step, ... of a matrix with total_rows rows (outputs), which may be stored
// transposed and be slice `index` of a stack.
struct RowsOf {
  int64_t total_rows = 0;
  int64_t first = 0;
  int64_t step = 1;
  bool transposed = false;
  int64_t stack = 0;  // 0: no stack
  int64_t index = 0;
};

StoredPart Take(const WeightShape& weight, const std::string& name, const RowsOf& rows) {
  StoredPart part;
  part.name = name;
  part.rows = weight.rows;
  part.cols = weight.cols;
  const bool vector = weight.id.bias;
  if (rows.stack > 0) part.shape.push_back(rows.stack);
  if (vector) {
    part.shape.push_back(rows.total_rows);
  } else if (rows.transposed) {
    part.shape.insert(part.shape.end(), {weight.cols, rows.total_rows});
  } else {
    part.shape.insert(part.shape.end(), {rows.total_rows, weight.cols});
  }
  const bool transposed = rows.transposed && !vector;
  const int64_t row_stride = transposed ? 1 : weight.cols;
  part.row_stride = row_stride * rows.step;
  part.col_stride = transposed ? rows.total_rows : 1;
  part.offset = rows.index * rows.total_rows * weight.cols + rows.first * row_stride;
  return part;
}

const AttentionSpec& AttentionOf(const ModelSpec& spec, const WeightShape& weight) {
  return spec.attention(weight.id.layer);
}

const MoeSpec& ExpertsOf(const ModelSpec& spec, const WeightShape& weight) {
  return *spec.layers[weight.id.layer].feed_forward.moe;
}

bool IsUp(const WeightShape& weight) {
  return weight.id.role == WeightRole::kUp || weight.id.role == WeightRole::kSharedUp ||
         weight.id.role == WeightRole::kExpertUp;
}

// The stored row of a rotary row, in each block of rows.
void PermutePairs(int64_t block, int64_t first, int64_t rotary_dim, StoredPart* part) {
  if (part->row_order.empty()) {
    for (int64_t r = 0; r < part->rows; ++r) part->row_order.push_back(static_cast<int32_t>(r));
  }
  const std::vector<int32_t> stored = part->row_order;
  const int64_t half = rotary_dim / 2;
  for (int64_t begin = first; begin < part->rows; begin += block) {
    for (int64_t i = 0; i < half; ++i) {
      part->row_order[begin + i] = stored[begin + 2 * i];
      part->row_order[begin + half + i] = stored[begin + 2 * i + 1];
    }
  }
}

}  // namespace

TensorForm TransposedForm() {
  return [](const ModelSpec&, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name, {.total_rows = weight.rows, .transposed = true})};
  };
}

TensorForm FusedQkvForm(QkvOrder order, bool transposed) {
  return [=](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const AttentionSpec& attention = AttentionOf(spec, weight);
    const int64_t d = attention.head_dim;
    const int64_t q = attention.query_size(), kv = attention.kv_size();
    const WeightRole role = weight.id.role;
    RowsOf rows{.total_rows = q + 2 * kv, .transposed = transposed};
    if (order == QkvOrder::kStacked) {
      rows.first = role == WeightRole::kQuery ? 0 : role == WeightRole::kKey ? q : q + kv;
      return Parts{Take(weight, name, rows)};
    }
    StoredPart part = Take(weight, name, rows);
    const int64_t group = attention.query_heads / attention.kv_heads;
    for (int64_t r = 0; r < weight.rows; ++r) {
      const int64_t head = r / d;
      int64_t place = 0;  // of the head among all heads of the tensor
      if (role == WeightRole::kQuery) {
        place = head / group * (group + 2) + head % group;
      } else {
        place = head * (group + 2) + group + (role == WeightRole::kValue ? 1 : 0);
      }
      part.row_order.push_back(static_cast<int32_t>(place * d + r % d));
    }
    return Parts{part};
  };
}

TensorForm GatedQueryForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const AttentionSpec& attention = AttentionOf(spec, weight);
    const int64_t d = attention.head_dim;
    const int64_t queries = attention.query_size();
    StoredPart part = Take(weight, name, {.total_rows = weight.rows});
    for (int64_t r = 0; r < weight.rows; ++r) {
      const int64_t gate = r >= queries ? 1 : 0;
      const int64_t head = r % queries / d;
      part.row_order.push_back(static_cast<int32_t>((2 * head + gate) * d + r % d));
    }
    return Parts{part};
  };
}

TensorForm FusedGateUpForm() {
  return [](const ModelSpec&, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name,
                      {.total_rows = 2 * weight.rows, .first = IsUp(weight) ? weight.rows : 0})};
  };
}

TensorForm StackedForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name,
                      {.total_rows = weight.rows,
                       .stack = ExpertsOf(spec, weight).experts,
                       .index = weight.id.index})};
  };
}

TensorForm StackedGateUpForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name,
                      {.total_rows = 2 * weight.rows,
                       .first = IsUp(weight) ? weight.rows : 0,
                       .stack = ExpertsOf(spec, weight).experts,
                       .index = weight.id.index})};
  };
}

TensorForm StackedTransposedForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name,
                      {.total_rows = weight.rows,
                       .transposed = true,
                       .stack = ExpertsOf(spec, weight).experts,
                       .index = weight.id.index})};
  };
}

TensorForm StackedTransposedTurnsForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    return Parts{Take(weight, name,
                      {.total_rows = 2 * weight.rows,
                       .first = IsUp(weight) ? 1 : 0,
                       .step = 2,
                       .transposed = true,
                       .stack = ExpertsOf(spec, weight).experts,
                       .index = weight.id.index})};
  };
}

TensorForm ConvolutionForm() {
  return [](const ModelSpec&, const WeightShape& weight, const std::string& name) {
    StoredPart part;
    part.name = name;
    part.rows = weight.rows;
    part.cols = weight.cols;
    if (weight.id.bias) {
      part.shape = {weight.rows};
      part.row_stride = 1;
    } else {
      part.shape = {weight.cols, 1, weight.rows};
      part.row_stride = 1;
      part.col_stride = weight.rows;
    }
    return Parts{part};
  };
}

TensorForm DeltaInForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const DeltaNetSpec& net = *spec.layers[weight.id.layer].delta_net();
    const std::pair<const char*, int64_t> pieces[] = {
        {"_qkv", net.conv_channels()},
        {"_z", int64_t{net.value_heads} * net.value_dim},
        {"_b", net.value_heads},
        {"_a", net.value_heads}};
    Parts parts;
    for (const auto& [suffix, rows] : pieces) {
      const WeightShape piece{weight.id, rows, weight.cols};
      parts.push_back(Take(piece, absl::StrCat(name, suffix, ".weight"), {.total_rows = rows}));
    }
    return parts;
  };
}

TensorForm GroupedDeltaInForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const DeltaNetSpec& net = *spec.layers[weight.id.layer].delta_net();
    const int64_t groups = net.key_heads;
    const int64_t keys = net.key_dim;  // rows of q, and of k, in a group
    const int64_t heads = net.value_heads / net.key_heads;
    const int64_t values = heads * net.value_dim;  // rows of v, and of z
    const int64_t group = 2 * keys + 2 * values;
    const WeightShape qkvz{weight.id, groups * group, weight.cols};
    const WeightShape ba{weight.id, 2 * groups * heads, weight.cols};
    Parts parts = {Take(qkvz, absl::StrCat(name, "_qkvz.weight"), {.total_rows = qkvz.rows}),
                   Take(ba, absl::StrCat(name, "_ba.weight"), {.total_rows = ba.rows})};
    const auto add = [groups](int64_t group_rows, int64_t first, int64_t count, StoredPart* part) {
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t r = 0; r < count; ++r) {
          part->row_order.push_back(static_cast<int32_t>(g * group_rows + first + r));
        }
      }
    };
    add(group, 0, keys, &parts[0]);
    add(group, keys, keys, &parts[0]);
    add(group, 2 * keys, values, &parts[0]);
    add(group, 2 * keys + values, values, &parts[0]);
    add(2 * heads, 0, heads, &parts[1]);
    add(2 * heads, heads, heads, &parts[1]);
    return parts;
  };
}

TensorForm KeyUpForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const LatentSpec& latent = *AttentionOf(spec, weight).latent;
    const int64_t rows = latent.nope_dim + latent.v_dim;
    StoredPart part;
    part.name = name;
    part.shape = {rows * AttentionOf(spec, weight).query_heads, latent.kv_rank};
    part.rows = weight.rows;
    part.cols = weight.cols;
    part.offset = weight.id.index * rows * latent.kv_rank;
    part.row_stride = 1;
    part.col_stride = latent.kv_rank;
    return Parts{part};
  };
}

TensorForm ValueUpForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const LatentSpec& latent = *AttentionOf(spec, weight).latent;
    const int64_t rows = latent.nope_dim + latent.v_dim;
    return Parts{Take(weight, name,
                      {.total_rows = rows * AttentionOf(spec, weight).query_heads,
                       .first = weight.id.index * rows + latent.nope_dim})};
  };
}

TensorForm NormOfHeadsForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const int64_t d = AttentionOf(spec, weight).head_dim;
    StoredPart part;
    part.name = name;
    part.shape = {weight.rows / d, d};
    part.rows = weight.rows;
    return Parts{part};
  };
}

TensorForm NormPerHeadForm() {
  return [](const ModelSpec& spec, const WeightShape& weight, const std::string& name) {
    const int64_t d = AttentionOf(spec, weight).head_dim;
    Parts parts;
    for (int64_t head = 0; head < weight.rows / d; ++head) {
      StoredPart part;
      part.name = absl::StrReplaceAll(name, {{"{h}", absl::StrCat(head)}});
      part.shape = {d};
      part.rows = d;
      parts.push_back(std::move(part));
    }
    return parts;
  };
}

TensorForm InterleavedRope(TensorForm form) {
  return [form = std::move(form)](const ModelSpec& spec, const WeightShape& weight,
                                  const std::string& name) {
    Parts parts = form(spec, weight, name);
    const AttentionSpec& attention = AttentionOf(spec, weight);
    if (attention.rope < 0) return parts;
    KVASIR_CHECK(parts.size() == 1);
    const int rotary_dim = spec.ropes[attention.rope].rotary_dim;
    if (!attention.latent) {
      PermutePairs(attention.head_dim, 0, rotary_dim, &parts[0]);
    } else if (weight.id.role == WeightRole::kQuery) {
      PermutePairs(attention.head_dim, attention.latent->nope_dim, rotary_dim, &parts[0]);
    } else {
      PermutePairs(weight.rows, attention.latent->kv_rank, rotary_dim, &parts[0]);
    }
    return parts;
  };
}

TensorForm AddOne(TensorForm form) {
  return [form = std::move(form)](const ModelSpec& spec, const WeightShape& weight,
                                  const std::string& name) {
    Parts parts = form(spec, weight, name);
    if (!weight.id.bias) {
      for (StoredPart& part : parts) part.add = 1;
    }
    return parts;
  };
}

TensorForm Exponential(TensorForm form) {
  return [form = std::move(form)](const ModelSpec& spec, const WeightShape& weight,
                                  const std::string& name) {
    Parts parts = form(spec, weight, name);
    for (StoredPart& part : parts) part.exponential = true;
    return parts;
  };
}

}  // namespace kvasir
