// Y = X W^T + bias on a CPU, W in 4 bits: the optional native kernel, called through ctypes.
//
// Weights come in panels of 16 outputs: 64 bytes hold 16 outputs x 8 inputs. The 16-bit word at
// [panel, block, 2 o + p] holds the codes of output o for inputs 8 block + p, + 2, + 4, + 6, from
// its lowest four bits up. One shift brings four bits of all words to where a permutation looks
// them up in a table of 16 numbers, so a code becomes a number without arithmetic:
//   bf16 x: vpermw gives 16 outputs x 2 neighbouring inputs, vdpbf16ps multiplies them with a pair;
//   fp32 x: vpermps gives 16 outputs x 1 input (a 32-bit lane holds one output's 8 codes), vfmadd.
// Codes enter as they are; scale and zero point follow once a group, in float32:
//   y += s * (sum(code * x) - z * sum(x)).
//
// With AVX2 a shift, a mask and a conversion make the numbers; without, a plain loop reads the same
// layout.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include <omp.h>

#if defined(__AVX512F__) && defined(__AVX512BW__)
#include <immintrin.h>
#define HAS_AVX512 1
#else
#define HAS_AVX512 0
#endif
#if HAS_AVX512 && defined(__AVX512BF16__)
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif
#if !HAS_AVX512 && defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define HAS_AVX2 1
#else
#define HAS_AVX2 0
#endif

namespace {

constexpr int kPanel = 16;        // outputs
constexpr int kBlock = 8;         // inputs of one 64-byte load
constexpr int kAhead = 1024;      // bytes that codes are asked for ahead: the next page as well
constexpr int64_t kSlice = 1024;  // inputs of a pass over all tokens: x and weights stay in cache

using bf16 = uint16_t;

inline float number(bf16 value) {
  uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, 4);
  return result;
}
inline float number(float value) { return value; }

inline void store(float value, float* out) { *out = value; }
inline void store(float value, bf16* out) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  *out = nan ? bf16(bits >> 16 | 0x40) : bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <typename T>
struct Problem {
  const T* x;             // [M, K], packed: see `pack`
  const uint16_t* codes;  // [panels, K/8, 32]
  const float* scales;    // [panels, groups, 16]
  const float* zeros;     // [panels, groups, 16]
  const float* sums;      // of x: [M, groups]
  const float* bias;      // [N] or null
  T* y;                   // [M, N]
  int64_t M, N, K, group, groups;
};

// Tokens are taken 12, 8, 4, 2, 1 at a time, as many as there are, by two panels: as many sums as
// 32 registers hold. With 16 half as long ones, 4 tokens by one panel.
constexpr bool kWide = HAS_AVX512 || !HAS_AVX2;
constexpr int kPanels = kWide ? 2 : 1;

template <typename Visit>
void rows(int64_t M, Visit visit) {
  int64_t m = 0;
  if constexpr (kWide) {
    for (; m + 12 <= M; m += 12) visit(std::integral_constant<int, 12>{}, m);
    for (; m + 8 <= M; m += 8) visit(std::integral_constant<int, 8>{}, m);
  }
  for (; m + 4 <= M; m += 4) visit(std::integral_constant<int, 4>{}, m);
  for (; m + 2 <= M; m += 2) visit(std::integral_constant<int, 2>{}, m);
  for (; m + 1 <= M; m += 1) visit(std::integral_constant<int, 1>{}, m);
}

// Inputs that one product takes: a pair of bf16, or one float. Both are 32 bits.
template <typename T>
constexpr int kUnit = 4 / sizeof(T);

// x in the order in which it is read: for every run of tokens [K / unit, tokens, unit]. Rows that
// lie a power of two apart would push one another out of the first cache.
template <typename T, int M_>
void pack(const T* x, T* out, int64_t K) {
  for (int64_t k = 0; k < K; k += kUnit<T>)
    for (int i = 0; i < M_; ++i) {
      std::memcpy(out, x + i * K + k, 4);
      out += kUnit<T>;
    }
}

// Sums of code * x of M_ tokens x R panels over the inputs [k, end) of one group.
template <typename T, int M_, int R>
struct Sums {
#if HAS_AVX512
  // A product waits for the one before it into the same sum: few sums are split into chains.
  static constexpr int kChains = M_ * R <= 2 ? 4 : M_ * R <= 4 ? 2 : 1;
  __m512 at[M_][R][kChains];

  void of(const Problem<T>& p, const T* x, int64_t panel, int64_t k, int64_t end) {
    const int64_t blocks = p.K / kBlock;
    for (int i = 0; i < M_; ++i)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < kChains; ++c) at[i][r][c] = _mm512_setzero_ps();
    for (; k < end; k += kBlock) {
      __m512i w[R];
      for (int r = 0; r < R; ++r) {
        const uint16_t* from = p.codes + ((panel + r) * blocks + k / kBlock) * 32;
        _mm_prefetch((const char*)from + kAhead, _MM_HINT_T0);
        w[r] = _mm512_loadu_si512(from);
      }
      block(x + k * M_, w);
    }
    for (int i = 0; i < M_; ++i)
      for (int r = 0; r < R; ++r)
        for (int step = kChains / 2; step > 0; step /= 2)
          for (int c = 0; c < step; ++c)
            at[i][r][c] = _mm512_add_ps(at[i][r][c], at[i][r][c + step]);
  }

  void block(const T* x, const __m512i* w);
  void add_to(float* out, int i, int r, const float* s, const float* z, float x_sum) const {
    const __m512 part = _mm512_fnmadd_ps(_mm512_loadu_ps(z), _mm512_set1_ps(x_sum), at[i][r][0]);
    _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_loadu_ps(s), part, _mm512_loadu_ps(out)));
  }
#elif HAS_AVX2
  __m256 at[M_][R][2];

  void of(const Problem<T>& p, const T* x, int64_t panel, int64_t k, int64_t end) {
    const int64_t blocks = p.K / kBlock;
    for (int i = 0; i < M_; ++i)
      for (int r = 0; r < R; ++r) at[i][r][0] = at[i][r][1] = _mm256_setzero_ps();
    for (; k < end; k += kBlock)
      for (int r = 0; r < R; ++r) {
        const auto* w = (const __m256i*)(p.codes + ((panel + r) * blocks + k / kBlock) * 32);
        block(x + k * M_, _mm256_loadu_si256(w), _mm256_loadu_si256(w + 1), r);
      }
  }

  void block(const T* x, __m256i low, __m256i high, int r) {
    const __m256i mask = _mm256_set1_epi32(15);
#pragma GCC unroll 8
    for (int j = 0; j < kBlock; ++j) {
      const int shift = 4 * (j / 2) + 16 * (j % 2);
      const __m256 v0 = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(low, shift), mask));
      const __m256 v1 = _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(high, shift), mask));
      for (int i = 0; i < M_; ++i) {
        const __m256 b = _mm256_set1_ps(number(x[(j / kUnit<T> * M_ + i) * kUnit<T> + j % kUnit<T>]));
        at[i][r][0] = _mm256_fmadd_ps(v0, b, at[i][r][0]);
        at[i][r][1] = _mm256_fmadd_ps(v1, b, at[i][r][1]);
      }
    }
  }

  void add_to(float* out, int i, int r, const float* s, const float* z, float x_sum) const {
    for (int half = 0; half < 2; ++half, out += 8, s += 8, z += 8) {
      const __m256 part =
          _mm256_fnmadd_ps(_mm256_loadu_ps(z), _mm256_set1_ps(x_sum), at[i][r][half]);
      _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_loadu_ps(s), part, _mm256_loadu_ps(out)));
    }
  }
#else
  float at[M_][R][kPanel];

  void of(const Problem<T>& p, const T* x, int64_t panel, int64_t k, int64_t end) {
    const int64_t blocks = p.K / kBlock;
    std::memset(at, 0, sizeof at);
    for (; k < end; k += kBlock)
      for (int r = 0; r < R; ++r) plain(x + k * M_, p.codes + ((panel + r) * blocks + k / kBlock) * 32, r);
  }

  void plain(const T* x, const uint16_t* w, int r) {
    for (int j = 0; j < kBlock; ++j)
      for (int i = 0; i < M_; ++i) {
        const float b = number(x[(j / kUnit<T> * M_ + i) * kUnit<T> + j % kUnit<T>]);
        for (int o = 0; o < kPanel; ++o) at[i][r][o] += float(w[2 * o + j % 2] >> (j / 2 * 4) & 15) * b;
      }
  }
  void add_to(float* out, int i, int r, const float* s, const float* z, float x_sum) const {
    for (int o = 0; o < kPanel; ++o) out[o] += s[o] * (at[i][r][o] - z[o] * x_sum);
  }
#endif
};

#if HAS_AVX512
template <typename T, int M_, int R>
void Sums<T, M_, R>::block(const T* x, const __m512i* w) {
  if constexpr (std::is_same_v<T, float>) {
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 8
    for (int j = 0; j < kBlock; ++j) {
      __m512 v[R];
      for (int r = 0; r < R; ++r)
        v[r] = _mm512_permutexvar_ps(_mm512_srli_epi32(w[r], 4 * (j / 2) + 16 * (j % 2)), table);
#pragma GCC unroll 16
      for (int i = 0; i < M_; ++i) {
        const __m512 b = _mm512_set1_ps(x[j * M_ + i]);
        for (int r = 0; r < R; ++r) {
          __m512& sum = at[i][r][j % kChains];
          sum = _mm512_fmadd_ps(v[r], b, sum);
        }
      }
    }
  } else {
#if HAS_BF16
    // bf16 of 0 .. 15, twice: an index has five bits, and the fifth is of the next code.
    alignas(64) static const uint16_t kTable[32] = {
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170,
        0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170};
    const __m512i table = _mm512_load_si512(kTable);
#pragma GCC unroll 4
    for (int plane = 0; plane < 4; ++plane) {
      __m512bh v[R];
      for (int r = 0; r < R; ++r)
        v[r] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(w[r], 4 * plane), table);
#pragma GCC unroll 16
      for (int i = 0; i < M_; ++i) {
        int32_t pair;
        std::memcpy(&pair, x + 2 * (plane * M_ + i), 4);
        const __m512bh b = (__m512bh)_mm512_set1_epi32(pair);
        for (int r = 0; r < R; ++r) {
          __m512& sum = at[i][r][plane % kChains];
          sum = _mm512_dpbf16_ps(sum, v[r], b);
        }
      }
    }
#else
    // Without dot products of bf16: as with fp32, x made longer.
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (int j = 0; j < kBlock; ++j)
      for (int r = 0; r < R; ++r) {
        const __m512 v =
            _mm512_permutexvar_ps(_mm512_srli_epi32(w[r], 4 * (j / 2) + 16 * (j % 2)), table);
        for (int i = 0; i < M_; ++i) {
          __m512& sum = at[i][r][j % kChains];
          sum = _mm512_fmadd_ps(v, _mm512_set1_ps(number(x[(j / 2 * M_ + i) * 2 + j % 2])), sum);
        }
      }
#endif
  }
}
#endif

// M_ tokens x R panels over the inputs [first, last), added to `sum` [M_, R, 16].
template <typename T, int M_, int R>
void tile(const Problem<T>& p, int64_t m, int64_t panel, int64_t first, int64_t last, float* sum) {
  const T* x = p.x + m * p.K;
  for (int64_t k = first; k < last;) {
    const int64_t g = k / p.group, end = std::min(last, (g + 1) * p.group);
    Sums<T, M_, R> sums;
    sums.of(p, x, panel, k, end);
    k = end;
    // Where a slice ends within a group, z * sum(x) is left to the group's last part.
    const bool whole = end == p.K || end == (g + 1) * p.group;
    for (int r = 0; r < R; ++r) {
      const int64_t at = ((panel + r) * p.groups + g) * kPanel;
      for (int i = 0; i < M_; ++i)
        sums.add_to(sum + (i * R + r) * kPanel, i, r, p.scales + at, p.zeros + at,
                    whole ? p.sums[(m + i) * p.groups + g] : 0.0f);
    }
  }
}

template <typename T, int R>
void panels(const Problem<T>& p, int64_t panel, std::vector<float>& scratch) {
  scratch.assign(size_t(p.M) * R * kPanel, 0.0f);
  for (int64_t first = 0; first < p.K; first += kSlice) {
    const int64_t last = std::min(p.K, first + kSlice);
    rows(p.M, [&](auto count, int64_t m) {
      tile<T, count(), R>(p, m, panel, first, last, scratch.data() + m * R * kPanel);
    });
  }
  const int64_t n = panel * kPanel, count = std::min(p.N - n, int64_t(R) * kPanel);
  for (int64_t m = 0; m < p.M; ++m)
    for (int64_t o = 0; o < count; ++o)
      store(scratch[m * R * kPanel + o] + (p.bias ? p.bias[n + o] : 0.0f), p.y + m * p.N + n + o);
}

template <typename T>
void linear(const T* x, const uint16_t* codes, const float* scales, const float* zeros,
            const float* bias, T* y, int64_t M, int64_t N, int64_t K, int64_t group, int threads) {
  const int64_t groups = (K + group - 1) / group, count = (N + kPanel - 1) / kPanel;
  std::vector<float> sums(size_t(M) * groups);
  std::vector<T> packed(size_t(M) * K);
  const Problem<T> p{packed.data(), codes, scales, zeros, sums.data(), bias, y, M, N, K, group, groups};
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int64_t at = 0; at < M * groups; ++at) {
      const int64_t m = at / groups, first = at % groups * group;
      float total = 0;
      for (int64_t k = first; k < std::min(K, first + group); ++k) total += number(x[m * K + k]);
      sums[at] = total;
    }
    const int64_t mine = omp_get_thread_num(), all = omp_get_num_threads();
    int64_t run = 0;
    rows(M, [&](auto count, int64_t m) {
      if (run++ % all == mine) pack<T, count()>(x + m * K, packed.data() + m * K, K);
    });
#pragma omp barrier
    std::vector<float> scratch;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < count; first += kPanels)
      if (first + kPanels <= count)
        panels<T, kPanels>(p, first, scratch);
      else
        panels<T, 1>(p, first, scratch);
  }
}

// The weights themselves, (code - z) * s rounded to T once, of 16 outputs x 8 inputs of one block:
// [16, stride]. code * s - z * s is exact in float32: 4 bits times 11 fit.
template <typename T>
void decode_block(const uint16_t* w, const float* s, const float* z, T* out, int64_t stride) {
#if HAS_AVX512
  const __m512i words = _mm512_loadu_si512(w);
  const __m512 scale = _mm512_loadu_ps(s), zero = _mm512_mul_ps(_mm512_loadu_ps(z), scale);
  const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512 v[kBlock];  // 16 outputs each
#pragma GCC unroll 8
  for (int j = 0; j < kBlock; ++j)
    v[j] = _mm512_fmsub_ps(
        _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * (j / 2) + 16 * (j % 2)), table), scale, zero);
  __m512i d[kBlock / kUnit<T>];  // 32 bits of each output
#pragma GCC unroll 8
  for (int j = 0; j < kBlock; j += kUnit<T>) {
    if constexpr (std::is_same_v<T, float>) {
      d[j] = _mm512_castps_si512(v[j]);
    } else {
#if HAS_BF16
      alignas(64) static const uint16_t kTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6, 22, 7, 23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
      const __m512bh both = _mm512_cvtne2ps_pbh(v[j + 1], v[j]);
      d[j / 2] = _mm512_permutexvar_epi16(_mm512_load_si512(kTurns), (__m512i)both);
#else
      const auto rounded = [](__m512 value) {
        const __m512i bits = _mm512_castps_si512(value);
        const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        return _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
      };
      d[j / 2] = _mm512_or_si512(
          _mm512_srli_epi32(rounded(v[j]), 16),
          _mm512_and_si512(rounded(v[j + 1]), _mm512_set1_epi32(int(0xffff0000))));
#endif
    }
  }
  // Four 32-bit columns of 16 outputs become 16 bytes of each.
#pragma GCC unroll 2
  for (int j = 0; j < kBlock / kUnit<T>; j += 4) {
    const __m512i t0 = _mm512_unpacklo_epi32(d[j], d[j + 1]), t1 = _mm512_unpackhi_epi32(d[j], d[j + 1]);
    const __m512i t2 = _mm512_unpacklo_epi32(d[j + 2], d[j + 3]);
    const __m512i t3 = _mm512_unpackhi_epi32(d[j + 2], d[j + 3]);
    const __m512i rows[4] = {_mm512_unpacklo_epi64(t0, t2), _mm512_unpackhi_epi64(t0, t2),
                             _mm512_unpacklo_epi64(t1, t3), _mm512_unpackhi_epi64(t1, t3)};
    T* here = out + j * kUnit<T>;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      _mm_storeu_si128((__m128i*)(here + q * stride), _mm512_extracti32x4_epi32(rows[q], 0));
      _mm_storeu_si128((__m128i*)(here + (4 + q) * stride), _mm512_extracti32x4_epi32(rows[q], 1));
      _mm_storeu_si128((__m128i*)(here + (8 + q) * stride), _mm512_extracti32x4_epi32(rows[q], 2));
      _mm_storeu_si128((__m128i*)(here + (12 + q) * stride), _mm512_extracti32x4_epi32(rows[q], 3));
    }
  }
#else
  for (int o = 0; o < kPanel; ++o)
    for (int j = 0; j < kBlock; ++j)
      store((float(w[2 * o + j % 2] >> (j / 2 * 4) & 15) - z[o]) * s[o], out + o * stride + j);
#endif
}

// Rows of a panel are written a few cache lines at a time: 16 rows that lie a power of two apart
// share too few places of the first cache to stay there between two blocks.
template <typename T>
void decode(const uint16_t* codes, const float* scales, const float* zeros, T* out, int64_t first,
            int64_t rows, int64_t K, int64_t group, int64_t groups, int threads) {
  constexpr int64_t kRun = 8 * kBlock;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t panel = 0; panel < (rows + kPanel - 1) / kPanel; ++panel) {
    alignas(64) T run[kPanel * kRun];
    const int64_t count = std::min<int64_t>(kPanel, rows - panel * kPanel);
    for (int64_t start = 0; start < K; start += kRun) {
      const int64_t end = std::min(K, start + kRun);
      for (int64_t k = start; k < end; k += kBlock) {
        const int64_t at = ((first + panel) * groups + k / group) * kPanel;
        decode_block<T>(codes + ((first + panel) * (K / kBlock) + k / kBlock) * 32, scales + at,
                        zeros + at, run + (k - start), kRun);
      }
      for (int64_t o = 0; o < count; ++o)
        std::memcpy(out + (panel * kPanel + o) * K + start, run + o * kRun, (end - start) * sizeof(T));
    }
  }
}

}  // namespace

extern "C" {

// 3: AVX512 with dot products of bf16; 2: AVX512; 1: AVX2; 0: plain.
int awq_bench_level() { return HAS_AVX512 ? 2 + HAS_BF16 : HAS_AVX2; }

void awq_bench_decode_bf16(const uint16_t* codes, const float* scales, const float* zeros, bf16* out,
                           int64_t first, int64_t rows, int64_t K, int64_t group, int64_t groups,
                           int threads) {
  decode<bf16>(codes, scales, zeros, out, first, rows, K, group, groups, threads);
}

void awq_bench_decode_fp32(const uint16_t* codes, const float* scales, const float* zeros,
                           float* out, int64_t first, int64_t rows, int64_t K, int64_t group,
                           int64_t groups, int threads) {
  decode<float>(codes, scales, zeros, out, first, rows, K, group, groups, threads);
}

void awq_bench_linear_bf16(const bf16* x, const uint16_t* codes, const float* scales,
                           const float* zeros, const float* bias, bf16* y, int64_t M, int64_t N,
                           int64_t K, int64_t group, int threads) {
  linear<bf16>(x, codes, scales, zeros, bias, y, M, N, K, group, threads);
}

void awq_bench_linear_fp32(const float* x, const uint16_t* codes, const float* scales,
                           const float* zeros, const float* bias, float* y, int64_t M, int64_t N,
                           int64_t K, int64_t group, int threads) {
  linear<float>(x, codes, scales, zeros, bias, y, M, N, K, group, threads);
}
}
