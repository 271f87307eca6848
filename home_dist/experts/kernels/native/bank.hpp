// All linear layers of a bank. Arrays of pointers give the tensors of each expert.
//
// Matrix products are by the BLAS that torch was built with, in one thread each. A piece of work is some samples of one expert,
// whose layers follow each other while they are in the cache; where a sum goes over all samples, it is some columns.

#pragma once

#include "layers.hpp"
#include "product.hpp"

namespace {

inline Size chunks_of(Size count, Size grain) { return std::max((count + grain - 1) / grain, Size(1)); }

// y (E, B, D) = the last layer's outputs without bias, of inputs x[e] (B, F). hidden[l * E + e] (B, widths[l + 1]) = the
// activations for the backward; they are not kept if hidden is null. widths: F, the hidden layers', D. mean, squares (E, D) =
// the moments of y, unless null.
template <class A>
void bank(Gemm<A> gemm, const A* const* x, const A* const* weights, const A* const* biases, A* const* hidden, A* const* y,
          const A* mask, A* mean, A* squares, const Size* widths, Size layers, Size experts, Size rows) {
  const Size chunks = chunks_of(rows, SAMPLES), widest = *std::max_element(widths, widths + layers + 1);
  deal(experts * chunks, [&](Size piece) {
    const Size e = piece / chunks, first = piece % chunks * SAMPLES, some = std::min(SAMPLES, rows - first);
    A* const near[2] = {scratch<A, 0>(SAMPLES * widest), scratch<A, 1>(SAMPLES * widest)};
    const A* in = x[e] + first * widths[0];
    for (Size l = 0; l < layers; ++l) {
      const Size width = widths[l], next = widths[l + 1];
      const bool last = l == layers - 1;
      A* out = last ? y[e] + first * next : hidden ? hidden[l * experts + e] + first * next : near[l % 2];
      product(gemm, in, false, weights[l] + e * next * width, true, out, some, width, next);
      if (!last) bias_relu(out, biases[l] + e * next, 1, some, next);
      in = out;
    }
  });
  if (mean)
    deal(experts, [&](Size e) {
      moments(y[e], mask, mean + e * widths[layers], squares + e * widths[layers], 1, rows, widths[layers]);
    });
}

// The backward of all layers but the first. y: its gradient. Overwrites the hidden activations with their gradients.
// weight_grads[l] (E, out, in) for l > 0; bias_grads[l] (E, out) for l < layers - 1.
template <class A>
void bank_backward(Gemm<A> gemm, const A* const* y, const A* const* weights, A* const* hidden, A* const* weight_grads,
                   A* const* bias_grads, const Size* widths, Size layers, Size experts, Size rows) {
  const Size chunks = chunks_of(rows, SAMPLES);
  for (Size l = layers - 1; l > 0; --l) {
    const Size width = widths[l], next = widths[l + 1], columns = chunks_of(width, COLUMNS);
    auto down = [&](Size e) { return l == layers - 1 ? y[e] : hidden[l * experts + e]; };
    deal(experts * columns, [&](Size piece) {
      const Size e = piece / columns, first = piece % columns * COLUMNS, some = std::min(COLUMNS, width - first);
      product(gemm, Matrix<const A>{down(e), next}, true, Matrix<const A>{hidden[(l - 1) * experts + e] + first, width}, false,
              Matrix<A>{weight_grads[l] + e * next * width + first, width}, next, rows, some);
    });
    std::vector<A> parts(experts * chunks * width);
    deal(experts * chunks, [&](Size piece) {
      const Size e = piece / chunks, first = piece % chunks * SAMPLES, some = std::min(SAMPLES, rows - first);
      A* grad = scratch<A, 0>(SAMPLES * width);
      product(gemm, down(e) + first * next, false, weights[l] + e * next * width, false, grad, some, next, width);
      relu_backward(hidden[(l - 1) * experts + e] + first * width, grad, parts.data() + piece * width, 1, some, width);
    });
    for (Size e = 0; e < experts; ++e) {
      A* sums = bias_grads[l - 1] + e * width;
      std::fill_n(sums, width, A(0));
      for (Size chunk = 0; chunk < chunks; ++chunk)
        for (Size d = 0; d < width; ++d) sums[d] += parts[(e * chunks + chunk) * width + d];
    }
  }
}

// The backward of the first layer: the gradients of its weights (E, H, F) and of the inputs, x_grads[i] (B, F) unless null.
// Experts from starts[i] to starts[i + 1] read input i. down[e] (B, H): the gradient of the layer's output.
template <class A>
void bank_inputs(Gemm<A> gemm, const A* const* down, const A* const* x, const A* weights, A* weight_grads, A* const* x_grads,
                 const Size* starts, Size inputs, Size width, Size next, Size experts, Size rows) {
  const Size columns = chunks_of(width, COLUMNS), chunks = chunks_of(rows, SAMPLES), of_weights = experts * columns;
  deal(of_weights + inputs * chunks, [&](Size piece) {
    if (piece < of_weights) {
      const Size e = piece / columns, first = piece % columns * COLUMNS, some = std::min(COLUMNS, width - first);
      product(gemm, Matrix<const A>{down[e], next}, true, Matrix<const A>{x[e] + first, width}, false,
              Matrix<A>{weight_grads + e * next * width + first, width}, next, rows, some);
      return;
    }
    const Size i = (piece - of_weights) / chunks, first = (piece - of_weights) % chunks * SAMPLES;
    if (!x_grads[i]) return;
    for (Size e = starts[i]; e < starts[i + 1]; ++e)
      product(gemm, down[e] + first * next, false, weights + e * next * width, false, x_grads[i] + first * width,
              std::min(SAMPLES, rows - first), next, width, e > starts[i]);
  });
}

}  // namespace
