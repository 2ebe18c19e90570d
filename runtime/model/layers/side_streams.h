// What runs beside the residual stream x in some models: per-layer embeddings (Gemma 3n and 4), and
// alternating streams with the learned augmented residual (Gemma 3n). In models without them every
// call does nothing. Borrows what it is given, owns the streams: one per Decoder, not thread safe.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/model/activations.h"
#include "runtime/model/layers/alternating_streams.h"
#include "runtime/model/layers/per_layer_embedding.h"
#include "runtime/model/layers/residual_stream.h"
#include "runtime/model/model.h"
#include "runtime/ops/matmul.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class SideStreams {
 public:
  SideStreams(const Model* model, const ResidualStream* stream, Activations* activations)
      : model_(*model),
        stream_(*stream),
        activations_(*activations),
        per_layer_(model->compute_type()),
        alternating_(model->compute_type()),
        laurel_input_(ComputeType::kF32) {}

  // x holds the embeddings of these tokens.
  void Begin(absl::Span<const TokenId> tokens);

  // Before a layer reads x.
  void BeforeLayer(int layer, int64_t rows);
  // Before the mixer's contribution is made: it may go into x at once.
  void BeforeMixer(int layer, int64_t rows);
  // The mixer's contribution has joined x.
  void AfterMixer(int layer, int64_t rows);
  // So has the feed-forward's.
  void AfterMlp(int layer, int64_t rows);

  // Row r becomes row rows[r], as in x; rows ascend.
  void KeepRows(absl::Span<const int32_t> rows);

  // Behind the last layer: x becomes what the head reads.
  void End(int64_t rows);

 private:
  bool has_per_layer() const { return model_.spec().per_layer_embedding.size > 0; }
  bool alternates() const { return model_.spec().altup.streams > 0; }
  bool has_laurel() const { return model_.spec().altup.laurel_rank > 0; }

  const Model& model_;
  const ResidualStream& stream_;
  Activations& activations_;
  PerLayerEmbedding per_layer_;
  AlternatingStreams alternating_;
  MatmulInput laurel_input_;  // [rows, hidden_size]: what the mixer reads, in f32
};

}  // namespace kvasir
