#!/bin/sh
# sh build.sh PYTHON OUT    builds main.cpp with the libraries and headers of PYTHON's torch and pyarrow (C++20, Linux).
set -e
here=$(cd "$(dirname "$0")" && pwd)
torch=$("$1" -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])")
arrow=$("$1" -c "import importlib.util as u; print(u.find_spec('pyarrow').submodule_search_locations[0])")
# The headers of both make the compiler warn; -isystem keeps warnings to this program's own code.
${CXX:-g++} -std=c++20 -O1 -Wall "$here/main.cpp" -o "$2" \
  -isystem "$torch/include" -isystem "$torch/include/torch/csrc/api/include" -isystem "$arrow/include" \
  -L"$torch/lib" -ltorch -ltorch_cpu -lc10 "$arrow"/libarrow.so.* "$arrow"/libparquet.so.* \
  -Wl,--no-as-needed -Wl,-rpath,"$torch/lib" -Wl,-rpath,"$arrow"
