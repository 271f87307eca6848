"""torchx components: `torchx run launchers/components.py:train --config configs/kuairand_pure.toml -j 1x2`.

torchx hands the job to a scheduler (this machine by default, see .torchxconfig; `-s slurm`, `-s kubernetes`), which
starts torchrun on each node, which starts the ranks. torchx reads this file alone: it can import nothing beside it.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torchx import specs
from torchx.components import dist

_ELASTIC_RESTARTS = 10


def train(
    *overrides: str,
    config: str,
    j: str = "1x1",
    set: str = "",
    warm_start: str = "",
    name: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
    rdzv_port: int = 29500,
    max_retries: int = 0,
    max_restarts: int = -1,
) -> specs.AppDef:
    """Trains a model, or goes on with a run that was interrupted.

    Args:
        overrides: more of --set, and last: --set train.batch_size=4096 train.epochs=2
        config: TOML file of the run
        j: nodes x processes per node; on GPU nodes one process per GPU; 2:4x8 for as many nodes as there are, from 2 to 4
        set: KEY=VALUE, overrides a key of the configuration
        warm_start: a checkpoint or run that a new run begins with
        name: of the job, by default train
        cpu: cores per node to ask the scheduler for, by default one per process
        gpu: GPUs per node to ask the scheduler for
        memMB: memory per node to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu, gpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the nodes, by default the one that runs torchx, or with an image "python"
        rdzv_port: a port of the first node, for runs of several nodes
        max_retries: how often the scheduler may start a failed job again; it goes on from its newest checkpoint
        max_restarts: how often torchrun may start the ranks again on the nodes that are left, by default 10 with a range of
            nodes and else 0
    """
    _look_for("config", config, image)
    options = ["--from", warm_start] if warm_start else []
    arguments = [config, *_overrides(set, overrides), *options]
    resource = _resource(cpu, gpu, memMB, h)
    return job("train", arguments, j, name, resource, image, python, rdzv_port, max_retries, max_restarts)


def evaluate(
    run: str,
    j: str = "1x1",
    split: str = "",
    checkpoint: str = "",
    data: str = "",
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
        data: other data to evaluate on, such as later days
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
    options += ["--data", data] if data else []
    return job("evaluate", [run, *options], j, name, _resource(cpu, gpu, memMB, h), image, python, rdzv_port)


def bench(
    *overrides: str,
    config: str,
    j: str = "1x1",
    set: str = "",
    steps: int = 50,
    out: str = "",
    name: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
    rdzv_port: int = 29500,
) -> specs.AppDef:
    """Times training: samples/s per device, where a step goes, memory, launches, shares of the device's limits.

    Args:
        overrides: more of --set, and last: --set train.batch_size=4096 model.kind=ple
        config: TOML file of the run
        j: nodes x processes per node; on GPU nodes one process per GPU
        set: KEY=VALUE, overrides a key of the configuration
        steps: how many are timed
        out: file for all figures, as JSON
        name: of the job, by default bench
        cpu: cores per node to ask the scheduler for, by default one per process
        gpu: GPUs per node to ask the scheduler for
        memMB: memory per node to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu, gpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the nodes, by default the one that runs torchx, or with an image "python"
        rdzv_port: a port of the first node, for runs of several nodes
    """
    _look_for("config", config, image)
    options = ["--steps", str(steps), *(["--out", out] if out else [])]
    arguments = [config, *_overrides(set, overrides), *options]
    return job("bench", arguments, j, name, _resource(cpu, gpu, memMB, h), image, python, rdzv_port)


def prepare(
    description: str,
    out: str,
    j: str = "1x1",
    memory: float = 2.0,
    engine: str = "local",
    like: str = "",
    hold_out: float = -1.0,
    work: str = "",
    name: str = "",
    cpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
    max_retries: int = 0,
) -> specs.AppDef:
    """Turns a log of impressions into a data folder; one that was killed goes on where it stopped.

    Args:
        description: TOML file that describes the log
        out: folder to write, or a URL
        j: 1x16 for 16 processes on one node; more nodes work through --engine ray and RAY_ADDRESS
        memory: GB for all processes together, about
        engine: local or ray
        like: data prepared before, from whose last day it goes on
        hold_out: share of users for validation, others each day; below 0, parts are as prepare has them by default
        work: URL of the work folder, for workers that share no disk
        name: of the job, by default prepare
        cpu: cores to ask the scheduler for, by default one per process
        memMB: memory to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the node, by default the one that runs torchx, or with an image "python"
        max_retries: how often the scheduler may start a failed job again
    """
    _, nodes, processes = _nodes_and_ranks(j)
    if nodes > 1:
        _refuse(f"-j {j}: prepare runs on one node, for example -j 1x16; --engine ray spreads its tasks over a cluster")
    _look_for("description", description, image)
    arguments = ["log", description, out, "--engine", engine, "--processes", str(processes), "--memory", str(memory)]
    arguments += ["--like", like] if like else []
    arguments += ["--hold-out", str(hold_out)] if hold_out >= 0 else []
    arguments += ["--work", work] if work else []
    return _alone("prepare", arguments, name, _resource(cpu or processes, 0, memMB, h), image, python, max_retries)


def export(
    run: str,
    out: str,
    j: str = "1x1",
    format: str = "safetensors",
    embeddings: str = "fp32",
    compiled: bool = False,
    since: str = "",
    name: str = "",
    cpu: int = 0,
    gpu: int = 0,
    memMB: int = -1,
    h: str = "",
    image: str = "",
    python: str = "",
) -> specs.AppDef:
    """Writes what others load: safetensors with an index, a scoring program, or the rows changed since a checkpoint.

    Args:
        run: the run's folder, RUN/best, or a checkpoint
        out: folder to write
        j: nodes x processes per node, of which a program's comparison with the trainer makes use
        format: safetensors, program or delta
        embeddings: of a program's sharded tables: fp32, fp16 or int8
        compiled: compile the program with AOTInductor too
        since: the checkpoint that a delta is from
        name: of the job, by default export
        cpu: cores per node to ask the scheduler for, by default one per process
        gpu: GPUs per node to ask the scheduler for
        memMB: memory per node to ask the scheduler for; below 0 leaves it to the scheduler
        h: a named resource of torchx, in place of cpu, gpu and memMB
        image: for Kubernetes and Docker, the image of the job
        python: the interpreter on the nodes, by default the one that runs torchx, or with an image "python"
    """
    options = ["--out", out, "--format", format, "--embeddings", embeddings]
    options += ["--compiled"] if compiled else []
    options += ["--since", since] if since else []
    return job("export", [run, *options], j, name, _resource(cpu, gpu, memMB, h), image, python)


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
    restarts: int = -1,
    module: str = "home_dist.cli",
) -> specs.AppDef:
    """`python -m MODULE COMMAND ARGUMENTS` under torchrun, on the nodes and processes of `j`."""
    least, most, ranks = _nodes_and_ranks(j)
    result = dist.ddp(
        command,
        *_literal(arguments),
        m=module,
        name=name or command,
        image=image or "home_dist",
        j=f"{least}:{most}x{ranks}" if least < most else f"{most}x{ranks}",
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
    if restarts < 0:
        restarts = _ELASTIC_RESTARTS if least < most else 0
    again = f"--max_restarts {restarts} " if restarts else ""
    role.args[1] = f"{_threads(ranks)} exec {_interpreter(python, image)} -m home_dist.torchrun {again}{rest}"
    return result


def _alone(
    command: str, arguments: Sequence[str], name: str, resource: Mapping[str, Any], image: str, python: str, retries: int
) -> specs.AppDef:
    """`python -m home_dist.cli COMMAND ARGUMENTS`, one process that starts others itself."""
    line = shlex.join(["-m", "home_dist.cli", command, *_literal(arguments)])
    role = specs.Role(
        name=command,
        image=image or "home_dist",
        entrypoint="bash",
        args=["-c", f"exec {_interpreter(python, image)} {line}"],
        env={"PYTHONUNBUFFERED": "1"},
        resource=specs.resource(**resource),
        max_retries=retries,
    )
    return specs.AppDef(name=name or command, roles=[role])


def _literal(arguments: Sequence[str]) -> list[str]:
    """torchx replaces ${...} in arguments by its macros; a $ of the user's stays one."""
    return [argument.replace("$", "$$") for argument in arguments]


def _overrides(first: str, more: Sequence[str]) -> list[str]:
    values = [v for v in (first, *more) if v]
    for value in values:
        if value.startswith("-") or "=" not in value:
            _refuse(f"override {value!r} is not KEY=VALUE. Overrides come last: -j 1x2 --set train.epochs=2 train.seed=1")
    return [part for value in values for part in ("--set", value)]


def _resource(cpu: int, gpu: int, memMB: int, h: str) -> dict[str, Any]:
    return {"cpu": cpu, "gpu": gpu, "memMB": memMB, "h": h or None}


def _interpreter(python: str, image: str) -> str:
    return shlex.quote(python or ("python" if image else sys.executable))


def _threads(ranks: int) -> str:
    """Shell: the cores of the node, which may have more than this machine, shared by its ranks; torchrun says 1."""
    return f"export OMP_NUM_THREADS=$${{OMP_NUM_THREADS:-$$((n=$$(nproc)/{ranks},n>0?n:1))}};"


def _nodes_and_ranks(j: str) -> tuple[int, int, int]:
    """Least nodes, most nodes, processes per node."""
    nodes, x, ranks = j.rpartition("x")
    least, colon, most = nodes.partition(":")
    told = [least, most, ranks] if colon else [least, least, ranks] if x else ["1", "1", ranks]
    if not all(n.isdigit() and int(n) > 0 for n in told) or int(told[0]) > int(told[1]):
        _refuse(f"-j {j!r} is not NODESxPROCESSES, for example 1x2: one node with two processes; or 2:4x8: two to four nodes")
    return int(told[0]), int(told[1]), int(told[2])


def _look_for(option: str, file: str, image: str) -> None:
    """Before the job waits in a queue: without an image it reads the files of this machine, or of one that shares them, from
    this folder on."""
    if not image and not os.path.isfile(file):
        _refuse(
            f"--{option} {file}: no such file, from {os.getcwd()}. The job starts in this folder: go to the folder that the "
            "path is meant from, or give a whole path. With --image it is a path within the image, and is not looked for here."
        )


def _refuse(message: str) -> None:
    """torchx shows other exceptions with a traceback."""
    raise SystemExit(f"error: {message}")
