// Signals as ordinary events: they are blocked in every thread and read from a signalfd by one
// thread, so nothing ever runs in a signal handler.
#pragma once

#include <csignal>
#include <functional>
#include <thread>
#include <vector>

namespace kvasir {

class SignalWatcher {
 public:
  // Called from the watcher's thread, one call at a time. Must return soon: the next signal waits.
  using Callback = std::function<void(int signal_number)>;

  // Blocks `signals` in the calling thread; they stay pending until Start. Threads inherit the mask
  // of the thread that starts them, so make this in main() before anything else starts one: a
  // signal that finds a thread with an open mask would still kill the process. Aborts when the
  // kernel has no descriptors left.
  explicit SignalWatcher(const std::vector<int>& signals);

  // Starts the thread that calls `on_signal`. At most once.
  void Start(Callback on_signal);

  // Stops the thread; waits for a callback under way. Later signals stay pending. Harmless before
  // Start.
  void Stop();

  // As Stop, and restores the calling thread's mask: destroy it in the thread that made it.
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  void Run();

  Callback on_signal_;  // constant after Start
  sigset_t previous_mask_;
  int signal_fd_ = -1;
  int stop_fd_ = -1;  // an eventfd; readable = stop
  std::thread thread_;
};

}  // namespace kvasir
