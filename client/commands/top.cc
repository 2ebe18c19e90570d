// kvasir top: the daemon's requests, sessions and KV pool, refreshed until Ctrl-C or q.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "client/call_error.h"
#include "client/commands/command.h"
#include "client/interrupt_watcher.h"
#include "client/json_output.h"
#include "client/message_json.h"
#include "client/top_view.h"

namespace kvasir {
namespace {

// A daemon that does not answer within this long is shown as unreachable, and asked again.
constexpr absl::Duration kAnswerTime = absl::Seconds(5);

// More rows than any screen has.
constexpr int kMaxRows = 500;

absl::StatusOr<TopSnapshot> Look(GenerationClient* client, const CommandLine& line) {
  CallOptions options;
  options.timeout = line.TimeoutOr(kAnswerTime);
  TopSnapshot snapshot;
  snapshot.server = line.server();
  auto stats = client->GetStats(options);
  if (!stats.ok()) return stats.status();
  snapshot.taken = absl::Now();
  snapshot.stats = *std::move(stats);
  v1::ListRequestsRequest requests;
  requests.set_limit(kMaxRows);
  auto request_list = client->ListRequests(requests, options);
  if (!request_list.ok()) return request_list.status();
  snapshot.requests = *std::move(request_list);
  // A draining daemon answers no questions about models and sessions; what it still runs is shown.
  if (auto models = client->ListModels(options); models.ok()) snapshot.models = *std::move(models);
  v1::ListSessionsRequest sessions;
  sessions.set_limit(kMaxRows);
  if (auto session_list = client->ListSessions(sessions, options); session_list.ok()) {
    snapshot.sessions = *std::move(session_list);
  }
  return snapshot;
}

std::string AsJson(const TopSnapshot& snapshot) {
  auto models = nlohmann::ordered_json::array(), requests = models, sessions = models;
  for (const auto& model : snapshot.stats.models()) models.push_back(MessageToJson(model));
  for (const auto& request : snapshot.requests.requests())
    requests.push_back(MessageToJson(request));
  for (const auto& session : snapshot.sessions.sessions())
    sessions.push_back(MessageToJson(session));
  return DumpJson({{"time_seconds", absl::ToDoubleSeconds(snapshot.taken - absl::UnixEpoch())},
                   {"uptime_seconds", snapshot.stats.uptime_seconds()},
                   {"draining", snapshot.stats.draining()},
                   {"models", std::move(models)},
                   {"requests", std::move(requests)},
                   {"sessions", std::move(sessions)}});
}

// The terminal while top runs: a screen of its own, keys without Enter. Puts everything back.
class Terminal {
 public:
  Terminal() : is_screen_(isatty(STDOUT_FILENO) == 1), has_keys_(isatty(STDIN_FILENO) == 1) {
    if (is_screen_) std::cout << "\033[?1049h\033[?25l" << std::flush;
    if (!has_keys_ || tcgetattr(STDIN_FILENO, &saved_) != 0) {
      has_keys_ = false;
      return;
    }
    termios raw = saved_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  ~Terminal() {
    if (has_keys_) tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
    if (is_screen_) std::cout << "\033[?25h\033[?1049l" << std::flush;
  }
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;

  // Whether somebody watches.
  bool is_screen() const { return is_screen_; }

  TopScreen Size() const {
    TopScreen screen;
    winsize size = {};
    if (is_screen_ && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
      screen.columns = size.ws_col;
      screen.rows = size.ws_row - 1;  // the last one holds the cursor
    }
    screen.color = is_screen_;
    return screen;
  }

  void Show(const std::string& text) const {
    if (is_screen_) {
      // Overwrites in place and clears the rest of each line: no flicker.
      std::cout << "\033[H" << absl::StrReplaceAll(text, {{"\n", "\033[K\n"}}) << "\033[J";
    } else {
      std::cout << text << "\n";
    }
    std::cout << std::flush;
  }

  // Waits; true when q was pressed or `canceller` fired.
  bool Pause(absl::Duration duration, const Canceller& canceller) const {
    const absl::Time end = absl::Now() + duration;
    // Short waits, so that Ctrl-C is felt at once.
    for (absl::Duration left; (left = end - absl::Now()) > absl::ZeroDuration();) {
      if (canceller.cancelled()) return true;
      pollfd keys = {has_keys_ ? STDIN_FILENO : -1, POLLIN, 0};
      const auto wait = std::min(left, absl::Milliseconds(50));
      if (poll(&keys, 1, static_cast<int>(absl::ToInt64Milliseconds(wait)) + 1) > 0) {
        char key = 0;
        if (read(STDIN_FILENO, &key, 1) == 1 && (key == 'q' || key == 'Q')) return true;
      }
    }
    return canceller.cancelled();
  }

 private:
  const bool is_screen_;
  bool has_keys_;
  termios saved_ = {};
};

}  // namespace

int RunTop(const Arguments& arguments) {
  CommandLine line("top", "[flags]",
                   "Shows the KV pool, tenants, requests and sessions of a daemon, near or remote, "
                   "and refreshes. The largest\n"
                   "KV holders come first; a pool is # live, + cached, . free. Ends with q or "
                   "Ctrl-C, after --frames, or\n"
                   "when nobody reads its output any more. Into a file or a pipe: two looks, of "
                   "which the second is shown.");
  std::optional<double> interval_seconds;
  std::optional<int32_t> frames;
  line.flags().Add("interval", "SECONDS", "time between two looks (default 2)", &interval_seconds);
  line.flags().Add("frames", "N",
                   "looks until it ends (default: no end on a terminal and "
                   "with --json)",
                   &frames);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (!line.positional().empty()) return line.UsageError("takes no arguments");
  const double interval = interval_seconds.value_or(2);
  if (!(interval >= 0.05 && interval <= 86400)) {
    return line.UsageError(absl::StrCat("--interval is ", interval, " but must be 0.05 to 86400"));
  }
  if (frames.has_value() && *frames < 1) {
    return line.UsageError(absl::StrCat("--frames is ", *frames, " but must be at least 1"));
  }

  InterruptWatcher interrupts;
  Canceller canceller;
  interrupts.SetAction([&canceller] { canceller.Cancel(); });
  const auto client = line.MakeClient();
  std::optional<Terminal> terminal;
  if (!line.json()) terminal.emplace();
  const Terminal* const screen = terminal.has_value() ? &*terminal : nullptr;

  // Rates want two looks; what is not watched wants one screen.
  const bool shows_last_only = screen != nullptr && !screen->is_screen() && !frames.has_value();
  if (shows_last_only) frames = 2;
  std::optional<TopSnapshot> before;
  absl::Status last = absl::OkStatus();
  // Without a reader (kvasir top | head) there is nothing more to do.
  for (int frame = 0; (!frames.has_value() || frame < *frames) && std::cout; ++frame) {
    const absl::Duration pause = absl::Seconds(interval);
    if (frame > 0) {
      if (screen != nullptr) {
        if (screen->Pause(pause, canceller)) break;
      } else {
        for (const absl::Time end = absl::Now() + pause;
             absl::Now() < end && !canceller.cancelled();) {
          absl::SleepFor(std::min(end - absl::Now(), absl::Milliseconds(50)));
        }
        if (canceller.cancelled()) break;
      }
    }
    absl::StatusOr<TopSnapshot> now = Look(client.get(), line);
    last = now.status();
    if (!now.ok()) {
      // The first look decides whether there is a daemon at all; later it may come back.
      if (frame == 0) break;
      if (screen != nullptr) {
        screen->Show(absl::StrCat("no answer from ", line.server(),
                                  ", asking again: ", DescribeError(now.status()), "\n"));
      }
      continue;
    }
    if (screen == nullptr) {
      std::cout << AsJson(*now) << std::endl;
    } else if (!shows_last_only || frame > 0) {
      screen->Show(RenderTop(*now, before.has_value() ? &*before : nullptr, screen->Size()));
    }
    before = *std::move(now);
  }
  terminal.reset();
  interrupts.SetAction(nullptr);
  return last.ok() ? kExitOk : line.Fail(last);
}

}  // namespace kvasir
