#include "runtime/grammar/grammar_compiler.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/annotated_mutex.h"
#include "base/check.h"
#include "base/steady_time.h"
#include "runtime/grammar/compiled_grammars.h"
#include "runtime/tokenizer/text_call.h"

namespace kvasir {
namespace {

// The compiler recurses where a schema does. A kilobyte for each byte of it is more than any level
// takes (some 2 KB, for 5 bytes and more); pages that are not reached cost no memory.
constexpr int64_t kStackBytesPerSourceByte = 1 << 10;
constexpr int64_t kMinStackBytes = int64_t{8} << 20;

struct Job {
  Constraint constraint;
  AnnotatedMutex mutex;
  AnnotatedCondVar done_changed;
  bool begun ABSL_GUARDED_BY(mutex) = false;
  bool done ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
  std::unique_ptr<TokenMatcher> matcher ABSL_GUARDED_BY(mutex);
};

}  // namespace

class GrammarCompiler::Worker {
 public:
  Worker(const Tokenizer* tokenizer, int vocab_size, std::vector<TokenId> eos_token_ids,
         const GrammarLimits& limits)
      : tokenizer_(tokenizer),
        vocab_size_(vocab_size),
        eos_token_ids_(std::move(eos_token_ids)),
        limits_(limits),
        compiled_(limits.max_compiled) {
    absl::MutexLock lock(&mutex_);
    Start();
  }

  ~Worker() {
    bool started = false;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      started = started_;
    }
    if (started) pthread_join(thread_, nullptr);
    compiled_.Clear();
    kvasir_text_grammars_free(grammars_);
  }

  // False when too many wait, or when no thread can be started to serve them.
  bool Post(std::shared_ptr<Job> job) {
    absl::MutexLock lock(&mutex_);
    if (jobs_.size() >= static_cast<size_t>(limits_.max_waiting) || !Start()) return false;
    jobs_.push_back(std::move(job));
    return true;
  }

  GrammarCounts counts() const {
    return {.reused = reused_total_.load(std::memory_order_relaxed),
            .compiled = compiled_total_.load(std::memory_order_relaxed),
            .refused = refused_total_.load(std::memory_order_relaxed)};
  }

 private:
  // Whether there is the thread. None can be started at the limit of processes or of memory; the
  // next constraint tries again.
  bool Start() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (started_) return true;
    pthread_attr_t attributes;
    KVASIR_CHECK(pthread_attr_init(&attributes) == 0);
    const int64_t stack_bytes =
        std::max(kMinStackBytes, limits_.max_source_bytes * kStackBytesPerSourceByte);
    KVASIR_CHECK(pthread_attr_setstacksize(&attributes, static_cast<size_t>(stack_bytes)) == 0);
    const auto run = [](void* self) -> void* {
      static_cast<Worker*>(self)->Run();
      return nullptr;
    };
    started_ = pthread_create(&thread_, &attributes, run, this) == 0;
    pthread_attr_destroy(&attributes);
    if (started_) pthread_setname_np(thread_, "kvasir-grammar");
    return started_;
  }

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !jobs_.empty(); }

  void Run() {
    while (true) {
      std::shared_ptr<Job> job;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Worker::HasWork));
        if (stopping_) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      if (job.use_count() == 1) continue;  // nobody waits for it any more
      {
        AnnotatedLock lock(&job->mutex);
        job->begun = true;
      }
      std::unique_ptr<TokenMatcher> matcher;
      absl::Status status = Compile(job->constraint, &matcher);
      if (!status.ok()) refused_total_.fetch_add(1, std::memory_order_relaxed);
      AnnotatedLock lock(&job->mutex);
      job->status = std::move(status);
      job->matcher = std::move(matcher);
      job->done = true;
      job->done_changed.NotifyAll();
    }
  }

  absl::Status Compile(const Constraint& constraint, std::unique_ptr<TokenMatcher>* matcher) {
    *matcher = compiled_.Find(constraint);
    if (*matcher != nullptr) {
      reused_total_.fetch_add(1, std::memory_order_relaxed);
      return absl::OkStatus();
    }
    TextBuffer error;
    if (grammars_ == nullptr) {
      const KvasirTextGrammarLimits limits = {
          .max_source_bytes = static_cast<size_t>(limits_.max_source_bytes),
          .max_grammar_symbols = static_cast<size_t>(limits_.max_symbols),
          .max_lexer_states = static_cast<size_t>(limits_.max_lexer_states),
          .compile_fuel = static_cast<uint64_t>(limits_.compile_fuel),
          .step_fuel = static_cast<uint64_t>(limits_.step_fuel),
          .max_step_items = static_cast<size_t>(limits_.max_step_items),
          .max_row_items = kMaxRowItems,
      };
      const KvasirTextCode code = kvasir_text_grammars_new(
          tokenizer_->handle(), static_cast<size_t>(vocab_size_), eos_token_ids_.data(),
          eos_token_ids_.size(), &limits, &grammars_, error.out());
      if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
    }
    const KvasirTextConstraint wanted = {.kind = static_cast<int32_t>(constraint.kind),
                                         .text = ViewOf(constraint.text),
                                         .after = ViewOf(constraint.after)};
    KvasirTextMatcher* handle = nullptr;
    const KvasirTextCode code =
        kvasir_text_grammar_compile(grammars_, &wanted, &handle, error.out());
    if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
    *matcher = std::make_unique<TokenMatcher>(handle);
    compiled_.Insert(constraint, **matcher);
    compiled_total_.fetch_add(1, std::memory_order_relaxed);
    return absl::OkStatus();
  }

  // The branches of a grammar at one place: its library's own limit, which no schema comes near.
  static constexpr size_t kMaxRowItems = 2000;

  const Tokenizer* const tokenizer_;
  const int vocab_size_;
  const std::vector<TokenId> eos_token_ids_;
  const GrammarLimits limits_;

  // The thread's own.
  KvasirTextGrammars* grammars_ = nullptr;  // made with the first constraint
  CompiledGrammars compiled_;

  std::atomic<int64_t> reused_total_ = 0;
  std::atomic<int64_t> compiled_total_ = 0;
  std::atomic<int64_t> refused_total_ = 0;

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool started_ ABSL_GUARDED_BY(mutex_) = false;

  pthread_t thread_;  // once started_
};

GrammarCompiler::GrammarCompiler(const Tokenizer* tokenizer, int vocab_size,
                                 std::vector<TokenId> eos_token_ids, const GrammarLimits& limits)
    : limits_(limits),
      worker_(std::make_unique<Worker>(tokenizer, vocab_size, std::move(eos_token_ids), limits)) {}

GrammarCompiler::~GrammarCompiler() = default;

GrammarCounts GrammarCompiler::counts() const { return worker_->counts(); }

absl::StatusOr<std::unique_ptr<TokenMatcher>> GrammarCompiler::Compile(Constraint constraint,
                                                                       absl::Time deadline) {
  const absl::Status late =
      absl::DeadlineExceededError("the deadline passed while the constraint was compiled");
  if (SteadyNow() >= deadline) return late;
  const auto job = std::make_shared<Job>();
  job->constraint = std::move(constraint);
  if (!worker_->Post(job)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        limits_.max_waiting, " constraints wait to be compiled already; try again later"));
  }
  const absl::Time limit = SteadyNow() + limits_.max_compile_time;
  AnnotatedLock lock(&job->mutex);
  const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(job->mutex) { return job->done; };
  if (!job->done_changed.Await(&job->mutex, std::min(limit, deadline) - SteadyNow(), done)) {
    if (deadline <= limit) return late;
    if (!job->begun) {
      return absl::ResourceExhaustedError(
          absl::StrCat("other constraints kept the compiler busy for ",
                       absl::FormatDuration(limits_.max_compile_time), "; try again later"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("it did not compile within ", absl::FormatDuration(limits_.max_compile_time),
                     " (grammar.max_compile_seconds); make it simpler"));
  }
  if (!job->status.ok()) return job->status;
  return std::move(job->matcher);
}

}  // namespace kvasir
