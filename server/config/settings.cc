#include "server/config/settings.h"

#include <cstdint>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "kvasir/config/v1/setting.pb.h"
#include "server/config/config_reader.h"

namespace kvasir {
namespace {

using config::v1::Setting;
using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Far above every machine; keeps sums of sizes inside int64.
constexpr int64_t kMaxSizeBytes = int64_t{1} << 50;

const Setting& SettingOf(const FieldDescriptor& field) {
  return field.options().GetExtension(config::v1::setting);
}

bool IsSingleMessage(const FieldDescriptor& field) {
  return field.type() == FieldDescriptor::TYPE_MESSAGE && !field.is_repeated();
}

// A value in the schema; that it is one of the field's type is our own promise.
int64_t WholeNumber(const FieldDescriptor& field, absl::string_view text) {
  int64_t value = 0;
  if (IsByteSizeField(field)) {
    const absl::StatusOr<int64_t> size = ParseByteSize(text);
    KVASIR_CHECK(size.ok());
    return *size;
  }
  KVASIR_CHECK(absl::SimpleAtoi(text, &value));
  return value;
}

double Number(const FieldDescriptor& field, absl::string_view text) {
  double value = 0;
  if (IsDurationField(field)) {
    const absl::StatusOr<double> seconds = ParseSeconds(text);
    KVASIR_CHECK(seconds.ok());
    return *seconds;
  }
  KVASIR_CHECK(absl::SimpleAtod(text, &value));
  return value;
}

bool IsGiven(const Message& message, const FieldDescriptor& field) {
  // A field without presence is given when it differs from zero or "".
  return message.GetReflection()->HasField(message, &field);
}

void SetDefault(const FieldDescriptor& field, const std::string& text, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      KVASIR_CHECK(text == "true" || text == "false");
      return reflection.SetBool(message, &field, text == "true");
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(message, &field, static_cast<int32_t>(WholeNumber(field, text)));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(message, &field, WholeNumber(field, text));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(message, &field, Number(field, text));
    default:
      return reflection.SetString(message, &field, text);
  }
}

bool HasStatedDefaults(const Descriptor& descriptor) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    if (SettingOf(field).has_default_value()) return true;
    if (IsSingleMessage(field) && !SettingOf(field).partial() &&
        HasStatedDefaults(*field.message_type())) {
      return true;
    }
  }
  return false;
}

// Of a field that has a stated bound.
void CheckRange(const Message& message, const FieldDescriptor& field, const std::string& path,
                ConfigChecker* check) {
  const Reflection& reflection = *message.GetReflection();
  const Setting& setting = SettingOf(field);
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    check->Range(path, reflection.GetDouble(message, &field), Number(field, setting.min()),
                 Number(field, setting.max()), setting.hint());
    return;
  }
  const int64_t value = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32
                            ? reflection.GetInt32(message, &field)
                            : reflection.GetInt64(message, &field);
  check->Range(path, value, WholeNumber(field, setting.min()),
               setting.has_max() ? WholeNumber(field, setting.max()) : kMaxSizeBytes,
               setting.hint());
}

}  // namespace

void FillStatedDefaults(Message* message) {
  const Descriptor& descriptor = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const Setting& setting = SettingOf(field);
    if (IsSingleMessage(field)) {
      if (!setting.partial() && HasStatedDefaults(*field.message_type())) {
        FillStatedDefaults(reflection.MutableMessage(message, &field));
      }
    } else if (field.type() == FieldDescriptor::TYPE_MESSAGE) {
      for (int each = 0; each < reflection.FieldSize(*message, &field); ++each) {
        FillStatedDefaults(reflection.MutableRepeatedMessage(message, &field, each));
      }
    } else if (setting.has_default_value() && !IsGiven(*message, field)) {
      SetDefault(field, setting.default_value(), message);
    }
  }
}

void CheckStatedRanges(const Message& message, const std::string& path, ConfigChecker* check) {
  const Descriptor& descriptor = *message.GetDescriptor();
  const Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const std::string field_path =
        path.empty() ? field.name() : absl::StrCat(path, ".", field.name());
    if (IsSingleMessage(field)) {
      if (reflection.HasField(message, &field)) {
        CheckStatedRanges(reflection.GetMessage(message, &field), field_path, check);
      }
    } else if (field.type() == FieldDescriptor::TYPE_MESSAGE) {
      for (int each = 0; each < reflection.FieldSize(message, &field); ++each) {
        CheckStatedRanges(reflection.GetRepeatedMessage(message, &field, each),
                          absl::StrCat(field_path, "[", each, "]"), check);
      }
    } else if (SettingOf(field).has_min() && IsGiven(message, field)) {
      CheckRange(message, field, field_path, check);
    }
  }
}

}  // namespace kvasir
