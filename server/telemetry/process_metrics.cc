#include "server/telemetry/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/cpu_topology.h"
#include "prometheus/client_metric.h"
#include "prometheus/metric_type.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Single(const char* name, const char* help, MetricType type, double value) {
  ClientMetric metric;
  (type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  family.metric.push_back(std::move(metric));
  return family;
}

int64_t OpenFilesLimit() {
  rlimit limit = {};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? static_cast<int64_t>(limit.rlim_cur) : 0;
}

// Fields of /proc/self/stat from the third ("state") on: the second, the command's name, may hold
// spaces and parentheses, so counting starts behind its last one. See proc(5).
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t end_of_name = line.rfind(')');
  if (end_of_name == std::string::npos) return {};
  return absl::StrSplit(line.substr(end_of_name + 1), ' ', absl::SkipEmpty());
}

// `number`: as proc(5) counts, from 1.
double StatField(const std::vector<std::string>& fields, size_t number) {
  double value = 0;
  if (number - 3 >= fields.size() || !absl::SimpleAtod(fields[number - 3], &value)) return 0;
  return value;
}

// Figures that could not be read, and are left out rather than told wrong.
std::atomic<int64_t> g_unread_total = 0;

// Seconds since 1970 at which the machine started; 0 when unknown. Never changes.
double BootTimeSeconds() {
  static std::atomic<double> known = 0;
  if (known > 0) return known;
  std::ifstream file("/proc/stat");
  std::string line;
  while (std::getline(file, line)) {
    double seconds = 0;
    if (line.rfind("btime ", 0) == 0 && absl::SimpleAtod(line.substr(6), &seconds)) {
      return known = seconds;
    }
  }
  return 0;
}

std::optional<int> OpenDescriptors() {
  std::error_code error;
  int count = 0;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", error), end;
       !error && entry != end; entry.increment(error)) {
    ++count;
  }
  if (error) return std::nullopt;  // there may be none left to look with
  return count;
}

// A line when figures begin to be missing, not one for each scrape.
void TellUnread(int64_t unread_now) {
  static std::atomic<bool> told = false;
  if (unread_now == 0) {
    told = false;
  } else if (!told.exchange(true)) {
    LogWarning("figures of the process cannot be read and are left out of /metrics",
               {{"figures", unread_now}, {"open_files_limit", OpenFilesLimit()}});
  }
}

}  // namespace

std::vector<MetricFamily> CollectProcessMetrics() {
  std::vector<MetricFamily> families;
  const int64_t limits_unread = LimitsUnreadTotal();
  int64_t unread = 0;
  const std::vector<std::string> stat = StatFields();
  const double ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  if (!stat.empty()) {
    families.push_back(Single("process_cpu_seconds_total", "User and system CPU time",
                              MetricType::Counter,
                              (StatField(stat, 14) + StatField(stat, 15)) / ticks_per_second));
    families.push_back(Single("process_threads", "Threads of the process", MetricType::Gauge,
                              StatField(stat, 20)));
    families.push_back(Single("process_virtual_memory_bytes", "Address space in use",
                              MetricType::Gauge, StatField(stat, 23)));
    families.push_back(Single("process_resident_memory_bytes", "Memory resident", MetricType::Gauge,
                              StatField(stat, 24) * static_cast<double>(sysconf(_SC_PAGESIZE))));
    if (const double boot_time_seconds = BootTimeSeconds(); boot_time_seconds > 0) {
      families.push_back(Single("process_start_time_seconds", "Start of the process, since 1970",
                                MetricType::Gauge,
                                boot_time_seconds + StatField(stat, 22) / ticks_per_second));
    } else {
      ++unread;
    }
  } else {
    ++unread;
  }
  if (const std::optional<int> descriptors = OpenDescriptors(); descriptors.has_value()) {
    families.push_back(
        Single("process_open_fds", "Open file descriptors", MetricType::Gauge, *descriptors));
  } else {
    ++unread;
  }
  families.push_back(Single("process_max_fds", "Most file descriptors allowed", MetricType::Gauge,
                            static_cast<double>(OpenFilesLimit())));
  families.push_back(Single("kvasir_usable_memory_bytes",
                            "Memory that the process may use: the machine's, or less where a "
                            "control group says so",
                            MetricType::Gauge, static_cast<double>(UsableMemoryBytes())));
  families.push_back(Single("kvasir_usable_cpus",
                            "CPUs that the process may use: its affinity, or less where a control "
                            "group says so",
                            MetricType::Gauge, UsableCpus()));
  // Loads of models ask for the limits too.
  TellUnread(unread + (LimitsUnreadTotal() - limits_unread));
  g_unread_total += unread;
  families.push_back(Single(
      "kvasir_process_figures_unread_total",
      "Reads of /proc, and of the control groups' limits, that the system refused: such figures "
      "are left out, and limits are those read before",
      MetricType::Counter, static_cast<double>(g_unread_total + LimitsUnreadTotal())));
  return families;
}

}  // namespace kvasir
