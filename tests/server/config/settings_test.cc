// What the schema states: that it makes sense, and that the program's own structs, which tests and
// benches use without a configuration, say the same.
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "kvasir/config/v1/setting.pb.h"
#include "server/config/scalar.h"
#include "tests/server/config/checked_config.h"

namespace kvasir {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

bool IsNumber(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_INT32 ||
         field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
         field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE;
}

void ExpectSound(const Descriptor& message, std::set<std::string>* seen) {
  if (!seen->insert(message.full_name()).second) return;
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    SCOPED_TRACE(field.full_name());
    const config::v1::Setting& setting = field.options().GetExtension(config::v1::setting);
    if (field.message_type() != nullptr) {
      EXPECT_FALSE(setting.has_default_value() || setting.has_min());
      ExpectSound(*field.message_type(), seen);
      continue;
    }
    EXPECT_EQ(setting.has_min(), setting.has_hint());
    if (setting.has_max()) EXPECT_TRUE(setting.has_min());
    if (setting.has_min()) {
      EXPECT_TRUE(IsNumber(field) && field.has_presence());
      // Without one, only sizes are bounded.
      EXPECT_TRUE(setting.has_max() || IsByteSizeField(field));
    }
    if (setting.has_default_value()) EXPECT_FALSE(field.is_repeated());
    EXPECT_FALSE(setting.partial());
  }
}

TEST(SettingsTest, TheSchemaIsSound) {
  std::set<std::string> seen;
  ExpectSound(*config::v1::Config::descriptor(), &seen);
  EXPECT_GT(seen.size(), 10u);
}

TEST(SettingsTest, EveryStatedDefaultIsInItsRangeAndIsWhatTheStructsSay) {
  const absl::StatusOr<DaemonConfig> config = Check(
      "models: [{path: /models/a}]\n"
      "tenants: [{id: acme, key_sha256: "
      "[0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef]}]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  const ModelConfig& model = config->models[0];
  const EngineConfig engine;
  EXPECT_EQ(model.engine.block_tokens, engine.block_tokens);
  EXPECT_EQ(model.engine.prefix_cache, engine.prefix_cache);
  EXPECT_EQ(model.engine.k_columns, engine.k_columns);
  EXPECT_EQ(model.engine.kv_element_type, engine.kv_element_type);
  EXPECT_EQ(model.engine.snapshot_interval_tokens, engine.snapshot_interval_tokens);
  EXPECT_EQ(model.engine.max_snapshots, engine.max_snapshots);
  EXPECT_EQ(model.engine.max_step_tokens, engine.max_step_tokens);
  EXPECT_EQ(model.engine.prefill_chunk_tokens, engine.prefill_chunk_tokens);
  EXPECT_EQ(model.engine.max_running, engine.max_running);
  EXPECT_EQ(model.engine.max_waiting, engine.max_waiting);
  EXPECT_EQ(model.engine.max_waiting_tokens, engine.max_waiting_tokens);
  EXPECT_EQ(model.engine.stream_outbox_events, engine.stream_outbox_events);
  EXPECT_EQ(model.engine.stall_limit, engine.stall_limit);
  EXPECT_EQ(model.engine.token_prices.input, engine.token_prices.input);
  EXPECT_EQ(model.engine.token_prices.output, engine.token_prices.output);
  EXPECT_EQ(model.engine.max_sessions, engine.max_sessions);
  EXPECT_EQ(model.engine.session_ttl, engine.session_ttl);
  EXPECT_EQ(model.engine.max_spill_bytes, engine.max_spill_bytes);
  EXPECT_EQ(model.engine.max_spill_queue_bytes, engine.max_spill_queue_bytes);
  EXPECT_EQ(model.engine.max_prefix_spill_bytes, engine.max_prefix_spill_bytes);
  EXPECT_EQ(model.engine.draft_kv_capacity_bytes, engine.draft_kv_capacity_bytes);
  EXPECT_EQ(model.default_max_tokens, ModelConfig().default_max_tokens);

  const AttentionPolicy attention;
  EXPECT_EQ(model.attention.sparse_by_default, attention.sparse_by_default);
  EXPECT_EQ(model.attention.compression, attention.compression);
  EXPECT_EQ(model.attention.max_compression, attention.max_compression);
  EXPECT_EQ(model.attention.min_rank, attention.min_rank);
  EXPECT_EQ(model.attention.min_top_k, attention.min_top_k);
  EXPECT_EQ(model.attention.min_tokens, attention.min_tokens);
  EXPECT_EQ(model.attention.allow_sparq, attention.allow_sparq);
  EXPECT_EQ(model.attention.allow_experimental, attention.allow_experimental);

  const SpeculationPolicy speculation;
  EXPECT_EQ(model.speculation.defaults.mode, speculation.defaults.mode);
  EXPECT_EQ(model.speculation.defaults.max_draft_tokens, speculation.defaults.max_draft_tokens);
  EXPECT_EQ(model.speculation.draft_kv_bytes, speculation.draft_kv_bytes);

  const GrammarLimits grammar;
  EXPECT_EQ(model.grammar.max_source_bytes, grammar.max_source_bytes);
  EXPECT_EQ(model.grammar.max_symbols, grammar.max_symbols);
  EXPECT_EQ(model.grammar.max_lexer_states, grammar.max_lexer_states);
  EXPECT_EQ(model.grammar.compile_fuel, grammar.compile_fuel);
  EXPECT_EQ(model.grammar.step_fuel, grammar.step_fuel);
  EXPECT_EQ(model.grammar.max_step_items, grammar.max_step_items);
  EXPECT_EQ(model.grammar.max_compile_time, grammar.max_compile_time);
  EXPECT_EQ(model.grammar.max_waiting, grammar.max_waiting);
  EXPECT_EQ(model.grammar.max_compiled, grammar.max_compiled);

  EXPECT_EQ(config->text.max_waiting, TextLimits().max_waiting);
  EXPECT_EQ(config->text.max_waiting_bytes, TextLimits().max_waiting_bytes);
  EXPECT_EQ(config->tenants[0].weight, TenantConfig().weight);
  EXPECT_EQ(config->tenants[0].admin, TenantConfig().admin);
}

TEST(SettingsTest, WhatBoundsAnotherFieldIsACompleteStatement) {
  const absl::StatusOr<DaemonConfig> config = Check(
      "models:\n- path: /models/a\n  scheduler: {max_step_tokens: 16}\n"
      "  attention: {max_compression: 4}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models[0].engine.prefill_chunk_tokens, 16);
  EXPECT_EQ(config->models[0].engine.max_running, 16);
  EXPECT_EQ(config->models[0].attention.compression, 4);
}

TEST(SettingsTest, ATenantsAttentionStaysAsItIs) {
  absl::StatusOr<ConfigSource> source = ParseConfig(
      "models: [{path: /a}]\ntenants: [{id: acme, attention: {min_rank: 9}}]\n", "test.yaml");
  ASSERT_TRUE(source.ok());
  FillDefaults(&source->message);
  const config::v1::AttentionConfig& attention = source->message.tenants(0).attention();
  EXPECT_EQ(attention.min_rank(), 9);
  EXPECT_FALSE(attention.has_max_compression());
  EXPECT_TRUE(attention.mode().empty());
  EXPECT_FALSE(source->message.tenants(0).has_limits());
}

}  // namespace
}  // namespace kvasir
