// StepCost: how long a step takes that decodes so many sequences and checks so many drafted tokens,
// learned from the steps that ran. What a row more costs differs between machines, models and batch
// sizes by two orders of magnitude, so no constant says it.
//
// A table by powers of two: rows by sequences, cells by drafted tokens, each a moving average of
// time and count. Between cells the time is interpolated; where nothing was measured it follows a
// guess that the first try replaces. Plain value, not thread safe.
#pragma once

#include <array>
#include <cstdint>

namespace kvasir {

class StepCost {
 public:
  // A step of `sequences` (>= 1) and `drafted` tokens took `seconds`; 0 or less is ignored. One
  // slow step (another process, a first use) moves the average by a bounded factor.
  void Observe(int32_t sequences, int32_t drafted, double seconds);

  // Whether the next step should check no draft, so that what drafts are compared with is known and
  // not out of date.
  bool WantsPlainStep(int32_t sequences) const;

  // Comparable only between calls with the same `sequences` and no Observe between them.
  double Predict(int32_t sequences, int32_t drafted) const;

 private:
  static constexpr int kRows = 13;   // 1, 2, 3-4, ... up to 4096 sequences
  static constexpr int kCells = 10;  // 0, 1, 2, 3-4, ... drafted tokens
  struct Cell {
    double seconds = 0;  // 0: nothing measured
    double drafted = 0;
  };
  struct Row {
    std::array<Cell, kCells> cells = {};
    bool has_plain = false;           // a step without drafts ran
    int32_t drafted_since_plain = 0;  // steps
  };

  std::array<Row, kRows> rows_ = {};
};

}  // namespace kvasir
