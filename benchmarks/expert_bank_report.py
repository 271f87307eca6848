"""The Markdown table, the plot and the claims of benchmarks/expert_bank.py, from its figures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.claims import claim

NAMES = {
    "floor": "matrix products alone",
    "loop": "loop over experts",
    "compiled": "loop, torch.compile",
    "eager": "bank, eager",
    "cpu": "bank, cpu",
}


def table(result: dict[str, Any]) -> str:
    of_one = result["threads"] == 1
    clock = "processor time of 1 thread" if of_one else f"{result['threads']} threads"
    lines = [
        f"torch {result['torch']}, {clock}, {result['instructions']}; {result['passes']}."
        " Forward and backward; HoME's experts; fp32.",
        "",
        *(() if of_one else disturbed(result)),
        "| shape | system | ms | speed, floor = 1 | peak MB | of the loop's | GFLOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, shape in result["shapes"].items():
        sizes = ", ".join(f"{letter} {n}" for letter, n in shape["shape"].items())
        for system, label in NAMES.items():
            if system not in shape["seconds"]:
                continue
            seconds = shape["seconds"][system]
            peak = shape["peak_bytes"].get(system)
            memory = "- | -" if peak is None else f"{peak / 1e6:.1f} | {peak / shape['peak_bytes']['loop']:.2f}"
            speed = shape["seconds"]["floor"] / seconds
            rate = shape["flops"] / seconds / 1e9
            lines.append(f"| {name} ({sizes}) | {label} | {seconds * 1e3:.2f} | {speed:.2f} | {memory} | {rate:.0f} |")
    lines += ["", "| shape | GFLOP per step | MB moved, loop | MB moved, fused | torch.compile, s |", "|---|---|---|---|---|"]
    for name, shape in result["shapes"].items():
        moved, compiling = shape["moved_bytes"], shape.get("compile_seconds")
        seconds = "-" if compiling is None else f"{compiling:.0f}"
        amounts = f"{shape['flops'] / 1e9:.2f} | {moved['loop'] / 1e6:.0f} | {moved['fused'] / 1e6:.0f}"
        lines.append(f"| {name} | {amounts} | {seconds} |")
    whole = result["home"]
    lines += ["", "| HoME, 12 tasks in 2 groups | samples/s | peak MB |", "|---|---|---|"]
    for system, rate in whole["samples_per_second"].items():
        lines.append(f"| {system} | {rate:.0f} | {whole['peak_bytes'][system] / 1e6:.1f} |")
    counts = result["launches"]
    systems = list(next(iter(counts["tasks"].values())))
    lines += ["", "| launches per training step of HoME | " + " | ".join(systems) + " |", "|---" * (len(systems) + 1) + "|"]
    for axis, rows in counts.items():
        for value, row in rows.items():
            lines.append(f"| {axis.replace('_', ' ')} = {value} | " + " | ".join(str(row.get(s, "-")) for s in systems) + " |")
    return "\n".join(lines)


def disturbed(result: dict[str, Any]) -> list[str]:
    if result["share_of_cores"] >= 0.9:
        return []
    got = f"{result['share_of_cores']:.0%}"
    return [f"note: this process got {got} of the cores that it asked for; others disturb the timing (see --threads 1)", ""]


def claims(result: dict[str, Any]) -> Iterator[str]:
    if result["threads"] > 1:
        yield from disturbed(result)
    for name, shape in result["shapes"].items():
        seconds, peak = shape["seconds"], shape["peak_bytes"]
        if name != "small":
            yield _claim(f"cpu bank, speed of the matrix products alone, {name}", seconds["floor"] / seconds["cpu"], 0.9)
        yield _claim(f"cpu bank, speed of the loop, {name}", seconds["loop"] / seconds["cpu"], 1.0)
        if name != "large" or not result["quick"]:  # of an eighth of the batch, weights are most of the memory
            yield _claim(f"cpu bank, peak memory of the loop, {name}", peak["cpu"] / peak["loop"], 0.6, at_most=True)
    if "seconds" in result["bf16"]:
        seconds = result["bf16"]["seconds"]
        yield _claim("cpu bank in bf16, speed of fp32, middle", seconds["fp32"] / seconds["bf16"], 2.0)
    else:
        yield f"note: bf16 not timed: {result['bf16']['skipped']}"
    rates = result["home"]["samples_per_second"]
    yield _claim("HoME with 12 tasks, samples/s of module lists", rates["cpu"] / rates["modules"], 1.5)
    rows = list(result["launches"]["experts_per_group"].values())
    for system in rows[0]:
        if system != "modules" and system in rows[-1]:
            name = f"launches per step, {system}, 8 experts per group over 2"
            yield _claim(name, rows[-1][system] / rows[0][system], 1.0, at_most=True)


def _claim(name: str, value: float, goal: float, at_most: bool = False) -> str:
    return claim(name, value, goal, at_most, form=".3f")


def plot(result: dict[str, Any], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print(f"no {path.name}: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    letters = {"E": "experts", "K": "gates", "B": "samples"}
    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), sharex="col", constrained_layout=True)
    for column, (letter, rows) in enumerate(result["scaling"].items()):
        values = [row["value"] for row in rows]
        for system in ("loop", "eager", "cpu"):
            axes[0, column].plot(values, [row["seconds"][system] * 1e3 for row in rows], "o-", label=NAMES[system])
            axes[1, column].plot(values, [row["peak_bytes"][system] / 1e6 for row in rows], "o-")
        axes[1, column].set_xlabel(letters[letter])
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel("step, ms")
    axes[1, 0].set_ylabel("peak memory, MB")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)
