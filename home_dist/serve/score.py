"""One score per candidate, by a formula over its predictions: like + 0.5 * log(watch).

A formula has numbers, names of predictions, + - * / **, parentheses and the functions below. It is parsed, never run as code.
"""

import ast
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from home_dist.errors import ConfigError

Values = NDArray[np.float64]
_MOST = 2000
_OPERATORS: dict[type[ast.operator], Callable[[Values, Values], Values]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.Pow: np.power,
}
_OF_ONE: dict[str, Callable[[Values], Values]] = {
    "log": np.log,
    "log1p": np.log1p,
    "exp": np.exp,
    "sqrt": np.sqrt,
    "abs": np.abs,
}
_OF_SEVERAL: dict[str, Callable[[Values, Values], Values]] = {"min": np.minimum, "max": np.maximum}


class Formula:
    def __init__(self, text: str, names: Sequence[str]):
        """names: of the predictions. Raises ConfigError, which says what the formula must not hold."""
        self._text, self._names = text, names
        try:
            if len(text) > _MOST:
                raise ValueError(f"it is longer than {_MOST} characters")
            self._body = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            raise self._wrong(f"it is no formula: {getattr(error, 'msg', None) or error}") from None
        with np.errstate(all="ignore"):
            self._value(self._body, dict.fromkeys(names, np.ones(1)))  # all of it is checked on the way

    def __call__(self, predictions: Mapping[str, NDArray[np.float32]]) -> Values:
        """predictions: (N,) by name. Returns (N,), NaN or infinite where the formula has no value."""
        values = {name: column.astype(np.float64) for name, column in predictions.items()}
        with np.errstate(all="ignore"):
            score = self._value(self._body, values)
        return np.broadcast_to(score, next(iter(values.values())).shape)

    def _value(self, node: ast.expr, values: Mapping[str, Values]) -> Values:
        match node:
            case ast.Constant(value=float() | int() as number) if not isinstance(number, bool):
                try:
                    return np.asarray(float(number))
                except OverflowError:
                    raise self._wrong("a number is too large") from None
            case ast.Name(id=name):
                if name not in values:
                    raise self._wrong(f"{name!r} is no prediction; there are: {', '.join(self._names)}")
                return values[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._value(operand, values)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._value(operand, values)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](self._value(left, values), self._value(right, values))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._called(name, [self._value(a, values) for a in args])
        raise self._wrong(f"{ast.unparse(node)!r} is none of: a number, a prediction, + - * / **, a function")

    def _called(self, name: str, given: Sequence[Values]) -> Values:
        if name in _OF_ONE and len(given) == 1:
            return _OF_ONE[name](given[0])
        if name in _OF_SEVERAL and len(given) > 1:
            value = given[0]
            for other in given[1:]:
                value = _OF_SEVERAL[name](value, other)
            return value
        if name in _OF_ONE or name in _OF_SEVERAL:
            raise self._wrong(f"{name} takes {'one value' if name in _OF_ONE else 'two values or more'}, not {len(given)}")
        raise self._wrong(f"{name!r} is no function; there are: {', '.join([*_OF_ONE, *_OF_SEVERAL])}")

    def _wrong(self, reason: str) -> ConfigError:
        return ConfigError(f"serve.score = {self._text[:200]!r}: {reason}. Correct it, or leave it out.")
