// Collects the faults of a configuration, so that one run shows them all. Used while checking only,
// by one thread.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/spelling.h"
#include "server/config/config_reader.h"

namespace kvasir {

// Each check returns the value, so that a wrong one does not hide the next. `path` names the field
// as in ConfigOrigins.
class ConfigChecker {
 public:
  // `origins` must outlive this.
  explicit ConfigChecker(const ConfigOrigins& origins) : origins_(origins) {}

  void Fault(const std::string& path, absl::string_view what) {
    if (faults_.size() < kMaxFaults) faults_.push_back(absl::StrCat(Where(path), path, " ", what));
  }

  // `hint` says how to choose, and ends the message.
  template <typename T>
  T Range(const std::string& path, T value, T least, T most, absl::string_view hint) {
    // Written so that NaN fails.
    if (!(value >= least && value <= most)) {
      Fault(path,
            absl::StrCat("is ", value, ", but must be between ", least, " and ", most, "; ", hint));
    }
    return value;
  }

  // The choice at the index of `value` in `names`.
  template <typename Choice>
  Choice OneOf(const std::string& path, const std::string& value,
               const std::vector<std::pair<std::string, Choice>>& choices) {
    std::vector<std::string> names;
    for (const auto& [name, choice] : choices) {
      if (name == value) return choice;
      names.push_back(name);
    }
    Fault(path, absl::StrCat("is '", value, "', but must be one of: ", absl::StrJoin(names, ", "),
                             DidYouMean(value, names)));
    return choices.front().second;
  }

  // InvalidArgument: the faults, one per line, each with where the value came from.
  absl::Status status() const {
    if (faults_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(faults_, "\n"));
  }

 private:
  // More than these are more likely one fault seen many times.
  static constexpr size_t kMaxFaults = 20;

  // "kvasird.yaml:12: " of the field, else of the nearest message around it; empty for pure
  // defaults.
  std::string Where(absl::string_view path) const {
    while (!path.empty()) {
      if (const auto found = origins_.find(path); found != origins_.end()) {
        return absl::StrCat(found->second, ": ");
      }
      const size_t end = path.find_last_of(".[");
      path = end == absl::string_view::npos ? absl::string_view() : path.substr(0, end);
    }
    return "";
  }

  const ConfigOrigins& origins_;
  std::vector<std::string> faults_;
};

}  // namespace kvasir
