// The text library under many threads: 100,000 calls of all kinds at once give what one call alone
// gives, and memory stays flat.
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/config.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/incremental_detokenizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

constexpr int kThreads = 8;
constexpr int kCalls = 12'500;  // of each thread
constexpr char kTime[] = "2026-11-28T09:30:00";

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

class TextLibraryLoad {
 public:
  TextLibraryLoad()
      : tokenizer_(*Tokenizer::Load(testing::ModelFolder(testing::kBundledModel))),
        chat_(*ChatTemplate::FromSources(
            {{"default",
              "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}"
              "{{ tools | tojson }}{% endif %}"}},
            "", *tokenizer_)),
        grammars_(tokenizer_.get(), tokenizer_->vocab_size(), {0}, Limits()) {}

  // Some text that differs from call to call: caches of texts must be bounded.
  std::string Text(int seed) const {
    return absl::StrCat("Once upon a time ", seed, " kings and ", seed * 7919LL, " queens, \u5317 ",
                        seed % 97);
  }

  // One call by its number; nothing when it went wrong.
  std::string Call(int number) {
    const std::string text = Text(number / 5);
    switch (number % 5) {
      case 0: {
        const auto ids = tokenizer_->Encode(text, {.add_special_tokens = false});
        return ids.ok() ? absl::StrCat(ids->size(), " ", ids->front(), " ", ids->back()) : "";
      }
      case 1: {
        const auto ids = tokenizer_->Encode(text, {.add_special_tokens = false});
        return ids.ok() ? tokenizer_->Decode(*ids, false).value_or("") : "";
      }
      case 2: {
        const auto ids = tokenizer_->Encode(text, {.add_special_tokens = false});
        if (!ids.ok()) return "";
        IncrementalDetokenizer detokenizer(tokenizer_.get(), false);
        std::string streamed;
        for (const TokenId id : *ids) streamed += detokenizer.Append(id);
        return streamed + detokenizer.Flush();
      }
      case 3: {
        const auto prompt =
            chat_->Render(absl::StrCat(R"({"messages":[{"role":"user","content":")", text,
                                       R"("}],"tools":[{"a":)", number, "}]}"),
                          kTime);
        return prompt.ok() ? prompt->text : "";
      }
      default: {
        // Some are compiled already, some are new, some are refused.
        const int kind = number % 8;
        const std::string regex = kind == 0 ? "(" : absl::StrCat("a{1,", 1 + number % 40, "}");
        const auto matcher = grammars_.Compile({.kind = Constraint::Kind::kRegex, .text = regex},
                                               absl::InfiniteFuture());
        if (kind == 0) return matcher.ok() ? "" : "refused";
        if (!matcher.ok()) return "";
        std::vector<uint32_t> mask(MaskWords(tokenizer_->vocab_size()));
        return (*matcher)->FillMask(absl::MakeSpan(mask)).ok() ? "mask" : "";
      }
    }
  }

  GrammarCounts counts() const { return grammars_.counts(); }

 private:
  static GrammarLimits Limits() {
    GrammarLimits limits;
    limits.max_waiting = kThreads;
    limits.max_compile_time = absl::Seconds(600);
    return limits;
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<ChatTemplate> chat_;
  GrammarCompiler grammars_;
};

TEST(TextLibraryLoadTest, ManyThreadsGetWhatOneGetsAndMemoryStaysFlat) {
  TextLibraryLoad load;
  const auto run = [&](int calls) {
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < calls; ++i) {
          // Neighbours make the same call at about the same time.
          const std::string answer = load.Call(i * kThreads / 2 + t / 2);
          if (answer.empty()) ++wrong;
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    return wrong.load();
  };
  std::vector<std::string> alone;
  for (int i = 0; i < 200; ++i) alone.push_back(load.Call(i));
  ASSERT_EQ(run(kCalls / 10), 0);  // fills caches, thread arenas and the heap
  const int64_t before = ResidentBytes();
  ASSERT_EQ(run(kCalls), 0);
  const int64_t grown = ResidentBytes() - before;
  for (int i = 0; i < 200; ++i) EXPECT_EQ(load.Call(i), alone[static_cast<size_t>(i)]) << i;
  EXPECT_GT(load.counts().refused, 0);
  EXPECT_GT(load.counts().reused, 0);
#if !defined(ABSL_HAVE_ADDRESS_SANITIZER) && !defined(ABSL_HAVE_THREAD_SANITIZER)
  // Sanitizers keep freed memory. 100,000 calls that each lost 1 KiB would be 100 MiB.
  EXPECT_LT(grown, int64_t{48} << 20) << grown;
#else
  static_cast<void>(grown);
#endif
}

}  // namespace
}  // namespace kvasir
