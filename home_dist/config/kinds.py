"""How `kind = "home"`, or `kind = "package.module:Class"`, finds the class of a model or an encoder and its section."""

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from home_dist.config.section import Section


@dataclass(frozen=True)
class Kinds:
    """The table of a section's kinds. A class that it finds has an attribute `section`: its own subclass of `base`.

    Classes are imported when their kind is asked for, so that this package stands above the rooms that they are in.
    """

    base: type[Section]
    """Of the sections of all kinds."""
    places: Mapping[str, str]
    """By kind: module:Class."""
    default: str
    """Kind of a section that names none."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def of(self, tree: Mapping[str, Any]) -> Any:
        """The kind that a section as it stands in a file asks for."""
        return tree.get("kind", self.default)

    def find(self, kind: Any) -> Any:
        """The class. Raises ValueError, which says what a kind may be or why the class cannot be used."""
        place = self.places.get(kind, kind) if isinstance(kind, str) else ""
        module, colon, name = place.partition(":")
        if not colon:
            known = ", ".join(map(repr, self.places))
            raise ValueError(f"must be one of {known}, or package.module:Class for a class of your own")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # a module that the user's own one needs
            raise ValueError(f"no module {module!r} can be imported: install it, or put its folder on PYTHONPATH") from None
        section = getattr(found, "section", None)
        if not (isinstance(section, type) and issubclass(section, self.base)):
            raise ValueError(
                f"{module} has no class {name!r} with an attribute `section` that is a subclass of "
                f"{self.base.__module__}.{self.base.__name__}"
            )
        return found

    def section(self, kind: Any) -> type[Section]:
        """The section that the kind brings. Raises ValueError as `find`."""
        return self.find(kind).section

    def read(self, value: Any) -> Any:
        """What pydantic calls before it validates a field: a section as it stands in a file -> one of its kind's class."""
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
        """After `kind` was overridden: takes out of `section` the keys that only the kind `before` knows, and returns them.

        A file is written for one kind; choosing another one on the command line must not ask for all of its keys to be edited.
        Keys that were overridden themselves (`kept`) and keys that neither kind knows stay, for validation to refuse.
        """
        try:
            old, new = self.section(before).model_fields, self.section(self.of(section)).model_fields
        except ValueError:
            return []  # validation names the kind that is wrong
        foreign = [key for key in section if key in old and key not in new and key not in kept]
        for key in foreign:
            del section[key]
        return foreign
