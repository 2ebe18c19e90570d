#include "server/http/memory_json.h"

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "kvasir/v1/generation.pb.h"
#include "server/frontend/account_messages.h"
#include "server/frontend/model_description.h"

namespace kvasir {
namespace {

using nlohmann::ordered_json;

// The fields of a message of the API that are single values, all of them, under their names.
// Numbers are numbers, where protobuf's own JSON has strings for those of 64 bits; a state is
// "busy".
ordered_json FieldsJson(const google::protobuf::Message& message) {
  using google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection& values = *message.GetReflection();
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  ordered_json out;
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor* const field = type.field(i);
    if (field->is_repeated()) continue;
    ordered_json& value = out[field->name()];
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        value = values.GetInt32(message, field);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        value = values.GetInt64(message, field);
        break;
      case FieldDescriptor::CPPTYPE_DOUBLE:
        value = values.GetDouble(message, field);
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        value = values.GetString(message, field);
        break;
      case FieldDescriptor::CPPTYPE_ENUM: {
        // What all names of the type begin with.
        absl::string_view prefix = field->enum_type()->value(0)->name();
        absl::ConsumeSuffix(&prefix, "UNSPECIFIED");
        absl::string_view name = values.GetEnum(message, field)->name();
        absl::ConsumePrefix(&name, prefix);
        value = absl::AsciiStrToLower(name);
        break;
      }
      default:
        KVASIR_CHECK(false);  // these messages have no others
    }
  }
  return out;
}

ordered_json ToJson(const RequestSnapshot& request, const std::string& model) {
  return FieldsJson(DescribeRequest(request, model));
}

ordered_json ToJson(const SessionSnapshot& session, const std::string& model) {
  ordered_json row = FieldsJson(DescribeSession(session, model));
  row["tenant"] = session.tenant;  // over gRPC everybody sees its own alone
  return row;
}

// The first rows of the caller's; all tenants' for an operator.
template <typename Row>
ordered_json Rows(const std::vector<Row>& all, const std::string& model, const Caller& caller) {
  ordered_json rows = ordered_json::array();
  for (const Row& row : all) {
    if (rows.size() == kMaxMemoryRows) break;
    if (caller.admin() || row.tenant == caller.tenant()) rows.push_back(ToJson(row, model));
  }
  return rows;
}

// What would tell a tenant when and how much others work.
void AddTotals(const EngineAccounts& accounts, const KvLayout& layout, ordered_json* out) {
  const EngineStats& stats = accounts.stats;
  (*out)["pool"] = {{"capacity_bytes", stats.kv_capacity_bytes},
                    {"live_bytes", stats.kv_live_bytes},
                    {"cached_bytes", stats.kv_cached_bytes},
                    {"free_bytes", stats.kv_free_bytes}};
  ordered_json& groups = (*out)["groups"] = ordered_json::array();
  for (size_t i = 0; i < accounts.groups.size(); ++i) {
    const KvGroup& group = layout.group(static_cast<int>(i));
    groups.push_back({{"kind", KvGroupKindName(group.kind)},
                      {"layers", group.layers.size()},
                      {"window_tokens", group.window},
                      {"block_bytes", group.block_bytes},
                      {"live_bytes", accounts.groups[i].live_bytes},
                      {"cached_bytes", accounts.groups[i].cached_bytes}});
  }
  (*out)["totals"] = {
      {"prompt_tokens", stats.prompt_tokens_total},
      {"cached_tokens", stats.cached_tokens_total},
      {"generated_tokens", stats.generated_tokens_total},
      {"steps", stats.steps_total},
      {"preemptions", stats.preemptions_total},
      {"evictions", stats.kv_evictions_total},
      {"kv_bytes_read", stats.kv_bytes_read_dense_total + stats.kv_bytes_read_sparse_total},
      {"kv_bytes_read_if_dense", stats.kv_bytes_read_if_dense_total}};
}

}  // namespace

ordered_json DescribeMemory(const ServedModel& served, const Caller& caller) {
  const v1::Model model = DescribeModel(served);
  const EngineAccounts accounts = served.engine->TakeAccounts();
  ordered_json out;
  out["model"] = model.name();
  out["chat"] = served.chat_template != nullptr;
  out["sharing"] = model.sharing();
  out["block_tokens"] = model.block_tokens();
  out["kv_bytes_per_token_resident"] = model.kv_bytes_per_token_resident();
  out["kv_bytes_per_token_read"] = model.kv_bytes_per_token_read();
  int running = 0, waiting = 0;
  for (const RequestSnapshot& request : accounts.requests) {
    if (!caller.admin() && request.tenant != caller.tenant()) continue;
    ++(absl::string_view(request.state) == "waiting" ? waiting : running);
  }
  out["running"] = running;
  out["waiting"] = waiting;
  if (caller.admin()) AddTotals(accounts, served.engine->kv_layout(), &out);
  ordered_json& tenants = out["tenants"] = ordered_json::array();
  for (const auto& [tenant, sums] : SumByTenant(accounts)) {
    if (caller.admin() || tenant == caller.tenant()) tenants.push_back(FieldsJson(sums));
  }
  out["requests"] = Rows(accounts.requests, served.name, caller);
  out["sessions"] = Rows(accounts.sessions, served.name, caller);
  return out;
}

}  // namespace kvasir
