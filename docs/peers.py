"""The table of how many times others' samples/s home_dist has, from benchmarks/results/peers.json."""

from statistics import median
from typing import Any

CASES = {
    "sample, mmoe": "MMoE",
    "sample, home": "HoME",
    "sample, ple": "PLE",
    "20 x 1M rows, mmoe": "MMoE, 20 tables of 1 M rows",
}
OURS = {"fp32": "home_dist, fp32", "bf16": "home_dist, bf16"}
OTHERS = {
    "torch-rechub": "torch-rechub",
    "FuxiCTR": "FuxiCTR",
    "TorchEasyRec": "TorchEasyRec's modules, on TorchRec's tables and our reader",
    "plain": "plain torch",
    "torch.compile": "plain torch through `torch.compile`, warm",
}


def ratios(result: dict[str, Any]) -> str:
    """A row per system, a column per model: in fp32, and in bf16 in brackets."""
    lines = [f"| | {' | '.join(CASES.values())} |", "|---" * (len(CASES) + 1) + "|"]
    for other, shown in OTHERS.items():
        cells = [_cell(result["cases"][case], other) for case in CASES]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(case: dict[str, list[dict[str, float]]], other: str) -> str:
    if not case.get(other):
        return ""
    theirs = _speed(case[other])
    fp32, bf16 = (_speed(case[ours]) / theirs for ours in OURS.values())
    return f"{fp32:.2g} ({bf16:.2g})"


def _speed(turns: list[dict[str, float]]) -> float:
    return median(turn["samples_per_second"] for turn in turns)
