#include "runtime/model/architectures/registry.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace kvasir {

// One line per file of this folder, here and below.
std::vector<Architecture> LlamaArchitectures();

namespace {

constexpr std::vector<Architecture> (*kFiles[])() = {
    LlamaArchitectures,
};

std::vector<Architecture> All() {
  std::vector<Architecture> all;
  for (const auto& file : kFiles) {
    for (const Architecture& architecture : file()) all.push_back(architecture);
  }
  return all;
}

}  // namespace

const std::vector<Architecture>& Architectures() {
  static const std::vector<Architecture>& all = *new std::vector<Architecture>(All());
  return all;
}

absl::StatusOr<Architecture> FindArchitecture(absl::string_view file, absl::string_view name,
                                              absl::string_view model_type) {
  for (const Architecture& architecture : Architectures()) {
    if (name.empty() ? model_type == architecture.model_type : name == architecture.name) {
      return architecture;
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      file, ": architecture \"", name.empty() ? model_type : name, "\" is not supported; ",
      absl::StrJoin(Architectures(), ", ",
                    [](std::string* out, const Architecture& architecture) {
                      out->append(architecture.name);
                    }),
      " are"));
}

absl::StatusOr<TensorMap> MapTensors(const ModelSpec& spec,
                                     const std::function<bool(const std::string&)>& has) {
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindArchitecture("model spec", spec.architecture, ""));
  return TensorMap::Create(architecture.names(spec), spec, has);
}

}  // namespace kvasir
