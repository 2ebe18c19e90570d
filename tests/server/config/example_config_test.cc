// deploy/config/kvasird.yaml is the documentation of the schema: it must parse, hold the defaults,
// and name every key.
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "server/config/config_reader.h"
#include "server/config/config_writer.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

constexpr char kExample[] = "deploy/config/kvasird.yaml";

std::string ReadExample() {
  std::ifstream file(kExample);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ExampleConfig, IsValidAndHoldsTheDefaults) {
  absl::StatusOr<ConfigSource> example = ReadConfigFile(kExample);
  ASSERT_TRUE(example.ok()) << example.status();
  FillDefaults(&example->message);
  const absl::StatusOr<DaemonConfig> checked = Validate(example->message, example->origins);
  ASSERT_TRUE(checked.ok()) << checked.status();

  config::v1::Config defaults;
  defaults.add_models()->set_path("deploy/models/tale-7m-gqa2");
  FillDefaults(&defaults);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(example->message, defaults))
      << "the example:\n"
      << WriteConfig(example->message) << "the defaults:\n"
      << WriteConfig(defaults);
}

// Every field of the schema appears as "name:", alone or behind a comment sign, with a comment
// above its group.
void ExpectKeysAppear(const google::protobuf::Descriptor& descriptor, const std::string& text) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *descriptor.field(i);
    bool found = false;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      const size_t begin = line.find_first_not_of(" #-");
      if (begin != std::string::npos &&
          line.compare(begin, field.name().size() + 1, field.name() + ":") == 0) {
        found = true;
      }
    }
    EXPECT_TRUE(found) << field.full_name() << " is missing in " << kExample;
    if (field.message_type() != nullptr) ExpectKeysAppear(*field.message_type(), text);
  }
}

TEST(ExampleConfig, NamesEveryKey) {
  ExpectKeysAppear(*config::v1::Config::descriptor(), ReadExample());
}

// What is commented out is valid as well: uncommenting a line must not be a trap.
TEST(ExampleConfig, CommentedFieldsAreValidWhenUncommented) {
  std::istringstream lines(ReadExample());
  std::string text;
  int uncommented = 0;
  bool in_tenants = false;  // the one block that is commented out as a whole
  for (std::string line; std::getline(lines, line);) {
    if (in_tenants) {
      in_tenants = !line.empty();
      line.erase(0, 2);
    }
    for (const char* key : {"# max_context_tokens:", "# capacity_bytes:", "# max_idle_bytes:",
                            "# tenants:", "# threads:", "# long_threads:"}) {
      if (const size_t at = line.find(key); at != std::string::npos) {
        line.erase(at, 2);
        ++uncommented;
        in_tenants = in_tenants || absl::StartsWith(line, "tenants:");
      }
    }
    text += line + "\n";
  }
  EXPECT_EQ(uncommented, 7);
  absl::StatusOr<ConfigSource> source = ParseConfig(text, "example");
  ASSERT_TRUE(source.ok()) << source.status();
  FillDefaults(&source->message);
  const absl::StatusOr<DaemonConfig> checked = Validate(source->message, source->origins);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->models[0].engine.kv_capacity_bytes, int64_t{4} << 30);
  EXPECT_EQ(checked->threads, 8);
  ASSERT_EQ(checked->tenants.size(), 1u);
  EXPECT_EQ(checked->tenants[0].id, "team-a");
  EXPECT_EQ(checked->tenants[0].key_digests.size(), 1u);
  EXPECT_EQ(checked->tenants[0].key_file, "/etc/kvasir/team-a.keys");
}

}  // namespace
}  // namespace kvasir
