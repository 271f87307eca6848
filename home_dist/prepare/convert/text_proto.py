"""Protocol buffers' text format, read without their definitions: names to lists of values."""

import re
from pathlib import Path
from typing import Any

from home_dist.errors import ConfigError

Message = dict[str, list[Any]]
_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*|[,;])|(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<sign>[{}<>\[\]:])|(?P<word>[^\s{}<>\[\]:,;\#"']+)"""
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{1,2})|([0-7]{1,3})|(.))", re.DOTALL)
_NAMED = {"n": "\n", "t": "\t", "r": "\r"}
_ENDS = {"{": "}", "<": ">"}
_ENDED = "the file ends within a message"


def read(text: str, path: Path) -> Message:
    """All fields of the file. Every field is a list, of texts, numbers (int or float), booleans, words and messages. Raises
    ConfigError with the line."""
    return _TextFormat(text, path).message("")


class _TextFormat:
    def __init__(self, text: str, path: Path):
        self._text, self._path, self._at = text, path, 0

    def message(self, end: str) -> Message:
        found: Message = {}
        while (token := self._next()) != ("sign", end):
            if token == ("", "") and not end:
                return found
            if token[0] != "word":
                raise self._wrong(f"a field's name is expected, not {token[1]!r}" if token[0] else _ENDED)
            token_after = self._next()
            if token_after == ("sign", ":"):
                token_after = self._next()
            found.setdefault(token[1], []).extend(self._values(token_after))
        return found

    def _values(self, token: tuple[str, str]) -> list[Any]:
        kind, text = token
        if token == ("sign", "["):
            values: list[Any] = []
            while (inner := self._next()) != ("sign", "]"):
                values += self._values(inner)
            return values
        if kind == "sign" and text in _ENDS:
            return [self.message(_ENDS[text])]
        if kind == "text":
            whole, at = _unquoted(text), self._at
            while (more := self._next())[0] == "text":  # adjacent texts are one
                whole, at = whole + _unquoted(more[1]), self._at
            self._at = at
            return [whole]
        if kind == "word":
            return [_scalar(text)]
        raise self._wrong(f"a value is expected, not {text!r}" if kind else _ENDED)

    def _next(self) -> tuple[str, str]:
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                raise self._wrong("a text is not closed")
            self._at = match.end()
            if match.lastgroup != "skip":
                return str(match.lastgroup), match[0]
        return "", ""

    def _wrong(self, problem: str) -> ConfigError:
        line = self._text.count("\n", 0, self._at) + 1
        return ConfigError(f"{self._path}, line {line}: {problem}")


def _unquoted(text: str) -> str:
    def char(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return chr(int(match[2], 8)) if match[2] else _NAMED.get(match[3], match[3])

    return _ESCAPE.sub(char, text[1:-1])


def _scalar(word: str) -> Any:
    if word in ("true", "false"):
        return word == "true"
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            pass
    return word
