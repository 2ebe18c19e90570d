#include "server/frontend/model_description.h"

#include "kvcache/kv_layout.h"
#include "runtime/engine/speculation/speculator.h"
#include "runtime/model/model_spec.h"
#include "server/config/server_config.h"
#include "server/frontend/request_errors.h"

namespace kvasir {

v1::Model DescribeEntry(const ModelEntry& entry) {
  v1::Model model;
  if (entry.served != nullptr) {
    model = DescribeModel(*entry.served);
  } else {
    model.set_name(entry.name);
  }
  switch (entry.state) {
    case ModelState::kLoading:
      model.set_state(v1::MODEL_STATE_LOADING);
      model.set_state_detail(entry.detail);
      model.set_load_progress(entry.load_progress);
      break;
    case ModelState::kReady:
      break;  // as DescribeModel says
    case ModelState::kUnloading:
      model.set_state(v1::MODEL_STATE_UNLOADING);
      break;
    case ModelState::kFailed:
      model.set_state(v1::MODEL_STATE_FAILED);
      model.set_error(entry.error.substr(0, kMaxErrorMessageBytes));
      break;
  }
  return model;
}

v1::Model DescribeModel(const ServedModel& served) {
  const ModelSpec& spec = served.model->spec();
  const KvLayout& layout = served.engine->kv_layout();
  v1::Model model;
  model.set_name(served.name);
  model.set_state(v1::MODEL_STATE_READY);
  model.set_loaded_unix_seconds(absl::ToUnixSeconds(served.loaded));
  model.set_architecture(spec.architecture);
  model.set_sharing(spec.SharingName());
  model.set_kv_bytes_per_token_resident(static_cast<int64_t>(layout.resident_bytes_per_token()));
  model.set_kv_bytes_per_token_read(static_cast<int64_t>(layout.read_bytes_per_token()));
  model.set_kv_element_type(KvElementTypeName(layout.element_type()));
  model.set_compute_type(ComputeTypeName(served.model->compute_type()));

  model.set_context_tokens(served.engine->config().max_context_tokens);
  model.set_vocab_size(spec.vocab_size);
  model.set_hidden_size(spec.hidden_size);
  model.set_num_layers(spec.num_layers());
  model.set_num_query_heads(spec.query_heads());
  model.set_head_dim(spec.head_dim());
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    model.add_kv_owner(layout.owner(layer));
    model.add_kv_heads(layout.kv_heads(layer));
  }
  for (const KvGroup& group : layout.groups()) {
    v1::KvGroup* const described = model.add_groups();
    for (const int layer : group.layers) described->add_layers(layer);
    described->set_kind(KvGroupKindName(group.kind));
    described->set_window_tokens(group.window);
    described->set_bytes_per_token(static_cast<int64_t>(group.resident_bytes_per_token));
    described->set_read_bytes_per_token(static_cast<int64_t>(group.read_bytes_per_token));
    if (group.kind == KvGroupKind::kState)
      described->set_state_bytes_per_sequence(static_cast<int64_t>(group.block_bytes));
  }
  model.set_parameters(spec.num_parameters());
  model.set_weight_bytes(static_cast<int64_t>(served.model->weight_bytes()));
  for (const auto& [format, bytes] : served.model->weight_bytes_by_format()) {
    (*model.mutable_weight_format_bytes())[format] = bytes;
  }

  model.set_block_tokens(layout.block_tokens());
  model.set_kv_pool_bytes(served.engine->stats().kv_capacity_bytes);
  for (const int id : spec.eos_token_ids) model.add_eos_token_ids(id);

  SpeculationMode speculation = SpeculationMode::kOff;
  if (CanSpeculate(layout)) {
    speculation = served.speculation.defaults.mode;
    model.add_speculation_modes(SpeculationModeName(SpeculationMode::kNgram));
    if (served.draft_model != nullptr)
      model.add_speculation_modes(SpeculationModeName(SpeculationMode::kDraft));
  }
  model.set_speculation_default(SpeculationModeName(speculation));
  model.set_tool_format(served.response_format->name);
  return model;
}

}  // namespace kvasir
