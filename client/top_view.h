// The screen of `kvasir top` as text: the pool of each model by state, tenants, requests and
// sessions, the largest KV holders first. Pure: what to show goes in, lines come out.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "kvasir/v1/admin.pb.h"
#include "kvasir/v1/generation.pb.h"
#include "kvasir/v1/session.pb.h"

namespace kvasir {

// One look at a daemon.
struct TopSnapshot {
  absl::Time taken;
  std::string server;  // as the user names it
  v1::GetStatsResponse stats;
  std::vector<v1::Model> models;  // for the sharing schemes
  v1::ListRequestsResponse requests;
  v1::ListSessionsResponse sessions;
};

struct TopScreen {
  int columns = 130;
  int rows = 40;       // lists are cut to fit; at least the models are always shown
  bool color = false;  // ANSI colours for the parts of the pool
};

// Rates are differences to `before`, an earlier look at the same daemon; null, or a daemon that was
// restarted since: rates are shown as "-". Names from the wire are shown with everything but
// printable ASCII replaced, so that they cannot steer the terminal. Each line ends with '\n'.
std::string RenderTop(const TopSnapshot& now, const TopSnapshot* before, const TopScreen& screen);

// A bar of `width` characters for the pool: '#' live, '+' cached, '.' free. Something that is not
// zero has at least one character while there is room.
std::string PoolBar(int64_t live, int64_t cached, int64_t capacity, int width);

}  // namespace kvasir
