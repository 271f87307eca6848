// All linear layers of a bank, expert by expert. Arrays of pointers give the tensors of each expert.
//
// Matrix products are by the BLAS that torch was built with, which uses one thread within a parallel region. Each thread takes
// whole experts and computes all layers of one while it is in the cache. If the number of experts is no multiple of the number
// of threads, all threads together compute the remaining experts, one after another.

#pragma once

#include <omp.h>

#include "layers.hpp"
#include "product.hpp"

namespace {

// Calls work(i) for all i < count: threads share the largest multiple of their number, then all threads work on each of the
// rest.
template <class Work>
inline void deal(Size count, Work work) {
  const Size threads = omp_get_max_threads(), together = threads > 1 ? count / threads * threads : 0;
#pragma omp parallel for schedule(dynamic, 1) if (together)
  for (Size i = 0; i < together; ++i) work(i);
  for (Size i = together; i < count; ++i) work(i);
}

// y (E, B, D) = the last layer's outputs without bias, of inputs x[e] (B, F). hidden[l * E + e] (B, widths[l + 1]) = the
// activations for the backward; they are not kept if hidden is null. widths: F, the hidden layers', D. mean, squares (E, D) =
// the moments of y, unless null.
template <class A>
void bank(Gemm<A> gemm, const A* const* x, const A* const* weights, const A* const* biases, A* const* hidden, A* const* y,
          const A* mask, A* mean, A* squares, const Size* widths, Size layers, Size experts, Size rows) {
  deal(experts, [&](Size e) {
    std::vector<A> kept[2];
    const A* in = x[e];
    for (Size l = 0; l < layers; ++l) {
      const Size width = widths[l], next = widths[l + 1];
      const bool last = l == layers - 1;
      A* out = last ? y[e] : hidden ? hidden[l * experts + e] : nullptr;
      if (!out) {
        kept[l % 2].resize(rows * next);
        out = kept[l % 2].data();
      }
      product(gemm, in, false, weights[l] + e * next * width, true, out, rows, width, next);
      if (!last) bias_relu(out, biases[l] + e * next, 1, rows, next);
      in = out;
    }
    if (mean) moments(y[e], mask, mean + e * widths[layers], squares + e * widths[layers], 1, rows, widths[layers]);
  });
}

// The backward of all layers but the first. y: its gradient. Overwrites the hidden activations with their gradients.
// weight_grads[l] (E, out, in) for l > 0; bias_grads[l] (E, out) for l < layers - 1. near (threads, chunk, widest layer):
// memory for the gradient of `chunk` samples of one expert.
template <class A>
void bank_backward(Gemm<A> gemm, const A* const* y, const A* const* weights, A* const* hidden, A* const* weight_grads,
                   A* const* bias_grads, A* near, Size chunk, const Size* widths, Size layers, Size experts, Size rows) {
  const Size widest = *std::max_element(widths + 1, widths + layers + 1);
  deal(experts, [&](Size e) {
    const A* down = y[e];
    A* grad = near + omp_get_thread_num() * chunk * widest;
    for (Size l = layers - 1; l > 0; --l) {
      const Size width = widths[l], next = widths[l + 1];
      A* below = hidden[(l - 1) * experts + e];
      A* sums = bias_grads[l - 1] + e * width;
      product(gemm, down, true, below, false, weight_grads[l] + e * next * width, next, rows, width);
      std::vector<A> part(width);
      std::fill_n(sums, width, A(0));
      for (Size first = 0; first < rows; first += chunk) {
        const Size some = std::min(chunk, rows - first);
        product(gemm, down + first * next, false, weights[l] + e * next * width, false, grad, some, next, width);
        relu_backward(below + first * width, grad, part.data(), 1, some, width);
        for (Size d = 0; d < width; ++d) sums[d] += part[d];
      }
      down = below;
    }
  });
}

// The backward of the first layer: the gradients of its weights (E, H, F) and of the inputs, x_grads[i] (B, F) unless null.
// Experts from starts[i] to starts[i + 1] read input i. down[e] (B, H): the gradient of the layer's output.
template <class A>
void bank_inputs(Gemm<A> gemm, const A* const* down, const A* const* x, const A* weights, A* weight_grads, A* const* x_grads,
                 const Size* starts, Size inputs, Size width, Size next, Size experts, Size rows) {
  deal(experts, [&](Size e) {
    product(gemm, down[e], true, x[e], false, weight_grads + e * next * width, next, rows, width);
  });
  deal(inputs, [&](Size i) {
    if (!x_grads[i]) return;
    for (Size e = starts[i]; e < starts[i + 1]; ++e)
      product(gemm, down[e], false, weights + e * next * width, false, x_grads[i], rows, next, width, e > starts[i]);
  });
}

}  // namespace
