#include "runtime/ops/sparq_attention.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/base/parallel.h"
#include "runtime/ops/key_columns.h"
#include "tests/ops/paged_kv.h"
#include "tests/reference/sparq_reference.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

struct Case {
  int query_heads = 4;
  int kv_heads = 2;
  int k_dim = 32;
  int v_dim = 32;
  KvElementType element_type = KvElementType::kF32;
  SparqKeys sparq_keys = SparqKeys::kSame;
  int block_tokens = 32;
  int context = 300;  // positions before the first query row
  int rows = 1;
  SparqParams params{8, 64, 16, false, SparqSelection::kSoftmaxSum};

  std::string Name() const {
    return std::to_string(query_heads) + "/" + std::to_string(kv_heads) + " heads, dims " + std::to_string(k_dim) + "," +
           std::to_string(v_dim) + ", " + KvElementTypeName(element_type) + ", columns " + SparqKeysName(sparq_keys) +
           ", blocks of " + std::to_string(block_tokens) + ", " + std::to_string(context) + "+" + std::to_string(rows) +
           ", r " + std::to_string(params.rank) + " k " + std::to_string(params.top_k) + " l " +
           std::to_string(params.local_window) + (params.mean_value ? " mean" : "") +
           (params.selection == SparqSelection::kLogitSum ? " logit sum" : "");
  }
};

class Fixture {
 public:
  explicit Fixture(const Case& c)
      : c_(c), pool_(PoolSpec(c)), q_(RandomMatrix(c.rows, int64_t{c.query_heads} * c.k_dim, 1, 2.0f)) {
    const int positions = c.context + c.rows;
    table_ = pool_.Add(RandomMatrix(positions, int64_t{c.kv_heads} * c.k_dim, 2),
                       RandomMatrix(positions, int64_t{c.kv_heads} * c.v_dim, 3));
  }

  Matrix Run(const SparqParams& params) {
    SparqSequence sequence{{0, c_.rows, c_.context, table_}, params};
    SparqAttention attention;
    MatmulInput out(ComputeType::kF32);
    attention.Run({q_.data.data(), q_.rows, q_.cols, q_.cols}, c_.query_heads, scale(), {sequence}, pool_.view(), &out);
    Matrix result(q_.rows, out.cols());
    std::copy_n(static_cast<const float*>(out.data()), result.data.size(), result.data.data());
    return result;
  }

  Matrix Expected(const SparqParams& params) {
    const int group = c_.query_heads / c_.kv_heads;
    const reference::SparqSettings settings{params.rank, params.top_k, params.local_window, params.mean_value,
                                            params.selection == SparqSelection::kLogitSum};
    Matrix result(q_.rows, int64_t{c_.query_heads} * c_.v_dim);
    for (int t = 0; t < c_.rows; ++t) {
      const int positions = c_.context + t + 1;
      // Key columns hold whole blocks; the row sees those that are full at its own position.
      const Matrix k = pool_.ReadK(table_, positions), v = pool_.ReadV(table_, positions);
      const Matrix ranks = pool_.ReadRankKeys(table_, positions);
      for (int head = 0; head < c_.kv_heads; ++head) {
        Matrix q(group, c_.k_dim);
        std::copy_n(q_.row(t) + static_cast<size_t>(head) * group * c_.k_dim, q.data.size(), q.data.data());
        const Matrix out = reference::Sparq(q, Head(k, head, c_.k_dim), Head(ranks, head, c_.k_dim),
                                            Head(v, head, c_.v_dim), scale(), settings)
                               .out;
        std::copy_n(out.data.data(), out.data.size(),
                    result.row(t) + static_cast<size_t>(head) * group * c_.v_dim);
      }
    }
    return result;
  }

  Matrix Dense() {
    const int positions = c_.context + c_.rows;
    return reference::Attend(q_, pool_.ReadK(table_, positions), pool_.ReadV(table_, positions), c_.query_heads,
                             c_.kv_heads, c_.context, scale());
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.k_dim)); }
  PagedKv& pool() { return pool_; }
  const std::vector<BlockId>& table() const { return table_; }

 private:
  static PagedKvSpec PoolSpec(const Case& c) {
    PagedKvSpec spec;
    spec.kv_heads = c.kv_heads;
    spec.k_dim = c.k_dim;
    spec.v_dim = c.v_dim;
    spec.element_type = c.element_type;
    spec.block_tokens = c.block_tokens;
    spec.num_blocks = (c.context + c.rows) / c.block_tokens + 3;
    spec.sparq_keys = c.sparq_keys;
    return spec;
  }

  static Matrix Head(const Matrix& all, int head, int dim) {
    Matrix one(all.rows, dim);
    for (int64_t p = 0; p < all.rows; ++p) std::copy_n(all.row(p) + int64_t{head} * dim, dim, one.row(p));
    return one;
  }

  const Case c_;
  PagedKv pool_;
  Matrix q_;
  std::vector<BlockId> table_;
};

// Sums of up to some hundred products of standard normal values in f32.
constexpr double kTolerance = 2e-5;

class SparqAttentionTest : public ::testing::Test {
 protected:
  ~SparqAttentionTest() override { SetComputeThreads(2); }
};

TEST_F(SparqAttentionTest, AgreesWithTheDefinition) {
  std::mt19937 random(11);
  const auto pick = [&](auto... values) {
    const std::vector<int> list = {values...};
    return list[random() % list.size()];
  };
  const std::vector<std::pair<int, int>> heads = {{2, 2}, {4, 2}, {6, 1}, {8, 1}, {3, 3}, {10, 2}};
  for (int round = 0; round < 120; ++round) {
    Case c;
    std::tie(c.query_heads, c.kv_heads) = heads[random() % heads.size()];
    c.k_dim = pick(8, 20, 32, 64);
    c.v_dim = pick(8, 32, 40);
    c.element_type = static_cast<KvElementType>(pick(0, 1, 2, 3));
    c.sparq_keys = pick(0, 1) == 0 ? SparqKeys::kSame : SparqKeys::kInt8;
    c.block_tokens = pick(16, 32, 48, 128);
    c.context = pick(0, 1, 15, 31, 32, 100, 300, 511, 700);
    c.rows = pick(1, 1, 3, 20);
    c.params.rank = 1 + static_cast<int>(random() % c.k_dim);
    c.params.top_k = pick(1, 7, 64, 200, 1000);
    c.params.local_window = std::min(c.params.top_k, pick(0, 1, 5, 32));
    c.params.mean_value = pick(0, 1) == 1;
    c.params.selection = pick(0, 1) == 0 ? SparqSelection::kSoftmaxSum : SparqSelection::kLogitSum;
    SetComputeThreads(pick(1, 2, 5));
    Fixture fixture(c);
    ASSERT_LT(reference::MaxDifference(fixture.Run(c.params), fixture.Expected(c.params)), kTolerance) << c.Name();
  }
}

// Several rank chunks, and a size at which one item is split over threads.
TEST_F(SparqAttentionTest, LongContextsGiveTheSameBitsHoweverManyThreads) {
  for (const auto selection : {SparqSelection::kSoftmaxSum, SparqSelection::kLogitSum}) {
    for (const int query_heads : {1, 5}) {
      Case c;
      c.query_heads = query_heads;
      c.kv_heads = 1;
      c.element_type = KvElementType::kBf16;
      c.context = 9001;
      c.params = {8, 700, 32, true, selection};
      Fixture fixture(c);
      SetComputeThreads(1);
      const Matrix one = fixture.Run(c.params);
      EXPECT_LT(reference::MaxDifference(one, fixture.Expected(c.params)), kTolerance) << c.Name();
      for (const int threads : {2, 7}) {
        SetComputeThreads(threads);
        EXPECT_EQ(fixture.Run(c.params).data, one.data) << c.Name() << ", threads " << threads;
      }
    }
  }
}

TEST_F(SparqAttentionTest, IsDenseWhereEverythingIsPicked) {
  for (const SparqKeys keys : {SparqKeys::kSame, SparqKeys::kInt8}) {
    Case c;
    c.sparq_keys = keys;
    Fixture fixture(c);
    for (const int rank : {1, 8, 32}) {
      const SparqParams params{rank, c.context + 1, 0, true, SparqSelection::kSoftmaxSum};
      EXPECT_LT(reference::MaxDifference(fixture.Run(params), fixture.Dense()), kTolerance);
    }
  }
}

TEST_F(SparqAttentionTest, ErrorFallsAsRankAndPicksGrow) {
  Case c;
  c.context = 600;
  c.rows = 16;
  c.query_heads = c.kv_heads = 4;
  Fixture fixture(c);
  const Matrix dense = fixture.Dense();
  const auto error = [&](int rank, int top_k) {
    const Matrix out = fixture.Run({rank, top_k, 8, true, SparqSelection::kSoftmaxSum});
    double sum = 0;
    for (size_t i = 0; i < out.data.size(); ++i) sum += std::abs(out.data[i] - dense.data[i]);
    return sum / out.data.size();
  };
  EXPECT_GT(error(4, 100), error(16, 100));
  EXPECT_GT(error(16, 100), error(32, 100));
  EXPECT_GT(error(16, 30), error(16, 100));
  EXPECT_GT(error(16, 100), error(16, 400));
}

// With all V equal, neither picks nor alpha can matter.
TEST_F(SparqAttentionTest, EqualValuesComeOutAsTheyAre) {
  Case c;
  PagedKvSpec spec;
  spec.kv_heads = 1;
  spec.k_dim = spec.v_dim = 32;
  spec.sparq_keys = SparqKeys::kSame;
  PagedKv pool(spec);
  const Matrix k = RandomMatrix(333, 32, 1);
  Matrix v(333, 32), q = RandomMatrix(1, 64, 2);
  for (float& x : v.data) x = 0.75f;
  const std::vector<BlockId> table = pool.Add(k, v);
  for (const bool mean : {false, true}) {
    SparqAttention attention;
    MatmulInput out(ComputeType::kF32);
    attention.Run({q.data.data(), 1, 64, 64}, 2, 0.2f,
                  {SparqSequence{{0, 1, 332, table}, {4, 50, 10, mean, SparqSelection::kSoftmaxSum}}}, pool.view(),
                  &out);
    for (int i = 0; i < 64; ++i) EXPECT_NEAR(static_cast<const float*>(out.data())[i], 0.75f, 1e-6);
  }
}

// Columns and sums written block by block, as decoding does, are those written at once.
TEST_F(SparqAttentionTest, ColumnsDoNotDependOnWhenBlocksFill) {
  for (const KvElementType type : {KvElementType::kF32, KvElementType::kBf16, KvElementType::kInt8}) {
    PagedKvSpec spec;
    spec.kv_heads = 2;
    spec.element_type = type;
    spec.sparq_keys = SparqKeys::kInt8;
    PagedKv pool(spec);
    const std::vector<BlockId> table = pool.Add(RandomMatrix(200, 128, 1), RandomMatrix(200, 128, 2));
    const KvView& kv = pool.view();
    const auto bytes = [&] {
      std::vector<uint8_t> all;
      for (int b = 0; b < 200 / 32; ++b) {
        const uint8_t* from = kv.KeyColumns(table[b], 0);
        const size_t size = kv.slice.head_stride_bytes - kv.slice.key_columns_offset_bytes;
        for (int head = 0; head < 2; ++head) {
          all.insert(all.end(), from + head * kv.slice.head_stride_bytes,
                     from + head * kv.slice.head_stride_bytes + size);
        }
      }
      return all;
    };
    const std::vector<uint8_t> at_once = bytes();
    for (int b = 0; b < 200 / 32; ++b) FillKeyColumns({FilledBlocks{table, b, 1}}, kv);
    EXPECT_EQ(bytes(), at_once);
    const Matrix v = pool.ReadV(table, 192);
    for (int d = 0; d < 64; ++d) {
      double sum = 0;
      for (int p = 0; p < 192; ++p) sum += v.at(p, 64 + d);
      EXPECT_NEAR(kv.VPrefixSum(table[5], 1)[d], sum, 1e-4);
    }
  }
}

TEST_F(SparqAttentionTest, BytesReadAreThoseOfTheModel) {
  KvLayoutSpec spec;
  spec.owner = {0, 0};
  spec.kv_heads = {8, 8};
  spec.k_dim = spec.v_dim = 128;
  spec.sparq_keys = SparqKeys::kSame;
  const KvLayout layout = *KvLayout::Create(spec);
  const SparqParams params{16, 256, 64, false, SparqSelection::kSoftmaxSum};
  // S r + 2 k d elements per KV head; a borrower reads as much as its owner.
  EXPECT_EQ(SparqBytesRead(layout, 0, 4096, params), 8 * (4096 * 16 + 2 * 256 * 128) * 2);
  EXPECT_EQ(SparqBytesRead(layout, 1, 4096 + 5, params), 8 * ((4096 + 5) * 16 + 2 * 256 * 128) * 2);
  SparqParams mean = params;
  mean.mean_value = true;
  EXPECT_EQ(SparqBytesRead(layout, 0, 4096 + 5, mean) - SparqBytesRead(layout, 0, 4096 + 5, params),
            8 * (128 * 4 + 5 * 128 * 2));
  EXPECT_EQ(SparqBytesRead(layout, 0, 200, params), 8 * 200 * 2 * 128 * 2);
}

}  // namespace
}  // namespace kvasir
