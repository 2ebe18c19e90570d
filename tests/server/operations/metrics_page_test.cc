// docs/operations/metrics.md is what the registry says. With KVASIR_WRITE_PAGES=1 in the
// environment, makes it so.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "server/telemetry/metrics.h"

namespace kvasir {
namespace {

constexpr const char* kPage = "docs/operations/metrics.md";

constexpr const char* kHead = R"(# Metrics

<!-- Made from the registry by tests/write_pages.sh: change server/telemetry, not this page. -->

`/metrics` speaks Prometheus. A scrape takes no lock of the engine. Request and session ids are never labels; `tenant` is a
tenant of the configuration, `anonymous` or `other`; `model` is a served name. With `metrics.compat: vllm` the main figures
appear under vLLM's names too. What to look at first: [monitoring.md](monitoring.md).

| name | type | labels | meaning |
|---|---|---|---|
)";

// One sample at least of every family.
std::string Everything() {
  Metrics metrics({"acme"});
  TenantPolicies policies;
  policies.others.limits.max_requests = 1;
  metrics.SetQuotas(policies);
  metrics.OnGenerateStarted();
  metrics.OnGenerateDone("m", "acme", absl::StatusCode::kOk);
  for (int reason = 0; reason <= static_cast<int>(RefusalReason::kError); ++reason) {
    metrics.OnRefused(
        {.model = "m", .tenant = "acme", .refusal = {static_cast<RefusalReason>(reason)}});
  }
  const std::unique_ptr<EngineObserver> engine = metrics.MakeEngineObserver("m", "gqa");
  GenerationRequest request;
  FinishedEvent outcome;
  outcome.completions.resize(1);
  RequestSummary summary;
  summary.request = &request;
  summary.outcome = &outcome;
  engine->OnFinished(summary);
  engine->OnSessionEvicted("ttl");
  ModelFacts facts;
  facts.model = "m";
  facts.weight_format_bytes = {{"bf16", 1}};
  facts.limits = {{"max_running", 1},  {"max_waiting", 1},     {"max_waiting_tokens", 1},
                  {"max_sessions", 1}, {"max_spill_bytes", 1}, {"max_prefix_spill_bytes", 1}};
  metrics.AddModel(facts, [] { return EngineStats{}; });
  return metrics.Exposition();
}

// Labels whose values are few, ours, and all among the samples above; of the others only the names
// are shown.
bool ShowsValues(absl::string_view family, absl::string_view label) {
  if (label == "reason") return family == "kvasir_requests_rejected_total";
  static const auto* const shown =
      new std::set<absl::string_view>{"state", "kind", "phase", "path", "cause", "result", "limit"};
  return shown->count(label) > 0;
}

struct Family {
  std::string type;
  std::string help;
  std::map<std::string, std::set<std::string>> labels;  // and their values
};

// A sample belongs to the family whose TYPE line stood last: the serializer keeps them together.
std::map<std::string, Family> Parse(const std::string& exposition) {
  std::map<std::string, Family> families;
  std::string current;
  for (const absl::string_view line : absl::StrSplit(exposition, '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# ")) {
      const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
      current = words[2];
      (words[1] == "HELP" ? families[current].help : families[current].type) = words[3];
      continue;
    }
    const size_t begin = line.find('{'), end = line.rfind('}');
    if (begin == absl::string_view::npos) continue;
    for (const absl::string_view pair :
         absl::StrSplit(line.substr(begin + 1, end - begin - 1), "\",", absl::SkipEmpty())) {
      const std::pair<std::string, std::string> label =
          absl::StrSplit(pair, absl::MaxSplits("=\"", 1));
      if (label.first == "le") continue;
      families[current].labels[label.first].insert(absl::StrReplaceAll(label.second, {{"\"", ""}}));
    }
  }
  return families;
}

std::string Page() {
  std::string page = kHead;
  for (const auto& [name, family] : Parse(Everything())) {
    std::vector<std::string> labels;
    for (const auto& [label, values] : family.labels) {
      labels.push_back(ShowsValues(name, label)
                           ? absl::StrCat("`", label, "`: ", absl::StrJoin(values, ", "))
                           : absl::StrCat("`", label, "`"));
    }
    absl::StrAppend(&page, "| `", name, "` | ", family.type, " | ", absl::StrJoin(labels, "; "),
                    " | ", family.help, " |\n");
  }
  return page;
}

TEST(MetricsPage, IsWhatTheRegistrySays) {
  const std::string page = Page();
  if (std::getenv("KVASIR_WRITE_PAGES") != nullptr) {
    std::ofstream(kPage) << page;
    return;
  }
  std::ifstream file(kPage);
  const std::string committed{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(committed, page) << kPage
                             << " is stale: run tests/write_pages.sh, and commit what it changes";
}

TEST(MetricsPage, EveryFamilySaysWhatItMeans) {
  const std::map<std::string, Family> families = Parse(Everything());
  EXPECT_GT(families.size(), 50u);
  for (const auto& [name, family] : families) {
    EXPECT_FALSE(family.help.empty()) << name;
    EXPECT_FALSE(family.type.empty()) << name;
  }
}

}  // namespace
}  // namespace kvasir
