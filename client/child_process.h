// Another program of this project, run by this one: its output is read line by line, and it does
// not outlive its owner. Thread safety: Signal may be called from any thread, the rest from one.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace kvasir {

class ChildProcess {
 public:
  enum class Errors {
    kInherited,  // its standard error is this program's
    kInOutput    // its standard error is read with its output
  };

  // `program`: looked for beside this program, then in $PATH. Variables of the environment whose
  // names begin with KVASIR_ are kept from it: they are settings of other programs' runs. NotFound
  // when there is no such program; the system's reason when it cannot be started.
  static absl::StatusOr<ChildProcess> Start(const std::string& program,
                                            const std::vector<std::string>& arguments,
                                            Errors errors);

  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  // Kills it if it still runs.
  ~ChildProcess();

  // The next line without its end; nothing when the output has ended. Blocks.
  std::optional<std::string> ReadLine();

  void Signal(int signal) const;
  // Blocks until it has ended: its exit code, or 128 + the signal that ended it.
  int Wait();

 private:
  ChildProcess(pid_t pid, int output) : pid_(pid), output_(output) {}

  pid_t pid_ = -1;
  int output_ = -1;
  bool ended_ = false;
  std::string buffer_;
};

}  // namespace kvasir
