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
template <class S, class A>
void bank(Gemm<A, S> gemm, const S* const* x, const S* const* weights, const A* const* biases, S* const* hidden, S* const* y,
          const A* mask, A* mean, A* squares, const Size* widths, Size layers, Size experts, Size rows) {
  const Size chunks = chunks_of(rows, SAMPLES), widest = *std::max_element(widths, widths + layers + 1);
  deal(experts * chunks, [&](Size piece) {
    const Size e = piece / chunks, first = piece % chunks * SAMPLES, some = std::min(SAMPLES, rows - first);
    S* const near[2] = {scratch<S, 0>(SAMPLES * widest), scratch<S, 1>(SAMPLES * widest)};
    const S* in = x[e] + first * widths[0];
    for (Size l = 0; l < layers; ++l) {
      const Size width = widths[l], next = widths[l + 1];
      const bool last = l == layers - 1;
      S* out = last ? y[e] + first * next : hidden ? hidden[l * experts + e] + first * next : near[l % 2];
      layer<S, A>(gemm, in, weights[l] + e * next * width, last ? nullptr : biases[l] + e * next, out, some, width, next);
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
template <class S, class A>
void bank_backward(Gemm<A, S> gemm, const S* const* y, const S* const* weights, S* const* hidden, A* const* weight_grads,
                   A* const* bias_grads, const Size* widths, Size layers, Size experts, Size rows) {
  const Size chunks = chunks_of(rows, SAMPLES);
  for (Size l = layers - 1; l > 0; --l) {
    const Size width = widths[l], next = widths[l + 1], columns = chunks_of(width, COLUMNS);
    auto down = [&](Size e) -> const S* { return l == layers - 1 ? y[e] : hidden[l * experts + e]; };
    deal(experts * columns, [&](Size piece) {
      const Size e = piece / columns, first = piece % columns * COLUMNS, some = std::min(COLUMNS, width - first);
      product<S, A>(gemm, Matrix<const S>{down(e), next}, true, Matrix<const S>{hidden[(l - 1) * experts + e] + first, width},
                    false, Matrix<A>{weight_grads[l] + e * next * width + first, width}, next, rows, some);
    });
    std::vector<A> parts(experts * chunks * width);
    deal(experts * chunks, [&](Size piece) {
      const Size e = piece / chunks, first = piece % chunks * SAMPLES, some = std::min(SAMPLES, rows - first);
      A* grad = scratch<A, 0>(SAMPLES * width);
      product<S, A>(gemm, down(e) + first * next, false, weights[l] + e * next * width, false, grad, some, next, width);
      relu_backward(hidden[(l - 1) * experts + e] + first * width, grad, parts.data() + piece * width, some, width);
    });
    for (Size e = 0; e < experts; ++e) {
      A* sums = bias_grads[l - 1] + e * width;
      std::fill_n(sums, width, A(0));
      for (Size chunk = 0; chunk < chunks; ++chunk)
        for (Size d = 0; d < width; ++d) sums[d] += parts[(e * chunks + chunk) * width + d];
    }
  }
}

// The backward of the first layer: the gradients of its weights (E, H, F) and of the inputs, x_grads[i] (B, F) unless null, as A
// or as S. Experts from starts[i] to starts[i + 1] read input i. down[e] (B, H): the gradient of the layer's output.
template <class S, class A, class Out>
void bank_inputs(Gemm<A, S> gemm, const S* const* down, const S* const* x, const S* weights, A* weight_grads, Out* const* x_grads,
                 const Size* starts, Size inputs, Size width, Size next, Size experts, Size rows) {
  const Size columns = chunks_of(width, COLUMNS), chunks = chunks_of(rows, SAMPLES), of_weights = experts * columns;
  deal(of_weights + inputs * chunks, [&](Size piece) {
    if (piece < of_weights) {
      const Size e = piece / columns, first = piece % columns * COLUMNS, some = std::min(COLUMNS, width - first);
      product<S, A>(gemm, Matrix<const S>{down[e], next}, true, Matrix<const S>{x[e] + first, width}, false,
                    Matrix<A>{weight_grads + e * next * width + first, width}, next, rows, some);
      return;
    }
    const Size i = (piece - of_weights) / chunks, first = (piece - of_weights) % chunks * SAMPLES;
    if (!x_grads[i]) return;
    const Size some = std::min(SAMPLES, rows - first);
    Out* out = x_grads[i] + first * width;
    A* sums = sums_for<2, Out, A>(out, some * width);
    for (Size e = starts[i]; e < starts[i + 1]; ++e)
      product<S, A>(gemm, down[e] + first * next, false, weights + e * next * width, false, sums, some, next, width,
                    e > starts[i]);
    store_sums(sums, out, some * width);
  });
}

}  // namespace
