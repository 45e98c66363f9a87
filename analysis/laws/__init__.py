"""Functional forms. A law is one entry in a file of this folder; the registry finds it by looking, nothing lists it.

``base`` says what a law is, ``smooth`` one given by a formula; every other module holds laws of one kind, and
``published`` the coefficients that were read in their sources. What is special about a law stands in its entry; no
code elsewhere names one.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

from analysis.laws.base import (
    Columns,
    E,
    Law,
    Param,
    Term,
    Tuning,
    amplitude,
    exponent,
    floor,
    log_columns,
    ratio,
    scale,
    slope,
    variant,
)
from analysis.laws.smooth import Smooth, tie
from scaling import python_file
from scaling.errors import Code, UserError, choose

__all__ = [
    "REGISTRY",
    "Columns",
    "E",
    "Law",
    "Param",
    "Smooth",
    "Term",
    "Tuning",
    "amplitude",
    "default",
    "exponent",
    "floor",
    "get",
    "log_columns",
    "ratio",
    "reduced",
    "scale",
    "slope",
    "standard",
    "tie",
]

# FILE.py:NAME, NAME of the registry, then [TIES] and :COLUMN
_NAME = re.compile(r"(?:(?P<file>.+\.py):)?(?P<name>[^\[\]:]*)(?:\[(?P<ties>[^\]]*)\])?(?::(?P<column>.+))?")


def _found() -> dict[str, Law]:
    """Every public law of every module here, in the order of the modules' names and of their text."""
    out: dict[str, Law] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        for name, value in vars(importlib.import_module(f"{__name__}.{module}")).items():
            public = isinstance(value, Law) and not name.startswith("_")
            if public and out.setdefault(value.name, value) is not value:
                raise ValueError(f"two laws are called {value.name}")
    if sum(law.default for law in out.values()) != 1:
        raise ValueError("exactly one law must be the default")
    return out


REGISTRY: dict[str, Law] = _found()


def default() -> Law:
    """The form that fits, allocations and designs take where none is named."""
    return next(law for law in REGISTRY.values() if law.default)


def standard() -> tuple[Law, ...]:
    """The forms of ``--law=all``."""
    return tuple(law for law in REGISTRY.values() if law.in_all)


def reduced(law: Law) -> Law | None:
    """The law that is left at the best value of the hyperparameter that ``law`` holds; None where it holds none."""
    return None if law.tuning is None else get(law.tuning.law)


def get(law: str | Law, folder: str | Path | None = None) -> Law:
    """The law of that name; a ``Law`` is returned as it is.

    ``power:C`` is the one-variable law ``power`` in column C; ``chinchilla[beta=alpha]`` is the law with parameters
    tied (``smooth.tie``); both together are ``NAME[TIES]:COLUMN``. ``mine.py:law`` is the ``Law`` called ``law`` in a
    Python file, which is run; the same may follow it.

    Args:
      law: a name, or a law.
      folder: where a file is looked for when it is not in the current directory, as that of the card that names it.

    Returns:
      The law, whose ``name`` gives it again.

    Raises:
      UserError: no such law (UNKNOWN, with the nearest name), no such file (MISSING), a file that fails or holds
        something else under that name (DAMAGED), or ties and columns that do not go with it.
    """
    if isinstance(law, Law):
        return law
    match = _NAME.fullmatch(law)
    file, name, ties, column = match.group("file", "name", "ties", "column") if match else (None, law, None, None)
    found = _registered(law, name) if file is None else _in_file(law, Path(file), name, folder)
    if column and found.columns != ("x",):
        raise UserError("law", law, f"{found.name} is no law of x in one column; leave out :{column}", Code.UNSUPPORTED)
    if ties is not None:
        found = tie(found, ties)
    return found.in_column(column) if column else found  # last, so that the law's name reads as it was written


def _registered(asked: str, name: str) -> Law:
    plain = name.replace("-", "").replace("_", "")  # multi_power is multipower
    name = next((n for n in REGISTRY if n.replace("_", "") == plain), name) if plain else name
    if name not in REGISTRY:
        raise UserError("law", asked, f"unknown; {choose(asked, sorted(REGISTRY))}, or FILE.py:NAME", Code.UNKNOWN)
    return REGISTRY[name]


def _in_file(asked: str, file: Path, name: str, folder: str | Path | None) -> Law:
    """Runs a Python file and takes a law of it, under the name by which it was asked for."""
    places = [file] if folder is None else [file, Path(folder) / file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError("law", asked, f"there is no file {file}; give FILE.py:NAME, NAME a Law in it", Code.MISSING)
    try:
        module = python_file.run(path, f"_law_of_{path.stem}")
    except UserError as error:
        raise UserError("law", asked, f"{file} makes no law: {error}", error.code) from None
    except (Exception, SystemExit) as error:  # whatever a user's file raises is one line to its author
        raise UserError("law", asked, f"{file} fails: {type(error).__name__}: {error}", Code.DAMAGED) from None
    held = [key for key, value in vars(module).items() if isinstance(value, Law)]
    if name not in held:
        raise UserError("law", asked, f"{file} makes no law of that name; {choose(name, held)}", Code.UNKNOWN)
    return variant(getattr(module, name), f"{file}:{name}")
