// Matrix products by the BLAS that torch was built with. Within a parallel region it uses one thread.

#pragma once

#include "numbers.hpp"

namespace {

// sgemm or dgemm. Sizes are 64-bit little-endian integers, which a BLAS with 32-bit integers reads correctly as well.
template <class A>
using Gemm = void (*)(const char*, const char*, const Size*, const Size*, const Size*, const A*, const A*, const Size*, const A*,
                      const Size*, const A*, A*, const Size*);

// A row-major matrix: its first element and the stride of its rows.
template <class A>
struct Matrix {
  A* at;
  Size row;
};

// c (n, m) = a (n, k) times b (k, m), or += if `add`. a_t, b_t: given transposed.
template <class A>
inline void product(Gemm<A> gemm, Matrix<const A> a, bool a_t, Matrix<const A> b, bool b_t, Matrix<A> c, Size n, Size k, Size m,
                    bool add = false) {
  const A one = 1, more = add ? A(1) : A(0);
  // Row-major a b is column-major b a.
  gemm(b_t ? "T" : "N", a_t ? "T" : "N", &m, &n, &k, &one, b.at, &b.row, a.at, &a.row, &more, c.at, &c.row);
}

// The same for contiguous matrices.
template <class A>
inline void product(Gemm<A> gemm, const A* a, bool a_t, const A* b, bool b_t, A* c, Size n, Size k, Size m, bool add = false) {
  product(gemm, Matrix<const A>{a, a_t ? n : k}, a_t, Matrix<const A>{b, b_t ? k : m}, b_t, Matrix<A>{c, m}, n, k, m, add);
}

// The same for G products at once, whose matrices have rows at the same strides: threads share pieces of the results.
template <class A>
void products(Gemm<A> gemm, const A* const* a, Size a_row, bool a_t, const A* const* b, Size b_row, bool b_t, A* const* c,
              Size c_row, bool add, Size groups, Size n, Size k, Size m) {
  const Size chunks = (n + SAMPLES - 1) / SAMPLES, columns = (m + COLUMNS - 1) / COLUMNS;
  deal(groups * chunks * columns, [&](Size piece) {
    const Size g = piece / (chunks * columns), row = piece / columns % chunks * SAMPLES, column = piece % columns * COLUMNS;
    const Matrix<const A> left{a[g] + (a_t ? row : row * a_row), a_row}, right{b[g] + (b_t ? column * b_row : column), b_row};
    product(gemm, left, a_t, right, b_t, Matrix<A>{c[g] + row * c_row + column, c_row}, std::min(SAMPLES, n - row), k,
            std::min(COLUMNS, m - column), add);
  });
}

}  // namespace
