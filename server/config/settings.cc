#include "server/config/settings.h"

#include <cstdint>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvasir/config/v1/setting.pb.h"
#include "server/config/scalar.h"

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
void SetStated(const FieldDescriptor& field, const std::string& text, Message* message) {
  KVASIR_CHECK(SetScalar(field, text, /*is_quoted=*/false, message).ok());
}

int64_t WholeNumber(const Message& message, const FieldDescriptor& field) {
  const Reflection& reflection = *message.GetReflection();
  return field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 ? reflection.GetInt32(message, &field)
                                                            : reflection.GetInt64(message, &field);
}

bool IsGiven(const Message& message, const FieldDescriptor& field) {
  // A field without presence is given when it differs from zero or "".
  return message.GetReflection()->HasField(message, &field);
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
  const Setting& setting = SettingOf(field);
  const std::unique_ptr<Message> min(message.New());
  SetStated(field, setting.min(), min.get());
  const std::unique_ptr<Message> max(message.New());
  if (setting.has_max()) SetStated(field, setting.max(), max.get());
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    const Reflection& reflection = *message.GetReflection();
    check->Range(path, reflection.GetDouble(message, &field), reflection.GetDouble(*min, &field),
                 reflection.GetDouble(*max, &field), setting.hint());
    return;
  }
  check->Range(path, WholeNumber(message, field), WholeNumber(*min, field),
               setting.has_max() ? WholeNumber(*max, field) : kMaxSizeBytes, setting.hint());
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
      SetStated(field, setting.default_value(), message);
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
