// DIN's attention over histories (sequence/din.py), both ways, on jagged values: pairs of a target and an event of its history.
//
// R histories with N events of widths C (the fields that the target has too) and O (others), B targets of width C, P pairs. The
// pairs are ordered by target, and within it by event: those of target b are from pairs[b] to pairs[b + 1]. Layer k = 1 .. L
// gives z_k (P, widths[k - 1]), of which the activation is what layer k + 1 reads; layer L + 1 gives the weight of the pair.
//
// Work is cut into parts, which are whole histories with about as many pairs; threads take one part after another. The parts do
// not depend on the number of threads, and neither do sums over them. Within a part, TILE_PAIRS pairs at a time go through all
// layers, in the cache.

#pragma once

#include <utility>

#include "../../experts/kernels/native/product.hpp"

namespace {

constexpr Size TILE_PAIRS = 256, LEAST_PAIRS = 1024, MOST_PARTS = 64;

enum Kind : Size { DICE, PRELU, SWISH, RELU };

// The activation of layer k: slope (H) of Dice and PReLU. Of Dice alone: mean and rstd (H), and for the backward away and along
// (H), the part of the gradient that flows through the statistics, null where they are constants.
template <class A>
struct Units {
  const A *slope, *mean, *rstd, *away, *along;
};

template <class A>
struct AttentionUnit {
  const A *events, *contexts, *targets;
  const Size *bounds, *owned, *pairs;  // (R + 1), (R + 1), (B + 1): of events by history, of targets by history, of pairs by target
  Size histories, common, other;      // R, C, O
  const A *first, *bias, *target;     // (H1, 2 C + O), (H1), (H1, C)
  const A *const *weights, *const *biases;  // of layers 2 .. L + 1
  const Units<A>* units;
  A* const* z;  // of layers 1 .. L, null where it is not kept
  A* weight;    // (P)
  const Size* widths;
  Size layers, kind, softmax;  // L

  Size whole() const { return common + other; }
  Size inputs() const { return 2 * common + other; }
  Size width(Size k) const { return k > layers ? 1 : widths[k - 1]; }
  Size widest() const { return *std::max_element(widths, widths + layers); }
  Size pairs_before(Size history) const { return pairs[owned[history]]; }

  // Whether target b reads history b alone, so that pair n is of event n.
  bool each_its_own() const {
    for (Size r = 0; r <= histories; ++r)
      if (owned[r] != r) return false;
    return true;
  }
};

// a (n, H) = the activation of x (n, H).
template <class A>
[[gnu::noinline]] void activate(Size kind, const Units<A>& units, const A* x, A* a, Size n, Size width) {
  const A *slope = units.slope, *mean = units.mean, *rstd = units.rstd;
  for (Size r = 0; r < n; ++r) {
    const A* in = x + r * width;
    A* out = a + r * width;
    if (kind == DICE) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A share = sigmoid((in[d] - mean[d]) * rstd[d]);
        out[d] = in[d] * (share + (1 - share) * slope[d]);
      }
    } else if (kind == PRELU) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) out[d] = in[d] > 0 ? in[d] : slope[d] * in[d];
    } else if (kind == SWISH) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) out[d] = in[d] * sigmoid(in[d]);
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) out[d] = in[d] < 0 ? A(0) : in[d];  // NaN passes
    }
  }
}

// grad (n, H): of Dice's result, overwritten by that of x. slope_grad (H) += its gradient.
template <class A, bool flows>
[[gnu::noinline]] void dice_backward(const Units<A>& units, const A* x, A* grad, A* slope_grad, Size n, Size width) {
  const A *slope = units.slope, *mean = units.mean, *rstd = units.rstd, *away = units.away, *along = units.along;
  for (Size r = 0; r < n; ++r) {
    const A* in = x + r * width;
    A* g = grad + r * width;
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A normal = (in[d] - mean[d]) * rstd[d], share = sigmoid(normal), rest = 1 - share;
      const A scaled = g[d] * in[d] * rest;
      slope_grad[d] += scaled;
      A result = g[d] * (share + rest * slope[d]) + rstd[d] * scaled * share * (1 - slope[d]);
      if constexpr (flows) result -= away[d] + along[d] * normal;
      g[d] = result;
    }
  }
}

// The same for any kind of activation; Swish and ReLU leave slope_grad.
template <class A>
inline void activate_backward(Size kind, const Units<A>& units, const A* x, A* grad, A* slope_grad, Size n, Size width) {
  const A* slope = units.slope;
  if (kind == DICE && units.away) return dice_backward<A, true>(units, x, grad, slope_grad, n, width);
  if (kind == DICE) return dice_backward<A, false>(units, x, grad, slope_grad, n, width);
  for (Size r = 0; r < n; ++r) {
    const A* in = x + r * width;
    A* g = grad + r * width;
    if (kind == PRELU) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        slope_grad[d] += in[d] > 0 ? A(0) : g[d] * in[d];
        g[d] *= in[d] > 0 ? A(1) : slope[d];
      }
    } else if (kind == SWISH) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A share = sigmoid(in[d]);
        g[d] *= share * (1 + in[d] * (1 - share));
      }
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) g[d] = in[d] <= 0 ? A(0) : g[d];
    }
  }
}

// inner, outer (H) += sums over samples of the gradient of Dice's normalised x, and of its product with the normalised x.
template <class A>
[[gnu::noinline]] void dice_sums(const Units<A>& units, const A* x, const A* grad, A* inner, A* outer, Size n, Size width) {
  const A *slope = units.slope, *mean = units.mean, *rstd = units.rstd;
  for (Size r = 0; r < n; ++r) {
    const A *in = x + r * width, *g = grad + r * width;
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A normal = (in[d] - mean[d]) * rstd[d], share = sigmoid(normal);
      const A of_normal = g[d] * in[d] * (1 - slope[d]) * share * (1 - share);
      inner[d] += of_normal;
      outer[d] += of_normal * normal;
    }
  }
}

// The moments of rows that come in tiles: their number, mean (H) and the sum of squares around it (H) (Chan et al. 1979).
template <class A>
struct TileMoments {
  A count = 0;
  std::vector<A> mean, squares;
  explicit TileMoments(Size width = 0) : mean(width), squares(width) {}

  void join(A number, const A* of_mean, const A* of_squares) {
    if (number == 0) return;
    const A total = count + number;
    for (size_t d = 0; d < mean.size(); ++d) {
      const A away = of_mean[d] - mean[d];
      mean[d] += away * (number / total);
      squares[d] += of_squares[d] + away * away * (count * number / total);
    }
    count = total;
  }

  void add(const A* x, Size n) {
    const Size width = mean.size();
    std::vector<A> of_tile(2 * width);
    A *sums = of_tile.data(), *around = sums + width;
    for (Size r = 0; r < n; ++r)
#pragma omp simd
      for (Size d = 0; d < width; ++d) sums[d] += x[r * width + d];
    for (Size d = 0; d < width; ++d) sums[d] /= A(n);
    for (Size r = 0; r < n; ++r)
#pragma omp simd
      for (Size d = 0; d < width; ++d) around[d] += (x[r * width + d] - sums[d]) * (x[r * width + d] - sums[d]);
    join(A(n), sums, around);
  }
};

// to (m) += the sum of x (n, m) over n.
template <class A>
inline void add_rows(const A* x, A* to, Size n, Size m) {
  for (Size r = 0; r < n; ++r)
#pragma omp simd
    for (Size d = 0; d < m; ++d) to[d] += x[r * m + d];
}

// Pairs of a target with consecutive events, the first of which is `event`, in a tile from row `row` on.
struct Segment {
  Size target, event, row, count;
  bool opens;  // the target is the first one of its history
};

// Histories from `start` to `end`, and of their targets those from `first` to `last`.
struct Part {
  Size start, end, first, last;
};

// Calls work(first pair, segments, pairs) for each tile of a part.
template <class A, class Work>
inline void each_tile(const AttentionUnit<A>& unit, const Part& part, Work work) {
  std::vector<Segment> segments;
  Size filled = 0, at = unit.pairs[part.first];
  for (Size r = part.start; r < part.end; ++r) {
    for (Size b = std::max(unit.owned[r], part.first); b < std::min(unit.owned[r + 1], part.last); ++b) {
      for (Size event = unit.bounds[r]; event < unit.bounds[r + 1];) {
        const Size some = std::min(unit.bounds[r + 1] - event, TILE_PAIRS - filled);
        segments.push_back({b, event, filled, some, b == unit.owned[r]});
        filled += some;
        event += some;
        if (filled == TILE_PAIRS) {
          work(at, segments, filled);
          at += filled;
          filled = 0;
          segments.clear();
        }
      }
    }
  }
  if (filled) work(at, segments, filled);
}

// x (n, 2 C + O) = [event ; context ; event * target] of each pair.
template <class A>
[[gnu::noinline]] void gather(const AttentionUnit<A>& unit, const std::vector<Segment>& segments, A* x) {
  const Size c = unit.common, o = unit.other, all = unit.inputs();
  for (const Segment& s : segments) {
    const A* q = unit.targets + s.target * c;
    for (Size n = 0; n < s.count; ++n) {
      const A *e = unit.events + (s.event + n) * c, *other = unit.contexts + (s.event + n) * o;
      A* to = x + (s.row + n) * all;
#pragma omp simd
      for (Size d = 0; d < c; ++d) {
        to[d] = e[d];
        to[c + o + d] = e[d] * q[d];
      }
      std::copy(other, other + o, to + c);
    }
  }
}

// x (n, C) = event * target of each pair.
template <class A>
[[gnu::noinline]] void gather_products(const AttentionUnit<A>& unit, const std::vector<Segment>& segments, A* x) {
  const Size c = unit.common;
  for (const Segment& s : segments) {
    const A *q = unit.targets + s.target * c, *e = unit.events + s.event * c;
    A* to = x + s.row * c;
    for (Size n = 0; n < s.count; ++n)
#pragma omp simd
      for (Size d = 0; d < c; ++d) to[n * c + d] = e[n * c + d] * q[d];
  }
}

// to (TILE_PAIRS, H1) = the part of layer 1 that events from `first` on have by themselves, without the bias. Always of so many
// rows, if need be of `room` (TILE_PAIRS, C + O): a BLAS may round a row of fewer otherwise, and a history that many targets
// read has to give the bits of its copies.
template <class A>
inline void of_events(Gemm<A> gemm, const AttentionUnit<A>& unit, Size first, A* room, A* to) {
  const Size c = unit.common, o = unit.other, h = unit.width(1), all = unit.inputs();
  const Size left = unit.bounds[unit.histories] - first;
  const A *events = unit.events + first * c, *contexts = unit.contexts + first * o;
  if (left < TILE_PAIRS) {
    std::fill(std::copy_n(events, left * c, room), room + TILE_PAIRS * c, A(0));
    std::fill(std::copy_n(contexts, left * o, room + TILE_PAIRS * c), room + TILE_PAIRS * unit.whole(), A(0));
    events = room;
    contexts = room + TILE_PAIRS * c;
  }
  product<A, A>(gemm, {events, c}, false, {unit.first, all}, true, {to, h}, TILE_PAIRS, c, h);
  if (o) product<A, A>(gemm, {contexts, o}, false, {unit.first + c, all}, true, {to, h}, TILE_PAIRS, o, h, true);
}

inline Size parts_of(Size pairs) { return std::clamp(pairs / LEAST_PAIRS, Size(1), MOST_PARTS); }

// Calls work(number, part) for all parts, in parallel. Parts are whole histories.
template <class A, class Work>
inline void each_part(const AttentionUnit<A>& unit, Size parts, Work work) {
  const Size all = unit.pairs_before(unit.histories);
  std::vector<Size> cuts(parts + 1);
  for (Size p = 0, r = 0; p < parts; ++p) {
    while (r < unit.histories && unit.pairs_before(r) < all * p / parts) ++r;
    cuts[p] = r;
  }
  cuts[0] = 0;
  cuts[parts] = unit.histories;
  deal(parts, [&](Size p) { work(p, Part{cuts[p], cuts[p + 1], unit.owned[cuts[p]], unit.owned[cuts[p + 1]]}); });
}

// The same with parts of whole targets: a history that many targets read, such as that of a request that is ranked, is worked on
// by several threads.
template <class A, class Work>
inline void each_part_of_targets(const AttentionUnit<A>& unit, Size parts, Work work) {
  const Size all = unit.pairs_before(unit.histories), *owned = unit.owned, *histories_end = owned + unit.histories + 1;
  std::vector<Size> cuts(parts + 1);
  for (Size p = 0, b = 0; p < parts; ++p) {
    while (b < owned[unit.histories] && unit.pairs[b] < all * p / parts) ++b;
    cuts[p] = b;
  }
  cuts[0] = 0;
  cuts[parts] = owned[unit.histories];
  deal(parts, [&](Size p) {
    if (cuts[p] == cuts[p + 1]) return;
    const Size start = std::upper_bound(owned, histories_end, cuts[p]) - owned - 1;
    const Size end = std::lower_bound(owned, histories_end, cuts[p + 1]) - owned;
    work(p, Part{start, end, cuts[p], cuts[p + 1]});
  });
}

// out (B, C + O) = the sums of the histories' events by weight; with softmax, overwrites weights by their softmax first.
template <class A>
inline void pool(const AttentionUnit<A>& unit, A* out, const Part& part) {
  const Size c = unit.common, o = unit.other;
  for (Size r = part.start; r < part.end; ++r) {
    const Size count = unit.bounds[r + 1] - unit.bounds[r];
    for (Size b = std::max(unit.owned[r], part.first); b < std::min(unit.owned[r + 1], part.last); ++b) {
      A *weight = unit.weight + unit.pairs[b], *to = out + b * unit.whole();
      std::fill_n(to, unit.whole(), A(0));
      if (unit.softmax && count) {
        A top = weight[0], sum = 0;
        for (Size n = 1; n < count; ++n) top = weight[n] > top ? weight[n] : top;
#pragma omp simd reduction(+ : sum)
        for (Size n = 0; n < count; ++n) sum += weight[n] = exponential(weight[n] - top);
        for (Size n = 0; n < count; ++n) weight[n] /= sum;
      }
      for (Size n = 0; n < count; ++n) {
        const A factor = weight[n], *e = unit.events + (unit.bounds[r] + n) * c, *other = unit.contexts + (unit.bounds[r] + n) * o;
#pragma omp simd
        for (Size d = 0; d < c; ++d) to[d] += factor * e[d];
#pragma omp simd
        for (Size d = 0; d < o; ++d) to[c + d] += factor * other[d];
      }
    }
  }
}

// Computes layers `from` + 1 .. `to`, of which z_from is there unless it is 0. mean, squares (H): the moments of z_to, unless
// null. With `to` = L + 1: out.
template <class A>
void attend(Gemm<A> gemm, const AttentionUnit<A>& unit, Size from, Size to, A* mean, A* squares, A* out) {
  const Size parts = parts_of(unit.pairs_before(unit.histories)), widest = unit.widest();
  std::vector<TileMoments<A>> moments(parts);
  // Where nothing is kept for a backward, an event's own part of layer 1 is computed once, not for each target that reads it.
  const bool alone = from == 0 && !mean && !unit.z[0], each_its_own = unit.each_its_own();
  const Size h = unit.width(1), c = unit.common, tiles = (unit.bounds[unit.histories] + TILE_PAIRS - 1) / TILE_PAIRS;
  std::vector<A> shared(alone && !each_its_own ? tiles * TILE_PAIRS * h : 0);
  if (!shared.empty())
    deal(tiles, [&](Size n) {
      std::vector<A> room(TILE_PAIRS * unit.whole());
      of_events(gemm, unit, n * TILE_PAIRS, room.data(), shared.data() + n * TILE_PAIRS * h);
    });
  auto work = [&](Size number, const Part& part) {
    std::vector<A> x(TILE_PAIRS * unit.inputs()), near[2], active(TILE_PAIRS * widest), of_targets;
    near[0].resize(TILE_PAIRS * widest);
    near[1].resize(TILE_PAIRS * widest);
    moments[number] = TileMoments<A>(unit.width(to));
    const Size first_target = part.first, targets = part.last - first_target;
    if (from == 0 && targets) {
      of_targets.resize(targets * unit.width(1));
      product(gemm, unit.targets + first_target * unit.common, false, unit.target, true, of_targets.data(), targets, unit.common,
              unit.width(1));
    }
    each_tile(unit, part, [&](Size at, const std::vector<Segment>& segments, Size n) {
      A* z = from ? unit.z[from - 1] + at * unit.width(from) : nullptr;
      for (Size k = from + 1; k <= to; ++k) {
        const Size width = unit.width(k);
        A* next = k > unit.layers ? unit.weight + at : unit.z[k - 1] ? unit.z[k - 1] + at * width : near[k % 2].data();
        if (k == 1) {
          if (alone) {
            if (each_its_own) of_events(gemm, unit, at, x.data(), next);
            for (const Segment& s : segments)
              if (!each_its_own) std::copy_n(shared.data() + s.event * h, s.count * h, next + s.row * h);
            gather_products(unit, segments, x.data());
            product<A, A>(gemm, {x.data(), c}, false, {unit.first + unit.whole(), unit.inputs()}, true, {next, h}, n, c, h, true);
          } else {
            gather(unit, segments, x.data());
            product(gemm, x.data(), false, unit.first, true, next, n, unit.inputs(), width);
          }
          for (const Segment& s : segments) {
            const A* shift = of_targets.data() + (s.target - first_target) * width;
            for (Size r = s.row; r < s.row + s.count; ++r)
#pragma omp simd
              for (Size d = 0; d < width; ++d) next[r * width + d] += shift[d] + unit.bias[d];
          }
        } else {
          const Size below = unit.width(k - 1);
          activate(unit.kind, unit.units[k - 2], z, active.data(), n, below);
          product(gemm, active.data(), false, unit.weights[k - 2], true, next, n, below, width);
          for (Size r = 0; r < n; ++r)
            for (Size d = 0; d < width; ++d) next[r * width + d] += unit.biases[k - 2][d];
        }
        z = next;
      }
      if (mean) moments[number].add(z, n);
    });
    if (out) pool(unit, out, part);
  };
  if (!mean) return each_part_of_targets(unit, parts, work);
  each_part(unit, parts, work);  // sums are over the same parts as ever
  TileMoments<A> all(unit.width(to));
  for (const auto& one : moments) all.join(one.count, one.mean.data(), one.squares.data());
  std::copy(all.mean.begin(), all.mean.end(), mean);
  std::copy(all.squares.begin(), all.squares.end(), squares);
}

// Gradients, all to be added to. weights, biases: of layers 2 .. L + 1; slopes: of layers 1 .. L, null without.
template <class A>
struct AttentionGrads {
  A *first, *bias, *target;
  A *const *weights, *const *biases, *const *slopes;
};

// The sums of the same gradients by part, in the order of `AttentionGrads`, in one vector.
template <class A>
struct PartGrads {
  std::vector<A> values;
  A *first, *bias, *target;
  std::vector<A*> weights, biases, slopes;

  explicit PartGrads(const AttentionUnit<A>& unit) {
    const Size h = unit.width(1);
    Size total = h * (unit.inputs() + 1 + unit.common);
    for (Size k = 1; k <= unit.layers; ++k) total += unit.width(k) * (1 + unit.width(k + 1)) + unit.width(k + 1);
    values.assign(total, A(0));
    A* at = values.data();
    auto take = [&](Size count) { return std::exchange(at, at + count); };
    first = take(h * unit.inputs());
    bias = take(h);
    target = take(h * unit.common);
    for (Size k = 1; k <= unit.layers; ++k) {
      slopes.push_back(take(unit.width(k)));
      weights.push_back(take(unit.width(k) * unit.width(k + 1)));
      biases.push_back(take(unit.width(k + 1)));
    }
  }
};

// The gradient of the weights of a part's pairs from that of its targets' results, (B, C + O).
template <class A>
inline void weight_grads(const AttentionUnit<A>& unit, const A* grad, A* weight_grad, Size start, Size end) {
  const Size c = unit.common, o = unit.other;
  for (Size r = start; r < end; ++r) {
    const Size count = unit.bounds[r + 1] - unit.bounds[r];
    for (Size b = unit.owned[r]; b < unit.owned[r + 1]; ++b) {
      const A *of = grad + b * unit.whole(), *weight = unit.weight + unit.pairs[b];
      A* to = weight_grad + unit.pairs[b];
      for (Size n = 0; n < count; ++n)
        to[n] = dot(of, unit.events + (unit.bounds[r] + n) * c, c) + dot(of + c, unit.contexts + (unit.bounds[r] + n) * o, o);
      if (!unit.softmax) continue;
      const A mean = dot(weight, to, count);
      for (Size n = 0; n < count; ++n) to[n] = weight[n] * (to[n] - mean);
    }
  }
}

// One step of the backward: from the top to the activation of layer `down` (0: to the inputs). Adds the gradients of layers
// `down` + 1 .. `up`. With `up` = L + 1 it computes weight_grad (P) first. inner, outer (H): `dice_sums` of layer `down`, unless
// null. With `down` = 0 it writes event_grad (N, C), context_grad (N, O) and target_grad (B, C).
template <class A>
void attend_backward(Gemm<A> gemm, const AttentionUnit<A>& unit, const A* grad, A* weight_grad, Size down, Size up,
                     const AttentionGrads<A>& grads, A* inner, A* outer, A* event_grad, A* context_grad, A* target_grad) {
  const Size parts = parts_of(unit.pairs_before(unit.histories)), widest = unit.widest(), layers = unit.layers;
  const Size c = unit.common, o = unit.other, all = unit.inputs(), h = unit.width(1), low = unit.width(std::max(down, Size(1)));
  std::vector<PartGrads<A>> sums;
  sums.reserve(parts);
  for (Size p = 0; p < parts; ++p) sums.emplace_back(unit);
  std::vector<std::vector<A>> of_norm(parts);
  each_part(unit, parts, [&](Size number, const Part& part) {
    const Size start = part.start, end = part.end;
    PartGrads<A>& own = sums[number];
    std::vector<A> x(TILE_PAIRS * all), x_grad(TILE_PAIRS * all), active(TILE_PAIRS * widest), near[2];
    near[0].resize(TILE_PAIRS * widest);
    near[1].resize(TILE_PAIRS * widest);
    std::vector<A> unwanted(widest);
    of_norm[number].assign(2 * low, A(0));
    const Size first_target = part.first, targets = part.last - first_target;
    std::vector<A> of_targets(down ? 0 : targets * h);
    if (up > layers) weight_grads(unit, grad, weight_grad, start, end);
    if (!down) {
      std::fill_n(target_grad + first_target * c, targets * c, A(0));
      for (Size r = start; r < end; ++r) {
        if (unit.owned[r] < unit.owned[r + 1]) continue;  // no target reads it, so that no pair writes its gradient
        const Size first = unit.bounds[r], count = unit.bounds[r + 1] - first;
        std::fill_n(event_grad + first * c, count * c, A(0));
        std::fill_n(context_grad + first * o, count * o, A(0));
      }
    }
    each_tile(unit, part, [&](Size at, const std::vector<Segment>& segments, Size n) {
      const A* z = unit.z[layers - 1] + at * unit.width(layers);
      if (up > layers) {
        activate(unit.kind, unit.units[layers - 1], z, active.data(), n, unit.width(layers));
        product(gemm, weight_grad + at, true, active.data(), false, own.weights[layers - 1], 1, n, unit.width(layers), true);
        add_rows(weight_grad + at, own.biases[layers - 1], n, 1);
      }
      A* g = near[layers % 2].data();
      for (Size r = 0; r < n; ++r)
#pragma omp simd
        for (Size d = 0; d < unit.width(layers); ++d) g[r * unit.width(layers) + d] = weight_grad[at + r] * unit.weights[layers - 1][d];
      for (Size k = layers; k > down; --k) {
        const Size width = unit.width(k);
        z = unit.z[k - 1] + at * width;
        activate_backward(unit.kind, unit.units[k - 1], z, g, k <= up ? own.slopes[k - 1] : unwanted.data(), n, width);
        if (k == 1) break;
        const Size below = unit.width(k - 1);
        if (k <= up) {
          activate(unit.kind, unit.units[k - 2], unit.z[k - 2] + at * below, active.data(), n, below);
          product(gemm, g, true, active.data(), false, own.weights[k - 2], width, n, below, true);
          add_rows(g, own.biases[k - 2], n, width);
        }
        A* next = near[(k - 1) % 2].data();
        product(gemm, g, false, unit.weights[k - 2], false, next, n, width, below);
        g = next;
      }
      if (down) {
        if (inner) dice_sums(unit.units[down - 1], unit.z[down - 1] + at * low, g, of_norm[number].data(), of_norm[number].data() + low, n, low);
        return;
      }
      gather(unit, segments, x.data());
      product(gemm, g, true, x.data(), false, own.first, h, n, all, true);
      product(gemm, g, false, unit.first, false, x_grad.data(), n, h, all);
      for (const Segment& s : segments) {
        const A *q = unit.targets + s.target * c, *of = grad + s.target * unit.whole();
        A* q_grad = target_grad + s.target * c;
        add_rows(g + s.row * h, of_targets.data() + (s.target - first_target) * h, s.count, h);
        for (Size i = 0; i < s.count; ++i) {
          const A *from = x_grad.data() + (s.row + i) * all, *e = unit.events + (s.event + i) * c, weight = unit.weight[at + s.row + i];
          A *e_grad = event_grad + (s.event + i) * c, *o_grad = context_grad + (s.event + i) * o;
          if (s.opens) {
            std::fill_n(e_grad, c, A(0));
            std::fill_n(o_grad, o, A(0));
          }
#pragma omp simd
          for (Size d = 0; d < c; ++d) {
            e_grad[d] += from[d] + from[c + o + d] * q[d] + weight * of[d];
            q_grad[d] += from[c + o + d] * e[d];
          }
#pragma omp simd
          for (Size d = 0; d < o; ++d) o_grad[d] += from[c + d] + weight * of[c + d];
        }
      }
    });
    if (!down && targets) {
      product(gemm, of_targets.data(), false, unit.target, false, target_grad + first_target * c, targets, h, c, true);
      product(gemm, of_targets.data(), true, unit.targets + first_target * c, false, own.target, h, targets, c, true);
      add_rows(of_targets.data(), own.bias, targets, h);
    }
  });
  auto add = [](const A* from, A* to, Size count) {
    if (to)
      for (Size d = 0; d < count; ++d) to[d] += from[d];
  };
  for (const auto& own : sums) {
    if (!down) {
      add(own.first, grads.first, h * all);
      add(own.bias, grads.bias, h);
      add(own.target, grads.target, h * c);
    }
    for (Size k = down + 1; k <= up; ++k) {
      if (k <= layers) add(own.slopes[k - 1], grads.slopes[k - 1], unit.width(k));
      if (k > 1) add(own.weights[k - 2], grads.weights[k - 2], unit.width(k - 1) * unit.width(k));
      if (k > 1) add(own.biases[k - 2], grads.biases[k - 2], unit.width(k));
    }
  }
  if (!inner) return;
  for (const auto& one : of_norm) {
    add(one.data(), inner, low);
    add(one.data() + low, outer, low);
  }
}

}  // namespace
