#include "runtime/model/architectures/parts/rope_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"

namespace kvasir {
namespace {

constexpr double kMaxFactor = 1e4;
constexpr double kMaxTheta = 1e12;

// One dictionary of RoPE's settings and what stands around it.
class RopeReader {
 public:
  RopeReader(const JsonFields& config, const JsonFields& fields, int head_dim, int max_positions,
             const RopeDefaults& defaults)
      : config_(config),
        fields_(fields),
        head_dim_(head_dim),
        max_positions_(max_positions),
        defaults_(defaults) {}

  absl::StatusOr<RopeSpec> Read() {
    KVASIR_ASSIGN_OR_RETURN(const std::string type, Type());
    KVASIR_ASSIGN_OR_RETURN(const double theta, Either("rope_theta", defaults_.theta, kMaxTheta));
    KVASIR_ASSIGN_OR_RETURN(const double partial,
                            Either("partial_rotary_factor", defaults_.partial, 1.0));
    if (partial != 1.0 && !defaults_.partial_allowed) {
      const JsonFields& where = fields_.Has("partial_rotary_factor") ? fields_ : config_;
      return RefuseKey(where, "partial_rotary_factor", "1 is");
    }
    rope_.theta = static_cast<float>(theta);
    rope_.rotary_dim = static_cast<int>(head_dim_ * partial);
    if (type != "proportional" && (rope_.rotary_dim < 2 || rope_.rotary_dim % 2 != 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          config_.file(), ": partial_rotary_factor ", partial, " of heads of ", head_dim_,
          " rotates ", rope_.rotary_dim, " values, must be an even number from 2"));
    }
    if (type == "default") return rope_;
    if (type == "linear") return Linear();
    if (type == "llama3") return Llama3();
    if (type == "dynamic") return Dynamic();
    if (type == "yarn" && !defaults_.yarn_is_longrope) return Yarn();
    if (type == "longrope" || type == "su" || type == "yarn") return LongRope();
    if (type == "proportional") return Proportional(partial);
    return RefuseKey(fields_, fields_.Has("rope_type") ? "rope_type" : "type",
                     "default, linear, llama3, dynamic, yarn, longrope and proportional are");
  }

 private:
  absl::StatusOr<std::string> Type() const {
    // "type" is the name that older writers used.
    const char* key = fields_.Has("rope_type") ? "rope_type" : "type";
    if (!fields_.Has(key) && fields_.Has("factor")) {
      return fields_.Wrong("rope_type", "must name the kind of scaling");
    }
    return fields_.StringOr(key, "default");
  }

  absl::StatusOr<double> Either(const char* key, double fallback, double max) const {
    const double min = max > 1.0 ? 1.0 : 0.0;
    if (fields_.Has(key)) return fields_.Number(key, min, max);
    return config_.NumberOr(key, fallback, min, max);
  }

  absl::Status Factor(double min = 1.0) {
    KVASIR_ASSIGN_OR_RETURN(const double factor, fields_.Number("factor", min, kMaxFactor));
    rope_.factor = static_cast<float>(factor);
    return absl::OkStatus();
  }

  // yarn and longrope: a missing factor is the ratio of the two lengths.
  absl::Status FactorOrRatio() {
    KVASIR_RETURN_IF_ERROR(Original());
    if (fields_.Has("factor")) return Factor();
    rope_.factor =
        static_cast<float>(static_cast<double>(max_positions_) / rope_.original_max_positions);
    return absl::OkStatus();
  }

  absl::Status Original() {
    const char* key = "original_max_position_embeddings";
    const JsonFields& where = config_.Has(key) ? config_ : fields_;
    KVASIR_ASSIGN_OR_RETURN(rope_.original_max_positions,
                            where.IntOr(key, max_positions_, 1, kMaxPositions));
    return absl::OkStatus();
  }

  absl::StatusOr<RopeSpec> Linear() {
    rope_.scaling = RopeSpec::Scaling::kLinear;
    KVASIR_RETURN_IF_ERROR(Factor());
    return rope_;
  }

  absl::StatusOr<RopeSpec> Llama3() {
    rope_.scaling = RopeSpec::Scaling::kLlama3;
    KVASIR_RETURN_IF_ERROR(Factor());
    KVASIR_ASSIGN_OR_RETURN(const double low, fields_.Number("low_freq_factor", 1e-3, kMaxFactor));
    KVASIR_ASSIGN_OR_RETURN(const double high,
                            fields_.Number("high_freq_factor", 1e-3, kMaxFactor));
    if (high <= low) {
      return fields_.Wrong("high_freq_factor",
                           absl::StrCat("must be greater than low_freq_factor (", low, ")"));
    }
    rope_.low_freq_factor = static_cast<float>(low);
    rope_.high_freq_factor = static_cast<float>(high);
    KVASIR_RETURN_IF_ERROR(Original());
    return rope_;
  }

  // The reference raises theta once a sequence is longer than max_position_embeddings, for all of
  // its positions: cached K cannot follow. No context here is longer than that, so theta stays.
  absl::StatusOr<RopeSpec> Dynamic() {
    if (fields_.Has("alpha")) {
      KVASIR_ASSIGN_OR_RETURN(const double alpha, fields_.Number("alpha", 0.0, 1e9));
      if (alpha > 0) {
        rope_.scaling = RopeSpec::Scaling::kDynamic;
        rope_.alpha = static_cast<float>(alpha);
        if (rope_.rotary_dim <= 2) return fields_.Wrong("alpha", "needs heads of more than 2");
        return rope_;
      }
    }
    KVASIR_RETURN_IF_ERROR(Factor());
    return rope_;
  }

  absl::StatusOr<RopeSpec> Yarn() {
    rope_.scaling = RopeSpec::Scaling::kYarn;
    KVASIR_RETURN_IF_ERROR(FactorOrRatio());
    const auto number = [&](const char* key, double fallback, double min) {
      return fields_.NumberOr(key, fallback, min, kMaxFactor);
    };
    // 0 is "not set" to the reference.
    KVASIR_ASSIGN_OR_RETURN(const double fast, number("beta_fast", 0, 0));
    KVASIR_ASSIGN_OR_RETURN(const double slow, number("beta_slow", 0, 0));
    rope_.beta_fast = fast == 0 ? 32.0f : static_cast<float>(fast);
    rope_.beta_slow = slow == 0 ? 1.0f : static_cast<float>(slow);
    if (rope_.theta <= 1.0f) return config_.Wrong("rope_theta", "must be greater than 1 for yarn");
    KVASIR_ASSIGN_OR_RETURN(rope_.truncate, fields_.BoolOr("truncate", true));
    KVASIR_ASSIGN_OR_RETURN(const double mscale, number("mscale", 0, 0));
    KVASIR_ASSIGN_OR_RETURN(const double all_dim, number("mscale_all_dim", 0, 0));
    const float usual = mscale != 0 && all_dim != 0
                            ? YarnScale(rope_.factor, mscale) / YarnScale(rope_.factor, all_dim)
                            : YarnScale(rope_.factor, 1.0);
    return WithAttentionFactor(usual);
  }

  absl::StatusOr<RopeSpec> LongRope() {
    rope_.scaling = RopeSpec::Scaling::kLongRope;
    KVASIR_RETURN_IF_ERROR(FactorOrRatio());
    KVASIR_ASSIGN_OR_RETURN(rope_.short_divisors, Divisors("short_factor"));
    KVASIR_ASSIGN_OR_RETURN(rope_.long_divisors, Divisors("long_factor"));
    const double factor = rope_.factor;
    float usual = 1.0f;
    if (factor > 1) {
      if (rope_.original_max_positions < 2) {
        return config_.Wrong("original_max_position_embeddings", "must be at least 2 for longrope");
      }
      usual = static_cast<float>(
          std::sqrt(1 + std::log(factor) / std::log(double{1} * rope_.original_max_positions)));
    }
    return WithAttentionFactor(usual);
  }

  absl::StatusOr<std::vector<float>> Divisors(const char* key) const {
    KVASIR_ASSIGN_OR_RETURN(const std::vector<double> values,
                            fields_.NumberList(key, kMaxHeadDim, 1e-6, 1e9));
    if (values.size() != static_cast<size_t>(rope_.rotary_dim / 2)) {
      return fields_.Wrong(key, absl::StrCat("must have one number for each of the ",
                                             rope_.rotary_dim / 2, " rotated pairs"));
    }
    return std::vector<float>(values.begin(), values.end());
  }

  absl::StatusOr<RopeSpec> Proportional(double partial) {
    rope_.scaling = RopeSpec::Scaling::kProportional;
    rope_.rotary_dim = head_dim_;
    rope_.rotated_share = static_cast<float>(partial);
    if (fields_.Has("factor")) KVASIR_RETURN_IF_ERROR(Factor());
    return rope_;
  }

  absl::StatusOr<RopeSpec> WithAttentionFactor(float usual) {
    KVASIR_ASSIGN_OR_RETURN(const double factor,
                            fields_.NumberOr("attention_factor", usual, 1e-3, kMaxFactor));
    rope_.attention_factor = static_cast<float>(factor);
    return rope_;
  }

  const JsonFields& config_;
  const JsonFields& fields_;
  const int head_dim_;
  const int max_positions_;
  const RopeDefaults& defaults_;
  RopeSpec rope_;
};

// The key of the dictionary that counts, or null.
absl::StatusOr<const char*> DictionaryKey(const JsonFields& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.Has(key)) continue;
    if (!config.At(key).is_object()) return config.Wrong(key, "must be an object or null");
    if (!config.At(key).empty()) return key;
  }
  return nullptr;
}

bool IsKeyedByLayerType(const nlohmann::json& dictionary) {
  return std::any_of(dictionary.begin(), dictionary.end(),
                     [](const nlohmann::json& value) { return value.is_object(); });
}

}  // namespace

absl::StatusOr<RopeSpec> ReadRope(const JsonFields& config, int head_dim, int max_positions,
                                  const RopeDefaults& defaults) {
  KVASIR_ASSIGN_OR_RETURN(const char* const key, DictionaryKey(config));
  static const nlohmann::json& nothing = *new nlohmann::json(nlohmann::json::object());
  if (key == nullptr) {
    const JsonFields none(&nothing, config.file());
    return RopeReader(config, none, head_dim, max_positions, defaults).Read();
  }
  if (IsKeyedByLayerType(config.At(key))) {
    return RefuseKey(config, key, "one dictionary for all layers is for this architecture");
  }
  const JsonFields fields(&config.At(key), absl::StrCat(config.file(), ": ", key));
  return RopeReader(config, fields, head_dim, max_positions, defaults).Read();
}

absl::StatusOr<std::optional<RopeSpec>> ReadRopeOf(const JsonFields& config,
                                                   const std::string& layer_type, int head_dim,
                                                   int max_positions,
                                                   const RopeDefaults& defaults) {
  KVASIR_ASSIGN_OR_RETURN(const char* const key, DictionaryKey(config));
  if (key == nullptr || !IsKeyedByLayerType(config.At(key))) {
    KVASIR_ASSIGN_OR_RETURN(RopeSpec rope, ReadRope(config, head_dim, max_positions, defaults));
    return rope;
  }
  const auto entry = config.At(key).find(layer_type);
  if (entry == config.At(key).end()) {
    return config.Wrong(key, absl::StrCat("lacks ", layer_type));
  }
  if (entry->is_null()) return std::nullopt;
  if (!entry->is_object()) {
    return config.Wrong(key, absl::StrCat("must hold an object or null for ", layer_type));
  }
  const JsonFields fields(&*entry, absl::StrCat(config.file(), ": ", key, ": ", layer_type));
  KVASIR_ASSIGN_OR_RETURN(RopeSpec rope,
                          RopeReader(config, fields, head_dim, max_positions, defaults).Read());
  return rope;
}

float YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1.0f : static_cast<float>(0.1 * mscale * std::log(factor) + 1.0);
}

}  // namespace kvasir
