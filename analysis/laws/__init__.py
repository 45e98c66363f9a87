"""Functional forms. A law is one entry in a module of this folder; the registry collects them all.

``base`` defines laws, and ``smooth`` those given by a formula; every other module holds laws of one kind, and
``published`` the coefficients read in their sources. Everything particular to a law is in its entry; no code elsewhere
refers to a law by name.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
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
from scaling.errors import Code, UserError, choose
from scaling.records import python_file

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
    "of_columns",
    "ratio",
    "reduced",
    "scale",
    "slope",
    "standard",
    "tie",
]

# FILE.py:NAME, NAME of the registry, then [TIES] and :COLUMN
_NUMBERED = re.compile(r"([a-z_]+?)([0-9]{1,3})")
MOST = 100  # the largest number in the name of a law
_NAME = re.compile(r"(?:(?P<file>.+\.py):)?(?P<name>[^\[\]:]*)(?:\[(?P<ties>[^\]]*)\])?(?::(?P<column>.+))?")


def _found() -> dict[str, Law]:
    """All public laws of the modules here, in the order of module names and of definition."""
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


def _numbered() -> dict[str, Callable[[int], Law]]:
    """What the modules make of a name and a number, as of mixture7."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {name: make for module in modules for name, make in getattr(module, "NUMBERED", {}).items()}


def default() -> Law:
    """The law used by fits, allocations and designs where none is named."""
    return next(law for law in REGISTRY.values() if law.default)


def standard() -> tuple[Law, ...]:
    """The laws of N and D that are fitted to a study by ``--law=all``."""
    return tuple(law for law in REGISTRY.values() if law.in_all)


def of_columns(columns: Collection[str]) -> tuple[Law, ...]:
    """The laws of a loss that a table with these columns allows. A law of x stands for itself.

    Laws of shares are those of all the shares r1, r2 ... in the columns, which add to one.
    """
    shares = sum(re.fullmatch("r[0-9]+", column) is not None for column in columns)
    found = [law for law in REGISTRY.values() if law.quantity == "loss" and not law.curve]
    found = [law for law in found if not getattr(law, "shares", False)]
    if 2 <= shares <= MOST:
        found += [law for make in _numbered().values() if getattr(law := make(shares), "shares", False)]
    return tuple(law for law in found if set(law.columns) <= set(columns))


def reduced(law: Law) -> Law | None:
    """The law that remains at the best value of the hyperparameter of ``law``; None where it has none."""
    return None if law.tuning is None else get(law.tuning.law)


def get(law: str | Law, folder: str | Path | None = None) -> Law:
    """The law of that name; a ``Law`` is returned as it is.

    ``power:C`` is the one-variable law ``power`` in column C; ``chinchilla[beta=alpha]`` is the law with tied
    parameters (``smooth.tie``); both together are ``NAME[TIES]:COLUMN``. ``mine.py:law`` is the ``Law`` called ``law``
    in a Python file, which is executed; ties and a column may follow it too.

    Args:
      law: a name, or a law.
      folder: where to look for a file that is not in the current directory, such as the folder of the card naming it.

    Returns:
      The law; its ``name`` is again a valid argument.

    Raises:
      UserError: no such law (UNKNOWN, with the nearest name), no such file (MISSING), a file that fails or holds no
        law under that name (DAMAGED), or ties or a column that the law does not allow.
    """
    if isinstance(law, Law):
        return law
    match = _NAME.fullmatch(law)
    file, name, ties, column = match.group("file", "name", "ties", "column") if match else (None, law, None, None)
    result = _registered(law, name) if file is None else _in_file(law, Path(file), name, folder)
    if column and result.columns != ("x",):
        remedy = f"{result.name} is no law of x in one column; leave out :{column}"
        raise UserError("law", law, remedy, Code.UNSUPPORTED)
    if ties is not None:
        result = tie(result, ties)
    return result.in_column(column) if column else result  # last, so that the law's name reads as it was written


def placed(law: Law, columns: Mapping[str, str]) -> tuple[Law, dict[str, str]]:
    """A law of x in the column that ``columns`` calls x, and the other columns; any other law as it is, with all.

    The law stays one of x where that column's name means another one: where the loss beside an error is x, ``loss`` is
    the error.
    """
    others = dict(columns)
    if law.columns != ("x",) or "x" not in others:
        return law, others
    column = others["x"]
    if column == "loss" or others.get(column, column) != column:
        return law, others
    del others["x"]
    return law.in_column(column), others


def _registered(asked: str, name: str) -> Law:
    plain = name.replace("-", "").replace("_", "")  # multi_power means multipower
    name = next((n for n in REGISTRY if n.replace("_", "") == plain), name) if plain else name
    if name in REGISTRY:
        return REGISTRY[name]
    if (match := _NUMBERED.fullmatch(name)) and match[1] in (makers := _numbered()) and 2 <= int(match[2]) <= MOST:
        return _made(makers[match[1]], int(match[2]))
    raise UserError("law", asked, f"unknown; {choose(asked, sorted(REGISTRY))}, or FILE.py:NAME", Code.UNKNOWN)


@cache
def _made(make: Callable[[int], Law], number: int) -> Law:
    return make(number)


def _in_file(asked: str, file: Path, name: str, folder: str | Path | None) -> Law:
    """Runs a Python file and returns a law defined in it, named as it was requested."""
    places = [file] if folder is None else [file, Path(folder) / file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError("law", asked, f"there is no file {file}; give FILE.py:NAME, NAME a Law in it", Code.MISSING)
    try:
        module = python_file.run(path, f"_law_of_{path.stem}")
    except UserError as error:
        raise UserError("law", asked, f"{file} makes no law: {error}", error.code) from None
    except (Exception, SystemExit) as error:  # reduce whatever the user's file raises to one line
        raise UserError("law", asked, f"{file} fails: {type(error).__name__}: {error}", Code.DAMAGED) from None
    held = [key for key, value in vars(module).items() if isinstance(value, Law)]
    if name not in held:
        raise UserError("law", asked, f"{file} makes no law of that name; {choose(name, held)}", Code.UNKNOWN)
    return variant(getattr(module, name), f"{file}:{name}")
