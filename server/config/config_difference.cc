#include "server/config/config_difference.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"

namespace kvasir {
namespace {

using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;

class PathCollector : public MessageDifferencer::Reporter {
 public:
  using Path = std::vector<MessageDifferencer::SpecificField>;

  void ReportAdded(const Message&, const Message&, const Path& path) override { Note(path); }
  void ReportDeleted(const Message&, const Message&, const Path& path) override { Note(path); }
  void ReportModified(const Message&, const Message&, const Path& path) override {
    // A message is modified where one of its fields is, and that field is named.
    const google::protobuf::FieldDescriptor* const field = path.back().field;
    if (field == nullptr || field->message_type() == nullptr) Note(path);
  }

  std::vector<std::string> paths;

 private:
  void Note(const Path& fields) {
    std::string path;
    for (const MessageDifferencer::SpecificField& part : fields) {
      if (part.field == nullptr) break;
      absl::StrAppend(&path, path.empty() ? "" : ".", part.field->name());
      const int index = part.index >= 0 ? part.index : part.new_index;
      if (part.field->is_repeated()) absl::StrAppend(&path, "[", index, "]");
    }
    const bool whole_model = fields.size() == 1 && fields[0].field->name() == "models";
    const bool reloaded = whole_model || absl::StartsWith(path, "tenants") ||
                          absl::StartsWith(path, "server.authentication");
    if (!reloaded && std::find(paths.begin(), paths.end(), path) == paths.end()) {
      paths.push_back(path);
    }
  }
};

}  // namespace

std::vector<std::string> FieldsThatNeedARestart(const config::v1::Config& running,
                                                const config::v1::Config& wanted) {
  PathCollector collector;
  MessageDifferencer differencer;
  differencer.TreatAsMap(config::v1::Config::descriptor()->FindFieldByName("models"),
                         config::v1::ModelConfig::descriptor()->FindFieldByName("name"));
  differencer.ReportDifferencesTo(&collector);
  differencer.Compare(running, wanted);
  return std::move(collector.paths);
}

}  // namespace kvasir
