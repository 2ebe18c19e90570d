// The tensor names of Llama's lineage, which most architectures start from; of roles that Llama
// itself lacks, those whose names its descendants share.
#pragma once

#include "runtime/model/loading/tensor_map.h"

namespace kvasir {

TensorNames LlamaNames();

}  // namespace kvasir
