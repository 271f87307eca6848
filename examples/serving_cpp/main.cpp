// Answers a published version's golden requests with a compiled dense program, and compares with the trainer's answers.
//
//   serve PROGRAM VERSIONS [VERSION]
//
// PROGRAM: folder of `home-dist export RUN --format dense --compiled`; VERSIONS: folder of `home-dist publish`; VERSION: such
// as v000003, by default the current one. Exit code 0: the answers are the trainer's; 1: they are too far apart; 2: what is
// damaged, or does not belong together, is told.
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <iostream>

#include "frozen.h"

// The slots that a column of requests reads in a table.
static torch::Tensor slots_of(const Table& table, const std::string& column, const Requests& requests) {
  std::vector<int64_t> slots;
  if (table.kind == "bucket") {
    torch::Tensor numbers = requests.numbers(column);
    for (int64_t i = 0; i < numbers.numel(); i++) slots.push_back(table.bucket_of(numbers[i].item<double>()));
  } else {
    for (auto& id : requests.ids(column, table.kind != "row" && table.type == "text")) slots.push_back(table.slot_of(id));
  }
  return torch::tensor(slots, torch::kLong);
}

// An input of one column, or a part of an input of several.
static torch::Tensor part_of(const Json& told, const Json& part, const Version& version, const Requests& requests) {
  const std::string &kind = told["kind"].content, &column = part["column"].content;
  if (kind == "rows" || kind == "slots") {
    const Table& table = version.tables.at(part["table"].content);
    torch::Tensor slots = slots_of(table, column, requests);
    return kind == "slots" ? slots : table.values.index_select(0, slots);
  }
  if (told.has("frozen"))
    return frozen_vectors(told["frozen"], column, told["shape"].items.at(1).integer(), version, requests);
  torch::Tensor numbers = requests.numbers(column);
  if (kind == "number") return numbers;
  if (kind == "weights" || kind == "duration") return numbers.to(torch::kFloat);
  int64_t width = told["shape"].items.at(1).integer();
  if (kind == "vector") return numbers.view({requests.count, width});
  torch::Tensor found = torch::zeros({requests.count, width});  // "pretrained": a vector, and 1 where it is missing
  for (int64_t row = 0, at = 0; row < requests.count; row++) {
    if (requests.is_null(column, row)) found[row][width - 1] = 1;
    else found[row].narrow(0, 0, width - 1).copy_(numbers.narrow(0, at, width - 1)), at += width - 1;
  }
  return found;
}

// An input of the program, as dense.json describes it.
static torch::Tensor input_of(const std::string& name, const Json& inputs, const Version& version, const Requests& requests) {
  const Json& told = inputs[name];
  if (told.has("parts")) {
    std::vector<torch::Tensor> parts;
    for (auto& part : told["parts"].items) parts.push_back(part_of(told, part, version, requests));
    return torch::stack(parts, 1);
  }
  const std::string& kind = told["kind"].content;
  if (kind == "lengths") {  // as long as any column of the group
    for (auto& [other, one] : inputs.members)
      if (one.has("lengths") && one["lengths"].content == name) return requests.lengths(one["column"].content);
    throw std::runtime_error(name + ": no column tells them");
  }
  return part_of(told, told, version, requests);
}

static int serve(const std::string& program, const std::string& versions, const std::string& wanted) {
  Json about = Json::parse(read_file(program + "/dense.json"));
  Version version(versions, wanted);
  if (about["meaning"].content != version.manifest["meaning"].content)
    throw std::runtime_error(program + ": its schema is not that of " + version.manifest["version"].content);

  torch::inductor::AOTIModelPackageLoader loader(program + "/dense.aot.pt2");
  std::unordered_map<std::string, torch::Tensor> exchanged;
  for (auto& name : about["parameters"].items) {
    auto found = version.dense.find(name.content);
    if (found == version.dense.end()) throw std::runtime_error("dense.safetensors has no " + name.content);
    exchanged.insert(*found);
  }
  loader.load_constants(exchanged, /*use_inactive=*/false, /*check_full_update=*/false);

  Requests requests(version.read(version.manifest, "golden.parquet"));
  const Json& inputs = about["inputs"];
  std::vector<torch::Tensor> given;
  for (auto& name : about["order"].items) given.push_back(input_of(name.content, inputs, version, requests));
  torch::Tensor answers = loader.run(given).at(0);  // (requests, predictions)

  const std::string& rows = version.manifest["row_type"].content;
  double allowed = rows == "fp32" ? 1e-5 : rows == "fp16" ? 2e-3 : 2e-2, largest = 0;
  for (size_t k = 0; k < version.manifest["predictions"].items.size(); k++) {
    const std::string& name = version.manifest["predictions"].items[k]["name"].content;
    torch::Tensor expected = requests.numbers("answer." + name), answer = answers.select(1, k).to(torch::kDouble);
    double apart = ((answer - expected).abs() / expected.abs().clamp_min(1)).max().item<double>();
    std::cout << name << ": " << requests.count << " requests, largest difference " << apart << "\n";
    largest = std::isnan(apart) ? INFINITY : std::max(largest, apart);
  }
  std::cout << version.manifest["version"].content << ", " << rows << " rows, allowed " << allowed << ": "
            << (largest <= allowed ? "as the trainer answers" : "too far apart") << std::endl;
  return largest <= allowed ? 0 : 1;
}

int main(int count, char** words) {
  if (count != 3 && count != 4) return std::cerr << "usage: serve PROGRAM VERSIONS [VERSION]\n", 2;
  torch::InferenceMode without_gradients;
  try {
    return serve(words[1], words[2], count == 4 ? words[3] : "");
  } catch (const c10::Error& error) {
    return std::cerr << "serve: " << error.what_without_backtrace() << std::endl, 2;
  } catch (const std::exception& error) {
    return std::cerr << "serve: " << error.what() << std::endl, 2;
  }
}
