"""Names along the dimensions of a network's tensors: tasks, experts, gates, columns of the feature vector.

A name is an entity, such as "task like" or "feature video", and a number within the entity. Names match the tensors of two
networks that differ in tasks, groups or features, or in their order. Dimensions of hidden units have no names: they match where
their sizes do.
"""

from collections.abc import Collection, Mapping

from torch import nn

from home_dist.experts import MaskedGates, SelfGates
from home_dist.layers.averages import average_name
from home_dist.layers.axis_names import Axes, Name, Names
from home_dist.models import TaskGroups
from home_dist.models.anatomy import Part
from home_dist.models.base import names_of_tasks
from home_dist.network import FeatureVector, Head
from home_dist.schema import Schema
from home_dist.sequence.history import Encoder

_CONTENTS = {
    "vector": "feature {name} (vector of {width}{other})",
    "projection": "feature {name} (projection, {width} columns)",
    "history": "history {name} (vector of {width}{other})",
    "value": "feature {name} (value{other})",
}
_CHANGED = {"value": ", fitted otherwise"}


def columns_of(features: FeatureVector, changed: Collection[str] = ()) -> Names:
    """Names (F,) of the feature vector's columns.

    changed: what means something else than in the network compared with: features whose vectors come from other table rows;
    histories likewise, as "history NAME"; numbers that were fitted otherwise, as "value NAME".
    """
    names = list[Name]()
    for content, name, width in features.sections():
        key = f"{content} {name}" if content in ("history", "value") else name
        other = _CHANGED.get(content, ", other rows") if key in changed else ""
        sets = features.set_names if content == "vector" else ("",)
        width //= len(sets)
        for of_set in sets:
            entity = _CONTENTS[content].format(name=name + (f" of task {of_set}" if of_set else ""), width=width, other=other)
            names += [(entity, n) for n in range(width)]
    return tuple(names)


def axes_of(head: Head, schema: Schema, changed: Collection[str] = ()) -> dict[str, Axes]:
    """Axes by name in the head's state dict, for tensors with named dimensions. changed: see `columns_of`."""
    tasks = TaskGroups.of(schema.task)
    columns = columns_of(head.features, changed)
    of_tasks = names_of_tasks(tasks)
    prefix = {id(module): f"{name}." for name, module in head.named_modules()}
    axes: dict[str, Axes] = {}
    for place, part in enumerate(head.model.anatomy(tasks).parts):
        own = columns if part.columns is None else tuple(columns[c] for c in part.columns)
        axes |= _of_part(part, prefix, own if place == 0 else None, columns)
    for name, names in head.model.axes(tasks, columns).items():
        axes[f"model.{name}"] = names
    of_outputs = _of_outputs(head, of_tasks)
    of_first = [of_outputs[first] for first in head.objectives.first]
    for bank, members in head.towers.tasks.items():
        prefix_of_bank = f"others.{bank}." if bank else ""
        of_members = tuple(of_first[k] for k in members)
        for name, tensor in head.towers.named_parameters():
            if name.startswith(prefix_of_bank) and bool(bank) == name.startswith("others."):
                axes[f"towers.{name}"] = (of_members, *[None] * (tensor.dim() - 1))
    for name, tensor in head.weighting.state_dict().items():
        if tensor.dim():
            axes[f"weighting.{name}"] = (*[None] * (tensor.dim() - 1), of_tasks)
    if head.linear is not None:
        axes["linear.weight"] = (of_outputs, columns[len(columns) - head.features.layout.dense_width :])
    for sequence, encoder in head.features.encoders.items():
        if not isinstance(encoder, Encoder):
            raise TypeError(f"sequence {sequence!r}: {type(encoder).__name__} is no Encoder")
        for name, names in encoder.axes(of_outputs).items():
            axes[f"features.encoders.{sequence}.{name}"] = names
    if head.averages is not None:
        axes |= {f"averages.{average_name(name)}": names for name, names in list(axes.items())}
    return axes


def _of_outputs(head: Head, of_tasks: Names) -> Names:
    """Names (O,) of the towers' outputs. What outputs mean belongs to their names, but for binary tasks, as in older
    versions."""
    names = list[Name]()
    for (task, _), link, outputs in zip(of_tasks, head.objectives.links, head.objectives.outputs, strict=True):
        plain = link == "binary" and outputs == 1
        names += [(task if plain else f"{task} as {link}", n) for n in range(outputs)]
    return tuple(names)


def _of_gates(module: MaskedGates | SelfGates | None, gates: Names, experts: Names, reads: Names | None) -> dict[str, Axes]:
    if module is None:
        return {}
    axes: dict[str, Axes] = {"weight": (gates, experts, reads if module.hidden is None else None)}
    if module.bias is not None:
        axes["bias"] = (gates, experts)
    for n in range(0 if module.hidden is None else len(module.hidden.weights)):
        axes |= {f"hidden.weights.{n}": (gates, None, None if n else reads), f"hidden.biases.{n}": (gates, None)}
    return axes


def _kind_of_gate(part: Part, place: int) -> str:
    """Kind of a gate. A group or task may be called "shared" too; the shared state's gate is the last, and no task's."""
    gate = part.gates[place]
    if gate.task is not None:
        return "task's"
    return "shared" if place == len(part.gates) - 1 and gate.name.endswith("shared") else "state's"


def _of_part(part: Part, prefix: Mapping[int, str], first: Names | None, columns: Names) -> dict[str, Axes]:
    """Axes of one part. first: names of the bank's inputs: `columns` for the first part, which reads v; None for later ones."""
    experts = tuple(
        (f"{owner.kind} {name}{part.bank.narrowed.get(e, '')}", 0)
        for e, (owner, name) in enumerate(zip(part.owners, part.experts, strict=True))
    )
    gates = tuple((f"{_kind_of_gate(part, place)} gate {gate.name}", 0) for place, gate in enumerate(part.gates))
    axes: dict[str, Axes] = {}

    def put(module: nn.Module | None, axes_of_module: dict[str, Axes]) -> None:
        if module is not None:
            axes.update({prefix[id(module)] + name: names for name, names in axes_of_module.items()})

    bank: dict[str, Axes] = {}
    for name, tensor in part.bank.state_dict().items():
        reads = first if name == "weights.0" else None
        bank[name] = (experts, *[None] * (tensor.dim() - 2), reads) if tensor.dim() > 1 else (experts,)
    put(part.bank, bank)
    of_gate = columns if part.gates_read_features else first
    for module in (part.masked, part.self_gates):
        put(module, _of_gates(module, gates, experts, of_gate))
    if part.feature_gate is not None:
        each = part.feature_gate.gates
        inputs = [f"{owner.kind} {name}" for owner, name in zip(dict.fromkeys(part.owners), part.inputs, strict=True)]
        reads = first if part.reads_features else None
        groups = tuple((f"input {name}", 0) for name in inputs)
        up = tuple((f"input {name}", n) for name in inputs for n in range(each))
        put(part.feature_gate, {"down": (groups, None, reads), "up": (up, None, reads), "choice": (groups, None, reads)})
    return axes
