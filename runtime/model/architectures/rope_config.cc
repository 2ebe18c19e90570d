#include "runtime/model/architectures/rope_config.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/decoder_config.h"

namespace kvasir {
namespace {

absl::StatusOr<double> ParseTheta(const JsonFields& fields, double fallback) {
  return fields.NumberOr("rope_theta", fallback, 1.0, 1e12);
}

}  // namespace

absl::StatusOr<RopeSpec> ReadRope(const JsonFields& config, int head_dim) {
  RopeSpec rope;
  rope.rotary_dim = head_dim;
  KVASIR_ASSIGN_OR_RETURN(double theta, ParseTheta(config, 10000.0));
  // Newer writers put everything about RoPE, theta included, into rope_parameters.
  const char* key = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (config.Has(key)) {
    if (!config.At(key).is_object()) return config.Wrong(key, "must be an object or null");
    const JsonFields scaling(&config.At(key), absl::StrCat(config.file(), ": ", key));
    KVASIR_ASSIGN_OR_RETURN(theta, ParseTheta(scaling, theta));
    // "type" is the name that older writers used.
    const char* type_key = scaling.Has("rope_type") ? "rope_type" : "type";
    KVASIR_ASSIGN_OR_RETURN(const std::string type, scaling.StringOr(type_key, ""));
    constexpr double kMaxFactor = 1e4;
    if (type == "linear" || type == "llama3") {
      KVASIR_ASSIGN_OR_RETURN(const double factor, scaling.Number("factor", 1.0, kMaxFactor));
      rope.factor = static_cast<float>(factor);
      rope.scaling = type == "linear" ? RopeSpec::Scaling::kLinear : RopeSpec::Scaling::kLlama3;
    } else if (type.empty() && key == absl::string_view("rope_scaling")) {
      return scaling.Wrong("rope_type", "must name the kind of scaling");
    } else if (!type.empty() && type != "default") {
      return RefuseKey(scaling, type_key, "default, linear and llama3 are");
    }
    if (type == "llama3") {
      KVASIR_ASSIGN_OR_RETURN(const double low,
                              scaling.Number("low_freq_factor", 1e-3, kMaxFactor));
      KVASIR_ASSIGN_OR_RETURN(const double high,
                              scaling.Number("high_freq_factor", 1e-3, kMaxFactor));
      if (high <= low) {
        return scaling.Wrong("high_freq_factor",
                             absl::StrCat("must be greater than low_freq_factor (", low, ")"));
      }
      rope.low_freq_factor = static_cast<float>(low);
      rope.high_freq_factor = static_cast<float>(high);
      KVASIR_ASSIGN_OR_RETURN(rope.original_max_positions,
                              scaling.Int("original_max_position_embeddings", 1, kMaxPositions));
    }
  }
  rope.theta = static_cast<float>(theta);
  return rope;
}

}  // namespace kvasir
