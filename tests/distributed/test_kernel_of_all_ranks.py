"""Hosts that differ: one has a compiler for the passes of experts, the other has none."""

import subprocess
import sys

import pytest

from tests.factory import make_config, make_data
from tests.ranks import REPOSITORY, environment, finish, free_port, run, settings

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SHORT = settings(train__max_steps=4, data__validation="''", data__test="''", model__feature_gate="true")


def test_all_ranks_are_eager_where_one_has_no_compiler(tmp_path):
    data = make_data(tmp_path / "data", rows=512, files=2, row_group=64)
    (tmp_path / "one").mkdir()
    (tmp_path / "both").mkdir()
    config, port = make_config(tmp_path / "one", data, batch_size=32), free_port()
    command = [sys.executable, "-m", "home_dist.cli", "train", str(config), *SHORT]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": REPOSITORY}
    without = {"CXX": "/no/such/compiler"}
    processes = [
        subprocess.Popen(command, env=environment(rank, 2, port) | (without if rank else {}), **pipes) for rank in (0, 1)
    ]
    ended = finish(processes)
    assert ended.codes == [0, 0], ended.text
    assert "expert kernel of this model: eager, fp32 (as on rank 1: no compiled passes: /no/such/compiler failed" in ended.text
    eager = run(2, "train", make_config(tmp_path / "both", data, batch_size=32), *SHORT, *settings(kernel__backend="eager"))
    assert eager.codes == [0, 0], eager.text
    assert ended.losses() == eager.losses()
