"""The library in native/, compiled for this processor when it is first needed: once per machine, in some seconds.

The library is kept in the user's cache under a name made of the source, the compiler and the processor. It is written to a
name of its own and then renamed, so that ranks that build at the same time do not disturb each other.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from home_dist.experts.kernels.activation import Activation
from home_dist.experts.kernels.places import Places

_SOURCES = Path(__file__).with_name("native")
_FLAGS = ["-O3", "-std=c++20", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
_TIMEOUT = 120.0  # seconds; it takes 5
_NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}


class CannotBuild(Exception):
    """Why the passes could not be compiled or loaded."""


class NativePasses:
    """The same methods as TorchPasses, each one call of the library."""

    about = "passes compiled for this processor"

    def __init__(self) -> None:
        """Raises CannotBuild."""
        self._library = _library()

    def bias_relu_(self, x: torch.Tensor, bias: torch.Tensor) -> None:
        self.call("bias_relu", x, x, bias, *x.shape)

    def relu_backward_(self, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
        sums = _like(x, x.shape[0], x.shape[2])
        self.call("relu_backward", x, x, grad, sums, *x.shape)
        return sums

    def moments(self, y: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        experts, _, width = y.shape
        mean, squares = _like(y, experts, width), _like(y, experts, width)
        self.call("moments", y, y, mask, mean, squares, *y.shape)
        return mean, squares

    def mix(self, y: torch.Tensor, activation: Activation, gates: torch.Tensor) -> torch.Tensor:
        experts, rows, width = y.shape
        out = _like(y, len(gates), rows, width)
        self.call("mix", y, y, activation.scale, activation.shift, *_strided(gates), out, len(gates), experts, rows, width)
        return out

    def mix_sums(
        self, grad: torch.Tensor, y: torch.Tensor, activation: Activation, gates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        experts, rows, width = y.shape
        gate_grad, shift_grad = _like(y, *gates.shape), _like(y, experts, width)
        scale_grad = None if activation.scale is None else _like(y, experts, width)
        results = (gate_grad, shift_grad, scale_grad)
        self.call("mix_sums", y, grad, y, *activation, *_strided(gates), *results, len(gates), experts, rows, width)
        return results

    def mix_inner_(
        self,
        grad: torch.Tensor,
        y: torch.Tensor,
        activation: Activation,
        gates: torch.Tensor,
        away: torch.Tensor | None,
        along: torch.Tensor | None,
        mask: torch.Tensor | None,
    ) -> None:
        experts, rows, width = y.shape
        statistics = (away, along, mask)
        self.call("mix_inner", y, grad, y, *activation, *statistics, *_strided(gates), len(gates), experts, rows, width)

    def gate(self, wide: torch.Tensor, share: torch.Tensor, x: torch.Tensor, inside: bool, out: torch.Tensor) -> None:
        self.call("gate", wide, wide, share, x, out, int(inside), *wide.shape)

    def gate_backward_(
        self,
        grad: torch.Tensor,
        wide: torch.Tensor,
        share: torch.Tensor,
        x: torch.Tensor,
        inside: bool,
        share_grad: torch.Tensor,
        x_grad: torch.Tensor | None,
        add: bool,
    ) -> None:
        self.call("gate_backward", wide, grad, wide, share, x, share_grad, x_grad, int(add), int(inside), *wide.shape)

    def gate_weights(self, scores: torch.Tensor, places: Places) -> torch.Tensor:
        gates, rows, width = scores.shape
        out = scores.new_empty(gates, rows, places.experts)
        sizes = (places.main, gates, rows, width, places.experts)
        self.call("gate_weights", scores, *_strided(scores), places.experts_of, places.alone, out, *sizes)
        return out

    def gate_weights_backward(self, grad: torch.Tensor, scores: torch.Tensor, places: Places) -> torch.Tensor:
        score_grad = torch.empty_like(scores)
        sizes = (places.main, *scores.shape, places.experts)
        self.call("gate_weights_backward", scores, grad, *_strided(scores), places.experts_of, places.alone, score_grad, *sizes)
        return score_grad

    def call(self, name: str, stored: torch.Tensor, *arguments: Any) -> None:
        """stored: a tensor of the type that activations are stored in. Tensors are passed as pointers; pointers as they are."""
        function = getattr(self._library, f"{name}_{_NAMES[stored.dtype]}")
        function(*(_plain(a) for a in arguments))


def _plain(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_int64(argument)
    return ctypes.c_void_p(argument.data_ptr()) if isinstance(argument, torch.Tensor) else argument


def _like(stored: torch.Tensor, *shape: int) -> torch.Tensor:
    """An empty tensor of the type that passes sum in."""
    return torch.empty(shape, dtype=torch.float32 if stored.dtype == torch.bfloat16 else stored.dtype)


def _strided(gates: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    return gates, gates.stride(0), gates.stride(1)


@functools.cache
def _library() -> ctypes.CDLL:
    compiler = os.environ.get("CXX") or next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        raise CannotBuild("no C++ compiler")
    try:
        asked = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, timeout=20, check=True)
        texts = [path.read_text() for path in sorted(_SOURCES.iterdir()) if path.suffix in (".hpp", ".cpp")]
        key = "\n".join([*texts, " ".join(_FLAGS), compiler, asked.stdout, _processor()])
        library = _folder() / f"passes-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        if not library.exists():
            _compile(compiler, library)
        return ctypes.CDLL(str(library))
    except subprocess.CalledProcessError as error:
        raise CannotBuild(f"{compiler} failed: {(error.stderr or error.stdout or '').strip()[:200]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuild(f"{compiler} failed: {error}") from None


def _compile(compiler: str, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        # Not every architecture's compiler knows -march=native.
        for target in (["-march=native"], ["-mcpu=native"], []):
            command = [*compiler.split(), *_FLAGS, *target, str(_SOURCES / "library.cpp"), "-o", str(made)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
            if ended.returncode == 0:
                break
        ended.check_returncode()
        os.replace(made, library)


def _folder() -> Path:
    """Where libraries are kept: the user's cache, or a folder of this user's for temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    for folder in (Path(cache) / "home_dist", Path(tempfile.gettempdir()) / f"home_dist-{os.getuid()}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        # A folder that someone else owns or may write could hold someone else's code.
        state = folder.stat()
        if state.st_uid == os.getuid() and not state.st_mode & 0o022 and os.access(folder, os.W_OK):
            return folder
    raise CannotBuild("no folder to keep the compiled passes in")


def _processor() -> str:
    """What -march=native depends on: a home folder may serve machines of several kinds."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
