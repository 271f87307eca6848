"""Models of experts and gates against references written from the equations."""

import pytest
import torch
from pydantic import ValidationError

from home_dist.config import KernelSection
from home_dist.config.model import MODELS
from home_dist.errors import ConfigError
from home_dist.experts import ExpertBank, MaskedGates
from home_dist.experts.kernels import Kernel, select
from home_dist.models import TaskGroups, build_model
from tests.models.reference import GROUPINGS, B, F, compare, expert, gated, grid, make, with_bias

NORM = [False, True]


@pytest.mark.parametrize(("group_of", "norm", "hidden"), grid(GROUPINGS, NORM, ([5], [], [3, 5])))
def test_single_task(group_of, norm, hidden):
    model = make("single_task", group_of, expert_norm=norm, expert_hidden=hidden)
    tasks = len(group_of)
    compare(model, lambda v, mask: [expert(model.trunks, k, v, mask) for k in range(tasks)], tasks)


@pytest.mark.parametrize(("group_of", "norm"), grid(GROUPINGS, NORM))
def test_shared_bottom(group_of, norm):
    model = make("shared_bottom", group_of, expert_norm=norm)
    compare(model, lambda v, mask: [expert(model.trunk, 0, v, mask)] * len(group_of), len(group_of))


@pytest.mark.parametrize(("kind", "group_of", "experts", "norm"), grid(["omoe", "mmoe"], GROUPINGS, [1, 3], NORM))
def test_mmoe_and_omoe(kind, group_of, experts, norm):
    model, tasks = make(kind, group_of, experts=experts, expert_norm=norm), len(group_of)

    def reference(v, mask):
        f = [expert(model.bank, e, v, mask) for e in range(experts)]
        return [gated(model.gates.weight[k if kind == "mmoe" else 0], v, range(experts), f) for k in range(tasks)]

    assert len(model.gates.weight) == (tasks if kind == "mmoe" else 1)
    compare(model, reference, tasks)


@pytest.mark.parametrize(("group_of", "experts", "layers"), grid(GROUPINGS, [1, 3], [1, 2, 3]))
def test_ml_mmoe(group_of, experts, layers):
    model, tasks = make("ml_mmoe", group_of, experts=experts, layers=layers, expert_norm=layers == 2), len(group_of)

    def reference(v, mask):
        inputs = [v] * experts
        for n, layer in enumerate(model.layers):
            f = [expert(layer.bank, e, inputs[e], mask) for e in range(experts)]
            gates = tasks if n == layers - 1 else experts
            inputs = [gated(layer.gates.weight[g], v, range(experts), f) for g in range(gates)]
        return inputs

    compare(model, reference, tasks)


GATE_LAYERS = [{"gate_hidden": [3]}, {"gate_hidden": [4, 3], "gate_bias": True}, {"gate_bias": True}]


@pytest.mark.parametrize(("layers", "backend"), grid(GATE_LAYERS, ["eager", "cpu"]))
def test_mmoe_with_layers_in_its_gates(layers, backend):
    model = make("mmoe", (0, 0, 1), experts=3, **layers)
    assert (model.gates.hidden is None) == ("gate_hidden" not in layers)
    model.gates.kernel = Kernel(backend)

    def reference(v, mask):
        f = [expert(model.bank, e, v, mask) for e in range(3)]
        return [gated(*with_bias(model.gates, k, v), range(3), f) for k in range(3)]

    compare(model, reference, 3)


def extraction(layer, tasks, own, shared, states, mask):
    """One CGC layer. states: the rows that each task's experts read, then those that the shared experts read."""
    owner = [k for k in range(tasks) for _ in range(own)] + [tasks] * shared
    inputs = [[scaled(layer.feature_gate, group, x) for x in rows] for group, rows in enumerate(states)]
    f = [expert(layer.bank, e, inputs[owner[e]], mask) for e in range(len(owner))]
    mixed = []
    for gate in range(len(layer.gates.weight)):
        sees = [e for e in range(len(owner)) if gate == tasks or owner[e] in (gate, tasks)]
        z = gated(*with_bias(layer.gates, gate, states[gate]), sees, f)
        if layer.self_gates is not None:
            z = [a + b for a, b in zip(z, residual(layer.self_gates.weight[gate], states[gate], owner, gate, f), strict=True)]
        mixed.append(z)
    return mixed


def scaled(feature_gate, group, x):
    """HoME's: x * sum over n of softmax(W x)_n 2 sigmoid(x B_n A_n)"""
    if feature_gate is None:
        return x
    count, rank = feature_gate.gates, feature_gate.rank
    choice = torch.softmax(feature_gate.choice[group] @ x, 0)
    low = [feature_gate.down[group, n * rank : (n + 1) * rank] @ x for n in range(count)]
    return x * sum(choice[n] * 2 * torch.sigmoid(low[n] @ feature_gate.up[group * count + n]) for n in range(count))


def residual(weight, xs, owner, gate, f):
    """HoME's: a gate's own experts by a softmax over them, or a lone one by a sigmoid."""
    own = [e for e, o in enumerate(owner) if o == gate]
    if len(own) > 1:
        return gated(weight, xs, own, f)
    return [torch.sigmoid(weight[own[0]] @ x) * f[own[0]][row] for row, x in enumerate(xs)]


EXPERTS = [(1, 1), (2, 3)]


@pytest.mark.parametrize(("group_of", "experts", "norm"), grid(GROUPINGS, EXPERTS, NORM))
def test_cgc(group_of, experts, norm):
    own, shared = experts
    model, tasks = make("cgc", group_of, task_experts=own, shared_experts=shared, expert_norm=norm), len(group_of)
    assert len(model.gates.weight) == tasks
    compare(model, lambda v, mask: extraction(model, tasks, own, shared, [v] * (tasks + 1), mask), tasks)


@pytest.mark.parametrize(("group_of", "experts", "layers"), grid(GROUPINGS, EXPERTS, [1, 2, 3]))
def test_ple(group_of, experts, layers):
    own, shared = experts
    settings = {"task_experts": own, "shared_experts": shared, "layers": layers, "expert_norm": layers == 2}
    model, tasks = make("ple", group_of, **settings), len(group_of)

    def reference(v, mask):
        states = [v] * (tasks + 1)
        for layer in model.layers:
            states = extraction(layer, tasks, own, shared, states, mask)
        return states

    assert [len(layer.gates.weight) for layer in model.layers] == [tasks + 1] * (layers - 1) + [tasks]
    compare(model, reference, tasks)


@pytest.mark.parametrize("kind", ["ple", "mmoe"])
@pytest.mark.parametrize("norm", NORM)
def test_normalised_hidden_layers(kind, norm):
    model = make(kind, (0, 0, 1), expert_hidden=[5, 3], hidden_norm=True, expert_norm=norm)

    def reference(v, mask):
        if kind == "mmoe":
            f = [expert(model.bank, e, v, mask) for e in range(8)]
            return [gated(model.gates.weight[k], v, range(8), f) for k in range(3)]
        states = [v] * 4
        for layer in model.layers:
            states = extraction(layer, 3, 1, 2, states, mask)
        return states

    compare(model, reference, 3)


@pytest.mark.parametrize("layers", GATE_LAYERS)
def test_ple_with_widths_by_layer_and_layers_in_its_gates(layers):
    model = make("ple", (0, 0, 1), layers=3, layer_hidden=[[5], [], [3, 2]], layer_dims=[3, 6, 4], **layers)
    assert [layer.bank.weights[-1].shape[1] for layer in model.layers] == [3, 6, 4]
    assert [len(layer.bank.weights) for layer in model.layers] == [2, 1, 3]

    def reference(v, mask):
        states = [v] * 4
        for layer in model.layers:
            states = extraction(layer, 3, 1, 2, states, mask)
        return states

    compare(model, reference, 3)


KINDS_WITH_TASK_EXPERTS = ["cgc", "ple", "adatt", "stem", "home"]


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("kind", KINDS_WITH_TASK_EXPERTS)
def test_experts_of_a_task_with_widths_of_their_own(kind, backend):
    """Narrower and wider ones, after some steps: what they compute is that of their own units alone."""
    torch.manual_seed(0)
    settings = {"task_experts": 2, "shared_experts": 1, "task_hidden": {"a": [3, 2], "c": [7, 4]}, "expert_hidden": [5, 4]}
    config = MODELS.read({"kind": kind, "expert_dim": 4, **settings})
    tasks = TaskGroups((0, 0, 1), ("a", "b", "c"), ("x", "y"))
    model = build_model(config, F, tasks).double()
    select(model, KernelSection(backend=backend), torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (model(torch.randn(B, F, dtype=torch.float64)) - 1).square().sum().backward()
        optimizer.step()
    for part in model.anatomy(tasks).parts:
        inputs = [torch.randn(B, part.bank.weights[0].shape[2], dtype=torch.float64) for _ in part.bank.experts]
        found = part.bank.eval()(inputs)
        readers = [i for i, n in enumerate(part.bank.experts) for _ in range(n)]
        for e, owner in enumerate(part.owners):
            widths = {"a": [3, 2], "c": [7, 4]}.get(owner.name, [5, 4]) if owner.kind == "task" else [5, 4]
            x = inputs[readers[e]]
            for weight, bias, width in zip(part.bank.weights[:2], part.bank.biases, widths, strict=False):
                x = torch.relu(x @ weight[e, :width, : x.shape[1]].t() + bias[e, :width])
            x = x @ part.bank.weights[2][e, :, : x.shape[1]].t()
            if part.bank.norm is None:
                x = torch.relu(x + part.bank.biases[2][e])
            else:
                norm = part.bank.norm
                scaled = (x - norm.running_mean[e]) / torch.sqrt(norm.running_var[e] + norm.eps)
                x = torch.nn.functional.silu(scaled * norm.weight[e] + norm.bias[e])
            torch.testing.assert_close(found[e], x, rtol=1e-9, atol=1e-10)


def test_widths_of_a_tasks_experts_are_checked():
    with pytest.raises(ValidationError, match=r"task_hidden\.a has 1 widths, and experts have 2 hidden layers"):
        MODELS.read({"kind": "ple", "expert_hidden": [5, 4], "task_hidden": {"a": [3]}})
    section = MODELS.read({"kind": "ple", "expert_hidden": [5], "task_hidden": {"a": [3]}})
    assert section.named_tasks() == {"task_hidden": ("a",)}


def test_layers_and_entries_must_agree():
    with pytest.raises(ValidationError, match="layer_dims has 3 entries, and kind ple 2 layers: give one for each"):
        make("ple", layer_dims=[3, 3, 4])


def test_dropout_of_hidden_layers_keeps_the_mean_and_is_off_in_evaluation():
    """With one linear layer after it, the mean over many draws is the output without dropout."""
    torch.manual_seed(0)
    bank = ExpertBank([2], F, [64], 3, norm=False, hidden_dropout=0.5).double()
    plain = ExpertBank([2], F, [64], 3, norm=False).double()
    plain.load_state_dict(bank.state_dict())
    for one in (bank, plain):
        one.biases[1].data += 10  # no last ReLU cuts anything
    x = torch.randn(1, F, dtype=torch.float64)
    gates = torch.ones(1, 4000, 2, dtype=torch.float64)
    many = bank.mixed([x.expand(4000, -1)], gates)[0]
    assert many.std(0).min() > 0.01
    expected = plain.mixed([x], gates[:, :1])[0, 0]
    torch.testing.assert_close(many.mean(0), expected, rtol=0, atol=5 * float(many.std(0).max()) / 4000**0.5)
    bank.eval()
    torch.testing.assert_close(bank.mixed([x], gates[:, :1])[0, 0], expected)


def test_settings_that_eager_alone_computes_say_so():
    model = make("mmoe", hidden_norm=True)
    taken = select(model, KernelSection(), torch.device("cpu"))
    assert (taken.backend, taken.reason) == ("eager", "for model.hidden_norm")
    with pytest.raises(ConfigError, match=r'kernel\.backend = "cpu": model\.hidden_norm is computed by "eager" alone'):
        select(model, KernelSection(backend="cpu"), torch.device("cpu"))


PARTS = [{"feature_gate": True, "feature_gates": 3, "feature_gate_rank": 2}, {"self_gate": True}]


@pytest.mark.parametrize(("group_of", "experts", "parts"), grid(GROUPINGS, EXPERTS, [*PARTS, PARTS[0] | PARTS[1]]))
def test_parts_of_home_in_cgc_and_ple(group_of, experts, parts):
    own, shared = experts
    tasks, settings = len(group_of), {"task_experts": own, "shared_experts": shared, "expert_norm": own == 2, **parts}
    model = make("cgc", group_of, **settings)
    compare(model, lambda v, mask: extraction(model, tasks, own, shared, [v] * (tasks + 1), mask), tasks)
    model = make("ple", group_of, **settings)

    def reference(v, mask):
        states = extraction(model.layers[0], tasks, own, shared, [v] * (tasks + 1), mask)
        return extraction(model.layers[1], tasks, own, shared, states, mask)

    compare(model, reference, tasks)


def test_experts_that_a_gate_may_not_see_have_no_weight_and_no_gradient():
    model = make("ple", (0, 1, 1), task_experts=2, shared_experts=1)
    v = torch.randn(B, F, dtype=torch.float64)
    weights = {}
    for name, module in model.named_modules():
        if isinstance(module, MaskedGates):
            module.register_forward_hook(lambda m, _, out, n=name: weights.update({n: (m, out)}))
    model(v)[1].sum().backward()
    assert len(weights) == 2
    for gates, out in weights.values():
        hidden = ~gates.mask
        assert hidden.any()
        assert (out.transpose(1, 2)[hidden] == 0).all()
        assert (gates.weight.grad[hidden] == 0).all()
    # In the last layer task 1 reads its own experts (2 and 3) and the shared one (6): no gradient comes to the others.
    gradient = model.layers[1].bank.weights[0].grad.abs().sum((1, 2))
    assert (gradient[[0, 1, 4, 5]] == 0).all()
    assert (gradient[[2, 3, 6]] > 0).all()


@pytest.mark.parametrize(
    ("group_of", "experts", "layers"), grid(GROUPINGS, [(1, 0), (1, 1), (2, 1), (1, 2), (2, 2)], [1, 2, 3])
)
def test_adatt(group_of, experts, layers):
    own, shared = experts
    settings = {"task_experts": own, "shared_experts": shared, "layers": layers, "expert_norm": layers == 2}
    model, tasks = make("adatt", group_of, **settings), len(group_of)
    owner = [k for k in range(tasks) for _ in range(own)] + [tasks] * shared

    def reference(v, mask):
        states = [v] * (tasks + 1)
        for n, layer in enumerate(model.layers):
            f = [expert(layer.bank, e, states[owner[e]], mask) for e in range(len(owner))]
            units = tasks + (1 if shared and n < layers - 1 else 0)
            learned = iter(layer.mixing if layer.mixing is not None else ())
            fused = []
            for unit in range(units):
                native = [e for e in range(len(owner)) if owner[e] == unit]
                u = [next(learned) for _ in native] if len(native) > 1 else [1.0]
                all_experts = gated(layer.gates.weight[unit], states[unit], range(len(owner)), f)
                fused.append([z + sum(w * f[e][b] for w, e in zip(u, native, strict=True)) for b, z in enumerate(all_experts)])
            assert next(learned, None) is None
            states = fused
        return states

    compare(model, reference, tasks)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("wrong", [{"x": (5, 9)}, {"gates": (2, 5, 5)}, {"gates": (2, 4, 3)}, {"mask": (3,)}])
def test_a_bank_refuses_what_does_not_fit(backend, wrong):
    bank = ExpertBank([3], 6, [4], 4, norm=True)
    bank.kernel = Kernel(backend)
    shapes = {"x": (5, 6), "gates": (2, 5, 3), "mask": (5,)} | wrong
    with pytest.raises(ValueError, match=r"1 inputs \(B, 6\), gates \(K, B, 3\) and mask \(B,\) belong together"):
        bank.mixed([torch.ones(shapes["x"])], torch.ones(shapes["gates"]), torch.ones(shapes["mask"]))


def test_a_second_derivative_that_a_kernel_lacks_is_refused():
    """Silently it would be 0."""
    bank, gates = ExpertBank([3], 6, [4], 4, norm=True).double(), torch.rand(2, 5, 3, dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    bank.kernel = Kernel("cpu")
    with pytest.raises(RuntimeError, match=r"no second derivative .* set module\.kernel = home_dist\.EAGER"):
        torch.autograd.grad(bank.mixed([x], gates).sum(), x, create_graph=True)
    bank.kernel = Kernel()
    (first,) = torch.autograd.grad(bank.mixed([x], gates).sum(), x, create_graph=True)
    assert torch.autograd.grad(first.square().sum(), x)[0].abs().sum() > 0


def test_hidden_settings_without_hidden_layers_are_refused():
    with pytest.raises(ValidationError, match="hidden_norm has no effect with experts without hidden layers"):
        MODELS.read({"kind": "ple", "expert_hidden": [], "hidden_norm": True})


def test_narrowed_experts_have_names_of_their_own():
    """A warm start must not take units that stay 0, nor fill them."""
    tasks = TaskGroups((0, 0), ("a", "b"), ("x",))
    config = MODELS.read({"kind": "cgc", "expert_hidden": [5], "task_hidden": {"a": [3]}})
    bank = build_model(config, F, tasks).bank
    assert bank.narrowed == {0: " with 3 hidden units"}
    wider = MODELS.read({"kind": "cgc", "expert_hidden": [5], "task_hidden": {"a": [7]}})
    assert build_model(wider, F, tasks).bank.narrowed == dict.fromkeys([1, 2, 3], " with 5 hidden units")
