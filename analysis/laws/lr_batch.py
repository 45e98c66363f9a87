"""Loss as a function of learning rate and batch, both away from their best: every run of a sweep informs the law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, E, Param, Tuning, amplitude, exponent, slope
from analysis.laws.smooth import Smooth, Value


def _off(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> tuple[Value, Value]:
    """log(lr / its best at this batch) and log(batch / batch*)."""
    n, d = m.log(c["N"]), m.log(c["D"])
    batch = m.log(c["batch"]) - (m.log(p["b"]) + p["n"] * d)
    rate = m.log(c["learning_rate"]) - (m.log(p["k"]) + p["p"] * n + p["q"] * d)
    return rate - p["r"] * batch, batch


def _logs(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    rate, batch = _off(m, p, c)
    worse = p["h"] * (rate * rate) + p["g"] * (batch * batch)
    return {"*": worse, "A": -p["alpha"] * m.log(c["N"]), "B": -p["beta"] * m.log(c["D"])}


def _guess(columns: Columns, loss: Array) -> dict[str, float]:
    """Curvatures and best values from a full quadratic of log loss in the four logarithms."""
    x = np.stack([np.log(np.asarray(columns[name])) for name in ("learning_rate", "batch", "N", "D")])
    mid = x.mean(1)
    u, v, n, d = x - mid[:, None]
    design = [u * u, u * v, v * v, u * n, u * d, v * d, u, v, v * n, np.ones_like(u), n, d, n * n, n * d, d * d]
    uu, uv, vv, un, ud, vd, u1, v1 = np.linalg.lstsq(np.stack(design, 1), np.log(loss), rcond=None)[0][:8]
    h = max(float(uu), 1e-3)
    r = float(np.clip(-uv / (2 * h), -3, 3))
    g = max(float(vv) - h * r * r, 1e-3)
    p, q, at = (float(-value / (2 * h)) for value in (un, ud, u1))  # of the rate along its ridge
    slope_d, best = ((2 * h * r * along - value) / (2 * g) for along, value in ((q, vd), (at, v1)))
    slope_d, q, p = (float(np.clip(value, -5, 5)) for value in (slope_d, q + r * slope_d, p))
    log_k = at + r * best + mid[0] - p * mid[2] - q * mid[3]
    log_b = best + mid[1] - slope_d * mid[3]
    k, b = (float(np.exp(np.clip(value, -60, 60))) for value in (log_k, log_b))
    return {"h": h, "g": g, "r": r, "k": k, "p": p, "q": q, "b": b, "n": slope_d}


def _balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    _, a, b, alpha, beta, *_ = theta.T  # at the best learning rate and batch
    return a, alpha, b, beta


def _named(theta: Any) -> dict[str, Array]:
    """Parameters by name, each (S, 1), of (P,) or (S, P)."""
    values = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    return {name: values[:, [i]] for i, name in enumerate(lr_batch.names)}


def best(theta: Any, columns: Columns) -> tuple[Array, Array]:
    """The best learning rate and the best batch at N and D (n,) for parameters (P,) or (S, P): (n,) or (S, n) each."""
    p, n, d = _named(theta), np.log(np.atleast_1d(columns["N"])), np.log(np.atleast_1d(columns["D"]))
    rate = np.exp(np.log(p["k"]) + p["p"] * n + p["q"] * d)
    batch = np.exp(np.log(p["b"]) + p["n"] * d) + 0.0 * n
    return (rate[0], batch[0]) if np.ndim(theta) == 1 else (rate, batch)


def regret(theta: Any, columns: Columns) -> Array:
    """Relative increase of the loss over that at the best of both, (n,) or (S, n); at the best batch where the columns
    have none."""
    p = _named(theta)
    given = {name: np.asarray(columns[name], dtype=np.float64) for name in columns}
    rate, batch = _off(np, p, {**given, "batch": given.get("batch", best(np.atleast_2d(theta), columns)[1])})
    out = np.expm1(p["h"] * rate**2 + p["g"] * batch**2)
    return out[0] if np.ndim(theta) == 1 else out


lr_batch = Smooth(
    "lr_batch",
    "L = (E + A N^-alpha + B D^-beta) exp(h log(learning_rate / (lr* (batch/batch*)^r))^2 + g log(batch / batch*)^2), "
    "lr* = k N^p D^q, batch* = b D^n",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
        Param("h", "log loss per e-fold squared", 0.0, 10.0, "how much a wrong learning rate costs"),
        Param("g", "log loss per e-fold squared", 0.0, 10.0, "how much a wrong batch costs at its best learning rate"),
        Param("r", "exponent", -3.0, 3.0, "slope of the best learning rate in the batch", kind="exponent"),
        Param("k", "learning rate", 1e-30, 1e30, "best learning rate at N = D = 1", log=True, kind="scale"),
        slope("p", "slope of the best learning rate in parameters, at the best batch", grid=None),
        slope("q", "slope of the best learning rate in tokens, at the best batch", grid=None),
        Param("b", "batch", 1e-30, 1e30, "best batch at D = 1", log=True, kind="scale"),
        slope("n", "slope of the best batch in tokens", grid=None),
    ),
    (),
    "Hoffmann's form times a paraboloid in log learning rate and log batch; lr* and batch* as in Step Law, Li 2025, "
    "arXiv 2503.04715",
    inputs=("N", "D", "learning_rate", "batch"),
    logs=_logs,
    amplitudes=("A", "B"),
    guess=_guess,
    balance=_balance,
    tuning=Tuning("chinchilla", "learning_rate", lambda theta, c: best(theta, c)[0], regret),
    example={
        "E": 1.7,
        "A": 400.0,
        "B": 400.0,
        "alpha": 0.34,
        "beta": 0.28,
        "h": 0.02,
        "g": 0.01,
        "r": 0.5,
        "k": 2.0,
        "p": -0.7,
        "q": 0.3,
        "b": 1e-4,
        "n": 0.6,
    },
)
