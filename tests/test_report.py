"""The figures and the report, on a work directory with a planted law: what they say, what they hide, and where."""

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from handmade import edited
from refusals import refuses
from report_study import HOLDOUTS, TRUTH, Page, analyse, build

from analysis.card import Interval, Misfit
from analysis.decide.allocate import optimal
from analysis.decide.forecast import score, seal
from analysis.fitting import fit
from analysis.show import plots, report
from analysis.show.answers import sentence
from analysis.show.numbers import interval, number, short, span
from analysis.show.report.answer import answer
from analysis.show.report.figures import DARK, LIGHT, contrast
from analysis.show.report.headline import exponents, headline, warnings
from analysis.show.report.page import greek
from analysis.show.workdir_summary import collect
from analysis.table.runs import load, open_holdouts
from analysis.table.seal import read as read_prediction
from analysis.warning import Doubtful
from scaling import cli
from scaling.errors import Code
from scaling.records import read_json, read_study, records, write_json
from scaling.records.unit import Unit


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("study"))
    analyse(path)
    return path


@pytest.fixture(scope="module")
def collected(workdir):
    return collect(workdir)


@pytest.fixture(scope="module")
def figures(collected):
    return plots.of_workdir(collected)


@pytest.fixture(scope="module")
def page(collected):
    return report.write(collected).read_text()


def test_the_report_is_one_file_that_refers_to_nothing_else(page):
    parsed = Page(page)
    assert not {"link", "iframe", "object", "embed", "base"} & set(parsed.tags)
    assert parsed.links and all(link.startswith(("#", "data:")) for link in parsed.links)
    assert "http" not in page and "@import" not in page and len(page) < 1e6
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    sections = [
        "answer-1",
        "answer-2",
        "verdict",
        "forecasts",
        "theory",
        "laws",
        "approaches",
        "warnings",
        "noise",
        "runs",
        "made",
    ]
    assert [i for i in parsed.ids if i in sections] == sections
    # two charts and fifteen figures, each for a desk and for a phone
    assert parsed.tags.count("svg") == 2 * (2 + 15) and "prefers-color-scheme: dark" in page and "@media print" in page


def test_every_fitted_number_stands_with_its_interval(page, workdir):
    text = Page(page).text
    for path in (workdir / "fits").glob("*-*-*.json"):
        card = read_json(path)
        for cell in (card.get("params") or {}).values():
            shown = interval(Interval(**cell))
            assert re.fullmatch(r"\S+ \[\S+, \S+\]", shown) and shown in text, (path.name, shown)
        for approach in (card.get("approaches") or {}).values():
            if approach["a"] and approach["a"]["lo"] is not None:
                assert interval(Interval(**approach["a"])) in text
    for words in ("non-embedding parameters", "total parameters", "AICc", "lack of fit p", "95 % intervals", "rms"):
        assert words in text
    assert ", which holds it" in text and "28 losses are at or above the exact entropy 0.6200" in text
    assert "Intervals beyond the runs allow for a wrong law" in text
    assert "10× the largest run" in text and "chi-squared, 8 degrees of freedom" in text and "jax 0.10.2" in text


def test_the_slider_says_what_the_fit_answers(page, collected):
    """Every step, looked up by the page's script, is the allocation at that budget; nothing is computed there."""
    given = [json.loads(text) for text in Page(page).scripts[:-1]]
    assert len(given) == len(collected.datasets)
    for part, data in zip(collected.datasets, given):
        found = part.main()
        assert found is not None and len(data["steps"]) >= 20
        for step, wide, narrow in zip(data["steps"], data["marks"]["wide"], data["marks"]["narrow"], strict=True):
            got = optimal(found, flops=step["x"])
            assert step["y"] == pytest.approx(got.loss.value, rel=1e-9) and step["n"] == short(got.N.value)
            assert step["d_ends"] == span(got.D.lo, got.D.hi, short) and len(wide) == len(narrow) == 2
        ratios = [step["x"] / found.scope.C_max for step in data["steps"]]
        assert min(ratios) < 0.13 and 75 < max(ratios) <= 100 and sorted(ratios) == ratios


def test_one_page_has_one_a_and_one_count_of_c(page, collected):
    """What the page tells of a and b of the fit that answers is by its own count of C; the card's is nowhere."""
    for part in collected.datasets:
        found = part.main()
        assert found is not None
        shown = exponents(part, found)
        third = part.approaches["nonembedding"].approaches["3"]
        assert shown["a"] == third.a and shown["b"] == third.b  # by exact FLOPs, as the budgets
        first = answer(collected, part)
        assert first is not None and first.tiles[0].number == f"N ∝ C^({number(shown['a'].value)})"
        # the slope of the page's own answers
        inside = [step for step in first.steps if step.x < found.scope.C_max]
        sizes = [optimal(found, flops=step.x).N.value for step in (inside[0], inside[-1])]
        slope = math.log(sizes[1] / sizes[0]) / math.log(inside[-1].x / inside[0].x)
        assert slope == pytest.approx(shown["a"].value, abs=0.01)
        told, own = interval(shown["a"]), interval(found.intervals["a"])
        assert told in Page(page).text and (told == own or own not in Page(page).text)
        # a warning about a, as a card with C = 6ND has it, is told with the ends that stand above it
        doubtful = Doubtful(parameter="a", why="wide", lo=0.111, hi=0.999)
        (warned,) = warnings(part, replace(found, card=msgspec.structs.replace(found.card, warnings=(doubtful,))))
        assert isinstance(warned, Doubtful) and (warned.lo, warned.hi) == (shown["a"].lo, shown["a"].hi)
    text = Page(page).text
    assert "compute-optimal tokens per parameter at" not in text  # by 6ND, as the card has it


def test_colours_have_contrast_on_both_papers(page):
    """Text 4.5, lines and points 3 (WCAG 2.2)."""
    css = (Path(report.__file__).parent / "report.css").read_text()
    schemes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for scheme, paper in zip(schemes, (LIGHT, DARK), strict=True):
        named = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        assert contrast(named["paper"], paper) == 1
        for name in ("ink", "muted", "good", "bad"):
            assert contrast(named[name], paper) >= 4.5, name
        for name in ("edge", *(f"n{i}" for i in range(6))):
            assert contrast(named[name], paper) >= 3, name
    light, dark = (re.search(rf"{start}:root {{ (--c.*?) }}", page) for start in ("\n", r"dark\) \{ "))
    assert light is not None and dark is not None
    for found, paper in ((light, LIGHT), (dark, DARK)):
        colours = re.findall(r"--c\w+: (#\w+)", found.group(1))
        assert colours and all(contrast(colour, paper) >= 3 for colour in colours)


def test_forecasts_are_shown_as_they_were_sealed_beside_their_outcomes(page, workdir):
    text, (entry,) = Page(page).text, read_prediction(workdir).entries
    assert entry.sha256 in text and greek(sentence(entry.power["stdlib"])) in text
    opened = open_holdouts(workdir, "stdlib")
    assert len(opened) == len(HOLDOUTS)
    for loss in opened["loss"]:
        assert f"{loss:.4f}" in text
    for f in entry.forecasts:
        low, high = f.interval95
        assert f"{f.value:.4f} [{low:.4f}, {high:.4f}]" in text
    assert "Forecasters on N = non-embedding parameters." in text
    assert text.count("naive, N non-embedding") >= 2 and greek(sentence(score(workdir))) in text


def test_loss_by_position_is_shown_of_the_cheapest_and_the_dearest_run(page, workdir):
    text = Page(page).text
    for dataset, dearest in (("stdlib", "stdlib-gpt5-s101-D1572864"), ("known", "known-gpt4-s0-D1048576")):
        for run in (f"{dataset}-gpt0-s0-D131072", dearest):
            result = read_json(workdir / "runs" / run / "result.json")
            first, _, last = result["evaluation"]["loss"]["positions"]["value"]
            assert f"{first:.4f} ± 0.0030" in text and f"{last:.4f} ± 0.0030" in text, run
    assert text.count("tokens seen") == 2 and text.split().count("33–64") == 2 and text.count("0.9000 ± 0.0010") == 2
    assert text.count("the smallest and the largest compute of 32 that have it") == 1  # 28 fitted and 4 opened
    assert (
        text.count("the smallest and the largest compute of 28 that have it") == 1
        and text.count("“Above the source”") == 1
    )


def test_a_card_of_any_law_is_found_by_the_name_of_the_law(workdir, tmp_path, capsys):
    """`fit` writes the card of a tied law in a study, `next` and `compare` find it by what was asked of `fit`."""
    copy, law = shutil.copytree(workdir, tmp_path / "study"), "--law=chinchilla[beta=alpha]"
    for dataset in TRUTH:
        assert cli.main(["fit", str(copy), law, f"--dataset={dataset}"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(copy), law]) == 0
    assert "alpha: stdlib - known = " in capsys.readouterr().out
    assert cli.main(["next", str(copy), law, "--target=E", "--budget=1e13"]) == 2
    assert "has no ladder in" in capsys.readouterr().err  # it read the card


@pytest.mark.system
def test_held_out_runs_stay_hidden_until_they_are_sealed(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "study")
    (copy / "prediction.json").unlink()
    for record in records(copy):
        if "s100" in record.path.name or "s101" in record.path.name:
            for name in ("result.json", "metrics.jsonl"):
                path = record.path / name
                hid = re.sub(r'"(loss|value|train_loss)": ?[\d.]+', r'"\1":7.7777', path.read_text())
                path.write_text(re.sub(r'"value": \[[^]]*\]', '"value": [7.7777, 7.7777, 7.7777]', hid))
    found = collect(copy)
    assert all(run.hidden and run.loss is None for run in found.runs if run.manifest.role == "holdout")
    assert max(max(curve.loss) for curve in found.curves) < 7 and found.datasets[0].opened == ()
    page = report.write(copy).read_text()
    assert "7.7777" not in Page(page).text and page.count("<td>unread</td>") == len(HOLDOUTS)
    assert "stdlib-forecasts" not in page and "known-loss" in page
    assert "No forecast is made yet" in page and "No forecast is made yet" in report.summary(copy)
    seal(copy)
    opened = [run for run in collect(copy).runs if run.manifest.role == "holdout"]
    assert [run.loss for run in opened] == [7.7777] * len(HOLDOUTS)  # whatever it is, once sealed it is shown


def test_a_changed_prediction_opens_nothing(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "study")
    path = copy / "prediction.json"
    path.write_text(path.read_text().replace('"level": 0.95', '"level": 0.9', 1))
    shutil.rmtree(copy / "fits")
    page = report.write(copy).read_text()
    assert "was changed after it was sealed" in page and page.count("<td>unread</td>") == len(HOLDOUTS)
    assert "was changed after it was sealed" in " ".join(report.summary(copy).split())


def test_an_unfinished_study_is_reported_as_far_as_it_got(workdir, tmp_path):
    planned = build(tmp_path / "planned", trained=False)
    text = Page(report.write(planned).read_text()).text
    assert "The study is unfinished: 60 of 60 runs have no result" in text
    assert "holds no finished run of stdlib" in text and "stdlib-gpt4-s0-D1048576" in text
    assert plots.save_all(planned, tmp_path / "none") == []
    trained = shutil.copytree(workdir, tmp_path / "trained", ignore=shutil.ignore_patterns("fits", "prediction.json"))
    text = Page(report.write(trained).read_text()).text
    assert "No law is fitted yet" in text and "all 28 losses" not in text and "28 losses is at or above" in text
    assert "No law is fitted yet" in report.summary(trained)
    with refuses(Code.MISSING, "workdir"):
        report.write(tmp_path / "nowhere")


@pytest.mark.system
def test_reasons_stand_where_numbers_cannot(workdir, tmp_path):
    copy = shutil.copytree(workdir, tmp_path / "study", ignore=shutil.ignore_patterns("*chinchilla*", "*approaches*"))
    (copy / "prediction.json").unlink()
    (copy / "fits").joinpath("known-kaplan-nonembedding.json").unlink()
    lost = next((copy / "runs").glob("known-gpt4-s0-D131072"))
    shutil.rmtree(lost)
    low = copy / "runs" / "known-gpt4-s0-D1048576" / "result.json"
    low.write_text(re.sub(r'"value": [\d.]+', '"value": 0.5', low.read_text()))
    text = Page(report.write(copy).read_text()).text
    assert "No frontier: product has no optimal N at a budget" in text and "This law gives no compute-optimal N" in text
    assert re.search(r"Predictions of N and D use kaplan, though [\d.]+ AICc behind product", text)
    assert "the runs have changed since these fits were made" in text
    assert "NOT every one of the 27 losses is at or above" in text
    assert "The study is unfinished: 1 of 60 runs" in text and "approaches are not compared yet" in text


def test_what_is_refused_leaves_no_page(tmp_path):
    build(tmp_path / "planned", trained=False)
    (tmp_path / "runs.csv").write_text("N,D,loss\n1,2,3\n")
    before = sorted(tmp_path.rglob("*"))
    with refuses(Code.MISSING, "latex"):
        cli._dispatch(["report", str(tmp_path / "planned"), "--latex"])
    with refuses(Code.CONFLICT, "out"):
        cli._dispatch(["report", str(tmp_path / "planned"), f"--out={tmp_path}"])
    with refuses(Code.CONFLICT, "out"):
        cli._dispatch(["report", str(tmp_path / "runs.csv"), f"--out={tmp_path / 'runs.csv'}"])
    with refuses(Code.INVALID, "out"):  # a page in a file of that name, which no reader of PDF opens
        cli._dispatch(["report", str(tmp_path / "runs.csv"), f"--out={tmp_path / 'report.pdf'}"])
    for verb in ("cancel", "verify", "status"):
        with refuses(Code.MISSING, "workdir"):  # a table where the directory of a study is asked for
            cli._dispatch([verb, str(tmp_path / "runs.csv")])
    assert (tmp_path / "runs.csv").read_text().startswith("N,D,loss")
    assert sorted(tmp_path.rglob("*")) == before


def test_names_of_a_study_are_text_not_markup_and_its_unit_is_its_own(tmp_path):
    build(tmp_path, trained=False, unit=Unit(per="pair"))
    write_json(tmp_path / "study.json", edited(read_study(tmp_path), name="<script>alert(1)</script>"))
    page = report.write(tmp_path).read_text()
    assert "<script>alert" not in page and "&lt;script&gt;" in page
    assert "Loss in nats/pair ± standard error" in page and "nats/token" not in page


@pytest.mark.system
def test_a_loss_that_no_entropy_bounds_is_held_to_none(tmp_path):
    """Given the image, text can be coded below the entropy of text alone: nothing is said of that entropy."""
    study = build(tmp_path, unit=Unit(given="the image"))
    for dataset in TRUTH:
        runs = load(study, dataset=dataset)
        fit(runs, "chinchilla").save(study / "fits" / f"{dataset}-chinchilla-nonembedding.json")
    found = collect(study)
    assert all(part.entropy is None for part in found.datasets) and not found.entropy.datasets
    text = Page(report.write(study).read_text()).text
    assert "exact entropy" not in text and "above the exact" not in text and "BELOW" not in text
    assert "nats/token, given the image" in text and "so theory has nothing to check here" in text
    assert "exact entropy" not in report.summary(study) and "Check against theory" not in report.summary(study)


def test_the_headline_names_forms_that_structure_or_outcomes_refute_and_no_rival(collected):
    """The naive rival has no law: an outcome beyond it refutes no form."""
    summary = collected
    part, n = next(part for part in summary.datasets if part.name == "stdlib"), "nonembedding"
    assert summary.score is not None
    scored = summary.score.datasets["stdlib"]
    rows = tuple(msgspec.structs.replace(row, refuted=row.forecaster.naive) for row in scored.ranking)
    assert any(row.refuted and row.forecaster.n == n for row in rows)
    score_ = msgspec.structs.replace(summary.score, datasets={"stdlib": msgspec.structs.replace(scored, ranking=rows)})
    plain = headline(replace(summary, score=score_), part).refuted
    assert plain is not None and "None" not in plain and "sealed outcomes" not in plain
    fitted = part.fits[n]["chinchilla"]
    wrong = Misfit(F=50.0, df1=5, df2=30, p=1e-9, share=0.8, size_log=0.02, floors={})
    card = msgspec.structs.replace(fitted.card, warnings=(*fitted.warnings, wrong))
    fits = {n: {**part.fits[n], "chinchilla": replace(fitted, card=card)}}
    said = headline(summary, replace(part, fits=fits)).refuted
    assert said is not None and re.search(r"chinchilla(, \w+)* by structure", said)


def test_the_summary_fits_a_terminal(workdir, collected, page):
    lines = report.summary(collected).splitlines()
    assert 15 <= len(lines) <= 40 and max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    card = read_json(workdir / "fits" / "stdlib-chinchilla-nonembedding.json")
    assert f"E = {interval(Interval(**card['params']['E']))}" in text and "10x the largest fitted compute" in text
    assert " ".join(sentence(score(workdir)).split()) in text
    assert lines[-1] == f"Report: {workdir / 'report.html'}"


def test_figures_name_their_axes_runs_and_intervals(figures):
    names = ["loss", "compute", "isoflop", "allocation", "residuals", "floor"]
    assert list(figures["stdlib"]) == [*names, "forecasts", "training"] and list(figures["known"]) == [
        *names,
        "training",
    ]
    for name, figure in ((f"{d} {k}", f) for d, own in figures.items() for k, f in own.items()):
        caption = figure.get_supxlabel()
        assert figure.get_suptitle() and re.search(r"\d+ (runs|stems|held-out runs)", caption), name
        assert re.search(r"interval|band|standard deviations", caption), name
        for ax in figure.axes:
            assert ax.get_xlabel() or ax.get_ylabel(), name
        assert figure.axes[0].get_ylabel() or "forecasts" in name
    units = " ".join(ax.get_xlabel() + ax.get_ylabel() for f in figures["stdlib"].values() for ax in f.axes)
    for words in ("N (non-embedding parameters)", "D (training tokens)", "C (training FLOPs, exact)", "(nats/token)"):
        assert words in units


def test_tick_labels_do_not_touch(figures):
    for name, figure in figures["stdlib"].items():
        figure.draw_without_rendering()
        for ax in figure.axes:
            for axis, low, high in ((ax.xaxis, "x0", "x1"), (ax.yaxis, "y0", "y1")):
                limits = sorted(axis.get_view_interval())
                labels = [
                    t.get_window_extent()
                    for t, at in zip(axis.get_ticklabels(), axis.get_ticklocs())
                    if t.get_text() and t.get_visible() and limits[0] <= at <= limits[1]
                ]
                boxes = sorted((getattr(b, low), getattr(b, high)) for b in labels)
                assert all(a[1] < b[0] for a, b in itertools.pairwise(boxes)), (name, axis.axis_name)
            assert not [t for t in ax.xaxis.get_ticklabels(minor=True) if t.get_text()]


def test_figures_as_files_are_the_same_bytes_each_time(collected, figures, tmp_path):
    paths = plots.save({"loss": figures["known"]["loss"]}, tmp_path / "a", "known-")
    assert [p.name for p in paths] == ["known-loss.pdf", "known-loss.svg", "known-loss.png"]
    part = next(part for part in collected.datasets if part.name == "known")
    main = part.main()
    assert main is not None
    again = plots.save({"loss": plots.loss(main, entropy=part.entropy)}, tmp_path / "b", "known-")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert paths[2].read_bytes().startswith(b"\x89PNG") and "exact entropy 0.6200" in paths[1].read_text()
