"""The C++ library of the cpu backend: compiled for this processor at its first use, then called through ctypes."""

import ctypes
import functools
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from home_dist.native_library import PARALLEL, CannotBuild, native_library

_SOURCE = Path(__file__).parent / "native" / "passes.cpp"
_DTYPE_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}
_GEMM_NAMES = {torch.float32: "sgemm_", torch.float64: "dgemm_", torch.bfloat16: "gemm_bf16bf16f32_"}
_NEEDED = torch.float32, torch.float64


@functools.cache
def unavailable() -> str:
    """The reason why this machine cannot run the library; empty if it can. The first call compiles the library in seconds."""
    try:
        _library(_SOURCE, "fp32")
    except CannotBuild as error:
        return str(error).partition("\n")[0]
    missing = [_GEMM_NAMES[dtype] for dtype in _NEEDED if _find_gemm(dtype) is None]
    return f"the BLAS of torch has no usable {', '.join(missing)}" if missing else ""


def call(name: str, stored: torch.dtype, *arguments: Any, source: Path = _SOURCE) -> None:
    """Calls a function of native/passes.cpp, or of another source that includes its headers.

    stored: the dtype of stored activations, which selects the function's version. A tensor is passed as the pointer to its
    data, None as a null pointer, an int as 64 bits. Raises CannotBuild.
    """
    dtype = _DTYPE_NAMES[stored]
    function = getattr(_library(source, dtype), f"{name}_{dtype}")
    function(*(_as_c(argument) for argument in arguments))


@functools.cache
def _library(source: Path, dtype: str) -> ctypes.CDLL:
    """The functions of a dtype: a library of its own, which is compiled when a run first uses the dtype."""
    library = native_library(source, (*PARALLEL, f"-D{dtype.upper()}"))
    library.set_product_threads(_set_product_threads())
    library.set_product_without_bf16(gemm(torch.float32))
    return library


def gemm(dtype: torch.dtype) -> ctypes.c_void_p:
    """The matrix product of the BLAS within torch, as a function pointer. Raises CannotBuild.

    Of bf16 the result is fp32. Null if the BLAS has no fast one: the library then takes that of fp32, of operands made fp32.
    """
    if dtype == torch.bfloat16 and not multiplies_bf16():
        return ctypes.c_void_p()
    function = _find_gemm(dtype)
    if function is None:
        raise CannotBuild(f"the BLAS of torch has no usable matrix product for {dtype}")
    return function


@functools.cache
def multiplies_bf16() -> bool:
    """Whether the BLAS multiplies bf16 faster than fp32: MKL with AMX does. With AVX-512's instructions for bf16 alone it takes
    longer than for fp32."""
    return torch.cpu.get_capabilities().get("amx_bf16", False) and _find_gemm(torch.bfloat16) is not None


def pointers(tensors: Sequence[torch.Tensor | None]) -> Any:
    """A C array of pointers to the data of tensors, null for None."""
    return addresses_as_c([None if t is None else t.data_ptr() for t in tensors])


def pointers_within(tensors: Sequence[torch.Tensor | None]) -> Any:
    """The same, of a tensor (n, B, F) to the data of each of its n matrices, without an operator for each."""
    return addresses_as_c([address for t in tensors for address in addresses(t)])


def addresses(tensor: torch.Tensor | None) -> list[int | None]:
    """Where the data of a matrix, or of each matrix of (n, B, F), begin."""
    if tensor is None:
        return [None]
    first, step = tensor.data_ptr(), tensor.stride(0) * tensor.element_size()
    return [first + i * step for i in range(len(tensor) if tensor.dim() == 3 else 1)]


def addresses_as_c(values: Sequence[int | None]) -> Any:
    """A C array of pointers, null for None."""
    return (ctypes.c_void_p * len(values))(*values)


def sizes(values: Sequence[int]) -> Any:
    """A C array of 64-bit integers."""
    return (ctypes.c_int64 * len(values))(*values)


def accumulator_dtype(stored: torch.dtype) -> torch.dtype:
    """The dtype in which the library computes and sums activations that are stored as `stored`."""
    return torch.float32 if stored == torch.bfloat16 else stored


def check_dtypes(*tensors: torch.Tensor, inputs: Sequence[torch.Tensor] = (), bf16: bool = False) -> None:
    """Raises TypeError unless all tensors are fp32, or all are fp64. bf16: whether inputs may be bf16, too."""
    dtypes = {t.dtype for t in tensors} | ({x.dtype for x in inputs} - ({torch.bfloat16} if bf16 else set()))
    if len(dtypes) > 1 or not dtypes <= {torch.float32, torch.float64}:
        raise TypeError(f"the cpu kernel takes fp32 or fp64 throughout, got {', '.join(sorted(map(str, dtypes)))}")


def _as_c(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, torch.Tensor) else argument


def _set_product_threads() -> ctypes.c_void_p:
    """MKL's function that sets how many threads the products of one thread use; null if torch's BLAS is another (pool.hpp)."""
    for library in _torch_libraries():
        with suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(str(library)).MKL_Set_Num_Threads_Local, ctypes.c_void_p)
    return ctypes.c_void_p()


def _torch_libraries() -> list[Path]:
    return sorted((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))


@functools.cache
def _find_gemm(dtype: torch.dtype) -> ctypes.c_void_p | None:
    """None if torch exports no such function, or if the function computes a wrong product."""
    if dtype not in _GEMM_NAMES or sys.byteorder != "little":
        return None
    for library in _torch_libraries():
        try:
            function = getattr(ctypes.CDLL(str(library)), _GEMM_NAMES[dtype])
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p) if _multiplies(function, dtype) else None
    return None


def _multiplies(function: Any, dtype: torch.dtype) -> bool:
    a, b = torch.arange(6, dtype=dtype).view(2, 3), torch.arange(12, dtype=dtype).view(3, 4) - 5
    c = torch.zeros(2, 4, dtype=accumulator_dtype(dtype))
    scalars = torch.ones((), dtype=c.dtype), torch.zeros((), dtype=c.dtype)
    n, k, m = (ctypes.byref(ctypes.c_int64(size)) for size in (2, 3, 4))
    one, zero, a_at, b_at, c_at = (ctypes.c_void_p(t.data_ptr()) for t in (*scalars, a, b, c))
    function(b"N", b"N", m, n, k, one, b_at, m, a_at, k, zero, c_at, m)
    return torch.equal(c, a.to(c.dtype) @ b.to(c.dtype))
