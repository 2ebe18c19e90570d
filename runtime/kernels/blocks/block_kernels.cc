#include "runtime/kernels/blocks/block_kernels.h"

#include <algorithm>
#include <atomic>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/kernels/blocks/block_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/blocks/block_kernel_table.h"
#include "runtime/kernels/blocks/block_rows.h"
#include "runtime/kernels/convert.h"

HWY_BEFORE_NAMESPACE();
namespace kvasir {
namespace HWY_NAMESPACE {

int64_t DispatchTarget() { return HWY_TARGET; }

}  // namespace HWY_NAMESPACE
}  // namespace kvasir
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvasir {

HWY_EXPORT(DispatchTarget);

namespace {

std::atomic<bool> vnni_forbidden{false};

// Up to so many rows vectors take no longer than AMX, whose work on codes and sums is the same for
// any number up to 16.
constexpr int kMaxVectorRows = 8;

struct Form {
  const char* name;
  const BlockKernels& (*kernels)();
};

#if defined(__x86_64__)
bool HasVnni(int64_t target) {
  static const bool cpu_has_it = __builtin_cpu_supports("avx512vnni") != 0;
  return cpu_has_it && !vnni_forbidden && target <= HWY_AVX3;  // better ones are smaller
}
#endif

// Highway is asked what it dispatches to, so that one limit holds for all kernels. (It remembers;
// asking what the CPU supports would execute CPUID, which costs microseconds in a virtual machine.)
Form ChooseForm() {
#if defined(__x86_64__)
  const int64_t target = HWY_DYNAMIC_DISPATCH(DispatchTarget)();
  if (HasVnni(target)) return {"vnni", &block_vnni::Kernels};
  if (target <= HWY_AVX2) return {"avx2", &block_avx2::Kernels};
#endif
  return {"portable", &block_portable::Kernels};
}

// Null without AMX.
const BlockProducts* AmxProducts() {
#if defined(__x86_64__) && defined(__linux__)
  if (!vnni_forbidden && HasAmxProducts()) return &block_amx::Products();
#endif
  return nullptr;
}

}  // namespace

void ForbidVnniProducts() { vnni_forbidden = true; }
const char* BlockKernelName() { return ChooseForm().name; }

void BlockDot(const BlockPanel& panel, const QuantizedInputs& x, int rows, StreamAsking asking,
              float* out) {
  if (rows > kMaxVectorRows) {
    const BlockProducts* const amx = AmxProducts();
    if (amx != nullptr && amx->of[panel.kind] != nullptr) {
      return amx->of[panel.kind](panel, x, rows, out);
    }
  }
  const auto dot = ChooseForm().kernels().dot[panel.kind];
  const int passes = (rows + kMaxDotRows - 1) / kMaxDotRows;
  for (int r = 0; r < rows; r += kMaxDotRows) {
    dot(panel, x, r, std::min(kMaxDotRows, rows - r), passes, asking, out + r * kPanelRows);
  }
}

bool HasBlockRows(size_t kind) {
#if defined(__x86_64__)
  return HasVnni(HWY_DYNAMIC_DISPATCH(DispatchTarget)()) &&
         block_rows::Products().of[kind] != nullptr;
#else
  return false;
#endif
}

void BlockRowsProduct(const BlockPanel* panels, int count, const QuantizedInputs& x, int64_t rows,
                      uint8_t* scratch, float* sums) {
#if defined(__x86_64__)
  block_rows::Products().of[panels[0].kind](panels, count, x, rows, scratch, sums);
#endif
}

void BlockUnpack(const BlockPanel& panel, int64_t inputs, float* out, int64_t stride) {
  ChooseForm().kernels().unpack_f32[panel.kind](panel, inputs, out, stride);
}

void BlockUnpack(const BlockPanel& panel, int64_t inputs, bf16* out, int64_t stride) {
  const BlockProducts* const amx = AmxProducts();
  const auto& unpack = amx != nullptr ? amx->unpack_bf16 : ChooseForm().kernels().unpack_bf16;
  unpack[panel.kind](panel, inputs, out, stride);
}

void QuantizeInputs(const float* x, int64_t inputs, int8_t* codes, float* scales, int32_t* sums) {
  for (int64_t begin = 0; begin < inputs; begin += kStepInputs) {
    int8_t* group = codes + begin;
    scales[begin / kStepInputs] = QuantizeS8(x + begin, kStepInputs, 127, group);
    for (int half = 0; half < 2; ++half) {
      int32_t sum = 0;
      for (int i = 0; i < 16; ++i) sum += group[16 * half + i];
      sums[begin / 16 + half] = sum;
    }
  }
}

}  // namespace kvasir
#endif  // HWY_ONCE
