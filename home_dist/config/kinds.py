"""Finds the class of a model or an encoder, and its section, from `kind = "home"` or `kind = "package.module:Class"`."""

import importlib
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from home_dist.config.section import Section
from home_dist.errors import ConfigError


@dataclass(frozen=True)
class Kinds:
    """The table of a section's kinds. The class of a kind has an attribute `section`, a subclass of `base`.

    Classes are imported on first use, so that this package need not depend on their rooms.
    """

    base: type[Section]
    """Base class of all kinds' sections."""
    places: Mapping[str, str]
    """By kind: module:Class."""
    default: str
    """Kind of a section that names none."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def of(self, tree: Mapping[str, Any]) -> Any:
        """The kind that a section, as read from a file, asks for."""
        return tree.get("kind", self.default)

    def find(self, kind: Any) -> Any:
        """The class. Raises ValueError, which says what a kind may be or why the class cannot be used, and ConfigError if its
        module fails while it is imported."""
        place = self.places.get(kind, kind) if isinstance(kind, str) else ""
        module, _, name = place.partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            known = ", ".join(map(repr, self.places))
            raise ValueError(f"must be one of {known}, or package.module:Class for a class of your own")
        cls = getattr(_imported(module), name, None)
        section = getattr(cls, "section", None)
        if not (isinstance(section, type) and issubclass(section, self.base)):
            raise ValueError(
                f"{module} has no class {name!r} with an attribute `section` that is a subclass of "
                f"{self.base.__module__}.{self.base.__name__}"
            )
        return cls

    def section(self, kind: Any) -> type[Section]:
        """The section class of a kind. Raises ValueError, as `find`."""
        return self.find(kind).section

    def read(self, value: Any) -> Any:
        """Turns a section, as read from a file, into an instance of its kind's class. Pydantic calls it before validation."""
        if not isinstance(value, dict):
            return value
        kind = self.of(value)
        try:
            section = self.section(kind)
        except ValueError as error:
            problem = PydanticCustomError("kind", "{problem}", {"problem": str(error)})
            raise ValidationError.from_exception_data(
                self.base.__name__, [InitErrorDetails(type=problem, loc=("kind",), input=kind)]
            ) from None
        return section.model_validate({**value, "kind": kind})

    def without_foreign_keys(self, section: dict[str, Any], before: Any, kept: set[str]) -> list[str]:
        """After an override of `kind`: removes from `section` the keys that only the kind `before` knows, and returns them.

        A file is written for one kind. A user who chooses another kind on the command line need not edit the file's keys.
        Overridden keys (`kept`), and keys that neither kind knows, stay for validation to refuse.
        """
        try:
            old, new = self.section(before).model_fields, self.section(self.of(section)).model_fields
        except ValueError:
            return []  # validation names the kind that is wrong
        foreign = [key for key in section if key in old and key not in new and key not in kept]
        for key in foreign:
            del section[key]
        return foreign


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module}.".startswith(f"{missing}."):
            raise ValueError(f"no module {module!r} can be imported: install it, or put its folder on PYTHONPATH") from None
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"importing {module} failed: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error
