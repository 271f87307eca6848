// Types and small functions of the cpu backend's library: the layers of expert banks, and the passes around matrix products,
// which read each tensor once.
//
// Plain C++ behind a C interface, without headers of torch: it compiles in seconds. Letters as in the README: B samples, E
// experts, K gates, D width, F features, L low-rank gates. All tensors are contiguous unless a stride is passed. S is the type
// of stored activations. A is the type of all other tensors and of all computation: fp32 for S = fp32 and bf16, fp64 for S =
// fp64.
//
// A sum over samples is one over fixed blocks, which are joined in order: it does not depend on the number of threads. NaN
// passes through all comparisons.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

#include "pool.hpp"

namespace {

using Size = int64_t;
constexpr Size ROWS = 64;  // samples in a block
constexpr Size SAMPLES = 256, COLUMNS = 512;  // in a piece of work
// The samples that a pass reads of one expert before the next expert. The rows of experts are a power of two apart in memory:
// reading one row of each in turn would evict them from the cache.
constexpr Size TILE = 8;

struct bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bf16& to, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  to.bits = uint16_t(x == x ? rounded : (bits >> 16) | 0x40);
}

// to (count) = from.
template <class S, class A>
inline void store_all(const A* from, S* to, Size count) {
#pragma omp simd
  for (Size i = 0; i < count; ++i) store(to[i], from[i]);
}

// exp with a relative error of 1e-7 up to 87, infinite above; below -87 it stays at 1e-38. Without branches and with a clamp of
// integers, so that compilers vectorise it: of a comparison of floats they would compute both branches.
[[gnu::always_inline]] inline float exponential(float argument) {
  constexpr int32_t SIGN = INT32_MIN, END = std::bit_cast<int32_t>(87.0f);
  const int32_t bits = std::bit_cast<int32_t>(argument);
  const float x = std::bit_cast<float>((bits & SIGN) | std::min(bits & ~SIGN, END));
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the nearest integer lands in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t power = (std::bit_cast<int32_t>(shifted) + 127) << 23;
  p *= std::bit_cast<float>(bits > END ? std::bit_cast<int32_t>(INFINITY) : power);
  return argument == argument ? p : argument;
}
inline double exponential(double x) { return std::exp(x); }

template <class A>
inline A sigmoid(A x) {
  return A(1) / (A(1) + exponential(-x));
}

template <class A>
inline A dot(const A* a, const A* b, Size width) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Size d = 0; d < width; ++d) sum += a[d] * b[d];
  return sum;
}

inline Size blocks_of(Size rows) { return (rows + ROWS - 1) / ROWS; }
inline Size tiles_of(Size rows) { return (rows + TILE - 1) / TILE; }

}  // namespace
