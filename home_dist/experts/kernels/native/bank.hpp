// A bank's layers, matrix products included, expert by expert: which tensor is where is given by pointers.
//
// The products are the BLAS's that torch itself was built with. Within a parallel region it computes on one thread: as many
// experts as the threads divide are dealt to them whole, each thread doing all that one expert needs while it has it in its
// cache; those left over are computed one after another, by all threads.

#pragma once

#include <omp.h>

#include "layers.hpp"
#include "product.hpp"

namespace {

// Calls work(i) for i < count: on one thread each where there is an i for all of them, else on all.
template <class Work>
inline void deal(Size count, Work work) {
  const Size threads = omp_get_max_threads(), together = threads > 1 ? count / threads * threads : 0;
#pragma omp parallel for schedule(dynamic, 1) if (together)
  for (Size i = 0; i < together; ++i) work(i);
  for (Size i = together; i < count; ++i) work(i);
}

// y (E, B, D), before normalisation and without the last bias, of inputs x[e] (B, F). hidden[l * E + e] (B, widths[l + 1]) are
// the activations that the backward needs, or null, and then not kept. widths: F, of hidden layers, D.
// mean, squares (E, D): the moments of y, if not null.
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

// From the gradient of y to those of all layers but the first, and of the hidden activations, which are written over them.
// weight_grads[l], for l > 0 (E, out, in); bias_grads[l], for l < layers - 1 (E, out). near (threads, chunk, widest hidden):
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

// The gradients of the first layer's weights (E, H, F) and of the inputs, of which there are `inputs`: experts starts[i] until
// starts[i + 1] read input i. down[e] (B, H): the gradient of the first layer's output. x_grads[i] (B, F), or null.
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
