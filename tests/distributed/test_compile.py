"""kernel.backend = "compile": a step's model and towers are one program of torch.compile, with the losses that eager has."""

import contextlib

import pytest

from home_dist.config.model import MODELS
from tests.distributed.test_models import OPTIONS
from tests.factory import make_config, make_data
from tests.ranks import run, run_module, settings

pytestmark = pytest.mark.distributed

COMMON = "train.max_steps=12 data.validation='' data.test='' insight.every_steps=5 model.dropout=0 embedding.dropout=0"
RUNS = {
    "home": (1, "model.kind=home"),
    "gradnorm": (1, "model.kind=mmoe train.weighting={kind='gradnorm',period=4} train.accumulate=2 checkpoint.every_steps=4"),
    "normalised": (2, "model.kind=ple model.expert_norm=true model.hidden_norm=true"),
}
"""By name: ranks and settings. Looking at gradients passes through a program's backward twice."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), rows=700, files=3, row_group=60)


def losses(folder, data, backend, name):
    """step -> loss. The last batch of the rows is not full, and no step may compile again: CUDA graphs take no other shapes."""
    folder.mkdir()
    ranks, options = RUNS[name]
    config = make_config(folder, data, batch_size=64 // ranks)
    line = f"{name} {COMMON} kernel.backend={backend} {options}"
    ended = run_module(ranks, "tests.distributed.train_kinds", config, line)
    assert f"expert kernel: {backend}, fp32" in ended.text
    return {step: float(loss) for step, loss in ended.losses().items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_compiled_steps_have_the_losses_of_eager(name, data, tmp_path):
    found, expected = (losses(tmp_path / backend, data, backend, name) for backend in ("compile", "eager"))
    assert found.keys() == expected.keys() == set(range(1, 13))
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.slow
def test_a_compiled_run_goes_on_to_the_bit(data, tmp_path):
    """Dropout is drawn inside the program."""
    options = settings(
        kernel__backend="compile",
        model__kind="mmoe",
        model__dropout=0.3,
        train__decay="none",
        data__validation="''",
        data__test="''",
    )

    def trained(name, *stops):
        (tmp_path / name).mkdir()
        config = make_config(tmp_path / name, data)
        texts = [run(1, "train", config, *options, *settings(train__max_steps=steps), timeout=400) for steps in (*stops, 10)]
        assert all(t.codes == [0] for t in texts), texts[-1].text
        return texts[-1].losses()

    whole, resumed = trained("whole"), trained("stopped", 4)
    assert resumed.keys() == set(range(5, 11))
    assert resumed == {s: whole[s] for s in resumed}


def options_of(kind):
    return [o for o in OPTIONS.get(kind, "").split(" ") if o]


def head_and_inputs(folder, data, *options):
    """A head whose modules compute by plain operators, and v, dense values and mask of 32 samples, 3 of them padding."""
    import torch

    from home_dist.config import KernelSection, load_config
    from home_dist.experts.kernels import select
    from home_dist.network import Head
    from home_dist.schema import build_layout, load_schema

    config = load_config(make_config(folder, data), list(options))
    schema = load_schema(config.schema_path())
    layout = build_layout(schema, config)
    torch.manual_seed(0)
    head = Head(schema, layout, config).train()
    select(head, KernelSection(backend="compile"), torch.device("cpu"))
    mask = torch.ones(32)
    mask[-3:] = 0
    return head, torch.randn(32, head.features.width), torch.randn(32, layout.dense_width), mask


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[] if k in ("home", "smes") else [pytest.mark.slow]) for k in MODELS])
def test_every_kind_is_one_graph(kind, data, tmp_path):
    """Without a compiler: dynamo traces, autograd's operators run as they are. Logits and gradients are eager's."""
    import torch

    head, v, dense, mask = head_and_inputs(tmp_path, data, f"model.kind={kind}", "model.dropout=0", *options_of(kind))
    state = {name: value.clone() for name, value in head.state_dict().items()}

    def results(logits):
        head.load_state_dict(state)
        head.zero_grad()
        given = v.clone().requires_grad_()
        out = logits(given, dense, mask)
        (out * torch.linspace(-1, 1, out.shape[1])).sum().backward()
        return [out.detach(), given.grad, *(p.grad for p in head.parameters() if p.grad is not None)]

    torch._dynamo.reset()
    found, expected = results(torch.compile(head.logits, backend="aot_eager", fullgraph=True)), results(head.logits)
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["home", "smes"])
def test_a_program_takes_nothing_from_the_host(kind, data, tmp_path, monkeypatch):
    """CUDA graphs would repeat it in each step: dropout would drop the same outputs for ever. "meta" stands for the GPU."""
    import torch

    import home_dist.network

    monkeypatch.setattr(home_dist.network, "products_in_bf16", lambda *_: contextlib.nullcontext())  # meta has no autocast
    head, *inputs = head_and_inputs(tmp_path, data, f"model.kind={kind}", "model.dropout=0.3", *options_of(kind))
    graphs = []

    def looked_at(graph, inputs):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(head.to("meta").logits, backend=looked_at, fullgraph=True, dynamic=False)
    for _ in range(2):
        compiled(*(x.to("meta") for x in inputs))
    [graph] = graphs  # the second call made no other one
    values = [node.meta["example_value"] for node in graph.graph.nodes if "example_value" in node.meta]
    assert len(values) > 20
    assert {v.device.type for v in values if isinstance(v, torch.Tensor)} == {"meta"}
    assert not [v for v in values if isinstance(v, torch.SymInt | torch.SymFloat)]
    assert any("randint" in str(node.target) for node in graph.graph.nodes)  # drawn by the device in each step


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("train.recompute_experts", ["kernel.backend=compile", "train.recompute_experts=true"]),
        ("distributed.expert_parallel", ["kernel.backend=compile", "distributed.expert_parallel=2"]),
        ("kernel.cuda_graphs", ["kernel.cuda_graphs=true"]),
        ("train.accumulate = 1 ", ["kernel.backend=compile", "kernel.cuda_graphs=true", "train.accumulate=2"]),
        ("gradnorm", ["kernel.backend=compile", "kernel.cuda_graphs=true", "train.weighting.kind=gradnorm"]),
    ],
)
def test_what_is_no_part_of_a_program_is_refused(key, settings, data, tmp_path):
    from home_dist.config import load_config
    from home_dist.errors import ConfigError

    with pytest.raises(ConfigError, match=key):
        load_config(make_config(tmp_path, data), settings)


def test_without_a_compiler_it_is_refused_before_anything_is_done(data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    ended = run(1, "train", make_config(tmp_path, data), *settings(kernel__backend="compile"))
    assert ended.codes == [2], ended.text
    assert 'kernel.backend = "compile": no C++ compiler \'/no/such/compiler\'. Use "auto" or "eager"' in " ".join(
        ended.text.split()
    )
    assert not (tmp_path / "run" / "checkpoints").exists()
