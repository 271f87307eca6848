"""Faults done to training jobs, counted: how many were survived, how many samples were lost, how long recovery took.

    python benchmarks/faults.py            # 200 faults at random points, some ten minutes: results/faults.json, faults.md
    python benchmarks/faults.py --quick    # one of each kind, under 50 s; writes nothing

A job of two ranks trains a tiny model and saves every second step. A fault strikes it at a random point of the run, of a save
or of a load. What it leaves is then started again with the same command, `checkpoint.damaged=skip` among its settings, until it
ends well. A fault is survived when that takes no more than two starts, when no start hangs or ends with a traceback, when the
final checkpoint equals that of the undisturbed run in every bit of parameters and optimizer state, and when as many samples
were trained on. Recovery is the time from the next start to its first step.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from home_dist.process import prepare

prepare()
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["GLOO_SOCKET_IFNAME"] = "lo"

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import faults_jobs as jobs  # noqa: E402
from benchmarks.checkpoints import write_data  # noqa: E402
from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from home_dist.config import CheckpointSection  # noqa: E402
from home_dist.training.checkpoint.folder import Checkpoints  # noqa: E402
from home_dist.training.checkpoint.reading import open_stored  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
TIMEOUT = 60.0
CONFIG = """
run = { dir = "RUN" }
data = { path = "DATA", validation = "", test = "", window_rows = 64 }
embedding = { dim = 8, replicate_rows = 0, dropout = 0.1, tables = { user = { sharding = "row_wise" } } }
model = { kind = "mmoe", expert_hidden = [8], expert_dim = 8, tower_hidden = [8] }
train = { batch_size = 16, epochs = 2 }
checkpoint = { every_steps = 2, keep_last = 3, damaged = "skip" }
log = { every_steps = 3, tensorboard = false }
insight = { every_steps = 0 }
kernel = { backend = "eager" }
distributed = { timeout = 20, threads = 1 }
"""


@dataclass
class Outcome:
    kind: str
    point: str
    codes: list[int]
    """Of the disturbed start and the starts after it."""
    problem: str
    """Empty when it was survived."""
    samples_lost: int
    recovery_seconds: float | None


class Trial:
    """One fault: a run in a folder of its own."""

    def __init__(self, folder: Path, config: Path, rng: random.Random, whole: "Whole"):
        self.folder, self.config, self.rng, self.whole = folder, config, rng, whole
        self.run = folder / "run"

    def start(self, name: str, fault: jobs.Fault | None = None) -> jobs.Job:
        return jobs.start(self.config, [f"run.dir={self.run}"], self.folder / name, fault)

    @property
    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.run / "checkpoints", CheckpointSection())


@dataclass(frozen=True)
class Whole:
    """The undisturbed run."""

    tensors: dict[str, torch.Tensor]
    samples: int
    steps: int
    seconds: float


def read(checkpoints: Checkpoints) -> tuple[dict[str, torch.Tensor], int, int]:
    newest = checkpoints.newest()
    if newest is None:
        raise RuntimeError(f"{checkpoints.folder}: no checkpoint")
    stored, record = open_stored(newest)
    return {n: stored.whole(n) for n in stored.tensors}, record.state.samples, record.state.step


def anywhere(trial: Trial, act: jobs.Act, points: list[str] | None = None) -> tuple[jobs.Fault, str]:
    """A fault of a rank's own at a random point."""
    rng, first_only = trial.rng, ("the start of a save", "the manifest", "the last rename", "the removal of old ones")
    point = rng.choice(points or list(jobs.POINTS))
    rank = 0 if point in first_only else rng.randrange(jobs.RANKS)
    most = trial.whole.steps if point == "a step" else 1 if point in ("verification", "the load") else trial.whole.steps // 2
    fault = jobs.Fault(point, rng.randint(1, max(1, most)), rank, act, rng.random() < 0.5)
    return fault, f"{'before' if fault.before else 'after'} {point}, {fault.nth}. time, rank {rank}"


def is_load(fault: jobs.Fault) -> bool:
    return fault.point in ("verification", "the load")


def stopped_early(trial: Trial) -> None:
    """A run that was killed at a random step, with something to load."""
    nth = trial.rng.randint(5, trial.whole.steps - 1)
    trial.start("earlier", jobs.Fault("a step", nth, 0, kill_all)).wait(TIMEOUT)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _siblings() -> list[int]:
    parent = os.getppid()
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if int(pid) != os.getpid()]


def kill_all() -> None:
    for pid in _siblings():
        os.kill(pid, signal.SIGKILL)
    kill_self()


def kill_launcher() -> None:
    os.kill(os.getppid(), signal.SIGKILL)


def terminate() -> None:
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.05)


def fail_to_write() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def be_slow() -> None:
    time.sleep(0.7)


def turn_clock_back() -> None:
    plain = time.time
    time.time = lambda: plain() - 86_400  # type: ignore[assignment]


def own(act: jobs.Act, points: list[str] | None = None) -> Callable[[Trial], tuple[jobs.Job, str]]:
    def disturb(trial: Trial) -> tuple[jobs.Job, str]:
        fault, told = anywhere(trial, act, points)
        if is_load(fault):
            stopped_early(trial)
        return trial.start("disturbed", fault), told

    return disturb


def damage(how: str) -> Callable[[Trial], tuple[jobs.Job, str]]:
    """Of the newest checkpoint, after a stop; the job that finds it is the disturbed one."""

    def disturb(trial: Trial) -> tuple[jobs.Job, str]:
        stopped_early(trial)
        newest = trial.checkpoints.newest()
        if newest is None:
            return trial.start("disturbed"), "nothing was saved yet"
        shard = trial.rng.choice(sorted(newest.iterdir()))
        content = bytearray(shard.read_bytes())
        if how == "truncated":
            shard.write_bytes(content[: trial.rng.randrange(len(content))])
        elif how == "bit-flipped":
            content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
            shard.write_bytes(content)
        else:
            shard.unlink()
        return trial.start("disturbed"), f"{newest.name}/{shard.name}"

    return disturb


def vanish(trial: Trial) -> tuple[jobs.Job, str]:
    job, seconds = trial.start("disturbed"), trial.rng.uniform(0, trial.whole.seconds)
    time.sleep(seconds)
    for _ in range(20):  # a save may be writing into it
        shutil.rmtree(trial.run / "checkpoints", ignore_errors=True)
        if not (trial.run / "checkpoints").exists():
            break
    return job, f"after {seconds:.2f} s"


def full_disk(trial: Trial) -> tuple[jobs.Job, str]:
    """run.dir is on a small file system, which is filled up at a random point of a save, and emptied for the next start."""
    disk = trial.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], check=True, capture_output=True)
    trial.run = disk / "run"

    def fill() -> None:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        (disk / "filler").write_bytes(bytes(max(0, free - trial.whole_left)))

    trial.whole_left = trial.rng.choice([0, 4096, 20_000])  # type: ignore[attr-defined]
    fault, told = anywhere(trial, fill, ["the copy", "the start of a save", "the shards", "the hashes", "the manifest"])
    job = trial.start("disturbed", fault)
    job.wait(TIMEOUT)
    (disk / "filler").unlink(missing_ok=True)
    return job, told


WRITES = ["the start of a save", "the shards", "the hashes", "the manifest", "the last rename", "the removal of old ones"]
DAMAGE = ("a truncated file", "a flipped bit", "a missing file")
KINDS: dict[str, Callable[[Trial], tuple[jobs.Job, str]]] = {
    "kill -9 of one rank": own(kill_self),
    "kill -9 of all ranks": own(kill_all),
    "kill -9 of the launcher": own(kill_launcher),
    "SIGTERM": own(terminate),
    "disk full": full_disk,
    "a write that fails": own(fail_to_write, WRITES),
    "a slow write": own(be_slow, WRITES),
    "a truncated file": damage("truncated"),
    "a flipped bit": damage("bit-flipped"),
    "a missing file": damage("missing"),
    "a clock that jumps back": own(turn_clock_back),
    "checkpoints that vanish": vanish,
}


def attempt(kind: str, number: int, scratch: Path, config: Path, whole: Whole) -> Outcome:
    trial = Trial(scratch / f"trial-{number}", config, random.Random(number), whole)
    trial.folder.mkdir()
    codes: list[int] = []
    try:
        return _attempt(kind, trial, codes)
    except TimeoutError as error:
        return Outcome(kind, "", codes, str(error), whole.samples, None)
    finally:
        if (trial.folder / "disk").is_mount():
            subprocess.run(["umount", "-l", str(trial.folder / "disk")], check=True)


def _attempt(kind: str, trial: Trial, codes: list[int]) -> Outcome:
    job, point = KINDS[kind](trial)
    codes.append(job.wait(TIMEOUT))
    logs, recovery = [job.log], job.seconds_to_first_step() if kind in DAMAGE else None
    for start in range(2):
        if codes[-1] == 0 and trial.checkpoints.newest() is not None:
            break
        again = trial.start(f"again-{start}")
        codes.append(again.wait(TIMEOUT))
        logs.append(again.log)
        if recovery is None:
            recovery = again.seconds_to_first_step()
    problem, samples = "", 0
    if codes[-1] != 0 or trial.checkpoints.newest() is None:
        problem = f"does not end well: {logs[-1].read_text()[-300:]}"
    else:
        tensors, samples, step = read(trial.checkpoints)
        differ = [n for n in trial.whole.tensors if n not in tensors or not torch.equal(trial.whole.tensors[n], tensors[n])]
        if differ or tensors.keys() != trial.whole.tensors.keys() or step != trial.whole.steps:
            problem = f"ends with another model at step {step}: {', '.join(differ[:3])}"
        elif samples != trial.whole.samples:
            problem = f"{samples} samples instead of {trial.whole.samples}"
    traces = [log for log in logs if "Traceback" in log.read_text()]
    if traces and not problem:
        problem = f"a traceback in {traces[0]}: {traces[0].read_text()[-300:]}"
    return Outcome(kind, point, codes, problem, abs(trial.whole.samples - samples), recovery)


def measure(count: int, minutes: float, seed: int, scratch: Path, say: Callable[[str], None]) -> dict[str, Any]:
    write_data(scratch / "data", 400, samples=200)
    config = scratch / "run.toml"
    config.write_text(CONFIG.replace("DATA", str(scratch / "data")).replace("RUN", str(scratch / "run")))
    began = time.monotonic()
    job = jobs.start(config, [f"run.dir={scratch / 'whole'}"], scratch / "whole-job")
    if job.wait(TIMEOUT):
        raise RuntimeError(f"the undisturbed run failed: {job.log.read_text()[-2000:]}")
    seconds = time.monotonic() - began
    whole = Whole(*read(Checkpoints(scratch / "whole" / "checkpoints", CheckpointSection())), seconds)
    say(f"the undisturbed run: {whole.steps} steps, {whole.samples} samples, {seconds:.1f} s")
    outcomes = []
    for number in range(count):
        if time.monotonic() - began > 60 * minutes:
            say(f"ended after {minutes:g} minutes")
            break
        kind = list(KINDS)[number % len(KINDS)]
        found = attempt(kind, seed * 1_000_000 + number, scratch, config, whole)
        outcomes.append(found)
        say(f"{number + 1}/{count} {kind}, {found.point}: codes {found.codes} {found.problem or 'survived'}")
        if not found.problem:
            shutil.rmtree(scratch / f"trial-{seed * 1_000_000 + number}", ignore_errors=True)
    return {"steps": whole.steps, "samples": whole.samples, "seconds": seconds, "faults": [asdict(o) for o in outcomes]}


def table(result: dict[str, Any]) -> str:
    lines = ["| fault | tried | survived | samples lost | worst recovery |", "|---|---|---|---|---|"]

    def row(title: str, of: list[dict[str, Any]]) -> str:
        times = [o["recovery_seconds"] for o in of if o["recovery_seconds"] is not None]
        worst = f"{max(times):.1f} s" if times else "-"
        return f"| {title} | {len(of)} | {sum(not o['problem'] for o in of)} | {sum(o['samples_lost'] for o in of)} | {worst} |"

    faults = result["faults"]
    lines += [row(kind, [o for o in faults if o["kind"] == kind]) for kind in KINDS]
    return "\n".join([*lines, row("all", faults)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--count", type=int, default=None, help="faults to try; by default 204, and 12 with --quick")
    parser.add_argument("--minutes", type=float, default=60, help="ends with what was tried until then")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="file for the result; by default results/faults.json")
    chosen = parser.parse_args()
    count = chosen.count or (len(KINDS) if chosen.quick else 17 * len(KINDS))
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(count, chosen.minutes, chosen.seed, Path(scratch), lambda text: print(text, flush=True))
    result |= {"torch": torch.__version__, "cores": len(os.sched_getaffinity(0)), "seed": chosen.seed}
    text = table(result)
    print(text)
    survived = sum(not o["problem"] for o in result["faults"])
    print(claim("faults survived, of those tried", survived / len(result["faults"]), 1))
    if not chosen.quick:
        print(claim("faults tried", len(result["faults"]), 200, form="d"))
    print(claim("samples lost", sum(o["samples_lost"] for o in result["faults"]), 0, at_most=True, form="g"))
    if chosen.out is not None:
        write_result(chosen.out, result)
    elif not chosen.quick:
        write_result(RESULTS / "faults.json", result)
        (RESULTS / "faults.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
