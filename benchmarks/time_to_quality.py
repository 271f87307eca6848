"""Wall-clock until the validation GAUC that a plain torch script reaches at its best, on the KuaiRand-Pure sample.

    python benchmarks/time_to_quality.py            # some ten minutes
    python benchmarks/time_to_quality.py --quick    # some steps, under 50 s; writes nothing

The script is benchmarks/models_peers.py's MMoE with all rows in memory, permuted anew in each epoch, Adam. Ours is the same
model, data (67 columns of ids), batch (2048) and learning rate, in fp32 and in bf16. All are looked at every third of an epoch;
that, start-up and, of ours, checkpoints are in the time. The script trains for four epochs, ours for two. GAUC: mean over the 8
tasks. Each seed is a turn of all of them; a system's ratio is the median over seeds of its time to the script's best over the
script's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
mpl.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.id_log import GROUP  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.models_peers import DECAY, LR, Plain, told  # noqa: E402
from benchmarks.peers_data import BATCH, sample_as_ids  # noqa: E402
from benchmarks.sample_run import SINGLE, output_of, set_options  # noqa: E402
from home_dist.metrics import gauc  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
EVERY = 27  # steps; an epoch has 81
Curve = list[tuple[float, float]]
"""Seconds since the command, validation GAUC."""


def plain_script(folder: Path, steps: int, seed: int) -> None:
    """What a process of its own runs; prints a line per look."""
    about = told(folder)
    torch.manual_seed(seed)
    names, tasks = [n for n, _ in about["features"]], about["tasks"]
    (ids, labels, _), (val_ids, val_labels, users) = (_rows(folder / s, names, tasks) for s in ("train", "validation"))
    network = Plain("mmoe", about["features"], about["groups"])
    optimizer = torch.optim.Adam(network.parameters(), lr=LR, weight_decay=DECAY)
    loss_of = nn.BCEWithLogitsLoss()
    done = 0
    while done < steps:
        for rows in torch.randperm(len(ids)).split(BATCH)[: steps - done]:
            optimizer.zero_grad()
            loss_of(network(ids[rows].long()), labels[rows].float()).backward()
            optimizer.step()
            done += 1
            if done % EVERY == 0 or done == steps:
                network.eval()
                with torch.no_grad():
                    logits = torch.cat([network(part.long()) for part in val_ids.split(4 * BATCH)]).numpy()
                network.train()
                found = [gauc(val_labels[:, k], logits[:, k], users).value for k in range(len(tasks))]
                print(f"look {np.mean(found)}", flush=True)


def _rows(folder: Path, names: list[str], tasks: list[str]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    table = pa.concat_tables(pq.read_table(p) for p in sorted(folder.glob("*.parquet")))
    ids, labels = (torch.from_numpy(np.stack([table[n].to_numpy() for n in columns], 1)) for columns in (names, tasks))
    return ids, labels, table[GROUP].to_numpy()


def plain(folder: Path, steps: int, seed: int, cores: int) -> Curve:
    command = [sys.executable, __file__, "--script", str(folder), str(steps), str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    curve: Curve = []
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        curve.extend((time.perf_counter() - began, float(line.removeprefix("look "))) for line in process.stdout or ())
    if process.returncode:
        sys.exit("the plain script failed")
    return curve


def ours(run: Path, config: Path, steps: int, settings: list[str]) -> Curve:
    """By its checkpoints: each is there once it is evaluated and written."""
    settings = [*settings, f"run.dir={run}", f"checkpoint.every_steps={EVERY}", "checkpoint.keep_last=1000", "data.test=''"]
    settings += ["checkpoint.best=gauc", f"train.max_steps={steps}", "train.epochs=100"]
    began = time.time()
    output_of([*SINGLE, "train", config, *set_options(settings)])
    curve = []
    for folder in sorted((run / "checkpoints").glob("step-*")):
        state = json.loads((folder / "state.json").read_text())
        curve.append(((folder / "manifest.json").stat().st_mtime - began, state["metrics"]["validation/gauc"]))
    return curve


def reached(curve: Curve, goal: float) -> float:
    """Seconds; infinite where it is not."""
    return next((seconds for seconds, value in curve if value >= goal), float("inf"))


def ratios(turns: list[dict[str, Curve]]) -> dict[str, list[float]]:
    """By system and turn: time to the script's best over the script's."""
    found: dict[str, list[float]] = {name: [] for name in turns[0]}
    for turn in turns:
        best = max(value for _, value in turn["plain torch"])
        for name, curve in turn.items():
            found[name].append(reached(curve, best) / reached(turn["plain torch"], best))
    return found


def table(result: dict[str, Any]) -> str:
    lines = [
        f"{result['cores']} cores; {len(result['turns'])} seeds; seconds since the command, looks at validation included.",
        "",
        "| system | seconds to the script's best, each seed | over the script's, median | best GAUC, each seed |",
        "|---|---|---|---|",
    ]
    best_of = [max(v for _, v in turn["plain torch"]) for turn in result["turns"]]
    for name, found in ratios(result["turns"]).items():
        curves = [turn[name] for turn in result["turns"]]
        seconds = [reached(curve, best) for curve, best in zip(curves, best_of, strict=True)]
        times = ", ".join(f"{s:.0f}" if np.isfinite(s) else "never" for s in seconds)
        bests = ", ".join(f"{max(v for _, v in curve):.4f}" for curve in curves)
        lines.append(f"| {name} | {times} | {statistics.median(found):.2f} | {bests} |")
    return "\n".join(lines)


def picture(turns: list[dict[str, Curve]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for number, name in enumerate(turns[0]):
        for turn in turns:
            seconds, values = zip(*turn[name], strict=True)
            axes.plot(seconds, values, color=f"C{number}", alpha=0.7, label=name if turn is turns[0] else None)
    axes.set_xlabel("seconds since the command")
    axes.set_ylabel("validation GAUC, mean of 8 tasks")
    axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some steps of one seed; writes nothing")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="of ours; the script has as many again")
    parser.add_argument("--script", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.script:
        plain_script(Path(options.script[0]), int(options.script[1]), int(options.script[2]))
        return
    cores = len(os.sched_getaffinity(0))
    steps = 10 if options.quick else options.epochs * 3 * EVERY
    turns: list[dict[str, Curve]] = []
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        sample_as_ids(data)
        for seed in range(1 if options.quick else options.seeds):
            turn = {"plain torch": plain(data, 2 * steps, seed, cores)}
            for precision in ("fp32", "bf16"):
                settings = [f"kernel.precision={precision}", f"train.seed={seed}", f"distributed.threads={cores}"]
                run = Path(scratch, f"{precision}-{seed}")
                turn[f"home_dist, {precision}"] = ours(run, data / "run.toml", steps, settings)
            turns.append(turn)
            print(json.dumps(turn), flush=True)
    result = {"cores": cores, "epochs": options.epochs, "turns": turns}
    text = table(result)
    print(text)
    if not options.quick:
        write_result(RESULTS / "time_to_quality.json", result)
        (RESULTS / "time_to_quality.md").write_text(text + "\n")
        picture(turns, RESULTS / "time_to_quality.png")
    for name, found in ratios(turns).items():
        if name != "plain torch":
            print(claim(f"{name}: time to the plain script's best GAUC over the script's", statistics.median(found), 0.5, True))


if __name__ == "__main__":
    main()
