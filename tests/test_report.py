"""The figures and the report, on a work directory with a planted law: what they say, what they hide, and where."""

import itertools
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest
from handmade import edited, options
from handmade import program as program_spec
from law_tables import runs_of
from matplotlib.figure import Figure
from refusals import refuses

from analysis import laws
from analysis.card import Conventions, Interval, Misfit
from analysis.check.approaches import compare_approaches
from analysis.decide.forecast import score, seal
from analysis.fitting import fit
from analysis.show import plots, report
from analysis.show.answers import sentence
from analysis.show.numbers import interval, power_text, short
from analysis.show.plots import style
from analysis.show.report.headline import headline
from analysis.show.report.page import formula, greek
from analysis.show.workdir_summary import collect, of_fit
from analysis.table.runs import load, open_holdouts
from analysis.table.seal import read as read_prediction
from scaling import cli
from scaling.errors import Code
from scaling.records import Record, read_json, read_study, records, write_json
from scaling.records.types import (
    DataDescription,
    Environment,
    Evaluation,
    Flops,
    Kind,
    Manifest,
    Parameters,
    Positions,
    Result,
    Role,
    Seconds,
    StepRow,
    StudyRecord,
    Tokens,
)
from scaling.records.unit import NATS_PER_TOKEN, Unit

K, M = 2**10, 2**20
WIDTHS = (16, 24, 32, 48, 64, 88)
FITTED, TOKENS = 5, (128 * K, 256 * K, 512 * K, M)
TRUTH = {"stdlib": (1.0, 20.0, 100.0, 0.40, 0.45, None), "known": (0.62, 26.0, 60.0, 0.45, 0.42, 0.62)}
# Beyond the ladder in N, in D twice, and in both; (size, D, seed).
HOLDOUTS = ((5, 512 * K, 100), (2, 4 * M, 100), (3, 4 * M, 100), (5, 1536 * K, 101))
SCHEDULE = {"schedule": "wsd", "decay_fraction": 0.2, "decay_steps": 0}
ENVIRONMENT = Environment(
    python="3.11.9",
    jax="0.10.2",
    flax=None,
    optax=None,
    orbax=None,
    numpy=None,
    commit="c0ffee",
    device="cpu",
    device_kind="cpu",
    device_count=1,
    processes=1,
    threads=1,
    mesh={},
)


def manifest(run, dataset, size, d, *, kind: Kind = "branch", role: Role = "fit", seed=0, stem=None):
    width, depth, batch, context = WIDTHS[size], 2, 16, 64
    body, head = 12 * depth * width**2, 256 * width
    groups = {"embedding": head, "attention": body // 3, "mlp": body - body // 3, "norm": 5 * width, "head": head}
    n, steps = body + 5 * width, d // (batch * context)
    per_token = 6 * (n + head) + 6 * depth * context * width
    return Manifest(
        run=run,
        study="demo",
        kind=kind,
        role=role,
        dataset=dataset,
        identity="0" * 12,
        stem=stem,
        branch_step=None if stem is None else int(0.8 * steps),
        seed=seed,
        family="gpt",
        size=size,
        config={"width": width, "depth": depth, "context": context},
        recipe={"name": "width", "learning_rate": 0.03 * 16 / width, "batch": batch, **SCHEDULE},
        parameters=Parameters(
            total=n + 2 * head, nonembedding=n, trainable=n, active=n, nonembedding_active=n, groups=groups
        ),
        steps=steps,
        tokens=Tokens(D=d, per_step=batch * context, loss=d, counted="tokens", unique=d, epochs=1.0),
        flops=Flops(training=per_token * d, six_nd=6 * n * d, forward_per_example=1, parts={}),
        headline="loss",
        terms={"loss": NATS_PER_TOKEN},
        data=DataDescription(source=dataset, sha256="ab" * 32, bytes=11_800_000, entropy=TRUTH[dataset][5]),
        environment=ENVIRONMENT,
    )


def law(dataset, n, d):
    e, a, b, alpha, beta, _ = TRUTH[dataset]
    return e + a * n**-alpha + b * d**-beta


def train(workdir, m, stem_noise, rng):
    """Writes a finished record of this manifest: its loss from the planted law, 0.3 % noise, and its metrics."""
    record = Record(Path(workdir) / "runs" / m.run)
    record.begin(m)
    n, d, start = m.parameters.nonembedding, m.tokens.D, m.branch_step or 0
    steps = np.unique(np.linspace(start + 20, m.steps, 12).astype(int))
    drop = 0.97 if m.kind == "branch" else 1.0
    record.append(
        *(
            StepRow(
                step=int(s),
                loss=float(law(m.dataset, n, s * 1024) * drop ** ((s - start) / m.steps) + 1.5 * s**-0.6),
                tokens=int(s) * 1024,
                norm=1.0,
                learning_rate=0.01,
                seconds=0.1,
            )
            for s in steps
        )
    )
    value = law(m.dataset, n, d) * math.exp(stem_noise + 0.003 * rng.standard_normal())
    known = m.data.entropy is not None
    positions = Positions(  # to 64: from 33
        upto=(1, 2, 64),
        count=(2048, 2048, 65536),
        value=(value + 1, value + 0.5, value),
        se=(0.003,) * 3,
        excess=(0.9, 0.5, 0.1) if known else None,
        excess_se=(0.001,) * 3 if known else None,
    )
    term = Evaluation(value=value, se=0.002, count=131072, sample=value, positions=positions)
    done = m.kind != "stem"
    record.finish(
        Result(
            status="done",
            steps=m.steps,
            tokens=d,
            decayed=done,
            train_loss=value,
            evaluation={"loss": term} if done else {},
            seconds=Seconds(train=3.0, compile=8.0, evaluate=0.5),
            tokens_per_second=1e5,
            finished="2026-01-01T00:00:00+0000",
        )
    )


def build(workdir, *, trained=True, unit=NATS_PER_TOKEN):
    """A study of two data sets like the demo's: 5 sizes x 4 D, seeds at 2 sizes, 4 held-out cells on the first."""
    rng, programs = np.random.default_rng(7), []

    def program(dataset, size, amounts, seed, role):
        stem = f"{dataset}-gpt{size}-s{seed}-stem"
        made = [manifest(stem, dataset, size, max(amounts) * 4 // 5, kind="stem", role="stem", seed=seed)]
        for d in amounts:
            made.append(
                manifest(f"{dataset}-gpt{size}-s{seed}-D{d}", dataset, size, d, role=role, seed=seed, stem=stem)
            )
        made = [edited(m, terms={"loss": unit}) for m in made]
        programs.append(program_spec(*made, shape=f"gpt {size}"))
        noise = 0.002 * rng.standard_normal()
        for m in made if trained else []:
            train(workdir, m, noise, rng)

    for dataset in TRUTH:
        for size in range(FITTED):
            program(dataset, size, TOKENS, 0, "fit")
        for size in (1, 3):
            program(dataset, size, TOKENS, 1, "seed")
    for size, d, seed in HOLDOUTS:
        program("stdlib", size, (d,), seed, "holdout")
    datasets = {"stdlib": {"source": "stdlib"}, "known": {"source": "zipf"}}
    study = StudyRecord(name="demo", datasets=datasets, options=options(), ladder={}, programs=tuple(programs))
    write_json(workdir / "study.json", study)
    return workdir


def analyse(workdir, laws=("chinchilla", "product", "kaplan"), names=("nonembedding", "total")):
    for dataset in TRUTH:
        for n in names:
            runs = load(workdir, dataset=dataset, n=n)
            for name in laws:
                found = fit(runs, name)
                found.save(workdir / "fits" / f"{dataset}-{name}-{n}.json")
                if name == "chinchilla":
                    result = compare_approaches(runs, found)
                    write_json(workdir / "fits" / f"{dataset}-approaches-{n}.json", result)
    seal(workdir)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("study"))
    analyse(path)
    return path


@pytest.fixture(scope="module")
def figures(workdir):
    return plots.of_workdir(collect(workdir))


@pytest.fixture(scope="module")
def page(workdir):
    return report.write(workdir).read_text()


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects ids, references and the text of the page."""

    VOID: ClassVar = {"meta", "br", "link", "img", "input", "hr", "path", "use", "rect", "image"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data")]
        self.links += [m for k, v in attrs for m in re.findall(r"url\(([^)]*)\)", v or "")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_report_is_one_file_that_refers_to_nothing_else(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(parsed.tags)
    assert parsed.links and all(link.startswith(("#", "data:")) for link in parsed.links)
    assert "http" not in page and "@import" not in page and len(page) < 3e6
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link[1:] for link in parsed.links if link.startswith("#")} <= set(parsed.ids)
    sections = [
        "verdict",
        "predictions",
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
    assert parsed.tags.count("svg") == 15 and "prefers-color-scheme: dark" in page and "@media print" in page


def test_every_fitted_number_stands_with_its_interval(page, workdir):
    text = Page(page).text
    for path in (workdir / "fits").glob("*-*-*.json"):
        card = read_json(path)
        for cell in (card.get("params") or {}).values():
            shown = interval(Interval(**cell))
            assert re.fullmatch(r"\S+ \[\S+, \S+\]", shown) and shown in text, (path.name, shown)
        for approach in (card.get("approaches") or {}).values():
            assert interval(approach["a"] and Interval(**approach["a"]), reason="") in text
    for words in ("non-embedding parameters", "total parameters", "AICc", "lack of fit p", "95 % intervals", "rms"):
        assert words in text
    assert ", which holds it" in text and "28 losses are at or above the exact entropy 0.6200" in text
    assert "Intervals beyond 1× hold a term for the law being wrong there" in text
    assert "10× the largest" in text and "chi-squared, 8 degrees of freedom" in text and "jax 0.10.2" in text


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
    assert text.count("the cheapest and the dearest of 32 that have it") == 1  # 28 fitted and 4 opened
    assert text.count("the cheapest and the dearest of 28 that have it") == 1 and text.count("“Above the source”") == 1


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
    assert "No forecast is sealed yet" in page and "No forecast is sealed yet" in report.summary(copy)
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
    assert "The study is unfinished: 60 of 60 cells have no result" in text
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
    assert "No prediction: law product has no optimal N at a budget" in text
    assert re.search(r"Predictions of N and D use kaplan, though [\d.]+ AICc behind product", text)
    assert "the runs have changed since these fits were made" in text
    assert "NOT every one of the 27 losses is at or above" in text
    assert "The study is unfinished: 1 of 60 cells" in text and "approaches are not compared yet" in text


def test_names_of_a_study_are_text_not_markup_and_its_unit_is_its_own(tmp_path):
    build(tmp_path, trained=False, unit=Unit(per="pair"))
    write_json(tmp_path / "study.json", edited(read_study(tmp_path), name="<script>alert(1)</script>"))
    page = report.write(tmp_path).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
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


def test_the_headline_names_forms_that_structure_or_outcomes_refute_and_no_rival(workdir):
    """The naive rival has no law: an outcome beyond it refutes no form."""
    summary = collect(workdir)
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


def test_the_summary_fits_a_terminal(workdir, page):
    lines = report.summary(workdir).splitlines()
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
        assert figure.get_suptitle() and re.search(r"\d+ (runs|stems|held-out cells)", caption), name
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


def test_figures_as_files_are_the_same_bytes_each_time(workdir, figures, tmp_path):
    paths = plots.save({"loss": figures["known"]["loss"]}, tmp_path / "a", "known-")
    assert [p.name for p in paths] == ["known-loss.svg", "known-loss.png"]
    part = next(part for part in collect(workdir).datasets if part.name == "known")
    main = part.main()
    assert main is not None
    again = plots.save({"loss": plots.loss(main, entropy=part.entropy)}, tmp_path / "b", "known-")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again]
    assert paths[1].read_bytes().startswith(b"\x89PNG") and "exact entropy 0.6200" in paths[0].read_text()


def test_a_table_of_another_trainer_is_drawn_too(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for n in np.geomspace(1e7, 1e9, 12):
        for d in n * np.array([5.0, 20.0, 80.0]):
            rows.append((n, d, law("stdlib", n / 1e4, d / 1e4) * math.exp(0.003 * rng.standard_normal())))
    table = tmp_path / "runs.csv"
    table.write_text("N,D,loss\n" + "".join(f"{n:.6g},{d:.6g},{v:.6g}\n" for n, d, v in rows))
    fit(load(table), "chinchilla").save(tmp_path / "card.json")
    names = {p.name for p in plots.save_fit(tmp_path / "card.json", tmp_path / "figures")}
    drawn = ("loss", "compute", "isoflop", "allocation", "residuals", "floor")
    assert names == {f"{k}.{e}" for k in drawn for e in ("svg", "png")}
    one = plots.of_dataset(of_fit(fit(load(table), "power_floor:C")))
    assert one["loss"].axes[0].get_xlabel() == "C (training FLOPs, 6ND)"


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
