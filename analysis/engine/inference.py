"""The uncertainty of a fit by each scheme. One ``Inference`` gives the intervals, the draws and a new run's noise.

``likelihood-t`` (up to 100 rows): draws from the density of ``sampler``.
``profile-t`` on request, and for a power law of one variable with a floor: intervals of exponents, floor and a by
profiling the same sum of squares, draws as above.
``delta-t`` (more than 100 rows): t draws around the estimate from the sandwich covariance, or from the GLS covariance
when rows share stems; above 50,000 rows on many stems from the sandwich over stems. Where the law bends so much within
the draws that these leave its fitted values (``_left``), up to 2000 rows are sampled as likelihood-t.
``bootstrap``: by cluster where clusters are more than 20; ``bootstrap-runs`` ignores clusters.
``jackknife-t`` (learning curves, whose errors drift along a run): t draws with the covariance between the refits that
leave out one run each (MacKinnon, Nielsen and Webb 2023, CV3, doi 10.1002/jae.2969), runs - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.engine.estimate import Estimate, refit
from analysis.engine.groups import Groups, groups_of
from analysis.engine.profile_t import profile_t
from analysis.engine.random_effects import ROOT, gls, reml
from analysis.engine.sampler import sample
from analysis.engine.surface import Surface
from analysis.engine.uncertainty import Inference, Why, pseudo_values, ridge
from scaling.errors import Code, UserError, choose

Array = np.ndarray
SAMPLED_ROWS = 100
MANY_CLUSTERS = 20
BENT_ROWS = 2_000  # most rows that are sampled because a linearised law does not hold over its draws
CHECKED = (256, 500)  # draws and rows on which that is checked
EXACT = 1e-9  # log loss: draws nearer than that have no noise to leave
MOST_SIZE, MOST_SHIFT = 2.0, 1.0  # of draws about the fit, in standard errors of the linearised law
HUGE = 50_000  # rows above which rows are not resampled
SCHEMES = ("auto", "likelihood-t", "profile-t", "delta-t", "bootstrap", "bootstrap-runs", "jackknife-t")
SAMPLED = ("likelihood-t", "profile-t")
RESAMPLING = ("bootstrap", "bootstrap-runs")
BY_GROUP = ("bootstrap-runs", "jackknife-t")  # schemes that differ from the others only where rows share stems or sizes
MAX_RMS_RATIO = 5.0  # reject draws whose residual RMS exceeds 5x that of the fit without stem effects


class _Choice(NamedTuple):
    scheme: str
    why: Why
    clustered: bool = False  # the sandwich sums scores over groups


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
    """Uncertainty of ``point`` fitted to log losses y (n,).

    Args:
      table: the rows, whose stems or sizes may share noise.
      scheme: one of ``SCHEMES``; ``auto`` chooses by the design.
      level: confidence of profiled intervals.

    Raises:
      UserError: unknown scheme, or one that the rows do not allow.
    """
    groups = groups_of(table)
    chosen = _choose(scheme, point.surface, groups)
    at, G = _linearised(point, y, groups, chosen)
    highest = _limit_floor(at, y, table)
    rng = np.random.default_rng(seed)
    at.z = np.tile(at.z_hat, (draws, 1))
    at.sigma = at.sigma_hat * np.sqrt(at.df / rng.chisquare(at.df, draws))
    at.sigma_stem = at.sigma * math.sqrt(at.rho)
    if chosen.scheme in SAMPLED:
        _sampled(at, point, draws, rng)
        if chosen.scheme == "profile-t":
            at.profiled = profile_t(at, level)
    elif chosen.scheme in RESAMPLING:
        clusters = groups if chosen.scheme == "bootstrap" else None
        at.z, at.converged = bootstrap(point, y, clusters, draws, rng)
    else:
        if chosen.scheme == "jackknife-t" and groups is not None:
            at.df = float(len(groups.names) - 1)
        moves = _t_draws(point, at, y, G, draws, rng, chosen.clustered)
        at.z[:, at.free] += moves
        _into_support(at, highest)
        at.left = _left(at, moves)
        if at.left is not None and chosen.why == "many_rows" and at.surface.n <= BENT_ROWS:
            try:
                at = infer(point, y, table, draws=draws, seed=seed, scheme="likelihood-t", level=level)
            except UserError:  # no start of the sampler lies in the support: the card says that the draws left the fit
                return at
            at.why = "bent"
    return at


def _into_support(at: Inference, highest: float) -> None:
    """Takes linearised draws back to the bounds of the parameters; ``highest``: log of the largest floor."""
    surface = at.surface
    at.z = np.clip(at.z, surface.lower, surface.upper)
    if surface.floor is not None and surface.outer is not None:
        most = np.exp(np.minimum(highest / np.maximum(at.z[:, surface.outer], 1e-3), 700.0))
        at.z[:, surface.floor] = np.minimum(at.z[:, surface.floor], most)
    at.z[:, ~at.free] = at.z_hat[~at.free]


def _left(at: Inference, moves: Array) -> tuple[float, float] | None:
    """(distance of the draws from the estimate, that of the linearised law) where draws leave the fitted values.

    Root mean squares over the rows, of a median draw. Around an estimate at a bound, or in a long bent valley, the
    ``moves`` (S, free) lead off the valley: such draws predict losses that no run allows.
    """
    count, rows = CHECKED
    surface, z, moves = at.surface, at.z[:count], moves[:count]
    if surface.n > rows and not surface.law.slow:  # which would compile for the new shape
        surface = surface.rows(np.linspace(0, surface.n - 1, rows).astype(int))
    f, state = surface.evaluate(at.z_hat[None])
    line = moves @ surface.jacobian(state)[0][:, at.free].T
    with np.errstate(all="ignore"):
        apart = surface.evaluate(z)[0] - f[0]
        size, own = (float(np.median(np.sqrt((v**2).mean(1)))) for v in (apart, line))
        shift = float(np.sqrt(((np.median(apart, 0) - np.median(line, 0)) ** 2).mean()))
    if max(size, own) < EXACT or (size <= MOST_SIZE * own and shift <= MOST_SHIFT * own):
        return None
    return size if math.isfinite(size) else math.inf, own


def _choose(scheme: str, surface: Surface, groups: Groups | None) -> _Choice:
    """The requested scheme, or for ``auto`` the one that suits the design."""
    count = 0 if groups is None else len(groups.names)
    if scheme not in SCHEMES:
        raise UserError("scheme", scheme, choose(scheme, SCHEMES), Code.UNKNOWN)
    if scheme == "jackknife-t" and count < 3:
        remedy = "needs rows that share stems or sizes, three of them or more"
        raise UserError("scheme", scheme, remedy, Code.TOO_FEW)
    if scheme != "auto":
        return _Choice(scheme, "asked")
    if surface.law.curve:
        return _Choice("jackknife-t" if count > 2 else "delta-t", "curves")
    if surface.n <= SAMPLED_ROWS:
        # With a floor of zero the truth lies at an end of the draws, which then cover it in half of the studies.
        power = len(surface.law.columns) == 1 and surface.floor is not None and bool(surface.law.terms)
        return _Choice("profile-t" if power else "likelihood-t", "few_rows")
    if count <= MANY_CLUSTERS:
        return _Choice("delta-t", "many_rows")
    if surface.n > HUGE:
        return _Choice("delta-t", "huge", clustered=True)
    return _Choice("bootstrap", "many_clusters")


def _linearised(point: Estimate, y: Array, groups: Groups | None, chosen: _Choice) -> tuple[Inference, Array]:
    """The inference with its random effect but without draws, and the design G (n, P) of the linearised fit."""
    surface, free = point.surface, point.free
    n, P = surface.n, int(free.sum())
    pseudo, z_hat, rho, capped = pseudo_values(point, y), point.z, 0.0, None
    effect = groups is not None and not chosen.clustered and chosen.scheme not in (*RESAMPLING, "jackknife-t")
    if effect and groups is not None:
        rho = reml(surface, z_hat, pseudo, groups, free)
        if rho > 0:
            z_hat = gls(surface, z_hat, pseudo, groups, rho, free)
            if chosen.scheme not in SAMPLED:  # there the draws decide: ``_sampled``
                capped, rho, z_hat = _kept_near(point, pseudo, groups, rho, z_hat)
    G = surface.jacobian(surface.evaluate(z_hat[None])[1])[0]
    G[:, ~free] = 0.0
    residual = pseudo - surface.evaluate(z_hat[None])[0][0]
    white = G.T if groups is None else groups.whiten(G.T, rho)
    rss = float((residual**2).sum()) if groups is None else float(groups.quadratic(residual, rho))
    df = float(max(n - P, 1))
    if groups is not None and n > SAMPLED_ROWS:
        df = float(min(df, max(len(groups.names) - P, 2)))
    at = Inference(
        surface=surface,
        z_hat=z_hat,
        z=z_hat[None],
        sigma=np.zeros(1),
        sigma_stem=np.zeros(1),
        scheme=chosen.scheme,
        df=df,
        why=chosen.why,
        groups=groups,
        random_effect=effect,
        rho=rho,
        capped=capped,
        # a perfect fit has the noise of losses printed to about twelve digits, not none
        sigma_hat=max(math.sqrt(rss / max(n - P, 1)), 1e-12),
        pseudo=pseudo,
        gram=white @ white.T + ridge(surface, rho),
        free=free,
    )
    return at, G


def _kept_near(
    point: Estimate, pseudo: Array, groups: Groups, rho: float, z: Array
) -> tuple[float | None, float, Array]:
    """(sd of the stem effects if it is capped, rho, estimate): a fit with stem effects that misses the runs is no fit.

    As for draws (``_sampled``): the effects are then capped at the size of the residuals, and where even that strays,
    the estimate is the one without them.
    """
    surface, plain = point.surface, _rms_of(point.surface, pseudo, point.z[None])
    if _rms_of(surface, pseudo, z[None]) <= MAX_RMS_RATIO * plain:
        return None, rho, z
    residual = pseudo - surface.evaluate(z[None])[0][0]
    sd = math.sqrt(rho * float(groups.quadratic(residual, rho)) / max(surface.n - int(point.free.sum()), 1))
    rho = min(rho, _largest_root(surface, pseudo, groups, point.z) ** 2)
    z = gls(surface, point.z, pseudo, groups, rho, point.free)
    near = _rms_of(surface, pseudo, z[None]) <= MAX_RMS_RATIO * plain
    return sd, rho, z if near else point.z


def _limit_floor(at: Inference, y: Array, table: pd.DataFrame) -> float:
    """Log of the largest floor that the losses allow, which becomes the bound of a free floor: the smallest loss and
    three sd of the noise of a run, or the smallest fitted loss where that is larger, as below an outlier.

    Draws around a linearised fit would go beyond it.
    """
    surface, loss = at.surface, np.asarray(table["loss"] if "loss" in table else np.exp(y), dtype=np.float64)
    fitted = np.atleast_1d(surface.law.predict(at.theta_hat, table))
    highest = max(math.log(float(loss.min())) + 3 * at.sigma_hat, math.log(float(fitted.min())) + 1e-6)
    i = surface.floor
    if i is None or not at.free[i] or (surface.sign < 0).any():
        return math.inf
    if surface.outer is None and at.z_hat[i] * surface.scale < fitted.min() * (1 + 1e-6):
        surface.upper[i] = min(float(surface.upper[i]), math.exp(highest) / surface.scale)
    return highest


def _sampled(at: Inference, point: Estimate, draws: int, rng: np.random.Generator) -> None:
    """Draws by the sampler. Where stem effects let the draws stray far from the runs, caps those and draws again."""
    _draw(at, draws, rng)
    if at.groups is None:
        return
    off = _rms(at, at.z) > MAX_RMS_RATIO * _rms(at, point.z[None])
    if off.mean() > 0.025:  # in none of 256 planted studies of benchmarks/coverage.py
        at.capped, at.z_hat = float(np.median(at.sigma_stem[off])), point.z
        _draw(at, draws, rng, root=_largest_root(at.surface, at.pseudo, at.groups, point.z))


def _draw(at: Inference, draws: int, rng: np.random.Generator, root: float = ROOT) -> None:
    """Fills in the draws of coordinates and noise, and recentres the estimate. ``root``: see ``sample``."""
    groups, n = at.groups, at.surface.n
    at.z, ratio = sample(at, draws, rng, root=root)
    res = at.pseudo - at.surface.evaluate(at.z)[0]
    quad = (res**2).sum(1) if groups is None else groups.quadratic(res, ratio)
    at.sigma = np.sqrt(np.maximum(quad, n * 1e-24) / rng.chisquare(n if groups is None else n - 1, draws))
    at.sigma_stem = at.sigma * np.sqrt(ratio)
    if groups is not None:
        _recentre(at, float(np.median(ratio)))


def _rms(at: Inference, z: Array) -> Array:
    """Root mean square residuals (S,) of the law at z (S, P)."""
    return _rms_of(at.surface, at.pseudo, z)


def _rms_of(surface: Surface, pseudo: Array, z: Array) -> Array:
    return np.sqrt(np.mean((pseudo - surface.evaluate(z)[0]) ** 2, axis=1))


def _largest_root(surface: Surface, pseudo: Array, groups: Groups, z: Array) -> float:
    """Cap on sqrt(rho): twice the stem sd over the run sd, from the residuals at z (P,); at least 1.

    Where a law is wrong along D, stem effects of any size can absorb the misfit: the law then fits within stems, and
    its levels mean nothing. The cap keeps the effects to the size of the residuals.
    """
    codes, r = groups.codes, pseudo - surface.evaluate(z[None])[0][0]
    mean = np.bincount(codes, r) / np.bincount(codes)
    within = math.sqrt(float(((r - mean[codes]) ** 2).sum()) / max(len(r) - len(mean), 1))
    return float(np.clip(2 * math.sqrt(float((mean**2).mean())) / max(within, 1e-12), 1.0, ROOT))


def _recentre(at: Inference, rho: float) -> None:
    """Refits the estimate at the draws' median variance ratio, so that estimate and draws belong to one density.

    The ratio at the plain estimate may be a minor mode: a law with misfit by size, fitted without a stem effect,
    leaves no room for one.
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
    at.gram = white @ white.T + ridge(surface, rho)
    at.sigma_hat = max(math.sqrt(min(values) / max(surface.n - int(at.free.sum()), 1)), 1e-12)


def _t_draws(
    point: Estimate, at: Inference, y: Array, G: Array, draws: int, rng: np.random.Generator, clustered: bool
) -> Array:
    """t deviations (S, free) with the sandwich covariance of an M-estimate (Huber 1967), or the GLS one with groups.

    ``clustered`` sums the sandwich's scores over groups (Liang and Zeger 1986, doi 10.1093/biomet/73.1.13). The
    jackknife's covariance is that of the refits that leave out one group each.
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
    if point.surface.prior is not None:  # a prior is data too: its mean is resampled
        mean, precision = point.surface.prior
        sd = np.divide(1.0, np.sqrt(precision), out=np.zeros_like(precision), where=precision > 0)
        means = mean + sd * rng.standard_normal((draws, len(mean)))
    z, done = refit(point, y, w=w, means=means)
    return z, float(done.mean())
