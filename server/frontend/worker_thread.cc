#include "server/frontend/worker_thread.h"

#include <pthread.h>

#include <utility>

namespace kvasir {

WorkerThread::WorkerThread(const std::string& name, size_t max_pending)
    : max_pending_(max_pending), thread_([this] { Run(); }) {
  constexpr size_t kLongestName = 15;  // Linux keeps 16 bytes with the final zero
  pthread_setname_np(thread_.native_handle(), name.substr(0, kLongestName).c_str());
}

WorkerThread::~WorkerThread() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

bool WorkerThread::Post(std::function<void()> task) {
  absl::MutexLock lock(&mutex_);
  if (tasks_.size() >= max_pending_) return false;
  tasks_.push_back(std::move(task));
  return true;
}

void WorkerThread::Run() {
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(this, &WorkerThread::HasWork));
      if (tasks_.empty()) return;  // stopping, and all that was accepted has run
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace kvasir
