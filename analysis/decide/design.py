"""Which runs to train: what intervals a list of cells can hope for, and which cells shrink one most per FLOP.

Everything here is a linear mixed model of log loss around a law: a run's log loss moves by G du for a small move du of
the parameters (u = log parameter), plus its own noise, plus what its stem shares. The information of a list of cells is

    I = sum over stems of  G' V^-1 G,   V = diag(run^2 + drift^2) + stem^2 11'

and the variance of a target t(u) is t' I^-1 t. ``drift`` is the law being wrong: sd per e-fold of compute between a
cell and the target, so that what is cheap and far from the question counts for less. Exact for a law that is linear in
u over the width of its posterior; where it is not, ``simulated`` fits drawn studies instead.

Designs that only maximise information trust the law most where it is least true: ``propose`` keeps the pool's bound on
tokens per parameter and a share of the spend in the top decade of compute. Columns are mappings of (n,) arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from analysis import laws
from analysis.engine.frontier import Cost, optimum_along
from analysis.laws import Law
from scaling.errors import UserError

Array = np.ndarray
STEP = 1e-4  # of log parameters in central differences
WEAK = 10.0  # sd of log parameters before any run: keeps what no run shows finite, and changes nothing else
DRIFT = 0.0055  # sd of log loss per e-fold: .0044 to .0067 on the 240 points of Hoffmann 2022, cut and extrapolated
TOP_SHARE, TOP_DECADE = 0.3, 10.0
POWERS = (0.0, 0.5, 1.0)  # of the price by which a gain is divided; the best of the three lists is taken
MOST_CELLS = 200
# Before any run: the exponents of Besiroglu 2024 (arXiv 2404.10102), and each term a fifth of the floor at the centre
# of the cells, which is where Chinchilla's own centre (1e9 parameters, 2e10 tokens) and this repository's demo lie.
PRIOR = {"alpha": 0.3478, "beta": 0.3658, "share": 0.2}
PRIOR_NOISE = 0.005
PLAN_TARGETS = ("a", "E", "alpha", "beta")


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss: of a run alone, of what runs of one stem share, and per e-fold from a target."""

    run: float
    stem: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True)
class Target:
    """A number whose variance is to shrink: a parameter, a, b, or at a budget log_N_opt, log_D_opt, log_loss."""

    name: str
    budget: float | None = None

    @property
    def text(self) -> str:
        return self.name if self.budget is None else f"{self.name}@{self.budget:g}"

    def values(self, law: Law, theta: Array, cost: Cost | None) -> Array:
        """(S,) of parameters (S, P). NaN where a parameter set has no optimum."""
        if self.budget is not None:
            log_n, log_d = (x[:, 0] for x in optimum_along(law, theta, np.array([self.budget]), cost, sharp=True))
            if self.name == "log_N_opt":
                return log_n
            if self.name == "log_D_opt":
                return log_d
            cells = zip(theta, np.exp(log_n), np.exp(log_d))
            return np.array([math.log(law.predict(t, {"N": [n], "D": [d]})[0]) for t, n, d in cells])
        if self.name in ("a", "b"):
            pair = law.exponents(theta)
            assert pair is not None
            return pair[self.name]
        return theta[:, law.index(self.name)]


def target(text: str, law: Law) -> Target:
    """``a``, ``b``, a parameter's name, or ``log_N_opt@FLOPS``, ``log_D_opt@FLOPS``, ``loss@FLOPS`` (of the optimum).

    Raises:
      UserError: none of these, or a law that has no such number.
    """
    name, sign, budget = text.partition("@")
    known = ("log_N_opt", "log_D_opt", "loss", "log_loss")
    remedy = f"choose {', '.join(law.names)}, a, or {', '.join(k + '@FLOPS' for k in known[:3])}, such as loss@1e21"
    if (name in known) != bool(sign):
        raise UserError("target", text, remedy)
    if sign:
        try:
            flops = float(budget)
        except ValueError:
            flops = math.nan
        if not (math.isfinite(flops) and flops > 0):
            raise UserError("target", text, "the budget after @ must be a positive number of FLOPs")
        if law.no_optimum or not {"N", "D"} <= set(law.columns):
            raise UserError("target", text, f"law {law.name} has no optimal N at a budget; fit chinchilla")
        return Target("log_loss" if name == "loss" else name, flops)
    if name not in ("a", "b", *law.names):
        raise UserError("target", text, remedy)
    if name in ("a", "b") and law.exponents(np.ones((1, len(law.names)))) is None:
        raise UserError("target", text, f"law {law.name} has no exponent of an optimum; choose {', '.join(law.names)}")
    return Target(name)


def prior_law(columns: Mapping[str, Any]) -> tuple[Law, Array]:
    """Chinchilla's form with the stated prior, centred on the cells; its loss is in units of the floor (E = 1)."""
    law = laws.get("chinchilla")
    n, d = (float(np.exp(np.mean(np.log(np.asarray(columns[c], dtype=float))))) for c in ("N", "D"))
    values = {"E": 1.0, "alpha": PRIOR["alpha"], "beta": PRIOR["beta"]}
    values["A"] = PRIOR["share"] * n ** PRIOR["alpha"]
    values["B"] = PRIOR["share"] * d ** PRIOR["beta"]
    return law, law.vector(values)


def _moves(theta: Array) -> tuple[Array, Array]:
    """Parameter sets up and down (P, P) by ``STEP`` in each log parameter; a zero is moved up only, by 0.1 STEP."""
    size = np.where(theta != 0, np.abs(theta), 0.1) * STEP
    return theta + np.diag(size), theta - np.diag(np.where(theta != 0, size, 0.0))


def gradient(law: Law, theta: Array, columns: Mapping[str, Any]) -> Array:
    """d log L / d log parameter, (n, P), by central differences (error about 1e-8)."""
    up, down = _moves(theta)
    width = np.where(theta != 0, 2, 1) * STEP
    return ((np.log(law.predict(up, columns)) - np.log(law.predict(down, columns))) / width[:, None]).T


def target_gradient(law: Law, theta: Array, wanted: Target, cost: Cost | None) -> Array:
    """d target / d log parameter, (P,). UserError where the target is not defined at these parameters."""
    up, down = _moves(theta)
    found = wanted.values(law, np.vstack([up, down]), cost)
    if not np.isfinite(found).all():
        raise UserError("target", wanted.text, "has no interior optimum at the fitted law; train more sizes and tokens")
    return (found[: len(theta)] - found[len(theta) :]) / (np.where(theta != 0, 2, 1) * STEP)


class _Information:
    """Information about log parameters (S, P, P), S parameter sets at once, one stem after another."""

    def __init__(self, sets: int, size: int, stem: float):
        self.total = np.tile(np.eye(size) / WEAK**2, (sets, 1, 1))
        self.stem = stem**2
        self.sums: dict[Any, Array] = {}
        self.weights: dict[Any, float] = {}
        self._zero = np.zeros((sets, size))

    def with_each(self, G: Array, w: Array, stems: Sequence[Any]) -> Array:
        """(S, K, P, P): the information with each of K cells alone added; G (S, K, P), w (K,) of their own noise."""
        b = np.stack([self.sums.get(s, self._zero) for s in stems], 1)
        mass = np.array([self.weights.get(s, 0.0) for s in stems])
        after = b + w[:, None] * G
        outer = w[:, None, None] * G[..., :, None] * G[..., None, :]
        if self.stem > 0:
            old, new = self.stem / (1 + self.stem * mass), self.stem / (1 + self.stem * (mass + w))
            outer = outer + old[:, None, None] * b[..., :, None] * b[..., None, :]
            outer = outer - new[:, None, None] * after[..., :, None] * after[..., None, :]
        return self.total[:, None] + outer

    def add(self, g: Array, w: float, stem: Any) -> None:
        """Adds one cell, g (S, P)."""
        self.total = self.with_each(g[:, None], np.array([w]), [stem])[:, 0]
        self.sums[stem] = self.sums.get(stem, self._zero) + w * g
        self.weights[stem] = self.weights.get(stem, 0.0) + w


def _variance(information: Array, t: Array) -> Array:
    """t' I^-1 t over leading axes; I (..., P, P), t (..., P). Scaled first: its parameters differ by 1e3."""
    scale = np.sqrt(np.maximum(np.diagonal(information, axis1=-2, axis2=-1), 1e-300))
    scaled = information / (scale[..., :, None] * scale[..., None, :])
    x = t / scale
    return np.maximum((x * np.linalg.solve(scaled, x[..., None])[..., 0]).sum(-1), 0.0)


def _stems(columns: Mapping[str, Any], count: int) -> list[Any]:
    found = columns.get("stem")
    return [f"run {i}" for i in range(count)] if found is None else list(found)


def _quantile(level: float, df: int) -> float:
    return float(special.stdtrit(max(df, 1), 0.5 + level / 2))


def expected(
    law: Law,
    theta: Array,
    columns: Mapping[str, Any],
    wanted: Sequence[Target],
    noise: Noise,
    *,
    level: float = 0.95,
    cost: Cost | None = None,
) -> dict[str, float | None]:
    """Half-widths of ``level`` intervals that runs at ``columns`` (N, D and perhaps stem) give, by linearisation.

    In the target's own unit (E in that of the law, log_... in natural logs); t quantiles with rows - parameters degrees
    of freedom. None where the runs are too few to fit the law at all.
    """
    theta = np.asarray(theta, dtype=float)
    n, free = len(np.atleast_1d(columns["N"])), len(theta)
    if n <= free:
        return {t.text: None for t in wanted}
    G = gradient(law, theta, columns)
    info = _Information(1, free, noise.stem)
    for g, stem in zip(G, _stems(columns, n)):
        info.add(g[None], 1 / noise.run**2, stem)
    quantile = _quantile(level, n - free)
    gradients = {t.text: target_gradient(law, theta, t, cost) for t in wanted}
    return {k: quantile * math.sqrt(float(_variance(info.total[0], g))) for k, g in gradients.items()}


def simulated(
    law: Law,
    theta: Array,
    columns: Mapping[str, Any],
    wanted: Sequence[Target],
    noise: Noise,
    *,
    studies: int,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """The same by simulation: studies are drawn and fitted. {target: {"half_width" (median), "rmse", "cover"}}.

    Uses the default fit; about 0.25 s a study. ``noise.drift`` is left out: the law is true here.
    """
    import pandas as pd

    from analysis.fitting import fit
    from analysis.table.runs import Runs

    theta, rng = np.asarray(theta, dtype=float), np.random.default_rng(seed)
    frame = pd.DataFrame({"N": np.asarray(columns["N"], float), "D": np.asarray(columns["D"], float)})
    frame = frame.assign(run=[f"r{i}" for i in range(len(frame))], C=6 * frame["N"] * frame["D"])
    frame["stem"] = [str(s) for s in _stems(columns, len(frame))]
    codes, names = pd.factorize(frame["stem"])
    clean = np.log(law.predict(theta, frame))
    ends = np.empty((studies, len(wanted), 3))
    tail = [(1 - level) / 2, (1 + level) / 2]
    for k in range(studies):
        error = noise.run * rng.standard_normal(len(frame)) + noise.stem * rng.standard_normal(len(names))[codes]
        table = frame.assign(loss=np.exp(clean + error))
        fitted = fit(Runs(table, [], {}, "simulated", None, sha256="-"), law, level=level, seed=k)
        for j, t in enumerate(wanted):
            draws = t.values(law, fitted.draws, None)
            lo, hi = np.quantile(np.where(np.isnan(draws), np.inf, draws), tail, method="nearest")
            ends[k, j] = t.values(law, fitted.theta[None], None)[0], lo, hi
    out = {}
    for j, t in enumerate(wanted):
        truth = float(t.values(law, theta[None], None)[0])
        value, lo, hi = ends[:, j].T
        with np.errstate(invalid="ignore"):
            out[t.text] = {
                "half_width": float(np.median((hi - lo) / 2)),
                "rmse": float(np.sqrt(np.nanmean((value - truth) ** 2))),
                "cover": float(((lo <= truth) & (truth <= hi)).mean()),
            }
    return out


def hope(
    columns: Mapping[str, Any], *, level: float = 0.95, noise: float = PRIOR_NOISE, studies: int = 0
) -> dict[str, Any]:
    """What a plan can hope for before its first run: half-widths of a, E (relative), alpha, beta under the prior. JSON.

    ``sentence`` says it in words; ``prior`` states what was assumed: ``noise`` is the sd of log loss between runs, half
    of its variance a stem's. ``studies`` asks for a simulation besides. UserError for a noise that is none, or
    a number of studies below 0.
    """
    law, theta = prior_law(columns)
    if not 0 < noise < 1:
        raise UserError("noise", noise, "give the sd of log loss between runs, such as 0.005")
    if studies < 0:
        raise UserError("simulate", studies, "give how many studies to draw and fit, or 0")
    each = Noise(noise * math.sqrt(0.5), noise * math.sqrt(0.5))
    wanted = [target(name, law) for name in PLAN_TARGETS]
    found = expected(law, theta, columns, wanted, each, level=level)
    a = found["a"]
    prior = (
        f"prior: chinchilla with alpha {PRIOR['alpha']:g}, beta {PRIOR['beta']:g}, each term {PRIOR['share']:.0%} of "
        f"the floor at the centre of the cells; noise {noise:.2%} a run, half of its variance shared "
        "by a stem"
    )
    if a is None:
        sentence = "too few runs to fit the law at all"
    else:
        sentence = (
            f"a ±{a:.2g}, E ±{found['E']:.2g} of itself, alpha ±{found['alpha']:.2g}, beta ±{found['beta']:.2g}"
            f"; it cannot tell a = 0.50 from {0.5 + a:.2f}" + (" or more: a is not identified" if a > 0.15 else "")
        )
    out = {"half_widths": found, "level": level, "prior": prior, "sentence": sentence}
    if studies > 0 and a is not None:
        out["simulated"] = simulated(law, theta, columns, wanted, each, studies=studies, level=level)
    return out


# --- which cells next


@dataclass(frozen=True)
class Pool:
    """Cells that may be trained, (K,) each: ``per_token`` FLOPs of training, ``stem`` whom a branch leaves.

    ``decay`` is the share of a run that its own decay takes (None: every cell is a whole run); ``trained`` the tokens
    that each existing stem has; ``overhead`` the FLOPs that opening a stem costs besides (compilation), by stem.
    """

    N: Array
    D: Array
    per_token: Array
    stem: list[Any]
    decay: float | None = None
    trained: Mapping[Any, float] = field(default_factory=dict)
    overhead: Mapping[Any, float] = field(default_factory=dict)

    @property
    def C(self) -> Array:
        return self.per_token * self.D

    def prices(self, trained: Mapping[Any, float]) -> Array:
        """FLOPs that each cell costs where stems reach ``trained`` tokens: its own decay, and what the stem lacks."""
        new = np.array([0.0 if s in trained else self.overhead.get(s, 0.0) for s in self.stem])
        if self.decay is None:
            return self.C + new
        reached = np.array([trained.get(s, 0.0) for s in self.stem])
        return self.per_token * (self.decay * self.D + np.maximum((1 - self.decay) * self.D - reached, 0.0)) + new


def propose(
    law: Law,
    thetas: Array,
    done: Mapping[str, Any],
    pool: Pool,
    wanted: Target,
    *,
    budget: float,
    noise: Noise,
    level: float = 0.95,
    cost: Cost | None = None,
    share: float = TOP_SHARE,
) -> dict[str, Any]:
    """The cells of ``pool`` that shrink the variance of ``wanted`` most for ``budget`` FLOPs, in order.

    Greedy on the mean log variance over the parameter sets ``thetas`` (S, P) (the estimate first: a design must serve
    what the fit does not rule out), by gain over price^p for several p; the list that ends lowest is taken. At least
    ``share`` of the budget is kept for cells within a decade of the largest compute that it can reach.

    Returns:
      {"chosen": indices, "prices", "half_width": {"before", "after"}, "after_each", "spent", "top_share", "top_from"}

    Raises:
      UserError: a budget that buys no cell of the pool, or a target that the law does not define.
    """
    thetas = np.atleast_2d(np.asarray(thetas, dtype=float))
    reference = wanted.budget or max(float(np.max(pool.C)), float(np.max(done["C"])))

    def weights(c: Any) -> Array:
        return 1 / (noise.run**2 + (noise.drift * np.log(reference / np.asarray(c, dtype=float))) ** 2)

    gradients = [target_gradient(law, thetas[0], wanted, cost)]
    kept = [thetas[0]]
    for other in thetas[1:]:
        try:
            gradients.append(target_gradient(law, other, wanted, cost))
        except UserError:
            continue  # this draw has no optimum: it says nothing about where to look for one
        kept.append(other)
    t = np.stack(gradients)
    G_done = np.stack([gradient(law, theta, done) for theta in kept])
    G = np.stack([gradient(law, theta, {"N": pool.N, "D": pool.D}) for theta in kept])
    start = _Information(len(kept), thetas.shape[1], noise.stem)
    n = G_done.shape[1]
    for i, (w, stem) in enumerate(zip(weights(done["C"]), _stems(done, n))):
        start.add(G_done[:, i], float(w), stem)
    first = pool.prices(pool.trained)
    if not (first <= budget).any():
        raise UserError("budget", f"{budget:g}", f"buys no cell: the cheapest costs {first.min():.3g} FLOPs")
    reach = first <= max(share, 0.5) * budget
    top_from = float(pool.C[reach if reach.any() else first <= budget].max()) / TOP_DECADE
    rules = (top_from <= pool.C, share)
    tries = [_greedy(start, G, t, weights(pool.C), pool, budget, p, *rules) for p in POWERS]
    chosen, prices, path = min(tries, key=lambda found: found[2][-1])
    df = n - thetas.shape[1]
    after = [math.sqrt(math.exp(v)) for v in path]
    spent = float(sum(prices))
    top = float(sum(p for j, p in zip(chosen, prices) if pool.C[j] >= top_from))
    widths = [_quantile(level, df + k) * sd for k, sd in enumerate(after)]
    return {
        "chosen": chosen,
        "prices": [float(p) for p in prices],
        "half_width": {"before": widths[0], "after": widths[-1]},
        "after_each": widths[1:],
        "spent": spent,
        "top_share": top / spent if spent else 0.0,
        "top_from": top_from,
        "parameter_sets": len(kept),
    }


def _greedy(
    start: _Information, G: Array, t: Array, w: Array, pool: Pool, budget: float, power: float, top: Array, share: float
) -> tuple[list[int], list[float], list[float]]:
    """Chosen cells, their prices, and the mean log variance before and after each."""
    info = _Information(len(t), t.shape[1], 0.0)
    info.__dict__.update(start.__dict__)
    info.sums, info.weights = dict(start.sums), dict(start.weights)
    trained = dict(pool.trained)
    left, low, chosen, paid = budget, 0.0, [], []
    path = [float(np.log(_variance(info.total, t)).mean())]
    open_ = np.ones(len(w), dtype=bool)
    while len(chosen) < MOST_CELLS:
        price = pool.prices(trained)
        can = open_ & (price <= left * (1 + 1e-12)) & (top | (low + price <= (1 - share) * budget))
        if not can.any():
            break
        which = np.flatnonzero(can)
        each = info.with_each(G[:, which], w[which], [pool.stem[j] for j in which])
        gain = path[-1] - np.log(_variance(each, t[:, None])).mean(0)
        if gain.max() < 1e-6:
            break
        best = int(np.argmax(gain / price[which] ** power))
        j = int(which[best])
        info.add(G[:, j], float(w[j]), pool.stem[j])
        path.append(path[-1] - float(gain[best]))
        chosen.append(j)
        paid.append(float(price[j]))
        left -= paid[-1]
        low += 0.0 if top[j] else paid[-1]
        open_[j] = False
        if pool.decay is not None:
            trained[pool.stem[j]] = max(trained.get(pool.stem[j], 0.0), (1 - pool.decay) * float(pool.D[j]))
        else:
            trained.setdefault(pool.stem[j], 0.0)
    return chosen, paid, path
