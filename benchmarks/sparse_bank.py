"""The bank of chosen experts against its own products, the dense bank, torch's grouped_mm, and itself with more experts.

    python benchmarks/sparse_bank.py --quick    # under 50 s: few repeats
    python benchmarks/sparse_bank.py            # some four minutes; writes results/sparse_bank.json

Each sample chooses K_s = 4 experts for all tasks and K_a = 1 for each of 8 tasks, as SMES does. Experts are 512-256-128 wide.
All systems take turns in one process, forward and backward, and ratios are of medians.
"""

import argparse
import json
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
from benchmarks.expert_bank_measures import medians  # noqa: E402
from benchmarks.machine import processor, vectors, write_result  # noqa: E402
from home_dist.config import KernelSection  # noqa: E402
from home_dist.experts import ExpertBank, SparseBank  # noqa: E402
from home_dist.experts.kernels import choose  # noqa: E402
from home_dist.experts.kernels.sparse_cpu import Pairs  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "sparse_bank.json"
SAMPLES, IN_DIM, HIDDEN, OUT_DIM, TASKS, SHARED, ADAPTIVE = 2048, 512, (256,), 128, 8, 4, 1


def choices(experts: int, distinct: int | None = None) -> torch.Tensor:
    """(K, B, K_s + K_a): uniform; `distinct`: a sample's tasks choose among so many experts, by default among all."""
    order = torch.rand(SAMPLES, experts).argsort(1)
    shared, pool = order[:, :SHARED], order[:, SHARED:distinct]
    own = pool.gather(1, torch.randint(pool.shape[1], (SAMPLES, TASKS * ADAPTIVE)))
    if distinct is not None:  # each of them by a task
        own[:, : distinct - SHARED] = pool
    own = own.view(SAMPLES, TASKS, ADAPTIVE).transpose(0, 1)
    return torch.cat([shared.expand(TASKS, -1, -1), own], 2).contiguous()


class Sparse:
    """A step of the bank of chosen experts: forward and backward."""

    def __init__(self, experts: int, chosen: torch.Tensor):
        torch.manual_seed(0)
        self.bank = SparseBank(experts, IN_DIM, HIDDEN, OUT_DIM, norm=False)
        self.bank.kernel = choose(torch.device("cpu"), KernelSection())
        self.chosen, self.pairs = chosen, Pairs.of(chosen, experts)
        self.x = torch.randn(SAMPLES, IN_DIM, requires_grad=True)
        self.gates = torch.rand(chosen.shape).softmax(-1).requires_grad_()
        self.pull = torch.randn(TASKS, SAMPLES, OUT_DIM)

    def __call__(self) -> None:
        self._clear()
        self.bank.of_chosen(self.x, self.chosen, self.gates).backward(self.pull)

    def _clear(self) -> None:
        for leaf in (self.x, self.gates, *self.bank.parameters()):
            leaf.grad = None

    def kept(self) -> int:
        """Bytes of activations that the forward keeps for the backward."""
        y, hidden = self.bank.of_chosen(self.x, self.chosen, self.gates).grad_fn.activations
        return sum(t.nbytes for t in (y, *(h for [h] in hidden)))

    def products(self) -> Callable[[], None]:
        """The products of the chosen pairs alone, three per layer, without gathering, activations or sums: an expert at a time,
        of operands and into results that lie there."""
        bounds = self.pairs.offsets.tolist()
        rows = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
        widths = [IN_DIM, *HIDDEN, OUT_DIM]
        acts = [torch.randn(self.pairs.count, w) for w in widths]
        grads = [torch.empty_like(a) for a in acts]
        weights = [w.detach() for w in self.bank.weights]
        weight_grads = [torch.empty_like(w) for w in weights]

        def run() -> None:
            for e, own in enumerate(rows):
                for n, weight in enumerate(weights):
                    torch.mm(acts[n][own], weight[e].t(), out=acts[n + 1][own])
                for n in reversed(range(len(weights))):
                    torch.mm(grads[n + 1][own].t(), acts[n][own], out=weight_grads[n][e])
                    torch.mm(grads[n + 1][own], weights[n][e], out=grads[n][own])

        return run

    def grouped(self) -> Callable[[], None]:
        """The same products by torch's grouped_mm, layer by layer over all pairs."""
        ends, widths = self.pairs.offsets[1:].int(), [IN_DIM, *HIDDEN, OUT_DIM]
        acts = [torch.randn(self.pairs.count, w) for w in widths]
        weights, mm = [w.detach() for w in self.bank.weights], torch.nn.functional.grouped_mm

        def run() -> None:
            for n, weight in enumerate(weights):
                mm(acts[n], weight.transpose(1, 2), offs=ends)
            for n in reversed(range(len(weights))):
                mm(acts[n + 1].t(), acts[n], offs=ends)
                mm(acts[n + 1], weights[n], offs=ends)

        return run


class Dense:
    """A step of the dense bank, in which each task mixes all experts."""

    def __init__(self, sparse: Sparse, experts: int):
        self.bank = ExpertBank([experts], IN_DIM, HIDDEN, OUT_DIM, norm=False)
        self.bank.kernel, self.x, self.pull = sparse.bank.kernel, sparse.x, sparse.pull
        self.gates = torch.rand(TASKS, SAMPLES, experts).softmax(-1).requires_grad_()

    def __call__(self) -> None:
        for leaf in (self.x, self.gates, *self.bank.parameters()):
            leaf.grad = None
        self.bank.mixed([self.x], self.gates).backward(self.pull)

    def kept(self) -> int:
        y, hidden = self.bank.mixed([self.x], self.gates).grad_fn.activations
        return sum(t.nbytes for t in (y, *(block for layer in hidden for block in layer)))


def measured(repeats: int) -> dict[str, Any]:
    torch.manual_seed(1)
    sparse = Sparse(64, choices(64))
    dense = Dense(sparse, 64)
    systems = {"sparse": sparse, "products": sparse.products(), "grouped_mm": sparse.grouped(), "dense": dense}
    seconds = medians(systems, repeats)
    kept = {"sparse": sparse.kept(), "dense": dense.kept()}
    pairs = sparse.pairs.count
    del dense, systems
    growth = {str(e): Sparse(e, choices(e, 8)) for e in (8, 16, 64, 256, 512)}
    kept |= {f"sparse of {e}": step.kept() for e, step in growth.items()}
    return {
        "machine": f"{torch.get_num_threads()} threads, {processor()}{vectors()}",
        "pairs": pairs,
        "seconds": seconds,
        "kept_bytes": kept,
        "growth_seconds": medians(growth, repeats),
    }


def lines(found: dict[str, Any]) -> list[str]:
    seconds, growth, kept = found["seconds"], found["growth_seconds"], found["kept_bytes"]
    return [
        claim("speed over the chosen products alone", seconds["products"] / seconds["sparse"], 0.75),
        claim("speed over the dense bank of 64", seconds["dense"] / seconds["sparse"], 4),
        claim("kept memory of 512 over 8 experts", kept["sparse of 512"] / kept["sparse of 8"], 1, at_most=True),
        claim("time of 512 over 8 experts at equal choice", growth["512"] / growth["8"], 1.3, at_most=True),
        f"torch's grouped_mm, products alone: {seconds['grouped_mm'] / seconds['products']:.2f} times the time of torch.mm",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="1: processor time is measured")
    given = parser.parse_args()
    quick = given.quick
    torch.set_num_threads(given.threads)
    found = measured(5 if quick else 40)
    print(json.dumps(found, indent=1))
    if not quick:
        write_result(RESULTS, found)
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
