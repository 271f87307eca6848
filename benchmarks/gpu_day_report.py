"""Table and picture of what benchmarks/gpu_day.py found."""

from pathlib import Path
from typing import Any


def table(found: dict[str, Any]) -> str:
    """A Markdown table per step."""
    about = f"{found['device']}, torch {found['torch']}, CUDA {found['cuda']}, Python {found['python']}"
    lines = ["<!-- written by benchmarks/gpu_day.py -->", f"# {about}", ""]
    if not found["gpu"]:
        lines += ["No GPU: Triton's interpreter ran tiny sizes, which says nothing of speed.", ""]
    for name, step in found["steps"].items():
        lines += [f"## {name}, {step.get('seconds', 0):g} s", ""]
        if step.get("ended"):
            lines += [f"Ended early: {step['ended']}", ""]
        flat = {item: flattened(values) for item, values in step["items"].items()}
        columns = list(dict.fromkeys(c for values in flat.values() for c in values))
        if columns:
            lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            lines += [
                f"| {item} | " + " | ".join(shown(values.get(c)) for c in columns) + " |" for item, values in flat.items()
            ]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def flattened(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flattened(value, f"{before}{key} ") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def picture(found: dict[str, Any], path: Path) -> bool:
    """Time of the bank and its rivals by experts, and of histories by length. False where matplotlib is missing, as often on
    machines that are lent; --report makes the picture elsewhere."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("agg")
    from matplotlib import pyplot

    bank = found["steps"].get("bank", {}).get("items", {})
    histories = found["steps"].get("histories", {}).get("items", {})
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    sizes = {item["size"] for item in bank.values() if "size" in item}
    largest = next((s for s in ("large", "medium", "small", "tiny") if s in sizes), None)
    for system in ("home_dist", "products", "loop", "eager", "compiled", "grouped_mm"):
        of = [i for i in bank.values() if i.get("size") == largest and i.get("precision") == "bf16" and i.get(system)]
        if of:
            left.plot([i["experts"] for i in of], [1e3 * i[system] for i in of], marker="o", label=system)
    left.set(xlabel="experts", ylabel="ms a step", xscale="log", yscale="log", title=f"bank, {largest}, bf16")
    for encoder in dict.fromkeys(i["encoder"] for i in histories.values() if "encoder" in i):
        of = [i for i in histories.values() if i.get("encoder") == encoder and i.get("events_per_s")]
        right.plot([i["length"] for i in of], [i["events_per_s"] for i in of], marker="o", label=encoder)
    right.set(xlabel="events of a history", ylabel="events/s", xscale="log", yscale="log", title="histories")
    for axes in (left, right):
        if axes.lines:
            axes.legend()
    figure.suptitle(found["device"] + ("" if found["gpu"] else ": no GPU, no speeds"))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
