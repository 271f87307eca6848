// The library's C functions for one type of activations, documented in the headers: FP32, FP64 or BF16 says which. One library
// for all three would take three times as long to compile, and a run calls one of them, or two.

#include "bank.hpp"
#include "feature_gate.hpp"
#include "gate_weights.hpp"
#include "layers.hpp"
#include "mixture.hpp"
#include "sparse.hpp"

#define DROPOUT Dropout{uint32_t(first), uint32_t(second), uint32_t(threshold), factor}

#define PASSES(NAME, S, A)                                                                                                    \
  extern "C" {                                                                                                                \
  void bias_relu_##NAME(S* x, const A* bias, Size m, Size b, Size c) {                                                        \
    for (Size e = 0; e < m; ++e) bias_relu(x + e * b * c, bias + e * c, x + e * b * c, b, c);                                 \
  }                                                                                                                           \
  void relu_backward_##NAME(S* x, const S* grad, A* sums, Size m, Size b, Size c) {                                           \
    for (Size e = 0; e < m; ++e) relu_backward(x + e * b * c, grad + e * b * c, sums + e * c, b, c);                          \
  }                                                                                                                           \
  void moments_##NAME(const S* y, const A* mask, A* mean, A* squares, Size m, Size b, Size d) {                               \
    moments(y, mask, mean, squares, m, b, d);                                                                                 \
  }                                                                                                                           \
  void mix_##NAME(const S* y, const A* scale, const A* shift, const A* gates, Size gk, Size gb, A* out, Size first,           \
                  Size second, Size threshold, double factor, Size k, Size e, Size b, Size d) {                               \
    mix(y, scale, shift, gates, gk, gb, out, DROPOUT, k, e, b, d);                                                            \
  }                                                                                                                           \
  void mix_sums_##NAME(const A* grad, const S* y, const A* scale, const A* shift, const A* mean, const A* rstd,               \
                       const A* gates, Size gk, Size gb, A* gate_grad, A* shift_grad, A* scale_grad, Size first,              \
                       Size second, Size threshold, double factor, Size k, Size e, Size b, Size d) {                          \
    mix_sums(grad, y, scale, shift, mean, rstd, gates, gk, gb, gate_grad, shift_grad, scale_grad, DROPOUT, k, e, b, d);       \
  }                                                                                                                           \
  void mix_inner_##NAME(const A* grad, S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* away,     \
                        const A* along, const A* mask, const A* gates, Size gk, Size gb, Size first, Size second,             \
                        Size threshold, double factor, Size k, Size e, Size b, Size d) {                                      \
    mix_inner(grad, y, scale, shift, mean, rstd, away, along, mask, gates, gk, gb, DROPOUT, k, e, b, d);                      \
  }                                                                                                                           \
  void gate_weights_##NAME(const A* scores, Size sk, Size sb, const Size* places, const Size* alone, A* out, Size main,       \
                           Size k, Size b, Size s, Size e) {                                                                  \
    gate_weights(scores, sk, sb, places, alone, out, main, k, b, s, e);                                                       \
  }                                                                                                                           \
  void gate_weights_backward_##NAME(const A* grad, const A* scores, Size sk, Size sb, const Size* places, const Size* alone,  \
                                    A* score_grad, Size main, Size k, Size b, Size s, Size e) {                               \
    gate_weights_backward(grad, scores, sk, sb, places, alone, score_grad, main, k, b, s, e);                                 \
  }                                                                                                                           \
  }

#define PAIRS(NAME, S, A)                                                                                                     \
  extern "C" {                                                                                                                \
  void sum_pairs_##NAME(const S* parts, A* out, const Size* starts, const Size* pairs, Size b, Size f) {                      \
    sum_pairs(parts, out, starts, pairs, b, f);                                                                               \
  }                                                                                                                           \
  void pairs_moments_##NAME(const S* y, const A* mask, A* mean, A* squares, A* count, const Size* offsets,                    \
                            const Size* samples, Size e, Size d) {                                                            \
    pairs_moments(y, mask, mean, squares, count, offsets, samples, e, d);                                                     \
  }                                                                                                                           \
  void mix_pairs_##NAME(const S* y, const A* scale, const A* shift, const A* gates, A* out, const Size* offsets,              \
                        const Size* starts, const Size* pairs, const int32_t* places, Size first, Size second,                \
                        Size threshold, double factor, Size k, Size m, Size e, Size b, Size d) {                              \
    mix_pairs(y, scale, shift, gates, out, offsets, starts, pairs, places, DROPOUT, k, m, e, b, d);                           \
  }                                                                                                                           \
  void mix_pairs_backward_##NAME(const A* grad, const S* y, const A* scale, const A* shift, const A* gates, A* gate_grad,     \
                                 A* inner, const Size* offsets, const Size* starts, const Size* pairs,                        \
                                 const int32_t* places, Size first, Size second, Size threshold, double factor, Size k,       \
                                 Size m, Size e, Size b, Size d) {                                                            \
    mix_pairs_backward(grad, y, scale, shift, gates, gate_grad, inner, offsets, starts, pairs, places, DROPOUT, k, m, e, b,   \
                       d);                                                                                                    \
  }                                                                                                                           \
  void pairs_sums_##NAME(const A* inner, const S* y, const A* mean, const A* rstd, A* shift_grad, A* scale_grad,              \
                         const Size* offsets, Size e, Size d) {                                                               \
    pairs_sums(inner, y, mean, rstd, shift_grad, scale_grad, offsets, e, d);                                                  \
  }                                                                                                                           \
  void pairs_inner_##NAME(const A* inner, S* y, const A* scale, const A* mean, const A* rstd, const A* away, const A* along,  \
                          const A* mask, const Size* offsets, const Size* samples, Size e, Size d) {                          \
    pairs_inner(inner, y, scale, mean, rstd, away, along, mask, offsets, samples, e, d);                                      \
  }                                                                                                                           \
  }

#define BANK(NAME, S, A)                                                                                                      \
  extern "C" {                                                                                                                \
  void products_##NAME(Gemm<A, S> gemm, const S* const* a, Size a_row, Size a_t, const S* const* b, Size b_row, Size b_t,     \
                       A* const* c, Size c_row, Size add, Size g, Size n, Size k, Size m) {                                   \
    products(gemm, a, a_row, a_t != 0, b, b_row, b_t != 0, c, c_row, add != 0, g, n, k, m);                                   \
  }                                                                                                                           \
  void bank_##NAME(Gemm<A, S> gemm, const S* const* x, const S* const* weights, const A* const* biases, S* const* hidden,     \
                   S* const* y, const A* mask, A* mean, A* squares, const Size* widths, Size layers, Size e, Size b) {        \
    bank(gemm, x, weights, biases, hidden, y, mask, mean, squares, widths, layers, e, b);                                     \
  }                                                                                                                           \
  void bank_backward_##NAME(Gemm<A, S> gemm, const S* const* y, const S* const* weights, S* const* hidden,                    \
                            A* const* weight_grads, A* const* bias_grads, const Size* widths, Size layers, Size e, Size b) {  \
    bank_backward(gemm, y, weights, hidden, weight_grads, bias_grads, widths, layers, e, b);                                  \
  }                                                                                                                           \
  void bank_inputs_##NAME(Gemm<A, S> gemm, const S* const* down, const S* const* x, const S* weights, A* weight_grads,        \
                          A* const* x_grads, const Size* starts, Size inputs, Size f, Size h, Size e, Size b) {               \
    bank_inputs(gemm, down, x, weights, weight_grads, x_grads, starts, inputs, f, h, e, b);                                   \
  }                                                                                                                           \
  void sparse_bank_##NAME(Gemm<A, S> gemm, const S* x, const S* const* weights, const A* const* biases, S* const* hidden, S* y,\
                          const Size* offsets, const Size* samples, const Size* widths, Size layers, Size e) {                \
    sparse_bank(gemm, x, weights, biases, hidden, y, offsets, samples, widths, layers, e);                                    \
  }                                                                                                                           \
  void sparse_bank_backward_##NAME(Gemm<A, S> gemm, const S* x, const S* y, const S* const* weights, S* const* hidden,        \
                                   A* const* weight_grads, A* const* bias_grads, S* x_grad, const Size* offsets,              \
                                   const Size* samples, const Size* widths, Size layers, Size e) {                            \
    sparse_bank_backward(gemm, x, y, weights, hidden, weight_grads, bias_grads, x_grad, offsets, samples, widths, layers, e); \
  }                                                                                                                           \
  void feature_gates_##NAME(Gemm<A, S> gemm, const S* x, const S* low, const S* up, const A* share, S* out, Size chunk,       \
                            Size x_step, Size inside, Size g, Size l, Size r, Size b, Size f) {                               \
    feature_gates(gemm, x, low, up, share, out, chunk, GateSizes{x_step, inside, g, l, r, b, f});                             \
  }                                                                                                                           \
  void feature_gates_backward_##NAME(Gemm<A, S> gemm, const S* grad, const S* x, const S* low, const S* up, const A* share,   \
                                     A* share_grad, A* low_grad, A* x_grad, A* up_grad, Size chunk, Size parts,               \
                                     Size x_step, Size inside, Size g, Size l, Size r, Size b, Size f) {                      \
    feature_gates_backward(gemm, grad, x, low, up, share, share_grad, low_grad, x_grad, up_grad, chunk, parts,                \
                           GateSizes{x_step, inside, g, l, r, b, f});                                                         \
  }                                                                                                                           \
  }

// For types that inputs have.
#define INPUTS(NAME, A)                                                                                                       \
  extern "C" {                                                                                                                \
  void drop_##NAME(const A* x, A* out, Size first, Size second, Size threshold, double factor, Size b, Size f) {              \
    drop(x, out, DROPOUT, b, f);                                                                                              \
  }                                                                                                                           \
  }

#ifdef BF16
// The gradient of inputs that are bf16 themselves.
extern "C" void bank_inputs_stored_bf16(Gemm<float, bf16> gemm, const bf16* const* down, const bf16* const* x,
                                        const bf16* weights, float* weight_grads, bf16* const* x_grads, const Size* starts,
                                        Size inputs, Size f, Size h, Size e, Size b) {
  bank_inputs(gemm, down, x, weights, weight_grads, x_grads, starts, inputs, f, h, e, b);
}
BANK(bf16, bf16, float)
PASSES(bf16, bf16, float)
PAIRS(bf16, bf16, float)
#endif

#ifdef FP64
BANK(fp64, double, double)
INPUTS(fp64, double)
PASSES(fp64, double, double)
PAIRS(fp64, double, double)
#endif

#ifdef FP32
BANK(fp32, float, float)
INPUTS(fp32, float)
PASSES(fp32, float, float)
PAIRS(fp32, float, float)

extern "C" void choose_fp32(const Size* chosen, Size* offsets, Size* starts, Size* pairs, Size* samples, int32_t* places, Size k,
                            Size b, Size m, Size e) {
  choose(chosen, offsets, starts, pairs, samples, places, k, b, m, e);
}
#endif
