// Columns of golden.parquet as ids and numbers, read with Arrow.
#pragma once
#include <arrow/api.h>
#include <arrow/compute/cast.h>
#include <arrow/io/api.h>
#include <parquet/arrow/reader.h>

#include "version.h"

template <class T>
T sure(arrow::Result<T> result) {
  if (!result.ok()) throw std::runtime_error("golden.parquet: " + result.status().ToString());
  return std::move(result).ValueUnsafe();
}

class Requests {
 public:
  int64_t count;

  explicit Requests(const std::string& parquet) {
    auto file = std::make_shared<arrow::io::BufferReader>(arrow::Buffer::FromString(parquet));
    auto reader = sure(parquet::arrow::OpenFile(file, arrow::default_memory_pool()));
    table_ = sure(sure(reader->ReadTable())->CombineChunks());
    count = table_->num_rows();
  }

  // (count,) values of each list of a column.
  torch::Tensor lengths(const std::string& column) const {
    auto lists = lists_of(column);
    torch::Tensor found = torch::empty({count}, torch::kLong);
    for (int64_t i = 0; i < count; i++) found[i] = lists->IsNull(i) ? 0 : lists->value_length(i);
    return found;
  }

  bool is_null(const std::string& column, int64_t row) const { return of(column)->IsNull(row); }

  // A column's values as floats of 64 bits, NaN for null; of lists, all their values.
  torch::Tensor numbers(const std::string& column) const {
    auto values = std::static_pointer_cast<arrow::DoubleArray>(cast(flat(column), arrow::float64()));
    torch::Tensor found = torch::empty({values->length()}, torch::kDouble);
    for (int64_t i = 0; i < values->length(); i++) found[i] = values->IsNull(i) ? NAN : values->Value(i);
    return found;
  }

  std::vector<Id> ids(const std::string& column, bool text) const {
    std::vector<Id> found;
    auto values = cast(flat(column), text ? arrow::large_utf8() : arrow::int64());
    for (int64_t i = 0; i < values->length(); i++) {
      if (values->IsNull(i)) found.emplace_back();
      else if (text) found.emplace_back(static_cast<const arrow::LargeStringArray&>(*values).GetString(i));
      else found.emplace_back(bytes_of(static_cast<const arrow::Int64Array&>(*values).Value(i)));
    }
    return found;
  }

 private:
  std::shared_ptr<arrow::Table> table_;

  std::shared_ptr<arrow::Array> of(const std::string& column) const {
    auto found = table_->GetColumnByName(column);
    if (!found) throw std::runtime_error("golden.parquet has no column " + column);
    return found->num_chunks() ? found->chunk(0) : sure(arrow::MakeEmptyArray(found->type()));
  }

  using Array = std::shared_ptr<arrow::Array>;

  static Array cast(const Array& values, const std::shared_ptr<arrow::DataType>& to) {
    auto options = arrow::compute::CastOptions::Safe(to);
    options.allow_int_overflow = true;  // an unsigned id of 64 bits keeps its bits
    return sure(arrow::compute::Cast(*values, to, options));
  }

  std::shared_ptr<arrow::LargeListArray> lists_of(const std::string& column) const {
    auto lists = of(column);
    auto values = lists->type()->field(0)->type();
    return std::static_pointer_cast<arrow::LargeListArray>(cast(lists, arrow::large_list(values)));
  }

  std::shared_ptr<arrow::Array> flat(const std::string& column) const {
    auto values = of(column);
    auto kind = values->type_id();
    bool list = kind == arrow::Type::LIST || kind == arrow::Type::LARGE_LIST || kind == arrow::Type::FIXED_SIZE_LIST;
    return list ? sure(lists_of(column)->Flatten()) : values;
  }
};
