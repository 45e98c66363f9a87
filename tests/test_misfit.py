"""Lack of fit without replicates: structure in the residuals names a wrong form, and leaves a right one alone."""

import msgspec
import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import card
from analysis.check.structure import structure
from analysis.engine.estimate import estimate, objective
from analysis.engine.inference import infer
from analysis.show.sentences import sentence, verdict
from analysis.table.frame import from_frame

LAW = analysis.laws.get("chinchilla")
RATIOS = (3.0, 10.0, 30.0, 100.0, 300.0)
S, Q, SHIFT, B, SLOPE, OFFSET = -0.0624655, 0.13, 0.128488, 230.734, -0.1729, -1.54421
DEEP, RISE, END = -1.665631, 0.0459, 3.133347  # Farseer's, arXiv 2506.10972


def loss(truth: str, n: np.ndarray, d: np.ndarray) -> np.ndarray:
    if truth == "law":
        return 1.69 + 406.4 * n**-0.34 + 410.7 * d**-0.28
    if truth == "skaling":
        return 1.69 + 400 * (n**-0.68 + d**-0.56) ** 0.5
    return np.exp(S * n**Q + SHIFT) + np.exp(B * n**SLOPE + OFFSET) * d ** -np.exp(DEEP * n**RISE + END)


def study(truth: str, seed: int, *, sizes: int = 12, run: float = 0.002, size: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    own = np.geomspace(1e7, 1e10, sizes)
    n, d = np.repeat(own, len(RATIOS)), np.repeat(own, len(RATIOS)) * np.tile(RATIOS, sizes)
    noise = run * rng.standard_normal(len(n)) + np.repeat(size * rng.standard_normal(sizes), len(RATIOS))
    return pd.DataFrame({"N": n, "D": d, "loss": loss(truth, n, d) * np.exp(noise)})


def misfits(fit: analysis.Fit) -> list[card.Misfit]:
    return [w for w in fit.warnings if isinstance(w, card.Misfit)]


@pytest.mark.parametrize("truth", ["skaling", "farseer"])
def test_a_wrong_form_is_named_with_the_size_of_its_misfit(truth):
    fit = analysis.fit(study(truth, 1))
    (warning,) = misfits(fit)
    assert warning.share > 0.8 and 0.004 < warning.size_log < 0.05
    assert fit.noise.structure is not None and fit.noise.structure.p == warning.p < 1e-6
    assert "in this form" in verdict(fit) and "at this scale, 95 %" not in verdict(fit)
    assert warning.floors["chinchilla"] == pytest.approx(fit.params["E"], rel=1e-6)
    if truth == "skaling":  # the law that is true fits as well, and its floor is another
        assert warning.floors["skaling"] == pytest.approx(1.69, abs=0.1)
        apart = msgspec.structs.replace(warning, floors={"chinchilla": 1.2, "skaling": 1.7})
        assert "1.7 (skaling)" in sentence(apart) and "skaling" not in sentence(warning)  # here both find 1.69
        assert not misfits(analysis.fit(study(truth, 1), "skaling"))


def test_a_right_form_is_left_alone():
    """Nominal: 1 % of studies, also with an effect a size (benchmarks/structure.py)."""

    def p(table: pd.DataFrame) -> float:
        rows = from_frame(table).table.reset_index(drop=True)
        point = estimate(LAW, rows, rows["loss"].to_numpy(dtype=float), objective("auto"))
        found = structure(point, infer(point, point.y, rows, draws=100), rows)
        assert found is not None
        return found.p

    plain = [p(study("law", seed, sizes=8, run=0.003)) for seed in range(6)]
    shared = [p(study("law", seed, sizes=8, run=0.005, size=0.005)) for seed in range(6)]
    assert sum(value < 0.01 for value in plain + shared) <= 1 and sum(value < 0.5 for value in plain + shared) >= 3


def test_few_or_exact_rows_refute_nothing():
    few = analysis.fit(study("law", 2, sizes=2).iloc[[0, 1, 3, 5, 6, 8, 9]])
    assert few.noise.structure is None and not misfits(few)
    exact = study("law", 2, run=0.0)
    assert not misfits(analysis.fit(exact)) and not misfits(analysis.fit(exact.round({"loss": 4})))


def test_a_law_of_one_variable_below_an_offset_that_it_cannot_have():
    x = np.geomspace(0.015, 0.9, 13)
    y = 4.2 * x**-0.31 - 3.9
    fit = analysis.fit(pd.DataFrame({"x": x, "loss": y}), "power_floor")
    assert misfits(fit) and "in this form" in verdict(fit) + sentence(misfits(fit)[0])
