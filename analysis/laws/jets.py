"""Exact first and second derivatives of a formula, forward, sparse, in numpy.

A ``Jet`` is an array with its derivatives by the few coordinates that it depends on: ``g[i]`` = d/dz_i and ``h[i, j]``
(i <= j) = d2/dz_i dz_j. Arrays broadcast, so that a term of two parameters costs three derivatives and no more. The
functions here have numpy's names: a formula written as ``m.exp(p["a"] * c["x"])`` runs with m = numpy, jax.numpy or
this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


class Jet:
    """Value, gradient and Hessian; absent entries are zero."""

    __slots__ = ("g", "h", "v")
    __array_ufunc__ = None  # numpy arrays on the left leave the operation to us

    def __init__(self, v: Any, g: dict[int, Any], h: dict[tuple[int, int], Any]):
        self.v, self.g, self.h = v, g, h

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.v + other, self.g, self.h)
        return Jet(self.v + other.v, _sum(self.g, other.g), _sum(self.h, other.h))

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return self * -1.0

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            scaled = {i: x * other for i, x in self.g.items()}
            return Jet(self.v * other, scaled, {k: x * other for k, x in self.h.items()})
        a, b = self, other
        g = _sum({i: x * b.v for i, x in a.g.items()}, {i: x * a.v for i, x in b.g.items()})
        h = _sum({k: x * b.v for k, x in a.h.items()}, {k: x * a.v for k, x in b.h.items()})
        for i, x in a.g.items():
            for j, y in b.g.items():
                product = x * y
                h = _put(h, i, j, product * 2.0 if i == j else product)
        return Jet(a.v * b.v, g, h)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * (reciprocal(other) if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return reciprocal(self) * other

    def __pow__(self, power: float) -> Jet:
        v = self.v
        return _chain(self, v**power, power * v ** (power - 1), power * (power - 1) * v ** (power - 2))


def _sum(a: dict, b: dict) -> dict:
    out = dict(a)
    for key, x in b.items():
        out[key] = out[key] + x if key in out else x
    return out


def _put(h: dict, i: int, j: int, x: Any) -> dict:
    key = (i, j) if i <= j else (j, i)
    h[key] = h[key] + x if key in h else x
    return h


def _chain(x: Jet, f: Any, f1: Any, f2: Any) -> Jet:
    h = {k: f1 * y for k, y in x.h.items()}
    items = list(x.g.items())
    for a, (i, gi) in enumerate(items):
        bent = f2 * gi
        for j, gj in items[a:]:
            _put(h, i, j, bent * gj)
    return Jet(f, {i: f1 * y for i, y in x.g.items()}, h)


def variable(v: Any, index: int) -> Jet:
    """The coordinate number ``index`` as a jet."""
    return Jet(v, {index: 1.0}, {})


def _lift(plain: Callable[[Any], Any], rule: Callable[[Any, Any], tuple[Any, Any]]) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        if not isinstance(x, Jet):
            return plain(x)
        f = plain(x.v)
        return _chain(x, f, *rule(x.v, f))

    return apply


exp = _lift(np.exp, lambda v, f: (f, f))
expm1 = _lift(np.expm1, lambda v, f: (f + 1.0, f + 1.0))
log = _lift(np.log, lambda v, f: (1.0 / v, -1.0 / v**2))
log1p = _lift(np.log1p, lambda v, f: (1.0 / (1.0 + v), -1.0 / (1.0 + v) ** 2))
reciprocal = _lift(lambda v: 1.0 / v, lambda v, f: (-f * f, 2 * f * f * f))
square = _lift(lambda v: v * v, lambda v, f: (2 * v, np.full_like(v, 2.0)))


def _sigmoid(v: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * v))


# log(1 + exp(x)) without overflow: its derivative is the sigmoid
_softplus = _lift(lambda v: np.logaddexp(0.0, v), lambda v, f: ((s := _sigmoid(v)), s * (1 - s)))


def logaddexp(a: Any, b: Any) -> Any:
    """log(exp(a) + exp(b)); either may be a plain array."""
    if not isinstance(a, Jet) and not isinstance(b, Jet):
        return np.logaddexp(a, b)
    return a + _softplus(b - a)


def compose(x: tuple[Jet, ...], f: Any, f1: list[Any], f2: dict[tuple[int, int], Any]) -> Jet:
    """A function of several jets: its value, first derivatives and second ones {(i, j)}, i <= j, by its arguments."""
    g: dict[int, Any] = {}
    h: dict[tuple[int, int], Any] = {}
    for a, slope in zip(x, f1):
        g = _sum(g, {i: slope * y for i, y in a.g.items()})
        h = _sum(h, {k: slope * y for k, y in a.h.items()})
    for (a, b), bend in f2.items():
        for i, y in x[a].g.items():
            for j, z in x[b].g.items():
                if a != b or i <= j:
                    both = bend * y * z
                    _put(h, i, j, both if a == b or i != j else 2.0 * both)
    return Jet(f, g, h)


def minimum(a: Any, b: Any) -> Any:
    """The smaller of the two, with its derivatives."""
    return _either(_value(a) <= _value(b), a, b)


def maximum(a: Any, b: Any) -> Any:
    """The larger of the two, with its derivatives."""
    return _either(_value(a) >= _value(b), a, b)


def _value(x: Any) -> Any:
    return x.v if isinstance(x, Jet) else x


def _either(first: Any, a: Any, b: Any) -> Any:
    if not isinstance(a, Jet) and not isinstance(b, Jet):
        return np.where(first, a, b)
    mask = np.where(first, 1.0, 0.0)
    out = Jet(np.where(first, _value(a), _value(b)), {}, {})
    for x, weight in ((a, mask), (b, 1.0 - mask)):
        if isinstance(x, Jet):
            out.g = _sum(out.g, {i: y * weight for i, y in x.g.items()})
            out.h = _sum(out.h, {k: y * weight for k, y in x.h.items()})
    return out
