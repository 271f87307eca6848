"""Table, picture and claims of growth_walls.py, of the parts that a result has."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.claims import claim

mpl.use("agg")

from matplotlib import pyplot as plt

CHECKPOINT_STEPS, STEP_SECONDS = 1000, 0.2
"""Steps from one checkpoint to the next, and the seconds of each, against which the figures at a checkpoint are held."""


def table(result: dict[str, Any], results: Path) -> str:
    """Markdown. results: folder with the other benchmarks' results, which are quoted."""
    loads = result["load_before"].values()
    machine = (
        f"{result['processor']}, {result['cores']} cores, load average {min(loads):.1f} to {max(loads):.1f} before the parts"
    )
    lines = [f"{machine}; torch {result['torch']}, one process.", ""]
    lines += ["| | | before | after |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _rows(result)]
    lines += ["", "From the results of other scripts:", ""]
    lines += ["| | | before | after | script |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in _quoted(results)]
    if "figures" in result:
        exact, told = ("{:.4f}".format(result["figures"]["points"][-1]["untouched"][way]) for way in ("before", "after"))
        lines += ["", f"Share of rows told as untouched at the most rows: {exact} before, of all rows; {told} after, of 4,096."]
    if "products" in result:
        lines += ["", *_products(result["products"])]
    if "placement" in result:
        lines += ["", *_placements(result["placement"])]
    return "\n".join(lines)


def _rows(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for point in result.get("figures", {}).get("points", []):
        name = "insight's figures of a table at a checkpoint, ms"
        yield name, f"{point['rows']:,} rows", f"{point['before'] * 1e3:,.1f}", f"{point['after'] * 1e3:,.2f}"
    if "figures" in result:
        at = result["figures"]["checkpoint"]
        what = f"{at['tables']} tables, {at['rows']:,} rows x {at['dim']}"
        yield "the same of all tables, ms", what, "", f"{at['seconds'] * 1e3:,.1f}"
    for threads, speed in result.get("initial", {}).get("threads", {}).items():
        name, what = "initial values of a table, million/s", f"{threads} thread{'s' * (threads != '1')}"
        yield name, what, f"{speed['before'] / 1e6:,.1f}", f"{speed['after'] / 1e6:,.0f}"
    for point in result.get("managed", {}).get("points", []):
        name = f"a step of a managed table with {result['managed']['ids']:,} ids, ms"
        yield name, f"{point['rows']:,} rows", f"{point['before'] * 1e3:,.1f}", f"{point['after'] * 1e3:,.1f}"
    for kind, lengths in result.get("operators", {}).items():
        for mean, count in lengths.items():
            what = f"mean length {int(mean):,}"
            yield f"operators, {kind}, forward and backward", what, f"{count['before']:,}", f"{count['after']:,}"
    if "rate" in result:
        told = result["rate"]
        what = f"of a device that does {told['true']:,.0f}"
        yield "samples/s told", what, f"{told['before']:,.0f}", f"{told['after']:,.0f}"
    for point in result.get("delta", {}).get("points", []):
        what, read = f"vocabulary of {point['keys']:,} texts", point["keys_read"]
        name = f"a delta of {result['delta']['rows']:,} rows"
        yield f"{name}, ms", what, f"{point['before'] * 1e3:,.0f}", f"{point['after'] * 1e3:,.1f}"
        yield f"{name}, keys that are read", what, f"{read['before']:,}", f"{read['after']:,}"


def _products(products: list[dict[str, Any]]) -> Iterator[str]:
    yield f"Products within {products[0]['samples']} histories, ms before / after. TWIN's search takes them alone, SIM's soft"
    yield "search with gradients of vectors. Two threads are timed by the wall clock, so that other processes slow them."
    yield ""
    yield "| threads | mean length | width | alone | with gradients of vectors | with gradients of events, too |"
    yield "|---|---|---|---|---|---|"
    for at in products:
        cells = " | ".join(f"{use['before'] * 1e3:.1f} / {use['after'] * 1e3:.1f}" for use in at["uses"].values())
        yield f"| {at['threads']} | {at['events']:,} | {at['dim']} | {cells} |"


def _placements(placements: list[dict[str, Any]]) -> Iterator[str]:
    yield "configs/kuaishou_scale.toml, GB of tables on the fullest rank. Before: a run's own plan, which ignored batch and"
    yield "lengths of lists. After: the plan of `home-dist plan` and of a run. Equal share: bytes of all tables / ranks. The"
    yield "planner seeks the fastest plan that fits, not the most even one."
    yield ""
    yield "| topology | batch | equal share | before | after | run and plan alike |"
    yield "|---|---|---|---|---|---|"
    for at in placements:
        sizes = " | ".join(f"{at[name] / 1e9:.1f}" for name in ("mean", "before", "after"))
        yield f"| {at['devices']} x H100 80 GB | {at['batch']:,} | {sizes} | {'yes' if at['alike'] else 'no'} |"


def _quoted(results: Path) -> Iterator[tuple[str, str, str, str, str]]:
    evaluation = json.loads((results / "metrics.json").read_text())["evaluation"]
    of_ranks = {int(ranks): of["bytes"] for ranks, of in evaluation.items() if ranks.isdigit()}
    for ranks, size in sorted(of_ranks.items()):
        what = f"{ranks} rank{'s' * (ranks > 1)}, {evaluation['tasks']} tasks"
        # A rank held all rows, as a single rank does today.
        before = f"{of_ranks[1]:,.0f}, as one rank" if ranks > 1 else ""
        yield "evaluation, bytes per row and rank", what, before, f"{size:,.0f}", "metrics.py --evaluation"
    keys = json.loads((results / "large_keys.json").read_text())
    for told in keys["vocabularies"]:
        name, what, former = (
            "a look-up's private memory, MB",
            f"vocabulary of {told['ids']:,} texts",
            told.get("look_up_in_memory"),
        )
        before = f"{former['private_bytes'] / 1e6:,.0f}" if former else "not measured"
        yield name, what, before, f"{told['look_up']['private_bytes'] / 1e6:,.0f}", "large_keys.py"
    for told in keys["hot_keys"]:
        name, what = "the past of a key in a tenth of all rows, peak MB", f"{told['rows']:,} rows"
        before, after = (f"{told[way]['peak_bytes'] / 1e6:,.0f}" for way in ("one_piece", "pieces"))
        yield name, what, before, after, "large_keys.py"


def picture(result: dict[str, Any], path: Path) -> None:
    """Before and after by rows, on logarithmic axes; nothing without both parts."""
    if "figures" not in result or "managed" not in result:
        return
    panels = [("insight's figures of a table, ms", result["figures"]["points"])]
    panels.append((f"a step of a managed table, ms ({result['managed']['ids']:,} ids)", result["managed"]["points"]))
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for axis, (title, points) in zip(axes, panels, strict=True):
        rows = [p["rows"] for p in points]
        for way, style in {"before": "o--", "after": "s-"}.items():
            axis.loglog(rows, [p[way] * 1e3 for p in points], style, label=way)
        axis.set_xticks(rows, [f"$10^{round(math.log10(n))}$" for n in rows])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
        axis.set_xlabel("rows of the table")
        axis.set_title(title, fontsize=10)
        axis.grid(True, which="both", alpha=0.2)
        axis.legend()
    figure.savefig(path, dpi=110)


def claims(result: dict[str, Any]) -> Iterator[str]:
    if "figures" in result:
        points, at = result["figures"]["points"], result["figures"]["checkpoint"]
        grown = points[-1]["after"] / points[0]["after"]
        yield claim("table figures, seconds at the most rows over 10^5 rows", grown, 1.5, at_most=True)
        share = at["seconds"] / (CHECKPOINT_STEPS * STEP_SECONDS)
        name = f"share of training that table figures take at a checkpoint every {CHECKPOINT_STEPS:,} steps of {STEP_SECONDS} s"
        yield claim(f"{name}, {at['tables']} tables", share, 0.005, at_most=True, form=".2g")
    if "initial" in result:
        threads = result["initial"]["threads"]
        yield claim("initial values, speed over before", threads[max(threads, key=int)]["speed"], 10, form=".1f")
    if "managed" in result:
        first, last = result["managed"]["points"][0], result["managed"]["points"][-1]
        at_rows = f"10^{round(math.log10(last['rows']))} rows"
        yield claim(f"managed tables, ms a step at {at_rows}", last["after"] * 1e3, 20, at_most=True, form=".1f")
        yield claim(f"managed tables, ms at {at_rows} over 10^5 rows", last["after"] / first["after"], 3, at_most=True)
    if "operators" in result:
        grown = max(of["1000"]["after"] / of["20"]["after"] for of in result["operators"].values())
        yield claim("operators at a mean length of 1,000 over 20", grown, 1.15, at_most=True)
    if "products" in result:
        least = min(use["speed"] for at in result["products"] for use in at["uses"].values())
        yield claim("products within long histories, speed over the former loop", least, 1.0)
    if "rate" in result:
        told = result["rate"]
        yield claim("samples/s told over those that the device does", told["after"] / told["true"], 1.05, at_most=True)
    if "delta" in result:
        points = result["delta"]["points"]
        name = f"a delta of {result['delta']['rows']:,} rows at a vocabulary of {points[-1]['keys']:,} texts"
        yield claim(f"{name}, keys read", points[-1]["keys_read"]["after"], 0, at_most=True, form="g")
        yield claim(f"{name}, ms over {points[0]['keys']:,}", points[-1]["after"] / points[0]["after"], 2, at_most=True)
    if "placement" in result:
        yield claim("plan and train place tables alike", float(all(p["alike"] for p in result["placement"])), 1, form="g")
