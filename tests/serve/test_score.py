"""Formulas of scores against numpy, and what they must not hold."""

import numpy as np
import pytest

from home_dist.errors import ConfigError
from home_dist.serve.score import Formula

LIKE, WATCH = np.array([0.1, 0.5, 0.9], np.float32), np.array([12.0, 0.0, 3.0], np.float32)
A, B = LIKE.astype(np.float64), WATCH.astype(np.float64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("like", A),
        ("like + 0.5 * watch", A + 0.5 * B),
        ("-like ** 2 / (1 - watch)", -(A**2) / (1 - B)),
        ("log1p(watch) * sqrt(like) - abs(like - 0.5)", np.log1p(B) * np.sqrt(A) - np.abs(A - 0.5)),
        ("min(like, watch / 10, 0.4) + max(like, 0.3)", np.minimum(np.minimum(A, B / 10), 0.4) + np.maximum(A, 0.3)),
        ("exp(+like) * 1e-3", np.exp(A) * 1e-3),
        (" 2 ", [2, 2, 2]),
    ],
)
def test_a_formula_is_what_numpy_computes(text, expected):
    np.testing.assert_array_equal(Formula(text, ["like", "watch"])({"like": LIKE, "watch": WATCH}), expected)


def test_a_value_that_is_not_finite_stays_one():
    np.testing.assert_array_equal(Formula("log(watch)", ["watch"])({"watch": WATCH}), [np.log(12), -np.inf, np.log(3)])
    assert np.isinf(Formula("9 ** 9 ** 9 + watch", ["watch"])({"watch": WATCH})).all()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("like +", "it is no formula: invalid syntax"),
        ("lik", "'lik' is no prediction; there are: like, watch"),
        ("like if watch else 1", "'like if watch else 1' is none of: a number, a prediction"),
        ("__import__('os').system('x')", "is none of"),
        ("like.real", "'like.real' is none of"),
        ("open(like)", "'open' is no function; there are: log, log1p, exp, sqrt, abs, min, max"),
        ("log(like, 2)", "log takes one value, not 2"),
        ("max(like)", "max takes two values or more, not 1"),
        ("log(x=like)", "is none of"),
        ("like // 2", "is none of"),
        ("like < 2", "is none of"),
        ("True", "'True' is none of"),
        ("'like'", "is none of"),
        ("1j", "is none of"),
        ("1" + "0" * 400, "a number is too large"),
        ("+".join(["like"] * 1000), "longer than 2000 characters"),
        ("(" * 900 + "like" + ")" * 900, "it is no formula"),
        ("like; watch", "it is no formula"),
        ("", "it is no formula"),
    ],
)
def test_what_is_no_formula_is_told(text, reason):
    with pytest.raises(ConfigError, match=r"serve\.score = ") as refused:
        Formula(text, ["like", "watch"])
    assert reason in str(refused.value)
