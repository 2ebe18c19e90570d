#include "server/frontend/response/json_text.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json_nesting.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

// The library's own reader rounds a whole number beyond 64 bits to a double. Here it is kept as
// bytes, a kind of value that no JSON text has.
class ExactReader final : public nlohmann::json_sax<Json> {
 public:
  std::optional<Json> Take() { return std::exchange(root_, std::nullopt); }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(number_integer_t value) override { return Add(value); }
  bool number_unsigned(number_unsigned_t value) override { return Add(value); }
  bool number_float(number_float_t value, const string_t& spelled) override {
    if (spelled.find_first_of(".eE") != std::string::npos) return Add(value);
    return Add(Json::binary(binary_t::container_type(spelled.begin(), spelled.end())));
  }
  bool string(string_t& value) override { return Add(std::move(value)); }
  bool binary(binary_t& value) override { return Add(Json::binary(std::move(value))); }
  bool start_object(size_t) override { return Open(Json::object()); }
  bool start_array(size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool parse_error(size_t, const std::string&, const Json::exception&) override {
    root_.reset();
    return false;
  }

 private:
  Json* Place(Json value) {
    if (open_.empty()) return &root_.emplace(std::move(value));
    Json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    Json& member = parent[key_];
    member = std::move(value);
    return &member;
  }
  bool Add(Json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(Json empty) {
    open_.push_back(Place(std::move(empty)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  std::optional<Json> root_;
  std::vector<Json*> open_;  // inside of root_; only the last one grows
  std::string key_;
};

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void Append(const Json& json, std::string* out) {
  if (IsBigInteger(json)) {
    out->append(json.get_binary().begin(), json.get_binary().end());
  } else if (json.is_object()) {
    const char* comma = "{";
    for (const auto& [key, value] : json.items()) {
      absl::StrAppend(out, comma, Dump(Json(key)), ":");
      Append(value, out);
      comma = ",";
    }
    absl::StrAppend(out, json.empty() ? "{}" : "}");
  } else if (json.is_array()) {
    const char* comma = "[";
    for (const Json& value : json) {
      absl::StrAppend(out, comma);
      Append(value, out);
      comma = ",";
    }
    absl::StrAppend(out, json.empty() ? "[]" : "]");
  } else {
    absl::StrAppend(out, Dump(json));
  }
}

}  // namespace

std::optional<Json> ParseExactJson(absl::string_view text, int max_depth) {
  if (JsonNestingDepth(text) > max_depth) return std::nullopt;
  ExactReader reader;
  if (!Json::sax_parse(text.begin(), text.end(), &reader)) return std::nullopt;
  return reader.Take();
}

bool IsBigInteger(const Json& json) { return json.is_binary(); }

std::string JsonText(const Json& json) {
  std::string text;
  Append(json, &text);
  return text;
}

}  // namespace kvasir
