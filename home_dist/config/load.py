"""Reads a run's TOML file, with `--set key=value` overrides, into a RunConfig.

Unknown keys are refused. Every message names the key, what was given and what is allowed.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from home_dist.config.model import DEFAULT_KIND, KINDS
from home_dist.config.run_config import RunConfig
from home_dist.config.section import Section, without_foreign_keys
from home_dist.config.sequence import DEFAULT_ENCODER, ENCODERS
from home_dist.config.toml_file import read_toml
from home_dist.errors import ConfigError, problem_lines


def load_config(path: str | Path, overrides: Sequence[str] = (), notes: list[str] | None = None) -> RunConfig:
    """Reads a run configuration.

    `overrides` are of the form "train.batch_size=4096"; the value is TOML, or text where it is no TOML. When one of them
    chooses another kind of model or encoder than the file, the file's keys that only its own kind knows are left out; `notes`
    gets a line that names them. Raises ConfigError, with one line per problem.
    """
    path = Path(path)
    tree = read_toml(path, "Give the path of a run's TOML file, such as configs/*.toml.")
    written = _kinds_of(tree)
    for override in overrides:
        _apply(tree, override)
    overridden = {o.partition("=")[0].strip() for o in overrides}
    for name, kind in _kinds_of(tree).items():
        before = written.get(name)
        if kind == before or f"{name}.kind" not in overridden:
            continue
        inside = (key.removeprefix(f"{name}.") for key in overridden if key.startswith(f"{name}."))
        kinds: Mapping[str, type[Section]] = KINDS if name == "model" else ENCODERS
        left_out = without_foreign_keys(_entry(tree, name), kinds, before, {key.split(".")[0] for key in inside})
        if left_out and notes is not None:
            notes.append(f"{name}.kind={kind}: {path} is for {before}; left out of its [{name}]: {', '.join(left_out)}")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {_with_allowed(line)}" for line in problem_lines(error))) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: write it as section.key=value, e.g. --set train.batch_size=4096")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    node: Any = tree
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                where = ".".join(parts[:depth])
                raise ConfigError(f"--set {override}: {where} is a list of {len(node)}; name an entry by its number from 0")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if not last:
                node.setdefault(part, {})
        else:
            raise ConfigError(f"--set {override}: {'.'.join(parts[:depth])} holds a value, not a section")
        if last:
            node[index] = value
        else:
            node = node[index]


def _kinds_of(tree: dict[str, Any]) -> dict[str, Any]:
    """The kind of each section that has one: "model", "sequence.0", ..."""
    found = {}
    model, sequences = tree.get("model", {}), tree.get("sequence", [])
    if isinstance(model, dict):
        found["model"] = model.get("kind", DEFAULT_KIND)
    for index, entry in enumerate(sequences if isinstance(sequences, list) else []):
        if isinstance(entry, dict):
            found[f"sequence.{index}"] = entry.get("kind", DEFAULT_ENCODER)
    return found


def _entry(tree: dict[str, Any], name: str) -> Any:
    section, _, index = name.partition(".")
    return tree[section][int(index)] if index else tree[section]


def _with_allowed(line: str) -> str:
    """Takes the chosen kind out of the key of a message, where pydantic puts it but the file does not have it, and adds the
    allowed keys to the message about an unknown one."""
    key, _, rest = line.partition(": ")
    parts = key.split(".")
    section: Any = RunConfig
    plain: list[str] = []
    for depth, part in enumerate(parts):
        chosen = KINDS if plain == ["model"] else ENCODERS if plain[:1] == ["sequence"] and len(plain) == 2 else {}
        if part in chosen and depth < len(parts) - 1:
            section = chosen[part]
            continue
        if depth < len(parts) - 1 and not part.isdigit():
            section = _section_of(section, part)
        plain.append(part)
    key = ".".join(plain)
    if section is None or not rest.startswith("unknown key"):
        return f"{key}: {rest}"
    allowed = ", ".join(f.alias or n for n, f in section.model_fields.items())
    return f"{key}: {rest}; allowed here: {allowed}"


def _section_of(section: Any, key: str) -> Any:
    field = getattr(section, "model_fields", {}).get(key)
    found = [] if field is None else [field.annotation]
    while found:
        kind = found.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        found.extend(getattr(kind, "__args__", ()))
    return None
