"""Experimental design: the interval widths that a list of cells can give, and the cells that shrink one most per FLOP.

Everything here is a linear mixed model of log loss around a law: a small change du of the parameters (u = log
parameter) changes a run's log loss by G du; its own noise and its stem's are added. The information of a list of cells
is

    I = sum over stems of  G' V^-1 G,   V = diag(run^2 + drift^2) + stem^2 11'

and the variance of a target t(u) is t' I^-1 t. ``drift`` models the error of the law as an sd per e-fold of compute
between a cell and the target, so that cheap cells far from the target count for less. This is exact for a law that is
linear in u over the width of its posterior; otherwise use ``simulated_precision``, which fits simulated studies.

Designs that only maximise information trust the law most where it is least true, so ``propose`` bounds tokens per
parameter and keeps a share of the spend in the top decade of compute. Columns are mappings of (n,) arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from analysis import laws
from analysis.card import Conventions, Value
from analysis.engine.frontier import Cost, optimum_along
from analysis.laws import Law
from scaling.errors import Code, UserError

Array = np.ndarray
Columns = Mapping[str, Any]
STEP = 1e-4  # step of log parameters in central differences
PRIOR_SD = 10.0  # prior sd of log parameters: keeps directions without information finite, and changes nothing else
DRIFT = 0.0055  # sd of log loss per e-fold: .0044 to .0067 on the 240 points of Hoffmann 2022, cut and extrapolated
TOP_SHARE, TOP_DECADE = 0.3, 10.0
PRICE_POWERS = (0.0, 0.5, 1.0)  # powers of the price by which a gain is divided; the best of the three lists is taken
MAX_CELLS = 200
MIN_GAIN = 1e-6  # smallest reduction of the mean log variance for which a cell is added
# The prior before any run: the exponents of N and D of Besiroglu 2024 (arXiv 2404.10102), with each term a fifth of the
# floor at the centre of the cells, as at Chinchilla's own centre (1e9 parameters, 2e10 tokens) and in this demo.
PRIOR_EXPONENTS = {"N": 0.3478, "D": 0.3658}
PRIOR_SHARE = 0.2
PRIOR_NOISE = 0.005
MAX_HALF_WIDTH = 0.15  # half-width of a above which a plan does not identify it


class Noise(Value):
    """Standard deviations of log loss: of a run, of the effect that runs of one stem share, and per e-fold of compute
    from the target (drift)."""

    run: float
    stem: float = 0.0
    drift: float = 0.0


@dataclass(frozen=True)
class Target:
    """The number whose variance a design reduces: a parameter, a, b, or log_N_opt, log_D_opt, log_loss at a budget."""

    name: str
    budget: float | None = None

    @property
    def text(self) -> str:
        """The target in the notation of ``parse_target``."""
        return self.name if self.budget is None else f"{self.name}@{self.budget:g}"

    def values(self, law: Law, theta: Array, cost: Cost | None) -> Array:
        """Values (S,) of the target at parameters (S, P); NaN where a parameter set has no optimum."""
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


def parse_target(text: str, law: Law) -> Target:
    """Parses ``a``, ``b``, a parameter's name, or ``log_N_opt``, ``log_D_opt`` or ``loss`` of the optimum ``@FLOPS``.

    Raises:
      UserError: UNKNOWN: none of these; UNSUPPORTED: not defined for this law; INVALID: an invalid budget.
    """
    name, sign, budget = text.partition("@")
    at_budget = ("log_N_opt", "log_D_opt", "loss", "log_loss")
    offers = ", ".join(k + "@FLOPS" for k in at_budget[:3])
    remedy = f"choose {', '.join(law.names)}, a, or {offers}, such as loss@1e21"
    if (name in at_budget) != bool(sign):
        raise UserError("target", text, remedy, Code.UNKNOWN)
    if sign:
        try:
            flops = float(budget)
        except ValueError:
            flops = math.nan
        if not (math.isfinite(flops) and flops > 0):
            raise UserError("target", text, "the budget after @ must be a positive number of FLOPs")
        if law.no_optimum or not {"N", "D"} <= set(law.columns):
            problem = f"law {law.name} has no optimal N at a budget; fit {laws.default().name}"
            raise UserError("target", text, problem, Code.UNSUPPORTED)
        return Target("log_loss" if name == "loss" else name, flops)
    if name not in ("a", "b", *law.names):
        raise UserError("target", text, remedy, Code.UNKNOWN)
    if name in ("a", "b") and law.exponents(np.ones((1, len(law.names)))) is None:
        problem = f"law {law.name} has no exponent of an optimum; choose {', '.join(law.names)}"
        raise UserError("target", text, problem, Code.UNSUPPORTED)
    return Target(name)


def plan_targets() -> tuple[str, ...]:
    """The targets by which a plan is judged: a, and the floor and exponents of the default law."""
    law = laws.default()
    return ("a", *((law.floor,) if law.floor else ()), *law.exponent_names)


def prior_law(columns: Columns) -> tuple[Law, Array]:
    """The default law and its prior parameters (P,), centred on the cells; its loss is in units of the floor."""
    law, values = laws.default(), {}
    for term in law.terms:
        ((column, exponent),) = term.exponents
        centre = float(np.exp(np.mean(np.log(np.asarray(columns[column], dtype=float)))))
        values[exponent] = PRIOR_EXPONENTS[column]
        values[term.amplitude] = PRIOR_SHARE * centre ** PRIOR_EXPONENTS[column]
    values[law.floor] = 1.0
    return law, law.vector(values)


def _moves(theta: Array) -> tuple[Array, Array]:
    """Parameter sets (P, P) moved up and down by ``STEP`` in each log parameter; zeros only up, by 0.1 STEP."""
    size = np.where(theta != 0, np.abs(theta), 0.1) * STEP
    return theta + np.diag(size), theta - np.diag(np.where(theta != 0, size, 0.0))


def gradient(law: Law, theta: Array, columns: Columns) -> Array:
    """d log L / d log parameter, (n, P), by central differences (error about 1e-8)."""
    up, down = _moves(theta)
    width = np.where(theta != 0, 2, 1) * STEP
    return ((np.log(law.predict(up, columns)) - np.log(law.predict(down, columns))) / width[:, None]).T


def target_gradient(law: Law, theta: Array, target: Target, cost: Cost | None) -> Array:
    """d target / d log parameter, (P,). UserError where the target is not defined at these parameters."""
    up, down = _moves(theta)
    values = target.values(law, np.vstack([up, down]), cost)
    if not np.isfinite(values).all():
        problem = "has no interior optimum at the fitted law; train more sizes and tokens"
        raise UserError("target", target.text, problem, Code.NOT_IDENTIFIED)
    return (values[: len(theta)] - values[len(theta) :]) / (np.where(theta != 0, 2, 1) * STEP)


class _Information:
    """Information about log parameters (S, P, P), S parameter sets at once, one stem after another."""

    def __init__(self, sets: int, size: int, stem: float):
        self.total = np.tile(np.eye(size) / PRIOR_SD**2, (sets, 1, 1))
        self.stem = stem**2
        self.sums: dict[Any, Array] = {}
        self.weights: dict[Any, float] = {}
        self._zero = np.zeros((sets, size))

    def copy(self) -> _Information:
        """A copy with the same cells."""
        other = _Information(*self._zero.shape, 0.0)
        other.stem, other.total = self.stem, self.total
        other.sums, other.weights = dict(self.sums), dict(self.weights)
        return other

    def with_each(self, G: Array, w: Array, stems: Sequence[Any]) -> Array:
        """Information (S, K, P, P) with each of K cells added alone; gradients G (S, K, P), precisions w (K,)."""
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
    """t' I^-1 t over leading axes; I (..., P, P), t (..., P). Scaled first, as parameters differ by factors of 1e3."""
    scale = np.sqrt(np.maximum(np.diagonal(information, axis1=-2, axis2=-1), 1e-300))
    scaled = information / (scale[..., :, None] * scale[..., None, :])
    x = t / scale
    return np.maximum((x * np.linalg.solve(scaled, x[..., None])[..., 0]).sum(-1), 0.0)


def _stems(columns: Columns, count: int) -> list[Any]:
    stems = columns.get("stem")
    return [f"run {i}" for i in range(count)] if stems is None else list(stems)


def _quantile(level: float, df: int) -> float:
    return float(special.stdtrit(max(df, 1), 0.5 + level / 2))


def linearised_precision(
    law: Law,
    theta: Array,
    columns: Columns,
    targets: Sequence[Target],
    noise: Noise,
    *,
    level: float = 0.95,
    cost: Cost | None = None,
) -> dict[str, float | None]:
    """Expected half-widths of ``level`` intervals, by target, from runs at ``columns`` (N, D and perhaps stem).

    By linearisation, in the target's own unit (E in that of the law, log_... in natural logs), with t quantiles for
    rows - parameters degrees of freedom. None where the runs are too few to fit the law.
    """
    theta = np.asarray(theta, dtype=float)
    n, free = len(np.atleast_1d(columns["N"])), len(theta)
    if n <= free:
        return {t.text: None for t in targets}
    G = gradient(law, theta, columns)
    info = _Information(1, free, noise.stem)
    for g, stem in zip(G, _stems(columns, n)):
        info.add(g[None], 1 / noise.run**2, stem)
    quantile = _quantile(level, n - free)
    gradients = {t.text: target_gradient(law, theta, t, cost) for t in targets}
    return {k: quantile * math.sqrt(float(_variance(info.total[0], g))) for k, g in gradients.items()}


class SimulatedPrecision(Value):
    """Over simulated studies: the median half-width of the intervals, the RMSE of the estimate, and the coverage."""

    half_width: float
    rmse: float
    cover: float


def simulated_precision(
    law: Law,
    theta: Array,
    columns: Columns,
    targets: Sequence[Target],
    noise: Noise,
    *,
    studies: int,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, SimulatedPrecision]:
    """Expected precision by target, by simulating studies and fitting them.

    Uses the default fit, about 0.25 s a study. ``noise.drift`` is ignored: the law is true here.
    """
    import pandas as pd

    from analysis.fitting import fit
    from analysis.table.frame import Runs

    theta, rng = np.asarray(theta, dtype=float), np.random.default_rng(seed)
    frame = pd.DataFrame({"N": np.asarray(columns["N"], float), "D": np.asarray(columns["D"], float)})
    frame = frame.assign(run=[f"r{i}" for i in range(len(frame))], C=6 * frame["N"] * frame["D"])
    frame["stem"] = [str(s) for s in _stems(columns, len(frame))]
    codes, names = pd.factorize(frame["stem"])
    clean = np.log(law.predict(theta, frame))
    ends = np.empty((studies, len(targets), 3))
    tail = [(1 - level) / 2, (1 + level) / 2]
    for k in range(studies):
        error = noise.run * rng.standard_normal(len(frame)) + noise.stem * rng.standard_normal(len(names))[codes]
        table = frame.assign(loss=np.exp(clean + error))
        runs = Runs(table, (), Conventions(origin="table"), "simulated", None, "-")
        fitted = fit(runs, law, level=level, seed=k)
        for j, t in enumerate(targets):
            draws = t.values(law, fitted.draws, None)
            lo, hi = np.quantile(np.where(np.isnan(draws), np.inf, draws), tail, method="nearest")
            ends[k, j] = t.values(law, fitted.theta[None], None)[0], lo, hi
    out = {}
    for j, t in enumerate(targets):
        truth = float(t.values(law, theta[None], None)[0])
        value, lo, hi = ends[:, j].T
        with np.errstate(invalid="ignore"):
            out[t.text] = SimulatedPrecision(
                half_width=float(np.median((hi - lo) / 2)),
                rmse=float(np.sqrt(np.nanmean((value - truth) ** 2))),
                cover=float(((lo <= truth) & (truth <= hi)).mean()),
            )
    return out


class Prior(Value):
    """The assumptions about a plan: a law with exponents by column, each term a ``share`` of the floor at the centre of
    the cells, and the sd of log loss between runs, half of its variance shared by a stem."""

    law: str
    exponents: dict[str, float]
    share: float
    noise: float


class ExpectedPrecision(Value):
    """The precision to expect from a plan before its first run.

    Attributes:
      half_widths: of a, the floor (relative to itself) and the exponents; None where the runs are too few to fit.
      level: confidence of the intervals.
      simulated: the same from simulated studies, where requested.
    """

    half_widths: dict[str, float | None]
    level: float
    prior: Prior
    simulated: dict[str, SimulatedPrecision] | None = None

    @property
    def too_few(self) -> bool:
        """Whether there are too few runs to fit the law."""
        return self.half_widths["a"] is None

    @property
    def identifies_a(self) -> bool:
        """Whether the interval of a is expected to be informative."""
        a = self.half_widths["a"]
        return a is not None and a <= MAX_HALF_WIDTH


def expected_precision(
    columns: Columns, *, level: float = 0.95, noise: float = PRIOR_NOISE, studies: int = 0
) -> ExpectedPrecision:
    """The precision to expect from a plan: half-widths of ``plan_targets`` under the prior.

    Args:
      columns: N, D and perhaps stem of the planned runs, (n,) each.
      level: confidence of the intervals.
      noise: sd of log loss between runs, half of its variance shared by a stem.
      studies: number of studies to simulate as well.

    Raises:
      UserError: an invalid noise, or a negative number of studies.
    """
    law, theta = prior_law(columns)
    if not 0 < noise < 1:
        raise UserError("noise", noise, "give the sd of log loss between runs, such as 0.005")
    if studies < 0:
        raise UserError("simulate", studies, "give how many studies to draw and fit, or 0")
    assumed = Noise(run=noise * math.sqrt(0.5), stem=noise * math.sqrt(0.5))
    targets = [parse_target(name, law) for name in plan_targets()]
    widths = linearised_precision(law, theta, columns, targets, assumed, level=level)
    drawn = None
    if studies > 0 and widths["a"] is not None:
        drawn = simulated_precision(law, theta, columns, targets, assumed, studies=studies, level=level)
    prior = Prior(law=law.name, exponents=dict(PRIOR_EXPONENTS), share=PRIOR_SHARE, noise=noise)
    return ExpectedPrecision(half_widths=widths, level=level, prior=prior, simulated=drawn)


# --- which cells next


@dataclass(frozen=True)
class Pool:
    """Cells that may be trained, (K,) each.

    Attributes:
      per_token: training FLOPs per token.
      stem: the stem that the cell branches from.
      decay: share of a run that is its own decay; None where every cell is a whole run.
      trained: tokens of each existing stem.
      overhead: further FLOPs for opening a stem (compilation), by stem.
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
        """FLOPs (K,) of whole runs."""
        return self.per_token * self.D

    def prices(self, trained: Mapping[Any, float]) -> Array:
        """FLOPs of each cell where stems have ``trained`` tokens: its own decay, and the missing part of its stem."""
        new = np.array([0.0 if s in trained else self.overhead.get(s, 0.0) for s in self.stem])
        if self.decay is None:
            return self.C + new
        reached = np.array([trained.get(s, 0.0) for s in self.stem])
        return self.per_token * (self.decay * self.D + np.maximum((1 - self.decay) * self.D - reached, 0.0)) + new


@dataclass(frozen=True)
class Request:
    """What to design for: the target, the budget in FLOPs, the confidence of the half-widths, and the share of the
    budget that is kept for the top decade of compute."""

    target: Target
    budget: float
    level: float = 0.95
    share: float = TOP_SHARE


class Selection(Value):
    """Cells of a pool in the order in which to train them.

    Attributes:
      chosen: indices into the pool.
      prices: FLOPs of each cell.
      spent: their sum.
      before: half-width of the target now.
      after_each: expected half-width after each cell.
      top_share: share of the spend in the top decade of compute, which starts at ``top_from`` FLOPs.
      parameter_sets: number of the fit's parameter sets over which half-widths are averaged.
    """

    chosen: tuple[int, ...]
    prices: tuple[float, ...]
    before: float
    after_each: tuple[float, ...]
    spent: float
    top_share: float
    top_from: float
    parameter_sets: int

    @property
    def after(self) -> float:
        """Expected half-width after all chosen cells."""
        return self.after_each[-1] if self.after_each else self.before


def propose(
    law: Law,
    thetas: Array,
    done: Columns,
    pool: Pool,
    request: Request,
    *,
    noise: Noise,
    cost: Cost | None = None,
) -> Selection:
    """The cells of ``pool`` that reduce the variance of a target most for a budget of FLOPs, in order.

    A greedy search on the mean log variance over parameter sets, by gain over price^p for several p; the list with the
    lowest final variance is returned. At least ``request.share`` of the budget is kept for cells within a decade of the
    largest compute that it can reach.

    Args:
      thetas: (S, P), the estimate first, then draws, so that the design serves all laws that the fit allows.
      done: N, D, C and perhaps stem of the trained runs.

    Raises:
      UserError: a budget that buys no cell of the pool, or a target that the law does not define.
    """
    thetas = np.atleast_2d(np.asarray(thetas, dtype=float))
    budget, target = request.budget, request.target
    reference = target.budget or max(float(np.max(pool.C)), float(np.max(done["C"])))
    kept, t = _defined(law, thetas, target, cost)
    G_done = np.stack([gradient(law, theta, done) for theta in kept])
    G = np.stack([gradient(law, theta, {"N": pool.N, "D": pool.D}) for theta in kept])
    start = _Information(len(kept), thetas.shape[1], noise.stem)
    n = G_done.shape[1]
    for i, (w, stem) in enumerate(zip(_weights(noise, reference, done["C"]), _stems(done, n))):
        start.add(G_done[:, i], float(w), stem)
    first = pool.prices(pool.trained)
    if not (first <= budget).any():
        raise UserError("budget", f"{budget:g}", f"buys no cell: the cheapest costs {first.min():.3g} FLOPs")
    reach = first <= max(request.share, 0.5) * budget
    top_from = float(pool.C[reach if reach.any() else first <= budget].max()) / TOP_DECADE
    search = _Search(pool, G, t, _weights(noise, reference, pool.C), top_from <= pool.C)
    lists = [search.run(start, request, power) for power in PRICE_POWERS]
    chosen, prices, path = min(lists, key=lambda one: one[2][-1])
    df = n - thetas.shape[1]
    widths = [_quantile(request.level, df + k) * math.sqrt(math.exp(v)) for k, v in enumerate(path)]
    spent = float(sum(prices))
    top = float(sum(p for j, p in zip(chosen, prices) if pool.C[j] >= top_from))
    return Selection(
        chosen=tuple(chosen),
        prices=tuple(prices),
        before=widths[0],
        after_each=tuple(widths[1:]),
        spent=spent,
        top_share=top / spent if spent else 0.0,
        top_from=top_from,
        parameter_sets=len(kept),
    )


def _weights(noise: Noise, reference: float, flops: Any) -> Array:
    """Precisions of cells, from their own noise and the law's drift between them and the ``reference`` compute."""
    return 1 / (noise.run**2 + (noise.drift * np.log(reference / np.asarray(flops, dtype=float))) ** 2)


def _defined(law: Law, thetas: Array, target: Target, cost: Cost | None) -> tuple[list[Array], Array]:
    """Parameter sets for which the target is defined, as it must be for the first, and its gradients (S, P)."""
    gradients = [target_gradient(law, thetas[0], target, cost)]
    kept = [thetas[0]]
    for other in thetas[1:]:
        try:
            gradients.append(target_gradient(law, other, target, cost))
        except UserError:
            continue  # this draw has no optimum and cannot guide the design
        kept.append(other)
    return kept, np.stack(gradients)


@dataclass(frozen=True)
class _Search:
    """A greedy search of a pool: gradients of the cells (S, K, P) and of the target (S, P), precisions (K,), and a mask
    of the cells in the top decade (K,)."""

    pool: Pool
    G: Array
    t: Array
    w: Array
    top: Array

    def run(self, start: _Information, request: Request, power: float) -> tuple[list[int], list[float], list[float]]:
        """Chosen cells by gain over price^``power``, their prices, and the mean log variance before and after each."""
        info, trained, pool = start.copy(), dict(self.pool.trained), self.pool
        left, low = request.budget, 0.0
        chosen: list[int] = []
        paid: list[float] = []
        path = [float(np.log(_variance(info.total, self.t)).mean())]
        untaken = np.ones(len(self.w), dtype=bool)
        while len(chosen) < MAX_CELLS:
            price = pool.prices(trained)
            below = low + price <= (1 - request.share) * request.budget
            can = untaken & (price <= left * (1 + 1e-12)) & (self.top | below)
            if not can.any():
                break
            which = np.flatnonzero(can)
            with_each = info.with_each(self.G[:, which], self.w[which], [pool.stem[j] for j in which])
            gain = path[-1] - np.log(_variance(with_each, self.t[:, None])).mean(0)
            if gain.max() < MIN_GAIN:
                break
            best = int(np.argmax(gain / price[which] ** power))
            j = int(which[best])
            info.add(self.G[:, j], float(self.w[j]), pool.stem[j])
            path.append(path[-1] - float(gain[best]))
            chosen.append(j)
            paid.append(float(price[j]))
            left -= paid[-1]
            low += 0.0 if self.top[j] else paid[-1]
            untaken[j] = False
            if pool.decay is not None:
                trained[pool.stem[j]] = max(trained.get(pool.stem[j], 0.0), (1 - pool.decay) * float(pool.D[j]))
            else:
                trained.setdefault(pool.stem[j], 0.0)
        return chosen, paid, path
