#include "runtime/model/architectures/registry.h"

#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace kvasir {

// One line per file of this folder, here and below.
std::vector<Architecture> BloomArchitectures();
std::vector<Architecture> CohereArchitectures();
std::vector<Architecture> DeepseekArchitectures();
std::vector<Architecture> Exaone4Architectures();
std::vector<Architecture> FalconArchitectures();
std::vector<Architecture> GemmaArchitectures();
std::vector<Architecture> Gemma3nArchitectures();
std::vector<Architecture> Gemma4Architectures();
std::vector<Architecture> GlmArchitectures();
std::vector<Architecture> Gpt2Architectures();
std::vector<Architecture> GptNeoxArchitectures();
std::vector<Architecture> GptOssArchitectures();
std::vector<Architecture> GraniteArchitectures();
std::vector<Architecture> HunyuanArchitectures();
std::vector<Architecture> Lfm2Architectures();
std::vector<Architecture> LlamaArchitectures();
std::vector<Architecture> MixtralArchitectures();
std::vector<Architecture> NemotronArchitectures();
std::vector<Architecture> OlmoArchitectures();
std::vector<Architecture> OptArchitectures();
std::vector<Architecture> PhiArchitectures();
std::vector<Architecture> Qwen3Architectures();
std::vector<Architecture> Qwen3NextArchitectures();
std::vector<Architecture> Smollm3Architectures();
std::vector<Architecture> StablelmArchitectures();
std::vector<Architecture> Starcoder2Architectures();

namespace {

constexpr std::vector<Architecture> (*kFiles[])() = {
    BloomArchitectures,    CohereArchitectures,     DeepseekArchitectures,  Exaone4Architectures,
    FalconArchitectures,   GemmaArchitectures,      Gemma3nArchitectures,   Gemma4Architectures,
    GlmArchitectures,      Gpt2Architectures,       GptNeoxArchitectures,   GptOssArchitectures,
    GraniteArchitectures,  HunyuanArchitectures,    Lfm2Architectures,      LlamaArchitectures,
    MixtralArchitectures,  NemotronArchitectures,   OlmoArchitectures,      OptArchitectures,
    PhiArchitectures,      Qwen3Architectures,      Qwen3NextArchitectures, Smollm3Architectures,
    StablelmArchitectures, Starcoder2Architectures,
};

std::vector<Architecture> All() {
  std::vector<Architecture> all;
  for (const auto& file : kFiles) {
    for (const Architecture& architecture : file()) all.push_back(architecture);
  }
  return all;
}

void AddOtherMedia(TensorNames* names) {
  names->Prefixes({"model.language_model.", "language_model.model.", "model."})
      .Or(WeightRole::kHead, "/language_model.lm_head.weight", "", PlainForm())
      .Unused({"/*vision_tower.*", "/*vision_model.*", "/*visual.*", "/*audio_tower.*",
               "/*multi_modal_projector.*", "/*embed_vision.*", "/*embed_audio.*",
               "/*vision_embedder.*"});
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

absl::StatusOr<Architecture> FindGgufArchitecture(const std::string& name) {
  std::set<absl::string_view> known;
  for (const Architecture& architecture : Architectures()) {
    if (architecture.gguf.name == nullptr) continue;
    if (name == architecture.gguf.name) return architecture;
    known.insert(architecture.gguf.name);
  }
  return absl::UnimplementedError(absl::StrCat("GGUF architecture ", QuoteForeign(name),
                                               " is not read; ", absl::StrJoin(known, ", "),
                                               " are. Other models: as a Hugging Face folder"));
}

absl::StatusOr<TensorMap> MapTensors(const ModelSpec& spec,
                                     const std::function<bool(const std::string&)>& has) {
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture,
                          FindArchitecture("model spec", spec.architecture, ""));
  TensorNames names = architecture.names(spec);
  if (architecture.inside_another) AddOtherMedia(&names);
  return TensorMap::Create(names, spec, has);
}

}  // namespace kvasir
