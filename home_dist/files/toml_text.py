"""TOML files, with messages for their author."""

import tomllib
from pathlib import Path
from typing import Any

from home_dist.errors import ConfigError


def read_toml(path: Path, absent: str) -> dict[str, Any]:
    """absent: the message's advice when there is no such file. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. {absent}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
