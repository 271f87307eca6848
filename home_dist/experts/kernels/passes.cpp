// The pointwise passes around the matrix products of expert banks and feature gates, each one reading its tensors once.
//
// Plain C++ behind a C interface, without headers of torch: it compiles in seconds. Letters as in the README: B samples, E
// experts, K gates, D width, F features, L low-rank gates. All tensors are contiguous unless a stride is passed. S is the type
// that activations are stored in, A the one that everything is computed, summed and passed in: fp32 for fp32 and bf16, fp64 for
// fp64.
//
// Sums run over fixed blocks of samples that are joined in order, so that results do not depend on the number of threads.
// Comparisons are written such that NaN passes through them.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

using Size = int64_t;
constexpr Size ROWS = 64;  // samples in a block

struct bf16 {
  uint16_t bits;
};

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }
inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bf16& to, float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  to.bits = uint16_t(x == x ? rounded : (bits >> 16) | 0x40);
}

// exp with a relative error of 1e-7, written without branches so that the compiler makes vectors of it.
inline float exponential(float argument) {
  float x = argument < -87.0f ? -87.0f : argument;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the nearest integer lands in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float power = std::bit_cast<float>((std::bit_cast<int32_t>(shifted) + 127) << 23);
  return argument > 88.0f ? INFINITY : p * power;
}
inline double exponential(double x) { return std::exp(x); }

template <class A>
inline A sigmoid(A x) {
  return A(1) / (A(1) + exponential(-x));
}

// One row of expert outputs before normalisation -> their activations.
// With scale: Swish(y * scale + shift). Without: ReLU(y + shift).
template <class S, class A>
inline void activate(const S* y, const A* scale, const A* shift, A* out, Size width) {
  if (scale) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A v = load(y[d]) * scale[d] + shift[d];
      out[d] = v * sigmoid(v);
    }
  } else {
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A v = load(y[d]) + shift[d];
      out[d] = v < A(0) ? A(0) : v;
    }
  }
}

// The derivative of `activate`, times grad, in place.
template <class S, class A>
inline void derive(const S* y, const A* scale, const A* shift, A* grad, Size width) {
  if (scale) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A v = load(y[d]) * scale[d] + shift[d];
      const A s = sigmoid(v);
      grad[d] *= s * (A(1) + v * (A(1) - s));
    }
  } else {
#pragma omp simd
    for (Size d = 0; d < width; ++d) {
      const A v = load(y[d]) + shift[d];
      grad[d] = v <= A(0) ? A(0) : grad[d];
    }
  }
}

// Both at once.
template <class S, class A>
inline void activate_and_derive(const S* y, const A* scale, const A* shift, A* out, A* grad, Size width) {
  if (!scale) {
    activate(y, scale, shift, out, width);
    derive(y, scale, shift, grad, width);
    return;
  }
#pragma omp simd
  for (Size d = 0; d < width; ++d) {
    const A v = load(y[d]) * scale[d] + shift[d];
    const A s = sigmoid(v);
    out[d] = v * s;
    grad[d] *= s * (A(1) + v * (A(1) - s));
  }
}

// out (n, width) = left (n, m; row stride `ld`, column stride `cd`) times right (m, width; row stride `rd`): n and m are small.
template <class A>
inline void multiply(const A* left, Size ld, Size cd, const A* right, Size rd, A* out, Size od, Size n, Size m, Size width) {
  constexpr Size N = 4, W = 16;
  Size i = 0;
  for (; i + N <= n; i += N) {
    Size d = 0;
    for (; d + W <= width; d += W) {
      A sum[N][W] = {};
      for (Size j = 0; j < m; ++j)
        for (Size a = 0; a < N; ++a) {
          const A factor = left[(i + a) * ld + j * cd];
#pragma omp simd
          for (Size b = 0; b < W; ++b) sum[a][b] += factor * right[j * rd + d + b];
        }
      for (Size a = 0; a < N; ++a)
        for (Size b = 0; b < W; ++b) out[(i + a) * od + d + b] = sum[a][b];
    }
    for (; d < width; ++d)
      for (Size a = 0; a < N; ++a) {
        A sum = 0;
        for (Size j = 0; j < m; ++j) sum += left[(i + a) * ld + j * cd] * right[j * rd + d];
        out[(i + a) * od + d] = sum;
      }
  }
  for (; i < n; ++i) {
    for (Size d = 0; d < width; ++d) out[i * od + d] = 0;
    for (Size j = 0; j < m; ++j) {
      const A factor = left[i * ld + j * cd];
#pragma omp simd
      for (Size d = 0; d < width; ++d) out[i * od + d] += factor * right[j * rd + d];
    }
  }
}

template <class A>
inline A dot(const A* a, const A* b, Size width) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Size d = 0; d < width; ++d) sum += a[d] * b[d];
  return sum;
}

// out[i * step] = the inner product of row i of a (n, width; row stride `ad`) with b: b is read once for four rows.
template <class A>
inline void dots(const A* a, Size ad, const A* b, A* out, Size step, Size n, Size width) {
  Size i = 0;
  for (; i + 4 <= n; i += 4) {
    const A *a0 = a + i * ad, *a1 = a0 + ad, *a2 = a1 + ad, *a3 = a2 + ad;
    A s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (Size d = 0; d < width; ++d) {
      s0 += a0[d] * b[d];
      s1 += a1[d] * b[d];
      s2 += a2[d] * b[d];
      s3 += a3[d] * b[d];
    }
    out[i * step] = s0;
    out[(i + 1) * step] = s1;
    out[(i + 2) * step] = s2;
    out[(i + 3) * step] = s3;
  }
  for (; i < n; ++i) out[i * step] = dot(a + i * ad, b, width);
}

inline Size blocks_of(Size rows) { return (rows + ROWS - 1) / ROWS; }

// x (M, B, C) += bias (M, C), then ReLU.
template <class S, class A>
void bias_relu(S* x, const A* bias, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
#pragma omp parallel for schedule(static)
  for (Size task = 0; task < experts * blocks; ++task) {
    const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
    const A* b = bias + e * width;
    for (Size r = first; r < last; ++r) {
      S* row = x + (e * rows + r) * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        const A v = load(row[d]) + b[d];
        store(row[d], v < A(0) ? A(0) : v);
      }
    }
  }
}

// x (M, B, C) = grad (M, B, C), but 0 where x <= 0. sums (M, C): of the new x over samples.
template <class S, class A>
void relu_backward(S* x, const S* grad, A* sums, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
  std::vector<A> parts(experts * blocks * width);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (Size task = 0; task < experts * blocks; ++task) {
      const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
      A* part = parts.data() + task * width;
      for (Size r = first; r < last; ++r) {
        const S* g = grad + (e * rows + r) * width;
        S* row = x + (e * rows + r) * width;
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
          const A v = load(row[d]) <= A(0) ? A(0) : load(g[d]);
          store(row[d], v);
          part[d] += v;
        }
      }
    }
#pragma omp for schedule(static)
    for (Size e = 0; e < experts; ++e) {
      A* sum = sums + e * width;
      std::fill(sum, sum + width, A(0));
      for (Size block = 0; block < blocks; ++block)
        for (Size d = 0; d < width; ++d) sum[d] += parts[(e * blocks + block) * width + d];
    }
  }
}

// Mean and sum of squares around it, (M, D), of y (M, B, D) over samples with weights mask (B,), or all if it is null.
// Blocks are joined as in Chan et al. 1979.
template <class S, class A>
void moments(const S* y, const A* mask, A* mean, A* squares, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows);
  std::vector<A> parts(2 * experts * blocks * width), counts(blocks);
  for (Size r = 0; r < rows; ++r) counts[r / ROWS] += mask ? mask[r] : A(1);
#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (Size task = 0; task < experts * blocks; ++task) {
      const Size e = task / blocks, first = task % blocks * ROWS, last = std::min(rows, first + ROWS);
      A *m = parts.data() + 2 * task * width, *q = m + width;
      const A count = std::max(counts[task % blocks], A(1));
      for (Size r = first; r < last; ++r) {
        const S* row = y + (e * rows + r) * width;
        const A weight = mask ? mask[r] : A(1);
#pragma omp simd
        for (Size d = 0; d < width; ++d) m[d] += load(row[d]) * weight;
      }
      for (Size d = 0; d < width; ++d) m[d] /= count;
      for (Size r = first; r < last; ++r) {
        const S* row = y + (e * rows + r) * width;
        const A weight = mask ? mask[r] : A(1);
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
          const A off = (load(row[d]) - m[d]) * weight;
          q[d] += off * off;
        }
      }
    }
#pragma omp for schedule(static)
    for (Size e = 0; e < experts; ++e) {
      A *m = mean + e * width, *q = squares + e * width, total = 0;
      std::fill(m, m + width, A(0));
      std::fill(q, q + width, A(0));
      for (Size block = 0; block < blocks; ++block) {
        const A *bm = parts.data() + 2 * (e * blocks + block) * width, *bq = bm + width;
        const A before = total;
        total += counts[block];
        const A share = counts[block] / std::max(total, A(1)), both = before * share;
#pragma omp simd
        for (Size d = 0; d < width; ++d) {
          const A off = bm[d] - m[d];
          m[d] += off * share;
          q[d] += bq[d] + off * off * both;
        }
      }
    }
  }
}

// out (K, B, D): sum over e of gates[k, b, e] * activation of y[e, b]. gates (K, B, E), contiguous in E.
template <class S, class A>
void mix(const S* y, const A* scale, const A* shift, const A* gates, Size gate_k, Size gate_b, A* out, Size gate_count,
         Size experts, Size rows, Size width) {
#pragma omp parallel
  {
    std::vector<A> active(experts * width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r) {
      for (Size e = 0; e < experts; ++e)
        activate(y + (e * rows + r) * width, scale ? scale + e * width : nullptr, shift + e * width, &active[e * width], width);
      multiply(gates + r * gate_b, gate_k, Size(1), active.data(), width, out + r * width, rows * width, gate_count, experts,
               width);
    }
  }
}

// The mixture's backward as far as sums over samples go. grad (K, B, D) is that of its output.
// gate_grad (K, B, E); shift_grad, scale_grad (E, D): sums over samples of dv and of dv * (y - mean) * rstd, where dv is the
// gradient of the activation's argument. Without scale, no scale_grad.
template <class S, class A>
void mix_sums(const A* grad, const S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* gates, Size gate_k,
              Size gate_b, A* gate_grad, A* shift_grad, A* scale_grad, Size gate_count, Size experts, Size rows, Size width) {
  const Size blocks = blocks_of(rows), outputs = experts * width;
  std::vector<A> parts(blocks * 2 * outputs);
#pragma omp parallel
  {
    std::vector<A> active(width), dv(experts * width);
#pragma omp for schedule(static)
    for (Size block = 0; block < blocks; ++block) {
      A *first = parts.data() + block * 2 * outputs, *second = first + outputs;
      for (Size r = block * ROWS; r < std::min(rows, (block + 1) * ROWS); ++r) {
        const A* g = gates + r * gate_b;
        multiply(g, Size(1), gate_k, grad + r * width, rows * width, dv.data(), width, experts, gate_count, width);
        for (Size e = 0; e < experts; ++e) {
          const S* row = y + (e * rows + r) * width;
          const A *sc = scale ? scale + e * width : nullptr, *sh = shift + e * width;
          A *d_v = &dv[e * width], *sum = first + e * width;
          activate_and_derive(row, sc, sh, active.data(), d_v, width);
          dots(grad + r * width, rows * width, active.data(), gate_grad + r * experts + e, rows * experts, gate_count, width);
#pragma omp simd
          for (Size d = 0; d < width; ++d) sum[d] += d_v[d];
          if (scale) {
            const A *mu = mean + e * width, *rs = rstd + e * width;
            A* product = second + e * width;
#pragma omp simd
            for (Size d = 0; d < width; ++d) product[d] += d_v[d] * (load(row[d]) - mu[d]) * rs[d];
          }
        }
      }
    }
#pragma omp for schedule(static)
    for (Size e = 0; e < experts; ++e)
      for (Size d = e * width; d < (e + 1) * width; ++d) {
        A a = 0, b = 0;
        for (Size block = 0; block < blocks; ++block) {
          a += parts[block * 2 * outputs + d];
          b += parts[(block * 2 + 1) * outputs + d];
        }
        shift_grad[d] = a;
        if (scale) scale_grad[d] = b;
      }
  }
}

// y (E, B, D) = its gradient dy. With scale: dy = scale * dv - mask * (away + along * (y - mean) * rstd), the second part where
// statistics are of the batch (away not null). Without: dy = dv.
template <class S, class A>
void mix_inner(const A* grad, S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* away,
               const A* along, const A* mask, const A* gates, Size gate_k, Size gate_b, Size gate_count, Size experts, Size rows,
               Size width) {
#pragma omp parallel
  {
    std::vector<A> dv(experts * width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r) {
      multiply(gates + r * gate_b, Size(1), gate_k, grad + r * width, rows * width, dv.data(), width, experts, gate_count, width);
      const A weight = mask ? mask[r] : A(1);
      for (Size e = 0; e < experts; ++e) {
        S* row = y + (e * rows + r) * width;
        const A *sc = scale ? scale + e * width : nullptr, *sh = shift + e * width;
        A* d_v = &dv[e * width];
        derive(row, sc, sh, d_v, width);
        if (scale && away) {
          const A *mu = mean + e * width, *rs = rstd + e * width, *aw = away + e * width, *al = along + e * width;
#pragma omp simd
          for (Size d = 0; d < width; ++d)
            store(row[d], sc[d] * d_v[d] - weight * (aw[d] + al[d] * (load(row[d]) - mu[d]) * rs[d]));
        } else if (scale) {
#pragma omp simd
          for (Size d = 0; d < width; ++d) store(row[d], sc[d] * d_v[d]);
        } else {
#pragma omp simd
          for (Size d = 0; d < width; ++d) store(row[d], d_v[d]);
        }
      }
    }
  }
}

// The feature gate of one row, before the factor 2: sum over l of share[l] * sigmoid(wide_l), or the sigmoid of that of wide_l.
// gates (L, F): what share is multiplied with.
template <class S, class A>
inline void gate_row(const S* wide, Size gate, const A* share, A* gates, A* total, bool inside, Size count, Size width) {
  for (Size d = 0; d < width; ++d) total[d] = 0;
  for (Size l = 0; l < count; ++l) {
    const S* row = wide + l * gate;
    A* own = gates + l * width;
    const A factor = share[l];
    if (inside) {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        own[d] = sigmoid(A(load(row[d])));
        total[d] += factor * own[d];
      }
    } else {
#pragma omp simd
      for (Size d = 0; d < width; ++d) {
        own[d] = load(row[d]);
        total[d] += factor * own[d];
      }
    }
  }
  if (!inside) {
#pragma omp simd
    for (Size d = 0; d < width; ++d) total[d] = sigmoid(total[d]);
  }
}

// out (B, F) = x (B, F) times the feature gate of wide (L, B, F) and share (B, L).
template <class S, class A>
void gate(const S* wide, const A* share, const A* x, A* out, Size inside, Size count, Size rows, Size width) {
#pragma omp parallel
  {
    std::vector<A> gates(count * width), total(width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r) {
      gate_row(wide + r * width, rows * width, share + r * count, gates.data(), total.data(), inside != 0, count, width);
      const A* in = x + r * width;
      A* to = out + r * width;
#pragma omp simd
      for (Size d = 0; d < width; ++d) to[d] = A(2) * in[d] * total[d];
    }
  }
}

// wide (L, B, F) = its gradient; share_grad (B, L); x_grad (B, F), if not null, = or, if `add`, += that of x as
// far as it is multiplied.
template <class S, class A>
void gate_backward(const A* grad, S* wide, const A* share, const A* x, A* share_grad, A* x_grad, Size add, Size inside,
                   Size count, Size rows, Size width) {
#pragma omp parallel
  {
    std::vector<A> gates(count * width), total(width), down(width);
#pragma omp for schedule(static)
    for (Size r = 0; r < rows; ++r) {
      gate_row(wide + r * width, rows * width, share + r * count, gates.data(), total.data(), inside != 0, count, width);
      const A *in = x + r * width, *g = grad + r * width;
      if (x_grad) {
        A* to = x_grad + r * width;
#pragma omp simd
        for (Size d = 0; d < width; ++d) to[d] = A(2) * g[d] * total[d] + (add ? to[d] : A(0));
      }
#pragma omp simd
      for (Size d = 0; d < width; ++d) down[d] = A(2) * g[d] * in[d] * (inside ? A(1) : total[d] * (A(1) - total[d]));
      for (Size l = 0; l < count; ++l) {
        const A *own = gates.data() + l * width, factor = share[r * count + l];
        S* row = wide + (l * rows + r) * width;
        share_grad[r * count + l] = dot(down.data(), own, width);
        if (inside) {
#pragma omp simd
          for (Size d = 0; d < width; ++d) store(row[d], down[d] * factor * own[d] * (A(1) - own[d]));
        } else {
#pragma omp simd
          for (Size d = 0; d < width; ++d) store(row[d], down[d] * factor);
        }
      }
    }
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

#define PASSES(NAME, S, A)                                                                                                    \
  extern "C" {                                                                                                                \
  void bias_relu_##NAME(S* x, const A* bias, Size m, Size b, Size c) { bias_relu(x, bias, m, b, c); }                         \
  void relu_backward_##NAME(S* x, const S* g, A* sums, Size m, Size b, Size c) { relu_backward(x, g, sums, m, b, c); }        \
  void moments_##NAME(const S* y, const A* mask, A* mean, A* squares, Size m, Size b, Size d) {                               \
    moments(y, mask, mean, squares, m, b, d);                                                                                 \
  }                                                                                                                           \
  void mix_##NAME(const S* y, const A* scale, const A* shift, const A* gates, Size gk, Size gb, A* out, Size k, Size e, Size b, \
                  Size d) {                                                                                                   \
    mix(y, scale, shift, gates, gk, gb, out, k, e, b, d);                                                                     \
  }                                                                                                                           \
  void mix_sums_##NAME(const A* grad, const S* y, const A* scale, const A* shift, const A* mean, const A* rstd,               \
                       const A* gates, Size gk, Size gb, A* gate_grad, A* shift_grad, A* scale_grad, Size k, Size e, Size b,  \
                       Size d) {                                                                                              \
    mix_sums(grad, y, scale, shift, mean, rstd, gates, gk, gb, gate_grad, shift_grad, scale_grad, k, e, b, d);                \
  }                                                                                                                           \
  void mix_inner_##NAME(const A* grad, S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* away,     \
                        const A* along, const A* mask, const A* gates, Size gk, Size gb, Size k, Size e, Size b, Size d) {    \
    mix_inner(grad, y, scale, shift, mean, rstd, away, along, mask, gates, gk, gb, k, e, b, d);                               \
  }                                                                                                                           \
  void gate_##NAME(const S* wide, const A* share, const A* x, A* out, Size inside, Size l, Size b, Size f) {                  \
    gate(wide, share, x, out, inside, l, b, f);                                                                               \
  }                                                                                                                           \
  void gate_backward_##NAME(const A* grad, S* wide, const A* share, const A* x, A* share_grad, A* x_grad, Size add, Size inside,\
                            Size l, Size b, Size f) {                                                                         \
    gate_backward(grad, wide, share, x, share_grad, x_grad, add, inside, l, b, f);                                            \
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

PASSES(fp32, float, float)
PASSES(fp64, double, double)
PASSES(bf16, bf16, float)
