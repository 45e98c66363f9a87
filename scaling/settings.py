"""Declaration and validation of configuration fields. Standard library only.

A configuration (of a family, a source, a recipe, the execution, the mesh) is a frozen dataclass of ints, floats,
strings, booleans and tuples with defaults. ``setting`` declares the valid values of a field::

    @dataclass(frozen=True)
    class Config:
        width: int = setting(64, least=1)

        def __post_init__(self):
            check(self, "model")

``check`` validates every field against its type and rule; ``read`` makes a configuration from a user's fields. Errors
are UserErrors that name the field by its path (``model.width``), the value and the remedy: ``Code.UNKNOWN`` for a field
or name that does not exist, with the closest one that does, and ``Code.INVALID`` for an invalid value.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

from scaling.errors import Code, UserError, choose

T = TypeVar("T")
RULE = "rule"  # key of a field's metadata
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", tuple: "a tuple"}


@dataclass(frozen=True)
class Rule:
    """Constraints on a field's value beyond its type, and what the field means to the trainer.

    Attributes:
      least, most: inclusive bounds of a number.
      above, below: exclusive bounds.
      choices: the allowed strings.
      traced: the compiled program does not depend on the field, so runs that differ only in it share one compilation.
      later: the field was added after records existed. It is left out of a record while it has its default, so that
        older runs keep their identity.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    traced: bool = False
    later: bool = False

    def admits(self, value: Any) -> bool:
        """Whether a value of the right type is within the bounds, or one of the choices."""
        if self.choices:
            return value in self.choices
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def remedy(self, value: Any) -> str:
        """What to give instead of a value that is not admitted."""
        if self.choices:
            return choose(value, self.choices)
        bounds = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return "must be " + " and ".join(f"{word} {bound}" for word, bound in bounds if bound is not None)


def setting(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Iterable[str] = (),
    traced: bool = False,
    later: bool = False,
) -> Any:  # the default, and the attributes of a Rule
    """A field of a configuration, with its default; the other arguments are the attributes of its ``Rule``."""
    rule = Rule(least, most, above, below, tuple(choices), traced, later)
    return dataclasses.field(default=default, metadata={RULE: rule})


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as in records: without those with ``later`` set that have their default.

    Like ``dataclasses.asdict`` without its copies, which take long.
    """
    kind, held = type(value), vars(value)
    found = {name: held[name] for name in kind.__dataclass_fields__}
    for name, default in _later(kind).items():
        if found[name] == default:
            del found[name]
    return found


@functools.cache
def _later(kind: Any) -> dict[str, object]:
    """Defaults of the fields with ``later`` set."""
    return {name: kind.__dataclass_fields__[name].default for name in names(kind, "later")}


def names(kind: Any, flag: str) -> tuple[str, ...]:
    """Names of the fields of a configuration whose rule has a flag set: ``traced`` or ``later``."""
    rules = {field.name: field.metadata.get(RULE, Rule()) for field in dataclasses.fields(kind)}
    return tuple(name for name, rule in rules.items() if getattr(rule, flag))


def check(config: Any, section: str) -> None:
    """Validates every field of a configuration against the type of its default and its rule.

    Args:
      section: prefix of the fields in messages: ``model``, ``data``, ``recipe``.

    Raises:
      UserError: a field has an invalid value (INVALID); the message names the first.
    """
    for field in dataclasses.fields(config):
        value, rule = getattr(config, field.name), field.metadata.get(RULE, Rule())
        path = f"{section}.{field.name}"
        if field.default is not MISSING and not _is_a(type(field.default), value):
            raise UserError(path, value, f"must be {KINDS[type(field.default)]}, as {field.default!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(path, value, "must be a finite number")
        if isinstance(value, int) and abs(value) > sys.maxsize:  # nor would it be a float, where that is needed
            raise UserError(path, value, "is larger than a machine can count")
        if not rule.admits(value):
            raise UserError(path, value, rule.remedy(value))


def read(kind: type[T], section: str, values: object, base: T | None = None) -> T:
    """Makes a configuration from a user's fields.

    Args:
      section: as for ``check``.
      values: the fields by name; see ``typed``.
      base: a configuration that gives the other fields; None for the defaults.

    Raises:
      UserError: ``values`` is not a mapping (INVALID), a field does not exist (UNKNOWN), or has an invalid value
        (INVALID).
    """
    start: Any = base
    fields = typed(kind, section, values)
    return kind(**fields) if start is None else dataclasses.replace(start, **fields)


def typed(kind: Any, section: str, values: object) -> dict[str, Any]:
    """A user's fields converted to the types of their defaults: whole numbers to floats, lists to tuples.

    Raises:
      UserError: as ``read``, except for rules, which are checked when the configuration is made.
    """
    known = {field.name: field.default for field in dataclasses.fields(kind)}
    fields = {}
    for name, value in mapping(section, values).items():
        if name not in known:
            remedy = f"unknown field; {choose(name, known)}" if known else "unknown field: there are none"
            raise UserError(f"{section}.{name}", value, remedy, Code.UNKNOWN)
        fields[name] = _converted(f"{section}.{name}", value, known[name])
    return fields


def mapping(field: str, value: object) -> dict[str, Any]:
    """A section of a configuration as a dictionary.

    Raises:
      UserError: it is not a mapping (INVALID).
    """
    if not isinstance(value, Mapping):
        raise UserError(field, value, "must be fields by name, such as {'name': value}")
    return dict(value)


def require_choice(field: str, value: object, choices: Collection[str]) -> None:
    """Raises UserError (INVALID) unless ``value`` is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(field, value, choose(value, choices))


def require_known(field: str, value: object, known: Collection[str], also: str = "") -> None:
    """Raises UserError (UNKNOWN) unless ``value`` is in ``known``; ``also`` names further options, for the message."""
    if not isinstance(value, str) or value not in known:
        raise UserError(field, value, f"unknown; {choose(value, known)}{also}", Code.UNKNOWN)


def _converted(path: str, value: Any, default: Any) -> Any:
    if default is MISSING:
        return value
    kind = type(default)
    if kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if type(value) is not kind:
        raise UserError(path, value, f"must be {KINDS[kind]}, as {default!r}")
    return value


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    return isinstance(value, {int: Integral, float: Real}.get(kind, kind))
