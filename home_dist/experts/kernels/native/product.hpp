// Matrix products by the BLAS that torch was built with. Within a parallel region it uses one thread.

#pragma once

#include <type_traits>

#include "numbers.hpp"

namespace {

// sgemm, dgemm or gemm_bf16bf16f32: of matrices of S, in A. Sizes are 64-bit little-endian integers, which a BLAS with 32-bit
// integers reads correctly as well.
template <class A, class S = A>
using Gemm = void (*)(const char*, const char*, const Size*, const Size*, const Size*, const A*, const S*, const Size*, const S*,
                      const Size*, const A*, A*, const Size*);

// A row-major matrix: its first element and the stride of its rows.
template <class T>
struct Matrix {
  T* at;
  Size row;
};

// sgemm, if the BLAS has no products of bf16.
inline Gemm<float> without_bf16 = nullptr;

// The matrix (n, k) in fp32, in the calling thread's memory.
template <int SLOT>
inline Matrix<const float> widened(Matrix<const bf16> from, Size n, Size k) {
  float* to = scratch<float, SLOT>(n * k);
  for (Size i = 0; i < n; ++i)
#pragma omp simd
    for (Size j = 0; j < k; ++j) to[i * k + j] = load(from.at[i * from.row + j]);
  return {to, k};
}

// c (n, m) = a (n, k) times b (k, m), or += if `add`. a_t, b_t: given transposed.
template <class S, class A>
inline void product(Gemm<A, S> gemm, Matrix<const S> a, bool a_t, Matrix<const S> b, bool b_t, Matrix<A> c, Size n, Size k, Size m,
                    bool add = false) {
  if constexpr (!std::is_same_v<S, A>)
    if (!gemm) {
      const Matrix<const A> left = widened<8>(a, a_t ? k : n, a_t ? n : k), right = widened<9>(b, b_t ? m : k, b_t ? k : m);
      return product<A, A>(without_bf16, left, a_t, right, b_t, c, n, k, m, add);
    }
  const A one = 1, more = add ? A(1) : A(0);
  // Row-major a b is column-major b a.
  gemm(b_t ? "T" : "N", a_t ? "T" : "N", &m, &n, &k, &one, b.at, &b.row, a.at, &a.row, &more, c.at, &c.row);
}

// The same for contiguous matrices.
template <class S, class A>
inline void product(Gemm<A, S> gemm, const S* a, bool a_t, const S* b, bool b_t, A* c, Size n, Size k, Size m, bool add = false) {
  product<S, A>(gemm, Matrix<const S>{a, a_t ? n : k}, a_t, Matrix<const S>{b, b_t ? k : m}, b_t, Matrix<A>{c, m}, n, k, m, add);
}

// Where a product of S goes that is stored as S afterwards: to its place, or to the calling thread's memory in A.
template <int SLOT, class S, class A>
inline A* sums_for(S* to, Size count) {
  if constexpr (std::is_same_v<S, A>)
    return to;
  else
    return scratch<A, SLOT>(count);
}

// Stores it.
template <class S, class A>
inline void store_sums(const A* sums, S* to, Size count) {
  if constexpr (!std::is_same_v<S, A>) store_all(sums, to, count);
}

// c of A for G products of S at once, whose matrices have rows at the same strides: threads share pieces of the results.
template <class S, class A>
void products(Gemm<A, S> gemm, const S* const* a, Size a_row, bool a_t, const S* const* b, Size b_row, bool b_t, A* const* c,
              Size c_row, bool add, Size groups, Size n, Size k, Size m) {
  const Size chunks = (n + SAMPLES - 1) / SAMPLES, columns = (m + COLUMNS - 1) / COLUMNS;
  deal(groups * chunks * columns, [&](Size piece) {
    const Size g = piece / (chunks * columns), row = piece / columns % chunks * SAMPLES, column = piece % columns * COLUMNS;
    const Matrix<const S> left{a[g] + (a_t ? row : row * a_row), a_row}, right{b[g] + (b_t ? column * b_row : column), b_row};
    product<S, A>(gemm, left, a_t, right, b_t, Matrix<A>{c[g] + row * c_row + column, c_row}, std::min(SAMPLES, n - row), k,
                  std::min(COLUMNS, m - column), add);
  });
}

}  // namespace

// Every library has this function, for whoever loads it.
extern "C" [[gnu::used]] inline void set_product_without_bf16(void* function) {
  without_bf16 = reinterpret_cast<Gemm<float>>(function);
}
