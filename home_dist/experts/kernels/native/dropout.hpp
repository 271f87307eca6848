// The dropout of dropout.py, bit for bit.

#pragma once

#include "numbers.hpp"

namespace {

struct Dropout {
  uint32_t first, second, threshold;  // threshold 0: nothing is dropped
  double factor;
};

inline uint32_t mixed_bits(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x21f0aaadu;
  x = (x ^ (x >> 15)) * 0xd35a2d97u;
  return x ^ (x >> 15);
}

// out (width) = the factors of the outputs from position `at` on.
template <class A>
inline void factors(const Dropout& dropout, Size at, A* out, Size width) {
  const uint32_t start = uint32_t(at), first = dropout.first, second = dropout.second, threshold = dropout.threshold;
  const A factor = A(dropout.factor);
#pragma omp simd
  for (Size d = 0; d < width; ++d) {
    const uint32_t hash = mixed_bits(mixed_bits((start + uint32_t(d)) ^ first) + second);
    out[d] = hash < threshold ? A(0) : factor;
  }
}

// values *= factors, by multiplication, so that NaN passes through.
template <class A>
inline void scale_by(const A* factors, A* values, Size width) {
#pragma omp simd
  for (Size d = 0; d < width; ++d) values[d] *= factors[d];
}

// out (B, F) = x (B, F) after dropout.
template <class A>
void drop(const A* x, A* out, Dropout dropout, Size rows, Size width) {
  deal_pieces(rows, ROWS, [&](Size first, Size last) {
    A* kept = scratch<A, 0>(width);
    for (Size r = first; r < last; ++r) {
      factors(dropout, r * width, kept, width);
#pragma omp simd
      for (Size d = 0; d < width; ++d) out[r * width + d] = x[r * width + d] * kept[d];
    }
  });
}

}  // namespace
