// How the tensors of a GGUF file are called, by role: one table of names for all architectures, and
// what a few of them mean by a name that others use otherwise. Norms have their "1 +" folded in
// already; queries and keys of some architectures have their rotary pairs side by side. Pure
// functions, thread safe.
#pragma once

#include "absl/strings/string_view.h"
#include "runtime/model/loading/tensor_map.h"

namespace kvasir {

// `architecture`: general.architecture; one that ReadGgufConfig accepts.
TensorNames GgufNames(absl::string_view architecture);

}  // namespace kvasir
