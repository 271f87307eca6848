// Initial values of embedding tables: see ../initial.py, whose torch operators give the same bits.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kBlock = 256;  // words hashed at a time, in registers' reach

inline uint64_t mixed(uint64_t word) {  // the output function of SplitMix64
  word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9ull;
  word = (word ^ (word >> 27)) * 0x94D049BB133111EBull;
  return word ^ (word >> 31);
}

// out: `rows` rows of `columns` values, `stride` apart. A word of the stream of `key` holds the four values of a row's columns
// 4 n .. 4 n + 3; a row has `words` of them. quantiles: 65,536 values, by the upper half of whose index runs from the lowest.
template <typename Value>
void filled(Value* out, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns, int64_t stride, int64_t words,
            uint64_t key, const Value* quantiles) {
  uint64_t hashed[kBlock];
  const int64_t first_word = first_column / 4, end_word = (first_column + columns + 3) / 4;
  const bool whole = first_column % 4 == 0 && columns % 4 == 0;
  for (int64_t r = 0; r < rows; ++r) {
    const uint64_t row_word = static_cast<uint64_t>(first_row + r) * static_cast<uint64_t>(words);
    Value* row = out + r * stride;
    for (int64_t w = first_word; w < end_word; w += kBlock) {
      const int64_t count = end_word - w < kBlock ? end_word - w : kBlock;
      for (int64_t i = 0; i < count; ++i) {
        hashed[i] = mixed(key + (row_word + static_cast<uint64_t>(w + i)) * 0x9E3779B97F4A7C15ull);
      }
      if (whole) {
        uint16_t pieces[4 * kBlock];
        std::memcpy(pieces, hashed, sizeof(uint64_t) * static_cast<size_t>(count));
        Value* to = row + 4 * w - first_column;
        for (int64_t i = 0; i < 4 * count; ++i) to[i] = quantiles[pieces[i] ^ 0x8000u];
        continue;
      }
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < 4; ++j) {
          const int64_t column = 4 * (w + i) + j - first_column;
          if (column >= 0 && column < columns) {
            row[column] = quantiles[((hashed[i] >> (16 * j)) & 0xFFFFu) ^ 0x8000u];
          }
        }
      }
    }
  }
}

}  // namespace

extern "C" {

void fill(float* out, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns, int64_t stride, int64_t words,
          uint64_t key, const float* quantiles) {
  filled(out, first_row, rows, first_column, columns, stride, words, key, quantiles);
}

// Values of 16 bits, whatever they mean.
void fill_half(uint16_t* out, int64_t first_row, int64_t rows, int64_t first_column, int64_t columns, int64_t stride,
               int64_t words, uint64_t key, const uint16_t* quantiles) {
  filled(out, first_row, rows, first_column, columns, stride, words, key, quantiles);
}
}
