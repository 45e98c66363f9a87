"""Declaration and parsing of command-line flags. Standard library only.

Verbs and engines declare flags. ``--name=value`` and ``--name value`` mean the same; a bool flag is given as ``--name``
or ``--noname``; arguments after ``--`` are positional.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from scaling.errors import Code, UserError, closest

# As in tables: 7B is seven billion. An upper-case letter alone, so that no unit is taken for one (5s, 10m).
SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
WANTED = {bool: "true or false", int: "a whole number, as 4096, 1e6 or 2M", float: "a number, as 0.5, 1e21 or 7B"}
Value = str | int | float | bool


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: without the dashes.
      kind: str, int, float or bool.
      help: one line that says what it does, to somebody who has never used it.
      default: value if the flag is not given.
      check: raises a UserError for an invalid value.
      engine: the engine that alone takes it, whose help shows it; empty for flags of the verb.
      offers: values that are names of something, for completion in a shell; None where there is no list.
    """

    name: str
    kind: type[Value]
    help: str
    default: Value | None = None
    check: Callable[[Any], None] | None = None
    engine: str = ""
    offers: Callable[[], Iterable[str]] | None = None


@dataclass
class Given:
    """The parsed arguments of a verb.

    Attributes:
      flags: values of the flags that were given, by name.
      positional: the arguments that are not flags.
      config: value of ``--config``; None if it was not given.
      overrides: (``config.path.to.field``, text) pairs, in the order given.
    """

    flags: dict[str, Value] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    config: str | None = None
    overrides: list[tuple[str, str]] = field(default_factory=list)


def read(declared: Sequence[Flag], arguments: Sequence[str], *, study: bool = False) -> Given:
    """Parses the arguments of a verb.

    Args:
      declared: the flags of the verb.
      study: whether it takes ``--config`` and ``--config.path.to.field``.

    Raises:
      UserError: a flag is not declared (UNKNOWN), has no value (MISSING), has a value of the wrong type (INVALID), or
        two values (CONFLICT).
    """
    given, left = Given(), list(arguments)
    while left:
        item = left.pop(0)
        if item == "--":
            given.positional += left
            break
        if not item.startswith("-") or item == "-":
            given.positional.append(item)
            continue
        name, sign, value = item.lstrip("-").partition("=")
        text = value if sign else None
        if study and name.partition(".")[0] == "config":
            text = _value(name, text, left)
            if name == "config":
                _once(name, given.config, text)
                given.config = text
            else:
                _once(name, dict(given.overrides).get(name), text)
                given.overrides.append((name, text))
            continue
        flag = _find(declared, name, text, study)
        if flag.kind is bool:
            value = name == flag.name if text is None else convert(flag.name, bool, text)
        else:
            value = convert(flag.name, flag.kind, _value(name, text, left))
        if flag.check is not None:
            flag.check(value)
        _once(flag.name, given.flags.get(flag.name), value)
        given.flags[flag.name] = value
    return given


def convert(name: str, kind: type[Value], text: str) -> Value:
    """The text converted to a type.

    Args:
      name: of the flag or field, for the message.
      kind: str, int, float or bool.

    Raises:
      UserError: the text is not a value of this type (INVALID).
    """
    try:
        if kind is bool:
            return (TRUE + FALSE).index(text.strip().lower()) < len(TRUE)
        if kind is str:
            return text
        return whole(text) if kind is int else number(text)
    except (ValueError, OverflowError):
        raise UserError(name, text, f"must be {WANTED[kind]}") from None


def number(text: str) -> float:
    """Parses a number, which may end in one of ``SUFFIXES``.

    Raises:
      ValueError: the text is no number.
    """
    text = text.strip()
    factor = SUFFIXES.get(text[-1:])
    if factor is None:
        return float(text)
    try:
        return float(Decimal(text[:-1]) * factor)  # 2.3M is a whole number
    except ArithmeticError:  # no number, or one beyond any
        raise ValueError(text) from None


def whole(text: str) -> int:
    """Parses a whole number, which may be written as 1e6 or 1M.

    Raises:
      ValueError, OverflowError: the text is not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        value = number(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _value(name: str, text: str | None, left: list[str]) -> str:
    """The value of a flag: after its ``=``, or else the next argument."""
    if text is None and (not left or left[0].startswith("--")):
        raise UserError(name, "nothing", f"needs a value: --{name}=VALUE", Code.MISSING)
    return left.pop(0) if text is None else text


def _once(name: str, before: Value | None, value: Value) -> None:
    """Refuses a second value of a flag: one of the two would be dropped in silence."""
    if before is not None and before != value:
        remedy = f"is given twice, {before} before; leave one out"
        if isinstance(value, bool):
            remedy = f"is given both ways; leave --{name} or --no{name} out"
        elif isinstance(value, str) and "=" in value:  # pairs, such as N=31M
            remedy = f"is given twice, {before} before; give one list: --{name}={before},{value}"
        raise UserError(name, value, remedy, Code.CONFLICT)


def _find(declared: Sequence[Flag], name: str, text: str | None, study: bool) -> Flag:
    for flag in declared:
        if name == flag.name or (flag.kind is bool and text is None and name == f"no{flag.name}"):
            return flag
    if name.partition(".")[0] == "config":
        raise UserError("flag", f"--{name}", "this verb does not take --config", Code.UNKNOWN)
    known = [*(flag.name for flag in declared), *(["config"] if study else [])]
    near = closest(name, known, "--")  # sought without the dashes, in which all are alike
    raise UserError("flag", f"--{name}", f"unknown flag; {near or 'see --help'}", Code.UNKNOWN)
