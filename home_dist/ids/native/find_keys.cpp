// Looks keys up in an index of a vocabulary (ids/vocabulary_index.py), a block of keys at a time: each step of a block asks the
// memory for what the next step reads, so that the waits for memory overlap.

#include <algorithm>
#include <cstdint>
#include <cstring>

using Size = std::int64_t;
using Word = std::uint64_t;

namespace {

constexpr Size BLOCK = 64;

struct Number {
  Word hash, row;
};

struct Text {
  Word hash, start;
  std::uint32_t row, length;
};

// home_dist/ids/hashing.py says what these are.
inline Word mix(Word x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

inline Word hash_text(const std::uint8_t* text, Size length, Word seed) {
  Word hash = mix(mix(seed) ^ static_cast<Word>(length));
  for (; length > 0; length -= 8, text += 8) {
    Word word = 0;
    std::memcpy(&word, text, length < 8 ? length : 8);
    hash = mix(hash ^ word);
  }
  return hash;
}

// step(block, count, first): hashes of a block of keys. is_key(entry, key): whether an entry of the same hash is the key's.
template <typename Entry, typename Hash, typename Touch, typename IsKey>
void find(const Word* directory, int shift, const Entry* entries, Size count, Word* hashes, Size* rows, Hash hash_of, Touch touch,
          IsKey is_key) {
  Word at[BLOCK], end[BLOCK];
  for (Size first = 0; first < count; first += BLOCK) {
    const Size block = std::min(BLOCK, count - first);
    for (Size i = 0; i < block; ++i) {
      const Word hash = hashes[first + i] = hash_of(first + i);
      __builtin_prefetch(directory + (hash >> shift));
    }
    for (Size i = 0; i < block; ++i) {
      const Word bucket = hashes[first + i] >> shift;
      at[i] = directory[bucket];
      end[i] = directory[bucket + 1];
      __builtin_prefetch(entries + at[i]);
    }
    for (Size i = 0; i < block; ++i) {
      const Word hash = hashes[first + i];
      while (at[i] < end[i] && entries[at[i]].hash != hash) ++at[i];
      if (at[i] < end[i]) touch(entries[at[i]]);
    }
    for (Size i = 0; i < block; ++i) {
      const Word hash = hashes[first + i];
      Size row = 0;
      for (; at[i] < end[i]; ++at[i]) {
        const Entry& entry = entries[at[i]];
        if (entry.hash == hash && is_key(entry, first + i)) {
          row = static_cast<Size>(entry.row);
          break;
        }
      }
      rows[first + i] = row;
    }
  }
}

}  // namespace

// directory: (2^(64 - shift) + 1,) the first entry of each bucket; entries: by rising hash; rows: (count,) found rows, 0 for keys
// that the vocabulary lacks; hashes: (count,) of the keys.
extern "C" void find_numbers(const Word* directory, int shift, const Number* entries, const Word* keys, Size count, Word seed,
                             Word* hashes, Size* rows) {
  const Word salt = mix(seed);
  find(
      directory, shift, entries, count, hashes, rows, [=](Size i) { return mix(keys[i] ^ salt); }, [](const Number&) {},
      [](const Number&, Size) { return true; });  // no two numbers share a hash
}

// texts: the bytes of all texts of the vocabulary; offsets: (count + 1,) where each key begins in `data`.
extern "C" void find_texts(const Word* directory, int shift, const Text* entries, const std::uint8_t* texts, const Size* offsets,
                           const std::uint8_t* data, Size count, Word seed, Word* hashes, Size* rows) {
  find(
      directory, shift, entries, count, hashes, rows,
      [=](Size i) { return hash_text(data + offsets[i], offsets[i + 1] - offsets[i], seed); },
      [=](const Text& entry) { __builtin_prefetch(texts + entry.start); },
      [=](const Text& entry, Size i) {
        const Size length = offsets[i + 1] - offsets[i];
        return static_cast<Size>(entry.length) == length && !std::memcmp(texts + entry.start, data + offsets[i], length);
      });
}
