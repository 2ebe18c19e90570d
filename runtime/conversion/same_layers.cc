#include "runtime/conversion/same_layers.h"

#include <tuple>

namespace kvasir {
namespace {

// All members of each kind of spec: a binding that leaves one out does not compile.
auto Members(const NormSpec& spec) {
  const auto& [kind, eps, has_weight, has_bias] = spec;
  return std::make_tuple(kind, eps, has_weight, has_bias);
}

auto Members(const QkNormSpec& spec) {
  const auto& [span, norm, after_rope] = spec;
  return std::make_tuple(span, Members(norm), after_rope);
}

auto Members(const LatentSpec& spec) {
  const auto& [q_rank, kv_rank, nope_dim, rope_dim, v_dim, norm] = spec;
  return std::make_tuple(q_rank, kv_rank, nope_dim, rope_dim, v_dim, Members(norm));
}

auto Members(const AttentionSpec& spec) {
  const auto& [query_heads, kv_heads, head_dim, v_head_dim, kv_owner, window, rope, qk_norm, v_norm,
               v_is_k, q_bias, k_bias, v_bias, o_bias, scale, softcap, sinks, alibi, alibi_scale,
               alibi_rounded, output_gate, reads_unrotated_k, k_norm_in_query,
               query_temperature_beta, query_temperature_positions, latent] = spec;
  return std::make_tuple(
      query_heads, kv_heads, head_dim, v_head_dim, kv_owner, window, rope, Members(qk_norm), v_norm,
      v_is_k, q_bias, k_bias, v_bias, o_bias, scale, softcap, sinks, alibi, alibi_scale,
      alibi_rounded, output_gate, reads_unrotated_k, k_norm_in_query, query_temperature_beta,
      query_temperature_positions, latent.has_value(), Members(latent.value_or(LatentSpec())));
}

auto Members(const DeltaNetSpec& spec) {
  const auto& [key_heads, value_heads, key_dim, value_dim, conv_kernel, norm] = spec;
  return std::make_tuple(key_heads, value_heads, key_dim, value_dim, conv_kernel, Members(norm));
}

auto Members(const ShortConvSpec& spec) {
  const auto& [kernel, bias] = spec;
  return std::make_tuple(kernel, bias);
}

auto Members(const DenseMlpSpec& spec) {
  const auto& [width, gated, activation, bias, sparsity] = spec;
  return std::make_tuple(width, gated, activation, bias, sparsity);
}

auto Members(const MoeSpec& spec) {
  const auto& [experts, chosen, width, activation, score, renormalize, weight_scale, choice_bias,
               router_bias, groups, groups_chosen, group_score_top, bias, clamp, clamp_alpha,
               shared_width, shared_gate, router_norm, per_expert_scale, beside_dense] = spec;
  return std::make_tuple(experts, chosen, width, activation, score, renormalize, weight_scale,
                         choice_bias, router_bias, groups, groups_chosen, group_score_top, bias,
                         clamp, clamp_alpha, shared_width, shared_gate, router_norm,
                         per_expert_scale, beside_dense);
}

auto Members(const FeedForwardSpec& spec) {
  const auto& [dense, moe] = spec;
  return std::make_tuple(Members(dense), moe.has_value(), Members(moe.value_or(MoeSpec())));
}

auto Members(const LayerSpec& spec) {
  const auto& [placement, norm, mixer_apart, feed_forward, residual_multiplier, layer_scale] = spec;
  return std::make_tuple(placement, Members(norm), Members(feed_forward), residual_multiplier,
                         layer_scale);
}

auto Members(const EmbeddingSpec& spec) {
  const auto& [multiplier, norm, learned_positions, position_offset, size] = spec;
  return std::make_tuple(multiplier, Members(norm), learned_positions, position_offset, size);
}

auto Members(const HeadSpec& spec) {
  const auto& [norm, tied, bias, multiplier, softcap] = spec;
  return std::make_tuple(Members(norm), tied, bias, multiplier, softcap);
}

auto Members(const PerLayerEmbeddingSpec& spec) {
  const auto& [size, vocab_size, activation] = spec;
  return std::make_tuple(size, vocab_size, activation);
}

auto Members(const AltUpSpec& spec) {
  const auto& [streams, active, scale_corrected, laurel_rank] = spec;
  return std::make_tuple(streams, active, scale_corrected, laurel_rank);
}

}  // namespace

bool Same(const AttentionSpec& a, const AttentionSpec& b) { return Members(a) == Members(b); }

bool Same(const DenseMlpSpec& a, const DenseMlpSpec& b) { return Members(a) == Members(b); }

bool Same(const QkNormSpec& a, const QkNormSpec& b) { return Members(a) == Members(b); }

bool Same(const EmbeddingSpec& a, const EmbeddingSpec& b) { return Members(a) == Members(b); }

bool Same(const HeadSpec& a, const HeadSpec& b) { return Members(a) == Members(b); }

bool Same(const PerLayerEmbeddingSpec& a, const PerLayerEmbeddingSpec& b) {
  return Members(a) == Members(b);
}

bool Same(const AltUpSpec& a, const AltUpSpec& b) { return Members(a) == Members(b); }

bool Same(const std::optional<MoeSpec>& a, const std::optional<MoeSpec>& b) {
  return a.has_value() == b.has_value() && (!a || Members(*a) == Members(*b));
}

bool Same(const MixerSpec& a, const MixerSpec& b) {
  if (a.index() != b.index()) return false;
  return std::visit(
      [&](const auto& mixer) {
        return Members(mixer) == Members(std::get<std::decay_t<decltype(mixer)>>(b));
      },
      a);
}

bool Same(const LayerSpec& a, const LayerSpec& b) {
  return Members(a) == Members(b) && Same(a.mixer, b.mixer);
}

}  // namespace kvasir
