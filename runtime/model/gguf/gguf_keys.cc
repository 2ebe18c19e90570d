#include "runtime/model/gguf/gguf_keys.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvasir {

std::string GgufKeys::Key(absl::string_view name) const {
  return absl::StrCat(architecture_, ".", name);
}

void GgufKeys::Integer(absl::string_view name, int64_t value) {
  header_.AddU32(Key(name), static_cast<uint32_t>(value));
}

void GgufKeys::Integers(absl::string_view name, const std::vector<int32_t>& values) {
  header_.AddI32s(Key(name), values);
}

void GgufKeys::Number(absl::string_view name, float value) { header_.AddF32(Key(name), value); }

void GgufKeys::Bool(absl::string_view name, bool value) { header_.AddBool(Key(name), value); }

void GgufKeys::Text(absl::string_view name, absl::string_view value) {
  header_.AddString(Key(name), value);
}

void GgufKeys::Windows(const ModelSpec& spec, int period) {
  int window = 0;
  bool usual = true;
  std::vector<bool> has_window;
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const AttentionSpec* attention = spec.layers[layer].attention();
    const int own = attention == nullptr ? 0 : attention->window;
    window = std::max(window, own);
    has_window.push_back(own > 0);
    usual &= (own > 0) == ((layer + 1) % period != 0);
  }
  if (window == 0) return;
  Integer("attention.sliding_window", window);
  if (!usual) header_.AddBools(Key("attention.sliding_window_pattern"), has_window);
}

}  // namespace kvasir
