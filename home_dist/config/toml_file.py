"""TOML files as pydantic models, with messages for the author of the file."""

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from home_dist.errors import ConfigError, problem_lines
from home_dist.files.toml_text import read_toml

Model = TypeVar("Model", bound=BaseModel)


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
