"""The docstring below a field of a section, read from its source when it is asked for: commands start sooner so."""

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel


def meaning_of(section: type[BaseModel], field: str) -> str:
    """The docstring of the class, or of the nearest base class that has one where the class only gives another default."""
    bases = (base for base in section.__mro__ if field in getattr(base, "model_fields", ()))
    return next(filter(None, (_docstrings(base).get(field) for base in bases)), "")


@cache
def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """By field, of the class's own body."""
    [body] = [
        node.body for node in ast.parse(textwrap.dedent(inspect.getsource(section))).body if isinstance(node, ast.ClassDef)
    ]
    found = {}
    for field, below in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = inspect.cleandoc(text)
    return found
