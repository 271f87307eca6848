"""Reads a run's TOML file, with `--set key=value` overrides, into a RunConfig.

Unknown keys are refused. Every message names the key, the given value and the allowed ones.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from home_dist.config.kinds import NO_MODULE, Kinds, own_modules
from home_dist.config.model import MODELS
from home_dist.config.objective import OBJECTIVES
from home_dist.config.run_config import RunConfig
from home_dist.config.section import Section
from home_dist.config.sequence import ENCODERS
from home_dist.config.toml_file import validated
from home_dist.errors import ConfigError, UserError, problem_lines
from home_dist.files.json_files import read_json, write_json
from home_dist.files.toml_text import read_toml

Chosen = TypeVar("Chosen", bound=Section)
_OWN_CODE = "own_code.json"


def load_config(
    path: str | Path, overrides: Sequence[str] = (), notes: list[str] | None = None, code: bool = True
) -> RunConfig:
    """Reads a run configuration.

    code: False for a program, which holds its network: users' classes need not be importable. Their sections are read as ones
    of the default kind, with the keys that all kinds have.

    `overrides` have the form "train.batch_size=4096"; a value that is not valid TOML is text. If an override chooses another
    kind of model or encoder than the file, keys that only the file's kind knows are left out; `notes` gets a line that names
    them. Raises ConfigError, with one line per problem.
    """
    path = Path(path)
    tree = read_toml(path, "Give the path of a run's TOML file, such as configs/*.toml.")
    if not code:
        _leave_out_code(tree)
    written = {key: kinds.of(section) for key, (kinds, section) in _sections_of_kinds(tree).items()}
    for override in overrides:
        _apply(tree, override)
    overridden = {o.partition("=")[0].strip() for o in overrides}
    for key, (kinds, section) in _sections_of_kinds(tree).items():
        kind, before = kinds.of(section), written.get(key)
        if kind == before or f"{key}.kind" not in overridden:
            continue
        inside = (name.removeprefix(f"{key}.") for name in overridden if name.startswith(f"{key}."))
        left_out = kinds.without_foreign_keys(section, before, {name.split(".")[0] for name in inside})
        if left_out and notes is not None:
            notes.append(f"{key}.kind={kind}: {path} is for {before}; left out of its [{key}]: {', '.join(left_out)}")
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        lines = [_with_allowed(line, tree) + hint for line, hint in zip(problem_lines(error), _hints(path, error), strict=True)]
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None


def save_own_code(config: RunConfig, run: Path) -> None:
    """Writes own_code.json into a run's folder: where the modules of users' classes were imported from. Messages name these
    folders where a module is missing; nothing is imported from them unasked."""
    kinds = [config.model.kind, *(s.kind for s in config.sequence), *(o.kind for o in config.objective.values())]
    folders = own_modules(kinds)
    if folders:
        write_json(run / _OWN_CODE, folders)


def _leave_out_code(tree: dict[str, Any]) -> None:
    """Takes users' classes, and the keys that only they know, out of a configuration as it was read."""
    for key, (kinds, section) in _sections_of_kinds(tree).items():
        if ":" not in str(kinds.of(section)):
            continue
        common = {k: v for k, v in section.items() if k in kinds.base.model_fields and k != "kind"}
        section.clear()
        section.update(common)
        if not kinds.default:  # an objective: its task's kind in the schema
            del tree["objective"][key.partition(".")[2]]


def _hints(path: Path, error: ValidationError) -> list[str]:
    """For each problem: where a module that is missing was when the run was trained, or nothing."""
    problems = error.errors()
    missing = [p.get("ctx", {}).get("module", "") if p["type"] == NO_MODULE else "" for p in problems]
    folders = read_json(path.with_name(_OWN_CODE), "Remove it: it only serves messages.") if any(missing) else {}
    return [
        f". The run was trained with {module} of {folders[module]}: PYTHONPATH={folders[module]}, or start from there"
        if module in folders
        else ""
        for module in missing
    ]


def load_section(path: Path, key: str, section: type[Chosen]) -> Chosen:
    """One section of a run's TOML file, such as "checkpoint". Other sections are not read: a model's section may need torch.

    Raises ConfigError.
    """
    tree = read_toml(path, "Give the run.dir of a run that was started.")
    return validated(path, section, tree.get(key, {}), f"{key}.")


def overridden(section: Chosen, key: str, overrides: Sequence[str]) -> Chosen:
    """A section with overrides of its keys, such as "serve.batch_ms=5" for the key "serve". Raises ConfigError, also for an
    override of something else."""
    tree: dict[str, Any] = {key: section.model_dump()}
    for override in overrides:
        if override.partition(".")[0].strip() != key:
            raise ConfigError(f"--set {override}: only keys of [{key}] can be set here, such as {key}.{next(iter(tree[key]))}")
        _apply(tree, override)
    return validated(Path("--set"), type(section), tree[key], f"{key}.")


def config_of_run(run: Path, error: type[UserError] = ConfigError) -> Path:
    """The configuration file of a run's folder. Raises `error` for a folder without a run."""
    config = run / "config.toml"
    if not config.is_file():
        raise error(f"{run}: no run is there (no config.toml). Give the run.dir of a run that was started.")
    return config


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


def _sections_of_kinds(tree: dict[str, Any]) -> dict[str, tuple[Kinds, dict[str, Any]]]:
    """The sections that have a kind, by key: "model", "sequence.0", ..."""
    model, sequences = tree.get("model", {}), tree.get("sequence", [])
    sections: dict[str, tuple[Kinds, Any]] = {"model": (MODELS, model)}
    for index, sequence in enumerate(sequences if isinstance(sequences, list) else []):
        sections[f"sequence.{index}"] = ENCODERS, sequence
    objectives = tree.get("objective", {})
    for task, objective in objectives.items() if isinstance(objectives, dict) else []:
        sections[f"objective.{task}"] = OBJECTIVES, objective
    return {key: entry for key, entry in sections.items() if isinstance(entry[1], dict)}


def _with_allowed(line: str, tree: dict[str, Any]) -> str:
    """Adds the allowed keys to a message about an unknown one."""
    key, _, rest = line.partition(": ")
    if not rest.startswith("unknown key"):
        return line
    parts, of_kinds = key.split(".")[:-1], _sections_of_kinds(tree)
    section: Any = RunConfig
    for depth, part in enumerate(parts, start=1):
        kinds, chosen = of_kinds.get(".".join(parts[:depth]), (None, {}))
        if kinds is not None:
            section = kinds.section(kinds.of(chosen))
        elif not part.isdigit():
            section = _section_of(section, part)
    if section is None:
        return line
    return f"{line}; allowed here: {', '.join(f.alias or n for n, f in section.model_fields.items())}"


def _section_of(section: Any, key: str) -> Any:
    field = getattr(section, "model_fields", {}).get(key)
    annotations = [] if field is None else [field.annotation]
    while annotations:
        annotation = annotations.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        annotations.extend(getattr(annotation, "__args__", ()))
    return None
