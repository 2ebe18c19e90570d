#include "client/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// A line of what our own programs print is short; anything longer is cut into lines.
constexpr size_t kMaxLineBytes = size_t{1} << 20;

bool IsProgram(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && access(path.c_str(), X_OK) == 0;
}

absl::StatusOr<std::string> FindProgram(const std::string& name) {
  std::error_code ignored;
  const fs::path beside = fs::read_symlink("/proc/self/exe", ignored).parent_path() / name;
  if (IsProgram(beside)) return beside.string();
  const char* const path = std::getenv("PATH");
  for (const absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    if (folder.empty()) continue;
    const fs::path candidate = fs::path(std::string(folder)) / name;
    if (IsProgram(candidate)) return candidate.string();
  }
  return absl::NotFoundError(absl::StrCat(
      "the program ", name, " is neither beside kvasir (", beside.parent_path().string(),
      ") nor in $PATH; install it there (Debian: package kvasird)"));
}

std::vector<char*> Pointers(std::vector<std::string>* strings) {
  std::vector<char*> pointers;
  for (std::string& string : *strings) pointers.push_back(string.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> CleanEnvironment() {
  std::vector<std::string> kept;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!absl::StartsWith(*variable, "KVASIR_")) kept.emplace_back(*variable);
  }
  return kept;
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(const std::string& program,
                                                 const std::vector<std::string>& arguments,
                                                 Errors errors) {
  const absl::StatusOr<std::string> path = FindProgram(program);
  if (!path.ok()) return path.status();
  std::vector<std::string> words = {*path};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<std::string> environment = CleanEnvironment();
  // All memory that the child touches is made before it: between fork and exec it may not allocate.
  const std::vector<char*> argv = Pointers(&words);
  const std::vector<char*> envp = Pointers(&environment);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "cannot create a pipe");
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(127);  // it ended before that was set
    dup2(ends[1], STDOUT_FILENO);
    if (errors == Errors::kInOutput) dup2(ends[1], STDERR_FILENO);
    execve(argv[0], argv.data(), envp.data());
    _exit(127);
  }
  const int fork_error = errno;
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    return absl::ErrnoToStatus(fork_error, absl::StrCat("cannot start ", *path));
  }
  return ChildProcess(pid, ends[0]);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      output_(std::exchange(other.output_, -1)),
      ended_(other.ended_),
      buffer_(std::move(other.buffer_)) {}

ChildProcess::~ChildProcess() {
  if (output_ >= 0) close(output_);
  if (pid_ < 0 || ended_) return;
  kill(pid_, SIGKILL);
  Wait();
}

std::optional<std::string> ChildProcess::ReadLine() {
  for (;;) {
    const size_t end = buffer_.find('\n');
    if (end != std::string::npos || buffer_.size() > kMaxLineBytes) {
      std::string line = buffer_.substr(0, end);
      buffer_.erase(0, end == std::string::npos ? end : end + 1);
      return line;
    }
    char bytes[4096];
    const ssize_t count = read(output_, bytes, sizeof(bytes));
    if (count < 0 && errno == EINTR) continue;
    if (count > 0) {
      buffer_.append(bytes, static_cast<size_t>(count));
      continue;
    }
    if (buffer_.empty()) return std::nullopt;
    return std::exchange(buffer_, "");
  }
}

void ChildProcess::Signal(int signal) const { kill(pid_, signal); }

int ChildProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  ended_ = true;
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace kvasir
