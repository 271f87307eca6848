// Merge sort that sums the weights of pairs which it puts in order: the exact count of discordant pairs in N log N.

#include <algorithm>
#include <cstdint>

using Size = std::int64_t;

namespace {

struct Item {
  double value, weight;
};

// Below this many items, insertion is faster than merging.
constexpr Size SHORT = 12;

// Sorts items[0, count) by value, stably, into `out`, and returns the sum of weight_i * weight_j over pairs i < j with
// value_i > value_j. `items` is overwritten. Both arrays hold the same items at first.
double sort_into(Item* items, Item* out, Size count) {
  double inverted = 0;
  if (count <= SHORT) {
    for (Size i = 1; i < count; ++i) {
      const Item moved = out[i];
      double greater = 0;
      Size j = i;
      for (; j > 0 && out[j - 1].value > moved.value; --j) {
        greater += out[j - 1].weight;
        out[j] = out[j - 1];
      }
      out[j] = moved;
      inverted += greater * moved.weight;
    }
    return inverted;
  }
  const Size half = count / 2;
  inverted = sort_into(out, items, half) + sort_into(out + half, items + half, count - half);
  double left = 0;  // weight of the first half's items that are not yet merged
  for (Size i = 0; i < half; ++i) left += items[i].weight;
  Size i = 0, j = half, k = 0;
  while (i < half && j < count) {
    const bool later = items[j].value < items[i].value;
    const Item next = items[later ? j : i];
    out[k++] = next;
    inverted += later ? left * next.weight : 0;
    left -= later ? 0 : next.weight;
    j += later;
    i += !later;
  }
  std::copy(items + i, items + half, out + k);
  std::copy(items + j, items + count, out + k + (half - i));
  return inverted;
}

}  // namespace

// items: (starts[segments],) values and weights side by side; sorted within each segment on return. scratch: a copy of them.
// inverted: (segments,). starts: (segments + 1,), from 0.
extern "C" void sort_segments(double* items, double* scratch, const Size* starts, Size segments, double* inverted) {
  auto* const out = reinterpret_cast<Item*>(items);
  auto* const other = reinterpret_cast<Item*>(scratch);
  for (Size s = 0; s < segments; ++s)
    inverted[s] = sort_into(other + starts[s], out + starts[s], starts[s + 1] - starts[s]);
}
