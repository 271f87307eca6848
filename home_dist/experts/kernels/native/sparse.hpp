// A bank of which each sample uses few experts. Pairs (sample, expert) stand in the order of experts, and of samples within one
// expert; what belongs to pairs, such as activations, is (P, width). offsets (E + 1): where each expert's pairs begin.
//
// A task k mixes M experts of a sample; tasks may share them. `slots` of a sample are its K M choices, in the order of tasks.

#pragma once

#include <numeric>

#include "dropout.hpp"
#include "layers.hpp"
#include "mixture.hpp"
#include "product.hpp"

namespace {

// Rows of an expert that a thread computes at a time, all layers of them.
constexpr Size SOME = 512;

// Finds the distinct pairs of chosen (K, B, M). starts (B + 1): where each sample's pairs begin in pairs (B K M at most), which
// holds their numbers; samples: each pair's sample; places (B, K M): a slot's pair, counted within its sample. starts[B] is the
// number of pairs, or -1 if an expert is out of range.
inline void choose(const Size* chosen, Size* offsets, Size* starts, Size* pairs, Size* samples, int32_t* places, Size gates,
                   Size rows, Size slots, Size experts) {
  std::vector<Size> seen(experts, -1), local(experts);
  std::fill_n(offsets, experts + 1, 0);
  Size count = 0;
  for (Size b = 0; b < rows; ++b) {
    starts[b] = count;
    for (Size k = 0; k < gates; ++k)
      for (Size m = 0; m < slots; ++m) {
        const Size e = chosen[(k * rows + b) * slots + m];
        if (e < 0 || e >= experts) {
          starts[rows] = -1;
          return;
        }
        if (seen[e] != b) {
          seen[e] = b;
          local[e] = count - starts[b];
          pairs[count++] = e;
          ++offsets[e + 1];
        }
        places[(b * gates + k) * slots + m] = int32_t(local[e]);
      }
  }
  starts[rows] = count;
  std::partial_sum(offsets, offsets + experts + 1, offsets);
  std::vector<Size> next(offsets, offsets + experts);
  for (Size b = 0; b < rows; ++b)
    for (Size i = starts[b]; i < starts[b + 1]; ++i) {
      const Size pair = next[pairs[i]]++;
      samples[pair] = b;
      pairs[i] = pair;
    }
}

// Calls work(e, first, last) for at most `some` pairs of an expert at a time. Threads share experts, large ones first; an expert
// with more pairs than a thread's share is left to all threads together, one piece after another.
template <class Work>
inline void deal_pairs(const Size* offsets, Size experts, Size some, Work work) {
  const Size threads = omp_get_max_threads(), share = (offsets[experts] + threads - 1) / threads;
  struct Piece {
    Size expert, first, last;
  };
  std::vector<Piece> alone, together;
  for (Size e = 0; e < experts; ++e) {
    const Size begin = offsets[e], end = offsets[e + 1], step = some ? some : std::max(end - begin, Size(1));
    const bool large = threads > 1 && std::min(end - begin, step) >= share;
    if (begin == end) alone.push_back({e, begin, end});
    for (Size first = begin; first < end; first += step)
      (large ? together : alone).push_back({e, first, std::min(first + step, end)});
  }
  std::stable_sort(alone.begin(), alone.end(), [](const Piece& a, const Piece& b) { return a.last - a.first > b.last - b.first; });
  deal(alone.size(), [&](Size i) { work(alone[i].expert, alone[i].first, alone[i].last); });
  for (const Piece& piece : together) work(piece.expert, piece.first, piece.last);
}

template <class S>
inline void gather(const S* x, const Size* samples, S* out, Size count, Size width) {
  for (Size i = 0; i < count; ++i) std::copy_n(x + samples[i] * width, width, out + i * width);
}

// y (P, D) = the last layer's outputs without bias, of x (B, F). hidden[l] (P, widths[l + 1]): the activations for the backward;
// not kept if hidden is null.
template <class S, class A>
void sparse_bank(Gemm<A, S> gemm, const S* x, const S* const* weights, const A* const* biases, S* const* hidden, S* y,
                 const Size* offsets, const Size* samples, const Size* widths, Size layers, Size experts) {
  deal_pairs(offsets, experts, SOME, [&](Size e, Size first, Size last) {
    const Size rows = last - first;
    if (!rows) return;
    std::vector<S> gathered(rows * widths[0]), kept[2];
    gather(x, samples + first, gathered.data(), rows, widths[0]);
    const S* in = gathered.data();
    for (Size l = 0; l < layers; ++l) {
      const Size width = widths[l], next = widths[l + 1];
      const bool is_last = l == layers - 1;
      S* out = is_last ? y + first * next : hidden ? hidden[l] + first * next : nullptr;
      if (!out) {
        kept[l % 2].resize(rows * next);
        out = kept[l % 2].data();
      }
      layer<S, A>(gemm, in, weights[l] + e * next * width, is_last ? nullptr : biases[l] + e * next, out, rows, width, next);
      in = out;
    }
  });
}

// The backward of all layers. y (P, D): its gradient. Overwrites the hidden activations with their gradients. weight_grads[l]
// (E, out, in); bias_grads[l] (E, out) for l < layers - 1; x_grad (P, F): each pair's part of the input's gradient, unless null.
template <class S, class A>
void sparse_bank_backward(Gemm<A, S> gemm, const S* x, const S* y, const S* const* weights, S* const* hidden,
                          A* const* weight_grads, A* const* bias_grads, S* x_grad, const Size* offsets, const Size* samples,
                          const Size* widths, Size layers, Size experts) {
  const Size widest = *std::max_element(widths + 1, widths + layers + 1);
  deal_pairs(offsets, experts, 0, [&](Size e, Size first, Size last) {
    const Size rows = last - first;
    if (!rows) {
      for (Size l = 0; l < layers; ++l) {
        std::fill_n(weight_grads[l] + e * widths[l + 1] * widths[l], widths[l + 1] * widths[l], A(0));
        if (l < layers - 1) std::fill_n(bias_grads[l] + e * widths[l + 1], widths[l + 1], A(0));
      }
      return;
    }
    std::vector<A> grad(layers > 1 ? std::min(rows, SOME) * widest : 0);
    const S* down = y + first * widths[layers];
    for (Size l = layers - 1; l > 0; --l) {
      const Size width = widths[l], next = widths[l + 1];
      S* below = hidden[l - 1] + first * width;
      A* sums = bias_grads[l - 1] + e * width;
      product<S, A>(gemm, down, true, below, false, weight_grads[l] + e * next * width, next, rows, width);
      std::vector<A> part(width);
      std::fill_n(sums, width, A(0));
      for (Size at = 0; at < rows; at += SOME) {
        const Size some = std::min(SOME, rows - at);
        product<S, A>(gemm, down + at * next, false, weights[l] + e * next * width, false, grad.data(), some, next, width);
        relu_backward(below + at * width, grad.data(), part.data(), some, width);
        for (Size d = 0; d < width; ++d) sums[d] += part[d];
      }
      down = below;
    }
    const Size width = widths[0], next = widths[1];
    std::vector<S> gathered(rows * width);
    gather(x, samples + first, gathered.data(), rows, width);
    product<S, A>(gemm, down, true, gathered.data(), false, weight_grads[0] + e * next * width, next, rows, width);
    const Size step = std::is_same_v<S, A> ? rows : SOME;
    for (Size at = 0; x_grad && at < rows; at += step) {
      const Size some = std::min(step, rows - at);
      S* out = x_grad + (first + at) * width;
      A* sums = sums_for<2, S, A>(out, some * width);
      product<S, A>(gemm, down + at * next, false, weights[0] + e * next * width, false, sums, some, next, width);
      store_sums(sums, out, some * width);
    }
  });
}

// out (B, F) = the sum of each sample's pairs of parts (P, F).
template <class S, class A>
void sum_pairs(const S* parts, A* out, const Size* starts, const Size* pairs, Size rows, Size width) {
  deal_pieces(rows, ROWS, [&](Size first, Size last) {
    for (Size b = first; b < last; ++b) {
      A* to = out + b * width;
      std::fill_n(to, width, A(0));
      for (Size i = starts[b]; i < starts[b + 1]; ++i) {
        const S* part = parts + pairs[i] * width;
#pragma omp simd
        for (Size f = 0; f < width; ++f) to[f] += load(part[f]);
      }
    }
  });
}

// Each expert's mean of y (P, D), the sum of squares around it, both (E, D), and the number of its samples, count (E). mask (B):
// the samples' weights, 1 if null.
template <class S, class A>
void pairs_moments(const S* y, const A* mask, A* mean, A* squares, A* count, const Size* offsets, const Size* samples,
                   Size experts, Size width) {
  deal_pairs(offsets, experts, 0, [&](Size e, Size first, Size last) {
    const Size rows = last - first;
    std::vector<A> of_pairs(mask ? rows : 0);
    for (Size i = 0; i < Size(of_pairs.size()); ++i) of_pairs[i] = mask[samples[first + i]];
    const A* weights = mask ? of_pairs.data() : nullptr;
    moments(y + first * width, weights, mean + e * width, squares + e * width, 1, rows, width);
    count[e] = weights ? std::accumulate(weights, weights + rows, A(0)) : A(rows);
  });
}

// The expert of each of a sample's pairs, as `offsets` tells it.
inline Size expert_of(const Size* offsets, Size experts, Size pair) {
  return std::upper_bound(offsets, offsets + experts + 1, pair) - offsets - 1;
}

// out (K, B, D) = sum over m of gates[k, b, m] * dropout(activation(y of the slot's pair)). gates (K, B, M).
template <class S, class A>
void mix_pairs(const S* y, const A* scale, const A* shift, const A* gates, A* out, const Size* offsets, const Size* starts,
               const Size* pairs, const int32_t* places, Dropout dropout, Size gate_count, Size slots, Size experts, Size rows,
               Size width) {
  deal_pieces(rows, ROWS, [&](Size begin, Size stop) {
    std::vector<A> active(gate_count * slots * width), kept(width);
    for (Size b = begin; b < stop; ++b) {
      for (Size i = starts[b]; i < starts[b + 1]; ++i) {
        const Size pair = pairs[i], e = expert_of(offsets, experts, pair);
        A* to = active.data() + (i - starts[b]) * width;
        activate(y + pair * width, scale ? scale + e * width : nullptr, shift + e * width, to, width);
        if (dropout.threshold) {
          factors(dropout, (e * rows + b) * width, kept.data(), width);
          scale_by(kept.data(), to, width);
        }
      }
      for (Size k = 0; k < gate_count; ++k) {
        A* to = out + (k * rows + b) * width;
        std::fill_n(to, width, A(0));
        for (Size m = 0; m < slots; ++m) {
          const A gate = gates[(k * rows + b) * slots + m];
          const A* from = active.data() + places[(b * gate_count + k) * slots + m] * width;
#pragma omp simd
          for (Size d = 0; d < width; ++d) to[d] += gate * from[d];
        }
      }
    }
  });
}

// The backward of `mix_pairs`. grad (K, B, D). gate_grad (K, B, M); inner (P, D) = the gradient of the activation's argument.
template <class S, class A>
void mix_pairs_backward(const A* grad, const S* y, const A* scale, const A* shift, const A* gates, A* gate_grad, A* inner,
                        const Size* offsets, const Size* starts, const Size* pairs, const int32_t* places, Dropout dropout,
                        Size gate_count, Size slots, Size experts, Size rows, Size width) {
  deal_pieces(rows, ROWS, [&](Size begin, Size stop) {
    const Size most = gate_count * slots;
    std::vector<A> active(most * width), kept(width);
    for (Size b = begin; b < stop; ++b) {
      const Size count = starts[b + 1] - starts[b];
      for (Size i = 0; i < count; ++i) std::fill_n(inner + pairs[starts[b] + i] * width, width, A(0));
      for (Size k = 0; k < gate_count; ++k)
        for (Size m = 0; m < slots; ++m) {
          const A gate = gates[(k * rows + b) * slots + m];
          const A* from = grad + (k * rows + b) * width;
          A* to = inner + pairs[starts[b] + places[(b * gate_count + k) * slots + m]] * width;
#pragma omp simd
          for (Size d = 0; d < width; ++d) to[d] += gate * from[d];
        }
      for (Size i = 0; i < count; ++i) {
        const Size pair = pairs[starts[b] + i], e = expert_of(offsets, experts, pair);
        const A* scales = scale ? scale + e * width : nullptr;
        A *to = active.data() + i * width, *into = inner + pair * width;
        activate_and_derive(y + pair * width, scales, shift + e * width, to, into, width);
        if (dropout.threshold) {
          factors(dropout, (e * rows + b) * width, kept.data(), width);
          scale_by(kept.data(), to, width);
          scale_by(kept.data(), into, width);
        }
      }
      for (Size k = 0; k < gate_count; ++k)
        for (Size m = 0; m < slots; ++m) {
          const A* from = active.data() + places[(b * gate_count + k) * slots + m] * width;
          gate_grad[(k * rows + b) * slots + m] = dot(grad + (k * rows + b) * width, from, width);
        }
    }
  });
}

// shift_grad (E, D) = each expert's sum of inner (P, D); scale_grad (E, D), unless null, that of inner times the normalised y.
template <class S, class A>
void pairs_sums(const A* inner, const S* y, const A* mean, const A* rstd, A* shift_grad, A* scale_grad, const Size* offsets,
                Size experts, Size width) {
  deal_pairs(offsets, experts, 0, [&](Size e, Size first, Size last) {
    A *shift = shift_grad + e * width, *scale = scale_grad ? scale_grad + e * width : nullptr;
    std::fill_n(shift, width, A(0));
    if (scale) std::fill_n(scale, width, A(0));
    for (Size i = first; i < last; ++i) {
      const A* from = inner + i * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) shift[d] += from[d];
      if (!scale) continue;
      const S* row = y + i * width;
      const A *center = mean + e * width, *per = rstd + e * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) scale[d] += from[d] * (load(row[d]) - center[d]) * per[d];
    }
  });
}

// y (P, D) = its gradient: inner times scale, less what flows through the batch statistics, away + along times the normalised y
// (E, D), where mask (B) counts the sample in them.
template <class S, class A>
void pairs_inner(const A* inner, S* y, const A* scale, const A* mean, const A* rstd, const A* away, const A* along, const A* mask,
                 const Size* offsets, const Size* samples, Size experts, Size width) {
  deal_pairs(offsets, experts, SOME, [&](Size e, Size first, Size last) {
    const Size at = e * width;
    for (Size i = first; i < last; ++i) {
      const A* from = inner + i * width;
      S* row = y + i * width;
      const A counts = away ? (mask ? mask[samples[i]] : A(1)) : A(0);
      if (!scale) {
#pragma omp simd
        for (Size d = 0; d < width; ++d) store(row[d], from[d]);
      } else if (!away) {
#pragma omp simd
        for (Size d = 0; d < width; ++d) store(row[d], from[d] * scale[at + d]);
      } else {
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
          const A normalised = (load(row[d]) - mean[at + d]) * rstd[at + d];
          store(row[d], from[d] * scale[at + d] - counts * (away[at + d] + along[at + d] * normalised));
        }
      }
    }
  });
}

}  // namespace
