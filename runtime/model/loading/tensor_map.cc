#include "runtime/model/loading/tensor_map.h"

#include <fnmatch.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/check.h"

namespace kvasir {
namespace {

// "/lm_head" -> "lm_head", "layers.{}" -> "model.layers.{}".
std::string WithPrefix(absl::string_view name, absl::string_view prefix) {
  if (absl::ConsumePrefix(&name, "/")) return std::string(name);
  return absl::StrCat(prefix, name);
}

}  // namespace

TensorForm PlainForm() {
  return [](const ModelSpec&, const WeightShape& weight, const std::string& name) {
    StoredPart part;
    part.name = name;
    part.shape = {weight.rows};
    if (weight.cols != 1) part.shape.push_back(weight.cols);
    part.rows = weight.rows;
    part.cols = weight.cols;
    part.row_stride = weight.cols;
    return std::vector<StoredPart>{part};
  };
}

TensorNames& TensorNames::Prefixes(std::vector<std::string> prefixes) {
  prefixes_ = std::move(prefixes);
  return *this;
}

TensorNames& TensorNames::Set(WeightRole role, absl::string_view name, TensorForm form) {
  return SetRaw(role, absl::StrCat(name, ".weight"), absl::StrCat(name, ".bias"), std::move(form));
}

TensorNames& TensorNames::SetRaw(WeightRole role, absl::string_view weight, absl::string_view bias,
                                 TensorForm form) {
  names_[role] = {{std::string(weight), std::string(bias), std::move(form)}};
  return *this;
}

TensorNames& TensorNames::Or(WeightRole role, absl::string_view weight, absl::string_view bias,
                             TensorForm form) {
  names_[role].push_back({std::string(weight), std::string(bias), std::move(form)});
  return *this;
}

TensorNames& TensorNames::Change(WeightRole role,
                                 const std::function<TensorForm(TensorForm)>& change) {
  KVASIR_CHECK(Has(role));
  for (Name& name : names_[role]) name.form = change(std::move(name.form));
  return *this;
}

TensorNames& TensorNames::Unused(std::vector<std::string> patterns) {
  unused_.insert(unused_.end(), patterns.begin(), patterns.end());
  return *this;
}

std::string TensorNames::Expand(const Name& name, const WeightId& id, absl::string_view prefix) {
  const std::string& pattern = id.bias ? name.bias : name.weight;
  if (pattern.empty()) return "";
  return absl::StrReplaceAll(WithPrefix(pattern, prefix),
                             {{"{}", absl::StrCat(id.layer)}, {"{i}", absl::StrCat(id.index)}});
}

absl::StatusOr<TensorMap> TensorMap::Create(const TensorNames& names, const ModelSpec& spec,
                                            const std::function<bool(const std::string&)>& has) {
  TensorMap map;
  map.names_ = names;
  map.prefix_ = names.prefixes_.front();
  for (const std::string& prefix : names.prefixes_) {
    const auto it = names.names_.find(WeightRole::kEmbedding);
    if (!has || it == names.names_.end()) break;
    if (has(TensorNames::Expand(it->second.front(), {WeightRole::kEmbedding}, prefix))) {
      map.prefix_ = prefix;
      break;
    }
  }
  for (const WeightShape& weight : WeightShapes(spec)) {
    const auto found = names.names_.find(weight.id.role);
    std::string name;
    const TensorForm* form = nullptr;
    if (found != names.names_.end()) {
      for (const TensorNames::Name& alternative : found->second) {
        const std::string candidate = TensorNames::Expand(alternative, weight.id, map.prefix_);
        const bool first = form == nullptr;
        if (!first && (!has || !has(candidate))) continue;
        name = candidate;
        form = &alternative.form;
        if (!first || !has || has(candidate)) break;
      }
    }
    if (name.empty()) {
      return absl::InternalError(absl::StrCat(
          spec.architecture, " has no tensor name for role ", static_cast<int>(weight.id.role),
          weight.id.bias ? " (bias)" : "", " of layer ", weight.id.layer));
    }
    MappedWeight& mapped = map.weights_[weight.id];
    mapped.rows = weight.rows;
    mapped.cols = weight.cols;
    mapped.parts = (*form)(spec, weight, name);
    int64_t rows = 0;
    for (const StoredPart& part : mapped.parts) {
      KVASIR_CHECK(part.cols == weight.cols);
      KVASIR_CHECK(part.row_order.empty() ||
                   part.row_order.size() == static_cast<size_t>(part.rows));
      rows += part.rows;
    }
    KVASIR_CHECK(rows == weight.rows);
  }
  return map;
}

const MappedWeight& TensorMap::At(const WeightId& id) const {
  const auto it = weights_.find(id);
  KVASIR_CHECK(it != weights_.end());
  return it->second;
}

bool TensorMap::MayBeIgnored(const std::string& name) const {
  for (const std::string& pattern : names_.unused_) {
    if (fnmatch(WithPrefix(pattern, prefix_).c_str(), name.c_str(), 0) == 0) return true;
  }
  return false;
}

std::string TensorMap::NameOf(const WeightId& id) const {
  if (Has(id)) return At(id).parts.front().name;
  const auto it = names_.names_.find(id.role);
  return it == names_.names_.end() ? "" : TensorNames::Expand(it->second.front(), id, prefix_);
}

std::map<std::string, std::vector<int64_t>> TensorMap::StoredShapes() const {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& [id, weight] : weights_) {
    for (const StoredPart& part : weight.parts) shapes.try_emplace(part.name, part.shape);
  }
  return shapes;
}

}  // namespace kvasir
