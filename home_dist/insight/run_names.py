"""Names of runs that are shown together: what differs between their configurations, or else between their folders."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SEED = "train.seed"
_MOST = 3
"""With more differing keys than this, folders tell runs apart better."""


def names_apart(folders: Sequence[Path], configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name per run, such as "model.kind=ple, seed 0". configurations: the trees of the runs' config.toml."""
    if len(folders) == 1:
        return [folders[0].name]
    flat = [dict(_leaves(tree)) for tree in configurations]
    keys = _differing(flat)
    if len(keys) <= _MOST:
        names = [", ".join(_told(key, values.get(key)) for key in keys) for values in flat]
        if len(set(names)) == len(names):
            return names
    return _tails(folders)


def _differing(flat: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys whose values differ, the seed last. Of sections of different kinds, keys that not all of them have are left out: the
    kind implies them."""
    keys = [k for k in dict.fromkeys(k for values in flat for k in values) if k != "run.dir"]
    keys = [k for k in keys if any(values.get(k) != flat[0].get(k) for values in flat)]
    of_kinds = tuple(k.removesuffix("kind") for k in keys if k == "kind" or k.endswith(".kind"))
    keys = [k for k in keys if not k.startswith(of_kinds) or all(k in values for values in flat)]
    return sorted(keys, key=lambda k: k == SEED)


def _told(key: str, value: Any) -> str:
    if value is None:
        return f"{key} not set"
    if key == SEED:
        return f"seed {value}"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by keys such as "model.kind" and "sequence.0.kind". Lists of values are values."""
    if isinstance(tree, Mapping):
        entries = list(tree.items())
    elif isinstance(tree, list) and tree and all(isinstance(entry, Mapping) for entry in tree):
        entries = [(str(n), entry) for n, entry in enumerate(tree)]
    else:
        yield prefix, tree
        return
    for key, value in entries:
        yield from _leaves(value, f"{prefix}.{key}" if prefix else key)


def _tails(folders: Sequence[Path]) -> list[str]:
    """The folders' last parts, as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-length:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]
