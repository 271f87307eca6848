"""Finds the class of a model, encoder or objective, and its section, from `kind = "home"` or "package.module:Class"."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from home_dist.config.section import Section
from home_dist.errors import ConfigError

NO_MODULE = "no_module"
"""Type of the validation error of a kind whose module is not there; its context names the `module`."""


class NoModule(ValueError):
    def __init__(self, module: str):
        super().__init__(f"no module {module!r} can be imported: install it, or put its folder on PYTHONPATH")
        self.module = module


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
    interface: str
    """module:Class that all kinds' classes extend."""
    needs: tuple[str, ...]
    """Methods of it that each class has to define."""

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
        found = _imported(module)
        if not hasattr(found, name):
            there = [n for n, value in vars(found).items() if isinstance(value, type) and value.__module__ == module]
            raise ValueError(f"{_file(found)} has no class {name!r}; its classes are: {', '.join(there) or 'none'}")
        cls = getattr(found, name)
        if kind not in self.places:
            self._check(cls, f"{_file(found)}: {name}")
        return cls

    def _check(self, cls: Any, shown: str) -> None:
        """Raises ValueError for a class of a user's that is not one of this kind. shown: its file and name."""
        module, _, name = self.interface.partition(":")
        interface = getattr(importlib.import_module(module), name)
        if not isinstance(cls, type) or not issubclass(cls, interface):
            raise ValueError(f"{shown} is no subclass of {module}.{name}: write class {shown.rpartition(' ')[2]}({name})")
        section = getattr(cls, "section", None)
        wanted = f"{self.base.__module__}.{self.base.__name__}"
        if section is None:
            raise ValueError(f"{shown} has no attribute `section`: set it to the class of its keys, a subclass of {wanted}")
        if not (isinstance(section, type) and issubclass(section, self.base)):
            raise ValueError(f"{shown}: its attribute `section` is {section!r}, which is no subclass of {wanted}")
        for method in self.needs:
            if inspect.getattr_static(cls, method, None) is inspect.getattr_static(interface, method, None):
                raise ValueError(
                    f"{shown} has no method `{method}`: {name}.{method} in {module} tells what it takes and returns"
                )

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
            module = error.module if isinstance(error, NoModule) else ""
            context = {"problem": str(error), "module": module}
            problem = PydanticCustomError(NO_MODULE if module else "kind", "{problem}", context)
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
            raise NoModule(module) from None
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"importing {module} failed: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error


def _file(module: Any) -> str:
    return getattr(module, "__file__", None) or module.__name__


def own_modules(kinds: Iterable[str]) -> dict[str, str]:
    """By module of the kinds that are classes of users: the folder that it was imported from."""
    folders = {}
    for module in dict.fromkeys(k.partition(":")[0] for k in kinds if ":" in k):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file:
            path = Path(file).resolve()
            folders[module] = str(path.parents[len(module.split(".")) - (path.stem != "__init__")])
    return folders
