"""Every law of the registry: derivatives, planted coefficients, bounds, allocation; and what importing costs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from law_tables import columns_of, runs_of
from refusals import refuses
from selection import mostly_system

from analysis import laws
from analysis.engine.estimate import estimate, objective
from analysis.engine.surface import surface_of
from analysis.fitting import fit, load_fit
from analysis.laws.smooth import of_power
from analysis.table.runs import from_frame
from scaling.cli import main
from scaling.errors import Code

ALL = sorted(laws.REGISTRY)
FITTED_FROM_TABLES = [name for name in ALL if name != "multipower"]  # that one takes arrays of whole schedules


# laws of many exponents take seconds to fit; their derivatives and bounds are tested with every change
SLOW = ("farseer", "overfitting", "lr_batch")
SLOW_CARDS = (*SLOW, "distillation")  # whose linearised draws leave the law, and are sampled instead


def rows(n: int = 30, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"N": 10 ** rng.uniform(6, 9, n), "D": 10 ** rng.uniform(8, 11, n), "x": 10 ** rng.uniform(4, 8, n)}


def near(law, columns, scale=3.0, centred=True):
    """A surface and a point of it away from the example."""
    surface = surface_of(law, columns, scale=scale, centred=centred)
    rng = np.random.default_rng(0)
    return surface, surface.to_z(law.vector(law.example)[None]) + 0.03 * rng.standard_normal(surface.P)


@pytest.mark.parametrize("name", mostly_system(ALL, *(name for name in ALL if name not in SLOW)))
def test_planted_coefficients_come_back(name):
    law = laws.get(name)
    columns = columns_of(law)
    loss = law.predict(law.example, columns)
    for kind in ("squares",) if law.name == "multipower" else ("squares", "auto", "huber:1e-3"):
        found = estimate(law, columns, loss, objective(kind))
        np.testing.assert_allclose(found.theta, law.vector(law.example), rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize("name", ALL)
class TestEveryLaw:
    def test_derivatives_equal_finite_differences(self, name):
        law = laws.get(name)
        surface, z = near(law, columns_of(law))
        c1, c2 = np.random.default_rng(1).standard_normal((2, 1, surface.n))
        step = 1e-5 * np.eye(surface.P)

        def difference(f):
            return np.stack([(f(z + e) - f(z - e)) / 2e-5 for e in step], -1)

        state = surface.evaluate(z)[1]
        jacobian = surface.jacobian(state)
        np.testing.assert_allclose(jacobian, difference(lambda at: surface.evaluate(at)[0]), atol=1e-6, rtol=1e-6)
        gradient, hessian = surface.normal(state, c1, 0 * c1)
        np.testing.assert_allclose(gradient, np.einsum("sn,snp->sp", c1, jacobian), rtol=1e-8, atol=1e-11)
        expected = difference(lambda at: surface.normal(surface.evaluate(at)[1], c1, 0 * c1)[0])
        np.testing.assert_allclose(hessian, expected, atol=2e-6 * max(1.0, np.abs(expected).max()))
        outer = np.einsum("sn,snp,snq->spq", c2, jacobian, jacobian)
        np.testing.assert_allclose(surface.normal(state, 0 * c2, c2)[1], outer, rtol=1e-8, atol=1e-10)

    def test_coordinates_round_trip_and_agree_with_predict(self, name):
        law = laws.get(name)
        columns, theta = columns_of(law), law.vector(law.example)
        for centred in (True, False):
            surface = surface_of(law, columns, scale=2.5, centred=centred)
            z = surface.to_z(theta[None])
            np.testing.assert_allclose(surface.to_theta(z)[0], theta, rtol=1e-10)
            np.testing.assert_allclose(np.exp(surface.evaluate(z)[0][0]), law.predict(theta, columns), rtol=1e-12)

    def test_leading_axis_of_parameter_sets(self, name):
        law = laws.get(name)
        columns, theta = columns_of(law), law.vector(law.example)
        both = law.predict(np.stack([theta, theta * 1.01]), columns)
        assert both.shape == (2, 60)
        np.testing.assert_allclose(both[0], law.predict(theta, columns), rtol=1e-14)
        assert not np.allclose(both[0], both[1])

    def test_bounds_hold_on_losses_of_another_kind(self, name):
        law = laws.get(name)
        columns = columns_of(law, 30 if name == "multipower" else 60)
        n = len(next(iter(columns.values())))
        loss = np.exp(np.random.default_rng(3).uniform(-1, 1, n))
        found = estimate(law, columns, loss, objective("squares"))
        assert np.isfinite(found.value)
        assert (found.z >= found.surface.lower - 1e-12).all() and (found.z <= found.surface.upper + 1e-12).all()
        for p, value in zip(law.params, found.theta):
            near = [1e-12 + 1e-9 * min(abs(end), 1e300) for end in (p.lower, p.upper)]
            assert np.isfinite(value) and p.lower - near[0] <= value <= p.upper + near[1], p.name

    def test_entry_is_complete(self, name):
        law = laws.get(name)
        assert law.source and law.formula and law.columns and law.response
        assert set(law.example) == set(law.names) and len(set(law.names)) == len(law.names)
        assert all(p.meaning and p.unit and p.lower < p.upper for p in law.params)
        assert set(law.linear) - {law.floor} <= {p.name for p in law.coordinates}
        # what a compute budget means for it: exponents, or a sentence that says why there are none
        assert (law.exponents(law.vector(law.example)) is None) == bool(law.no_optimum)


@pytest.mark.parametrize(
    "name", mostly_system(FITTED_FROM_TABLES, *(n for n in FITTED_FROM_TABLES if n not in SLOW_CARDS))
)
def test_a_table_becomes_a_card_and_comes_back(name, tmp_path):
    law = laws.get(name)
    one = law.columns == ("x",)
    asked = f"{name}:measure" if one else name
    runs = runs_of(law, noise=0.003)
    if one:
        runs = from_frame(runs.table.rename(columns={"x": "measure"}).drop(columns="run"))
    found = fit(runs, asked, objective="squares")
    found = found.save(tmp_path / "fit.json")
    back = load_fit(tmp_path / "fit.json")
    assert back.card == found.card and back.law.name == asked
    columns = {c: np.asarray(runs.table[c])[:5] for c in back.law.columns}
    np.testing.assert_array_equal(back.law.predict(back.theta, columns), found.law.predict(found.theta, columns))
    assert found.card.objective.rms_log_residual < 0.004
    for key, cell in found.card.params.items():  # not a test of coverage: three half-widths
        if cell.lo is not None and cell.hi is not None:
            wide = cell.hi - cell.lo
            assert cell.lo - wide <= law.example[key] <= cell.hi + wide, key


SMOOTH = sorted(name for name, law in laws.REGISTRY.items() if isinstance(law, laws.Smooth) and not law.slow)


@pytest.mark.parametrize("name", mostly_system(SMOOTH, "routing", "saturating"))
def test_jax_is_the_oracle_of_exact_derivatives(name):
    """The same formula with jax.numpy and automatic differentiation, at another point and in another batch."""
    import dataclasses

    law = laws.get(name)
    columns = columns_of(law, 12)
    surface, z = near(law, columns)
    other = surface_of(dataclasses.replace(law, slow=True), columns, scale=3.0)
    state, same = surface.evaluate(z)[1], other.evaluate(z)[1]
    np.testing.assert_allclose(state["log"], same["log"], rtol=1e-12)
    c1, c2 = np.random.default_rng(4).standard_normal((2, 1, 12))
    for mine, theirs in zip(surface.normal(state, c1, c2), other.normal(same, c1, c2)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["chinchilla", "product_floor", "overtraining", "granularity", "shape"])
def test_power_form_and_formula_have_equal_derivatives(name):
    law = laws.get(name)
    columns = columns_of(law)
    (a, z), (b, _) = near(law, columns), near(of_power(law), columns)
    np.testing.assert_allclose(a.evaluate(z)[0], b.evaluate(z)[0], rtol=1e-12)
    c1, c2 = np.random.default_rng(4).standard_normal((2, 1, a.n))
    pair = [s.normal(s.evaluate(z)[1], c1, c2) for s in (a, b)]
    np.testing.assert_allclose(pair[0][0], pair[1][0], rtol=1e-9)
    np.testing.assert_allclose(pair[0][1], pair[1][1], rtol=1e-9, atol=1e-10)


def test_the_registry_is_what_lies_in_the_folder(tmp_path):
    """A law is one new entry: a file put beside the others is found, and nothing else is touched."""
    code = (
        "import sys, analysis.laws as laws; from pathlib import Path\n"
        f"laws.__path__.append({str(tmp_path)!r}); found = laws._found(); assert found['mine'].columns == ('N',)\n"
        "assert set(found) == set(laws.REGISTRY) | {'mine'}"
    )
    (tmp_path / "mine.py").write_text(
        "from analysis.laws.base import Law, Term, amplitude, exponent\n"
        "parameters = (amplitude('A', 'a'), exponent('a', 'b'))\n"
        "mine = Law('mine', 'L = A N^-a', parameters, (Term('A', (('N', 'a'),)),), 's')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_new_law_is_one_entry():
    mine = laws.Law(
        "mine",
        "L = A N^-alpha + B D^-0.5",
        (
            laws.Param("A", "loss", 0, np.inf, "a"),
            laws.Param("B", "loss", 0, np.inf, "b"),
            laws.exponent("alpha", "s"),
        ),
        (laws.Term("A", (("N", "alpha"),)), laws.Term("B", (("D", 0.5),))),
        "this test",
    )
    loss = mine.predict({"A": 30.0, "B": 900.0, "alpha": 0.2}, rows())
    found = estimate(mine, rows(), loss, objective("squares"))
    np.testing.assert_allclose(found.theta, [30.0, 900.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize("name", ["chinchilla", "kaplan", "overtraining", "chinchilla[beta=alpha]"])
def test_optimum_is_the_minimum_along_the_budget(name):
    law = laws.get(name)
    theta = law.vector(law.example)
    n, d = law.optimum(theta, [1e18, 1e20])
    np.testing.assert_allclose(6 * n * d, [[1e18, 1e20]], rtol=1e-12)
    for c, best in zip([1e18, 1e20], n[0]):
        grid = best * np.exp(np.linspace(-0.5, 0.5, 2001))
        assert abs(np.argmin(law.predict(theta, {"N": grid, "D": c / 6 / grid})) - 1000) <= 1
    slope = np.log(n[0, 1] / n[0, 0]) / np.log(100)
    pair = law.exponents(theta)
    assert pair is not None
    assert pair["a"][0] == pytest.approx(slope, rel=1e-9)
    assert pair["a"][0] + pair["b"][0] == pytest.approx(1)


def test_hoffmann_exponent_is_not_taken_from_rounded_coefficients():
    # LAWS.md: .34 and .28 give .452; the unrounded coefficients give .4565 (published: .46)
    pair = laws.get("chinchilla").exponents([1.69, 406.4, 410.7, 0.33917084, 0.2849083])
    assert pair is not None and pair["a"][0] == pytest.approx(0.4565, abs=5e-5)


def test_laws_without_an_optimum_refuse():
    with refuses(Code.UNSUPPORTED, "law", "product"):
        laws.get("product").optimum([20, 0.05, 0.1], 1e18)


def test_one_variable_law_takes_any_column():
    law = laws.get("power_floor:C")
    assert law.columns == ("C",) and "C^-a" in law.formula and law.form == "power_floor"
    assert law.predict([1.0, 10.0, 0.1], {"C": [1.0]})[0] == pytest.approx(11.0)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("chinchila", Code.UNKNOWN),
        ("", Code.UNKNOWN),
        ("chinchilla[beta=alpha", Code.UNKNOWN),
        ("power:", Code.UNKNOWN),
        ("chinchilla:C", Code.UNSUPPORTED),
        ("nothing.py:law", Code.MISSING),
    ],
)
def test_names_that_are_no_law_are_refused(name, code):
    with refuses(code, "law", name):
        laws.get(name)


def test_the_nearest_name_is_offered():
    with refuses(Code.UNKNOWN, "law") as caught:
        laws.get("chinchila")
    assert "did you mean chinchilla?" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "code", "field"),
    [
        ({"N": [1.0]}, Code.MISSING, "column"),
        ({"N": [1.0], "D": [0.0]}, Code.INVALID, "D"),
        ({"N": [np.nan], "D": [1]}, Code.INVALID, "N"),
    ],
)
def test_bad_columns_are_named(columns, code, field):
    with refuses(code, field):
        laws.get("chinchilla").predict([1, 1, 1, 0.3, 0.3], columns)


# --- what a law says of itself


def test_one_law_is_the_default_and_four_are_fitted_to_a_study():
    assert laws.default().name == "chinchilla"
    assert [law.name for law in laws.standard()] == ["product", "product_floor", "chinchilla", "kaplan"]
    made = [laws.get("chinchilla[beta=alpha]"), laws.get("power:C")]
    assert not any(law.default or law.in_all for law in made)  # nothing made of an entry stands in for it


def test_a_law_that_holds_a_hyperparameter_says_what_is_left_at_its_best():
    held = {law.name: law for law in laws.REGISTRY.values() if law.tuning}
    assert set(held) == {"lr_loss", "lr_batch"}
    for law in held.values():
        tuning, inner, theta = law.tuning, laws.reduced(law), law.vector(law.example)
        assert tuning is not None and inner is not None and inner.name == "chinchilla"
        assert set(inner.names) < set(law.names)
        cells = {"N": np.array([1e8, 1e9]), "D": np.array([1e10, 1e11])}
        if "batch" in law.columns:
            cells["batch"] = law.example["b"] * cells["D"] ** law.example["n"]
        best = {**cells, tuning.column: tuning.best(theta, cells)}
        at_best = inner.predict({name: law.example[name] for name in inner.names}, cells)
        np.testing.assert_allclose(law.predict(theta, best), at_best, rtol=1e-12)
        off = {**cells, tuning.column: 3 * best[tuning.column]}
        np.testing.assert_allclose(law.predict(theta, off), at_best * (1 + tuning.regret(theta, off)), rtol=1e-12)
        assert laws.reduced(inner) is None
    assert laws.get("lr_loss[beta=alpha]").tuning is None


def test_irreducible_is_a_floor_in_the_unit_of_the_loss_alone():
    assert laws.get("chinchilla").irreducible == "E" and laws.get("annealing").irreducible == "L0"
    assert laws.get("downstream").irreducible is None  # an error
    assert laws.get("loss_to_loss").irreducible is None  # another loss
    assert laws.get("chinchilla_outer").irreducible is None  # E^q
    assert laws.get("product").irreducible is None


def test_kinds_of_parameters_agree_with_the_form():
    for law in laws.REGISTRY.values():
        floors = [p.name for p in law.params if p.kind == "floor"]
        assert floors == ([law.floor] if law.floor else []), law.name
        assert all(p.log for p in law.params if p.kind == "scale"), law.name
        assert all(p.portable for p in law.params if p.kind == "exponent"), law.name
    assert laws.get("kaplan").exponent_names == ("alpha_N", "alpha_D")
    assert laws.get("repeats").params[laws.get("repeats").index("R_D")].portable
    assert not laws.get("kaplan").params[0].portable  # a number of parameters, at which a loss is 1


def test_reducible_loss_falls_along_the_optimum_by_the_named_exponent():
    law = laws.get("chinchilla")
    theta = law.vector(law.example)
    found = law.reducible_exponent(np.stack([theta, [1.0, 1.0, 1.0, 0.0, 0.0]]))
    assert found is not None
    c, flat = found
    assert flat == 0.0
    n, d = law.optimum(theta, [1e20, 1e22])
    excess = law.predict(theta, {"N": n[0], "D": d[0]}) - law.example["E"]
    assert np.log(excess[0] / excess[1]) / np.log(100) == pytest.approx(c, rel=1e-9)
    for other in ("kaplan", "product_floor", "chinchilla_outer", "overtraining", "lr_loss", "power_floor"):
        assert laws.get(other).reducible_exponent(laws.get(other).vector(laws.get(other).example)) is None


def test_a_colour_does_not_depend_on_the_other_laws():
    styles = [law.style for law in laws.standard()]
    assert len(set(styles)) == len(styles) and all(isinstance(law.style, int) for law in laws.REGISTRY.values())
    one, two = (mine(name=name) for name in ("one", "two"))
    assert one.style == mine(name="one").style != two.style


# --- laws made in Python


def mine(**changes):
    parts = {
        "name": "mine",
        "formula": "L = E + A N^-alpha",
        "params": (laws.E, laws.amplitude("A", "a"), laws.exponent("alpha", "s")),
        "terms": (laws.Term("A", (("N", "alpha"),)),),
        "source": "this test",
    }
    return laws.Law(**{**parts, **changes})


def test_a_floor_is_found_by_its_kind_or_named():
    assert mine().floor == "E" and mine().form == "mine" and mine().columns == ("N",)
    plain = (laws.Param("E0", "loss", 0.0, 5.0, "floor"), *mine().params[1:])
    named = mine(params=plain, floor="E0")
    assert named.floor == "E0" and named.params[0].kind == "floor"
    assert mine(params=plain).floor is None


@pytest.mark.parametrize(
    ("changes", "code", "field", "value"),
    [
        ({"terms": (laws.Term("B", (("N", "alpha"),)),)}, Code.UNKNOWN, "terms", "B"),
        ({"terms": (laws.Term("A", (("N", "beta"),)),)}, Code.UNKNOWN, "terms", "beta"),
        ({"floor": "F"}, Code.UNKNOWN, "floor", "F"),
        ({"outer": "q"}, Code.UNKNOWN, "outer", "q"),
        ({"example": {"gamma": 1.0}}, Code.UNKNOWN, "example", "gamma"),
        ({"signed": ("D",)}, Code.UNKNOWN, "signed", "D"),
        ({"params": (*mine().params, laws.exponent("A", "s"))}, Code.CONFLICT, "params", "A"),
        ({"params": (laws.E, laws.floor("F", "f"))}, Code.CONFLICT, "params", "E, F"),
        ({"params": ()}, Code.MISSING, "params", None),
        ({"terms": ()}, Code.MISSING, "terms", None),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes, code, field, value):
    with refuses(code, field, value):
        mine(**changes)


def test_a_formula_names_its_amplitudes_among_its_parameters():
    def formula(m, p, c):
        return {"A": -p["alpha"] * m.log(c["N"])}

    parts = ("mine", "L = A N^-alpha", mine().params[1:], (), "this test")
    laws.Smooth(*parts, inputs=("N",), logs=formula, amplitudes=("A",))
    with refuses(Code.UNKNOWN, "amplitudes", "K"):
        laws.Smooth(*parts, inputs=("N",), logs=formula, amplitudes=("K",))
    with refuses(Code.UNKNOWN, "negative", "alpha"):
        laws.Smooth(*parts, inputs=("N",), logs=formula, amplitudes=("A",), negative=("alpha",))


def test_a_parameter_has_room_between_its_bounds():
    with refuses(Code.INVALID, "bounds of A"):
        laws.Param("A", "loss", 1.0, 1.0, "a")


MINE = """
from analysis.laws import E, Law, Term, amplitude, exponent

parameters = (E, amplitude("A", "a"), exponent("alpha", "s"))
law = Law("anything", "L = E + A x^-alpha", parameters, (Term("A", (("x", "alpha"),)),), "this file")
other = 3
"""


def test_a_law_in_a_file_goes_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    asked = f"{tmp_path}/mine.py:law"
    assert laws.get(asked).name == asked
    monkeypatch.chdir(tmp_path)
    assert laws.get("mine.py:law").name == "mine.py:law"
    in_c = laws.get("mine.py:law:C")
    assert in_c.name == "mine.py:law:C" and in_c.columns == ("C",) and in_c.form == "mine.py:law"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert laws.get("mine.py:law", tmp_path).name == "mine.py:law"  # beside the card that names it
    with refuses(Code.MISSING, "law", "mine.py:law"):
        laws.get("mine.py:law")


@pytest.mark.parametrize(
    ("text", "name", "code"),
    [
        (MINE, "other", Code.UNKNOWN),
        (MINE, "lwa", Code.UNKNOWN),
        ("law = 1 / 0", "law", Code.DAMAGED),
        ("law = (", "law", Code.DAMAGED),
        ("import sys; sys.exit(3)", "law", Code.DAMAGED),
        ("import nothing_of_that_name", "law", Code.DAMAGED),
        (MINE.replace('Term("A"', 'Term("B"'), "law", Code.UNKNOWN),
    ],
)
def test_a_file_that_makes_no_such_law_is_one_line(text, name, code, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with refuses(code, "law") as caught:
        laws.get(f"{tmp_path}/mine.py:{name}")
    assert "\n" not in str(caught.value)


def test_a_law_in_a_file_is_fitted_and_asked_from_the_shell(tmp_path, monkeypatch, capsys):
    """One new file and nothing else: fit, the card, and what the card says of a budget."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from analysis.laws import E, Law, Term, amplitude, exponent\n"
        "parameters = (E, amplitude('A', 'a'), amplitude('B', 'b'), exponent('s', 'one slope for both'))\n"
        "terms = (Term('A', (('N', 's'),)), Term('B', (('D', 's'),)))\n"
        "law = Law('equal', 'L = E + A N^-s + B D^-s', parameters, terms, 'this test')\n"
    )
    columns = rows(40)
    loss = laws.get("mine.py:law").predict({"E": 1.7, "A": 400.0, "B": 900.0, "s": 0.34}, columns)
    noise = np.exp(0.002 * np.random.default_rng(2).standard_normal(40))
    text = [f"{n},{d},{y}" for n, d, y in zip(columns["N"], columns["D"], loss * noise)]
    Path("runs.csv").write_text("\n".join(["N,D,loss", *text]))
    assert main(["fit", "runs.csv", "--law=mine.py:law", "--out=card.json", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["law"] == "mine.py:law" and abs(card["params"]["s"]["value"] - 0.34) < 0.02
    assert load_fit("card.json").law.name == "mine.py:law"
    assert main(["predict", "card.json", "--flops=1e20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["law"] == "mine.py:law"
    assert main(["fit", "runs.csv", "--law=mine.py:lwa"]) == 2
    assert "did you mean law?" in capsys.readouterr().err


def test_importing_the_fitter_brings_no_jax_and_the_package_brings_nothing():
    code = (
        "import sys, analysis; assert not {'numpy', 'pandas', 'scipy', 'matplotlib', 'jax'} & set(sys.modules);"
        "import analysis.laws; assert not {'pandas', 'scipy', 'jax'} & set(sys.modules);"
        "import analysis.fitting; assert not {'matplotlib', 'jax', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
