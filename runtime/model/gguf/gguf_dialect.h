// What GGUF files of one architecture say in their own way, and what the format leaves to its
// reader (which layers have windows, how scores are scaled): a part of the architecture's entry in
// the registry. What all files have alike is gguf_config.h's and gguf_names.h's.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "runtime/model/gguf/gguf_keys.h"
#include "runtime/model/gguf/gguf_reader.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

struct GgufDialect {
  // general.architecture; null: files of it are neither read nor written. Where several classes go
  // by one name, the first in the registry has the dialect, and the others just the name.
  const char* name = nullptr;
  // Completes the config.json that the common keys gave; null: there is nothing to add. May name
  // another class, where one name of the format stands for several.
  absl::Status (*complete)(const GgufReader& reader, nlohmann::json* config) = nullptr;
  // The keys of a file that is written from which `complete` makes the same model; null: the common
  // ones say all. What they cannot say is found when the file is read back.
  void (*describe)(const ModelSpec& spec, GgufKeys* keys) = nullptr;
  // Changes the common names (gguf_names.h); null: there is nothing to change.
  void (*rename)(const ModelSpec& spec, TensorNames* names) = nullptr;
  // Rows of q and k that rotate together stand side by side: because the converter put them there,
  // or because the architecture rotates neighbours.
  bool rope_pairs_side_by_side = false;
  bool writes_qkv_as_one = false;  // as attn_qkv; both forms are read
  bool up_holds_gate_too = false;  // ffn_up has the rows of gate, then those of up
  const char* mlp_norm = "blk.{}.ffn_norm";
  const char* final_norm = "output_norm";
};

}  // namespace kvasir
