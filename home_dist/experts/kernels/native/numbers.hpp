// What all of the library shares. The library: expert banks' layers, and the passes around their and the feature gates' matrix
// products, each one reading its tensors once.
//
// Plain C++ behind a C interface, without headers of torch: it compiles in seconds. Letters as in the README: B samples, E
// experts, K gates, D width, F features, L low-rank gates. All tensors are contiguous unless a stride is passed. S is the type
// that activations are stored in, A the one that everything is computed, summed and passed in: fp32 for fp32 and bf16, fp64 for
// fp64.
//
// Sums run over fixed blocks of samples that are joined in order, so that results do not depend on the number of threads.
// Comparisons are written such that NaN passes through them.

#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Size = int64_t;
constexpr Size ROWS = 64;  // samples in a block
// Samples that one expert's outputs are read of at a time: rows of different experts lie a power of two apart and would push
// one another out of the cache, one by one.
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

// exp with a relative error of 1e-7 up to 87, infinite above; below -87 it stays at 1e-38. Without branches, and with a clamp of
// integers, as compilers make vectors of it then: comparisons of floats they split into paths and compute each of them.
inline float exponential(float argument) {
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
