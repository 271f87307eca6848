"""Table, picture and claims of `daily.py`, from its result alone."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.claims import claim

mpl.use("Agg")

from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"
_COLOURS = {"increments": "tab:blue", "anew": "tab:orange", "still": "tab:grey"}
_LABELS = {"increments": "increments", "anew": "training anew", "still": "a model that stands still"}


def write(result: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "daily.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / "daily.md").write_text(table(result) + "\n")
    picture(result, RESULTS / "daily.png")


def _daily(result: dict[str, Any], policy: str, metric: str) -> NDArray[np.float64]:
    """(days,) means over seeds"""
    values: NDArray[np.float64] = np.mean([[day[metric] for day in seed] for seed in result["daily"][policy]], axis=0)
    return values


def totals(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By policy: rows and processor seconds of preparation and training, over days."""
    return {
        policy: {f"{step} {unit}": float(np.sum(of[step][unit])) for step in ("prepare", "train") for unit in of[step]}
        for policy, of in result["cost"].items()
    }


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Cost of increments over that of training anew, by unit."""
    sums = {
        policy: {unit: of[f"prepare {unit}"] + of[f"train {unit}"] for unit in ("rows", "processor_seconds")}
        for policy, of in totals(result).items()
    }
    return {unit: sums["increments"][unit] / sums["anew"][unit] for unit in ("rows", "processor_seconds")}


def table(result: dict[str, Any]) -> str:
    pooled, claimed = result["pooled"], result["claimed"]
    lines = [
        f"Made by `benchmarks/daily.py` on {result['machine']}; means over the tasks and {result['seeds']} seeds.",
        f"Settings of increments: {', '.join(result['increment'])}.",
        "",
        f"All {pooled['rows']:,} rows of {claimed[0]} to {claimed[-1]}; 95 % intervals, users resampled, drawn alike for all.",
        "",
        "| policy | AUC | below anew | GAUC | below anew | AUC below anew, tasks of 1,000 positives | seeds, AUC |",
        "|---|---|---|---|---|---|---|",
    ]
    for policy, label in _LABELS.items():
        auc, gauc = (pooled[m][policy] for m in ("AUC", "GAUC"))
        cells = [f"{auc['interval']['estimate']:.4f}", _below(auc["below_anew"]), f"{gauc['interval']['estimate']:.4f}"]
        cells += [_below(gauc["below_anew"]), _below(auc["below_anew_of_dense_tasks"])]
        lines.append(f"| {label} | {' | '.join(cells)} | {', '.join(f'{s:.4f}' for s in auc['seeds'])} |")
    lines += [
        "",
        "| task (positives) | " + " | ".join(f"{label}, AUC / GAUC" for label in _LABELS.values()) + " |",
        "|---|---|---|---|",
    ]
    for task, positives in pooled["positives"].items():
        cells = [f"{pooled['AUC'][p]['tasks'][task]:.4f} / {pooled['GAUC'][p]['tasks'][task]:.4f}" for p in _LABELS]
        lines.append(f"| {task} ({positives:,}) | {' | '.join(cells)} |")
    lines += ["", "Of each day, means over the tasks; days before the claimed ones are those that settings were chosen on.", ""]
    lines += ["| day | " + " | ".join(f"{label}, AUC / GAUC" for label in _LABELS.values()) + " |", "|---|---|---|---|"]
    for place, day in enumerate(result["days"]):
        cells = [f"{_daily(result, p, 'AUC')[place]:.4f} / {_daily(result, p, 'GAUC')[place]:.4f}" for p in _LABELS]
        lines.append(f"| {day} | {' | '.join(cells)} |")
    cells = [" / ".join(f"{_daily(result, p, m)[-len(claimed) :].mean():.4f}" for m in ("AUC", "GAUC")) for p in _LABELS]
    lines.append(f"| mean of claimed days | {' | '.join(cells)} |")
    if result["cost"]["anew"]["days"]:
        lines += ["", *_costs(result)]
    if result.get("tried"):
        lines += [
            "",
            "Tried on the first days, pooled:",
            "",
            "| policy | settings | AUC | GAUC | AUC of tasks of 1,000 positives |",
        ]
        lines.append("|---|---|---|---|---|")
        for tried in result["tried"]:
            cells = [f"{tried[n]:.4f}" for n in ("AUC", "GAUC", "AUC of dense tasks")]
            lines.append(f"| {tried['policy']} | {', '.join(tried['settings'])} | {' | '.join(cells)} |")
    lines += [line for note in result.get("notes", ()) for line in ("", note)]
    return "\n".join(lines)


def _below(interval: dict[str, float]) -> str:
    return f"{interval['estimate']:+.4f} ({interval['low']:+.4f} to {interval['high']:+.4f})"


def _costs(result: dict[str, Any]) -> list[str]:
    of, days = totals(result), result["cost"]["anew"]["days"]
    units = {
        "prepare rows": ",.0f",
        "train rows": ",.0f",
        "prepare processor_seconds": ",.0f",
        "train processor_seconds": ",.0f",
    }
    lines = [f"Cost of the models of {days[0]} to {days[-1]}, by which the days after them are scored:", ""]
    lines += ["| policy | " + " | ".join(unit.replace("_", " ") for unit in units) + " |", "|---|---|---|---|---|"]
    for policy, sums in of.items():
        lines.append(f"| {_LABELS[policy]} | {' | '.join(f'{sums[unit]:{form}}' for unit, form in units.items())} |")
    cells = [f"{of['increments'][unit] / of['anew'][unit]:.3f}" for unit in units]
    lines.append(f"| ratio | {' | '.join(cells)} |")
    if "start_processor_seconds" in result:
        start = result["start_processor_seconds"]
        steps = {policy: sums["train processor_seconds"] - len(days) * start for policy, sums in of.items()}
        rest = {policy: steps[policy] + of[policy]["prepare processor_seconds"] for policy in of}
        ratio, whole = (of_all["increments"] / of_all["anew"] for of_all in (steps, rest))
        lines += [
            "",
            f"A training of one step takes {start:.1f} processor seconds. Without so much of each training the ratio of "
            f"training is {ratio:.3f}, and {whole:.3f} with preparation.",
        ]
    return lines


def claims(result: dict[str, Any]) -> list[str]:
    below = result["pooled"]["AUC"]["increments"]["below_anew"]["estimate"]
    lines = [claim("AUC of increments below training anew", below, 0.002, at_most=True, form=".4f")]
    for unit, ratio in ratios(result).items():
        name = f"cost of increments over training anew, {unit.replace('_', ' ')}"
        lines.append(claim(name, ratio, 0.2, at_most=True, form=".3f"))
    return lines


def picture(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    days = [day[5:] for day in result["days"]]
    tuned = len(days) - len(result["claimed"])
    for axis, metric in zip(axes, ("AUC", "GAUC"), strict=False):
        for policy, label in _LABELS.items():
            axis.plot(days, _daily(result, policy, metric), "o-", color=_COLOURS[policy], label=label, markersize=4)
        axis.axvspan(-0.5, tuned - 0.5, color="0.93", label="settings chosen here")
        axis.set_title(f"{metric} of the day, before it was trained on")
        axis.set_ylabel(f"mean over {len(result['pooled']['positives'])} tasks")
        axis.tick_params(axis="x", rotation=60)
    axes[0].legend(fontsize=8)
    cost = result["cost"]
    made = [day[5:] for day in cost["anew"]["days"]]
    for policy, of in cost.items():
        seconds = np.asarray(of["prepare"]["processor_seconds"]) + np.asarray(of["train"]["processor_seconds"])
        axes[2].plot(made, seconds, "o-", color=_COLOURS[policy], label=_LABELS[policy], markersize=4)
    axes[2].set_title("processor seconds of the day's model")
    axes[2].set_ylabel("preparation and training")
    axes[2].set_ylim(bottom=0)
    axes[2].tick_params(axis="x", rotation=60)
    axes[2].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
