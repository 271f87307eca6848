"""The wheel holds all that a run needs, and trains in a folder that is no checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from home_dist import __version__
from tests.ranks import REPOSITORY

SAMPLE = REPOSITORY / "examples" / "kuairand_pure"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "home_dist", source / "home_dist", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder / f"home_dist-{__version__}-py3-none-any.whl"


def test_every_file_of_the_package_is_in_the_wheel(wheel):
    there = {str(p.relative_to(REPOSITORY)) for p in (REPOSITORY / "home_dist").rglob("*") if p.is_file()}
    wanted = {name for name in there if "__pycache__" not in name}
    assert wanted - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.slow
def test_an_installed_wheel_compiles_its_kernels_and_trains_outside_of_the_checkout(wheel, tmp_path):
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    where = [sys.executable, "-P", "-c", "import home_dist; print(home_dist.__file__)"]
    ended = subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == str(installed / "home_dist" / "__init__.py")
    config = empty / "run.toml"
    shutil.copy(REPOSITORY / "configs" / "kuairand_pure.toml", config)
    settings = [f"data.path={SAMPLE}", "train.max_steps=2", "train.batch_size=64", "run.dir=run"]
    train = [sys.executable, "-P", "-m", "home_dist.cli", "train", str(config)]
    for setting in settings:
        train += ["--set", setting]
    ended = subprocess.run(train, cwd=empty, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "passes compiled for this processor" in ended.stdout
    assert len(list((tmp_path / "cache").rglob("passes-*.so"))) == 1
    assert (empty / "run" / "checkpoints").is_dir()
