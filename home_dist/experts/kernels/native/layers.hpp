// Passes over one layer's activations: bias and ReLU, their backward, and the moments of a batch.

#pragma once

#include "numbers.hpp"

namespace {

// x (M, B, C) = ReLU(x + bias (M, C)).
template <class S, class A>
void bias_relu(S* x, const A* bias, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
  deal(experts * blocks, [&](Size task) {
    const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
    const A* b = bias + e * width;
    for (Size r = first; r < last; ++r) {
      S* row = x + (e * rows + r) * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A v = load(row[d]) + b[d];
        store(row[d], v < A(0) ? A(0) : v);
      }
    }
  });
}

// x (M, B, C) = grad (M, B, C), or 0 if x <= 0. sums (M, C): the sum over samples of the new x.
template <class S, class A>
void relu_backward(S* x, const S* grad, A* sums, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
  std::vector<A> parts(experts * blocks * width);
  deal(experts * blocks, [&](Size task) {
    const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
    A* part = parts.data() + task * width;
    for (Size r = first; r < last; ++r) {
      const S* g = grad + (e * rows + r) * width;
      S* row = x + (e * rows + r) * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A v = load(row[d]) <= A(0) ? A(0) : load(g[d]);
        store(row[d], v);
        part[d] += v;
      }
    }
  });
  deal(experts, [&](Size e) {
    A* sum = sums + e * width;
    std::fill(sum, sum + width, A(0));
    for (Size block = 0; block < blocks; ++block)
      for (Size d = 0; d < width; ++d) sum[d] += parts[(e * blocks + block) * width + d];
  });
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
