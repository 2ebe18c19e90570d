// The tensor names of Llama's lineage, which most architectures start from.
#pragma once

#include "runtime/model/loading/tensor_map.h"

namespace kvasir {

TensorNames LlamaNames();

}  // namespace kvasir
