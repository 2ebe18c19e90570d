#include "client/top_view.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/byte_text.h"
#include "client/message_json.h"
#include "client/text_table.h"

namespace kvasir {
namespace {

constexpr char kLiveColor[] = "\033[31m";
constexpr char kCachedColor[] = "\033[33m";
constexpr char kFreeColor[] = "\033[32m";
constexpr char kHeadColor[] = "\033[7m";
constexpr char kPlain[] = "\033[0m";
constexpr int kMinColumns = 40;
constexpr int kBarColumns = 50;
constexpr int kMinBarColumns = 10;
constexpr int kMinNameColumns = 12;

// At most `width` characters, nothing but printable ASCII.
std::string Printable(const std::string& text, size_t width) {
  std::string safe = text.substr(0, width);
  for (char& c : safe) {
    if (c < ' ' || c > '~') c = '?';
  }
  if (text.size() > width && width > 1) safe.back() = '~';
  return safe;
}

std::string RateText(double per_second) {
  if (per_second < 0) return "-";
  return absl::StrFormat("%.*f", per_second < 100 ? 1 : 0, per_second);
}

std::string DurationText(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 100) return absl::StrFormat("%.1fs", seconds);
  if (whole < 6000) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
}

class Screen {
 public:
  Screen(const TopSnapshot& now, const TopSnapshot* before, const TopScreen& screen)
      : now_(now), before_(before), screen_(screen) {
    screen_.columns = std::max(screen_.columns, kMinColumns);
    // A daemon that was restarted began to count anew.
    if (before_ != nullptr && now_.stats.uptime_seconds() < before_->stats.uptime_seconds()) {
      before_ = nullptr;
    }
    seconds_ = before_ == nullptr ? 0 : absl::ToDoubleSeconds(now_.taken - before_->taken);
    if (seconds_ <= 0) before_ = nullptr;
  }

  std::string Render() {
    Summary();
    for (const v1::ModelStats& model : now_.stats.models()) ModelLines(model);
    Tenants();
    Requests();
    Sessions();
    return std::move(text_);
  }

 private:
  int rows_left() const { return screen_.rows - rows_; }

  void Line(std::string line) {
    if (static_cast<int>(line.size()) > screen_.columns) {
      line.resize(static_cast<size_t>(screen_.columns));
    }
    absl::StrAppend(&text_, line, "\n");
    ++rows_;
  }

  // The title of a list, across the screen.
  void Heading(std::string line) {
    line.resize(static_cast<size_t>(screen_.columns), ' ');
    if (screen_.color) {
      absl::StrAppend(&text_, kHeadColor, line, kPlain, "\n");
      ++rows_;
    } else {
      Line(std::move(line));
    }
  }

  const v1::ModelStats* Before(const std::string& model) const {
    if (before_ == nullptr) return nullptr;
    for (const v1::ModelStats& stats : before_->stats.models()) {
      if (stats.model() == model) return &stats;
    }
    return nullptr;
  }

  // -1 = not known.
  template <typename Count>
  double Rate(const v1::ModelStats& model, Count count) const {
    const v1::ModelStats* before = Before(model.model());
    return before == nullptr
               ? -1
               : static_cast<double>((model.*count)() - (before->*count)()) / seconds_;
  }

  double RequestRate(const v1::RequestInfo& request) const {
    if (before_ == nullptr) return -1;
    for (const v1::RequestInfo& earlier : before_->requests.requests()) {
      if (earlier.request_id() == request.request_id() && earlier.model() == request.model()) {
        return (request.generated_tokens() - earlier.generated_tokens()) / seconds_;
      }
    }
    return -1;
  }

  const v1::Model* Description(const std::string& name) const {
    for (const v1::Model& model : now_.models) {
      if (model.name() == name) return &model;
    }
    return nullptr;
  }

  // Parts of a line, on as many lines as they take.
  void Parts(const std::vector<std::string>& parts) {
    std::string line;
    for (const std::string& part : parts) {
      const std::string longer =
          line.empty() ? absl::StrCat("  ", part) : absl::StrCat(line, "   ", part);
      if (!line.empty() && static_cast<int>(longer.size()) > screen_.columns) {
        Line(std::exchange(line, absl::StrCat("  ", part)));
      } else {
        line = longer;
      }
    }
    Line(line);
  }

  void Summary() {
    Line(absl::StrFormat("kvasird %s at %s, up %s%s", Printable(now_.stats.version(), 20),
                         Printable(now_.server, 60), DurationText(now_.stats.uptime_seconds()),
                         now_.stats.draining() ? ", DRAINING" : ""));
  }

  void ModelLines(const v1::ModelStats& model) {
    const v1::Model* description = Description(model.model());
    std::string scheme;
    if (description != nullptr) {
      scheme = absl::StrFormat(
          "  %s, KV per token: %s held, %s read", Printable(description->sharing(), 16),
          ByteText(static_cast<double>(description->kv_bytes_per_token_resident())),
          ByteText(static_cast<double>(description->kv_bytes_per_token_read())));
    }
    Line("");
    const int room = screen_.columns - static_cast<int>(scheme.size());
    Line(absl::StrCat(
        Printable(model.model(), static_cast<size_t>(std::clamp(room, kMinNameColumns, 40))),
        scheme));
    PoolLines(model);
    const double read = Rate(model, &v1::ModelStats::kv_bytes_read_total);
    const double prompt = Rate(model, &v1::ModelStats::prompt_tokens_total);
    const double cached = Rate(model, &v1::ModelStats::cached_tokens_total);
    Parts({absl::StrFormat("requests %d running, %d waiting", model.running(), model.waiting()),
           absl::StrFormat("sessions %d (%d busy, %d on disk)", model.sessions(),
                           model.sessions_busy(), model.sessions_spilled()),
           absl::StrFormat("preemptions %d", model.preemptions_total())});
    Parts({absl::StrFormat("tokens/s %s generated, %s prompt (%s cached)",
                           RateText(Rate(model, &v1::ModelStats::generated_tokens_total)),
                           RateText(prompt),
                           prompt > 0 ? absl::StrFormat("%.0f%%", 100 * cached / prompt) : "-"),
           absl::StrFormat("steps/s %s", RateText(Rate(model, &v1::ModelStats::steps_total))),
           absl::StrFormat("KV read %s", read < 0 ? "-" : absl::StrCat(ByteText(read), "/s"))});
  }

  // The figures always; beside them, or on a line of its own, the bar.
  void PoolLines(const v1::ModelStats& model) {
    const std::string legend = absl::StrFormat(
        "live %s, cached %s, free %s of %s", ByteText(static_cast<double>(model.kv_live_bytes())),
        ByteText(static_cast<double>(model.kv_cached_bytes())),
        ByteText(static_cast<double>(model.kv_free_bytes())),
        ByteText(static_cast<double>(model.kv_capacity_bytes())));
    constexpr int kFrameColumns = sizeof("  KV [] ") - 1;
    const int beside = screen_.columns - kFrameColumns - static_cast<int>(legend.size());
    const bool fits = beside >= kMinBarColumns;
    const std::string bar =
        PoolBar(model.kv_live_bytes(), model.kv_cached_bytes(), model.kv_capacity_bytes(),
                std::min(kBarColumns, fits ? beside : screen_.columns - kFrameColumns));
    const std::string tail = fits ? absl::StrCat("] ", legend) : "]";
    if (screen_.color) {
      // Colours take no room on the screen.
      const size_t cached = std::min(bar.find_first_not_of('#'), bar.size());
      const size_t free = std::min(bar.find('.'), bar.size());
      absl::StrAppend(&text_, "  KV [", kLiveColor, bar.substr(0, cached), kCachedColor,
                      bar.substr(cached, free - cached), kFreeColor, bar.substr(free), kPlain, tail,
                      "\n");
      ++rows_;
    } else {
      Line(absl::StrCat("  KV [", bar, tail));
    }
    if (!fits) Line(absl::StrCat("  ", legend));
  }

  void Tenants() {
    // A tenant appears once per model; an anonymous one alone tells nothing new.
    int count = 0;
    bool named = false;
    for (const v1::ModelStats& model : now_.stats.models()) {
      count += model.tenants_size();
      for (const v1::TenantStats& tenant : model.tenants()) named |= !tenant.tenant().empty();
    }
    if (!named || rows_left() < 4) return;
    const TextTable table({{"tenant", 24, TextTable::kAlways, true},
                           {"model", 20, 2, true},
                           {"requests", 8, 5},
                           {"sessions", 8, 4},
                           {"KV held", 11, 3},
                           {"exclusive", 11, 1},
                           {"share", 11, 6}},
                          /*first_width=*/12, screen_.columns);
    Line("");
    Heading(table.Title());
    int shown = 0;
    for (const v1::ModelStats& model : now_.stats.models()) {
      std::vector<const v1::TenantStats*> tenants;
      for (const v1::TenantStats& tenant : model.tenants()) tenants.push_back(&tenant);
      std::stable_sort(tenants.begin(), tenants.end(), [](const auto* a, const auto* b) {
        return a->kv_bytes_proportional() > b->kv_bytes_proportional();
      });
      for (const v1::TenantStats* tenant : tenants) {
        // Half of what is left: requests matter as well.
        if (rows_left() < 3 || (shown > 4 && shown > screen_.rows / 3)) break;
        Line(table.Row({tenant->tenant().empty() ? "(anonymous)" : Printable(tenant->tenant(), 24),
                        Printable(model.model(), 20), absl::StrCat(tenant->requests()),
                        absl::StrCat(tenant->sessions()),
                        ByteText(static_cast<double>(tenant->kv_bytes_physical())),
                        ByteText(static_cast<double>(tenant->kv_bytes_exclusive())),
                        ByteText(tenant->kv_bytes_proportional())}));
        ++shown;
      }
    }
    if (shown < count) Line(absl::StrFormat("  and %d more", count - shown));
  }

  void Requests() {
    if (rows_left() < 3) return;
    const TextTable table({{"request", 24, TextTable::kAlways, true},
                           {"tenant", 10, 2, true},
                           {"model", 16, 1, true},
                           {"state", 9, 8, true},
                           {"prompt", 7, 5},
                           {"cached", 7, 3},
                           {"made", 7, 7},
                           {"tok/s", 7, 6},
                           {"KV held", 10, 4},
                           {"KV share", 10, 10},
                           {"age", 8, 9}},
                          /*first_width=*/12, screen_.columns);
    Line("");
    Heading(table.Title());
    // Sessions get the last quarter of the screen when there are any.
    const int reserved = now_.sessions.sessions().empty() ? 1 : 3 + screen_.rows / 4;
    int shown = 0;
    for (const v1::RequestInfo& request : now_.requests.requests()) {
      if (rows_left() <= reserved && shown > 0) break;
      if (rows_left() < 1) break;
      Line(table.Row({Printable(request.request_id(), 24), Printable(request.tenant(), 10),
                      Printable(request.model(), 16), Printable(request.state(), 9),
                      absl::StrCat(request.prompt_tokens()), absl::StrCat(request.cached_tokens()),
                      absl::StrCat(request.generated_tokens()), RateText(RequestRate(request)),
                      ByteText(static_cast<double>(request.kv_bytes_physical())),
                      ByteText(request.kv_bytes_proportional()),
                      DurationText(request.age_seconds())}));
      ++shown;
    }
    if (shown < now_.requests.total() && rows_left() > 0) {
      Line(absl::StrFormat("  and %d more", now_.requests.total() - shown));
    }
  }

  void Sessions() {
    if (now_.sessions.sessions().empty() || rows_left() < 3) return;
    const TextTable table({{"session", 24, TextTable::kAlways, true},
                           {"model", 16, 1, true},
                           {"state", 9, 8, true},
                           {"tokens", 7, 5},
                           {"turns", 7, 2},
                           {"KV held", 10, 4},
                           {"KV share", 10, 7},
                           {"on disk", 10, 3},
                           {"idle", 8, 6}},
                          /*first_width=*/12, screen_.columns);
    Line("");
    Heading(table.Title());
    int shown = 0;
    for (const v1::Session& session : now_.sessions.sessions()) {
      if (rows_left() < 2) break;
      Line(table.Row({Printable(session.session_id(), 24), Printable(session.model(), 16),
                      EnumText(session.state()), absl::StrCat(session.tokens()),
                      absl::StrCat(session.turns()),
                      ByteText(static_cast<double>(session.kv_bytes_physical())),
                      ByteText(session.kv_bytes_proportional()),
                      ByteText(static_cast<double>(session.spilled_bytes())),
                      DurationText(session.idle_seconds())}));
      ++shown;
    }
    if (shown < now_.sessions.total() && rows_left() > 0) {
      Line(absl::StrFormat("  and %d more", now_.sessions.total() - shown));
    }
  }

  const TopSnapshot& now_;
  const TopSnapshot* before_;
  TopScreen screen_;
  double seconds_ = 0;  // since before_
  std::string text_;
  int rows_ = 0;
};

}  // namespace

std::string PoolBar(int64_t live, int64_t cached, int64_t capacity, int width) {
  if (capacity <= 0 || width <= 0) return std::string(static_cast<size_t>(std::max(width, 0)), '.');
  const auto characters = [&](int64_t bytes) {
    const double exact = static_cast<double>(bytes) * width / static_cast<double>(capacity);
    return bytes == 0 ? 0 : std::max(1, static_cast<int>(std::lround(exact)));
  };
  const int live_characters = std::min(characters(live), width);
  const int cached_characters = std::min(characters(cached), width - live_characters);
  return std::string(static_cast<size_t>(live_characters), '#') +
         std::string(static_cast<size_t>(cached_characters), '+') +
         std::string(static_cast<size_t>(width - live_characters - cached_characters), '.');
}

std::string RenderTop(const TopSnapshot& now, const TopSnapshot* before, const TopScreen& screen) {
  return Screen(now, before, screen).Render();
}

}  // namespace kvasir
