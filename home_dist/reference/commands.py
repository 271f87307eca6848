"""The command line as Markdown, from the commands themselves."""

import inspect
from collections.abc import Iterator
from enum import Enum
from typing import Any, get_args

import typer

from home_dist.reference.values import WORDS


def commands_page(app: typer.Typer) -> str:
    """The page of all commands, with their arguments and options."""
    lines = ["<!-- Written by `make docs` from the commands: do not edit by hand. -->", "", "# Command line", ""]
    lines += [
        "`home-dist COMMAND --help` prints the same. `python -m home_dist.cli` is `home-dist`, under torchrun for example.",
        "",
    ]
    for name, command in _commands(typer.main.get_command(app), ""):
        lines += [
            f"## home-dist {name}",
            "",
            inspect.cleandoc(command.help or ""),
            "",
            f"    home-dist {name} {_usage(command)}",
            "",
        ]
        rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            lines += ["| | | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _commands(command: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield prefix.strip(), command
        return
    for name, below in inner.items():
        yield from _commands(below, f"{prefix} {name}")


def _usage(command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    names = [(p.metavar or p.name).upper() + ("..." if p.nargs == -1 else "") for p in arguments]
    shown = [name if p.required else f"[{name}]" for p, name in zip(arguments, names, strict=True)]
    return " ".join([*shown, "[OPTIONS]"])


def _row(parameter: Any) -> str:
    text, default, value = parameter.help or "", parameter.default, ""
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            value = f"`{parameter.metavar}`" if parameter.metavar else _type(parameter.type_descriptor.annotation)
        shown = default.value if isinstance(default, Enum) else default
        if shown not in (None, False, (), []) and not callable(shown) and "by default" not in text.lower():
            text += f" By default `{shown}`."
    return f"| {names} | {value} | {_cell(text)}{' Must be given.' if parameter.required else ''} |"


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(f"`{choice.value}`" for choice in annotation)
    inside = [a for a in get_args(annotation) if a is not type(None)]
    return _type(inside[0]) if inside else WORDS.get(annotation, annotation.__name__)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
