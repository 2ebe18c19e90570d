// The body of the products of avx512_column_kernels.h, compiled once per instruction that
// multiplies. Each including file encloses it in its target's pragmas, in a namespace of its own.
// No include guard.

constexpr size_t kVectors = kAmxColumns / 16;
constexpr size_t kWords = 16;  // of a step, along the summed dimension
constexpr size_t kWordRowBytes = kAmxStepBytes / kWords;

// Sums of so many rows, four vectors of weights and one of inputs are 29 of the 32 registers.
constexpr int kRowsTogether = 6;

// Rows that registers have sums for read one stream, and ask for the next page's lines: all of
// them, or those of every second word.
constexpr size_t kAheadBytes = kAmxStepBytes;

// More rows take so many steps from the first cache level before the next come.
constexpr size_t kStepsTogether = 4;

// What rows that are multiplied together ask for: `steps` of theirs each ask for the one that lies
// `bytes` ahead, every so many words one.
struct Asking {
  size_t steps = 0;
  size_t bytes = kAheadBytes;
  size_t first_word = 0;
  size_t every = 1;
};

// The products of one word of weights with kRows rows, in one instruction each.
template <class Operation, int kRows>
inline void AddWord(const typename Operation::Input* x, size_t stride, const char* from,
                    typename Operation::Sums (&sums)[kRows][kVectors]) {
  __m512i w[kVectors];
#pragma GCC unroll 4
  for (size_t v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_si512(from + v * 64);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
    int32_t inputs;
    std::memcpy(&inputs, x + r * stride, sizeof(inputs));
    const __m512i everywhere = _mm512_set1_epi32(inputs);
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) sums[r][v] = Operation::Add(sums[r][v], everywhere, w[v]);
  }
}

// What operations have whose sums are f32.
struct FloatSums {
  using Sum = float;
  using Sums = __m512;
  static Sums Zero() { return _mm512_setzero_ps(); }
  static Sums Load(const float* from) { return _mm512_loadu_ps(from); }
  static void Store(float* to, Sums sums) { _mm512_storeu_ps(to, sums); }
};

// x: the first row's inputs of the first step. Operation: Input and Sum, the types of values; Sums,
// a vector; kWordInputs, the inputs that a word of weights meets; Zero, Load, Store, and Word,
// which adds the products of a word with some rows.
template <class Operation, int kRows>
inline void Steps(const typename Operation::Input* x, size_t stride, const char* weights,
                  size_t steps, const Asking& asking, bool first, typename Operation::Sum* sums) {
  typename Operation::Sums c[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      c[r][v] = first ? Operation::Zero() : Operation::Load(sums + r * kAmxColumns + v * 16);
    }
  }
  for (size_t step = 0; step < steps; ++step) {
    size_t asks = step < asking.steps ? asking.first_word : kWords;  // at this word
    for (size_t word = 0; word < kWords; ++word) {
      const char* const from = weights + step * kAmxStepBytes + word * kWordRowBytes;
      if (word == asks) {
        asks += asking.every;
#pragma GCC unroll 4
        for (size_t v = 0; v < kVectors; ++v)
          _mm_prefetch(from + asking.bytes + v * 64, _MM_HINT_T1);
      }
      Operation::template Word<kRows>(x + (step * kWords + word) * Operation::kWordInputs, stride,
                                      from, c);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      Operation::Store(sums + r * kAmxColumns + v * 16, c[r][v]);
    }
  }
}

template <class Operation>
void ColumnProduct(const typename Operation::Input* x, size_t x_stride, size_t rows, size_t depth,
                   const void* weights, const void* weights_end, StreamAsking stream_asking,
                   typename Operation::Sum* sums) {
  constexpr size_t kStepDepth = kWords * Operation::kWordInputs;
  KVASIR_CHECK(depth % kStepDepth == 0);
  const size_t steps = depth / kStepDepth;
  const auto* const from = static_cast<const char*>(weights);
  // Each pass asks for a part of the next steps: memory has the time of all rows, not only of those
  // that come first.
  const size_t passes = (rows + kRowsTogether - 1) / kRowsTogether;
  const size_t together = passes > 1 ? kStepsTogether : steps;
  const size_t ahead = passes > 1 ? kStepsTogether * kAmxStepBytes : kAheadBytes;
  // The first of these steps that has none to ask for.
  const auto* const end = static_cast<const char*>(weights_end);
  const size_t left = end > from ? end - from : 0;
  const size_t asking = std::min(steps, (left - std::min(left, ahead)) / kAmxStepBytes);
  for (size_t begin = 0; begin < steps; begin += together) {
    const size_t count = std::min(together, steps - begin);
    Asking asks{asking > begin ? std::min(count, asking - begin) : 0, ahead, 0,
                passes > 1                             ? passes
                : stream_asking == StreamAsking::kHalf ? size_t{2}
                                                       : size_t{1}};
    ForRowBlocks<kRowsTogether>(rows, [&]<int kRows>(size_t row) {
      Steps<Operation, kRows>(x + row * x_stride + begin * kStepDepth, x_stride,
                              from + begin * kAmxStepBytes, count, asks, begin == 0,
                              sums + row * kAmxColumns);
      ++asks.first_word;
    });
  }
}
