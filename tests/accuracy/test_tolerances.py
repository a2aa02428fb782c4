"""``--tol-map``: dictionary literals only."""

from __future__ import annotations

import pytest

from forerun.accuracy.tolerances import DEFAULT_TOLERANCES, parse_tolerances
from forerun.errors import ConfigError


def test_pairs_and_relative_numbers() -> None:
    assert parse_tolerances("{None: (1e-4, 0.1), 5: 0.02, '50': [0, 1]}") == {
        None: (1e-4, 0.1),
        5: (1e-5, 0.02),
        50: (0.0, 1.0),
    }


def test_defaults_are_the_originals() -> None:
    relative = {k: pair[1] for k, pair in DEFAULT_TOLERANCES.items()}
    assert relative == {5: 0.01, 50: 0.02, 1000: 0.03, None: 0.05}
    assert {pair[0] for pair in DEFAULT_TOLERANCES.values()} == {1e-5}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "{}",
        "{5: (1, 2)",
        "{0: 0.1}",
        "{-5: 0.1}",
        "{True: 0.1}",
        "{5: True}",
        "{5: (1e-5,)}",
        "{5: (1e-5, -1)}",
        "{5: (1e-5, 1e999)}",
        "{5: 'x'}",
        "{5: 1" + "0" * 400 + "}",
        "{5: (1e-5, nan)}",
        "{1" + "0" * 400 + ": 0.1}",
        "{'" + "9" * 5000 + "': 0.1}",
        "{'\u00b2': 0.1}",
        "{'" + "x" * 5000 + "': 0.1}",
        "{'all': 0.1}",
        "{5: __import__('os').system('true')}",
        "(" * 400 + ")" * 400,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--tol-map must be a dictionary"):
        parse_tolerances(text)
