// The backward of a look-up in a small table: see ../replicated.py.

#include <cstdint>

namespace {

// table (R, D) += grad (n, D) at rows (n), in their order.
template <class A>
void add(A* table, const int64_t* rows, const A* grad, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i) {
    A* to = table + rows[i] * width;
    const A* from = grad + i * width;
    for (int64_t d = 0; d < width; ++d) to[d] += from[d];
  }
}

}  // namespace

extern "C" {
void add_fp32(float* table, const int64_t* rows, const float* grad, int64_t count, int64_t width) {
  add(table, rows, grad, count, width);
}
void add_fp64(double* table, const int64_t* rows, const double* grad, int64_t count, int64_t width) {
  add(table, rows, grad, count, width);
}
}
