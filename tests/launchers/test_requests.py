"""What torchx would send to each scheduler, against files that were read and kept: golden/SCHEDULER.txt.

After a change that is meant, `UPDATE_GOLDEN=1 pytest tests/launchers/test_requests.py` writes them anew; read the difference.
"""

import os
from pathlib import Path

import pytest
from torchx.runner import get_runner

from tests.ranks import REPOSITORY

GOLDEN = Path(__file__).parent / "golden"
TRAIN = ["--config", "configs/kuairand_pure.toml", "--gpu", "8", "--max_retries", "3"]
PYTHON = ["--python", "/env/bin/python"]
IMAGE = ["--image", "registry/home_dist:1"]
REQUESTS = {
    "local_cwd": ("local_cwd", {"log_dir": "/logs"}, [*TRAIN[:2], *PYTHON, "-j", "2x2"]),
    "local_docker": ("local_docker", {}, [*TRAIN, *IMAGE, "-j", "2x8"]),
    "slurm": ("slurm", {"partition": "gpu", "time": "8:00:00"}, [*TRAIN, *PYTHON, "-j", "2x8", "--memMB", "500000"]),
    "kubernetes": ("kubernetes", {"queue": "default"}, [*TRAIN, *IMAGE, "-j", "2x8"]),
    "kubernetes_elastic": ("kubernetes", {"queue": "default"}, [*TRAIN, *IMAGE, "-j", "1:2x8"]),
}


@pytest.mark.filterwarnings(
    "ignore:.*Volcano does NOT support retries:UserWarning", "ignore:\\s+Role train configured with restarts"
)
@pytest.mark.parametrize("name", REQUESTS)
def test_request(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("PATH", "/nowhere")  # torchx asks a Slurm that is there for its partitions
    for module in ("local_scheduler", "docker_scheduler", "kubernetes_scheduler"):
        monkeypatch.setattr(f"torchx.schedulers.{module}.make_unique", lambda app: f"{app}-ID")
    scheduler, options, arguments = REQUESTS[name]
    with get_runner() as runner:
        request = runner.dryrun_component("launchers/components.py:train", arguments, scheduler=scheduler, cfg=options)
    text = str(request).replace(str(REPOSITORY), "REPOSITORY").rstrip() + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
