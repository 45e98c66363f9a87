"""Figures of single fits and tables, and what they are made of: axes, ticks, numbers, looks."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from law_tables import runs_of
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from refusals import refuses
from report_study import Page, analyse, build, law

from analysis import laws
from analysis.card import Conventions
from analysis.decide.compare import Member, compare
from analysis.decide.forecast import ScoredForecast
from analysis.fitting import fit
from analysis.fitting.profiles import profiles
from analysis.show import plots
from analysis.show.numbers import power_text, short
from analysis.show.plots import catalogue, style
from analysis.show.plots.column import column
from analysis.show.plots.outcomes import outcomes
from analysis.show.report.page import formula
from analysis.show.workdir_summary import collect, of_fit
from analysis.table.runs import load
from analysis.table.seal import Forecaster, SealedCell
from scaling import cli
from scaling.errors import Code
from scaling.records.unit import Unit


@pytest.mark.system
def test_a_table_and_a_card_have_a_report_too(tmp_path, capsys):
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(1e7, 1e9, 5):
        for d in n * np.array([5.0, 20.0, 80.0]):
            rows.append((n, d, law("stdlib", n / 1e4, d / 1e4) * math.exp(0.003 * rng.standard_normal())))
    table = tmp_path / "mine.csv"
    table.write_text("N,D,loss\n" + "".join(f"{n:.6g},{d:.6g},{v:.6g}\n" for n, d, v in rows))
    assert cli.main(["report", str(table), "--latex"]) == 0
    said = capsys.readouterr().out
    assert "Report: " in said and re.findall(r"LaTeX: .*/(.*)", said) == ["mine.tex", "mine-macros.tex", "mine.bib"]
    assert "\\newcommand{\\mineAlpha}" in (tmp_path / "mine-macros.tex").read_text()
    text = Page((tmp_path / "mine.html").read_text()).text
    assert "15 runs, 10M to 1B parameters" in text and "sealed" not in text and "nats" not in text
    fit(load(table), "power_floor:C").save(tmp_path / "card.json")
    assert cli.main(["report", str(tmp_path / "card.json"), f"--out={tmp_path / 'x.html'}"]) == 0
    text = Page((tmp_path / "x.html").read_text()).text
    assert "At C = " in text and "power_floor:C" in text
    (tmp_path / "broken.json").write_text('{"kind": "fit"}')
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "broken.json")]) == 2
    assert "fit = " in capsys.readouterr().err  # a damaged card, not a table
    assert not (tmp_path / "broken.html").exists()


@pytest.mark.parametrize("low, high", [(1e3, 1e12), (6e3, 1e5), (1.4, 2.1), (0.99, 1.01), (3e9, 8e11), (1e10, 1.2e10)])
def test_ticks_are_few_and_inside(low, high):
    ticks = style.round_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and all(low * 0.99 <= t <= high * 1.01 for t in ticks) and ticks == sorted(ticks)


def test_numbers_for_people():
    values = {512: "512", 6224: "6.22k", 98624: "98.6k", 1048576: "1.05M", 7e10: "70B", 999_900: "1M", 2e12: "2T"}
    assert {v: short(v) for v in values} == values
    assert [power_text(v) for v in (1e12, 7.75e11, 9.99e9)] == ["10¹²", "7.8×10¹¹", "10¹⁰"]
    records = Conventions(origin="records", term="text", unit=Unit(given="the image"))
    assert style.loss_label(records) == "loss (nats/token, given the image)"
    assert style.loss_label(Conventions(origin="curves", columns={"loss": "loss"}), "floor E") == "floor E"
    assert str(formula("L = E + A N^-alpha < 2")) == "L = E + A N<sup>−α</sup> &lt; 2"


def test_laws_keep_their_look_and_differ_within_a_figure():
    every = list(laws.REGISTRY.values())
    alone = {law.name: style.law_styles([law])[law.name] for law in every}
    standard = style.law_styles(laws.standard())
    assert all(standard[law.name] == alone[law.name] for law in laws.standard())
    assert len(set(standard.values())) == len(standard)
    twins = [replace(laws.default(), name=name, default=False) for name in ("one", "two", "three")]
    assert len(set(style.law_styles(twins).values())) == 3


def test_figures_are_drawn_into_axes_that_are_given():
    found = fit(runs_of(laws.get("chinchilla"), noise=0.003, n=40), "chinchilla")
    figure = Figure()
    one, two, three, four, five = figure.subplots(1, 5)
    assert plots.loss(found, ax=one) is figure and one.get_title(loc="left") == "Loss against training tokens"
    assert plots.compute(found, ax=(two, three)) is figure and two.lines and three.lines
    assert plots.residuals({"chinchilla": found}, ax=four) is figure and four.get_ylabel()
    assert plots.floor({"chinchilla": found}, ax=five) is figure and five.get_xlabel() == "floor E"
    with refuses(Code.INVALID, "ax"):
        plots.compute(found, ax=(one,))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Another trainer's table: 12 sizes x 3 D."""
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(1e7, 1e9, 12):
        for d in n * np.array([5.0, 20.0, 80.0]):
            rows.append((n, d, law("stdlib", n / 1e4, d / 1e4) * math.exp(0.003 * rng.standard_normal())))
    path = tmp_path_factory.mktemp("table") / "runs.csv"
    path.write_text("N,D,loss\n" + "".join(f"{n:.6g},{d:.6g},{v:.6g}\n" for n, d, v in rows))
    return path


@pytest.fixture(scope="module")
def fitted(table):
    return fit(load(table), "chinchilla")


OF_A_TABLE = ["loss", "frontier", "contours", "optimum", "allocation", "isoflop", "residuals", "profiles", "floor"]


def test_a_table_of_another_trainer_is_drawn_too(table, fitted):
    found = catalogue.draw(catalogue.Source(of_fit(fitted)))
    assert list(found.figures) == OF_A_TABLE
    reasons = {name: error.code for name, error in found.left_out.items()}
    assert reasons == dict.fromkeys(("forecasts", "outcomes", "training", "learning_rates"), Code.MISSING)
    for name, figure in found.figures.items():
        assert re.search(r"\b36 (runs|sizes)", figure.get_supxlabel()), name
        assert re.search(r"9[05] %|draws|[Nn]o interval|seed noise", figure.get_supxlabel()), name
        assert all(ax.lines or ax.collections for ax in figure.axes if ax.get_subplotspec()), name  # nothing is empty
    one = plots.of_dataset(of_fit(fit(load(table), "power_floor:C")))
    assert one["loss"].axes[0].get_xlabel() == "C (training FLOPs, 6ND)"


def readable(figure: Figure) -> None:
    """All text of a laid out figure is of 7 points or more and inside the figure, and none lies on another."""
    figure.draw_without_rendering()
    assert figure.get_size_inches()[0] == 3.3
    edge, taken = figure.bbox.padded(1.0), list[Bbox]()
    for text in figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible()):
        assert isinstance(text, Text)
        # ticks outside an axis' limits have labels that are not drawn
        if not text.get_text().strip() or text.get_window_extent().width == 0 or _hidden(figure, text):
            continue
        box = text.get_window_extent()
        assert text.get_fontsize() >= 7, text
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1, text
        assert not any(box.padded(-1.0).overlaps(other) for other in taken), text
        taken.append(box)


def _hidden(figure: Figure, text: Text) -> bool:
    for ax in figure.axes:
        if not ax.axison and text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
            return True
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if text in (tick.label1, tick.label2) and not low <= tick.get_loc() <= high:
                    return True
    return False


def test_a_figure_is_read_in_one_column(fitted, tmp_path):
    figures = {"profiles": plots.profiles(fitted, profiles(fitted)), "optimum": plots.optimum(fitted)}
    paths = plots.save({"optimum": figures["optimum"]}, tmp_path)
    column(figures["profiles"])
    for figure in figures.values():
        readable(figure)
    pdf, svg, png = (path.read_bytes() for path in paths)
    assert [path.suffix for path in paths] == [".pdf", ".svg", ".png"]
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, embedded
    width = float(re.search(rb"/MediaBox \[ *0 0 ([\d.]+)", pdf).group(1))
    assert width == pytest.approx(3.3 * 72) and b'width="237.6pt"' in svg and png.startswith(b"\x89PNG")
    again = plots.save({"optimum": plots.optimum(fitted)}, tmp_path / "again", formats=["pdf"])
    assert again[0].read_bytes() == pdf  # no date, no version
    widths = [line.get_linewidth() for line in figures["optimum"].findobj(Line2D)]
    column(figures["optimum"])  # it is laid out once
    assert widths == [line.get_linewidth() for line in figures["optimum"].findobj(Line2D)]


@pytest.mark.system
def test_every_figure_of_a_study_is_read_in_one_column(tmp_path):
    study = build(tmp_path / "study")
    analyse(study)
    summary = collect(study)
    saved = plots.save_summaries([summary], tmp_path / "figures", formats=["svg"])
    names = {path.stem for path in saved.paths}
    assert {
        f"stdlib-{name}" for name in (*OF_A_TABLE, "forecasts", "outcomes", "training")
    } <= names and "compared" in names
    assert {name.partition("-")[2] for name in saved.left_out} == {"learning_rates", "forecasts", "outcomes"}
    for part in summary.datasets:
        for figure in catalogue.draw(catalogue.Source(part, summary)).figures.values():
            column(figure)
            readable(figure)


def test_published_laws_stand_beside_at_their_optimum(fitted):
    """N = G (C/6)^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)): Hoffmann 2022, eq. 4."""
    one, two = Figure().subplots(1, 2)
    plots.optimum(fitted, ax=(one, two))
    lines = {line.get_label(): line for line in one.lines}
    assert {"this fit", "hoffmann2022", "besiroglu2024", "mcleish2025", "gadre2024-c4"} <= set(lines)
    C, N = (np.asarray(v, dtype=float) for v in lines["besiroglu2024"].get_data())
    A, B, alpha, beta = 482.01, 2085.43, 0.3478, 0.3658
    G = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    np.testing.assert_allclose(N, G * (C / 6) ** (beta / (alpha + beta)), rtol=1e-6)
    D = np.asarray(next(line for line in two.lines if line.get_label() == "besiroglu2024").get_ydata(), dtype=float)
    np.testing.assert_allclose(6 * N * D, C, rtol=1e-6)


def test_a_profile_ends_where_the_profile_interval_does(table):
    found = fit(load(table), "chinchilla", scheme="profile-t")
    made = profiles(found)
    assert list(made.parameters) == ["E", "alpha", "beta"]  # an amplitude is not held where its coordinate is
    assert "Not drawn: A, B," in plots.profiles(found, made).get_supxlabel()
    for name in ("E", "alpha", "beta"):
        value, rise = made.parameters[name]
        assert rise.min() == 0 and value.min() < found.params[name] < value.max()
        at, cell = int(np.argmin(rise)), found.intervals[name]
        low = np.interp(math.sqrt(made.limit), np.sqrt(rise[: at + 1])[::-1], value[: at + 1][::-1])
        high = np.interp(math.sqrt(made.limit), np.sqrt(rise[at:]), value[at:])
        assert (low, high) == pytest.approx((cell.lo, cell.hi), rel=0.02)


def test_a_sweep_of_learning_rates_shows_where_each_size_is_best():
    rng, rows, best = np.random.default_rng(0), [], {1e5: 0.02, 4e5: 0.01}
    for n, rate in best.items():
        for step in (-2, -1, 0, 1, 2):
            lr = rate * 2.0**step * 1.2
            value = 2.0 * math.exp(0.03 * math.log(lr / rate) ** 2 + 1e-4 * rng.standard_normal())
            rows.append({"N": n, "D": 2e6, "loss": value, "learning_rate": lr})
    (ax,) = plots.learning_rates(pd.DataFrame(rows)).axes
    stars = {float(np.asarray(line.get_xdata())[0]) for line in ax.lines if line.get_marker() == "*"}
    assert sorted(stars) == pytest.approx([0.01, 0.02], rel=0.03)
    drawn = [np.asarray(line.get_xdata()) for line in ax.lines if line.get_marker() == "None"]
    bars = [ends for ends in drawn if len(ends) == 2]
    assert all(any(low < star < high for low, high in bars) for star in stars) and len(bars) == 2
    with refuses(Code.TOO_FEW, "learning_rate"):
        plots.learning_rates(pd.DataFrame(rows[:2]))


def test_exponents_of_several_fits_stand_side_by_side(fitted):
    other = fit(runs_of(laws.get("chinchilla"), noise=0.003, n=40, seed=1), "chinchilla")
    made = compare([Member("mine", fitted), Member("other", other)])
    (ax,) = plots.compared(made).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "α", "β", "c"]
    ends = [tuple(np.asarray(line.get_xdata(), dtype=float)) for line in ax.lines]
    assert (made.quantities["alpha"].members["mine"].lo, made.quantities["alpha"].members["mine"].hi) in ends


def test_the_shell_draws_what_is_named(fitted, tmp_path, capsys):
    fitted.save(tmp_path / "card.json")
    one = ["plot", str(tmp_path / "card.json"), "--only=floor"]
    assert cli.main([*one, f"--out={tmp_path / 'x' / 'mine.pdf'}"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "x" / "mine.pdf")]
    assert cli.main(["plot", str(tmp_path / "card.json"), "--only=floor,training", "--format=svg", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["paths"] == [str(tmp_path / "figures" / "floor.svg")] and list(said["left_out"]) == ["training"]
    before = sorted(tmp_path.rglob("*"))
    for wrong, word in (
        (["plot", str(tmp_path / "card.json"), "--only=flor"], "did you mean floor?"),
        ([*one, "--format=pfd"], "did you mean pdf?"),
        ([*one, "--out=x.jpg"], "format = jpg"),
        ([*one, "--out=x.pdf", "--format=png"], "one format"),
        (["plot", str(tmp_path / "card.json"), "--only=floor,loss", "--out=x.pdf"], "is one file"),
        (["plot", str(tmp_path / "card.json"), "--only=compared"], "compare = 1"),
        (["plot", *[str(tmp_path / "card.json")] * 2, "--only=floor"], "only = floor"),
        (["plot", ".", str(tmp_path / "card.json")], "workdir = ."),
    ):
        assert cli.main(wrong) == 2
        assert word in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "figures"),
    [("routing", ["loss"]), ("mixture2", ["loss", "floor"]), ("precision", ["loss", "residuals", "floor"])],
)
def test_a_law_of_several_columns_is_drawn_as_measured_against_fitted(name, figures):
    found = fit(runs_of(laws.get(name), noise=0.003, n=40), name)
    made = plots.of_dataset(of_fit(found))
    assert list(made) == figures
    (ax,) = made["loss"].axes
    assert ax.get_xlabel() == "fitted loss" and "40 rows" in made["loss"].get_supxlabel()
    points = np.asarray(ax.lines[1].get_xydata(), dtype=float)
    np.testing.assert_allclose(points, np.stack([found.columns["fitted"], found.columns["loss"]], 1))


def test_neither_the_trainer_nor_pyplot_is_imported():
    names = "['jax', 'scaling.train', 'scaling.plan', 'scaling.study', 'matplotlib.pyplot']"
    code = f"import sys, analysis.show.report; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_forecasts_are_drawn_with_their_outcomes_and_errors():
    found = fit(runs_of(laws.get("chinchilla"), noise=0.003, n=40), "chinchilla")
    far = {name: float(found.columns[name].max()) * 2 for name in ("N", "D", "C")}
    cell = SealedCell("r", "x", {"table": far["N"]}, far["D"], far["C"], ("N", "D"), 2.0, "done")
    numbers = {"interval50": (1.9, 2.1), "interval95": (1.8, 2.2), "z": -0.5, "inside50": True, "inside95": True}
    row, other = (
        ScoredForecast(
            "r", "x", Forecaster(law, "table"), 2.0, outcome=1.95, error_percent=2.5641, crps=0.02, **numbers
        )
        for law in ("chinchilla", "kaplan")
    )
    figure = outcomes(found, [row, other], [cell], words=True)
    (ax,) = figure.axes
    words = [text.get_text() for text in ax.texts]
    assert any("2.0× the largest fitted C" in w and "outcome 1.950, error 2.6 %" in w for w in words)
    (ax,) = outcomes(found, [row, other], [cell]).axes  # for a column of a paper
    assert [text.get_text() for text in ax.texts] == ["largest fitted C"]
    assert "N⁻ᵅ" in figure.get_supxlabel() and "alpha" not in figure.get_supxlabel()
    assert "40 runs" in figure.get_supxlabel() and "Mean error 2.6 %; 1 of 1 inside" in figure.get_supxlabel()
    with refuses(Code.MISSING, "rows"):
        outcomes(found, [other], [cell])
