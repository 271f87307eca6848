// Passes over one layer's activations: bias and ReLU, their backward, and the moments of a batch.

#pragma once

#include "product.hpp"

namespace {

// to (B, C) = ReLU(from + bias (C)).
template <class From, class S, class A>
inline void bias_relu(const From* from, const A* bias, S* to, Size rows, Size width) {
  deal_pieces(rows, ROWS, [&](Size first, Size last) {
    for (Size r = first; r < last; ++r) {
      const From* row = from + r * width;
      S* out = to + r * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A v = load(row[d]) + bias[d];
        store(out[d], v < A(0) ? A(0) : v);
      }
    }
  });
}

// out (B, next) = in (B, width) times the transposed weight (next, width), or its ReLU with a bias, unless that is null.
template <class S, class A>
inline void layer(Gemm<A, S> gemm, const S* in, const S* weight, const A* bias, S* out, Size rows, Size width, Size next) {
  A* sums = sums_for<2, S, A>(out, rows * next);
  product<S, A>(gemm, in, false, weight, true, sums, rows, width, next);
  if (bias)
    bias_relu(sums, bias, out, rows, next);
  else
    store_sums(sums, out, rows * next);
}

// x (B, C) = grad (B, C), or 0 if x <= 0. sums (C): the sum over samples of the new x.
template <class S, class G, class A>
inline void relu_backward(S* x, const G* grad, A* sums, Size rows, Size width) {
  std::vector<A> parts(blocks_of(rows) * width);
  deal_pieces(rows, ROWS, [&](Size first, Size last) {
    A* part = parts.data() + first / ROWS * width;
    for (Size r = first; r < last; ++r) {
      const G* g = grad + r * width;
      S* row = x + r * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A v = load(row[d]) <= A(0) ? A(0) : load(g[d]);
        store(row[d], v);
        part[d] += v;
      }
    }
  });
  std::fill_n(sums, width, A(0));
  for (Size block = 0; block < blocks_of(rows); ++block)
    for (Size d = 0; d < width; ++d) sums[d] += parts[block * width + d];
}

// The mean of y (M, B, D) over samples, and the sum of squares around it, (M, D). mask (B,): the samples' weights, 1 if null.
// Joins blocks of samples as in Chan et al. 1979.
template <class S, class A>
void moments(const S* y, const A* mask, A* mean, A* squares, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
  std::vector<A> parts(2 * experts * blocks * width), counts(blocks);
  for (Size r = 0; r < rows; ++r) counts[r / ROWS] += mask ? mask[r] : A(1);
  deal(experts * blocks, [&](Size task) {
    const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
    A *m = parts.data() + 2 * task * width, *q = m + width;
    const A count = std::max(counts[task % blocks], A(1));
    for (Size r = first; r < last; ++r) {
      const S* row = y + (e * rows + r) * width;
      const A weight = mask ? mask[r] : A(1);
#pragma omp simd
      for (Size d = 0; d < width; ++d) m[d] += load(row[d]) * weight;
    }
    for (Size d = 0; d < width; ++d) m[d] /= count;
    for (Size r = first; r < last; ++r) {
      const S* row = y + (e * rows + r) * width;
      const A weight = mask ? mask[r] : A(1);
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A off = (load(row[d]) - m[d]) * weight;
        q[d] += off * off;
      }
    }
  });
  deal(experts, [&](Size e) {
    A *m = mean + e * width, *q = squares + e * width, total = 0;
    std::fill(m, m + width, A(0));
    std::fill(q, q + width, A(0));
    for (Size block = 0; block < blocks; ++block) {
      const A *bm = parts.data() + 2 * (e * blocks + block) * width, *bq = bm + width;
      const A before = total;
      total += counts[block];
      const A weight = counts[block] / std::max(total, A(1)), both = before * weight;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A off = bm[d] - m[d];
        m[d] += off * weight;
        q[d] += bq[d] + off * off * both;
      }
    }
  });
}

}  // namespace
