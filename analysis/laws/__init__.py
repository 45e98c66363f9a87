"""Functional forms. A law is one entry in a file of this folder; the registry finds it by looking, nothing lists it.

``base`` says what a law is, ``smooth`` one given by a formula; every other module holds laws of one kind, and
``published`` the coefficients that were read in their sources.
"""

from __future__ import annotations

import importlib
import pkgutil

from analysis.laws.base import Columns, E, Law, Param, Term, amplitude, exponent, log_columns, scale, single
from analysis.laws.smooth import Smooth, tie
from scaling.errors import UserError

__all__ = [
    "REGISTRY",
    "Columns",
    "E",
    "Law",
    "Param",
    "Smooth",
    "Term",
    "amplitude",
    "exponent",
    "get",
    "log_columns",
    "scale",
    "single",
    "tie",
]


def _found() -> dict[str, Law]:
    """Every public law of every module here, in the order of the modules' names and of their text."""
    out: dict[str, Law] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        for name, value in vars(importlib.import_module(f"{__name__}.{module}")).items():
            public = isinstance(value, Law) and not name.startswith("_")
            if public and out.setdefault(value.name, value) is not value:
                raise ValueError(f"two laws are called {value.name}")
    return out


REGISTRY: dict[str, Law] = _found()


def get(law: str | Law) -> Law:
    """The law of that name. UserError lists the names when there is none.

    ``power:C`` is the one-variable law ``power`` in column C; ``chinchilla[beta=alpha]`` is the law with parameters
    tied (``smooth.tie``); both together are ``NAME[TIES]:COLUMN``.
    """
    if isinstance(law, Law):
        return law
    head, _, column = law.partition(":")
    name, bracket, ties = head.partition("[")
    plain = name.replace("-", "").replace("_", "")  # multi_power is multipower
    name = next((n for n in REGISTRY if n.replace("_", "") == plain), name) if plain else name
    wrong = bool(bracket) and not ties.endswith("]")
    if name not in REGISTRY or wrong or (column and REGISTRY[name].columns != ("x",)):
        raise UserError("law", law, f"choose one of {', '.join(sorted(REGISTRY))}")
    found = tie(REGISTRY[name], ties[:-1]) if bracket else REGISTRY[name]
    return single(found, column) if column else found  # last, so that the law's name reads as it was written
