"""Laws on the published runs that they were made for: known optima, refits, forecasts of the dearest runs."""

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import laws, reference


def mean_huber(law: str, params: dict[str, float], table: pd.DataFrame) -> float:
    """Mean Huber loss of log residuals at 1e-3: the objective of the paper."""
    r = np.abs(np.log(table["loss"]) - np.log(laws.get(law).predict(params, table)))
    return float(np.where(r < 1e-3, r * r / 2, 1e-3 * (r - 5e-4)).mean())


def test_the_published_optimum_of_sparsity_is_found_to_be_none():
    """Frantar 2023's notebook prints 7.604e-6; there is a lower minimum, at another floor."""
    table = reference.load("frantar").table
    table = table.assign(N=table["N"] / 1e6, D=table["D"] / 1e5)
    printed = {"E": 0.6507, "a_S": 0.5678, "c_S": 1.5227, "B": 0.6336, "b_S": 0.7216, "b_N": 0.2451, "b_D": 0.2027}
    assert mean_huber("sparsity", printed, table) == pytest.approx(7.604e-6, rel=1e-4)
    columns = pd.DataFrame({name: table[name] for name in ("N", "D", "sparsity", "loss")})
    fit = analysis.fit(columns, law="sparsity", objective="huber:1e-3", scheme="delta-t")
    assert mean_huber("sparsity", fit.params, table) == pytest.approx(4.880e-6, rel=1e-4)
    lower = {"E": 0.830, "a_S": 0.436, "c_S": 1.695, "B": 0.4176, "b_S": 1.345, "b_N": 0.2317, "b_D": 0.3846}
    assert fit.params == pytest.approx(lower, abs=6e-4)


@pytest.mark.parametrize(("group", "error"), [("pile", 0.004), ("stack", 0.008)])
def test_parallel_streams_forecast_the_largest_models(group: str, error: float):
    runs = reference.load("scalebench_parallel", where=f"group == '{group}'")
    fit = analysis.fit(runs, law="parallel", scheme="delta-t")
    assert fit.card.objective.rms_log_residual < 0.003
    assert 0.15 < fit.params["alpha"] < 0.3 and 0.3 < fit.params["k"] < 0.45
    largest = runs.table["N"].max()
    small, large = (
        reference.load("scalebench_parallel", where=f"group == '{group}' and num_params {sign} {largest}")
        for sign in ("<", "==")
    )
    forecast = analysis.fit(small, law="parallel", scheme="delta-t").predict(
        N=large.table["N"], streams=large.table["streams"]
    )
    assert np.abs(forecast.value / large.table["loss"] - 1).mean() < error


def test_skaling_at_an_outer_exponent_of_one_is_the_default_form():
    skaling, plain = laws.get("skaling"), laws.default()
    theta = dict(plain.example)
    other = {"E": theta["E"], "A": theta["A"], "R": theta["B"] / theta["A"], "k": 1.0}
    other |= {name: theta[name] for name in ("alpha", "beta")}
    cells = {"N": np.array([1e6, 1e8, 1e9]), "D": np.array([1e9, 1e9, 1e12])}
    np.testing.assert_allclose(skaling.predict(other, cells), plain.predict(theta, cells), rtol=1e-12)
    np.testing.assert_allclose(
        skaling.optimum(skaling.vector(other), 1e21), plain.optimum(plain.vector(theta), 1e21), rtol=1e-12
    )
