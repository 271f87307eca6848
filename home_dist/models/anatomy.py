"""A model's parts by name: its banks of experts, each expert's owner, and the gates that weigh the experts.

For code that inspects a model; the forward pass does not read it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from home_dist.experts import ExpertBank, FeatureGate, MaskedGates, SelfGates

Kind = Literal["shared", "group", "task"]


@dataclass(frozen=True)
class Owner:
    """Owner of experts: all tasks (shared), a task group, or one task."""

    kind: Kind
    name: str


SHARED = Owner("shared", "shared")


@dataclass(frozen=True)
class Gate:
    """A mixture of a part's experts, which makes one state."""

    name: str
    task: int | None = None
    """The task that reads the state; None if a layer reads it."""


@dataclass(frozen=True)
class Part:
    """A bank with its gates and feature gate. Names are unique within a model."""

    bank: ExpertBank
    experts: tuple[str, ...]
    """E names, such as "meta/shared 0" or "task/like 0"."""
    owners: tuple[Owner, ...]
    """E owners."""
    gates: tuple[Gate, ...] = ()
    """K mixtures that the bank computes; none if its outputs are read unmixed."""
    masked: MaskedGates | None = None
    self_gates: SelfGates | None = None
    feature_gate: FeatureGate | None = None
    inputs: tuple[str, ...] = ()
    """G names of the feature gate's outputs, one per owner of experts."""
    reads_features: bool = False
    """Whether the feature gate scales the feature vector v, whose columns have names."""
    gates_read_features: bool = False
    """Whether the gates read v although the bank does not. The first part's gates always read v."""
    columns: tuple[int, ...] | None = None
    """Of the first part: the columns of v whose names its inputs have, where they are not all of v."""

    @property
    def shared(self) -> list[int]:
        return [e for e, owner in enumerate(self.owners) if owner.kind == "shared"]


@dataclass(frozen=True)
class Anatomy:
    parts: tuple[Part, ...] = ()
    """Bank and gates of the first part read the feature vector v, those of a later part the previous part's states."""
    scalers: tuple[tuple[str, nn.Module], ...] = ()
    """(name, module) of modules that compute factors (B, F) of the feature vector."""


def part(
    layer: str,
    bank: ExpertBank,
    owners: Sequence[tuple[Owner, int]],
    gates: Sequence[Gate] = (),
    masked: MaskedGates | None = None,
    self_gates: SelfGates | None = None,
    feature_gate: FeatureGate | None = None,
    reads_features: bool = False,
    gates_read_features: bool = False,
    columns: tuple[int, ...] | None = None,
) -> Part:
    """Makes a Part. owners: (owner, number of experts) in the bank's order; layer: a name, or "" in a model of one layer."""
    prefix = f"{layer}/" if layer else ""
    experts = tuple(f"{prefix}{owner.name} {n}" for owner, count in owners for n in range(count))
    return Part(
        bank=bank,
        experts=experts,
        owners=tuple(owner for owner, count in owners for _ in range(count)),
        gates=tuple(Gate(prefix + gate.name, gate.task) for gate in gates),
        masked=masked,
        self_gates=self_gates,
        feature_gate=feature_gate,
        inputs=tuple(prefix + owner.name for owner, _ in owners),
        reads_features=reads_features,
        gates_read_features=gates_read_features,
        columns=columns,
    )
