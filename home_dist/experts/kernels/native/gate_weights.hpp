// The weights of gates over experts, from their scores, and the backward.

#pragma once

#include "numbers.hpp"

namespace {

inline Size seen_of(const Size* places, Size most) { return std::find(places, places + most, Size(-1)) - places; }

// weights (count) = softmax(scores), or the sigmoid of a single score if `alone`.
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

// out (K, B, E) = the weights of gates with scores (K, B, S): `main` scores of the masked gate and its padding, then the scores
// of the self gate and its padding. places (K, S): the experts of the scores, -1 for padding; alone (K): whether a self gate is
// a sigmoid.
template <class A>
void gate_weights(const A* scores, Size score_k, Size score_b, const Size* places, const Size* alone, A* out, Size main,
                  Size gate_count, Size rows, Size all, Size experts) {
  const Size blocks = blocks_of(rows);
  deal_pieces(gate_count * blocks, 4, [&](Size begin, Size stop) {
    std::vector<A> weights(all);
    for (Size task = begin; task < stop; ++task) {
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
  });
}

// The backward: score_grad, with the strides of the scores; 0 for padding.
template <class A>
void gate_weights_backward(const A* grad, const A* scores, Size score_k, Size score_b, const Size* places, const Size* alone,
                           A* score_grad, Size main, Size gate_count, Size rows, Size all, Size experts) {
  const Size blocks = blocks_of(rows);
  deal_pieces(gate_count * blocks, 4, [&](Size begin, Size stop) {
    std::vector<A> weights(all);
    for (Size task = begin; task < stop; ++task) {
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
  });
}

}  // namespace
