// The experts' last activation and the mixture by gates in one pass, and its backward in two.

#pragma once

#include "dropout.hpp"
#include "numbers.hpp"

namespace {

// out (D) = the activation of one row y (D): Swish(y * scale + shift), or ReLU(y + shift) if scale is null.
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

// grad (D) *= the derivative of `activate` with respect to its argument.
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

// `activate` and `derive` in one loop.
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

// N rows of `multiply`: their sums stay in registers.
template <Size N, class A>
inline void multiply_rows(const A* left, Size ld, Size cd, const A* right, Size rd, A* out, Size od, Size m, Size width) {
  constexpr Size W = 16;
  Size d = 0;
  for (; d + W <= width; d += W) {
    A sum[N][W] = {};
    for (Size j = 0; j < m; ++j)
      for (Size a = 0; a < N; ++a) {
        const A factor = left[a * ld + j * cd];
#pragma omp simd
        for (Size b = 0; b < W; ++b) sum[a][b] += factor * right[j * rd + d + b];
      }
    for (Size a = 0; a < N; ++a)
      for (Size b = 0; b < W; ++b) out[a * od + d + b] = sum[a][b];
  }
  for (; d < width; ++d)
    for (Size a = 0; a < N; ++a) {
      A sum = 0;
      for (Size j = 0; j < m; ++j) sum += left[a * ld + j * cd] * right[j * rd + d];
      out[a * od + d] = sum;
    }
}

// out (n, width) = left (n, m; row stride `ld`, column stride `cd`) times right (m, width; row stride `rd`), for small n and m.
template <class A>
inline void multiply(const A* left, Size ld, Size cd, const A* right, Size rd, A* out, Size od, Size n, Size m, Size width) {
  Size i = 0;
  for (; i + 4 <= n; i += 4) multiply_rows<4>(left + i * ld, ld, cd, right, rd, out + i * od, od, m, width);
  left += i * ld, out += i * od;
  if (n - i == 3) multiply_rows<3>(left, ld, cd, right, rd, out, od, m, width);
  if (n - i == 2) multiply_rows<2>(left, ld, cd, right, rd, out, od, m, width);
  if (n - i == 1) multiply_rows<1>(left, ld, cd, right, rd, out, od, m, width);
}

// out[i * step] = the inner product of row i of a (n, width; row stride `ad`) with b (width), which is read once for four rows.
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

// out (K, B, D) = sum over e of gates[k, b, e] * dropout(activation(y[e, b])). gates (K, B, E), contiguous in E.
template <class S, class A>
void mix(const S* y, const A* scale, const A* shift, const A* gates, Size gate_k, Size gate_b, A* out, Dropout dropout,
         Size gate_count, Size experts, Size rows, Size width) {
  const Size tiles = tiles_of(rows);
  deal_pieces(tiles, ROWS / TILE, [&](Size begin, Size stop) {
    std::vector<A> active(TILE * experts * width), kept(width);
    for (Size tile = begin; tile < stop; ++tile) {
      const Size first = tile * TILE, last = std::min(rows, first + TILE);
      for (Size e = 0; e < experts; ++e)
        for (Size r = first; r < last; ++r) {
          const Size at = (e * rows + r) * width;
          A* outputs = &active[((r - first) * experts + e) * width];
          activate(y + at, scale ? scale + e * width : nullptr, shift + e * width, outputs, width);
          if (dropout.threshold) {
            factors(dropout, at, kept.data(), width);
            scale_by(kept.data(), outputs, width);
          }
        }
      for (Size r = first; r < last; ++r)
        multiply(gates + r * gate_b, gate_k, Size(1), &active[(r - first) * experts * width], width, out + r * width, rows * width,
                 gate_count, experts, width);
    }
  });
}

// dv (b, E, D) of a tile of samples = sum over k of gates[k, b, e] * grad[k, b]. near (b, K, D): memory for the tile's grad.
template <class A>
inline void unmix(const A* grad, const A* gates, Size gate_k, Size gate_b, A* near, A* dv, Size first, Size last, Size gate_count,
                  Size experts, Size rows, Size width) {
  for (Size k = 0; k < gate_count; ++k)
    for (Size r = first; r < last; ++r)
      std::copy_n(grad + (k * rows + r) * width, width, near + ((r - first) * gate_count + k) * width);
  for (Size r = first; r < last; ++r)
    multiply(gates + r * gate_b, Size(1), gate_k, near + (r - first) * gate_count * width, width,
             dv + (r - first) * experts * width, width, experts, gate_count, width);
}

// The first pass of the backward: the gradients of gates, gate_grad (K, B, E), and the sums over samples of dv and of dv * (y -
// mean) * rstd, shift_grad and scale_grad (E, D), with dv the gradient of the activation's argument. grad (K, B, D): the
// gradient of the mixture. scale_grad is unused if scale is null.
template <class S, class A>
void mix_sums(const A* grad, const S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* gates, Size gate_k,
              Size gate_b, A* gate_grad, A* shift_grad, A* scale_grad, Dropout dropout, Size gate_count, Size experts, Size rows,
              Size width) {
  const Size blocks = blocks_of(rows), outputs = experts * width;
  std::vector<A> parts(blocks * 2 * outputs);
  deal_pieces(blocks, 1, [&](Size begin, Size stop) {
    std::vector<A> active(width), kept(width), near(TILE * gate_count * width), dv(TILE * outputs);
    for (Size block = begin; block < stop; ++block) {
      A* sums = parts.data() + block * 2 * outputs;
      const Size end = std::min(rows, (block + 1) * ROWS);
      for (Size first = block * ROWS; first < end; first += TILE) {
        const Size last = std::min(end, first + TILE);
        unmix(grad, gates, gate_k, gate_b, near.data(), dv.data(), first, last, gate_count, experts, rows, width);
        for (Size e = 0; e < experts; ++e) {
          const A *sc = scale ? scale + e * width : nullptr, *sh = shift + e * width, *mu = scale ? mean + e * width : nullptr;
          A *sum = sums + e * width, *product = sum + outputs;
          for (Size r = first; r < last; ++r) {
            const S* row = y + (e * rows + r) * width;
            A* d_v = &dv[((r - first) * experts + e) * width];
            activate_and_derive(row, sc, sh, active.data(), d_v, width);
            if (dropout.threshold) {
              factors(dropout, (e * rows + r) * width, kept.data(), width);
              scale_by(kept.data(), active.data(), width);
              scale_by(kept.data(), d_v, width);
            }
            dots(&near[(r - first) * gate_count * width], width, active.data(), gate_grad + r * experts + e, rows * experts,
                 gate_count, width);
#pragma omp simd
            for (Size d = 0; d < width; ++d) sum[d] += d_v[d];
            if (scale) {
#pragma omp simd
              for (Size d = 0; d < width; ++d) product[d] += d_v[d] * (load(row[d]) - mu[d]);
            }
          }
        }
      }
    }
  });
  deal_pieces(outputs, COLUMNS, [&](Size begin, Size stop) {
    for (Size d = begin; d < stop; ++d) {
      A a = 0, b = 0;
      for (Size block = 0; block < blocks; ++block) {
        a += parts[block * 2 * outputs + d];
        b += parts[(block * 2 + 1) * outputs + d];
      }
      shift_grad[d] = a;
      if (scale) scale_grad[d] = b * rstd[d];
    }
  });
}

// The second pass of the backward: y (E, B, D) = its gradient. This is scale * dv, less mask * (away + along * (y - mean) *
// rstd) if the batch's statistics normalise (away is not null); or dv if scale is null.
template <class S, class A>
void mix_inner(const A* grad, S* y, const A* scale, const A* shift, const A* mean, const A* rstd, const A* away,
               const A* along, const A* mask, const A* gates, Size gate_k, Size gate_b, Dropout dropout, Size gate_count,
               Size experts, Size rows, Size width) {
  std::vector<A> slope(scale && away ? experts * width : 0);
  for (Size d = 0; d < Size(slope.size()); ++d) slope[d] = along[d] * rstd[d];
  const Size tiles = tiles_of(rows);
  deal_pieces(tiles, ROWS / TILE, [&](Size begin, Size stop) {
    std::vector<A> kept(width), near(TILE * gate_count * width), dv(TILE * experts * width);
    for (Size tile = begin; tile < stop; ++tile) {
      const Size first = tile * TILE, last = std::min(rows, first + TILE);
      unmix(grad, gates, gate_k, gate_b, near.data(), dv.data(), first, last, gate_count, experts, rows, width);
      for (Size e = 0; e < experts; ++e)
        for (Size r = first; r < last; ++r) {
          S* row = y + (e * rows + r) * width;
          const A *sc = scale ? scale + e * width : nullptr, *sh = shift + e * width;
          A* d_v = &dv[((r - first) * experts + e) * width];
          derive(row, sc, sh, d_v, width);
          if (dropout.threshold) {
            factors(dropout, (e * rows + r) * width, kept.data(), width);
            scale_by(kept.data(), d_v, width);
          }
          if (scale && away) {
            const A *mu = mean + e * width, *aw = away + e * width, *sl = &slope[e * width], weight = mask ? mask[r] : A(1);
#pragma omp simd
            for (Size d = 0; d < width; ++d)
              store(row[d], sc[d] * d_v[d] - weight * (aw[d] + sl[d] * (load(row[d]) - mu[d])));
          } else if (scale) {
#pragma omp simd
            for (Size d = 0; d < width; ++d) store(row[d], sc[d] * d_v[d]);
          } else {
#pragma omp simd
            for (Size d = 0; d < width; ++d) store(row[d], d_v[d]);
          }
        }
    }
  });
}

}  // namespace
