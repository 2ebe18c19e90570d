// A table for a terminal of any width: where it is narrow the columns that matter least go, and the
// first, a name, takes what is left.
//
// Pure. Cells are ASCII; a longer one than its column is cut, and ends with '~'.
#pragma once

#include <string>
#include <vector>

namespace kvasir {

class TextTable {
 public:
  struct Column {
    const char* title;
    int width;  // of the first column: the most it may have
    // Columns with a lower rank go first; those of rank kAlways stay, and lines are cut.
    int rank;
    bool is_name = false;  // left-aligned
  };
  static constexpr int kAlways = 100;

  // `first_width`: the least that the first column may have before another goes.
  TextTable(std::vector<Column> columns, int first_width, int screen_columns);

  std::string Title() const;
  // One cell for each column of the constructor, those that went included.
  std::string Row(const std::vector<std::string>& cells) const;

 private:
  std::string Line(const std::vector<std::string>& cells) const;

  std::vector<Column> columns_;
  std::vector<bool> shown_;  // [columns_.size()]
  int screen_columns_;
};

}  // namespace kvasir
