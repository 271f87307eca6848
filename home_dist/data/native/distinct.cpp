// The distinct values of a column of ids, and where each id is among them: see ../distinct.py.

#include <cstdint>
#include <vector>

extern "C" {
// ids, places: (count,). found: (count,), of which the distinct ids, in the order of their first places, are filled. Returns their
// number.
std::int64_t distinct(const std::int64_t* ids, std::int64_t count, std::int64_t* found, std::int64_t* places) {
  int bits = 4;
  while ((std::int64_t(1) << bits) < 2 * count) ++bits;
  const std::int64_t last = (std::int64_t(1) << bits) - 1;
  std::vector<std::int32_t> slots(last + 1, -1);  // numbers of distinct ids, at the place that the id's hash tells, or after it
  std::int32_t* const slot = slots.data();
  std::int32_t number = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t id = ids[i];
    std::int64_t at = std::int64_t(std::uint64_t(id) * 0x9E3779B97F4A7C15u >> (64 - bits));
    while (slot[at] >= 0 && found[slot[at]] != id) at = (at + 1) & last;
    if (slot[at] < 0) {
      found[number] = id;
      slot[at] = number++;
    }
    places[i] = slot[at];
  }
  return number;
}
}
