#include "server/config/scalar.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Of a wrong value or key, at most this many bytes are repeated in a message.
constexpr size_t kShownBytes = 64;

}  // namespace

std::string ShownValue(absl::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kShownBytes)),
                      text.size() > kShownBytes ? "..." : "", "'");
}

absl::Status SetScalar(const FieldDescriptor& field, absl::string_view text, bool is_quoted,
                       Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const auto wrong = [&](absl::string_view wanted) {
    return absl::InvalidArgumentError(absl::StrCat(
        " must be ", wanted, ", but is ", ShownValue(text), is_quoted ? " in quotes" : ""));
  };
  const auto unreadable = [](const absl::Status& status) {
    return absl::InvalidArgumentError(absl::StrCat(": ", status.message()));
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      if (is_quoted || (text != "true" && text != "false")) return wrong("true or false");
      reflection.SetBool(message, &field, text == "true");
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      if (IsByteSizeField(field)) {
        const absl::StatusOr<int64_t> size = ParseByteSize(text);
        if (!size.ok()) return unreadable(size.status());
        value = *size;
      } else if (is_quoted || !absl::SimpleAtoi(text, &value)) {
        return wrong("a whole number");
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
        reflection.SetInt64(message, &field, value);
        return absl::OkStatus();
      }
      if (value < std::numeric_limits<int32_t>::min() ||
          value > std::numeric_limits<int32_t>::max()) {
        return wrong("a whole number between -2147483648 and 2147483647");
      }
      reflection.SetInt32(message, &field, static_cast<int32_t>(value));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (IsDurationField(field)) {
        const absl::StatusOr<double> seconds = ParseSeconds(text);
        if (!seconds.ok()) return unreadable(seconds.status());
        value = *seconds;
      } else if (is_quoted || !absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
        return wrong("a finite number");
      }
      reflection.SetDouble(message, &field, value);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_STRING:
      reflection.SetString(message, &field, std::string(text));
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(" has a type that the configuration does not know");
  }
}

absl::StatusOr<int64_t> ParseByteSize(absl::string_view text) {
  struct Unit {
    const char* suffix;
    int64_t bytes;
  };
  // "B" last: it ends all of them.
  static constexpr Unit kUnits[] = {{"Ki", int64_t{1} << 10},
                                    {"Mi", int64_t{1} << 20},
                                    {"Gi", int64_t{1} << 30},
                                    {"Ti", int64_t{1} << 40},
                                    {"KiB", int64_t{1} << 10},
                                    {"MiB", int64_t{1} << 20},
                                    {"GiB", int64_t{1} << 30},
                                    {"TiB", int64_t{1} << 40},
                                    {"kB", 1'000},
                                    {"MB", 1'000'000},
                                    {"GB", 1'000'000'000},
                                    {"TB", 1'000'000'000'000},
                                    {"B", 1}};
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        ShownValue(text), " ", what,
        "; write bytes, or a number with Ki, Mi, Gi or Ti (powers of 1024, also KiB ...) or "
        "kB, MB, GB or TB (of 1000), as in '4GiB'"));
  };
  absl::string_view digits = absl::StripAsciiWhitespace(text);
  int64_t unit = 1;
  for (const Unit& candidate : kUnits) {
    if (absl::EndsWith(digits, candidate.suffix)) {
      unit = candidate.bytes;
      digits = absl::StripTrailingAsciiWhitespace(
          digits.substr(0, digits.size() - std::strlen(candidate.suffix)));
      break;
    }
  }
  // "8G" is 8e9 to some programs and 2^33 to others; "4gib" and "500m" are no better.
  if (!digits.empty() && absl::ascii_isdigit(digits[0]) && absl::ascii_isalpha(digits.back())) {
    return fault("is not a size (unknown unit)");
  }
  // Digits and at most one point: SimpleAtod alone would take "inf", "1e9" and signs.
  if (digits.empty() || !absl::ascii_isdigit(digits[0]) ||
      digits.find_first_not_of("0123456789.") != absl::string_view::npos) {
    return fault(absl::StartsWith(digits, "-") ? "is negative" : "is not a size");
  }
  int64_t whole = 0;
  if (absl::SimpleAtoi(digits, &whole)) {
    if (whole > std::numeric_limits<int64_t>::max() / unit) return fault("is too large");
    return whole * unit;
  }
  double value = 0;
  if (!absl::SimpleAtod(digits, &value)) return fault("is not a size");
  const double bytes = value * static_cast<double>(unit);
  if (bytes >= 0x1p63) return fault("is too large");
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<double> ParseSeconds(absl::string_view text) {
  struct Unit {
    const char* suffix;
    double seconds;
  };
  // "s" behind "ms": it ends both.
  static constexpr Unit kUnits[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
  absl::string_view digits = absl::StripAsciiWhitespace(text);
  double unit = 1;
  for (const Unit& candidate : kUnits) {
    if (!absl::ConsumeSuffix(&digits, candidate.suffix)) continue;
    unit = candidate.seconds;
    digits = absl::StripTrailingAsciiWhitespace(digits);
    break;
  }
  double value = 0;
  // SimpleAtod alone would take "inf", "nan" and blanks.
  if (digits.empty() || digits.find_first_not_of("0123456789.eE+-") != absl::string_view::npos ||
      !absl::SimpleAtod(digits, &value) || !std::isfinite(value * unit)) {
    return absl::InvalidArgumentError(
        absl::StrCat(ShownValue(text),
                     " is not a time; write a finite number of seconds, or a number with "
                     "ms, s, m (minutes), h or d, as in '30s'"));
  }
  // 500 / 1000 is the nearest double to a half second; 500 * 0.001 need not be.
  return unit < 1 ? value / 1000 : value * unit;
}

std::string FormatByteSize(int64_t bytes) {
  static constexpr const char* kSuffixes[] = {"", "KiB", "MiB", "GiB", "TiB"};
  int power = 0;
  while (power < 4 && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++power;
  }
  return absl::StrCat(bytes, kSuffixes[power]);
}

bool IsByteSizeField(const FieldDescriptor& field) {
  return (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
          field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) &&
         absl::EndsWith(field.name(), "_bytes");
}

bool IsDurationField(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE &&
         absl::EndsWith(field.name(), "_seconds");
}

}  // namespace kvasir
