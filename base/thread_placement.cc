#include "base/thread_placement.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/cpu_topology.h"

namespace kvasir {
namespace {

// More than any kernel is built for: a list that names more is not the kernel's.
constexpr int kMaxIds = 1 << 16;

// The kernel's lists of CPUs and nodes: "0-3,8,10-11". Empty when there is no such file, or it is
// something else.
std::vector<int> ReadIdList(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  std::vector<int> ids;
  for (const absl::string_view range : absl::StrSplit(line, ',', absl::SkipWhitespace())) {
    const std::vector<absl::string_view> ends = absl::StrSplit(range, '-');
    int first = 0, last = 0;
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &first) ||
        !absl::SimpleAtoi(ends.back(), &last) || first < 0 || last < first || last >= kMaxIds) {
      return {};
    }
    for (int id = first; id <= last; ++id) ids.push_back(id);
  }
  return ids;
}

std::string SystemFolder(const std::string& root) { return root + "/sys/devices/system"; }

}  // namespace

std::vector<Cpu> DescribeCpus(absl::Span<const int> ids, const std::string& root) {
  const std::string folder = SystemFolder(root);
  std::map<int, int> node_of;
  for (const int node : ReadIdList(folder + "/node/online")) {
    for (const int id : ReadIdList(absl::StrCat(folder, "/node/node", node, "/cpulist")))
      node_of.emplace(id, node);
  }
  std::vector<Cpu> cpus;
  for (const int id : ids) {
    const std::vector<int> siblings =
        ReadIdList(absl::StrCat(folder, "/cpu/cpu", id, "/topology/thread_siblings_list"));
    const auto node = node_of.find(id);
    cpus.push_back(
        {.id = id,
         .core = siblings.empty() ? id : *std::min_element(siblings.begin(), siblings.end()),
         .node = node == node_of.end() ? 0 : node->second});
  }
  return cpus;
}

ThreadPlan PlanThreads(absl::Span<const Cpu> cpus, double quota_cpus) {
  std::set<int> cores, nodes;
  for (const Cpu& cpu : cpus) {
    cores.insert(cpu.core);
    nodes.insert(cpu.node);
  }
  ThreadPlan plan;
  plan.cores = std::max(1, static_cast<int>(cores.size()));
  plan.threads = std::max(1, static_cast<int>(std::min<double>(plan.cores, std::ceil(quota_cpus))));
  plan.nodes.assign(nodes.begin(), nodes.end());
  return plan;
}

ThreadPlan PlanThreads() { return PlanThreads(DescribeCpus(AllowedCpus()), CpuQuota()); }

absl::Status SpreadPages(absl::Span<const int> nodes) {
  if (nodes.size() < 2) return absl::OkStatus();
  // The C library has no names for these calls.
  int policy = MPOL_DEFAULT;
  if (syscall(SYS_get_mempolicy, &policy, nullptr, 0, nullptr, 0) == 0 && policy != MPOL_DEFAULT)
    return absl::OkStatus();
  constexpr int kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> mask;
  for (const int node : nodes) {
    if (static_cast<size_t>(node / kBits) >= mask.size()) mask.resize(node / kBits + 1);
    mask[node / kBits] |= 1ul << (node % kBits);
  }
  // The kernel reads one bit less than it is told of.
  if (syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, mask.data(), kBits * mask.size() + 1) == 0)
    return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("pages cannot be spread over the ", nodes.size(),
                                             " memory nodes: ", std::strerror(errno)));
}

}  // namespace kvasir
