#include "client/text_table.h"

#include <algorithm>
#include <utility>

namespace kvasir {

TextTable::TextTable(std::vector<Column> columns, int first_width, int screen_columns)
    : columns_(std::move(columns)), shown_(columns_.size(), true), screen_columns_(screen_columns) {
  const auto width = [this] {
    int sum = -1;
    for (size_t i = 0; i < columns_.size(); ++i) sum += shown_[i] ? columns_[i].width + 1 : 0;
    return sum;
  };
  const int widest = std::exchange(columns_.front().width, first_width);
  while (width() > screen_columns_) {
    size_t least = 0;
    for (size_t i = 1; i < columns_.size(); ++i) {
      if (shown_[i] && columns_[i].rank < (least == 0 ? kAlways : columns_[least].rank)) least = i;
    }
    if (least == 0) break;
    shown_[least] = false;
  }
  columns_.front().width += std::clamp(screen_columns_ - width(), 0, widest - first_width);
}

std::string TextTable::Title() const {
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  return Line(titles);
}

std::string TextTable::Row(const std::vector<std::string>& cells) const { return Line(cells); }

std::string TextTable::Line(const std::vector<std::string>& cells) const {
  std::string line;
  for (size_t i = 0; i < columns_.size(); ++i) {
    if (!shown_[i]) continue;
    if (i > 0) line += ' ';
    const auto width = static_cast<size_t>(columns_[i].width);
    std::string cell = cells[i].substr(0, width);
    if (cells[i].size() > width) cell.back() = '~';
    const std::string gap(width - cell.size(), ' ');
    line += columns_[i].is_name ? cell + gap : gap + cell;
  }
  return line.substr(0, static_cast<size_t>(screen_columns_));
}

}  // namespace kvasir
