// Reads a published version (docs/publish.md): tables with their rows and the ids that own them, and dense tensors.
#pragma once
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <unordered_map>

#include "files.h"
#include "json.h"

// An id as requests hold it; nothing where it is missing. Integers are their 8 bytes, texts their UTF-8.
using Id = std::optional<std::string>;
inline std::string bytes_of(int64_t number) { return {reinterpret_cast<const char*>(&number), 8}; }
inline int64_t number_of(const std::string& bytes) { int64_t n; return std::memcpy(&n, bytes.data(), 8), n; }

struct Table {
  int64_t rows, dim, unknown_rows, set_rows;
  uint64_t seed;
  std::string kind, type;
  std::vector<double> boundaries;  // of kind "bucket"
  torch::Tensor values;            // (rows, dim) fp32
  std::vector<Id> owners;          // by slot
  std::vector<std::pair<std::string, int64_t>> aliases;
  std::unordered_map<std::string, int64_t> slots;  // by id

  explicit Table(const Json& told)
      : rows(told["rows"].integer()), dim(told["dim"].integer()), unknown_rows(told["key"]["unknown_rows"].integer()),
        set_rows(told["key"]["set_rows"].integer()), seed(told["key"]["seed"].integer()), kind(told["key"]["kind"].content),
        type(told["key"]["type"].content), values(torch::zeros({rows, dim})) {
    if (kind == "vocabulary" || kind == "managed") owners.resize(rows);
  }

  uint64_t hash(const std::string& id, uint64_t with) const {
    return type == "text" ? hash_text(id, with) : hash_integer(number_of(id), with);
  }

  int64_t slot_of(const Id& id) const {
    if (kind == "managed") {
      int64_t h = id ? hash(*id, seed) >> 2 : 0, sets = rows / set_rows;
      auto found = slots.find(bytes_of(h));
      return found != slots.end() ? found->second : h / (((int64_t(1) << 62) + sets - 1) / sets) * set_rows;
    }
    if (!id) return 0;
    if (kind == "vocabulary") {
      auto found = slots.find(*id);
      return found != slots.end() ? found->second : unknown_rows ? 1 + int64_t(hash(*id, 0) % unknown_rows) : 0;
    }
    if (kind == "hash") return 1 + hash(*id, seed) % (rows - 1);
    int64_t slot = number_of(*id);  // kind "row"
    return slot >= 0 && slot < rows ? slot : 0;
  }

  int64_t bucket_of(double number) const {  // NaN: missing
    return std::isnan(number) ? 0 : 1 + (std::upper_bound(boundaries.begin(), boundaries.end(), number) - boundaries.begin());
  }
};

class Version {
 public:
  Json manifest, full;  // of the version, and of the full one that it builds on
  std::map<std::string, Table> tables;
  std::unordered_map<std::string, torch::Tensor> dense;

  // version: empty for the current one.
  Version(const std::string& place, std::string version) : place_(place) {
    std::string sha256_of_it;
    if (version.empty()) {
      std::string current = read_file(place + "/current");
      size_t space = current.find(' ');
      if (space == std::string::npos) throw std::runtime_error(place + "/current: names no version");
      version = current.substr(0, space), sha256_of_it = current.substr(space + 1, 64);
    }
    std::vector<Json> chain = {read_manifest(version, sha256_of_it)};
    while (chain.back().has("base")) {
      const Json& base = chain.back()["base"];
      chain.push_back(read_manifest(base["version"].content, base["manifest_sha256"].content));
    }
    manifest = chain.front(), full = chain.back();
    for (auto& [name, told] : manifest["tables"].members) tables.emplace(name, told);
    Json boundaries = Json::parse(read(full, "meaning/boundaries.json"));
    for (auto& [name, table] : tables)
      if (table.kind == "bucket")
        for (auto& value : boundaries[name]["boundaries"].items) table.boundaries.push_back(value.real());
    for (auto one = chain.rbegin(); one != chain.rend(); one++) read_rows(*one);
    for (auto& [name, table] : tables) {
      for (size_t slot = 0; slot < table.owners.size(); slot++)
        if (table.owners[slot]) table.slots[*table.owners[slot]] = slot;
      for (auto& [id, slot] : table.aliases) table.slots[id] = slot;
    }
    read_dense(read(manifest, "dense.safetensors"));
  }

  // A file of a version, checked.
  std::string read(const Json& of, const std::string& name) const {
    std::string path = place_ + "/" + of["version"].content + "/" + name, content = read_file(path);
    const Json& entry = of["files"][name];
    if (int64_t(content.size()) != entry["bytes"].integer() || sha256(content) != entry["sha256"].content)
      throw std::runtime_error(path + ": is damaged: its size or SHA-256 is not the manifest's");
    return content;
  }

 private:
  std::string place_;

  Json read_manifest(const std::string& version, const std::string& sha256_of_it) {
    std::string path = place_ + "/" + version + "/manifest.json", content = read_file(path);
    if (!sha256_of_it.empty() && sha256(content) != sha256_of_it)
      throw std::runtime_error(path + ": is damaged: its SHA-256 is not the one that was named");
    Json found = Json::parse(content);
    if (found["format"].content != "home_dist version" || found["format_version"].integer() > 2)
      throw std::runtime_error(path + ": is of another format");
    return found;
  }

  void read_rows(const Json& of) {
    std::map<std::string, std::string> contents;
    for (auto& chunk : of["chunks"].items) {
      const std::string &file = chunk["file"].content, &kind = chunk["kind"].content;
      if (!contents.count(file)) contents[file] = read(of, file);
      const std::string& content = contents[file];
      auto array = [&](const char* key, int64_t bytes) {
        int64_t at = chunk[key].integer();
        if (at < 0 || bytes < 0 || at + bytes > int64_t(content.size()))
          throw std::runtime_error(file + ": a chunk reaches beyond it");
        return content.data() + at;
      };
      Table& table = tables.at(chunk["table"].content);
      int64_t n = chunk["n"].integer();
      std::vector<int64_t> slots(n), ends(chunk.has("ends") ? n : 0);
      std::memcpy(slots.data(), array("slots", 8 * n), 8 * n);
      if (!ends.empty()) std::memcpy(ends.data(), array("ends", 8 * n), 8 * n);
      for (int64_t i = 0; i < n; i++) {
        if (slots[i] < 0 || slots[i] >= table.rows) throw std::runtime_error(file + ": a row that its table has not");
        Id id;
        if (!ends.empty()) {
          int64_t begin = i ? ends[i - 1] : 0;
          id = std::string(array("ids", ends[i]) + begin, ends[i] - begin);
        } else if (chunk.has("ids")) {
          id = std::string(array("ids", 8 * n) + 8 * i, 8);
        }
        if (kind == "alias") table.aliases.emplace_back(*id, slots[i]);
        else if (table.owners.empty() || kind == "values") continue;  // ids that no request holds, or that stay
        else if (kind == "rows") table.owners[slots[i]] = id;
        else if (table.owners[slots[i]] == id) table.owners[slots[i]].reset();
      }
      if (kind == "rows" || kind == "values") write_rows(table, chunk, slots, array);
    }
  }

  template <class Array>
  void write_rows(Table& table, const Json& chunk, std::vector<int64_t>& slots, Array array) {
    const std::string& type = manifest["row_type"].content;
    int64_t n = slots.size(), columns = chunk["columns"].integer(), first = chunk["first_column"].integer();
    auto kind = type == "fp32" ? torch::kFloat : type == "fp16" ? torch::kHalf : torch::kByte;
    auto stored = [&](const char* key, int64_t width, torch::ScalarType of) {
      const char* from = array(key, n * width * int64_t(torch::elementSize(of)));
      return torch::from_blob(const_cast<char*>(from), {n, width}, of).to(torch::kFloat, false, true);
    };
    torch::Tensor values = stored("values", columns, kind);
    if (type == "int8") {
      torch::Tensor scales = stored("scales", 2, torch::kFloat);
      values = values * scales.narrow(1, 0, 1) + scales.narrow(1, 1, 1);
    }
    torch::Tensor at = torch::from_blob(slots.data(), {n}, torch::kLong);
    table.values.narrow(1, first, columns).index_copy_(0, at, values);
  }

  void read_dense(const std::string& content) {
    uint64_t length;
    std::memcpy(&length, content.data(), 8);
    Json header = Json::parse(content.substr(8, length));
    static const std::map<std::string, torch::ScalarType> types = {
        {"F64", torch::kDouble}, {"F32", torch::kFloat}, {"F16", torch::kHalf}, {"BF16", torch::kBFloat16},
        {"I64", torch::kLong},   {"I32", torch::kInt},   {"U8", torch::kByte},  {"BOOL", torch::kBool}};
    for (auto& [name, told] : header.members) {
      if (name == "__metadata__") continue;
      std::vector<int64_t> shape;
      for (auto& size : told["shape"].items) shape.push_back(size.integer());
      const char* from = content.data() + 8 + length + told["data_offsets"].items.at(0).integer();
      dense[name] = torch::from_blob(const_cast<char*>(from), shape, types.at(told["dtype"].content)).clone();
    }
  }
};
