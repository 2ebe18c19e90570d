// docs/models.md is what the parsers make of the tiny checkpoint of every architecture. With
// KVASIR_WRITE_PAGES=1 writes the page; else compares. A machine with only the committed
// checkpoints compares their rows.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "runtime/model/hf_config.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

constexpr char kHead[] = R"(# Models

<!-- Made from the configurations of the tiny checkpoints by tests/write_pages.sh: change
     tests/model/models_page_test.cc, not this page. -->

What `kvasird` reads: Hugging Face folders of the classes below, text parts of models of several media among them, and GGUF
files of the architectures that [gguf_dialect.h](../runtime/model/gguf/gguf_dialect.h) has dialects for. A folder of another
class is refused by name. How a class is added is a worked example in [architecture.md](architecture.md).

One row for each tiny checkpoint that the goldens are held against (a few layers, heads of 16, windows of 16 tokens), so the
bytes are theirs; `kvasir models --json` says the same of a model that is served, under `kv_bytes_per_token_resident`,
`kv_bytes_per_token_read` and `groups`. **Sharing** is of K/V between heads and layers, **groups** are of layers whose K/V
lives equally long ([kv-cache.md](kv-cache.md)): their number of layers, and bytes of K/V in bf16 per token, or of state per
sequence. **Read** is what a dense decode step reads per token it sees.

| checkpoint | class | sharing | groups: layers, bytes | resident / read, bytes per token | what is special |
|---|---|---|---|---|---|
)";

std::vector<std::string> Names() {
  std::set<std::string> names;
  std::vector<std::filesystem::path> roots = {SourceRoot() / "tests/golden/arch",
                                              SourceRoot() / "../shared/arch",
                                              ModelsRoot() / "../arch"};
  if (const char* shared = std::getenv("KVASIR_SHARED"))
    roots.push_back(std::filesystem::path(shared) / "arch");
  for (const auto& root : roots) {
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
      if (std::filesystem::exists(entry.path() / "config.json"))
        names.insert(entry.path().filename().string());
    }
  }
  return {names.begin(), names.end()};
}

std::string Groups(const KvLayout& layout) {
  std::vector<std::string> groups;
  for (const KvGroup& group : layout.groups()) {
    std::string kind = KvGroupKindName(group.kind);
    if (group.kind == KvGroupKind::kWindow) absl::StrAppend(&kind, " ", group.window);
    groups.push_back(
        group.kind == KvGroupKind::kState
            ? absl::StrCat("state: ", group.layers.size(), ", ", group.block_bytes, " per sequence")
            : absl::StrCat(kind, ": ", group.layers.size(), ", ", group.resident_bytes_per_token));
  }
  return absl::StrJoin(groups, "; ");
}

const char* PlacementWords(NormPlacement placement) {
  switch (placement) {
    case NormPlacement::kPre:
      return "";
    case NormPlacement::kPost:
      return "norms behind the sub-layers";
    case NormPlacement::kBoth:
      return "norms before and behind";
    case NormPlacement::kParallelOne:
      return "parallel sub-layers, one norm";
    case NormPlacement::kParallelTwo:
      return "parallel sub-layers, two norms";
    case NormPlacement::kAfterAdd:
      return "norms after the sums";
  }
  return "";
}

const char* ScalingWords(RopeSpec::Scaling scaling) {
  switch (scaling) {
    case RopeSpec::Scaling::kNone:
      return "";
    case RopeSpec::Scaling::kLinear:
      return "linear RoPE";
    case RopeSpec::Scaling::kLlama3:
      return "llama3 RoPE";
    case RopeSpec::Scaling::kDynamic:
      return "dynamic RoPE";
    case RopeSpec::Scaling::kYarn:
      return "YaRN";
    case RopeSpec::Scaling::kLongRope:
      return "longrope";
    case RopeSpec::Scaling::kProportional:
      return "proportional RoPE";
  }
  return "";
}

void AddAttention(const ModelSpec& spec, const AttentionSpec& attention,
                  const std::function<void(const std::string&)>& add) {
  if (attention.latent) add("latent rows (MLA)");
  if (attention.rope < 0 && !attention.alibi && !spec.embedding.learned_positions)
    add("layers without rotation");
  if (attention.rope >= 0) {
    const RopeSpec& rope = spec.ropes[attention.rope];
    add(ScalingWords(rope.scaling));
    const int rotated = attention.latent ? attention.latent->rope_dim : attention.head_dim;
    if (rope.rotary_dim < rotated) add("partial rotation");
  }
  if (attention.qk_norm.span != QkNormSpec::Span::kNone) add("norms of q and k");
  if (attention.v_norm) add("norm of v");
  if (attention.v_is_k) add("v from the projection of k");
  if (attention.sinks) add("sinks");
  if (attention.alibi) add("ALiBi");
  if (attention.softcap > 0) add("soft cap of scores");
  if (attention.output_gate) add("output gate");
  if (attention.reads_unrotated_k) add("borrowers read un-rotated K");
  if (attention.k_norm_in_query) add("weight of k's norm in the query");
  if (attention.query_temperature_beta > 0) add("query temperature");
}

void AddFeedForward(const FeedForwardSpec& feed_forward,
                    const std::function<void(const std::string&)>& add) {
  if (const auto& moe = feed_forward.moe) {
    add(absl::StrCat("experts, ", moe->chosen, " of ", moe->experts));
    if (moe->shared_width > 0) add("a shared expert");
    if (moe->groups > 1) add("experts in groups");
    if (moe->clamp > 0) add("clamped experts");
    if (moe->beside_dense) add("experts beside a dense MLP");
  }
  if (feed_forward.dense.width > 0 && !feed_forward.dense.gated) add("plain MLP");
  if (feed_forward.dense.sparsity > 0) add("sparse activation");
}

std::string WhatIsSpecial(const ModelSpec& spec) {
  std::vector<std::string> words;
  const std::function<void(const std::string&)> add = [&](const std::string& word) {
    if (!word.empty() && std::find(words.begin(), words.end(), word) == words.end())
      words.push_back(word);
  };
  for (const LayerSpec& layer : spec.layers) {
    if (layer.delta_net() != nullptr) add("gated delta nets");
    if (layer.short_conv() != nullptr) add("short convolutions");
    if (const AttentionSpec* attention = layer.attention()) AddAttention(spec, *attention, add);
    add(PlacementWords(layer.placement));
    if (layer.norm.kind == NormKind::kLayer) add("layer norm");
    AddFeedForward(layer.feed_forward, add);
    if (layer.residual_multiplier != 1.0f) add("residual multiplier");
    if (layer.layer_scale) add("layer scale");
  }
  if (spec.embedding.learned_positions) add("learned positions");
  if (spec.embedding.multiplier != 1.0f) add("embedding multiplier");
  if (spec.embedding.norm.kind != NormKind::kNone) add("norm of embeddings");
  if (spec.head.multiplier != 1.0f) add("logit multiplier");
  if (spec.head.softcap > 0) add("soft cap of logits");
  if (spec.per_layer_embedding.size > 0) add("per-layer embeddings");
  if (spec.altup.streams > 1) add("alternating streams");
  return absl::StrJoin(words, ", ");
}

// By checkpoint.
std::map<std::string, std::string> Rows() {
  std::map<std::string, std::string> rows;
  for (const std::string& name : Names()) {
    const auto spec = LoadHfConfig(ArchitectureFolder(name));
    EXPECT_TRUE(spec.ok()) << name << ": " << spec.status();
    if (!spec.ok()) continue;
    const KvLayout layout = spec->MakeKvLayout(KvElementType::kBf16, 32).value();
    rows[name] =
        absl::StrCat("| ", name, " | `", spec->architecture, "` | ", spec->SharingName(), " | ",
                     Groups(layout), " | ", layout.resident_bytes_per_token(), " / ",
                     layout.read_bytes_per_token(), " | ", WhatIsSpecial(*spec), " |");
  }
  return rows;
}

TEST(ModelsPageTest, IsWhatTheParsersMakeOfEveryCheckpoint) {
  const std::filesystem::path page = SourceRoot() / "docs/models.md";
  const std::map<std::string, std::string> rows = Rows();
  ASSERT_GE(rows.size(), 11u);  // those committed
  if (std::getenv("KVASIR_WRITE_PAGES") != nullptr) {
    ASSERT_GE(rows.size(), 52u) << "set KVASIR_SHARED to the folder that holds arch/";
    std::ofstream out(page);
    out << kHead;
    for (const auto& [name, row] : rows) out << row << "\n";
    return;
  }
  std::ifstream file(page);
  std::stringstream text;
  text << file.rdbuf();
  const std::string is = text.str();
  EXPECT_EQ(is.substr(0, sizeof(kHead) - 1), kHead) << "run tests/write_pages.sh";
  const std::vector<std::string> lines = absl::StrSplit(is, '\n');
  for (const auto& [name, row] : rows) {
    EXPECT_NE(std::find(lines.begin(), lines.end(), row), lines.end())
        << "docs/models.md lacks\n"
        << row << "\nrun tests/write_pages.sh, and commit what it changes";
  }
  const auto table_rows = std::count_if(lines.begin(), lines.end(), [](const std::string& line) {
    return line.starts_with("| ") && !line.starts_with("| checkpoint");
  });
  EXPECT_GE(table_rows, 52);
}

}  // namespace
}  // namespace kvasir::testing
