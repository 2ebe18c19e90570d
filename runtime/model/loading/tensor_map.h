// Which stored tensors make up each weight of a model: TensorNames is what an architecture declares
// (architectures/*.cc), TensorMap its result for one spec and one checkpoint. Loader, checkpoint
// check and random weights all go by the map. Immutable after building, thread safe.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/loading/stored_part.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weight_roles.h"

namespace kvasir {

// How a weight lies in the tensor or tensors of a name: the parts, stacked over their rows.
using TensorForm = std::function<std::vector<StoredPart>(
    const ModelSpec& spec, const WeightShape& weight, const std::string& name)>;

// The forms of most architectures; tensor_forms.h has the others.
TensorForm PlainForm();

// Names per role. In them "{}" stands for the layer and "{i}" for the index. A name belongs to the
// body of the model and gets its prefix, unless it begins with "/".
class TensorNames {
 public:
  // Alternatives: the first one under which the checkpoint has the embeddings is taken.
  TensorNames& Prefixes(std::vector<std::string> prefixes);
  // name + ".weight" and name + ".bias".
  TensorNames& Set(WeightRole role, absl::string_view name, TensorForm form = PlainForm());
  // Parameters without a module of their own.
  TensorNames& SetRaw(WeightRole role, absl::string_view weight, absl::string_view bias = "",
                      TensorForm form = PlainForm());
  // Another way in which checkpoints store the role: taken where the first one's tensor is missing
  // and this one's is there.
  TensorNames& Or(WeightRole role, absl::string_view weight, absl::string_view bias,
                  TensorForm form);
  // Wraps the forms of a role that has a name: a permutation, an addition.
  TensorNames& Change(WeightRole role, const std::function<TensorForm(TensorForm)>& change);
  // Tensors that may be there and are not loaded: shell patterns over the whole name, with the
  // body's prefix unless they begin with "/".
  TensorNames& Unused(std::vector<std::string> patterns);

  bool Has(WeightRole role) const { return names_.count(role) > 0; }

 private:
  friend class TensorMap;
  struct Name {
    std::string weight, bias;
    TensorForm form;
  };
  static std::string Expand(const Name& name, const WeightId& id, absl::string_view prefix);
  std::vector<std::string> prefixes_ = {"model."};
  std::map<WeightRole, std::vector<Name>> names_;  // alternatives
  std::vector<std::string> unused_;
};

struct MappedWeight {
  int64_t rows = 0;
  int64_t cols = 1;
  std::vector<StoredPart> parts;  // stacked over rows
};

class TensorMap {
 public:
  // `has` answers whether the checkpoint has a tensor; null = none, the first prefix counts.
  // Internal when the spec has a weight without a name.
  static absl::StatusOr<TensorMap> Create(const TensorNames& names, const ModelSpec& spec,
                                          const std::function<bool(const std::string&)>& has);

  const std::map<WeightId, MappedWeight>& weights() const { return weights_; }
  const MappedWeight& At(const WeightId& id) const;
  bool Has(const WeightId& id) const { return weights_.count(id) > 0; }
  // Whether a tensor that no weight needs may be left out.
  bool MayBeIgnored(const std::string& name) const;
  // The name that a weight has or, not being of this model, would have; "" if the architecture has
  // no such role.
  std::string NameOf(const WeightId& id) const;
  // Every tensor that some weight needs, with its shape.
  std::map<std::string, std::vector<int64_t>> StoredShapes() const;

 private:
  TensorNames names_;
  std::string prefix_;
  std::map<WeightId, MappedWeight> weights_;
};

}  // namespace kvasir
