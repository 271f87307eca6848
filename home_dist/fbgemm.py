"""What to do where FBGEMM's operators cannot be loaded.

torchrec requires fbgemm-gpu, the CUDA build. pip installs it over fbgemm-gpu-cpu, in the same folder, where it cannot be loaded
without CUDA's libraries.
"""

import importlib.metadata as metadata
import re
import traceback

_CPU, _GPU = "fbgemm-gpu-cpu", "fbgemm-gpu"


def explained(error: BaseException) -> str | None:
    """The message for an error that importing FBGEMM has raised, here or below torchrec; None for another error."""
    if not isinstance(error, ImportError | OSError):
        return None
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not any(f.endswith("fbgemm_gpu/__init__.py") for f in files) and getattr(error, "name", None) != "fbgemm_gpu":
        return None
    there = [f"{name} {version}" for name in (_CPU, _GPU) if (version := installed(name))]
    found = f"{' and '.join(there)} {'are' if len(there) > 1 else 'is'} installed" if there else "it is not installed"
    pin = pinned()
    return (
        f"FBGEMM's operators cannot be loaded ({error}); {found}. torchrec brings {_GPU}, the CUDA build, which pip installs "
        f"over {_CPU} in the same folder. Without CUDA's libraries: pip install --force-reinstall --no-deps {_CPU}{pin}; with "
        f"them: pip install --force-reinstall --no-deps {_GPU}{pin}."
    )


def installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def pinned() -> str:
    """The version that this package asks for, as in "==1.8.0"; empty where that is not told."""
    try:
        required = metadata.requires("home_dist") or []
    except metadata.PackageNotFoundError:
        return ""
    found = (re.match(rf"{_CPU}(==[\w.]+)", r) for r in required)
    return next((match[1] for match in found if match), "")
