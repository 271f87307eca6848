// Gathers and compares given rows of a window's columns, and computes the two forms of a statistic that a model reads.
//
// A column has numbers of any type, in pieces as they were read. bases[c * pieces + p] is the address of piece p of column c,
// shifted so that an element is addressed by its row (for lists: its value's number) in the window, not in the piece.

#include <algorithm>
#include <cstdint>
#include <vector>

using Size = std::int64_t;

namespace {

// The same order as _TYPES in home_dist/data/chunked.py.
enum Type : std::uint8_t { I8, U8, I16, U16, I32, U32, I64, U64, F32, F64 };

struct Window {
  Size columns, pieces;
  const std::uint8_t* types;
  const Size* bases;
};

template <class T>
const T* at(Size address) {
  return reinterpret_cast<const T*>(address);
}

template <class S, class T>
void gather(const Size* bases, const std::int32_t* piece, const Size* rows, Size count, T* out, Size stride) {
  if (piece == nullptr) {
    const S* values = at<S>(bases[0]);
    for (Size i = 0; i < count; ++i) out[i * stride] = static_cast<T>(values[rows[i]]);
  } else {
    for (Size i = 0; i < count; ++i) out[i * stride] = static_cast<T>(at<S>(bases[piece[i]])[rows[i]]);
  }
}

template <class S, class T>
void gather_lists(const Size* bases, const std::int32_t* piece, const Size* rows, Size count, const Size* offsets, T* out) {
  for (Size i = 0; i < count; ++i) {
    const Size begin = offsets[rows[i]], length = offsets[rows[i] + 1] - begin;
    const S* values = at<S>(bases[piece == nullptr ? 0 : piece[i]]) + begin;
    for (Size j = 0; j < length; ++j) out[j] = static_cast<T>(values[j]);
    out += length;
  }
}

template <class Action>
void with_type(std::uint8_t type, Action action) {
  switch (type) {
    case I8: return action(std::int8_t{});
    case U8: return action(std::uint8_t{});
    case I16: return action(std::int16_t{});
    case U16: return action(std::uint16_t{});
    case I32: return action(std::int32_t{});
    case U32: return action(std::uint32_t{});
    case I64: return action(std::int64_t{});
    case U64: return action(std::uint64_t{});
    case F32: return action(float{});
    case F64: return action(double{});
  }
}

std::vector<std::int32_t> pieces_of(const std::int32_t* piece_of, const Size* rows, Size count) {
  std::vector<std::int32_t> found(piece_of == nullptr ? 0 : count);
  for (Size i = 0; i < static_cast<Size>(found.size()); ++i) found[i] = piece_of[rows[i]];
  return found;
}

// outs: for each column, the address of the first row's value; stride: from row to row, in values.
template <class T>
void all_columns(const Window& window, const std::int32_t* piece_of, const Size* rows, Size count, const Size* outs, Size stride) {
  const auto found = pieces_of(piece_of, rows, count);
  const std::int32_t* piece = piece_of == nullptr ? nullptr : found.data();
  for (Size c = 0; c < window.columns; ++c)
    with_type(window.types[c], [&](auto one) {
      gather<decltype(one), T>(window.bases + c * window.pieces, piece, rows, count, reinterpret_cast<T*>(outs[c]), stride);
    });
}

// offsets: of the rows' lists, (rows + 1,), counted through all pieces.
template <class T>
void all_lists(const Window& window, const std::int32_t* piece_of, const Size* rows, Size count, const Size* offsets,
               const Size* outs) {
  const auto found = pieces_of(piece_of, rows, count);
  const std::int32_t* piece = piece_of == nullptr ? nullptr : found.data();
  for (Size c = 0; c < window.columns; ++c)
    with_type(window.types[c], [&](auto one) {
      gather_lists<decltype(one), T>(window.bases + c * window.pieces, piece, rows, count, offsets, reinterpret_cast<T*>(outs[c]));
    });
}

// Marks rows whose value, or list, differs from that of the row at the same place of others.
template <class S>
void differing_rows(const Size* bases, const std::int32_t* piece_of, const Size* offsets, const Size* rows, const Size* others,
                    Size count, bool* out) {
  const auto begin = [&](Size row) { return offsets == nullptr ? row : offsets[row]; };
  const auto values = [&](Size row) { return at<S>(bases[piece_of == nullptr ? 0 : piece_of[row]]) + begin(row); };
  for (Size i = 0; i < count; ++i) {
    const Size length = begin(rows[i] + 1) - begin(rows[i]);
    const S* own = values(rows[i]);
    out[i] = length != begin(others[i] + 1) - begin(others[i]) || !std::equal(own, own + length, values(others[i]));
  }
}

// 1 + the number of sorted boundaries that are <= the value.
template <class S>
void buckets(const S* values, Size count, const S* boundaries, Size limits, std::int32_t* out) {
  constexpr Size few = 64, block = 256;
  if (limits < few) {  // a pass per boundary, several values at once
    for (Size begin = 0; begin < count; begin += block) {
      const Size rows = std::min(block, count - begin);
      std::int32_t found[block];
      for (Size i = 0; i < rows; ++i) found[i] = 1;
      for (Size b = 0; b < limits; ++b)
        for (Size i = 0; i < rows; ++i) found[i] += values[begin + i] >= boundaries[b];
      std::copy(found, found + rows, out + begin);
    }
  } else {
    for (Size i = 0; i < count; ++i)
      out[i] = 1 + static_cast<std::int32_t>(std::upper_bound(boundaries, boundaries + limits, values[i]) - boundaries);
  }
}

template <class S>
void standardised(const S* values, Size count, double mean, double deviation, float* out, Size stride) {
  for (Size i = 0; i < count; ++i) out[i * stride] = static_cast<float>((static_cast<double>(values[i]) - mean) / deviation);
}

}  // namespace

extern "C" void differing(Size type, Size count, const Size* bases, const std::int32_t* piece_of, const Size* offsets,
                          const Size* rows, const Size* others, bool* out) {
  with_type(static_cast<std::uint8_t>(type), [&](auto one) {
    differing_rows<decltype(one)>(bases, piece_of, offsets, rows, others, count, out);
  });
}

#define STATISTIC(NAME, S)                                                                                                   \
  extern "C" void buckets_##NAME(const S* values, Size count, const S* boundaries, Size limits, std::int32_t* out) {         \
    buckets(values, count, boundaries, limits, out);                                                                         \
  }                                                                                                                          \
  extern "C" void standardised_##NAME(const S* values, Size count, float* out, Size stride, double mean, double deviation) { \
    standardised(values, count, mean, deviation, out, stride);                                                               \
  }

STATISTIC(float32, float)
STATISTIC(float64, double)

#define GATHER(NAME, T)                                                                                                      \
  extern "C" void columns_##NAME(Size columns, Size pieces, const std::uint8_t* types, const Size* bases,                    \
                                 const std::int32_t* piece_of, const Size* rows, Size count, const Size* outs, Size stride) { \
    all_columns<T>({columns, pieces, types, bases}, piece_of, rows, count, outs, stride);                                    \
  }                                                                                                                          \
  extern "C" void lists_##NAME(Size columns, Size pieces, const std::uint8_t* types, const Size* bases,                      \
                               const std::int32_t* piece_of, const Size* rows, Size count, const Size* outs,                 \
                               const Size* offsets) {                                                                        \
    all_lists<T>({columns, pieces, types, bases}, piece_of, rows, count, offsets, outs);                                     \
  }

GATHER(int32, std::int32_t)
GATHER(int64, std::int64_t)
GATHER(float32, float)
