"""Learning rate, batch and steps: laws of their best values, and of the loss as a function of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.base import Array, Columns, E, Law, Param, Term, Tuning, amplitude, exponent, floor, scale, slope
from analysis.laws.smooth import Smooth, Value


def _of(law: Law, theta: Any, *names: str) -> list[Array]:
    """Parameters of ``law`` by name, each (S, 1), of (P,) or (S, P)."""
    values = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    return [values[:, [law.index(name)]] for name in names]


best_lr = Smooth(
    "best_lr",
    "lr = k N^p D^q",
    (
        amplitude("k", "best learning rate at N = D = 1", "learning rate"),
        slope("p", "slope in parameters"),
        slope("q", "slope in tokens"),
    ),
    (),
    "Step Law, Li 2025, arXiv 2503.04715; a best batch in tokens is growth:D",
    inputs=("N", "D"),
    logs=lambda m, p, c: {"k": p["p"] * m.log(c["N"]) + p["q"] * m.log(c["D"])},
    amplitudes=("k",),
    quantity="value",
    response="the best learning rate (or batch) of a cell",
    no_optimum="it is a law of the learning rate, not of the loss",
    example={"k": 2.0, "p": -0.7, "q": 0.3},
)

critical_batch = Law(
    "critical_batch",
    "S = S_min + E_min / batch, so that (S / S_min - 1) (S batch / E_min - 1) = 1",
    (
        floor("S_min", "steps to the loss with batches without limit", "steps"),
        amplitude(
            "E_min", "examples to the loss with the smallest batch; E_min / S_min is the critical batch", "batch"
        ),
    ),
    (Term("E_min", (("batch", 1.0),)),),
    "McCandlish 2018, arXiv 1812.06162",
    quantity="steps",
    response="steps to one target loss",
    no_optimum="it trades steps against examples at one N",
    example={"S_min": 3000.0, "E_min": 2000000.0},
)


def critical(theta: Any) -> Array:
    """The critical batch E_min / S_min of ``critical_batch`` parameters (S, 2), in the unit of the batch."""
    values = np.atleast_2d(np.asarray(theta, dtype=np.float64))
    return values[:, critical_batch.index("E_min")] / values[:, critical_batch.index("S_min")]


def _steps(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    useful = m.log(c["steps"]) - m.log1p(p["B_crit"] / c["batch"])
    return {"A": -p["alpha"] * m.log(c["N"]), "B": -p["beta"] * useful}


steps_batch = Smooth(
    "steps_batch",
    "L = E + A N^-alpha + B S_min^-beta, S_min = steps / (1 + B_crit / batch)",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1"),
        amplitude("B", "what too few steps cost at S_min = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in steps"),
        scale("B_crit", "batch", "critical batch", "batch"),
    ),
    (),
    "Kaplan 2020, arXiv 2001.08361, with one critical batch; McCandlish 2018, arXiv 1812.06162",
    inputs=("N", "steps", "batch"),
    logs=_steps,
    amplitudes=("A", "B"),
    no_optimum="it weighs steps against batch; tokens are their product",
    example={"E": 1.7, "A": 400.0, "B": 30.0, "alpha": 0.34, "beta": 0.35, "B_crit": 250.0},
)

three_term = Law(
    "three_term",
    "L = E + A N^-alpha + S steps^-beta + B batch^-gamma",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1"),
        amplitude("S", "what a single step costs"),
        amplitude("B", "what the noise of a batch of one costs"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in steps"),
        exponent("gamma", "slope in the batch"),
    ),
    (Term("A", (("N", "alpha"),)), Term("S", (("steps", "beta"),)), Term("B", (("batch", "gamma"),))),
    "compare Schaipp 2026, arXiv 2607.01487 (its abstract was read): steps and batch apart, so that a bad batch "
    "informs too; the best batch of a number of tokens grows as tokens^(beta / (beta + gamma))",
    no_optimum="it weighs steps against batch; tokens are their product",
    example={"E": 1.7, "A": 400.0, "S": 60.0, "B": 6.0, "alpha": 0.34, "beta": 0.4, "gamma": 0.5},
)


def best_batch(theta: Any, tokens: Any) -> Array:
    """The batch of the least loss of ``three_term`` at so many tokens, in the unit of its batch (tokens = steps batch).

    Args:
      theta: parameters (P,) or (S, P).
      tokens: a number or (n,).

    Returns:
      (n,), or (S, n).
    """
    s, beta, b, gamma = _of(three_term, theta, "S", "beta", "B", "gamma")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.log(gamma * b) - np.log(beta * s) + beta * np.log(np.atleast_1d(tokens))
        out = np.exp(log_ratio / (beta + gamma))
    return out[0] if np.ndim(theta) == 1 else out


time_scale = Smooth(
    "time_scale",
    "tau = c (D / N)^m, tau = batch / (learning_rate weight_decay D)",
    (
        amplitude("c", "best time scale of the weights' average at one token per parameter, as a share of the run"),
        slope("m", "slope in tokens per parameter"),
    ),
    (),
    "Bergsma 2025, arXiv 2505.13738 (its abstract was read); the batch in tokens",
    inputs=("N", "D"),
    logs=lambda m, p, c: {"c": p["m"] * (m.log(c["D"]) - m.log(c["N"]))},
    amplitudes=("c",),
    quantity="value",
    response="the best time scale of AdamW's weight decay, batch / (learning_rate weight_decay D)",
    no_optimum="it is a law of the weight decay, not of the loss",
    example={"c": 1.0, "m": -0.5},
)


def _off(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> Value:
    """log(lr / lr*(N, D))."""
    best = m.log(p["k"]) + p["p"] * m.log(c["N"]) + p["q"] * m.log(c["D"])
    return m.log(c["learning_rate"]) - best


def _lr(m: Any, p: Mapping[str, Value], c: Mapping[str, Value]) -> dict[str, Value]:
    off = _off(m, p, c)
    return {"*": p["h"] * (off * off), "A": -p["alpha"] * m.log(c["N"]), "B": -p["beta"] * m.log(c["D"])}


def _lr_guess(columns: Columns, loss: Array) -> dict[str, float]:
    """Curvature and best learning rate from a full quadratic of log loss in the three logarithms."""
    x = np.stack([np.log(np.asarray(columns[k])) for k in ("learning_rate", "N", "D")])
    mid = x.mean(1, keepdims=True)
    lr, n, d = x - mid
    design = np.stack([np.ones_like(lr), n, d, n * n, n * d, d * d, lr, lr * lr, lr * n, lr * d], 1)
    coefficients = np.linalg.lstsq(design, np.log(loss), rcond=None)[0]
    h = max(float(coefficients[7]), 1e-3)
    at, p, q = (float(-v / (2 * h)) for v in coefficients[[6, 8, 9]])
    k = float(np.exp(np.clip(at + mid[0, 0] - p * mid[1, 0] - q * mid[2, 0], -60, 60)))
    return {"h": h, "k": k, "p": float(np.clip(p, -5, 5)), "q": float(np.clip(q, -5, 5))}


def best_learning_rate(theta: Any, n: Any, d: Any) -> Array:
    """lr*(N, D) of ``lr_loss`` parameters (P,) or (S, P): (n,) or (S, n)."""
    k, p, q = _of(lr_loss, theta, "k", "p", "q")
    out = np.exp(np.log(k) + p * np.log(np.atleast_1d(n)) + q * np.log(np.atleast_1d(d)))
    return out[0] if np.ndim(theta) == 1 else out


def regret(theta: Any, columns: Columns) -> Array:
    """Relative increase of the loss over that at the best learning rate, (n,) or (S, n)."""
    (h,) = _of(lr_loss, theta, "h")
    best = np.atleast_2d(best_learning_rate(theta, columns["N"], columns["D"]))
    out = np.expm1(h * np.log(np.atleast_1d(np.asarray(columns["learning_rate"])) / best) ** 2)
    return out[0] if np.ndim(theta) == 1 else out


def _lr_balance(theta: Array) -> tuple[Array, Array, Array, Array]:
    _, a, b, alpha, beta, *_ = theta.T  # at the best learning rate
    return a, alpha, b, beta


lr_loss = Smooth(
    "lr_loss",
    "L = (E + A N^-alpha + B D^-beta) exp(h log(learning_rate / lr*)^2), lr* = k N^p D^q",
    (
        E,
        amplitude("A", "what too few parameters cost at N = 1"),
        amplitude("B", "what too few tokens cost at D = 1"),
        exponent("alpha", "slope in parameters"),
        exponent("beta", "slope in tokens"),
        Param("h", "log loss per e-fold squared", 0.0, 10.0, "how much a wrong learning rate costs"),
        Param("k", "learning rate", 1e-30, 1e30, "best learning rate at N = D = 1", log=True, kind="scale"),
        slope("p", "slope of the best learning rate in parameters", grid=None),
        slope("q", "slope of the best learning rate in tokens", grid=None),
    ),
    (),
    "Hoffmann's form times a parabola in log learning rate; lr* as in Step Law, Li 2025, arXiv 2503.04715",
    inputs=("N", "D", "learning_rate"),
    logs=_lr,
    amplitudes=("A", "B"),
    guess=_lr_guess,
    balance=_lr_balance,
    tuning=Tuning("chinchilla", "learning_rate", lambda theta, c: best_learning_rate(theta, c["N"], c["D"]), regret),
    example={"E": 1.7, "A": 400.0, "B": 400.0, "alpha": 0.34, "beta": 0.28, "h": 0.02, "k": 2.0, "p": -0.7, "q": 0.3},
)
