// Any bytes as a configuration file: an error or a configuration, never a crash; and what is
// accepted prints as a file that means the same and is accepted again.
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "google/protobuf/util/message_differencer.h"
#include "server/config/config_reader.h"
#include "server/config/config_writer.h"
#include "server/config/server_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using kvasir::ConfigSource;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  absl::StatusOr<ConfigSource> source = kvasir::ParseConfig(text, "fuzz.yaml");
  if (!source.ok()) {
    KVASIR_CHECK(!source.status().message().empty());
    return 0;
  }
  kvasir::FillDefaults(&source->message);
  const bool valid = kvasir::Validate(source->message, source->origins).ok();

  absl::StatusOr<ConfigSource> again =
      kvasir::ParseConfig(kvasir::WriteConfig(source->message), "printed.yaml");
  KVASIR_CHECK(again.ok());
  KVASIR_CHECK(google::protobuf::util::MessageDifferencer::Equals(source->message, again->message));
  KVASIR_CHECK(kvasir::Validate(again->message, again->origins).ok() == valid);
  return 0;
}
