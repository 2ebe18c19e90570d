// The mixer of any layer: attention, latent attention, or one with a state in place of K and V.
// Reads activations.normed and says what it contributes. Owns the mixers' scratch: one per Decoder,
// not thread safe.
#pragma once

#include "kvcache/kv_arena.h"
#include "runtime/model/activations.h"
#include "runtime/model/attention.h"
#include "runtime/model/layers/latent_attention.h"
#include "runtime/model/layers/residual_stream.h"
#include "runtime/model/layers/state_mixer.h"
#include "runtime/model/model.h"
#include "runtime/model/rope_tables.h"
#include "runtime/model/step_rows.h"

namespace kvasir {

class Mixer {
 public:
  Mixer(const Model* model, const KvArena* arena, const RopeTables* ropes,
        Activations* activations);

  // Any layer but the last storing one. rows: plan's, all or wanted; a layer that stores K and V or
  // a state must have all.
  void Run(int layer, const BatchRows& plan, const StepRows& rows, const Contribution& out);

  // The last storing layer in two parts, between which rows may leave. What all rows store: K and
  // V; or a state, and then what every row contributes is in `all` ...
  void Store(int layer, const BatchRows& plan, const Contribution& all);
  // ... and what those that stay contribute, unless Store said so.
  void Attend(int layer, const StepRows& rows, const Contribution& out);

  // Whether Store gives the contributions.
  bool ContributesWhenStoring(int layer) const {
    return model_.spec().layers[layer].attention() == nullptr;
  }

 private:
  bool IsLatent(int layer) const;
  void StoreLatent(int layer, const BatchRows& plan);
  void AttendLatent(int layer, const StepRows& rows, const Contribution& out);

  const Model& model_;
  const KvArena& arena_;
  const RopeTables& ropes_;
  Activations& activations_;
  SelfAttention attention_;
  LatentAttention latent_attention_;
  StateMixer state_mixer_;
};

}  // namespace kvasir
