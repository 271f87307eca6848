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

}  // namespace
