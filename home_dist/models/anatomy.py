"""What a model is made of, by name: its banks of experts, who owns each expert, and which gates weigh them.

Written for those who look at a model from outside: nothing in a forward pass reads it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from home_dist.experts import ExpertBank, FeatureGate, MaskedGates, SelfGates

Kind = Literal["shared", "group", "task"]


@dataclass(frozen=True)
class Owner:
    """Whose experts: all tasks', those of a group of tasks, or one task's."""

    kind: Kind
    name: str


SHARED = Owner("shared", "shared")


@dataclass(frozen=True)
class Gate:
    """A mixture of a part's experts, of which one state is made."""

    name: str
    task: int | None = None
    """The task that reads the state; None where a layer reads it."""


@dataclass(frozen=True)
class Part:
    """A bank, and what stands around it. Names are unique within a model."""

    bank: ExpertBank
    experts: tuple[str, ...]
    """E names, such as "meta/shared 0" or "task/like 0"."""
    owners: tuple[Owner, ...]
    """E owners."""
    gates: tuple[Gate, ...] = ()
    """K mixtures that the bank computes; none where its outputs are read as they are."""
    masked: MaskedGates | None = None
    self_gates: SelfGates | None = None
    feature_gate: FeatureGate | None = None
    inputs: tuple[str, ...] = ()
    """G names of what the feature gate scales, one per group of experts."""
    reads_features: bool = False
    """Whether the feature gate scales the feature vector v, whose columns have names."""
    gates_read_features: bool = False
    """Whether the gates read v though the bank does not: those of the first part do in any case."""

    @property
    def shared(self) -> list[int]:
        return [e for e, owner in enumerate(self.owners) if owner.kind == "shared"]


@dataclass(frozen=True)
class Anatomy:
    parts: tuple[Part, ...] = ()
    """The first one's bank and gates read the feature vector v, those of others what the part before gives."""
    scalers: tuple[tuple[str, nn.Module], ...] = ()
    """Modules that give factors of the feature vector, (B, F), by name."""


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
) -> Part:
    """owners: in the bank's order, with how many experts each has; layer: a name, or "" in a model of one layer."""
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
    )
