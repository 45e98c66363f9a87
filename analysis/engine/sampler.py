"""Draws from the likelihood-t density by an ensemble of walkers.

    |V|^-1/2 (r' V^-1 r)^(-n/2) |G'G|^1/2,   V = I + rho Z Z',   r = y* - f(z),   G = df/dz,

the likelihood with the noise variance integrated out (hence t, not normal, tails) times the uniform measure on the
surface of fitted values (Jeffreys' weight |G'G|^1/2: independent of the coordinates, and a long flat valley gets no
extra weight). rho is the variance of a stem (or size) effect over that of a run; sqrt(rho) has a half-Cauchy prior of
scale 1 (Gelman 2006, for few groups), so that the few degrees of freedom between stems widen the intervals without a
separate correction, at little cost where stems do not matter. With rho the power is (n - 1) / 2: the ratio takes one
degree of freedom, which a flat prior on sigma instead of 1 / sigma gives back.
Moves are stretches (Goodman and Weare 2010) and differences (ter Braak 2006), in coordinates in which flat valleys are
straight (``reparametrise``). Coverage: benchmarks/coverage.json.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.engine.random_effects import ROOT, ROOTS, ratio_scores
from analysis.engine.reparametrise import Reparametrisation
from analysis.engine.uncertainty import Inference
from scaling.errors import Code, UserError

Array = np.ndarray
WALKERS = 128  # in each half of the ensemble


@dataclass(frozen=True)
class _Density:
    """The log density over free straight coordinates and, with groups, the root of the variance ratio, (S, dim)."""

    at: Inference
    straight: Reparametrisation
    u_hat: Array
    root: float  # largest sqrt(rho)

    @property
    def which(self) -> Array:
        return np.flatnonzero(self.at.free)

    @property
    def dim(self) -> int:
        return len(self.which) + (self.at.groups is not None)

    def coordinates(self, x: Array) -> tuple[Array, Array]:
        """Fitting coordinates (S, P), and log |dz/du| (S,)."""
        u = np.tile(self.u_hat, (len(x), 1))
        u[:, self.which] = x[:, : len(self.which)]
        return self.straight.to_z(u)

    def __call__(self, x: Array) -> Array:
        at, which = self.at, self.which
        surface, groups, P, n = at.surface, at.groups, len(which), at.surface.n
        tiny = n * 1e-24  # a sum of squares below rounding is a perfect fit: assume the noise of float64 losses
        z, jacobian = self.coordinates(x)
        out = np.all((z >= surface.lower) & (z <= surface.upper), 1)
        z = np.clip(z, surface.lower, surface.upper)
        f, state = surface.evaluate(z)
        r = at.pseudo - f
        ones = np.ones_like(r)
        _, h = surface.normal(state, np.zeros_like(r), ones)
        sign, volume = np.linalg.slogdet(np.where(np.isfinite(h), h, 0.0)[:, which[:, None], which])
        value = 0.5 * volume + jacobian
        if surface.prior is not None:
            value = value - 0.5 * ((z - surface.prior[0]) ** 2 * surface.prior[1]).sum(1)
        if groups is None:
            value = value - 0.5 * n * np.log((r * r).sum(1) + tiny)
        else:
            out &= (x[:, P] >= 0) & (x[:, P] <= self.root)
            ratio = np.clip(x[:, P], 0, self.root) ** 2
            value = value - 0.5 * (n - 1) * np.log(groups.quadratic(r, ratio) + tiny) - 0.5 * groups.log_det(ratio)
            value = value - np.log1p(ratio)
        return np.where(out & (sign > 0) & np.isfinite(value), value, -np.inf)


def sample(
    at: Inference,
    draws: int,
    rng: np.random.Generator,
    *,
    rounds: tuple[int, int] | None = None,
    root: float = ROOT,
) -> tuple[Array, Array]:
    """Draws (S, P) of the coordinates and (S,) of the variance ratio from the density in the module docstring.

    Every draw lies in the support of the density: inside the bounds, with finite fitted values.

    Args:
      rounds: burn-in, and thinning interval. The default puts the ends of intervals within 0.1 half-widths of those
        after 2500 rounds, even on designs that identify nothing.
      root: largest sd of a stem effect, in units of a run's sd.

    Raises:
      UserError: no start lies in the support.
    """
    straight = Reparametrisation(at.surface, at.free)
    density = _Density(at, straight, _start(at, straight), root)
    burn, thin = rounds or ((100, 12) if straight.active else (400, 24))
    x = _walkers(density, 2 * WALKERS, rng)
    value = density(x)
    lost = ~np.isfinite(value)
    if lost.all():
        remedy = "no law near the estimate has a finite density; choose another, such as --scheme=bootstrap-runs"
        raise UserError("scheme", at.scheme, remedy, Code.NOT_IDENTIFIED)
    if lost.any():  # from here on every walker lies in the support, as no other move is accepted
        others = rng.choice(np.flatnonzero(~lost), int(lost.sum()))
        x[lost], value[lost] = x[others], value[others]
    halves = [np.arange(WALKERS), np.arange(WALKERS, 2 * WALKERS)]
    kept: list[Array] = []
    for step in range(burn + thin * math.ceil(draws / (2 * WALKERS))):
        for mine, theirs in (halves, halves[::-1]):
            trial, bonus = _stretch(x, mine, theirs, rng) if step % 2 else _difference(x, mine, theirs, rng)
            new = density(trial)
            with np.errstate(invalid="ignore"):
                accept = np.log(rng.random(WALKERS)) < new - value[mine] + bonus
            x[mine[accept]], value[mine[accept]] = trial[accept], new[accept]
        if step >= burn and (step - burn) % thin == thin - 1:
            kept.append(x.copy())
    pool = np.concatenate(kept)[:draws]
    ratio = np.zeros(draws) if at.groups is None else pool[:, len(density.which)] ** 2
    return density.coordinates(pool)[0], ratio


def _stretch(x: Array, mine: Array, theirs: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Proposals of Goodman and Weare for walkers ``mine``, and the logarithm of their weights."""
    a = x[rng.choice(theirs, WALKERS)]
    s = (1 + rng.random(WALKERS)) ** 2 / 2  # density 1/sqrt(s) on [1/2, 2]
    return a + s[:, None] * (x[mine] - a), (x.shape[1] - 1) * np.log(s)


def _difference(x: Array, mine: Array, theirs: Array, rng: np.random.Generator) -> tuple[Array, float]:
    """Proposals of ter Braak: a scaled difference of two walkers; one move in ten is 0.3 times as long."""
    first = rng.integers(WALKERS, size=WALKERS)
    second = (first + rng.integers(1, WALKERS, size=WALKERS)) % WALKERS
    gamma = 2.38 / math.sqrt(2 * x.shape[1]) * np.where(rng.random(WALKERS) < 0.1, 0.3, 1.0)[:, None]
    return x[mine] + gamma * (x[theirs][first] - x[theirs][second]), 0.0


def _start(at: Inference, straight: Reparametrisation) -> Array:
    """The estimate in straight coordinates, moved off the bounds where these are undefined."""
    z = np.where(at.free & straight.exponents, np.maximum(at.z_hat, at.surface.lower + 1e-6), at.z_hat)
    return straight.to_u(z[None])[0]


def _walkers(density: _Density, count: int, rng: np.random.Generator) -> Array:
    """Starts (count, dim): draws from the density of the linearised law, shrunk to the estimate to stay in bounds."""
    at, straight, u_hat = density.at, density.straight, density.u_hat
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
        # at a bound no step leads outwards, or all starts could lie beyond it
        out = ((z[0] <= surface.lower) & ~straight.moved)[free] & (step < 0)
        out |= ((z[0] >= surface.upper) & ~straight.moved)[free] & (step > 0)
        step = np.where(out, 0.0, step)
        centre[these] = u_hat[free] + np.clip(step, -0.3, 0.3)
        root[these] = vectors * np.minimum(sd / np.sqrt(np.maximum(values, 1e-300)), 0.4)
    return _inside(density, centre, root, roots, rng)


def _inside(density: _Density, centre: Array, root: Array, roots: Array, rng: np.random.Generator) -> Array:
    """Starts (count, dim) around ``centre`` (count, P); those out of bounds are drawn again nearer to the estimate."""
    free, df, (count, P) = density.u_hat[density.at.free], density.at.df, centre.shape
    x, value, shrink = np.zeros((count, density.dim)), np.full(count, -np.inf), 1.0
    if density.dim > P:
        x[:, P] = np.minimum(roots + rng.uniform(0, 0.05, count), density.root)
    for attempt in range(60):
        need = ~np.isfinite(value)
        if not need.any():
            break
        normal = rng.standard_normal((int(need.sum()), P))
        normal *= np.sqrt(df / rng.chisquare(df, len(normal)))[:, None]
        # where the data push beyond a bound the centre lies outside, by more than the spread: start from the estimate
        pull = shrink if attempt < 20 else 0.0
        x[need, :P] = centre[need] * pull + free * (1 - pull)
        x[need, :P] += np.einsum("spk,sk->sp", root[need], normal) * shrink
        value[need] = density(x[need])
        shrink *= 0.85
    return x
