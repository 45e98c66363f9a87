"""How sure a fit is. One inference object serves intervals, draws and the noise of a new run.

**Pseudo-values.** A robust fit is carried on as a least-squares one of y* = fitted + psi(r) / mean(psi') (Bickel 1976):
the same estimate, the same first-order covariance; where nothing is an outlier y* = y.

**Likelihood-t draws** (scheme ``likelihood-t``, up to 100 rows). Draws from

    |V|^-1/2 (r' V^-1 r)^(-n/2) |G'G|^1/2,   V = I + rho Z Z',   r = y* - f(z),   G = df/dz,

the likelihood with the noise variance integrated out (hence t, not normal, tails) and the uniform measure on the
surface of fitted values (Jeffreys' weight |G'G|^1/2: no choice of coordinates matters, and a flat valley gets no
weight for being long). rho is the variance of a stem (or size) effect over that of a run; sqrt(rho) has a half-Cauchy
weight of scale 1 (Gelman 2006: the choice for few groups), so that the few degrees of freedom between stems widen the
intervals by themselves, without a formula, and cost little where stems make no difference. With rho the power is
(n - 1) / 2: the ratio takes a degree of freedom, which a flat weight of the noise gives back in place of 1 / sigma.
Sampled by an ensemble of walkers (Goodman and Weare 2010 stretch moves and ter Braak 2006 differences) in coordinates
in which flat valleys are straight (``reparametrise.py``). Coverage: benchmarks/coverage.json.

**profile-t** on request: intervals of exponents, floor and a by profiling the same sum of squares, draws as above.
**delta-t** (more than 100 rows): t draws around the estimate from the sandwich covariance, or from the GLS covariance
when rows share stems; above 50,000 rows on many stems from the sandwich over stems.
**bootstrap**: by cluster where clusters are more than 20; ``bootstrap-runs`` ignores clusters.
**jackknife-t** (learning curves, whose errors drift along a run): t draws with the covariance between the refits that
leave out one run each (MacKinnon, Nielsen and Webb 2023, CV3, doi 10.1002/jae.2969), runs - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from analysis.card import Scheme
from analysis.engine.estimate import Estimate, minimise, refit
from analysis.engine.groups import Groups, groups_of
from analysis.engine.random_effects import ROOT, ROOTS, gls, ratio_scores, reml
from analysis.engine.reparametrise import Straight
from analysis.engine.surface import Surface
from analysis.laws import Law
from scaling.errors import UserError

Array = np.ndarray
SAMPLED_ROWS = 100
MANY_CLUSTERS = 20
HUGE = 50_000  # rows above which no row is resampled
SCHEMES = ("auto", "likelihood-t", "profile-t", "delta-t", "bootstrap", "bootstrap-runs", "jackknife-t")
RESAMPLING = ("bootstrap", "bootstrap-runs")
BY_GROUP = ("bootstrap-runs", "jackknife-t")  # worth comparing only where rows share stems or sizes
MAX_RMS_RATIO = 5.0  # reject draws whose residual RMS exceeds 5x that of the fit without stem effects


@dataclass
class Inference:
    """Draws of one fit. ``z`` (S, P) coordinates; ``sigma`` (S,) of a run and ``sigma_stem`` (S,), both of log loss."""

    surface: Surface
    z_hat: Array
    z: Array
    sigma: Array
    sigma_stem: Array
    scheme: str
    df: float
    why: Literal["asked", "few_rows", "many_rows", "many_clusters", "curves", "huge"]
    groups: Groups | None
    rho: float
    sigma_hat: float
    pseudo: Array
    gram: Array
    free: Array
    profiled: dict[str, tuple[float, float]] = field(default_factory=dict)
    left_out: Array | None = None  # (groups, P): the refits without each group, of the jackknife
    capped: float | None = None  # sd of the stem effects that were capped, as they let the draws leave the runs
    converged: float | None = None  # share of the refits of a bootstrap
    random_effect: bool = False

    def described(self, asked: str, level: float) -> Scheme:
        """What a card says of it, where ``asked`` was the scheme asked for."""
        return Scheme(
            level=level,
            name=self.scheme,
            asked=asked,
            df=self.df,
            runs=self.surface.n,
            why=self.why,
            grouped=None if self.groups is None else self.groups.kind,
            groups=None if self.groups is None else len(self.groups.names),
            random_effect=self.random_effect,
            draws=len(self.z),
            converged=self.converged,
        )

    @property
    def theta_hat(self) -> Array:
        return self.surface.to_theta(self.z_hat)[0]

    @property
    def theta(self) -> Array:
        return self.surface.to_theta(self.z)


def infer(
    point: Estimate,
    y: Array,
    table: pd.DataFrame,
    *,
    draws: int = 1000,
    seed: int = 0,
    scheme: str = "auto",
    level: float = 0.95,
) -> Inference:
    """Uncertainty of ``point`` fitted to log losses y (n,), by the scheme that the design asks for.

    Raises UserError for a scheme that does not exist.
    """
    if scheme not in SCHEMES:
        raise UserError("scheme", scheme, f"choose one of {', '.join(SCHEMES)}")
    surface, free = point.surface, point.free
    n, P = surface.n, int(free.sum())
    f = surface.evaluate(point.z[None])[0][0]
    _, psi, slope = point.loss(y - f)
    # of a law far off its runs few slopes are left: they are no measure then. Student's mean slope is nu / (nu + 3)
    pseudo = f + psi / max(slope.mean(), 0.5 if point.objective.nu is None else 0.1)
    groups = groups_of(table)
    z_hat, rho = point.z, 0.0
    chosen, clustered = scheme, False
    if scheme == "auto":
        many = groups is not None and len(groups.names) > MANY_CLUSTERS
        clustered = many and n > HUGE
        chosen = "likelihood-t" if n <= SAMPLED_ROWS else "bootstrap" if many and not clustered else "delta-t"
        if surface.law.curve:
            chosen, clustered = "jackknife-t" if groups is not None and len(groups.names) > 2 else "delta-t", False
    if chosen == "jackknife-t" and (groups is None or len(groups.names) < 3):
        raise UserError("scheme", scheme, "needs rows that share stems or sizes, three of them or more")
    effect = groups is not None and not clustered and chosen not in (*RESAMPLING, "jackknife-t")
    if effect and groups is not None:
        rho = reml(surface, z_hat, pseudo, groups, free)
        if rho > 0:
            z_hat = gls(surface, z_hat, pseudo, groups, rho, free)
    G = surface.jacobian(surface.evaluate(z_hat[None])[1])[0]
    G[:, ~free] = 0.0
    residual = pseudo - surface.evaluate(z_hat[None])[0][0]
    white = G.T if groups is None else groups.whiten(G.T, rho)
    rss = float((residual**2).sum()) if groups is None else float(groups.quadratic(residual, rho))
    df = float(max(n - P, 1))
    if groups is not None and n > SAMPLED_ROWS:
        df = float(min(df, max(len(groups.names) - P, 2)))
    # a perfect fit has the noise of losses printed to about twelve digits, not none
    sigma_hat = max(math.sqrt(rss / max(n - P, 1)), 1e-12)
    rng = np.random.default_rng(seed)
    inference = Inference(
        surface=surface,
        z_hat=z_hat,
        z=np.tile(z_hat, (draws, 1)),
        sigma=sigma_hat * np.sqrt(df / rng.chisquare(df, draws)),
        sigma_stem=np.zeros(draws),
        scheme=chosen,
        df=df,
        why="asked",
        groups=groups,
        rho=rho,
        sigma_hat=sigma_hat,
        pseudo=pseudo,
        gram=white @ white.T + _ridge(surface, rho),
        free=free,
        random_effect=effect,
    )
    inference.sigma_stem = inference.sigma * math.sqrt(rho)
    if chosen in ("likelihood-t", "profile-t"):
        _draw(inference, draws, rng)
        if groups is not None:
            off = _missed(inference, inference.z) > MAX_RMS_RATIO * _missed(inference, point.z[None])
            if off.mean() > 0.025:  # in none of 256 planted studies of benchmarks/coverage.py
                inference.capped, inference.z_hat = float(np.median(inference.sigma_stem[off])), point.z
                _draw(inference, draws, rng, root=_seen(inference, point.z))
        if chosen == "profile-t":
            inference.profiled = profile(inference, level)
        inference.why = "few_rows"
    elif chosen in RESAMPLING:
        clusters = groups if chosen == "bootstrap" else None
        inference.z, inference.converged = bootstrap(point, y, clusters, draws, rng)
        inference.why = "many_clusters"
    else:
        if chosen == "jackknife-t" and groups is not None:
            inference.df = float(len(groups.names) - 1)
        inference.z[:, free] += _t_draws(point, inference, y, G, draws, rng, clustered)
        inference.z = np.clip(inference.z, surface.lower, surface.upper)
        inference.z[:, ~free] = z_hat[~free]
        inference.why = "curves" if surface.law.curve else "huge" if clustered else "many_rows"
    if scheme != "auto":
        inference.why = "asked"
    return inference


def _draw(at: Inference, draws: int, rng: np.random.Generator, root: float = ROOT) -> None:
    """Fills in the draws of coordinates and noise, and puts the estimate amid them. ``root``: see ``sample``."""
    groups, n = at.groups, at.surface.n
    at.z, ratio = sample(at, draws, rng, root=root)
    res = at.pseudo - at.surface.evaluate(at.z)[0]
    quad = (res**2).sum(1) if groups is None else groups.quadratic(res, ratio)
    at.sigma = np.sqrt(np.maximum(quad, n * 1e-24) / rng.chisquare(n if groups is None else n - 1, draws))
    at.sigma_stem = at.sigma * np.sqrt(ratio)
    if groups is not None:
        _recentre(at, float(np.median(ratio)))


def _missed(at: Inference, z: Array) -> Array:
    """Root mean squares (S,) of what the law at z (S, P) misses."""
    return np.sqrt(np.mean((at.pseudo - at.surface.evaluate(z)[0]) ** 2, axis=1))


def _seen(at: Inference, z: Array) -> float:
    """Twice the standard deviation of stem effects over that of runs, as the residuals at z (P,) show them; 1 at least.

    A form that is wrong along D may be freed by stem effects of any size: within stems the rest then fits, and the
    law's levels mean nothing. So where that happens the effects are held to what the law itself leaves.
    """
    assert at.groups is not None
    codes = at.groups.codes
    r = at.pseudo - at.surface.evaluate(z[None])[0][0]
    mean = np.bincount(codes, r) / np.bincount(codes)
    within = math.sqrt(float(((r - mean[codes]) ** 2).sum()) / max(len(r) - len(mean), 1))
    return float(np.clip(2 * math.sqrt(float((mean**2).mean())) / max(within, 1e-12), 1.0, ROOT))


def _recentre(at: Inference, rho: float) -> None:
    """Puts the estimate at the draws' median variance ratio, so that estimate and draws are of one density.

    The ratio at the plain estimate may be a lesser mode: a law that misses by size leaves no room for a stem effect
    where it was fitted without one.
    """
    surface, groups = at.surface, at.groups
    assert groups is not None
    middle = np.clip(np.median(at.z, axis=0), surface.lower, surface.upper)
    ends = [gls(surface, start, at.pseudo, groups, rho, at.free) for start in (at.z_hat, middle)]
    values = [float(groups.quadratic(at.pseudo - surface.evaluate(z[None])[0][0], rho)) for z in ends]
    at.z_hat, at.rho = ends[int(np.argmin(values))], rho
    G = surface.jacobian(surface.evaluate(at.z_hat[None])[1])[0]
    G[:, ~at.free] = 0.0
    white = groups.whiten(G.T, rho)
    at.gram = white @ white.T + _ridge(surface, rho)
    at.sigma_hat = max(math.sqrt(min(values) / max(surface.n - int(at.free.sum()), 1)), 1e-12)


def _ridge(surface: Surface, rho: float) -> Array | float:
    """What priors add to the normal equations in units of the run's variance; the penalty is in those of a row's."""
    return 0.0 if surface.penalty is None else np.diag(surface.penalty[1] / (1 + rho))


def _t_draws(
    point: Estimate, at: Inference, y: Array, G: Array, draws: int, rng: np.random.Generator, clustered: bool
) -> Array:
    """t deviations (S, free) with the sandwich covariance of an M-estimate (Huber 1967), or GLS's with groups.

    ``clustered``: the sandwich of the groups' sums of scores (Liang and Zeger 1986, doi 10.1093/biomet/73.1.13). The
    jackknife's covariance is of refits without one group each.
    """
    G, free = G[:, at.free], at.free
    if at.scheme == "jackknife-t" and at.groups is not None:
        k = len(at.groups.names)
        at.left_out = refit(point, y, w=1.0 - np.eye(k)[:, at.groups.codes])[0]
        apart = at.left_out[:, free] - at.left_out[:, free].mean(0)
        cover = apart.T @ apart * ((k - 1) / k)
    elif at.groups is None or clustered:
        _, psi, slope = point.loss(y - at.surface.evaluate(at.z_hat[None])[0][0])
        bread, score = (G * slope[:, None]).T @ G, G * psi[:, None]
        if clustered and at.groups is not None:
            score = at.groups.sums(score.T).T
        meat = score.T @ score
        if at.surface.penalty is not None:
            # a prior is one more observation: its score has the variance precision * scale^4
            ridge = np.diag(at.surface.penalty[1][free])
            bread, meat = bread + ridge, meat + ridge * point.scale**2
        bread = np.linalg.pinv(bread, hermitian=True)
        cover = bread @ meat @ bread * (len(score) / at.df)
    else:
        cover = np.linalg.pinv(at.gram[np.ix_(free, free)], hermitian=True) * at.sigma_hat**2
    values, vectors = np.linalg.eigh(cover)
    root = vectors * np.sqrt(np.maximum(values, 0))
    return rng.standard_normal((draws, len(values))) @ root.T * np.sqrt(at.df / rng.chisquare(at.df, draws))[:, None]


def bootstrap(
    point: Estimate, y: Array, groups: Groups | None, draws: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """Refits (S, P) of resampled rows, or of resampled groups, and the share that converged."""
    n = len(y)
    if groups is None:
        w = rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
    else:
        k = len(groups.names)
        w = rng.multinomial(k, np.full(k, 1 / k), size=draws).astype(np.float64)[:, groups.codes]
    means = None
    if point.surface.prior is not None:  # what the prior was made of is drawn anew, too
        mean, precision = point.surface.prior
        sd = np.divide(1.0, np.sqrt(precision), out=np.zeros_like(precision), where=precision > 0)
        means = mean + sd * rng.standard_normal((draws, len(mean)))
    z, done = refit(point, y, w=w, means=means)
    return z, float(done.mean())


def profile(at: Inference, level: float) -> dict[str, tuple[float, float]]:
    """Profile-t intervals of the floor, the exponents and a, where a is a ratio of two fitted exponents.

    The interval holds the values whose best refit raises the (generalised) residual sum of squares by at most
    t^2 sigma^2. An end that is never reached is the bound. Pseudo-values make it serve robust fits.
    """
    surface, law = at.surface, at.surface.law
    t = float(special.stdtrit(at.df, 0.5 + level / 2))
    out: dict[str, tuple[float, float]] = {}
    cover = np.linalg.pinv(at.gram[np.ix_(at.free, at.free)], rcond=1e-13, hermitian=True) * at.sigma_hat**2
    spread = np.zeros(surface.P)
    spread[at.free] = np.sqrt(np.diag(cover))
    base = squares(at, surface, at.z_hat)
    for i, c in enumerate(law.coordinates):
        if not at.free[i] or c.name not in law.names or c.name not in (law.floor, *_exponents(law)):
            continue
        unit = surface.scale if c.name == law.floor else 1.0

        def rise(value: float, start: Array, i: int = i) -> tuple[float, Array]:
            start = start.copy()
            start[i] = value
            held = at.free.copy()
            held[i] = False
            z = best(at, surface, start, held)
            return squares(at, surface, z) - base, z

        ends = [_cross(rise, at.z_hat, at.z_hat[i], side, spread[i], t * at.sigma_hat, at, i) for side in (-1, 1)]
        out[c.name] = (ends[0] * unit, ends[1] * unit)
    pair = law.exponents(surface.to_theta(at.z_hat[None]))
    if pair is None or len(set(_exponents(law))) != 2 or law.outer is not None:
        return out
    first, second = (surface.position[name] for name in _exponents(law))
    if not (at.free[first] and at.free[second]):
        return out
    if surface.prior is not None and surface.prior[1][[first, second]].any():
        return out  # the shared coordinate of the tied surface would carry the wrong prior: a is left to the draws

    def tied(value: float, start: Array) -> tuple[float, Array]:
        fixed = surface.tied({_exponents(law)[0]: 1 - value, _exponents(law)[1]: value})
        held = at.free.copy()
        held[second] = False
        z = best(at, fixed, start, held)
        return squares(at, fixed, z) - base, z

    start = at.z_hat.copy()
    start[first] += start[second]
    grad = np.zeros(surface.P)
    total = max(at.z_hat[first] + at.z_hat[second], 1e-9)
    grad[first], grad[second] = -at.z_hat[second] / total**2, at.z_hat[first] / total**2
    width = math.sqrt(max(float(grad[at.free] @ cover @ grad[at.free]), 0.0))
    a = float(pair["a"][0])
    lo, hi = (_cross(tied, start, a, side, width, t * at.sigma_hat, None, 0) for side in (-1, 1))
    out["a"], out["b"] = (lo, hi), (1 - hi, 1 - lo)
    return out


def _exponents(law: Law) -> list[str]:
    return [e for term in law.terms for _, e in term.exponents if isinstance(e, str)]


def squares(at: Inference, surface: Surface, z: Array) -> float:
    """The (generalised) residual sum of squares at coordinates z (P,), with what the priors add."""
    r = at.pseudo - surface.evaluate(z[None])[0][0]
    return float((r * r).sum() if at.groups is None else at.groups.quadratic(r, at.rho)) + prior_cost(at, z)


def prior_cost(at: Inference, z: Array) -> float:
    """What the priors add to the residual sum of squares at coordinates z (P,)."""
    penalty = at.surface.penalty
    return 0.0 if penalty is None else float(((z - penalty[0]) ** 2 * penalty[1]).sum()) / (1 + at.rho)


def best(at: Inference, surface: Surface, start: Array, free: Array, **how: Any) -> Array:
    """Where ``squares`` are least from a start (P,) on over the ``free`` coordinates; ``how`` is for ``minimise``."""
    z = minimise(surface, start[None], at.pseudo, free=free, **how)[0][0]
    if at.groups is not None and at.rho > 0:
        z = gls(surface, z, at.pseudo, at.groups, at.rho, free)
    return z


def _cross(
    rise: Callable[[float, Array], tuple[float, Array]],
    start: Array,
    centre: float,
    side: int,
    width: float,
    limit: float,
    at: Inference | None,
    i: int,
) -> float:
    """Where sqrt(rise) reaches ``limit`` on one side of ``centre``: growing steps, then interpolation."""
    lower, upper = (0.0, 1.0) if at is None else (float(at.surface.lower[i]), float(at.surface.upper[i]))
    end = lower if side < 0 else upper
    step = min(max(width, 1e-9), 0.2 * max(abs(centre), 0.1)) * 0.5
    inside, low, z, value = centre, 0.0, start, centre
    for _ in range(40):
        value = min(max(value + side * step, lower), upper)
        if at is None:
            value = min(max(value, 1e-6), 1 - 1e-6)
        gain, z_new = rise(value, z)
        root = math.sqrt(max(gain, 0.0))
        if root >= limit:
            break
        inside, low, z, step = value, root, z_new, step * 1.35
        if value in (lower, upper) or (at is None and not 1e-6 < value < 1 - 1e-6):
            return end
    else:
        return math.inf * side if math.isinf(end) else end
    outside, high = value, root
    for _ in range(8):
        guess = inside + (outside - inside) * min(max((limit - low) / max(high - low, 1e-300), 0.1), 0.9)
        gain, z_new = rise(guess, z)
        root = math.sqrt(max(gain, 0.0))
        if root < limit:
            inside, low, z = guess, root, z_new
        else:
            outside, high = guess, root
        if abs(high - low) < 1e-3 * limit:
            break
    return inside + (outside - inside) * (limit - low) / max(high - low, 1e-300)


def sample(
    at: Inference,
    draws: int,
    rng: np.random.Generator,
    *,
    walkers: int = 128,
    rounds: tuple[int, int] | None = None,
    root: float = ROOT,
) -> tuple[Array, Array]:
    """Draws (S, P) of the coordinates and (S,) of the variance ratio from the density in the module's text.

    ``rounds``: to burn, and between two that are kept. By default what takes the ends of intervals to within 0.1 of
    their half-width of those of 2500 rounds on designs that identify nothing. ``root``: the largest standard deviation
    of a stem effect, in those of a run.
    """
    surface, y, groups = at.surface, at.pseudo, at.groups
    which = np.flatnonzero(at.free)
    P, n = len(which), surface.n
    straight = Straight(surface, at.free)
    u_hat = _start(at, straight)
    burn, thin = rounds or ((100, 12) if straight.bent else (400, 24))
    dim = P + (groups is not None)
    # a sum of squares below rounding is a perfect fit: give it the noise of float64 losses instead of a singularity
    tiny = n * 1e-24

    def coordinates(x: Array) -> tuple[Array, Array]:
        u = np.tile(u_hat, (len(x), 1))
        u[:, which] = x[:, :P]
        return straight.to_z(u)

    def density(x: Array) -> Array:
        z, jacobian = coordinates(x)
        out = np.all((z >= surface.lower) & (z <= surface.upper), 1)
        z = np.clip(z, surface.lower, surface.upper)
        f, state = surface.evaluate(z)
        r = y - f
        ones = np.ones_like(r)
        _, h = surface.normal(state, np.zeros_like(r), ones)
        sign, volume = np.linalg.slogdet(np.where(np.isfinite(h), h, 0.0)[:, which[:, None], which])
        value = 0.5 * volume + jacobian
        if surface.prior is not None:
            value = value - 0.5 * ((z - surface.prior[0]) ** 2 * surface.prior[1]).sum(1)
        if groups is None:
            value = value - 0.5 * n * np.log((r * r).sum(1) + tiny)
        else:
            out &= (x[:, P] >= 0) & (x[:, P] <= root)
            ratio = np.clip(x[:, P], 0, root) ** 2
            value = value - 0.5 * (n - 1) * np.log(groups.quadratic(r, ratio) + tiny) - 0.5 * groups.log_det(ratio)
            value = value - np.log1p(ratio)
        return np.where(out & (sign > 0) & np.isfinite(value), value, -np.inf)

    x = _walkers(at, straight, u_hat, density, 2 * walkers, dim, rng, root)
    value = density(x)
    halves = [np.arange(walkers), np.arange(walkers, 2 * walkers)]
    kept: list[Array] = []
    for step in range(burn + thin * math.ceil(draws / (2 * walkers))):
        for mine, theirs in (halves, halves[::-1]):
            if step % 2:
                a = x[rng.choice(theirs, walkers)]
                s = (1 + rng.random(walkers)) ** 2 / 2  # density 1/sqrt(s) on [1/2, 2]
                trial = a + s[:, None] * (x[mine] - a)
                bonus = (dim - 1) * np.log(s)
            else:
                first = rng.integers(walkers, size=walkers)
                second = (first + rng.integers(1, walkers, size=walkers)) % walkers
                gamma = 2.38 / math.sqrt(2 * dim) * np.where(rng.random(walkers) < 0.1, 0.3, 1.0)[:, None]
                trial = x[mine] + gamma * (x[theirs][first] - x[theirs][second])
                bonus = 0.0
            new = density(trial)
            with np.errstate(invalid="ignore"):
                accept = np.log(rng.random(walkers)) < new - value[mine] + bonus
            x[mine[accept]], value[mine[accept]] = trial[accept], new[accept]
        if step >= burn and (step - burn) % thin == thin - 1:
            kept.append(x.copy())
    pool = np.concatenate(kept)[:draws]
    ratio = np.zeros(draws) if groups is None else pool[:, P] ** 2
    return coordinates(pool)[0], ratio


def _start(at: Inference, straight: Straight) -> Array:
    """The estimate in straight coordinates, off the bounds at which these have no value."""
    z = np.where(at.free & straight.exponents, np.maximum(at.z_hat, at.surface.lower + 1e-6), at.z_hat)
    return straight.to_u(z[None])[0]


def _walkers(
    at: Inference,
    straight: Straight,
    u_hat: Array,
    density: Callable[[Array], Array],
    count: int,
    dim: int,
    rng: np.random.Generator,
    largest: float,
) -> Array:
    """Starts (count, dim): draws from the density with the law linearised, closer in where that leaves the bounds."""
    surface, free = at.surface, at.free
    z = straight.to_z(u_hat[None])[0]
    f, state = surface.evaluate(z)
    slopes = straight.slopes(z[0])[:, free]
    G, r = surface.jacobian(state)[0] @ slopes, at.pseudo - f[0]
    n, P = G.shape
    pull, hold = np.zeros(P), np.zeros((P, P))
    if surface.penalty is not None:
        mean, weight = surface.penalty
        hold, pull = slopes.T @ (slopes * weight[:, None]), slopes.T @ ((mean - z[0]) * weight)
    roots = np.zeros(count)
    if at.groups is not None:
        scores = ratio_scores(G, r, at.groups)
        weight = np.exp(scores - scores.max()) * np.gradient(ROOTS)
        roots = rng.choice(ROOTS, size=count, p=weight / weight.sum())
    centre, root = np.empty((count, P)), np.empty((count, P, P))
    for value in np.unique(roots):
        white = G.T if at.groups is None else at.groups.whiten(G.T, value**2)
        e = r if at.groups is None else at.groups.whiten(r, value**2)
        gram, right = white @ white.T, white @ e
        if surface.penalty is not None:
            gram, right = gram + hold / (1 + value**2), right + pull / (1 + value**2)
        values, vectors = np.linalg.eigh(gram)
        inverse = vectors / np.maximum(values, 1e-12 * values.max())
        step = inverse @ (vectors.T @ right)
        sd = math.sqrt(max(float(((e - white.T @ step) ** 2).sum()) / max(n - P, 1), n * 1e-24))
        these = roots == value
        # from a bound no start leads outwards: all of them could lie beyond it
        out = ((z[0] <= surface.lower) & ~straight.moved)[free] & (step < 0)
        out |= ((z[0] >= surface.upper) & ~straight.moved)[free] & (step > 0)
        step = np.where(out, 0.0, step)
        centre[these] = u_hat[free] + np.clip(step, -0.3, 0.3)
        root[these] = vectors * np.minimum(sd / np.sqrt(np.maximum(values, 1e-300)), 0.4)
    x, value, shrink = np.zeros((count, dim)), np.full(count, -np.inf), 1.0
    if dim > P:
        x[:, P] = np.minimum(roots + rng.uniform(0, 0.05, count), largest)
    for _ in range(60):
        need = ~np.isfinite(value)
        if not need.any():
            break
        normal = rng.standard_normal((int(need.sum()), P))
        normal *= np.sqrt(at.df / rng.chisquare(at.df, len(normal)))[:, None]
        x[need, :P] = centre[need] * shrink + u_hat[free] * (1 - shrink)
        x[need, :P] += np.einsum("spk,sk->sp", root[need], normal) * shrink
        value[need] = density(x[need])
        shrink *= 0.85
    return x
