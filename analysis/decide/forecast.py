"""The test of a law: forecasts of held-out runs, sealed before their outcomes are read, and scored afterwards.

Every fitted law, for every count of N, and a naive forecaster ("the last loss and its local slope") forecast each cell.
Scores: error, z, coverage, and the CRPS in nats (Gneiting and Raftery 2007, doi 10.1198/016214506000001437), which
rewards forecasts that are both accurate and sharp, for a distribution of any shape.

A forecast includes the discrepancy term of its card, because laws are less accurate beyond their runs. A refutation
does not: it tests whether the form itself agrees with the outcomes.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.card import SCHEMA, FitCard, Kind, Value
from analysis.check.rolling import crps
from analysis.fitting import Fit, load_fit, read_card
from analysis.table import seal as sealed
from analysis.table.runs import Runs, datasets, load, load_holdouts, open_holdouts
from analysis.table.seal import (
    Entry,
    Forecast,
    Forecaster,
    NaiveNoise,
    Power,
    Prediction,
    Region,
    SealedCell,
    SealedFit,
)
from scaling.errors import Code, UserError
from scaling.records import read_typed, write_json
from scaling.records.files import exclusive, listed

Array = np.ndarray
QUANTILES = (np.arange(50) + 0.5) / 50
REFUTED = 0.95  # a law is refuted where the outcomes together lie outside its joint forecast region at this level
REGION = 0.975  # of the draws: in simulations their 95 % region misses 1 to 11 % of truths (benchmarks/joint.py)


class Sealing(Value):
    """The result of sealing: the new or last entry, and the total number of ``sealed`` cells."""

    status: Literal["sealed", "unchanged"]
    entry: Entry
    sealed: int


class SealSummary(Value):
    """When the cells were sealed, and how many."""

    time: str
    sha256: str
    cells: int


class ScoredForecast(Value):
    """A forecast and its outcome: its error, also in units of the forecast's sd (``z``), and its CRPS."""

    run: str
    dataset: str
    forecaster: Forecaster
    value: float
    interval50: tuple[float, float]
    interval95: tuple[float, float]
    outcome: float
    error_percent: float
    z: float
    inside50: bool
    inside95: bool
    crps: float


class Ranked(Value):
    """A forecaster over the finished cells of a data set.

    Attributes:
      mean_error_percent: mean absolute error.
      bias_percent: mean signed error.
      inside50, inside95: number of ``cells`` inside the 50 % and 95 % intervals.
      refuted: whether the outcomes of an entry together refute it; None until all cells of an entry are finished.
    """

    forecaster: Forecaster
    cells: int
    crps: float
    mean_error_percent: float
    bias_percent: float
    inside50: int
    inside95: int
    refuted: bool | None


class DatasetScore(Value):
    """Forecasters by mean CRPS, the best first, and the expected power of their entries."""

    ranking: tuple[Ranked, ...]
    power: tuple[Power, ...]


class Score(Value):
    """All forecasts with a known outcome; ``waiting`` lists the sealed cells that are not finished."""

    sealed: tuple[SealSummary, ...]
    rows: tuple[ScoredForecast, ...]
    waiting: tuple[str, ...]
    datasets: dict[str, DatasetScore]
    kind: Literal["score"] = "score"
    schema: Literal[2] = SCHEMA


# --- the seal and the score


def power(
    fits: Mapping[Forecaster, Fit],
    holdouts: pd.DataFrame | Mapping[Forecaster, pd.DataFrame],
    noise: float | None = None,
) -> Power:
    """What the held-out cells can show before any outcome, by simulation from each fit in turn as the truth.

    Args:
      fits: the laws, each both a possible truth and a law under test.
      holdouts: the cells (columns of the laws), or one such table for each fit where their counts of N differ.
      noise: sd of log loss of one run; by default each fit's own noise.
    """
    logs = {}
    for who, fit in fits.items():
        logs[who] = _samples(fit, holdouts if isinstance(holdouts, pd.DataFrame) else holdouts[who], noise)
    return _power(logs, logs)


def seal(workdir: str | Path) -> Sealing:
    """Forecasts every held-out cell that has none yet and writes ``prediction.json``; no outcome is read.

    A cell is sealed once, by the first prediction. Sealing again with the same fits changes nothing; cells added to the
    study since are sealed in a new entry.

    Raises:
      UserError: no fits, no held-out cells, or a changed fit when every cell is sealed already.
    """
    workdir = Path(workdir)
    if not (found := _unsealed(workdir)).runs:
        return _again(workdir, found)
    with exclusive(workdir / sealed.LOCK):
        found = _unsealed(workdir)  # another process may have sealed them meanwhile
        return _seal(workdir, found) if found.runs else _again(workdir, found)


class _Unsealed(NamedTuple):
    """What there is to seal: the runs without a forecast, by data set; none where all have one."""

    prediction: Prediction | None
    cards: list[SealableCard]
    runs: dict[str, list[str]]

    @property
    def fits(self) -> tuple[SealedFit, ...]:
        return tuple(card.sealed for card in self.cards)


def _unsealed(workdir: Path) -> _Unsealed:
    prediction, known = sealed.read(workdir), sealed.sealed_runs(workdir)
    cards, names = fit_cards(workdir), datasets(workdir)
    if not cards:
        raise UserError("fits", workdir / "fits", "holds no fit card; fit the study first", Code.MISSING)
    wanted = {d: load_holdouts(workdir, d) for d in names}
    if not any(len(table) for table in wanted.values()):
        remedy = "the study has no held-out cells; give it some to test its law"
        raise UserError("holdouts", workdir, remedy, Code.MISSING)
    fresh = {d: [run for run in t["run"] if run not in known] for d, t in wanted.items() if len(t)}
    return _Unsealed(prediction, cards, {dataset: runs for dataset, runs in fresh.items() if runs})


def _seal(workdir: Path, found: _Unsealed) -> Sealing:
    """Writes the forecasts of the runs that have none."""
    new = [
        _forecast(workdir, dataset, runs, [c for c in found.cards if c.card.data.dataset == dataset])
        for dataset, runs in found.runs.items()
    ]
    entry = Entry(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        fits=found.fits,
        cells=tuple(cell for each in new for cell in each.cells),
        forecasts=tuple(forecast for each in new for forecast in each.forecasts),
        joint=tuple(region for each in new for region in each.joint),
        power={each.dataset: each.power for each in new},
        naive={each.dataset: each.naive for each in new},
    )
    entries = () if found.prediction is None else found.prediction.entries
    prediction = sealed.stamp(Prediction(entries=(*entries, entry)))
    write_json(workdir / sealed.FILE, prediction)
    return Sealing(status="sealed", entry=prediction.entries[-1], sealed=len(prediction.cells))


def _again(workdir: Path, found: _Unsealed) -> Sealing:
    """Sealing when every cell is sealed: nothing changes, and the fits must be the sealed ones."""
    assert found.prediction is not None
    last = found.prediction.entries[-1]
    if last.fits != found.fits:
        remedy = "changed after every held-out cell was sealed; add new held-out cells to test them"
        raise UserError("fits", workdir / "fits", remedy, Code.CHANGED)
    count = len({cell.run for cell in found.prediction.cells})
    return Sealing(status="unchanged", entry=last, sealed=count)


def score(workdir: str | Path) -> Score:
    """Opens the outcomes of the sealed cells and scores every forecaster.

    Raises:
      UserError: nothing was sealed, or the prediction was changed after the seal.
    """
    workdir = Path(workdir)
    prediction = sealed.read(workdir)
    if prediction is None:
        raise UserError("prediction", workdir / sealed.FILE, "there is none; seal the forecasts first", Code.MISSING)
    entries, outcomes = prediction.entries, _outcomes(workdir, prediction)
    rows = [_score(f, outcomes[f.run]) for entry in entries for f in entry.forecasts if f.run in outcomes]
    scored: dict[str, DatasetScore] = {}
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        joint = [region for entry in entries for region in entry.joint if region.dataset == dataset]
        expected = tuple(entry.power[dataset] for entry in entries if dataset in entry.power)
        scored[dataset] = DatasetScore(ranking=_ranking(own, joint, outcomes), power=expected)
    return Score(
        sealed=tuple(SealSummary(time=e.time, sha256=e.sha256, cells=len(e.cells)) for e in entries),
        rows=tuple(rows),
        waiting=tuple(cell.run for cell in prediction.cells if cell.run not in outcomes),
        datasets=scored,
    )


def _outcomes(workdir: Path, prediction: Prediction) -> dict[str, float]:
    """Losses of the sealed cells that are finished, by run."""
    outcomes: dict[str, float] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in prediction.cells):
        opened = open_holdouts(workdir, dataset)
        outcomes |= {str(run): float(loss) for run, loss in zip(opened["run"], opened["loss"], strict=True)}
    return outcomes


# --- sealing


class SealableCard(NamedTuple):
    """A fit card of a work directory and its entry in the seal."""

    path: Path
    card: FitCard
    sealed: SealedFit
    n: str


def fit_cards(workdir: Path) -> list[SealableCard]:
    """All fit cards of a study's runs, in order of name."""
    cards = []
    for path in listed(workdir / "fits"):
        if path.suffix != ".json" or read_typed(path, Kind).kind != "fit":
            continue
        card = read_card(path)
        if card.conventions.n is None or card.draws is None:
            continue  # a fit of another table
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        about = SealedFit(file=path.name, sha256=digest, draws=card.draws.sha256)
        cards.append(SealableCard(path, card, about, card.conventions.n))
    return cards


class _Forecasts(NamedTuple):
    """What is sealed for one data set."""

    dataset: str
    cells: tuple[SealedCell, ...]
    forecasts: tuple[Forecast, ...]
    joint: tuple[Region, ...]
    power: Power
    naive: tuple[NaiveNoise, ...]


def _forecast(workdir: Path, dataset: str, runs: Sequence[str], cards: Sequence[SealableCard]) -> _Forecasts:
    """Cells, forecasts, joint forecasts and expected power for one data set."""
    if not cards:
        remedy = f"holds no fit of {dataset}, whose held-out cells wait; fit it too"
        raise UserError("fits", workdir / "fits", remedy, Code.MISSING)
    logs: dict[Forecaster, Array] = {}
    exact: dict[Forecaster, Array] = {}  # as if the form were true
    points: dict[Forecaster, Array] = {}
    noises: list[NaiveNoise] = []
    for n in dict.fromkeys(card.n for card in cards):
        cells = load_holdouts(workdir, dataset, n)
        cells = cells.iloc[[i for i, run in enumerate(cells["run"]) if run in runs]].reset_index(drop=True)
        fits = {Forecaster(law=card.card.law, n=n): load_fit(card.path) for card in cards if card.n == n}
        for who, fit in fits.items():
            columns = columns_of(cells)
            logs[who], points[who] = np.log(fit.samples(columns)), np.log(fit.predict(columns).value)
            exact[who] = _samples(fit, cells, None)
        who = Forecaster(law=None, n=n)
        points[who], logs[who], noise = naive(load(workdir, dataset=dataset, n=n), cells, list(fits.values()))
        exact[who] = logs[who]
        noises.append(noise)
    cells = load_holdouts(workdir, dataset)
    order = [run for run in cells["run"] if run in runs]
    return _Forecasts(
        dataset,
        _sealed_cells(cells, runs, dataset, load(workdir, dataset=dataset)),
        tuple(
            _one(run, dataset, who, points[who][j], values[:, j])
            for who, values in logs.items()
            for j, run in enumerate(order)
        ),
        tuple(_region(dataset, who, order, values) for who, values in exact.items()),
        _power(exact, logs),
        tuple(noises),
    )


def _sealed_cells(cells: pd.DataFrame, runs: Sequence[str], dataset: str, fitted: Runs) -> tuple[SealedCell, ...]:
    top: Any = fitted.table
    sealed = []
    for cell in cells.to_dict("records"):
        if cell["run"] not in runs:
            continue
        sealed.append(
            SealedCell(
                run=cell["run"],
                dataset=dataset,
                N={str(k).removeprefix("N_"): float(v) for k, v in cell.items() if str(k).startswith("N_")},
                D=float(cell["D"]),
                C=float(cell["C"]),
                beyond=tuple(k for k in ("N", "D") if cell[k] > 1.01 * top[k].max()),
                compute_ratio=float(cell["C"] / top["C"].max()),
                status=cell["status"],
            )
        )
    return tuple(sealed)


def _one(run: str, dataset: str, who: Forecaster, point: float, logs: Array) -> Forecast:
    """A forecast from a point value and samples (S,), both of log loss."""
    q = np.exp(np.quantile(logs, [0.025, 0.25, 0.75, 0.975, *QUANTILES]))
    return Forecast(
        run=run,
        dataset=dataset,
        forecaster=who,
        value=float(np.exp(point)),
        interval50=(float(q[1]), float(q[2])),
        interval95=(float(q[0]), float(q[3])),
        quantiles=tuple(round(float(x), 8) for x in q[4:]),
    )


def _region(dataset: str, who: Forecaster, runs: Sequence[str], logs: Array) -> Region:
    centre, covariance, limit = region(logs)
    return Region(
        dataset=dataset,
        forecaster=who,
        runs=tuple(runs),
        centre=tuple(float(x) for x in centre),
        covariance=tuple(tuple(float(x) for x in row) for row in covariance),
        limit=float(limit),
    )


def columns_of(cells: pd.DataFrame) -> dict[str, Any]:
    """The numeric columns of a table, and the stems by which its rows share noise."""
    columns = {str(c): np.asarray(cells[c]) for c in cells.columns if np.asarray(cells[c]).dtype.kind in "fiu"}
    return {**columns, "stem": np.asarray(cells["stem"])} if "stem" in cells else columns


def _samples(fit: Fit, cells: pd.DataFrame, noise: float | None) -> Array:
    """Log losses (S, cells) of new runs if the form is true: uncertainty of the parameters and noise of a run."""
    if noise is None:
        return np.log(fit.samples(columns_of(cells), new_run=True, discrepancy=False))
    losses = np.log(fit.samples(columns_of(cells), new_run=False, discrepancy=False))
    return losses + noise * np.random.default_rng(1).standard_normal(losses.shape)


def naive(runs: Runs, cells: pd.DataFrame, fits: Sequence[Fit]) -> tuple[Array, Array, NaiveNoise]:
    """The naive forecast: the nearest fitted cell and the local log-log slopes in N and D.

    It is the plane through three cells: the nearest one, its nearest neighbour of another size, and of another D. Its
    uncertainty includes only the noise of those losses and of the new run, all that such an extrapolation can know.

    Returns:
      Log losses (cells,), their samples (S, cells), and their noise.
    """
    table = runs.table
    x = np.log(np.stack([np.asarray(table["N"], float), np.asarray(table["D"], float)], 1))
    index = np.unique(np.round(x, 6), axis=0, return_inverse=True)[1].reshape(-1)
    y = np.log(np.asarray(table["loss"], float))
    count = np.bincount(index)
    keys = np.stack([np.bincount(index, x[:, k]) / count for k in (0, 1)], 1)
    mean = np.bincount(index, y) / count
    df = int(np.sum(count - 1))
    if df >= 1:
        sigma, of = float(np.sqrt(np.sum((y - mean[index]) ** 2) / df)), "seeds"
    else:  # no cell has two seeds: use the residuals of the best law
        sigma, df, of = float(min(np.hypot(f.noise.sigma_run, f.noise.sigma_stem) for f in fits)), 0, "residuals"
    noise = NaiveNoise(n=runs.conventions.n or "", sd=sigma, df=df, of=of)
    rng = np.random.default_rng(2)
    point, spread = np.empty(len(cells)), np.empty(len(cells))
    for j in range(len(cells)):
        target = np.log([float(cells["N"].iloc[j]), float(cells["D"].iloc[j])])
        corners, weights = _plane(keys, target)
        point[j] = weights @ mean[corners]
        spread[j] = sigma * np.sqrt(1.0 + np.sum(weights**2 / count[corners]))
    scale = np.sqrt(df / rng.chisquare(df, 2000)) if df else np.ones(2000)
    return point, point + spread * scale[:, None] * rng.standard_normal((2000, len(cells))), noise


def _plane(keys: Array, target: Array) -> tuple[list[int], Array]:
    """Indices of up to 3 cells of ``keys`` (cells, 2), log N and log D, and weights of their plane at a target."""
    first = int(np.argmin(np.sum((keys - target) ** 2, axis=1)))
    corners, away = [first], keys - keys[first]
    for axis in (0, 1):
        other = np.flatnonzero(np.abs(away[:, axis]) > 0.01)
        if len(other):
            cost = 10 * np.abs(away[other, 1 - axis]) + np.abs(away[other, axis])
            corners.append(int(other[np.argmin(cost)]))
    design = np.column_stack([np.ones(len(corners)), keys[corners] - keys[first]])
    return corners, np.linalg.pinv(design).T @ np.concatenate([[1.0], target - keys[first]])


# --- power and scores


def region(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Centre and covariance, both robust to far draws of a fit that is not identified, and limit of the distance."""
    centre = np.median(logs, axis=0)
    low, high = np.quantile(logs, [0.1587, 0.8413], axis=0)
    scale = np.maximum((high - low) / 2, 1e-9)
    z = np.clip((logs - centre) / scale, -4, 4)
    z = (z - z.mean(axis=0)) / np.maximum(z.std(axis=0), 1e-9)
    correlation = z.T @ z / len(z)
    correlation = 0.999 * correlation + 0.001 * np.eye(len(centre))  # keeps perfectly correlated cells invertible
    covariance = correlation * np.outer(scale, scale)
    return centre, covariance, float(np.quantile(distance(logs, centre, covariance), REGION))


def distance(y: np.ndarray, centre: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    away = np.atleast_2d(y) - centre
    return np.einsum("si,ij,sj->s", away, np.linalg.inv(covariance), away)


def _power(logs: Mapping[Forecaster, Array], forecasts: Mapping[Forecaster, Array]) -> Power:
    """Power by simulation: ``logs`` are the truths and the tested regions, ``forecasts`` the scored samples."""
    who = list(logs)
    regions = {name: region(values) for name, values in logs.items()}
    ensembles = [np.exp(np.quantile(forecasts[name], QUANTILES, axis=0)).T for name in who]
    refute, choose = [], []
    for i, truth in enumerate(who):
        y = logs[truth]
        outside = (distance(y, *regions[law][:2]) > regions[law][2] for law in who)
        refute.append(tuple(float(np.mean(share)) for share in outside))
        scores = np.stack([crps(ensemble[None], np.exp(y)).mean(1) for ensemble in ensembles])
        choose.append(float(np.mean(np.argmin(scores, axis=0) == i)))
    cells = len(next(iter(regions.values()))[0])
    return Power(cells=cells, level=REFUTED, forecasters=tuple(who), refute=tuple(refute), choose=tuple(choose))


def _score(forecast: Forecast, outcome: float) -> ScoredForecast:
    q = np.array(forecast.quantiles)
    low, middle, high = np.quantile(np.log(q), [0.1587, 0.5, 0.8413])
    (a50, b50), (a95, b95) = forecast.interval50, forecast.interval95
    return ScoredForecast(
        run=forecast.run,
        dataset=forecast.dataset,
        forecaster=forecast.forecaster,
        value=forecast.value,
        interval50=forecast.interval50,
        interval95=forecast.interval95,
        outcome=outcome,
        error_percent=100 * (forecast.value - outcome) / outcome,
        z=float((np.log(outcome) - middle) / max((high - low) / 2, 1e-9)),
        inside50=bool(a50 <= outcome <= b50),
        inside95=bool(a95 <= outcome <= b95),
        crps=float(crps(q, outcome)),
    )


def _ranking(
    rows: Sequence[ScoredForecast], joint: Sequence[Region], outcomes: Mapping[str, float]
) -> tuple[Ranked, ...]:
    ranking = []
    for who in dict.fromkeys(row.forecaster for row in rows):
        own = [row for row in rows if row.forecaster == who]
        tests = [_outside(region, outcomes) for region in joint if region.forecaster == who]
        tested = [test for test in tests if test is not None]
        ranking.append(
            Ranked(
                forecaster=who,
                cells=len(own),
                crps=_mean(row.crps for row in own),
                mean_error_percent=_mean(abs(row.error_percent) for row in own),
                bias_percent=_mean(row.error_percent for row in own),
                inside50=sum(row.inside50 for row in own),
                inside95=sum(row.inside95 for row in own),
                refuted=any(tested) if tested else None,
            )
        )
    most = max(entry.cells for entry in ranking)
    return tuple(sorted(ranking, key=lambda entry: (entry.cells < most, entry.crps)))


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _outside(joint: Region, outcomes: Mapping[str, float]) -> bool | None:
    """Whether the outcomes of one sealed entry together refute a forecaster; None until all are finished."""
    if not all(run in outcomes for run in joint.runs):
        return None
    y = np.log([outcomes[run] for run in joint.runs])
    return bool(distance(y, np.array(joint.centre), np.array(joint.covariance))[0] > joint.limit)
