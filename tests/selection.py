"""Which cases of a long battery every change runs (``make test``); the others are run by ``make test-system``."""

from collections.abc import Sequence
from typing import Any

import pytest


def mostly_system(cases: Sequence[Any], *kept: Any) -> list[Any]:
    """The cases, those that are not ``kept`` marked ``system``."""
    assert set(kept) <= set(cases), set(kept) - set(cases)
    return [case if case in kept else _param(case) for case in cases]


def _param(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.system)
