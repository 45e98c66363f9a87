"""Derivatives by JAX for laws whose formula has no short analytic ones: learning curves over whole schedules.

The only module of ``analysis`` that imports JAX, and only when such a law is fitted. Double precision is switched on
here and nowhere else. Parameter sets are padded to one of two sizes, so that a shrinking set compiles twice instead of
at every size (a compilation takes seconds, an evaluation milliseconds).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.engine.smooth_surface import SmoothSurface
from analysis.engine.surface import State
from analysis.laws.base import Array, Columns
from analysis.laws.smooth import Smooth

_NUMBERS = 2_000_000  # entries in one work array
_FEW, _MANY = 16, 128  # parameter sets evaluated at once


class SlowSurface(SmoothSurface):
    """``SmoothSurface`` with evaluation and derivatives compiled by JAX, in float64."""

    def __init__(self, law: Smooth, columns: Columns, *, centred: bool = True, scale: float = 1.0):
        super().__init__(law, columns, centred=centred, scale=scale)
        import jax
        import jax.numpy as jnp

        def one(z: Any, c: Any) -> Any:
            return self._log(jnp, list(z), c, self.centre)

        def both(z: Any, c: Any, c1: Any, c2: Any) -> tuple[Any, Any]:
            jacobian = jax.jacfwd(one)(z, c)
            bend = jax.hessian(lambda at: (c1 * one(at, c)).sum())(z)
            return c1 @ jacobian, bend + (jacobian.T * c2) @ jacobian

        self._value = jax.jit(jax.vmap(one, (0, None)))
        self._slope = jax.jit(jax.vmap(jax.jacfwd(one), (0, None)))
        self._both = jax.jit(jax.vmap(both, (0, None, 0, 0)))
        self._precise = jax.enable_x64

    def _run(self, function: Any, *sets: Array) -> list[Array]:
        """``function(z, columns, rest)`` over parameter sets in padded chunks, as numpy arrays."""
        size = max(int(np.prod(v.shape)) for v in self.c.values())
        step = min(_MANY, max(1, 1 << int(np.log2(max(_NUMBERS / size, 1)))))
        out: list[list[Array]] = []
        with self._precise(True):
            for s in range(0, len(sets[0]), step):
                part = [x[s : s + step] for x in sets]
                count = len(part[0])
                full = min(step, _FEW if count <= _FEW else _MANY)
                padded = [np.concatenate([x, np.repeat(x[-1:], max(full - count, 0), 0)]) for x in part]
                results = function(padded[0], self.c, *padded[1:])
                results = results if isinstance(results, tuple) else (results,)
                out.append([np.array(x)[:count] for x in results])
        return [np.concatenate(x) for x in zip(*out)]

    def evaluate(self, z: Array) -> tuple[Array, State]:
        f = self._run(self._value, z)[0] + np.log(self.scale)
        return f, {"z": z, "log": f}

    def normal(self, state: State, c1: Array, c2: Array) -> tuple[Array, Array]:
        g, h = self._run(self._both, state["z"], np.array(c1), np.array(c2))
        return g, h

    def jacobian(self, state: State) -> Array:
        return self._run(self._slope, state["z"])[0]

    # starts use the formula itself, one parameter set at a time

    def _each(self, z: Array, c: Any) -> list[dict[str, Any]]:
        with np.errstate(all="ignore"):
            sets = ({k: v[0, 0] for k, v in self._plain(row[None]).items()} for row in z)
            return [self.law.logs(np, p, c) for p in sets]

    def _shift(self, z: Array) -> dict[str, Array]:
        names = self.law.amplitudes
        if self.centre is None or not names:
            return {name: np.zeros((len(z), 1)) for name in names}
        logs = self._each(z, self.centre)
        return {name: np.array([np.ravel(f[name])[:1] for f in logs]).reshape(len(z), 1) for name in names}

    def basis(self, z: Array, rows: Array) -> Array:
        c, shift = {k: v[rows] for k, v in self.c.items()}, self._shift(z)
        out = np.ones((len(z), len(rows), len(self.law.linear)))
        for s, logs in enumerate(self._each(z, c)):
            factor = np.exp(logs["*"]) if "*" in logs else 1.0
            for j, name in enumerate(self.law.linear):
                size = 1.0 if name == self.law.floor else np.exp(logs[name] - shift[name][s])
                out[s, :, j] = self.sign[j] * size * factor
        return out

    def known(self, z: Array, rows: Array) -> Array:
        c = {k: v[rows] for k, v in self.c.items()}
        logs = self._each(z, c)
        return np.stack([np.broadcast_to(f.get("+", 0.0) / self.scale, len(rows)) for f in logs])
