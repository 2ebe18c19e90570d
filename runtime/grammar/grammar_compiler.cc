#include "runtime/grammar/grammar_compiler.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <list>
#include <optional>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "base/annotated_mutex.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "runtime/grammar/compiled_grammars.h"
#include "runtime/tokenizer/text_call.h"

namespace kvasir {
namespace {

// The compiler recurses where a schema does. A kilobyte for each byte of it is more than any level
// takes (some 2 KB, for 5 bytes and more); pages that are not reached cost no memory.
constexpr int64_t kStackBytesPerSourceByte = 1 << 10;
constexpr int64_t kMinStackBytes = int64_t{8} << 20;

// Compiles that went beyond their time and are left to end by themselves, so that others need not
// wait for them.
constexpr size_t kMaxOverdue = 2;
// Of their threads: about a tenth of the time of a core that others want too.
constexpr int kOverdueNiceness = 10;

// What one caller waits for.
struct Job {
  Constraint constraint;
  AnnotatedMutex mutex;
  AnnotatedCondVar done_changed;
  std::optional<absl::Time> begun ABSL_GUARDED_BY(mutex);  // when its turn came
  bool done ABSL_GUARDED_BY(mutex) = false;
  absl::Status status ABSL_GUARDED_BY(mutex);
  std::unique_ptr<TokenMatcher> matcher ABSL_GUARDED_BY(mutex);

  void Begin() {
    AnnotatedLock lock(&mutex);
    begun = SteadyNow();
  }
  void End(absl::Status result, std::unique_ptr<TokenMatcher> made) {
    AnnotatedLock lock(&mutex);
    status = std::move(result);
    matcher = std::move(made);
    done = true;
    done_changed.NotifyAll();
  }
};

// A constraint that a thread is compiling, and who waits for it.
struct Task {
  Constraint constraint;
  std::vector<std::shared_ptr<Job>> jobs;
  pid_t thread = 0;
  bool overdue = false;
};

}  // namespace

class GrammarCompiler::Worker {
 public:
  Worker(const Tokenizer* tokenizer, int vocab_size, std::vector<TokenId> eos_token_ids,
         const GrammarLimits& limits, std::function<void(const Constraint&)> on_turn)
      : tokenizer_(tokenizer),
        vocab_size_(vocab_size),
        eos_token_ids_(std::move(eos_token_ids)),
        limits_(limits),
        on_turn_(std::move(on_turn)),
        compiled_(limits.max_compiled) {
    absl::MutexLock lock(&mutex_);
    Start();
  }

  ~Worker() {
    std::vector<pthread_t> threads;
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
      threads.swap(threads_);
    }
    for (const pthread_t thread : threads) pthread_join(thread, nullptr);
    Join();
    AnnotatedLock lock(&compiled_mutex_);
    compiled_.Clear();
    kvasir_text_grammars_free(grammars_);
  }

  // ResourceExhausted: too many wait, or no thread can be started to serve them.
  absl::Status Post(std::shared_ptr<Job> job) {
    absl::MutexLock lock(&mutex_);
    if (jobs_.size() >= static_cast<size_t>(limits_.max_waiting)) {
      return absl::ResourceExhaustedError(
          absl::StrCat(limits_.max_waiting,
                       " constraints (grammar.max_waiting) wait to be compiled already; try again "
                       "later"));
    }
    if (!Start()) {
      return absl::ResourceExhaustedError(
          "the system gives no thread to compile constraints; try again later");
    }
    jobs_.push_back(std::move(job));
    return absl::OkStatus();
  }

  // Its caller waits no more. `too_long`: because it took as long as a compile may; then, or when
  // nobody else waits for that constraint, another thread goes on with the others.
  void GiveUp(const std::shared_ptr<Job>& job, bool too_long) {
    Join();
    absl::MutexLock lock(&mutex_);
    for (Task& task : tasks_) {
      const auto found = std::find(task.jobs.begin(), task.jobs.end(), job);
      if (found == task.jobs.end()) continue;
      task.jobs.erase(found);
      if (task.overdue || overdue_ >= kMaxOverdue || !(too_long || task.jobs.empty())) return;
      serving_ = false;
      if (!Start()) {
        serving_ = true;  // it is the one thread still
        return;
      }
      task.overdue = true;
      ++overdue_;
      (void)setpriority(PRIO_PROCESS, static_cast<id_t>(task.thread), kOverdueNiceness);
      return;
    }
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
    if (serving_) return true;
    pthread_attr_t attributes;
    KVASIR_CHECK(pthread_attr_init(&attributes) == 0);
    const int64_t stack_bytes =
        std::max(kMinStackBytes, limits_.max_source_bytes * kStackBytesPerSourceByte);
    KVASIR_CHECK(pthread_attr_setstacksize(&attributes, static_cast<size_t>(stack_bytes)) == 0);
    const auto run = [](void* self) -> void* {
      static_cast<Worker*>(self)->Run();
      return nullptr;
    };
    pthread_t thread;
    serving_ = pthread_create(&thread, &attributes, run, this) == 0;
    pthread_attr_destroy(&attributes);
    if (!serving_) return false;
    pthread_setname_np(thread, "kvasir-grammar");
    threads_.push_back(thread);
    return true;
  }

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !jobs_.empty(); }

  void Run() {
    while (true) {
      Constraint constraint;
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(this, &Worker::HasWork));
        if (stopping_) return;
        std::shared_ptr<Job> job = std::move(jobs_.front());
        jobs_.pop_front();
        if (job.use_count() == 1) continue;  // nobody waits for it any more
        job->Begin();
        const auto same = std::find_if(tasks_.begin(), tasks_.end(), [&](const Task& task) {
          return task.constraint == job->constraint;
        });
        if (same != tasks_.end()) {
          same->jobs.push_back(std::move(job));
          continue;
        }
        constraint = job->constraint;
        tasks_.push_back({.constraint = constraint, .jobs = {std::move(job)}, .thread = gettid()});
      }
      if (RunTask(constraint)) return;
    }
  }

  // The calling thread's task. Whether another thread has taken its place meanwhile.
  bool RunTask(const Constraint& constraint) {
    if (on_turn_) on_turn_(constraint);
    std::unique_ptr<TokenMatcher> matcher;
    const absl::Status status = Compile(constraint, &matcher);
    if (!status.ok()) refused_total_.fetch_add(1, std::memory_order_relaxed);
    std::list<Task> done;
    {
      absl::MutexLock lock(&mutex_);
      const auto own = std::find_if(tasks_.begin(), tasks_.end(),
                                    [](const Task& task) { return task.thread == gettid(); });
      done.splice(done.end(), tasks_, own);
      if (done.front().overdue) Leave();
    }
    const std::vector<std::shared_ptr<Job>>& jobs = done.front().jobs;
    for (size_t i = 1; i < jobs.size(); ++i) {
      jobs[i]->End(status, matcher == nullptr ? nullptr : matcher->Copy());
    }
    if (!jobs.empty()) jobs.front()->End(status, std::move(matcher));
    return done.front().overdue;
  }

  // The calling thread is about to end.
  void Leave() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    --overdue_;
    const auto self = std::find_if(threads_.begin(), threads_.end(), [](pthread_t thread) {
      return pthread_equal(thread, pthread_self()) != 0;
    });
    if (self == threads_.end()) return;  // the destructor joins it
    ended_.push_back(*self);
    threads_.erase(self);
  }

  void Join() ABSL_LOCKS_EXCLUDED(mutex_) {
    std::vector<pthread_t> ended;
    {
      absl::MutexLock lock(&mutex_);
      ended.swap(ended_);
    }
    for (const pthread_t thread : ended) pthread_join(thread, nullptr);
  }

  absl::Status Compile(const Constraint& constraint, std::unique_ptr<TokenMatcher>* matcher) {
    TextBuffer error;
    KvasirTextGrammars* grammars = nullptr;
    {
      AnnotatedLock lock(&compiled_mutex_);
      *matcher = compiled_.Find(constraint);
      if (*matcher != nullptr) {
        reused_total_.fetch_add(1, std::memory_order_relaxed);
        return absl::OkStatus();
      }
      KVASIR_RETURN_IF_ERROR(MakeGrammars());
      grammars = grammars_;
    }
    const KvasirTextConstraint wanted = {.kind = static_cast<int32_t>(constraint.kind),
                                         .text = ViewOf(constraint.text),
                                         .after = ViewOf(constraint.after)};
    KvasirTextMatcher* handle = nullptr;
    const KvasirTextCode code =
        kvasir_text_grammar_compile(grammars, &wanted, &handle, error.out());
    if (code != KVASIR_TEXT_OK) return TextStatus(code, error);
    *matcher = std::make_unique<TokenMatcher>(handle);
    AnnotatedLock lock(&compiled_mutex_);
    compiled_.Insert(constraint, **matcher);
    compiled_total_.fetch_add(1, std::memory_order_relaxed);
    return absl::OkStatus();
  }

  // With the first constraint.
  absl::Status MakeGrammars() ABSL_EXCLUSIVE_LOCKS_REQUIRED(compiled_mutex_) {
    if (grammars_ != nullptr) return absl::OkStatus();
    TextBuffer error;
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
    return absl::OkStatus();
  }

  // The branches of a grammar at one place: its library's own limit, which no schema comes near.
  static constexpr size_t kMaxRowItems = 2000;

  const Tokenizer* const tokenizer_;
  const int vocab_size_;
  const std::vector<TokenId> eos_token_ids_;
  const GrammarLimits limits_;
  const std::function<void(const Constraint&)> on_turn_;

  AnnotatedMutex compiled_mutex_;
  KvasirTextGrammars* grammars_ ABSL_GUARDED_BY(compiled_mutex_) = nullptr;
  CompiledGrammars compiled_ ABSL_GUARDED_BY(compiled_mutex_);

  std::atomic<int64_t> reused_total_ = 0;
  std::atomic<int64_t> compiled_total_ = 0;
  std::atomic<int64_t> refused_total_ = 0;

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<Job>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::list<Task> tasks_ ABSL_GUARDED_BY(mutex_);  // one for each thread that compiles
  size_t overdue_ ABSL_GUARDED_BY(mutex_) = 0;     // of tasks_
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool serving_ ABSL_GUARDED_BY(mutex_) = false;  // a thread takes from jobs_
  std::vector<pthread_t> threads_ ABSL_GUARDED_BY(mutex_);
  std::vector<pthread_t> ended_ ABSL_GUARDED_BY(mutex_);  // to be joined
};

GrammarCompiler::GrammarCompiler(const Tokenizer* tokenizer, int vocab_size,
                                 std::vector<TokenId> eos_token_ids, const GrammarLimits& limits,
                                 std::function<void(const Constraint&)> on_turn)
    : limits_(limits),
      worker_(std::make_unique<Worker>(tokenizer, vocab_size, std::move(eos_token_ids), limits,
                                       std::move(on_turn))) {}

GrammarCompiler::~GrammarCompiler() = default;

GrammarCounts GrammarCompiler::counts() const { return worker_->counts(); }

absl::StatusOr<std::unique_ptr<TokenMatcher>> GrammarCompiler::Compile(Constraint constraint,
                                                                       absl::Time deadline) {
  const absl::Status late =
      absl::DeadlineExceededError("the deadline passed while the constraint was compiled");
  if (SteadyNow() >= deadline) return late;
  const auto job = std::make_shared<Job>();
  job->constraint = std::move(constraint);
  KVASIR_RETURN_IF_ERROR(worker_->Post(job));
  const absl::Time posted = SteadyNow();
  bool begun = false, by_deadline = false;
  {
    AnnotatedLock lock(&job->mutex);
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(job->mutex) { return job->done; };
    absl::Time limit = posted;
    // Its time to compile counts from its turn on, which may come while it waits.
    while (limit < deadline && limit != job->begun.value_or(posted) + limits_.max_compile_time) {
      limit = job->begun.value_or(posted) + limits_.max_compile_time;
      if (job->done_changed.Await(&job->mutex, std::min(limit, deadline) - SteadyNow(), done)) {
        if (!job->status.ok()) return job->status;
        return std::move(job->matcher);
      }
    }
    begun = job->begun.has_value();
    by_deadline = deadline <= limit;
  }
  worker_->GiveUp(job, /*too_long=*/begun && !by_deadline);
  if (by_deadline) return late;
  if (!begun) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "other constraints kept the compiler busy for ",
        absl::FormatDuration(limits_.max_compile_time),
        " (grammar.max_compile_seconds), so that its turn did not come; try again later"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("it did not compile within ", absl::FormatDuration(limits_.max_compile_time),
                   " (grammar.max_compile_seconds); make it simpler"));
}

}  // namespace kvasir
