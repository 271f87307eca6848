"""The C++ libraries that every training on CPU needs, compiled while the command imports torch and TorchRec."""

from pathlib import Path

from home_dist.native_library import PARALLEL, PLAIN, build_beside

_PACKAGE = Path(__file__).parent.parent
LIBRARIES = (
    (_PACKAGE / "experts" / "kernels" / "native" / "passes.cpp", (*PARALLEL, "-DFP32")),
    (_PACKAGE / "data" / "native" / "columns.cpp", PLAIN),
    (_PACKAGE / "data" / "native" / "distinct.cpp", PLAIN),
    (_PACKAGE / "embeddings" / "native" / "initial.cpp", PLAIN),
    (_PACKAGE / "embeddings" / "native" / "side_by_side.cpp", (*PARALLEL, "-DFP32")),
)
"""(source, flags), as the modules beside the sources load them. Others are compiled when a run uses them."""


def build_beside_imports() -> None:
    build_beside(LIBRARIES)
