// The C functions of attention_unit.hpp for fp32 and fp64.

#include "attention_unit.hpp"

// units: slope, mean, rstd, away, along of each layer.
#define UNIT(A)                                                                                                               \
  std::vector<Units<A>> of_layers(layers);                                                                                    \
  for (Size k = 0; k < layers; ++k)                                                                                           \
    of_layers[k] = {units[5 * k], units[5 * k + 1], units[5 * k + 2], units[5 * k + 3], units[5 * k + 4]};                    \
  const AttentionUnit<A> unit{events,  contexts, targets,  bounds,  owned,  pairs,  histories, common, other, first,          \
                              bias,    target,   weights,  biases,  of_layers.data(), z,       weight, widths, layers, kind,  \
                              softmax};

#define OPERANDS(A)                                                                                                           \
  const A *events, const A *contexts, const A *targets, const Size *bounds, const Size *owned, const Size *pairs,             \
      Size histories, Size common, Size other, const A *first, const A *bias, const A *target, const A *const *weights,       \
      const A *const *biases, const A *const *units, A *const *z, A *weight, const Size *widths, Size layers, Size kind,      \
      Size softmax

#define ATTENTION(NAME, A)                                                                                                    \
  extern "C" {                                                                                                                \
  void attend_##NAME(Gemm<A> gemm, OPERANDS(A), Size from, Size to, A* mean, A* squares, A* out) {                            \
    UNIT(A) attend(gemm, unit, from, to, mean, squares, out);                                                                 \
  }                                                                                                                           \
  void attend_backward_##NAME(Gemm<A> gemm, OPERANDS(A), const A* grad, A* weight_grad, Size down, Size up, A* first_grad,    \
                              A* bias_grad, A* target_weight_grad, A* const* weight_grads, A* const* bias_grads,              \
                              A* const* slope_grads, A* inner, A* outer, A* event_grad, A* context_grad, A* target_grad) {    \
    const AttentionGrads<A> grads{first_grad, bias_grad, target_weight_grad, weight_grads, bias_grads, slope_grads};          \
    UNIT(A) attend_backward(gemm, unit, grad, weight_grad, down, up, grads, inner, outer, event_grad, context_grad,           \
                            target_grad);                                                                                     \
  }                                                                                                                           \
  }

#ifdef FP64
ATTENTION(fp64, double)
#endif

#ifdef FP32
ATTENTION(fp32, float)
#endif
