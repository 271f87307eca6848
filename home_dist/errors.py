"""Errors that are meant for the person who started the command.

Each message says what is wrong, where (file, column, key, rank) and what to do about it. The command line
prints the message alone, without a traceback, and exits with `exit_code`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # its import takes longer than the commands that need none of it
    from pydantic import ValidationError


class UserError(Exception):
    """Base of all errors whose message is written for users."""

    exit_code = 2
    prefix = "error: "


class ConfigError(UserError):
    """A run configuration or a schema that cannot be used."""

    exit_code = 2


class DataError(UserError):
    """Data files that do not hold what the schema promises."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""

    exit_code = 4


class DistributedError(UserError):
    """A process group that could not be formed or that lost a rank."""

    exit_code = 5


def problem_lines(error: "ValidationError") -> list[str]:
    """One line per problem: the key as a user writes it, what is wrong, and the value that was given."""
    from pydantic import BaseModel

    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
        given = problem.get("input")
        if isinstance(given, str) and "://" in given:
            given = given.partition("?")[0]  # options of a URL may be keys, which no message shows
        shown = "" if isinstance(given, (dict, BaseModel)) else f" (given: {given!r})"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
        if problem["type"] == "union_tag_invalid":
            context = problem["ctx"]
            key = f"{key}.{context['discriminator'].strip(chr(39))}"
            message, shown = f"must be one of {context['expected_tags']}", f" (given: {context['tag']!r})"
        lines.append(f"{key}: {message}{shown}")
    return lines
