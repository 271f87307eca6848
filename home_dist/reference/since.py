"""Since which version a key is there: since.toml lists the keys that each version brought."""

import tomllib
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("since.toml")


@cache
def _versions() -> dict[str, str]:
    tree = tomllib.loads(FILE.read_text())
    return {f"{file}:{key}": version for version, files in tree.items() for file, keys in files.items() for key in keys}


def since(file: str, path: str) -> str:
    """The version; "" for a key that since.toml lacks, which a test finds."""
    return _versions().get(f"{file}:{path}", "")
