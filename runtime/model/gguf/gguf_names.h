// How the tensors of a GGUF file are called, by role: one table of names for all architectures, but
// for what a dialect says. Norms have their "1 +" folded in
// already; queries and keys of some architectures have their rotary pairs side by side. Pure
// functions, thread safe.
#pragma once

#include "runtime/model/gguf/gguf_dialect.h"
#include "runtime/model/loading/tensor_map.h"

namespace kvasir {

TensorNames GgufNames(const GgufDialect& dialect, const ModelSpec& spec);

}  // namespace kvasir
