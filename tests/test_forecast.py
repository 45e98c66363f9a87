"""The sealed test of a law, on a work directory of records whose losses follow a planted surface."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis.check.rolling import crps
from analysis.decide.forecast import REGION, _power, check_entropy, power, score, seal
from analysis.fitting import fit
from analysis.table import seal as sealed
from analysis.table.runs import load, load_holdouts
from scaling.errors import UserError
from scaling.records import Record, write_json

E, A, B, ALPHA, BETA, NOISE = 1.0, 40.0, 60.0, 0.40, 0.38, 0.002
SIZES = (6_000, 12_000, 24_000, 48_000, 96_000)
TOKENS = (125_000, 250_000, 500_000, 1_000_000)
LAWS = ("product", "chinchilla")


def surface(n, d):
    return E + A / n**ALPHA + B / d**BETA


def manifest(run, n, d, role, seed, dataset):
    return {
        "schema": 1, "run": run, "study": "t", "origin": "trained", "kind": "branch", "role": role, "dataset": dataset,
        "stem": f"stem-{dataset}-{n}-{seed}-{role == 'holdout'}", "seed": seed, "family": "gpt", "size": n,
        "parameters": {"total": n + 9_000, "nonembedding": n, "trainable": n + 9_000, "active": n, "groups": {}},
        "steps": 10, "tokens": {"D": d, "unique": d, "epochs": 1.0}, "recipe": {"schedule": "wsd"}, "config": {},
        "flops": {"training": (6 * n + 20_000) * d, "6ND": 6 * n * d}, "loss_unit": "nats/token", "headline": "loss",
        "data": {"entropy": E if dataset == "known" else None},
    }  # fmt: skip


def add(workdir, n, d, role="fit", seed=0, dataset="text", loss=None, done=True):
    run = f"{dataset}-{role}-{n}-{d}-{seed}"
    record = Record(Path(workdir) / "runs" / run)
    record.begin(manifest(run, n, d, role, seed, dataset))
    if done:
        noise = np.random.default_rng([n, d, seed, len(dataset)]).standard_normal()
        value = surface(n, d) * np.exp(NOISE * noise) if loss is None else loss
        record.finish({"status": "done", "decayed": True, "evaluation": {"loss": {"value": value, "se": 0.001}}})
    return record


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
    write_json(root / "study.json", {"datasets": {"text": {}}, "programs": []})
    for n in ("nonembedding", "total"):
        for law in LAWS:
            fit(load(root, n=n), law).save(root / "fits" / f"text-{law}-{n}.json")
    return root


@pytest.fixture
def workdir(study, tmp_path):
    return Path(shutil.copytree(study, tmp_path / "w"))


def test_seal_then_score(workdir):
    for n, d in HELD:  # an outcome cannot leak into the seal: here there is none to read
        (workdir / "runs" / f"text-holdout-{n}-{d}-0" / "result.json").rename(workdir / f"{n}.json")
    got = seal(workdir)
    assert got["status"] == "sealed" and got["message"] == "sealed 3 held-out cells with 18 forecasts"
    entry = json.loads((workdir / "prediction.json").read_text())["entries"][0]
    assert {f["file"] for f in entry["fits"]} == {f"text-{w}-{n}.json" for w in LAWS for n in ("nonembedding", "total")}
    assert {tuple(c["beyond"]) for c in entry["cells"]} == {("N",), ("D",), ("N", "D")}
    assert max(c["compute_ratio"] for c in entry["cells"]) > 3
    assert len(entry["forecasts"]) == 3 * 6 and "from seeds (4 degrees of freedom)" in entry["naive"]["text/total"]
    for f in entry["forecasts"]:
        (a, b), (c, d) = f["interval95"], f["interval50"]
        assert a < c < f["value"] < d < b
    for n, d in HELD:
        (workdir / f"{n}.json").rename(workdir / "runs" / f"text-holdout-{n}-{d}-0" / "result.json")
    result = score(workdir)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert len(result["rows"]) == 18 and result["waiting"] == []
    ranking = result["datasets"]["text"]["ranking"]
    assert ranking[0]["forecaster"] == "chinchilla/nonembedding"  # the planted law and convention
    assert ranking[0]["mean_error_percent"] < 1 and ranking[0]["inside95"] == 3 and ranking[0]["refuted"] is False
    wrong = next(e for e in ranking if e["forecaster"] == "product/nonembedding")
    assert wrong["refuted"] is True and wrong["bias_percent"] < -1  # no floor: it forecasts too low a loss
    assert "came out best" in result["verdict"] and "The naive rival" in result["verdict"]
    assert "product on N_nonembedding" in result["verdict"].split("Refuted at 95 %: ")[1]
    row = next(r for r in result["rows"] if r["forecaster"] == "chinchilla/nonembedding")
    assert row["error_percent"] == pytest.approx(100 * (row["value"] / row["outcome"] - 1))
    assert abs(row["z"]) < 3 and row["inside95"]


def test_a_cell_is_sealed_once(workdir):
    assert seal(workdir)["status"] == "sealed"
    before = (workdir / "prediction.json").read_bytes()
    again = seal(workdir)
    assert again["status"] == "unchanged" and "nothing changed" in again["message"]
    assert (workdir / "prediction.json").read_bytes() == before
    fit(load(workdir), "chinchilla", objective="squares").save(workdir / "fits" / "text-chinchilla-nonembedding.json")
    with pytest.raises(UserError, match="changed after every held-out cell was sealed"):
        seal(workdir)
    assert (workdir / "prediction.json").read_bytes() == before
    add(workdir, 192_000, 4_000_000, "holdout", done=False)
    got = seal(workdir)
    assert [c["run"] for c in got["entry"]["cells"]] == ["text-holdout-192000-4000000-0"]
    both = sealed.read(workdir)
    assert both is not None and both["entries"][0] == json.loads(before)["entries"][0]
    assert both["entries"][1]["previous"] == both["entries"][0]["sha256"]
    result = score(workdir)
    assert (
        result["waiting"] == ["text-holdout-192000-4000000-0"] and "1 sealed cell is not finished" in result["verdict"]
    )


@pytest.mark.parametrize(
    "old, new", [('"value": 1.', '"value": 1.1'), ('"time": "20', '"time": "19'), ('"limit": ', '"limit": 9')]
)
def test_a_changed_prediction_is_refused(workdir, old, new):
    seal(workdir)
    text = (workdir / "prediction.json").read_text()
    assert old in text
    (workdir / "prediction.json").write_text(text.replace(old, new, 1))
    for act in (score, seal):
        with pytest.raises(UserError, match="was changed after it was sealed"):
            act(workdir)


def test_nothing_to_seal_or_score(workdir):
    with pytest.raises(UserError, match="there is none; seal the forecasts first"):
        score(workdir)
    shutil.rmtree(workdir / "fits")
    with pytest.raises(UserError, match="holds no fit card"):
        seal(workdir)
    fit(load(workdir), "product").save(workdir / "fits" / "text-product-nonembedding.json")
    for path in (workdir / "runs").glob("text-holdout-*"):
        shutil.rmtree(path)
    with pytest.raises(UserError, match="has no held-out cells"):
        seal(workdir)
    assert not (workdir / "prediction.json").exists()


def test_the_naive_rival_is_the_plane_through_three_cells(workdir):
    """Where the losses are a power law everywhere, the last loss with its slopes is exact."""
    for record in (workdir / "runs").iterdir():
        m = Record(record).manifest
        n, d = m["parameters"]["nonembedding"], m["tokens"]["D"]
        value = 50 * n**-0.1 * d**-0.15
        Record(record).finish({"status": "done", "decayed": True, "evaluation": {"loss": {"value": value}}})
    shutil.rmtree(workdir / "fits")
    fit(load(workdir), "product").save(workdir / "fits" / "text-product-nonembedding.json")
    seal(workdir)
    rows = [r for r in score(workdir)["rows"] if r["forecaster"] == "naive/nonembedding"]
    assert len(rows) == 3
    for row in rows:
        assert row["value"] == pytest.approx(row["outcome"], rel=1e-9)


def test_power_grows_with_what_the_cells_can_tell(study):
    fits = {law: fit(load(study), law) for law in LAWS}
    cells = load_holdouts(study)
    far, blurred = power(fits, cells), power(fits, cells, noise=0.5)
    for result in (far, blurred):
        for law in LAWS:
            assert result["refute"][law][law] == pytest.approx(1 - REGION, abs=0.011)
    assert far["refute"]["chinchilla"]["product"] > 0.9 and min(far["choose"].values()) > 0.9
    assert blurred["refute"]["chinchilla"]["product"] < 0.15 and max(blurred["choose"].values()) < 0.8
    assert far["sentence"].startswith("3 held-out cells name the true law")


def test_power_of_laws_that_are_known_normals():
    """Two laws that differ by 3 noise units in one of two cells: refuted as a chi-square with 2 degrees of freedom."""
    rng = np.random.default_rng(0)
    one = 0.01 * rng.standard_normal((20_000, 2))
    two = 0.01 * rng.standard_normal((20_000, 2)) + [0.03, 0.0]
    result = _power({"a": one, "b": two}, {"a": one, "b": two})
    assert result["refute"]["a"]["b"] == pytest.approx(0.68, abs=0.02)  # P(chi2_2(9) > 7.38)
    assert result["choose"]["a"] == pytest.approx(0.93, abs=0.02)  # Phi(1.5), but for the CRPS's shape


def test_crps_of_a_normal():
    """Gneiting and Raftery 2007, eq. 21: at the centre of a standard normal it is 2 phi(0) - 1 / sqrt(pi)."""
    q = np.sort(np.random.default_rng(0).standard_normal(200_000))
    assert float(crps(q, 0.0)) == pytest.approx(0.2337, abs=0.002)
    assert float(crps(np.array([2.0]), 5.0)) == 3.0


def test_entropy_of_a_known_source(workdir):
    assert check_entropy(workdir)["datasets"] == {}
    for n in SIZES:
        for d in TOKENS:
            add(workdir, n, d, dataset="known")
    add(workdir, SIZES[-1], 8_000_000, "holdout", dataset="known", loss=0.5)
    fit(load(workdir, dataset="known"), "chinchilla").save(workdir / "fits" / "known-chinchilla-nonembedding.json")
    found = check_entropy(workdir)["datasets"]["known"]
    assert found["ok"] and found["entropy"] == E and found["runs"] == 20  # the unsealed holdout is not looked at
    (floor,) = found["floors"]
    assert floor["holds_entropy"] and floor["lo"] <= E <= floor["hi"]
    assert "all 20 losses are at or above the entropy 1.0000" in found["verdict"]
    seal(workdir)
    found = check_entropy(workdir)["datasets"]["known"]
    assert not found["ok"] and found["below"] == ["known-holdout-96000-8000000-0"]
    assert "1 of 21 losses lie more than 3 standard errors BELOW" in found["verdict"]
