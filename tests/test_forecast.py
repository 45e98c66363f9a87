"""The sealed test of a law, on a work directory of records whose losses follow a planted surface."""

import contextlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import handmade
import msgspec
import numpy as np
import pytest
from refusals import refuses

from analysis.check.rolling import crps
from analysis.decide import forecast
from analysis.decide.entropy import check_entropy
from analysis.decide.forecast import REGION, Score, _power, power, score, seal
from analysis.fitting import fit
from analysis.show.answers import sentence
from analysis.table import seal as sealed
from analysis.table.runs import load, load_holdouts
from analysis.table.seal import Forecaster
from scaling.errors import Code
from scaling.records import Record, read_json, write_json
from scaling.records.types import Flops, Parameters, StudyRecord, Tokens

E, A, B, ALPHA, BETA, NOISE = 1.0, 40.0, 60.0, 0.40, 0.38, 0.002
SIZES = (6_000, 12_000, 24_000, 48_000, 96_000)
TOKENS = (125_000, 250_000, 500_000, 1_000_000)
LAWS = ("product", "chinchilla")


def surface(n, d):
    return E + A / n**ALPHA + B / d**BETA


def manifest(run, n, d, role, seed, dataset):
    return handmade.manifest(
        run,
        d=d,
        seed=seed,
        entropy=E if dataset == "known" else None,
        kind="branch",
        role=role,
        dataset=dataset,
        stem=f"stem-{dataset}-{n}-{seed}-{role == 'holdout'}",
        branch_step=5,
        size=n,
        steps=10,
        parameters=Parameters(
            total=n + 9_000, nonembedding=n, trainable=n + 9_000, active=n, nonembedding_active=n, groups={}
        ),
        tokens=Tokens(D=d, per_step=1024, loss=d, counted="tokens", unique=d, epochs=1.0),
        flops=Flops(training=(6 * n + 20_000) * d, six_nd=6 * n * d, forward_per_example=1, parts={}),
    )


def add(workdir, n, d, role="fit", seed=0, dataset="text", loss=None, done=True):
    run = f"{dataset}-{role}-{n}-{d}-{seed}"
    noise = np.random.default_rng([n, d, seed, len(dataset)]).standard_normal()
    value = float(surface(n, d) * np.exp(NOISE * noise)) if loss is None else loss
    ended = handmade.result(value, se=0.001) if done else None
    return handmade.write(Path(workdir), manifest(run, n, d, role, seed, dataset), ended)


HELD = ((384_000, 1_000_000), (96_000, 4_000_000), (192_000, 2_000_000))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished study, fitted and not sealed: 5 x 4 runs, seeds at two sizes, three held-out cells."""
    root = tmp_path_factory.mktemp("study")
    for n in SIZES:
        for d in TOKENS:
            add(root, n, d)
    for n in (SIZES[1], SIZES[3]):
        for seed in (1, 2):
            add(root, n, TOKENS[-1], "seed", seed)
    for n, d in HELD:
        add(root, n, d, "holdout")
    study = StudyRecord(name="t", datasets={"text": {}}, options=handmade.options(), ladder={}, programs=())
    write_json(root / "study.json", study)
    for n in ("nonembedding", "total"):
        for law in LAWS:
            fit(load(root, n=n), law).save(root / "fits" / f"text-{law}-{n}.json")
    return root


@pytest.fixture
def workdir(study, tmp_path):
    return Path(shutil.copytree(study, tmp_path / "w"))


def who(law, n="nonembedding"):
    return Forecaster(law=law, n=n)


def test_seal_then_score(workdir):
    for n, d in HELD:  # an outcome cannot leak into the seal: here there is none to read
        (workdir / "runs" / f"text-holdout-{n}-{d}-0" / "result.json").rename(workdir / f"{n}.json")
    got = seal(workdir)
    assert got.status == "sealed" and sentence(got) == "sealed 3 held-out cells with 18 forecasts"
    (entry,) = sealed.read(workdir).entries
    assert entry == got.entry
    assert {f.file for f in entry.fits} == {f"text-{w}-{n}.json" for w in LAWS for n in ("nonembedding", "total")}
    assert {cell.beyond for cell in entry.cells} == {("N",), ("D",), ("N", "D")}
    assert max(cell.compute_ratio for cell in entry.cells) > 3
    assert len(entry.forecasts) == 3 * 6
    assert [(noise.n, noise.of, noise.df) for noise in entry.naive["text"]] == [
        ("nonembedding", "seeds", 4),
        ("total", "seeds", 4),
    ]
    for f in entry.forecasts:
        (a, b), (c, d) = f.interval95, f.interval50
        assert a < c < f.value < d < b
    for n, d in HELD:
        (workdir / f"{n}.json").rename(workdir / "runs" / f"text-holdout-{n}-{d}-0" / "result.json")
    result = score(workdir)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Score) == result
    assert len(result.rows) == 18 and result.waiting == ()
    ranking = result.datasets["text"].ranking
    assert ranking[0].forecaster == who("chinchilla")  # the planted law and convention
    assert ranking[0].mean_error_percent < 1 and ranking[0].inside95 == 3 and ranking[0].refuted is False
    wrong = next(entry for entry in ranking if entry.forecaster == who("product"))
    assert wrong.refuted is True and wrong.bias_percent < -1  # no floor: it forecasts too low a loss
    said = sentence(result)
    assert "came out best" in said and "The naive rival" in said
    assert "product on non-embedding N" in said.split("Rejected at 95 %: ")[1]
    row = next(row for row in result.rows if row.forecaster == who("chinchilla"))
    assert row.error_percent == pytest.approx(100 * (row.value / row.outcome - 1))
    assert abs(row.z) < 3 and row.inside95


def test_a_cell_is_sealed_once(workdir):
    assert seal(workdir).status == "sealed"
    before = (workdir / "prediction.json").read_bytes()
    first = sealed.read(workdir).entries[0]
    again = seal(workdir)
    assert again.status == "unchanged" and again.sealed == 3 and again.entry == first
    assert (workdir / "prediction.json").read_bytes() == before
    fit(load(workdir), "chinchilla", objective="squares").save(workdir / "fits" / "text-chinchilla-nonembedding.json")
    with refuses(Code.CHANGED, "fits"):
        seal(workdir)
    assert (workdir / "prediction.json").read_bytes() == before
    add(workdir, 192_000, 4_000_000, "holdout", done=False)
    got = seal(workdir)
    assert [cell.run for cell in got.entry.cells] == ["text-holdout-192000-4000000-0"] and got.sealed == 4
    both = sealed.read(workdir).entries
    assert both[0] == first and both[1].previous == first.sha256
    result = score(workdir)
    assert result.waiting == ("text-holdout-192000-4000000-0",) and "1 held-out run is not finished" in sentence(result)


@pytest.mark.parametrize(
    "old, new", [('"value": 1.', '"value": 1.1'), ('"time": "20', '"time": "19'), ('"limit": ', '"limit": 9')]
)
def test_a_changed_prediction_is_refused(workdir, old, new):
    seal(workdir)
    text = (workdir / "prediction.json").read_text()
    assert old in text
    (workdir / "prediction.json").write_text(text.replace(old, new, 1))
    for act in (score, seal):
        with refuses(Code.CHANGED, "prediction"):
            act(workdir)


def test_nothing_to_seal_or_score(workdir):
    with refuses(Code.MISSING, "prediction"):
        score(workdir)
    shutil.rmtree(workdir / "fits")
    with refuses(Code.MISSING, "fits"):
        seal(workdir)
    fit(load(workdir), "product").save(workdir / "fits" / "text-product-nonembedding.json")
    for path in (workdir / "runs").glob("text-holdout-*"):
        shutil.rmtree(path)
    with refuses(Code.MISSING, "holdouts"):
        seal(workdir)
    assert not (workdir / "prediction.json").exists()


def test_of_two_seals_at_once_one_seals_and_the_other_finds_it(workdir, monkeypatch):
    both, looked = threading.Barrier(2), forecast._unsealed

    def together(path):
        found = looked(path)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)  # both have found cells without a forecast, before either seals them
        both.abort()
        return found

    monkeypatch.setattr(forecast, "_unsealed", together)
    with ThreadPoolExecutor(2) as pool:
        sealings = [each.result() for each in [pool.submit(seal, workdir) for _ in range(2)]]
    assert sorted(each.status for each in sealings) == ["sealed", "unchanged"]
    assert sealings[0].sealed == sealings[1].sealed and sealings[0].entry == sealings[1].entry
    prediction = read_json(workdir / "prediction.json")
    assert len(prediction["entries"]) == 1 and not (workdir / ".prediction.lock").exists()


def test_the_naive_rival_is_the_plane_through_three_cells(workdir):
    """Where the losses are a power law everywhere, the last loss with its slopes is exact."""
    for record in (workdir / "runs").iterdir():
        m = Record(record).manifest
        (record / "result.json").unlink(missing_ok=True)
        Record(record).finish(handmade.result(50 * m.parameters.nonembedding**-0.1 * m.tokens.D**-0.15, se=None))
    shutil.rmtree(workdir / "fits")
    fit(load(workdir), "product").save(workdir / "fits" / "text-product-nonembedding.json")
    seal(workdir)
    rows = [row for row in score(workdir).rows if row.forecaster == who(None)]
    assert len(rows) == 3
    for row in rows:
        assert row.value == pytest.approx(row.outcome, rel=1e-9)


def test_power_grows_with_what_the_cells_can_tell(study):
    fits = {who(law): fit(load(study), law) for law in LAWS}
    cells = load_holdouts(study)
    far, blurred = power(fits, cells), power(fits, cells, noise=0.5)
    assert far.forecasters == tuple(fits)
    product, chinchilla = range(2)
    for result in (far, blurred):
        for law in (product, chinchilla):
            assert result.refute[law][law] == pytest.approx(1 - REGION, abs=0.011)
    assert far.refute[chinchilla][product] > 0.9 and min(far.choose) > 0.9
    assert blurred.refute[chinchilla][product] < 0.15 and max(blurred.choose) < 0.8
    assert far.cells == 3 and far.chance == 0.5 and far.chosen == np.mean(far.choose)


def test_power_of_laws_that_are_known_normals():
    """Two laws that differ by 3 noise units in one of two cells: refuted as a chi-square with 2 degrees of freedom."""
    rng = np.random.default_rng(0)
    one = 0.01 * rng.standard_normal((20_000, 2))
    two = 0.01 * rng.standard_normal((20_000, 2)) + [0.03, 0.0]
    logs = {who("a"): one, who("b"): two}
    result = _power(logs, logs)
    assert result.refute[0][1] == pytest.approx(0.68, abs=0.02)  # P(chi2_2(9) > 7.38)
    assert result.choose[0] == pytest.approx(0.93, abs=0.02)  # Phi(1.5), but for the CRPS's shape


def test_crps_of_a_normal():
    """Gneiting and Raftery 2007, eq. 21: at the centre of a standard normal it is 2 phi(0) - 1 / sqrt(pi)."""
    q = np.sort(np.random.default_rng(0).standard_normal(200_000))
    assert float(crps(q, 0.0)) == pytest.approx(0.2337, abs=0.002)
    assert float(crps(np.array([2.0]), 5.0)) == 3.0


def test_entropy_of_a_known_source(workdir):
    assert check_entropy(workdir).datasets == {}
    for n in SIZES:
        for d in TOKENS:
            add(workdir, n, d, dataset="known")
    add(workdir, SIZES[-1], 8_000_000, "holdout", dataset="known", loss=0.5)
    fit(load(workdir, dataset="known"), "chinchilla").save(workdir / "fits" / "known-chinchilla-nonembedding.json")
    found = check_entropy(workdir).datasets["known"]
    assert found.ok and found.entropy == E and found.runs == 20  # the unsealed holdout is not looked at
    (floor,) = found.floors
    assert floor.holds and floor.interval.lo <= E <= floor.interval.hi
    assert "all 20 losses are at or above the entropy 1.0000" in sentence(found)
    seal(workdir)
    found = check_entropy(workdir).datasets["known"]
    assert not found.ok and found.below == ("known-holdout-96000-8000000-0",)
    assert "1 of 21 losses lie more than 3 standard errors BELOW" in sentence(found)
