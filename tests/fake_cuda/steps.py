"""Steps of the dense part of networks on fake CUDA tensors: what a GPU would be told, without one.

The batch is real and lies on the host, as a reader makes it; it is then moved as a pipeline moves it. The vectors that sharded
tables would look up are made up. FBGEMM's tables, and what TorchRec exchanges, are not covered.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import _disable_current_modes
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from home_dist.config import RunConfig
from home_dist.data.batch import Batch
from home_dist.experts.kernels import Kernel, KernelUser, dropout
from home_dist.network import Head
from home_dist.objectives.weighting import _Periodic
from home_dist.schema import IdInput, InputLayout, LabelValues, Schema, build_layout
from home_dist.schema.layout import ONE_BY_ONE
from home_dist.schema.once import once_per_request
from home_dist.sequence import dien
from tests.factory import make_schema
from tests.fake_cuda.watch import Watch

SAMPLES, PER_REQUEST = 32, 4
_FACTS = LabelValues(
    mean=3.0,
    std=2.5,
    log_mean=1.6,
    log_std=0.9,
    thresholds=(0.5, 2.0, 3.5),
    above=(0.9, 0.7, 0.5),
    duration_boundaries=(8.0, 30.0),
    quantiles=((0.0, 1.0, 4.0), (0.0, 2.0, 28.0), (1.0, 9.0, 300.0)),
    shares=(0.5, 0.3, 0.2),
)


def prepare() -> None:
    """Once in a process, after `device.begin`."""
    torch.set_num_threads(1)
    import torch.cuda.amp.common as common

    # Autocast asks for a GPU's abilities, which nothing here depends on.
    common.amp_definitely_not_available = lambda: False
    torch.cuda.is_bf16_supported = lambda *given, **options: True
    # What a step computes on the host is computed for real: keys of dropout, and sizes by time.
    dropout.Dropout.drawn = staticmethod(_for_real(dropout.Dropout.drawn))
    dien.on_host = _for_real(dien.on_host)
    torch.nn.GRU.forward = _gru


def _for_real(function: Any) -> Any:
    def real(*given: Any) -> Any:
        with _disable_current_modes():
            return function(*given)

    return real


class _CudnnGru(torch.autograd.Function):
    """Shapes and types of cuDNN's GRU, which torch's fake tensors do not know: under autocast all is in 16 bits."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values, *weights)
        on = torch.is_autocast_enabled("cuda")
        kind = torch.get_autocast_dtype("cuda") if on else values.dtype
        return values.new_empty(len(values), weights[1].shape[1], dtype=kind)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors)


def _gru(self: torch.nn.GRU, packed: PackedSequence) -> tuple[PackedSequence, None]:
    sizes = packed.batch_sizes
    assert type(sizes) is torch.Tensor, "sizes by time have to be known to the host"
    assert _for_real(lambda: int(sizes.sum()))() == len(packed.data), "sizes by time do not fit the events"
    return PackedSequence(_CudnnGru.apply(packed.data, *self._flat_weights), sizes), None


def operators(settings: Mapping[str, Any]) -> int:
    """The operators of a step, forward and backward, without views.

    settings: `model`, `sequence`, `objective`, `train` and `data`: sections of the configuration; `precision`: "fp32" or
    "bf16"; `length`: of the longest history; `task`: keys of the schema's first task. Raises HostSync, and AssertionError for a
    tensor or gradient that is not on the device.
    """
    config, schema = _config(settings), _schema(settings)
    layout = once_per_request(build_layout(schema, config), config.data.once_per_request)
    torch.manual_seed(0)
    head = Head(schema, layout, config).train()
    batch = _batch(layout, len(schema.task), settings.get("length", 10))
    bf16 = settings.get("precision") == "bf16"
    head.features.bf16 = bf16
    for user in head.modules():
        if isinstance(user, KernelUser):
            user.kernel = Kernel("eager", "bf16" if bf16 else "fp32")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        _move(head, mode)
        moved = batch.on("cuda", mode)
        with torch.no_grad():  # the first step may send what all steps read
            head(moved, *batch.looked_up(layout))
        looked_up, watch = batch.looked_up(layout), Watch()
        if isinstance(head.weighting, _Periodic):
            head.weighting._done = 0 if head.weighting.looks else 1  # known to the host since the run's first step
        with watch:
            loss, output = head(moved, *looked_up)
            loss.backward()
            if not head.weighting.looks:  # gradnorm reads the device, once in `period` steps
                head.weighting.after_step(output.loss_sums, output.weight_sums)
        _check(head, loss, output.scores, looked_up)
    return watch.count


def _check(head: Head, loss: torch.Tensor, scores: torch.Tensor, looked_up: Any) -> None:
    assert loss.is_cuda, f"the loss is on {loss.device}"
    assert scores.is_cuda, f"the scores are on {scores.device}"
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, f"no gradient for {name}"
        assert parameter.grad.is_cuda, f"the gradient of {name} is on {parameter.grad.device}"
    bags, _, events = looked_up
    values = [events[key].values() for key in events] + ([] if bags is None else [bags.values()])
    assert all(v.grad is not None and v.grad.is_cuda for v in values), "looked-up vectors without a gradient on the device"


def _move(head: torch.nn.Module, mode: FakeTensorMode) -> None:
    for module in head.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                moved = mode.from_tensor(parameter.detach()).to("cuda")
                module._parameters[name] = torch.nn.Parameter(moved, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = mode.from_tensor(buffer).to("cuda")
        if isinstance(module, torch.nn.GRU):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]


def _config(settings: Mapping[str, Any]) -> RunConfig:
    plain = {
        "run": {"dir": "x"},
        "data": {"path": "y", **settings.get("data", {})},
        "embedding": {"dim": 8, "small_dim": 4, "replicate_rows": 100},
        "sequence": [{"name": "watched", **settings.get("sequence", {"kind": "din", "hidden": [4]})}],
        "model": {"expert_hidden": [8], "expert_dim": 8, "tower_hidden": [8], **settings.get("model", {})},
        "objective": settings.get("objective", {}),
        "train": settings.get("train", {}),
    }
    return RunConfig.model_validate(plain)


def _schema(settings: Mapping[str, Any]) -> Schema:
    schema = make_schema()
    changed = {"duration": "length", "classes": 3, "values": _FACTS, **settings.get("task", {})}
    first = schema.task[0]
    given = {**first.model_dump(), **changed} if "task" in settings else first.model_dump()
    if given["kind"] != "binary":
        given["base_rate"] = None
    return schema.model_copy(update={"task": (type(first).model_validate(given), *schema.task[1:])})


class _Made:
    """A batch on the host, and afterwards on the device."""

    def __init__(self, batch: Batch):
        self.batch, self.sizes = batch, batch.host_sizes()  # real numbers, as the host has them

    def on(self, device: str, mode: FakeTensorMode) -> Batch:
        def fake(x: Any) -> Any:
            if isinstance(x, KeyedJaggedTensor):
                weights = x.weights_or_none()
                counted = x.length_per_key()
                values, lengths = mode.from_tensor(x.values()), mode.from_tensor(x.lengths())
                weights = None if weights is None else mode.from_tensor(weights)
                return KeyedJaggedTensor(x.keys(), values, weights, lengths=lengths, length_per_key=counted)
            return mode.from_tensor(x)

        self.moved = replace(self.batch._each(fake), on_host=self.sizes).to(torch.device(device), non_blocking=True)
        return self.moved

    def looked_up(self, layout: InputLayout) -> tuple[KeyedTensor | None, None, dict[str, JaggedTensor]]:
        """What the sharded collections would have found."""

        def made(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, device="cuda", requires_grad=True)

        bags = layout.at("bag")
        keyed = None
        if bags:
            dims = [i.table.dim for i in bags]
            keyed = KeyedTensor([i.key for i in bags], dims, made(SAMPLES, sum(dims)))
        events = {}
        for i in (i for place in ONE_BY_ONE for i in layout.at(place)):
            ids = self.moved.events[i.key]
            events[i.key] = JaggedTensor(values=made(len(ids.values()), i.table.dim), lengths=ids.lengths())
        return keyed, None, events


def _batch(layout: InputLayout, tasks: int, length: int) -> _Made:
    draw = np.random.default_rng(0)
    firsts = np.arange(0, SAMPLES, PER_REQUEST) if any(i.once for i in layout.inputs) else np.zeros(0, np.int64)
    histories: dict[str, np.ndarray] = {}
    for sequence in layout.sequences:
        lengths = draw.integers(0, length + 1, SAMPLES)
        lengths[-3:] = 0, 1, length
        histories |= {event.field.key: lengths for event in sequence.fields}

    def lengths_of(item: IdInput) -> np.ndarray:
        lengths = histories.get(item.key)
        if lengths is None:
            lengths = draw.integers(0, 4, SAMPLES) if item.is_list else np.ones(SAMPLES, np.int64)
        if item.once and len(firsts):
            lengths = np.where(np.isin(np.arange(SAMPLES), firsts), lengths, 0)
        return lengths

    def ids(items: tuple[IdInput, ...]) -> KeyedJaggedTensor:
        if not items:
            return KeyedJaggedTensor.empty(values_dtype=torch.int64, lengths_dtype=torch.int32)
        lengths = [lengths_of(i) for i in items]
        values = [draw.integers(0, i.table.rows, n.sum()) for i, n in zip(items, lengths, strict=True)]
        flat = torch.from_numpy(np.concatenate(lengths).astype(np.int32))
        return KeyedJaggedTensor([i.key for i in items], torch.from_numpy(np.concatenate(values)), lengths=flat)

    return _Made(
        Batch(
            bags=ids(layout.at("bag")),
            weighted_bags=ids(()),
            events=ids(layout.at("event")),
            managed=ids(()),
            small_lists=ids(layout.at("small_list")),
            list_weights=ids(()),
            small=torch.zeros(SAMPLES, len(layout.at("small")), dtype=torch.int64),
            dense=torch.randn(SAMPLES, layout.dense_width),
            vectors=torch.zeros(SAMPLES, sum(i.width + 1 for i in layout.pretrained)),
            labels=torch.from_numpy(draw.integers(0, 2, (SAMPLES, tasks)).astype(np.float32)),
            durations=torch.ones(SAMPLES, len(layout.durations)),
            weights=torch.ones(SAMPLES, tasks),
            mask=torch.ones(SAMPLES),
            groups=torch.arange(SAMPLES) // PER_REQUEST,
            requests=torch.arange(SAMPLES) // PER_REQUEST,
            firsts=torch.from_numpy(firsts),
        )
    )
