// The feature gate, and the weights of gates over experts.

#pragma once

#include "numbers.hpp"

namespace {

// The feature gate of one row, before the factor 2: sum over l of share[l] * sigmoid(wide_l), or the sigmoid of that of wide_l.
// gates (L, F): what share is multiplied with.
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
template <class A>
inline void scale_row(const A* wide, Size gate, const A* share, const A* x, A* to, bool inside, Size count, Size width,
                      GateRow<A>& own) {
  gate_row(wide, gate, share, own.gates.data(), own.total.data(), inside, count, width);
  const A* total = own.total.data();
#pragma omp simd
  for (Size d = 0; d < width; ++d) to[d] = A(2) * x[d] * total[d];
}

// wide = its gradient; share_grad (L); x_grad (F), if not null, = or, if `add`, += that of x as far as it is multiplied.
template <class A>
inline void scale_row_backward(const A* grad, A* wide, Size gate, const A* share, const A* x, A* share_grad, A* x_grad, bool add,
                               bool inside, Size count, Size width, GateRow<A>& own) {
  gate_row(wide, gate, share, own.gates.data(), own.total.data(), inside, count, width);
  const A* total = own.total.data();
  A* down = own.down.data();
  if (x_grad) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) x_grad[d] = A(2) * grad[d] * total[d] + (add ? x_grad[d] : A(0));
  }
#pragma omp simd
  for (Size d = 0; d < width; ++d) down[d] = A(2) * grad[d] * x[d] * (inside ? A(1) : total[d] * (A(1) - total[d]));
  for (Size l = 0; l < count; ++l) {
    const A *gates = own.gates.data() + l * width, factor = share[l];
    A* row = wide + l * gate;
    share_grad[l] = dot(down, gates, width);
    if (inside) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) row[d] = down[d] * factor * gates[d] * (A(1) - gates[d]);
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) row[d] = down[d] * factor;
    }
  }
}

// All rows of out (B, F) = x (B, F) times the feature gate of wide (L, B, F) and share (B, L).
template <class A>
void gate(const A* wide, const A* share, const A* x, A* out, Size inside, Size count, Size rows, Size width) {
#pragma omp parallel
  {
    GateRow<A> own(count, width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r)
      scale_row(wide + r * width, rows * width, share + r * count, x + r * width, out + r * width, inside != 0, count, width, own);
  }
}

// wide (L, B, F), share_grad (B, L) and x_grad (B, F): as in scale_row_backward.
template <class A>
void gate_backward(const A* grad, A* wide, const A* share, const A* x, A* share_grad, A* x_grad, Size add, Size inside,
                   Size count, Size rows, Size width) {
#pragma omp parallel
  {
    GateRow<A> own(count, width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r)
      scale_row_backward(grad + r * width, wide + r * width, rows * width, share + r * count, x + r * width,
                         share_grad + r * count, x_grad ? x_grad + r * width : nullptr, add != 0, inside != 0, count, width, own);
  }
}

inline Size seen_of(const Size* places, Size most) { return std::find(places, places + most, Size(-1)) - places; }

// One gate's scores -> its weights on the experts that it sees, in the same order: softmax, or the sigmoid of the one there is.
template <class A>
inline void weigh(const A* scores, A* weights, Size count, bool alone) {
  if (alone) {
    weights[0] = sigmoid(scores[0]);
    return;
  }
  A most = scores[0], sum = 0;
  for (Size n = 1; n < count; ++n) most = scores[n] > most ? scores[n] : most;
#pragma omp simd reduction(+ : sum)
  for (Size n = 0; n < count; ++n) sum += weights[n] = exponential(scores[n] - most);
  for (Size n = 0; n < count; ++n) weights[n] /= sum;
}

// Gates (K, B, E) of scores (K, B, S): `main` scores of the masked gate, then those of the self gate, each one followed by what
// fills it up. places (K, S): the experts that the scores are of, or -1; alone (K): whether a self gate is a sigmoid.
template <class A>
void gate_weights(const A* scores, Size score_k, Size score_b, const Size* places, const Size* alone, A* out, Size main,
                  Size gate_count, Size rows, Size all, Size experts) {
  const Size blocks = blocks_of(rows);
#pragma omp parallel
  {
    std::vector<A> weights(all);
#pragma omp for schedule(static)
    for (Size task = 0; task < gate_count * blocks; ++task) {
      const Size k = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
      const Size *at = places + k * all, seen = seen_of(at, main), own = seen_of(at + main, all - main);
      for (Size r = first; r < last; ++r) {
        const A* in = scores + k * score_k + r * score_b;
        A* to = out + (k * rows + r) * experts;
        std::fill(to, to + experts, A(0));
        weigh(in, weights.data(), seen, false);
        if (own) weigh(in + main, weights.data() + main, own, alone[k] != 0);
        for (Size n = 0; n < seen; ++n) to[at[n]] = weights[n];
        for (Size n = main; n < main + own; ++n) to[at[n]] += weights[n];
      }
    }
  }
}

// score_grad, strided as the scores: 0 for what fills up.
template <class A>
void gate_weights_backward(const A* grad, const A* scores, Size score_k, Size score_b, const Size* places, const Size* alone,
                           A* score_grad, Size main, Size gate_count, Size rows, Size all, Size experts) {
  const Size blocks = blocks_of(rows);
#pragma omp parallel
  {
    std::vector<A> weights(all);
#pragma omp for schedule(static)
    for (Size task = 0; task < gate_count * blocks; ++task) {
      const Size k = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
      const Size *at = places + k * all, seen = seen_of(at, main), own = seen_of(at + main, all - main);
      for (Size r = first; r < last; ++r) {
        const A *in = scores + k * score_k + r * score_b, *g = grad + (k * rows + r) * experts;
        A* to = score_grad + k * score_k + r * score_b;
        std::fill(to, to + all, A(0));
        const Size starts[2] = {0, main}, counts[2] = {seen, own};
        for (Size half = 0; half < 2; ++half) {
          const Size start = starts[half], count = counts[half];
          if (!count) continue;
          const bool lone = half && alone[k];
          A* w = weights.data();
          weigh(in + start, w, count, lone);
          A mean = lone ? w[0] * g[at[start]] : A(0);
          if (!lone)
            for (Size n = 0; n < count; ++n) mean += w[n] * g[at[start + n]];
          for (Size n = 0; n < count; ++n) to[start + n] = w[n] * (g[at[start + n]] - mean);
        }
      }
    }
  }
}

}  // namespace
