// What a completion's text must be, in the form that the grammar compiler takes. A plain value,
// made by request validation of kvasir.v1.Constraint.
#pragma once

#include <string>

namespace kvasir {

struct Constraint {
  enum class Kind { kJsonSchema, kRegex, kLark, kChoice, kStructuralTag, kToolCalls };

  Kind kind = Kind::kJsonSchema;
  std::string text;   // of the kind's form (text/kvasir_text.h); UTF-8
  std::string after;  // not empty: free text up to and with this comes before

  bool operator==(const Constraint&) const = default;
};

}  // namespace kvasir
