"""torchx components: `torchx run launchers/components.py:train --config configs/kuairand_pure.toml -j 1x2`.

torchx hands the job to a scheduler (this machine by default, see .torchxconfig; `-s slurm`, `-s kubernetes`), which
starts torchrun on each node, which starts the ranks. torchx reads this file alone: it can import nothing beside it.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torchx import specs
from torchx.components import dist


def train(
    *overrides: str,
    config: str,
    j: str = "1x1",
    set: str = "",
    name: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
    rdzv_port: int = 29500,
    max_retries: int = 0,
) -> specs.AppDef:
    """Trains a model, or goes on with a run that was interrupted.

    Args:
        overrides: more of --set, and last: --set train.batch_size=4096 train.epochs=2
        config: TOML file of the run
        j: nodes x processes per node; on GPU nodes one process per GPU
        set: KEY=VALUE, overrides a key of the configuration
        name: of the job, by default train
        cpu: cores per node to ask the scheduler for, by default one per process
        gpu: GPUs per node to ask the scheduler for
        memMB: memory per node to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu, gpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the nodes, by default the one that runs torchx, or with an image "python"
        rdzv_port: a port of the first node, for runs of several nodes
        max_retries: how often the scheduler may start a failed job again; it goes on from its newest checkpoint
    """
    values = [v for v in (set, *overrides) if v]
    for value in values:
        if value.startswith("-") or "=" not in value:
            _refuse(f"override {value!r} is not KEY=VALUE. Overrides come last: -j 1x2 --set train.epochs=2 train.seed=1")
    options = [part for value in values for part in ("--set", value)]
    resource = _resource(cpu, gpu, memMB, h)
    return job("train", [config, *options], j, name, resource, image, python, rdzv_port, max_retries)


def evaluate(
    run: str,
    j: str = "1x1",
    split: str = "",
    checkpoint: str = "",
    name: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Evaluates a checkpoint of a run, on any number of processes.

    Args:
        run: the run's folder
        j: nodes x processes per node; on GPU nodes one process per GPU
        split: of train, validation and test, one or several with commas between; by default validation,test
        checkpoint: a checkpoint of the run, by default the newest
        name: of the job, by default evaluate
        cpu: cores per node to ask the scheduler for, by default one per process
        gpu: GPUs per node to ask the scheduler for
        memMB: memory per node to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu, gpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the nodes, by default the one that runs torchx, or with an image "python"
        rdzv_port: a port of the first node, for runs of several nodes
    """
    options = [part for s in split.split(",") if s for part in ("--split", s)]
    options += ["--checkpoint", checkpoint] if checkpoint else []
    return job("evaluate", [run, *options], j, name, _resource(cpu, gpu, memMB, h), image, python, rdzv_port)


def job(
    command: str,
    arguments: Sequence[str],
    j: str,
    name: str = "",
    resource: Mapping[str, Any] = MappingProxyType({}),
    image: str = "",
    python: str = "",
    port: int = 29500,
    retries: int = 0,
    module: str = "home_dist.cli",
) -> specs.AppDef:
    """`python -m MODULE COMMAND ARGUMENTS` under torchrun, on the nodes and processes of `j`."""
    nodes, ranks = _nodes_and_ranks(j)
    result = dist.ddp(
        command,
        # torchx replaces ${...} in arguments by its macros; a $ of the user's stays one.
        *(argument.replace("$", "$$") for argument in arguments),
        m=module,
        name=name or command,
        image=image or "home_dist",
        j=f"{nodes}x{ranks}",
        rdzv_port=port,
        max_retries=retries,
        tee=0,  # ranks write to the node's log as they are: the first one speaks, the others only when they fail
        env={"PYTHONUNBUFFERED": "1"},
        **{**resource, "cpu": resource.get("cpu") or ranks},
    )
    role = result.roles[0]
    role.name = command
    # dist.ddp looks for torchrun on PATH, which may be another environment's, or none.
    torchrun, _, rest = role.args[1].partition(" ")
    if torchrun != "torchrun":
        raise RuntimeError(f"torchx starts {torchrun!r} where 0.7.0 starts torchrun: adapt launchers/components.py")
    interpreter = shlex.quote(python or ("python" if image else sys.executable))
    role.args[1] = f"{_threads(ranks)} exec {interpreter} -m launchers.torchrun {rest}"
    return result


def _resource(cpu: int, gpu: int, memMB: int, h: str) -> dict[str, Any]:
    return {"cpu": cpu, "gpu": gpu, "memMB": memMB, "h": h or None}


def _threads(ranks: int) -> str:
    """Shell: the cores of the node, which may have more than this machine, shared by its ranks; torchrun says 1."""
    return f"export OMP_NUM_THREADS=$${{OMP_NUM_THREADS:-$$((n=$$(nproc)/{ranks},n>0?n:1))}};"


def _nodes_and_ranks(j: str) -> tuple[int, int]:
    nodes, x, ranks = j.partition("x")
    if not (nodes.isdigit() and (ranks.isdigit() or not x)) or 0 in (int(nodes), int(ranks or 1)):
        _refuse(f"-j {j!r} is not NODESxPROCESSES, for example 1x2: one node with two processes")
    return (int(nodes), int(ranks)) if x else (1, int(nodes))


def _refuse(message: str) -> None:
    """torchx shows other exceptions with a traceback."""
    raise SystemExit(f"error: {message}")
