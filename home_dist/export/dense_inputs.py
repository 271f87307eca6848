"""Inputs of a dense program, whose caller looks rows up: derived from the layout and the columns whose rows it compares."""

from collections.abc import Collection
from typing import Any

from home_dist.export.program_inputs import Input, inputs_of, list_groups, packed, singles
from home_dist.schema import DenseFeature, IdInput, InputLayout, PretrainedFeature, Schema


def rows_name(item: IdInput) -> str:
    return f"rows.{item.table.name}/{item.column}"


def slots_name(item: IdInput) -> str:
    return f"slots.{item.table.name}/{item.column}"


def dense_inputs_of(layout: InputLayout, compared: Collection[str]) -> dict[str, Input]:
    """Inputs by name, in the order in which a program takes them. compared: names of the columns (`slots_name`) whose slots the
    program needs beside their rows."""
    groups, found = list_groups(layout), list[Input]()
    for item in layout.inputs:
        group = groups.get(item.key)
        if group is not None:
            found.append(Input(f"lengths.{group}", "lengths"))
        found.append(Input(rows_name(item), "rows", group, width=item.table.dim, item=item))
        if slots_name(item) in compared:
            found.append(Input(slots_name(item), "slots", group, item=item))
        if item.weights is not None:
            found.append(Input(f"weights.{item.weights}", "weights", group, item=item))
    numbers = {f"number.{f.column}" for f in layout.dense if not (isinstance(f, DenseFeature) and f.width > 1)}
    others = [
        i for i in singles(inputs_of(layout)).values() if i.kind in ("vector", "pretrained", "duration") or i.name in numbers
    ]
    return packed((*found, *others))


def described(item: Input, schema: Schema) -> dict[str, Any]:
    """What a caller has to know of an input."""
    if item.parts:
        of_parts = [described(part, schema) for part in item.parts]
        kept = [{key: told[key] for key in ("column", "table") if key in told} for told in of_parts]
        return {"kind": of_parts[0]["kind"], "dtype": of_parts[0]["dtype"], "shape": ["samples", *item.shape], "parts": kept}
    first = item.group if item.group and item.kind != "lengths" else "samples"
    told: dict[str, Any] = {
        "kind": item.kind,
        "dtype": str(item.dtype).removeprefix("torch."),
        "shape": [first if first == "samples" else f"events of {first}", *item.shape],
    }
    if item.kind == "lengths":
        return told | {"of": item.name.removeprefix("lengths.")}
    told["column"] = item.column
    if item.kind in ("rows", "slots") and item.item is not None:
        told["table"] = item.item.table.name
    if item.pretrained is not None and item.pretrained.frozen is not None:
        feature = next(f for f in schema.feature if isinstance(f, PretrainedFeature) and f.name == item.pretrained.name)
        told["frozen"] = {"folder": feature.frozen, "type": feature.type}
    if item.group is not None:
        told["lengths"] = f"lengths.{item.group}"
    return told
