#include "server/http/http_exchange.h"

namespace kvasir {

absl::string_view HttpRequest::Header(absl::string_view name) const {
  for (const auto& [header, value] : headers) {
    if (header == name) return value;
  }
  return {};
}

std::vector<absl::string_view> HttpRequest::Values(absl::string_view header) const {
  std::vector<absl::string_view> values;
  for (const auto& [name, value] : headers) {
    if (name == header) values.push_back(value);
  }
  return values;
}

}  // namespace kvasir
