// One generation as metrics and logs know it, from the moment a front end saw it to the moment the
// front end is done with its transport. Tells the observer of its begin when it is made and of its
// end when it dies, so that neither can be forgotten.
//
// Owned by the front end's object for the call. Its fields are filled in by Frontend while the
// request is judged and constant after; the outcome may be set from another thread, and it may be
// cancelled from any.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "runtime/engine/token_stream.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/call_observer.h"
#include "server/frontend/refused_call.h"
#include "server/frontend/response/response_format.h"
#include "server/frontend/response/response_reader.h"
#include "server/frontend/text_workers.h"

namespace kvasir {

class GenerationCall {
 public:
  // The observer outlives the call.
  GenerationCall(CallObserver* observer, std::string request_id, absl::Time deadline)
      : request_id(std::move(request_id)), deadline(deadline), observer_(observer) {
    observer_->OnGenerateStarted();
  }
  ~GenerationCall() { observer_->OnGenerateDone(model, tenant, outcome_); }
  GenerationCall(const GenerationCall&) = delete;
  GenerationCall& operator=(const GenerationCall&) = delete;

  // What the client is told at the end.
  void SetOutcome(const absl::Status& status) { outcome_ = status.code(); }
  // It was refused, at the door or later.
  void ReportRefusal(const absl::Status& status) const {
    observer_->OnRefused(DescribeRefusal("Generate", request_id, model, tenant, status));
  }

  // What works on it now, for Cancel(): a text worker's job, then the engine's stream.
  void SetJob(std::shared_ptr<TextJob> job);
  void SetStream(std::shared_ptr<TokenStream> stream);
  // The client wants no more, or the transport has lost it: ends whichever works on it. The call's
  // owner hears of it as of any other end, maybe before this returns. Any number of times.
  void Cancel();

  std::string request_id;
  std::string model;  // served name; "" until one is found
  // The model's, which may be unloaded before the last of the answer is sent; null until one is
  // found.
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ResponseFormat> response_format;  // the reader's
  std::string tenant = "?";  // of callers not known (yet); no tenant has this name
  // What reads the answer, for the pump to take; null when its text goes out as it is.
  std::unique_ptr<ResponseReader> reader;
  const absl::Time deadline;  // InfiniteFuture when the client set none
  const absl::Time arrival = SteadyNow();

 private:
  CallObserver* const observer_;
  std::atomic<absl::StatusCode> outcome_{absl::StatusCode::kUnknown};

  absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<TextJob> job_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<TokenStream> stream_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace kvasir
