"""What more ranks cost and bring: samples/s, bytes handed to other ranks, what of the exchange is hidden, and what codecs save.

    python benchmarks/scaling.py            # the sample on 1, 2 and 4 ranks, some minutes
    python benchmarks/scaling.py --quick    # fewer steps and cases, under 50 s; writes nothing

Each figure is `home-dist bench`'s of a torchrun of its own, one after another, `--repeats` times in turns; medians are told.
Weak: the batch of a rank stays. Strong: that of all ranks together stays. Bytes: those that ranks hand to collectives, by the
profiler's account, over those that the sharding plan asks for, counted from table sizes and ids per sample
(home_dist/planning/traffic.py). Pipelines: the same steps without the exchange of ids beside the step before. Codecs: the same
steps with fp16 embeddings and gradients on the wire.

More ranks than cores share them: on such a machine samples/s say nothing about scaling, and bytes, memory and launches do.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.claims import claim  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sample_run import output_of, set_options, torchrun  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
CONFIG = ROOT / "configs" / "kuairand_pure.toml"
GLOBAL_BATCH = 2048
FP16 = ["forward", "backward", "gradients"]
# Rows over all ranks, so that there is something to exchange whatever the planner thinks of so small tables.
PINNED = [f"embedding.tables.{table}.sharding=row_wise" for table in ("user", "video", "author", "music")]


def cases(quick: bool) -> dict[str, tuple[int, list[str], list[str]]]:
    """name -> ranks, overrides, options of bench"""
    weak = f"train.batch_size={GLOBAL_BATCH // 4}"
    found: dict[str, tuple[int, list[str], list[str]]] = {}
    for ranks in (1, 2) if quick else (1, 2, 4):
        found[f"weak, {ranks}"] = (ranks, [weak], [])
        if not quick:
            found[f"strong, {ranks}"] = (ranks, [f"train.batch_size={GLOBAL_BATCH // ranks}"], [])
    found["base pipeline, 2"] = (2, [weak], ["--no-overlap"])
    found["fp16 exchange, 2"] = (2, [weak, *(f"distributed.exchange.{way}=fp16" for way in FP16)], [])
    return found


def bench(ranks: int, overrides: list[str], options: list[str], steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "bench.json")
        command = [*torchrun(ranks), "bench", str(CONFIG), "--out", str(out)]
        command += ["--steps", str(steps), "--warm-up", "4", "--traced", "4", *options]
        command += set_options([f"data.path={ROOT / 'examples' / 'kuairand_pure'}", *PINNED, *overrides])
        output_of(command, {"OMP_NUM_THREADS": "1"}, timeout=500)
        return json.loads(out.read_text())


def handed(found: dict[str, Any]) -> float:
    """Bytes of a rank and step."""
    return sum(found["bytes_per_sample"]["collectives"].values()) * found["batch_size"]


def row(repeats: list[dict[str, Any]]) -> dict[str, float]:
    def middle(figure: Any) -> float:
        return statistics.median(figure(r) for r in repeats)

    return {
        "ranks": repeats[0]["ranks"],
        "batch": repeats[0]["batch_size"],
        "samples_per_second_per_rank": middle(lambda r: r["samples_per_second_per_rank"]),
        "samples_per_second": middle(lambda r: r["samples_per_second"]),
        "step_seconds": middle(lambda r: r["step_seconds"]["p50"]),
        "handed_bytes_per_sample": middle(lambda r: handed(r) / r["batch_size"]),
        "handed_over_least": middle(lambda r: handed(r) / max(1.0, sum(r["least_handed_bytes_per_step"].values()))),
        "hidden_share": middle(lambda r: r["breakdown"]["hidden_share"] or 0.0),
        "peak_memory_bytes": middle(lambda r: r["peak_memory_bytes"]),
        "launches_per_step": middle(lambda r: r["launches_per_step"]),
    }


def table(rows: dict[str, dict[str, float]], cores: int, repeats: int) -> str:
    columns = [
        "case, ranks",
        "batch of a rank",
        "samples/s",
        "per rank",
        "step, ms",
        "bytes handed per sample",
        "over the plan's",
    ]
    columns += ["hidden", "MB of a rank", "launches"]
    lines = [
        f"The sample with HoME, four tables row-wise, {cores} cores, one thread per rank; medians of {repeats}.",
        f"Ranks beyond {cores} share cores: their samples/s tell of the machine, not of scaling.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]
    for name, r in rows.items():
        exchanged = [f"{r['handed_bytes_per_sample']:,.0f}", f"{r['handed_over_least']:.3f}", f"{r['hidden_share']:.0%}"]
        cells = [
            *(name, f"{r['batch']:,.0f}", f"{r['samples_per_second']:,.0f}", f"{r['samples_per_second_per_rank']:,.0f}"),
            f"{r['step_seconds'] * 1e3:,.0f}",
            *(exchanged if r["ranks"] > 1 else ["-"] * 3),
            *(f"{r['peak_memory_bytes'] / 1e6:,.0f}", f"{r['launches_per_step']:,.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and cases, under 50 s; writes nothing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each run")
    options = parser.parse_args()
    repeats, steps = (1, 6) if options.quick else (options.repeats, options.steps)
    chosen = cases(options.quick)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for turn in range(repeats):
        for name, (ranks, overrides, more) in chosen.items():
            print(f"{turn + 1}/{repeats} {name} ranks", flush=True)
            found[name].append(bench(ranks, overrides, more, steps))
    rows = {name: row(of_case) for name, of_case in found.items()}
    cores = len(os.sched_getaffinity(0))
    text = table(rows, cores, repeats)
    print(text)
    if not options.quick:
        write_result(RESULTS / "scaling.json", {"cores": cores, "repeats": repeats, "rows": rows})
        (RESULTS / "scaling.md").write_text(text + "\n")
    several = {name: r for name, r in rows.items() if r["ranks"] > 1 and "fp16" not in name}
    worst = max(r["handed_over_least"] for r in several.values())
    print(claim("bytes handed over those that the plan asks for, worst case", worst, 1.05, at_most=True, form=".3f"))
    two, alone = rows["weak, 2"], rows["weak, 1"]
    print(claim("samples/s of two ranks over one", two["samples_per_second"] / alone["samples_per_second"], 1.7))
    print(claim("share of exchange hidden, 2 ranks", two["hidden_share"], 0.5))
    saved = rows["fp16 exchange, 2"]["handed_bytes_per_sample"] / two["handed_bytes_per_sample"]
    print(claim("bytes with fp16 exchange over fp32", saved, 0.55, at_most=True))
    print(claim("step of the base pipeline over ours", rows["base pipeline, 2"]["step_seconds"] / two["step_seconds"], 1.0))


if __name__ == "__main__":
    main()
