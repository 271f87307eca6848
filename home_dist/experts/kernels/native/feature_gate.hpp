// The feature gates of all groups, matrix products included: for a chunk of b samples of a group, a thread computes the result
// from the low-rank activations while the chunk's low-rank gates (L, b, F) are in its cache. G groups, R the rank. The
// operands of products, the result and its gradient are of S.

#pragma once

#include "numbers.hpp"
#include "product.hpp"

namespace {

// total (F) = the feature gate of one row before the factor 2: the sum over l of share[l] * sigmoid(wide_l) if `inside`, else
// the sigmoid of the sum over l of share[l] * wide_l. gates (L, F) = the factors of share.
template <class A>
inline void gate_row(const A* wide, Size gate, const A* share, A* gates, A* total, bool inside, Size count, Size width) {
  for (Size d = 0; d < width; ++d) total[d] = 0;
  for (Size l = 0; l < count; ++l) {
    const A* row = wide + l * gate;
    A* own = gates + l * width;
    const A factor = share[l];
    if (inside) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        own[d] = sigmoid(row[d]);
        total[d] += factor * own[d];
      }
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        own[d] = row[d];
        total[d] += factor * own[d];
      }
    }
  }
  if (!inside) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) total[d] = sigmoid(total[d]);
  }
}

// Memory for one row of the feature gate.
template <class A>
struct GateRow {
  std::vector<A> gates, total, down;
  GateRow(Size count, Size width) : gates(count * width), total(width), down(width) {}
};

// to (F) = x (F) times the feature gate of wide (L, F; rows `gate` apart) and share (L).
template <class S, class A>
inline void scale_row(const A* wide, Size gate, const A* share, const S* x, S* to, bool inside, Size count, Size width,
                      GateRow<A>& own) {
  gate_row(wide, gate, share, own.gates.data(), own.total.data(), inside, count, width);
  const A* total = own.total.data();
#pragma omp simd
  for (Size d = 0; d < width; ++d) store(to[d], A(2) * load(x[d]) * total[d]);
}

// The backward of `scale_row`: to = the gradient of wide, whose memory it may share; share_grad (L); x_grad (F), unless null, =
// or, if `add`, += the gradient of x as a factor of the result.
template <class S, class A>
inline void scale_row_backward(const S* grad, const A* wide, S* to, Size gate, const A* share, const S* x, A* share_grad,
                               A* x_grad, bool add, bool inside, Size count, Size width, GateRow<A>& own) {
  gate_row(wide, gate, share, own.gates.data(), own.total.data(), inside, count, width);
  const A* total = own.total.data();
  A* down = own.down.data();
  if (x_grad) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) x_grad[d] = A(2) * load(grad[d]) * total[d] + (add ? x_grad[d] : A(0));
  }
#pragma omp simd
  for (Size d = 0; d < width; ++d) down[d] = A(2) * load(grad[d]) * load(x[d]) * (inside ? A(1) : total[d] * (A(1) - total[d]));
  for (Size l = 0; l < count; ++l) {
    const A *gates = own.gates.data() + l * width, factor = share[l];
    S* row = to + l * gate;
    share_grad[l] = dot(down, gates, width);
    if (inside) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) store(row[d], down[d] * factor * gates[d] * (A(1) - gates[d]));
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) store(row[d], down[d] * factor);
    }
  }
}

// x_step: the stride between the inputs of two groups, 0 if they share one.
struct GateSizes {
  Size x_step, inside, groups, count, rank, rows, width;
};

// wide (L, n, F): the low-rank gates of n samples before the sigmoid, of low (n, L, R) and up (L, R, F).
template <class S, class A>
inline void widen(Gemm<A, S> gemm, const S* low, const S* up, A* wide, Size n, const GateSizes& s) {
  for (Size l = 0; l < s.count; ++l)
    product<S, A>(gemm, Matrix<const S>{low + l * s.rank, s.count * s.rank}, false,
                  Matrix<const S>{up + l * s.rank * s.width, s.width}, false, Matrix<A>{wide + l * n * s.width, s.width}, n,
                  s.rank, s.width);
}

// out (G, B, F) of low (G, B, L, R), up (G, L, R, F), share (G, B, L) and x (B, F) or (G, B, F).
// A thread holds the gates of `chunk` samples, (L, chunk, F).
template <class S, class A>
void feature_gates(Gemm<A, S> gemm, const S* x, const S* low, const S* up, const A* share, S* out, Size chunk, GateSizes s) {
  const Size chunks = (s.rows + chunk - 1) / chunk;
  deal(s.groups * chunks, [&](Size task) {
    GateRow<A> own(s.count, s.width);
    A* wide = scratch<A, 0>(s.count * chunk * s.width);
    const Size g = task / chunks, first = task % chunks * chunk, n = std::min(chunk, s.rows - first), at = g * s.rows + first;
    widen(gemm, low + at * s.count * s.rank, up + g * s.count * s.rank * s.width, wide, n, s);
    for (Size r = 0; r < n; ++r)
      scale_row(wide + r * s.width, n * s.width, share + (at + r) * s.count, x + g * s.x_step + (first + r) * s.width,
                out + (at + r) * s.width, s.inside != 0, s.count, s.width, own);
  });
}

// The backward: share_grad and low_grad in the shapes of share and low; x_grad, unless null, in the shape of x, the gradient of
// x as a factor of the result; up_grad (parts, G, L, R, F), whose sum over parts is the gradient of up. One thread works on
// each part of the samples, and the number of threads does not change the parts.
template <class S, class A>
void feature_gates_backward(Gemm<A, S> gemm, const S* grad, const S* x, const S* low, const S* up, const A* share, A* share_grad,
                            A* low_grad, A* x_grad, A* up_grad, Size chunk, Size parts, GateSizes s) {
  const Size of_part = (s.rows + parts - 1) / parts, weights = s.count * s.rank * s.width;
  deal(parts, [&](Size part) {
    GateRow<A> own(s.count, s.width);
    A* wide = scratch<A, 0>(s.count * chunk * s.width);
    S* wide_grad = scratch<S, 0>(s.count * chunk * s.width);  // the same memory, if S is A
    const Size start = std::min(part * of_part, s.rows), end = std::min(start + of_part, s.rows);
    A* sums = up_grad + part * s.groups * weights;
    if (start == end) std::fill_n(sums, s.groups * weights, A(0));
    for (Size first = start; first < end; first += chunk) {
      const Size n = std::min(chunk, end - first);
      for (Size g = 0; g < s.groups; ++g) {
        const Size at = g * s.rows + first;
        const S *of_low = low + at * s.count * s.rank, *of_up = up + g * weights;
        widen(gemm, of_low, of_up, wide, n, s);
        for (Size r = 0; r < n; ++r) {
          const Size input = g * s.x_step + (first + r) * s.width;
          scale_row_backward(grad + (at + r) * s.width, wide + r * s.width, wide_grad + r * s.width, n * s.width,
                             share + (at + r) * s.count, x + input, share_grad + (at + r) * s.count,
                             x_grad ? x_grad + input : nullptr, g > 0 && !s.x_step, s.inside != 0, s.count, s.width, own);
        }
        for (Size l = 0; l < s.count; ++l) {
          const Matrix<const S> of_wide{wide_grad + l * n * s.width, s.width};
          const Size rank = s.count * s.rank, gate = l * s.rank;
          product<S, A>(gemm, of_wide, false, Matrix<const S>{of_up + gate * s.width, s.width}, true,
                        Matrix<A>{low_grad + at * rank + gate, rank}, n, s.width, s.rank);
          product<S, A>(gemm, Matrix<const S>{of_low + gate, rank}, true, of_wide, false,
                        Matrix<A>{sums + g * weights + gate * s.width, s.width}, s.rank, n, s.width, first > start);
        }
      }
    }
  });
}

}  // namespace
