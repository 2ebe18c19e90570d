// What GGUF files of one architecture say in their own way, and what the format leaves to its
// reader (which layers have windows, how scores are scaled): a part of the architecture's entry in
// the registry. What all files have alike is gguf_config.h's and gguf_names.h's.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "runtime/model/gguf/gguf_reader.h"

namespace kvasir {

struct GgufDialect {
  const char* name = nullptr;  // general.architecture; null: files of it are not read
  // Completes the config.json that the common keys gave; null: there is nothing to add. May name
  // another class, where one name of the format stands for several.
  absl::Status (*complete)(const GgufReader& reader, nlohmann::json* config) = nullptr;
  // Rows of q and k that rotate together stand side by side: because the converter put them there,
  // or because the architecture rotates neighbours.
  bool rope_pairs_side_by_side = false;
  bool up_holds_gate_too = false;  // ffn_up has the rows of gate, then those of up
  const char* mlp_norm = "blk.{}.ffn_norm";
  const char* final_norm = "output_norm";
};

}  // namespace kvasir
