// Pre-trained vectors by id: a folder of a full version's meaning/ with keys.npy, rising, and vectors.npy.
#pragma once
#include "requests.h"

// The array of a .npy file, flat. Its header is a short text behind its length (numpy's format, versions 1 and 2).
inline torch::Tensor npy(const std::string& content, const std::string& name) {
  auto byte = [&](size_t at) { return size_t(static_cast<unsigned char>(content.at(at))); };
  size_t begin = byte(6) == 1 ? 10 + (byte(8) | byte(9) << 8) : 12 + (byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24);
  std::string header = content.substr(0, begin);
  for (auto [type, kind] : {std::pair{"'<i8'", torch::kLong}, {"'<f2'", torch::kHalf}, {"'<f4'", torch::kFloat}})
    if (header.find(type) != std::string::npos && header.find("'fortran_order': False") != std::string::npos) {
      auto count = int64_t((content.size() - begin) / torch::elementSize(kind));
      return torch::from_blob(const_cast<char*>(content.data()) + begin, {count}, kind).clone();
    }
  throw std::runtime_error(name + ": holds other numbers than int64, float16 and float32");
}

// (requests, width): of each id of a column its vector, and 0; where the table lacks the id zeros, and 1. told: `frozen` of an
// input of dense.json.
inline torch::Tensor frozen_vectors(const Json& told, const std::string& column, int64_t width, const Version& version,
                                    const Requests& requests) {
  std::string folder = "meaning/" + told["folder"].content;
  auto array = [&](const std::string& name) { return npy(version.read(version.full, folder + name), folder + name); };
  torch::Tensor keys = array("/keys.npy"), vectors = array("/vectors.npy").view({keys.numel(), width - 1});
  const int64_t *first = keys.data_ptr<int64_t>(), *last = first + keys.numel();
  bool text = told["type"].content == "text";
  std::vector<Id> ids = requests.ids(column, text);
  torch::Tensor found = torch::zeros({requests.count, width});
  for (int64_t row = 0; row < requests.count; row++) {
    int64_t key = !ids[row] ? 0 : text ? int64_t(hash_text(*ids[row], 0)) : number_of(*ids[row]);
    const int64_t* at = std::lower_bound(first, last, key);
    if (!ids[row] || at == last || *at != key) found[row][width - 1] = 1;
    else found[row].narrow(0, 0, width - 1).copy_(vectors[at - first]);
  }
  return found;
}
