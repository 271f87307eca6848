"""Histories: DIN without padding against DIN with it; SIM and TWIN against attention over everything.

    python benchmarks/sequence.py            # results/sequence.json, results/sequence.md, results/sequence.png
    python benchmarks/sequence.py --quick    # fewer repeats and shorter histories at most, under 50 s

All figures are forward and backward on the CPU, medians of alternating repeats within one run. A search reads embeddings that
are looked up in any case, here as below: what is compared is the work on them. All of it runs in a process set as home-dist
sets its own (home_dist/process.py).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from home_dist import process  # noqa: E402

process.prepare()

import torch  # noqa: E402

from benchmarks.claims import claim  # noqa: E402
from benchmarks.expert_bank_measures import medians, peak_bytes  # noqa: E402
from benchmarks.machine import write_result  # noqa: E402
from benchmarks.sequence_peers import FullAttention, PaddedDin  # noqa: E402
from home_dist.sequence.din import Din, DinSection  # noqa: E402
from home_dist.sequence.history import EncoderInputs, History  # noqa: E402
from home_dist.sequence.jagged import best_within  # noqa: E402
from home_dist.sequence.sim import Sim, SimSection  # noqa: E402
from home_dist.sequence.twin import Twin, TwinSection  # noqa: E402

DIM, HIDDEN, HEADS, HEAD_DIM, K, ITEMS = 128, (64, 32), 4, 32, 50, 20_000
INPUTS = EncoderInputs(DIM, 0, ("item", "category"), tasks=1)
EVENTS = 200_000
"""Events of a batch in the comparison of searches; shorter histories make larger batches."""
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    chosen = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    repeats = 3 if chosen.quick else 7
    lengths = (100, 100_000) if chosen.quick else (100, 1_000, 10_000, 100_000)
    result = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "din": _din(repeats),
        "search": {str(n): _search(n, repeats) for n in lengths},
    }
    text = _table(result)
    print(text)
    if not chosen.quick:
        write_result(chosen.out / "sequence.json", result)
        (chosen.out / "sequence.md").write_text(text + "\n")
    for line in _claims(result):
        print(line)


def _din(repeats: int, samples: int = 512) -> dict[str, Any]:
    """Lengths: log-normal with mean 30, at most 200."""
    sigma = 1.0
    mu = torch.log(torch.tensor(30.0)) - sigma**2 / 2
    lengths = torch.exp(mu + sigma * torch.randn(samples)).round().long().clamp(1, 200)
    values = torch.randn(int(lengths.sum()), DIM)
    targets = torch.randn(samples, DIM, requires_grad=True)
    jagged, padded = Din(DinSection(name="h", hidden=HIDDEN), INPUTS), PaddedDin(DIM, HIDDEN)
    owners = torch.repeat_interleave(torch.arange(samples), lengths)
    place = torch.arange(len(values)) - (lengths.cumsum(0) - lengths)[owners]
    table = torch.zeros(samples, int(lengths.max()), DIM)
    table[owners, place] = values
    mask = torch.zeros(table.shape[:2])
    mask[owners, place] = 1
    values.requires_grad_()
    table.requires_grad_()
    none = torch.zeros(len(values), 0)

    steps: dict[str, Step] = {
        "padded": lambda: padded(table, targets, mask).sum().backward(),
        "jagged": lambda: jagged(History(values, none, targets, lengths)).vector.sum().backward(),
    }
    seconds = medians(steps, repeats)
    leaves = [values, table, targets, *jagged.parameters(), *padded.parameters()]
    memory = {name: peak_bytes(step, leaves) for name, step in steps.items()}
    return {
        "samples": samples,
        "mean_length": float(lengths.float().mean()),
        "longest": int(lengths.max()),
        "seconds": seconds,
        "peak_bytes": memory,
    }


def _search(length: int, repeats: int) -> dict[str, Any]:
    """All histories `length` events long, over Zipf-distributed items."""
    samples = max(1, EVENTS // length)
    popularity = 1 / torch.arange(1, ITEMS + 1, dtype=torch.float64)
    items = torch.multinomial(popularity, samples * length, replacement=True)
    embeddings = torch.randn(ITEMS, DIM)
    events = embeddings[items]
    events.requires_grad_()
    lengths = torch.full((samples,), length)
    targets = torch.randn(samples, DIM, requires_grad=True)
    category = items % 100
    history = History(
        events,
        torch.zeros(len(items), 0),
        targets,
        lengths,
        {"item": items, "category": category},
        {"item": torch.zeros(samples, dtype=torch.int64), "category": torch.randint(0, 100, (samples,))},
    )
    full = FullAttention(DIM, HEADS, HEAD_DIM)
    search = {"name": "h", "most": K, "heads": HEADS, "head_dim": HEAD_DIM}
    hard, soft = Sim(SimSection(search="hard", **search), INPUTS), Sim(SimSection(**search), INPUTS)
    # Items come with the category, so that the item alone tells them apart.
    by_item = History(events, history.contexts, targets, lengths, {"item": items}, {"item": history.target_ids["item"]})
    twin = Twin(TwinSection(**search), INPUTS)

    def step(loss: Callable[[], torch.Tensor]) -> Step:
        def run() -> None:
            events.grad = None  # otherwise each step would add to the last one's, as no training does
            loss().backward()

        return run

    def of_soft() -> torch.Tensor:
        found = soft(history)
        return found.vector.sum() + found.predictions["search"][0].sum()

    steps: dict[str, Step] = {
        "full attention": step(lambda: full(events.view(samples, length, DIM), targets).sum()),
        "SIM, hard search": step(lambda: hard(history).vector.sum()),
        "SIM, soft search": step(of_soft),
        "TWIN": step(lambda: twin(by_item).vector.sum()),
    }
    seconds = medians(steps, repeats)
    return {"samples": samples, "seconds": seconds, "recall": _recall(full, twin, soft, by_item)}


@torch.no_grad()
def _recall(full: FullAttention, twin: Twin, soft: Sim, history: History) -> dict[str, float]:
    """Share of the k events that full attention (with TWIN's weights) weighs most, which each search finds. Soft search is
    untrained here: what it finds by training is a matter of data."""
    owners = history.owners
    exact = twin.attention.scores(twin.attention.keys(history.events), twin.attention.queries(history.targets), owners).mean(1)
    wanted = set(best_within(exact, history.lengths, owners, K)[0].tolist())
    found = {
        "TWIN": twin.searched(history, twin.attention.queries(history.targets)).of_pairs(history),
        "SIM, soft search": soft.searched(history).of_pairs(history),
    }
    return {
        name: len(wanted & set(best_within(scores, history.lengths, owners, K)[0].tolist())) / len(wanted)
        for name, scores in found.items()
    }


def _table(result: dict[str, Any]) -> str:
    din = result["din"]
    lines = [f"torch {result['torch']}, {result['threads']} threads, forward and backward, fp32.", ""]
    lines += [f"DIN, {din['samples']} histories of {din['mean_length']:.0f} events on average, {din['longest']} at most:", ""]
    lines += ["| DIN | samples/s | peak MB |", "|---|---|---|"]
    for name, seconds in din["seconds"].items():
        lines.append(f"| {name} | {din['samples'] / seconds:,.0f} | {din['peak_bytes'][name] / 1e6:.0f} |")
    names = list(next(iter(result["search"].values()))["seconds"])
    lines += [
        "",
        "| events | " + " | ".join(f"{n}, ms per sample" for n in names) + " | recall@k, TWIN | SIM soft, untrained |",
    ]
    lines.append("|---" * (len(names) + 3) + "|")
    for length, found in result["search"].items():
        cells = [f"{1e3 * found['seconds'][n] / found['samples']:.3f}" for n in names]
        recall = found["recall"]
        cells += [f"{recall['TWIN']:.3f}", f"{recall['SIM, soft search']:.3f}"]
        lines.append(f"| {int(length):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _claims(result: dict[str, Any]) -> list[str]:
    din, longest = result["din"], result["search"]["100000"]
    speed = din["seconds"]["padded"] / din["seconds"]["jagged"]
    memory = din["peak_bytes"]["jagged"] / din["peak_bytes"]["padded"]
    lines = [
        claim("jagged DIN, samples/s of padded", speed, 3.0, goal_form=".2f"),
        claim("jagged DIN, peak memory of padded", memory, 1 / 3, at_most=True, goal_form=".2f"),
    ]
    for name in ("SIM, hard search", "SIM, soft search", "TWIN"):
        ratio = longest["seconds"]["full attention"] / longest["seconds"][name]
        lines.append(claim(f"{name} at 100,000 events, speed of full attention", ratio, 20.0, goal_form=".2f"))
    return lines


if __name__ == "__main__":
    main()
