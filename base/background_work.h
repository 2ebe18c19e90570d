// Work beside the steps, such as reading and writing spill files: a step is as slow as the slowest
// of its threads, so a thread that takes a core from it for a moment holds up all streams so long.
// Niceness alone does not do: the kernel takes a core back at its next tick, after milliseconds.
//
// Thread safe. Nothing here knows what a step is; engines say when they compute.
#pragma once

namespace kvasir {

// Held by an engine: whether it computes for somebody now, as opposed to waiting for work.
class ForegroundWork {
 public:
  ForegroundWork() = default;
  ForegroundWork(const ForegroundWork&) = delete;
  ForegroundWork& operator=(const ForegroundWork&) = delete;
  ~ForegroundWork() { Set(false); }

  void Set(bool running);

 private:
  bool running_ = false;
};

// The calling thread works beside the steps from now on, with a lower priority, and gives way:
void WorkBesideSteps();

// To be called between pieces of work of at most some 100 us. In a thread that works beside steps,
// while any engine computes and no CPU is spare, it sleeps 15 times as long as the thread had a CPU
// since the last call: so the thread takes a sixteenth of one CPU, a piece at a time. In other
// threads, and otherwise, it returns at once.
void GiveWayToSteps();

}  // namespace kvasir
