// Whether two models' layers are described alike, member by member. Pure functions, thread safe.
#pragma once

#include "runtime/model/layer_spec.h"

namespace kvasir {

bool Same(const AttentionSpec& a, const AttentionSpec& b);
bool Same(const MixerSpec& a, const MixerSpec& b);
bool Same(const DenseMlpSpec& a, const DenseMlpSpec& b);
bool Same(const std::optional<MoeSpec>& a, const std::optional<MoeSpec>& b);
bool Same(const QkNormSpec& a, const QkNormSpec& b);
bool Same(const LayerSpec& a, const LayerSpec& b);
bool Same(const EmbeddingSpec& a, const EmbeddingSpec& b);
bool Same(const HeadSpec& a, const HeadSpec& b);
bool Same(const PerLayerEmbeddingSpec& a, const PerLayerEmbeddingSpec& b);
bool Same(const AltUpSpec& a, const AltUpSpec& b);

}  // namespace kvasir
