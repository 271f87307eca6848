"""benchmarks/gpu_day.py, which waits for a GPU: on a CPU, in tiny sizes, with as few packages as a machine that is lent has."""

import json
import os
import subprocess
import sys
import time

import pytest

from benchmarks import gpu_day
from benchmarks.gpu_day_report import picture, table
from tests.ranks import REPOSITORY

BLOCKER = """
import importlib.machinery, sys

ALLOWED = {"torch", "torchgen", "functorch", "triton", "numpy", "pydantic", "pydantic_core", "home_dist", "benchmarks"}
# What those four stand on.
ALLOWED |= {"typing_extensions", "annotated_types", "typing_inspection", "sympy", "mpmath", "networkx", "jinja2", "markupsafe"}
ALLOWED |= {"filelock", "fsspec", "setuptools", "pkg_resources", "gpu_day_steps"}


class Some:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_"):
            return importlib.machinery.PathFinder.find_spec(name, path, target)
        carried = [p for p in path or sys.path if "setuptools/_vendor" in p]  # by setuptools itself
        return importlib.machinery.PathFinder.find_spec(name, carried, target) if carried else None


sys.meta_path[:] = [Some() if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
"""


def bare(tmp_path) -> dict[str, str]:
    """The environment of processes that find torch, triton, numpy and pydantic alone."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{REPOSITORY}", "OMP_NUM_THREADS": "1"}


def test_experts_models_encoders_and_metrics_import_without_torchrec(tmp_path):
    code = (
        "import importlib, pkgutil, sys\n"
        "import home_dist.experts, home_dist.models, home_dist.sequence, home_dist.metrics\n"
        "for p in (home_dist.models, home_dist.sequence, home_dist.experts):\n"
        "    [importlib.import_module(m.name) for m in pkgutil.iter_modules(p.__path__, p.__name__ + '.')]\n"
        "from home_dist.metrics import auc\n"
        "import numpy as np\n"
        "assert auc(np.array([0., 1.]), np.array([0.1, 0.2])) == 1\n"
        "for blocked in ('torchrec', 'pyarrow'):\n"
        "    try:\n"
        "        importlib.import_module(blocked)\n"
        "    except ModuleNotFoundError:\n"
        "        continue\n"
        "    sys.exit(f'{blocked} was found: this test proves nothing')\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=bare(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_whole_day_on_a_cpu(tmp_path):
    command = [sys.executable, "-W", "ignore", "benchmarks/gpu_day.py", "--quick", "--results", str(tmp_path / "gpu")]
    done = subprocess.run(command, cwd=REPOSITORY, env=bare(tmp_path), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    [path] = (tmp_path / "gpu").glob("*.json")
    found = json.loads(path.read_text())
    assert found["gpu"] is False
    assert list(found["steps"]) == [s.name for s in gpu_day.STEPS]
    for name, step in found["steps"].items():
        assert step["items"] or name == "sanitizer", name
        assert "ended" not in step or name == "sanitizer", (name, step)
        assert not [item for item in step["items"].values() if "error" in item], step
    kernels = found["steps"]["kernels"]["items"]
    assert len(kernels) == 8
    assert all(item["right"] for item in kernels.values()), kernels
    assert set(found["steps"]["models"]["items"]) == {f"{m}, fp32" for m in ("home", "mmoe", "ple", "smes")}
    assert list(found["steps"]["compiled"]["items"]) == [
        "mmoe, fp32, compile: first steps",
        "mmoe, fp32, triton",
        "mmoe, fp32, compile",
    ]
    assert "claim:" not in done.stdout  # a CPU says nothing of a GPU's speed
    assert "No GPU: Triton's interpreter ran tiny sizes" in path.with_suffix(".md").read_text()


def test_a_step_that_takes_too_long_keeps_what_it_found():
    code = 'import time; print(\'{"item": "first", "x": 1}\', flush=True); time.sleep(60)'
    began = time.monotonic()
    found = gpu_day.run_step(gpu_day.Step("slow", 2), [sys.executable, "-c", code], on_gpu=False)
    assert time.monotonic() - began < 20
    assert found == {"items": {"first": {"x": 1}}, "ended": "not done after 2 s"}


def test_a_step_that_fails_tells_why():
    code = 'print(\'{"item": "first", "x": 1}\'); raise SystemExit(\'no such kernel\')'
    found = gpu_day.run_step(gpu_day.Step("broken", 60), [sys.executable, "-c", code], on_gpu=False)
    assert found == {"items": {"first": {"x": 1}}, "ended": "exit code 1: no such kernel"}


def found_on_a_gpu(bank: float, home: float) -> dict:
    items = {"large, 24 experts, bf16": {"size": "large", "experts": 24, "precision": "bf16", "products": 0.75, "loop": 3.0}}
    items["large, 24 experts, bf16"]["home_dist"] = bank
    models = {
        "home, bf16": {"samples_per_s": 1.0, "with_graph": {"samples_per_s": home}},
        "home of plain modules, compiled, bf16": {"samples_per_s": 1.0},
    }
    of = {"device": "D", "gpu": True, "quick": False, "torch": "2.11", "cuda": "13.0", "python": "3.12"}
    return {**of, "steps": {"bank": {"items": items}, "models": {"items": models}}}


def test_claims_are_of_a_gpu_alone():
    lines = gpu_day.claims(found_on_a_gpu(bank=1.0, home=2.0))
    assert [line.rpartition(": ")[2] for line in lines] == ["met", "met", "met"]
    lines = gpu_day.claims(found_on_a_gpu(bank=1.01, home=1.99))
    assert [line.rpartition(": ")[2] for line in lines] == ["short", "short", "short"]
    assert gpu_day.claims({**found_on_a_gpu(1.0, 2.0), "gpu": False}) == []
    assert gpu_day.claims({**found_on_a_gpu(1.0, 2.0), "quick": True}) == []
    assert gpu_day.claims({**found_on_a_gpu(1.0, 2.0), "steps": {}}) == []


def test_table_and_picture(tmp_path):
    found = found_on_a_gpu(1.0, 2.0)
    text = table(found)
    assert "# D, torch 2.11, CUDA 13.0, Python 3.12" in text
    assert "| large, 24 experts, bf16 | large | 24 | bf16 | 0.75 | 3 | 1 |" in text
    assert "with_graph samples_per_s" in text
    assert picture(found, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 1000
