// Rows of several tables side by side: see ../side_by_side.py.

#include <algorithm>
#include <cstring>
#include <numeric>

#include "../../experts/kernels/native/product.hpp"

namespace {

constexpr Size EVENTS = 256;  // in a piece of work
constexpr Size FLOATS = 16;   // columns of a table in a piece of work: a cache line of fp32

// out (n, sum of widths) = rows (n) of each table (height, width). wrong: a table of which a row was asked that it has not.
template <class A>
void take(Size count, const A* const* tables, const Size* const* rows, const Size* widths, const Size* heights, A* out, Size n,
          Size* wrong) {
  const Size width = std::accumulate(widths, widths + count, Size(0));
  std::atomic<Size> refused{-1};
  deal_pieces(n, EVENTS, [&](Size first, Size last) {
    A* to = out + first * width;
    for (Size k = 0; k < count; to += widths[k++]) {
      for (Size i = first; i < last; ++i) {
        const Size row = rows[k][i];
        if (row < 0 || row >= heights[k]) {
          refused.store(k, std::memory_order_relaxed);
          return;
        }
        std::memcpy(to + (i - first) * width, tables[k] + row * widths[k], sizeof(A) * widths[k]);
      }
    }
  });
  *wrong = refused.load();
}

// tables += grad (n, sum of widths) at rows (n), in their order: a column of a table is one thread's work.
template <class A>
void give_back(Size count, A* const* tables, const Size* const* rows, const Size* widths, const A* grad, Size n) {
  struct Piece {
    Size table, column, columns, place;
  };
  std::vector<Piece> pieces;
  Size width = 0;
  for (Size k = 0; k < count; width += widths[k++]) {
    for (Size column = 0; column < widths[k]; column += FLOATS)
      pieces.push_back({k, column, std::min(FLOATS, widths[k] - column), width + column});
  }
  deal(Size(pieces.size()), [&](Size number) {
    const Piece& piece = pieces[number];
    const Size* row = rows[piece.table];
    for (Size i = 0; i < n; ++i) {
      A* to = tables[piece.table] + row[i] * widths[piece.table] + piece.column;
      const A* from = grad + i * width + piece.place;
      for (Size c = 0; c < piece.columns; ++c) to[c] += from[c];
    }
  });
}

}  // namespace

#define SIDE_BY_SIDE(NAME, A)                                                                                                 \
  extern "C" {                                                                                                                \
  void take_##NAME(Size count, const A* const* tables, const Size* const* rows, const Size* widths, const Size* heights,      \
                   A* out, Size n, Size* wrong) {                                                                             \
    take(count, tables, rows, widths, heights, out, n, wrong);                                                                \
  }                                                                                                                           \
  void give_back_##NAME(Size count, A* const* tables, const Size* const* rows, const Size* widths, const A* grad, Size n) {   \
    give_back(count, tables, rows, widths, grad, n);                                                                          \
  }                                                                                                                           \
  }

#ifdef FP64
SIDE_BY_SIDE(fp64, double)
#endif

#ifdef FP32
SIDE_BY_SIDE(fp32, float)
#endif
