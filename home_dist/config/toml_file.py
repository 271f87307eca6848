"""Reads TOML files into pydantic models, with messages for the author of the file."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from home_dist.errors import ConfigError, problem_lines

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path, absent: str) -> dict[str, Any]:
    """absent: the message's advice when there is no such file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. {absent}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def read_model(path: Path, model: type[Model], absent: str) -> Model:
    """Raises ConfigError, one line per problem."""
    return validated(path, model, read_toml(path, absent))


def validated(path: Path, model: type[Model], tree: object, prefix: str = "") -> Model:
    """tree: what the file holds, or what a key of it does; prefix: the key's, with a dot. Raises ConfigError, one line per
    problem."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {prefix}{line}" for line in problem_lines(error))) from None
