#include "client/progress_bar.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"

namespace kvasir {
namespace {

constexpr int kBarCells = 30;
// Fast enough to look alive, slow enough not to cost anything.
constexpr absl::Duration kRedrawInterval = absl::Milliseconds(100);

}  // namespace

ProgressBar::ProgressBar(std::string title, int64_t total, bool enabled)
    : title_(std::move(title)),
      total_(std::max<int64_t>(total, 1)),
      enabled_(enabled),
      is_terminal_(isatty(STDERR_FILENO) != 0),
      start_(absl::Now()) {}

ProgressBar::~ProgressBar() {
  if (enabled_ && is_terminal_) std::fputc('\n', stderr);
}

void ProgressBar::Set(int64_t done, const std::string& note) {
  if (!enabled_) return;
  absl::MutexLock lock(&mutex_);
  const absl::Time now = absl::Now();
  const int64_t tenth = done * 10 / total_;
  const bool complete = done >= total_;
  if (is_terminal_ ? (!complete && now - last_draw_ < kRedrawInterval) : tenth == last_tenth_)
    return;
  last_draw_ = now;
  last_tenth_ = tenth;

  const double elapsed_seconds = absl::ToDoubleSeconds(now - start_);
  const double rest_seconds = done > 0 ? elapsed_seconds * (total_ - done) / done : 0;
  const int filled = static_cast<int>(std::min<int64_t>(done, total_) * kBarCells / total_);
  const std::string line = absl::StrFormat(
      "%s [%s%s] %3d%%  %d/%d  %s  %.0fs left", title_, std::string(filled, '#'),
      std::string(kBarCells - filled, '.'), done * 100 / total_, done, total_, note, rest_seconds);
  // Erases what a longer line left behind.
  std::fputs(absl::StrCat(is_terminal_ ? "\r\x1b[K" : "", line, is_terminal_ ? "" : "\n").c_str(),
             stderr);
  std::fflush(stderr);
}

}  // namespace kvasir
