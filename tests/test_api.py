"""``import analysis`` as a scientist uses it: every public call, what it prints and what it refuses."""

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis.card import Interval
from scaling.errors import Code

PUBLIC = ["Fit", "Law", "compare", "fit", "gate", "laws", "load", "plan_gate", "plots", "reference"]
TRUE = {"E": 1.7, "A": 400.0, "B": 2000.0, "alpha": 0.34, "beta": 0.36}


def table(seed: int = 0, noise: float = 0.003, shift: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cells = [(n, d) for n in np.geomspace(1e7, 1e9, 6) for d in np.geomspace(1e9, 1e11, 6)]
    frame = pd.DataFrame(cells, columns=["N", "D"])
    loss = analysis.laws.get("chinchilla").predict(TRUE, frame) * shift
    return frame.assign(loss=loss * np.exp(noise * rng.standard_normal(len(frame))))


@pytest.fixture(scope="module")
def df():
    return table()


@pytest.fixture(scope="module")
def fit(df):
    return analysis.fit(df)


def own_law() -> analysis.Law:
    laws = analysis.laws
    params = (laws.E, laws.amplitude("A", "a"), laws.amplitude("B", "b"), laws.exponent("s", "one slope for both"))
    terms = (laws.Term("A", (("N", "s"),)), laws.Term("B", (("D", "s"),)))
    return analysis.Law("equal", "L = E + A N^-s + B D^-s", params, terms, "this test")


def test_every_call_from_python(df, fit, tmp_path):
    import matplotlib.pyplot as plt

    assert "alpha" in repr(fit) and "95 % intervals" in str(fit)
    assert fit._repr_html_().startswith("<div>") and "<table>" in fit._repr_html_()
    there = fit.predict(N=7e9, D=1e12)
    assert there.value.shape == (1,) and there.lo[0] < there.value[0] < there.hi[0]
    best = fit.optimal(flops=1e22)
    assert isinstance(best.N, Interval) and best.N.value * best.D.value * 6 == pytest.approx(1e22, rel=1e-6)
    assert f"  N      {best.N.value:.4g} [" in repr(best) and "cost: C = 6ND" in repr(best)
    assert fit.draws.shape == (1000, 5)
    figure, ax = plt.subplots()
    fit.plot(ax=ax)
    assert ax.lines and ax.get_xlabel()
    plt.close(figure)
    assert fit.to_frame().loc["alpha", "value"] == fit.params["alpha"]
    assert r"\alpha" in fit.to_latex()
    made: dict = {}
    exec(fit.to_python(), made)
    assert made["loss"](7e9, 1e12) == pytest.approx(fit.law.predict(fit.theta, {"N": [7e9], "D": [1e12]})[0], rel=1e-12)
    equal = analysis.fit(df, law=own_law())
    assert equal.law.name == "equal" and 0.3 < equal.params["s"] < 0.4
    other = analysis.fit(table(seed=1, shift=1.02))
    found = analysis.compare(fit, other, labels=("here", "there"))
    assert {pair.outcome for pair in found.quantities["a"].pairs} == {"equal"}
    assert "\na: here - there = " in repr(found) and repr(found).startswith("member  law ")
    gadre = analysis.reference.load("gadre")
    assert analysis.fit(gadre, law="overtraining", scheme="delta-t").params["eta"] == pytest.approx(0.13, abs=0.02)


def test_importing_costs_nothing_and_offers_what_it_says():
    code = (
        "import sys, analysis\n"
        "heavy = {'numpy', 'pandas', 'scipy', 'matplotlib', 'jax', 'msgspec'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        f"assert dir(analysis) == {PUBLIC!r}, dir(analysis)\n"
        "analysis.fit; assert not {'matplotlib', 'jax'} & set(sys.modules)\n"
        "try: analysis.nothing\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('a name that is none was found')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.mark.parametrize("name", ["load", "fit", "compare", "gate", "plan_gate", "Fit"])
def test_help_says_what_goes_in_and_comes_out(name):
    text = pydoc.plain(pydoc.render_doc(getattr(analysis, name)))
    sections = ("Attributes:",) if name == "Fit" else ("Args:", "Returns:", "Raises:")
    assert all(section in text for section in sections)
    if name != "Fit":
        said = inspect.getdoc(getattr(analysis, name)) or ""
        for parameter in inspect.signature(getattr(analysis, name)).parameters:
            assert parameter in said, f"{name} does not say what {parameter} is"


@pytest.mark.parametrize("name", ["predict", "optimal", "plot", "to_frame", "to_latex", "to_python", "save", "load"])
def test_every_method_of_a_fit_has_help(name):
    assert inspect.getdoc(getattr(analysis.Fit, name))


def test_a_path_a_frame_and_runs_are_fitted_alike(df, fit, tmp_path):
    df.to_csv(tmp_path / "runs.csv", index=False)
    assert analysis.fit(tmp_path / "runs.csv").params == pytest.approx(fit.params, rel=1e-9)
    assert analysis.fit(analysis.load(df)).params == fit.params


def test_names_and_units_of_another_table(df, fit, tmp_path):
    other = pd.DataFrame({"size": df.N / 1e6, "tokens_b": df.D / 1e9, "val": df.loss / np.log(2)})
    asked = {
        "columns": {"N": "size", "D": "tokens_b", "loss": "val"},
        "units": {"N": "M", "D": 1e9, "loss": "bits"},
    }
    # numbers that differ in their last bits move the sampler's path, so the estimates are near and not equal
    assert analysis.fit(other, **asked).params == pytest.approx(fit.params, rel=0.01)
    other.to_csv(tmp_path / "other.csv", index=False)
    found = analysis.load(tmp_path / "other.csv", **asked)
    for name in ("N", "D", "loss"):
        np.testing.assert_allclose(found.table[name], df[name], rtol=1e-12)
    assert found.source == str(tmp_path / "other.csv")


def test_a_law_of_one_column_is_named_by_it(df):
    found = analysis.fit(df.assign(compute=6 * df.N * df.D), "power_floor", columns={"x": "compute"})
    assert found.law.name == "power_floor:compute"


def test_a_saved_fit_comes_back_with_its_methods(df, fit, tmp_path):
    fit.save(tmp_path / "fit.json")
    back = analysis.Fit.load(tmp_path / "fit.json")
    assert type(back) is analysis.Fit and back.params == fit.params
    np.testing.assert_array_equal(back.draws, fit.draws)
    law = own_law()
    analysis.fit(df, law=law).save(tmp_path / "own.json")
    with refuses(Code.MISSING, "law", "equal"):
        analysis.Fit.load(tmp_path / "own.json")
    assert analysis.Fit.load(tmp_path / "own.json", law=law).law is law
    with refuses(Code.CONFLICT, "law"):
        analysis.Fit.load(tmp_path / "own.json", law="chinchilla")


def test_what_cannot_go_together_is_refused(df, fit):
    with refuses(Code.CONFLICT, "where"):
        analysis.fit(analysis.load(df), where="N > 1e8")
    with refuses(Code.UNKNOWN, "units", "Q"):
        analysis.fit(df, units={"Q": 1.0})
    with refuses(Code.UNKNOWN, "units", "N=m"):
        analysis.fit(df, units={"N": "m"})
    with refuses(Code.INVALID, "units"):
        analysis.fit(df, units={"N": -1.0})
    with refuses(Code.UNSUPPORTED, "term"):
        analysis.load(df, term="mlm")
    with refuses(Code.UNKNOWN, "law"):
        analysis.fit(df, law="chinchila")
    with refuses(Code.TOO_FEW):
        analysis.compare(fit)
    with refuses(Code.INVALID, "labels"):
        analysis.compare(fit, fit, labels=("one",))


def test_fits_are_told_apart_by_what_differs(df, fit):
    equal = analysis.fit(df.assign(loss=df.loss * 1.01), law=own_law())
    assert [m.label for m in analysis.compare(fit, equal).members] == ["chinchilla", "equal"]
    again = analysis.fit(table(seed=2))
    assert len({m.label for m in analysis.compare(fit, again).members}) == 2


def test_the_block_of_the_docs_runs(df, tmp_path, monkeypatch):
    """Word by word, on a table of that name."""
    text = (Path(__file__).parents[1] / "docs" / "reference" / "python.md").read_text()
    block = text.split("```python\n", 1)[1].split("```", 1)[0]
    df.to_csv(tmp_path / "runs.csv", index=False)
    table(seed=1).to_csv(tmp_path / "other.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(block, "python.md", "exec"), names)
    assert isinstance(names["fit"], analysis.Fit)
