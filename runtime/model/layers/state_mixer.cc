#include "runtime/model/layers/state_mixer.h"

#include <variant>

namespace kvasir {

void StateMixer::Run(int layer, const LayerSpec& spec, const LayerWeights& weights,
                     const BatchRows& plan, const MatmulInput& x, MatrixView out) {
  sequences_.clear();
  for (const StateRows& rows : plan.states) {
    float* state = reinterpret_cast<float*>(arena_.State(rows.slot, layer).data());
    sequences_.push_back({rows.first_row, rows.num_rows, state, rows.fresh});
  }
  if (const DeltaNetSpec* net = spec.delta_net()) {
    delta_net_.Run(*net, std::get<DeltaNetWeights>(weights.mixer), x, sequences_, out);
  } else {
    short_convolution_.Run(*spec.short_conv(), std::get<ShortConvWeights>(weights.mixer), x,
                           sequences_, out);
  }
}

}  // namespace kvasir
