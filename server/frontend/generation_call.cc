#include "server/frontend/generation_call.h"

namespace kvasir {

void GenerationCall::SetJob(std::shared_ptr<TextJob> job) {
  {
    absl::MutexLock lock(&mutex_);
    job_ = job;
    if (!cancelled_) return;
  }
  job->Cancel();
}

void GenerationCall::SetStream(std::shared_ptr<TokenStream> stream) {
  {
    absl::MutexLock lock(&mutex_);
    stream_ = stream;
    if (!cancelled_) return;
  }
  stream->Cancel();
}

void GenerationCall::Cancel() {
  std::shared_ptr<TextJob> job;
  std::shared_ptr<TokenStream> stream;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    job = job_;
    stream = stream_;
  }
  // Either may end the call, and with it this: nothing of it is touched any more.
  if (job != nullptr) job->Cancel();
  if (stream != nullptr) stream->Cancel();
}

}  // namespace kvasir
