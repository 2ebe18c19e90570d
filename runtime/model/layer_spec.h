// What one decoder layer computes, in numbers: the parameter set that covers every architecture.
// An architecture (runtime/model/architectures) fills it from its config; the decoder reads nothing
// else, so no architecture's name appears behind the loader. Plain values, immutable after parsing.
//
// Order of a layer, x = the residual stream [hidden_size], f = mixer, g = feed-forward:
//   kPre          x += f(n1(x));            x += g(n2(x))
//   kPost         x += n1(f(x));            x += n2(g(x))             (OLMo 2 and 3, Exaone 4)
//   kBoth         x += n1b(f(n1(x)));       x += n2b(g(n2(x)))        (Gemma 2 to 4, GLM-4)
//   kParallelOne  x += f(n1(x)) + g(n1(x))                            (Phi-2, Falcon 7B, Cohere,
//   GPT-J) kParallelTwo  x += f(n1(x)) + g(n2(x))                            (GPT-NeoX, Falcon 40B)
//   kAfterAdd     x = n1(x + f(x));         x = n2(x + g(x))          (OPT 350m)
// Each contribution is multiplied by residual_multiplier before it is added.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "runtime/ops/layers/activation.h"

namespace kvasir {

enum class NormKind {
  kNone,
  kRms,   // x / rms(x) * weight
  kLayer  // (x - mean) / std * weight + bias
};

struct NormSpec {
  NormKind kind = NormKind::kRms;
  float eps = 1e-6f;
  bool has_weight = true;  // "1 + weight" of a checkpoint is folded into the weight while loading
  bool has_bias = false;
};

// One way of making rotation angles. A model has a few (global, local); layers name them by index.
struct RopeSpec {
  enum class Scaling {
    kNone,
    kLinear,        // angles divided by factor
    kLlama3,        // long wavelengths divided by factor
    kDynamic,       // theta raised by alpha once for all (Hunyuan); the other form of "dynamic"
                    // leaves theta alone up to max_positions and so is kNone
    kYarn,          // mixed by wavelength; cos and sin times attention_factor
    kLongRope,      // per-frequency divisors, one set for short contexts and one for long
    kProportional,  // partial * head_dim / 2 pairs with exponents over head_dim, the others still
  };
  float theta = 10000.0f;
  int rotary_dim = 0;  // of head_dim, even; the rest passes through. kProportional: head_dim
  Scaling scaling = Scaling::kNone;
  float factor = 1.0f;
  float low_freq_factor = 1.0f;            // llama3
  float high_freq_factor = 4.0f;           // llama3
  int original_max_positions = 8192;       // llama3, yarn, longrope, dynamic
  float beta_fast = 32.0f;                 // yarn
  float beta_slow = 1.0f;                  // yarn
  bool truncate = true;                    // yarn: the ramp's ends are whole dimensions
  float attention_factor = 1.0f;           // yarn, longrope: of cos and sin
  float alpha = 1.0f;                      // dynamic: theta * alpha^(d / (d - 2))
  float rotated_share = 1.0f;              // proportional
  std::vector<float> short_divisors = {};  // longrope, [rotary_dim / 2]
  std::vector<float> long_divisors = {};   // longrope, [rotary_dim / 2]
};

// How q and k are normalised before their scores.
struct QkNormSpec {
  enum class Span {
    kNone,
    kHead,   // each head of head_dim by itself, one weight [head_dim] for all heads
    kHeads,  // each head by itself, with a weight of its own: [heads][head_dim]
    kWhole   // all heads together, weight [heads * head_dim]
  };
  Span span = Span::kNone;
  NormSpec norm;
  bool after_rope = false;
};

// Multi-head latent attention (DeepSeek V2 and V3): one row of kv_rank + rope_dim values per token
// serves as K of all heads, and its first kv_rank values as V.
struct LatentSpec {
  int q_rank = 0;  // 0: queries are projected in one step
  int kv_rank = 0;
  int nope_dim = 0;  // of a query head, not rotated
  int rope_dim = 0;  // of a query head, rotated
  int v_dim = 0;     // of a head's output
  NormSpec norm;     // of the latents
};

struct AttentionSpec {
  int query_heads = 0;
  int kv_heads = 0;    // divides query_heads
  int head_dim = 0;    // of q and k
  int v_head_dim = 0;  // of v and of a head's output
  int kv_owner = 0;    // the layer whose K and V this layer reads; itself when it stores its own
  int window = 0;      // position p sees (p - window, p]; 0 = all before it
  int rope = -1;       // index into ModelSpec::ropes; -1 = not rotated
  QkNormSpec qk_norm;
  bool v_norm = false;  // v / rms(v), no weight (Gemma 3n and 4)
  bool v_is_k = false;  // no V projection: V is the projected K, before norm and rotation
  bool q_bias = false, k_bias = false, v_bias = false, o_bias = false;
  float scale = 0;             // of the scores
  float softcap = 0;           // scores become softcap * tanh(scores / softcap); 0 = not
  bool sinks = false;          // one logit per query head joins the softmax and takes mass away
  bool alibi = false;          // slope(head) * position of the key joins the scaled score
  float alibi_scale = 1;       // of that product: Falcon adds it before it scales the score
  bool alibi_rounded = false;  // the slope's product rounded to bf16, as Falcon does
  bool output_gate = false;  // q_proj gives [head][q, gate]; a head's output is times sigmoid(gate)
  // Borrowers read the owner's K as it was before rotation (MLKV checkpoints as published).
  bool reads_unrotated_k = false;
  // K is stored normalised without its weight, which each reader multiplies into its queries
  // (Hunyuan's CLA: SYSTEMS 1.3).
  bool k_norm_in_query = false;
  // Queries at position p are times 1 + beta * ln(1 + floor(p / original)) (Ministral 3); 0 = not.
  float query_temperature_beta = 0;
  int query_temperature_positions = 0;
  std::optional<LatentSpec> latent;

  // Whether scores are scaled products of queries and rotated keys over all positions, and nothing
  // takes part in the softmax beside them: what methods that choose positions by scores can stand
  // in for. Windows read little as they are; the heads of a latent layer are one group that no
  // choice of few positions serves.
  bool has_plain_scores() const {
    return window == 0 && softcap == 0 && !alibi && !sinks && !reads_unrotated_k && !latent;
  }

  int query_size() const { return query_heads * head_dim; }
  int kv_size() const { return kv_heads * head_dim; }
};

// Gated delta net (Qwen3-Next, Qwen3.5). Per sequence and layer a state of
// [value_heads][key_dim][value_dim] f32 and the last conv_kernel - 1 inputs of the convolution.
struct DeltaNetSpec {
  int key_heads = 0;
  int value_heads = 0;  // a multiple of key_heads
  int key_dim = 0;      // of a head
  int value_dim = 0;    // of a head
  int conv_kernel = 4;
  NormSpec norm;  // of a head's output, gated by silu(z)

  int conv_channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
};

// Short convolution (LFM2): y = out(C * conv(B * x)). State: the last kernel - 1 inputs.
struct ShortConvSpec {
  int kernel = 3;
  bool bias = false;
};

using MixerSpec = std::variant<AttentionSpec, DeltaNetSpec, ShortConvSpec>;

struct DenseMlpSpec {
  int width = 0;      // intermediate_size; 0 = there is none
  bool gated = true;  // down(act(gate(x)) * up(x)), else down(act(up(x)))
  Activation activation = Activation::kSilu;
  bool bias = false;
  float sparsity = 0;  // Gemma 3n: gate keeps what exceeds mean + quantile(sparsity) * std; 0 = all
};

struct MoeSpec {
  enum class Score {
    kSoftmax,          // softmax over all experts, then the choice
    kSigmoid,          // sigmoid of each, then the choice
    kSoftmaxOfChosen,  // the choice by logits, then softmax over the chosen
  };
  int experts = 0;
  int chosen = 0;  // per token
  int width = 0;   // of an expert
  Activation activation = Activation::kSilu;
  Score score = Score::kSoftmax;
  bool renormalize = false;   // chosen weights sum to 1
  float weight_scale = 1.0f;  // of the chosen weights, after renormalising
  bool choice_bias = false;   // added to the scores for the choice alone (DeepSeek V3)
  bool router_bias = false;
  int groups = 1;  // experts are chosen within the best groups_chosen groups
  int groups_chosen = 1;
  int group_score_top = 1;  // a group's score: the sum of its best so many
  bool bias = false;        // of the experts' products
  float clamp = 0;  // gpt-oss: g = min(g, clamp), u in +-clamp, (u + 1) * g * sigmoid(alpha g)
  float clamp_alpha = 1.702f;
  int shared_width = 0;      // an MLP that every token passes; 0 = none
  bool shared_gate = false;  // its output is times sigmoid of a projection of x
  // Gemma 4: the router reads x / rms(x) * scale weight * hidden^-1/2, chosen weights are times a
  // weight per expert, and experts run beside the dense MLP with norms of their own.
  bool router_norm = false;
  bool per_expert_scale = false;
  bool beside_dense = false;
};

struct FeedForwardSpec {
  DenseMlpSpec dense;
  std::optional<MoeSpec> moe;
};

enum class NormPlacement { kPre, kPost, kBoth, kParallelOne, kParallelTwo, kAfterAdd };

struct LayerSpec {
  NormPlacement placement = NormPlacement::kPre;
  NormSpec norm;  // of every norm between sub-layers
  MixerSpec mixer;
  FeedForwardSpec feed_forward;
  float residual_multiplier = 1.0f;
  bool layer_scale =
      false;  // the whole residual is times a stored scalar after the layer (Gemma 4)

  const AttentionSpec* attention() const { return std::get_if<AttentionSpec>(&mixer); }
  AttentionSpec* attention() { return std::get_if<AttentionSpec>(&mixer); }
  const DeltaNetSpec* delta_net() const { return std::get_if<DeltaNetSpec>(&mixer); }
  const ShortConvSpec* short_conv() const { return std::get_if<ShortConvSpec>(&mixer); }
};

// What stands before the first layer.
struct EmbeddingSpec {
  float multiplier = 1.0f;
  NormSpec norm{NormKind::kNone};  // Bloom
  bool learned_positions = false;  // a table [max_positions + position_offset, hidden] is added
  int position_offset = 0;         // OPT: 2
  int size = 0;  // of a token's row, projected to hidden_size (OPT 350m); 0 = hidden_size
};

// What stands behind the last layer.
struct HeadSpec {
  NormSpec norm;  // kind kNone: none
  bool tied = false;
  bool bias = false;
  float multiplier = 1.0f;  // of the logits
  float softcap = 0;        // 0 = not
};

// Per-layer embeddings (Gemma 3n and 4): after the feed-forward of layer l,
// x += norm(project(act(gate(x)) * e_l)), e_l from a second embedding table and a projection of the
// first layer's input.
struct PerLayerEmbeddingSpec {
  int size = 0;  // values per layer; 0 = none
  int vocab_size = 0;
  Activation activation = Activation::kGeluTanh;
};

// Alternating updates and learned augmented residual (Gemma 3n).
struct AltUpSpec {
  int streams = 0;  // 0 = none
  int active = 0;
  bool scale_corrected = true;
  int laurel_rank = 0;
};

}  // namespace kvasir
