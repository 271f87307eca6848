"""The Triton kernels against eager, forward and backward, in fp32 and bf16: on a GPU, or interpreted on CPU tensors.

Triton reads TRITON_INTERPRET when it is first imported. Without a GPU, `test_interpreted` therefore runs the other tests in a
process of their own.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from home_dist.config import KernelSection
from home_dist.experts import ExpertBank, FeatureGate, MaskedGates, SelfGates
from home_dist.experts.kernels import EAGER, Kernel, eager, select
from home_dist.experts.kernels.dropout import Dropout
from home_dist.layers.recompute import recomputed
from home_dist.models.home import Home, HomeSection
from home_dist.models.tasks import TaskGroups
from tests.experts.cases import Case, Made, distances
from tests.experts.sparse_cases import SparseCase, SparseMade

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")
runs_here = pytest.mark.skipif(not INTERPRETED and DEVICE.type == "cpu", reason="run by test_interpreted")

# Small shapes, since an interpreted program takes milliseconds; they still cut tiles in all dimensions.
CASES = [
    Case(masked=True),
    Case(norm=False, in_dim=13),
    Case(hidden=(), gates=1, experts=(1,), masked=True),
    Case(hidden=(), norm=False, samples=1),
    Case(hidden=(8, 40), samples=70, experts=(2, 1)),
    Case(experts=(2,), samples=9, out_dim=136, gates=3),
    Case(experts=(9, 11), samples=7, gates=19, masked=True, hidden=()),  # more gates and experts than a chunk of a tile
    Case(experts=(70,), samples=2, gates=1, norm=False, hidden=()),
    Case(experts=(1,), samples=9, gates=70, hidden=(), out_dim=8),
]


@pytest.mark.skipif(INTERPRETED or DEVICE.type == "cuda", reason="the tests below run in this process")
@pytest.mark.parametrize(
    "chosen",
    ["maskedTrue or inside or dropout or twice or some_pairs or evaluation", pytest.param("", marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_interpreted(chosen):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", __file__, "-k", chosen]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    repository = Path(__file__).parents[2]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, cwd=repository)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert "failed" not in ended.stdout
    assert " passed" in ended.stdout


def both(case: Case) -> tuple[Made, Made]:
    return case.make(torch.float32).to(DEVICE), case.make(torch.float32).to(DEVICE)


@runs_here
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bank_equals_eager(case, precision):
    from home_dist.experts.kernels import triton_bank

    ours, theirs = both(case)
    actual = ours.results(triton_bank.mixed(ours.bank._operands(), ours.inputs, ours.gates, ours.mask, precision))
    expected = theirs.results(eager.mixed(theirs.bank._operands(), theirs.inputs, theirs.gates, theirs.mask, precision))
    off = distances(actual, expected)
    if precision == "fp32":
        assert max(off.values()) < 2e-5
    else:  # a hidden activation that rounds to the other side of zero, times few samples
        assert off["output"] < 4e-3
        assert max(off.values()) < 3e-2
    if case.norm:
        torch.testing.assert_close(ours.bank.norm.running_var, theirs.bank.norm.running_var, rtol=1e-3, atol=1e-3)


@runs_here
@pytest.mark.parametrize("experts", [(3, 1, 2), (2,)], ids=["tiled", "small"])
@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "classic"])
def test_dropout_keeps_what_eager_keeps(norm, experts):
    from home_dist.experts.kernels import triton_bank

    dropout = Dropout(0xDEADBEEF, 0x12345678, 0x90000000, 1 / (1 - 0x90000000 / 2**32))
    ours, theirs = both(Case(norm=norm, masked=norm, samples=13, experts=experts))
    actual = ours.results(triton_bank.mixed(ours.bank._operands(), ours.inputs, ours.gates, ours.mask, "fp32", dropout))
    expected = theirs.results(eager.mixed(theirs.bank._operands(), theirs.inputs, theirs.gates, theirs.mask, "fp32", dropout))
    assert max(distances(actual, expected).values()) < 2e-5


@runs_here
@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "classic"])
def test_gates_that_see_some_experts_equal_eager_inside_of_their_mask(norm):
    """Gates of two groups in no order, one that sees all, one expert that none sees; gradients of gates only where they see."""
    from home_dist.experts.kernels import triton_bank
    from home_dist.experts.kernels.mixture_tiles import Sees

    case = Case(experts=(4, 17), samples=6, gates=19, norm=norm, masked=norm, hidden=(), out_dim=24)
    mask = torch.zeros(19, 21, dtype=torch.bool)
    mask[:, 1] = True
    for gate in range(19):
        mask[gate, [2 + gate % 2, 4 + gate % 16]] = True
    mask[7] = True
    mask[:, 20] = False
    ours, theirs = both(case)
    for made in (ours, theirs):
        made.gates = (made.gates.detach() * mask.unsqueeze(1).to(DEVICE)).requires_grad_()
    out = triton_bank.mixed(ours.bank._operands(), ours.inputs, ours.gates, ours.mask, "fp32", None, Sees.of(mask))
    actual = ours.results(out)
    expected = theirs.results(eager.mixed(theirs.bank._operands(), theirs.inputs, theirs.gates, theirs.mask, "fp32", None))
    assert (actual["gates"].permute(1, 0, 2)[:, ~mask] == 0).all()
    expected["gates"] = expected["gates"] * mask.unsqueeze(1).to(DEVICE)
    assert max(distances(actual, expected).values()) < 2e-5


@runs_here
def test_evaluation_equals_eager():
    from home_dist.experts.kernels import triton_bank

    ours, theirs = both(Case(experts=(9,), samples=5))
    ours.bank.eval()
    theirs.bank.eval()
    actual = ours.results(triton_bank.mixed(ours.bank._operands(), ours.inputs, ours.gates, None, "fp32"))
    expected = theirs.results(eager.mixed(theirs.bank._operands(), theirs.inputs, theirs.gates, None, "fp32"))
    assert max(distances(actual, expected).values()) < 2e-5


@runs_here
@pytest.mark.parametrize("sigmoid", ["inside", "outside"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("shared", "in_dim"), [(True, 13), (False, 120)])
def test_feature_gate_equals_eager(sigmoid, precision, shared, in_dim):
    torch.manual_seed(0)
    ours = FeatureGate(2, in_dim, 3, 40, sigmoid).to(DEVICE)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    theirs = copy.deepcopy(ours)
    ours.kernel, theirs.kernel = Kernel("triton", precision), Kernel("eager", precision)
    x = torch.randn(37, in_dim) if shared else torch.randn(2, 37, in_dim)
    pull = torch.randn(2, 37, in_dim, device=DEVICE)

    def results(gate: FeatureGate) -> dict[str, torch.Tensor]:
        given = x.to(DEVICE).requires_grad_()
        out = gate(given)
        names = ["x", *dict(gate.named_parameters())]
        grads = torch.autograd.grad((out * pull).sum(), [given, *gate.parameters()])
        return {"output": out.detach(), **dict(zip(names, grads, strict=True))}

    assert max(distances(results(ours), results(theirs)).values()) < (2e-5 if precision == "fp32" else 1e-2)


SEES = torch.tensor([[1, 1, 0, 1, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]).bool()
OWN = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1], [1, 1, 1, 1, 0]]).bool()  # two see one expert


@runs_here
@pytest.mark.parametrize("residual", [True, False], ids=["inside with self gates", "inside alone"])
@pytest.mark.parametrize("shared", [True, False])
def test_gate_weights_equal_eager(shared, residual):
    """Scores of one sample so large that their powers overflow, and one that is NaN."""
    torch.manual_seed(0)
    gates, own = MaskedGates(6, SEES).to(DEVICE), SelfGates(6, OWN).to(DEVICE) if residual else None
    x = torch.randn((37, 6) if shared else (4, 37, 6)).to(DEVICE)
    x[..., 3, :] *= 1e4
    x.requires_grad_()
    pull = torch.randn(4, 37, 5).to(DEVICE)

    def results(kernel: Kernel) -> dict[str, torch.Tensor]:
        gates.kernel = kernel
        out = gates.joined(own, x)
        leaves = {"x": x, "gates": gates.weight} | ({} if own is None else {"own": own.weight})
        return {
            "output": out.detach(),
            **dict(zip(leaves, torch.autograd.grad((out * pull).sum(), leaves.values()), strict=True)),
        }

    found = results(Kernel("triton"))
    assert max(distances(found, results(EAGER)).values()) < 2e-5
    seen = SEES | OWN if residual else SEES
    assert (found["output"].permute(1, 0, 2).cpu()[:, ~seen] == 0).all()
    with torch.no_grad():
        x[..., 5, 2] = torch.nan
    assert (results(Kernel("triton"))["output"][:, 5].cpu().isnan() == seen).all()


@runs_here
def test_a_layer_of_home_equals_eager_inside_of_its_masks():
    """Feature gates, gates and self gates of two groups, and the mixture that leaves out what no gate sees."""
    tasks = TaskGroups((0, 1, 0, 1, 1))
    torch.manual_seed(0)
    ours = Home(HomeSection(expert_hidden=[8], expert_dim=16, feature_gate_rank=4), 12, tasks).to(DEVICE)
    theirs = copy.deepcopy(ours)
    select(ours, KernelSection(backend="triton"), DEVICE)
    select(theirs, KernelSection(backend="eager"), DEVICE)
    x, mask = torch.randn(11, 12), torch.ones(11)
    mask[4] = 0

    def results(model: Home) -> dict[str, torch.Tensor]:
        given = x.to(DEVICE).requires_grad_()
        out = model(given, mask.to(DEVICE))
        leaves = {"x": given, **dict(model.named_parameters())}
        grads = torch.autograd.grad(out.square().sum(), list(leaves.values()))
        return {"output": out.detach(), **dict(zip(leaves, grads, strict=True))}

    assert max(distances(results(ours), results(theirs)).values()) < 5e-5


@runs_here
@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "classic"])
def test_gradients_can_be_taken_twice_from_one_graph(norm):
    from home_dist.experts.kernels import triton_bank

    made, _ = both(Case(experts=(4,), samples=5, norm=norm))
    out = triton_bank.mixed(made.bank._operands(), made.inputs, made.gates, None, "fp32")
    leaves = list(made.leaves().values())
    first = torch.autograd.grad(out.sum(), leaves, retain_graph=True)
    for one, two in zip(first, torch.autograd.grad(out.sum(), leaves), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@runs_here
@pytest.mark.parametrize("norm", [True, False], ids=["normalised", "classic"])
def test_recomputed_twice_the_gradients_are_the_same(norm):
    from home_dist.experts.kernels import triton_bank

    def results(call) -> dict[str, torch.Tensor]:
        made, _ = both(Case(experts=(4,), samples=5, norm=norm))
        return made.results(call(lambda: triton_bank.mixed(made.bank._operands(), made.inputs, made.gates, None, "fp32")))

    plain, again = results(lambda mixed: mixed()), results(recomputed)
    assert all(plain[name].equal(again[name]) for name in plain)


@runs_here
def test_nan_in_the_input_shows():
    ours, _ = both(Case(norm=False, experts=(2,), samples=5))
    with torch.no_grad():
        ours.inputs[0][3, 4] = torch.nan
    from home_dist.experts.kernels import triton_bank

    results = ours.results(triton_bank.mixed(ours.bank._operands(), ours.inputs, ours.gates, None, "fp32"))
    assert results["output"][:, 3].isnan().all()
    assert results["output"][:, [0, 1, 2, 4]].isfinite().all()
    assert results["weights.0"][:, :, 4].isnan().any(1).all()


@runs_here
def test_launches_do_not_depend_on_the_number_of_experts():
    launches = []
    for count in (1, 4):
        made = Case(experts=(count, count), samples=3).make(torch.float32).to(DEVICE)
        select(made.bank, KernelSection(backend="triton"), DEVICE)
        made.results(made.bank.mixed(made.inputs, made.gates, made.mask))
        with torch.profiler.profile() as trace:
            made.results(made.bank.mixed(made.inputs, made.gates, made.mask))
        launches.append(sum(e.name.startswith("triton::") for e in trace.events()))
    # Forward: two products and the mixture; backward: two passes, and two products of each layer.
    assert launches == [9, 9]


@runs_here
def test_widths_that_do_not_fit_are_refused():
    bank = ExpertBank([1], 4, [8], 12, norm=True).to(DEVICE)
    bank.kernel = Kernel("triton")
    x, gates = torch.zeros(3, 4, device=DEVICE), torch.ones(1, 3, 1, device=DEVICE)
    with pytest.raises(ValueError, match=r"multiples of 8, got \[12\]"):
        bank.mixed([x], gates)
    bank.kernel = EAGER
    bank.mixed([x], gates)


SPARSE = [
    SparseCase(in_dim=13, hidden=(8, 40), samples=70, masked=True, favourite=True),
    SparseCase(norm=False),
    SparseCase(hidden=(), norm=False, favourite=True),
    SparseCase(experts=40, slots=2, samples=5),
    SparseCase(samples=150, experts=2, slots=1, gates=2, out_dim=136),
]


def chosen_equals_eager(case: SparseCase, precision: str, dropout: Dropout | None = None) -> None:
    """In fp32: as near to eager in float64 as eager itself is. Batch norm over the few samples of one expert may leave five
    digits, so that two right results lie further apart than any bound that would still see an error elsewhere."""
    from home_dist.experts.kernels import sparse_eager, sparse_triton

    def results(mixed, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
        made: SparseMade = case.make(torch.float32)
        made = SparseMade(
            made.bank.to(DEVICE, dtype),
            made.x.detach().to(DEVICE, dtype).requires_grad_(),
            made.chosen.to(DEVICE),
            made.gates.detach().to(DEVICE, dtype).requires_grad_(),
            None if made.mask is None else made.mask.to(DEVICE, dtype),
            made.pull.to(DEVICE, dtype),
        )
        out = mixed(made.bank._operands(), made.x, made.chosen, made.gates, made.mask, precision, dropout)
        return made.results(out)

    found, eager_found = results(sparse_triton.mixed), results(sparse_eager.mixed)
    if precision == "fp32":
        exact = results(sparse_eager.mixed, torch.float64)
        far, eager_far = distances(found, exact), distances(eager_found, exact)
        assert all(far[name] < 1e-6 + 3 * eager_far[name] for name in exact), (far, eager_far)
    else:
        assert max(distances(found, eager_found).values()) < 1e-2


@runs_here
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_some_pairs_equal_eager(precision):
    chosen_equals_eager(SPARSE[0], precision, Dropout(3, 7, 1 << 30, 4 / 3))


@runs_here
@pytest.mark.parametrize("case", SPARSE[1:], ids=str)
def test_pairs_equal_eager(case):
    chosen_equals_eager(case, "fp32")


@runs_here
def test_some_pairs_are_those_of_the_cpu():
    from home_dist.experts.kernels.sparse_cpu import Pairs
    from home_dist.experts.kernels.triton_pairs import ROWS, DevicePairs

    chosen = SparseCase(experts=9, slots=4, samples=300, favourite=True).make(torch.float32).chosen
    ours, theirs = DevicePairs.of(chosen.to(DEVICE), 9), Pairs.of(chosen, 9)
    count = theirs.count
    assert ours.offsets[:-1].tolist() == theirs.offsets.tolist()
    assert ours.samples[:count].tolist() == theirs.samples.tolist()
    assert (ours.experts[count:] == 9).all()
    assert int(ours.is_first.sum()) == count
    for b in (0, 3, 299):
        own = theirs.pairs[theirs.starts[b] : theirs.starts[b + 1]]
        assert ours.pair_of[:, b].cpu().tolist() == own[theirs.places[b].long()].tolist()
    slots = torch.arange(chosen.numel())
    for pair in (0, count // 2, count - 1):
        run = ours.order[ours.starts[pair] : ours.starts[pair + 1]].cpu()
        assert sorted(run.tolist()) == slots[(ours.pair_of.flatten() == pair).cpu()].tolist()
    covered = [
        (int(e), row)
        for e, first in zip(ours.tile_expert, ours.tile_row, strict=True)
        if e >= 0
        for row in range(int(first), min(int(first) + ROWS, int(ours.offsets[e + 1])))
    ]
    assert [row for _, row in covered] == list(range(count))
    assert [e for e, _ in covered] == ours.experts[:count].tolist()


@runs_here
def test_some_pairs_of_few_per_sample_need_less_memory():
    from home_dist.experts.kernels import sparse_triton
    from home_dist.experts.kernels.triton_pairs import DevicePairs

    made = SparseCase(norm=False).make(torch.float32)
    made.chosen = made.chosen[:1].expand(4, -1, -1).contiguous()  # all tasks choose the same 3 experts
    assert DevicePairs.of(made.chosen, 6, 3).most == 3 * 37 < DevicePairs.of(made.chosen, 6).most
    operands = made.bank._operands()
    found, expected = (
        made.results(sparse_triton.mixed(operands, made.x, made.chosen, made.gates, None, "fp32", None, per_sample))
        for per_sample in (3, None)
    )
    assert max(distances(found, expected).values()) < 1e-6
