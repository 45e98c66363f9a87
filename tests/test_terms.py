"""Each loss term of a study is fitted on its own: planted runs with two laws, through the command line."""

import json
from pathlib import Path

import handmade
import msgspec
import numpy as np
import pytest
from refusals import refuses
from test_cli import scaling
from test_runs import GOOD, manifest

from analysis.card import Conventions
from analysis.decide import forecast
from analysis.decide.entropy import check_entropy
from analysis.show.sentences import meaning
from analysis.table.runs import entropy, load, terms
from scaling.errors import Code
from scaling.records import write_json
from scaling.records.types import Evaluation
from scaling.records.unit import Unit

# What is trained on, a likelihood of hidden tokens, and a metric: each with a law of its own.
LAWS = {"mlm": (1.2, 30.0, 0.45, 60.0, 0.4), "error": (0.05, 5.0, 0.3, 40.0, 0.5)}
UNITS = {"mlm": Unit(per="hidden token"), "error": Unit(quantity="share", per="image")}


def value(term: str, n: float, d: float) -> float:
    e, a, alpha, b, beta = LAWS[term]
    return e + a * n**-alpha + b * d**-beta


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    rng, where = np.random.default_rng(0), tmp_path / "w"
    for n in (6_000, 14_000, 25_000, 55_000):
        for d in (2**17, 2**19, 2**21):
            for seed in (0, 1):
                run = f"n{n}-d{d}-s{seed}"
                role = "seed" if seed else "fit"
                about = manifest(run, n=n, d=d, seed=seed, role=role, entropy=1.9, headline="mlm", terms=UNITS)
                found = {t: float(value(t, n, d) * np.exp(0.001 * rng.standard_normal())) for t in LAWS}
                if (n, d, seed) == (55_000, 2**21, 1):
                    found["error"] = 0.0  # none of the pictures was wrong: no logarithm
                evaluation = {term: Evaluation(value=loss) for term, loss in found.items()}
                handmade.write(where, about, handmade.result(evaluation=evaluation))
    write_json(where / "study.json", handmade.study(datasets={"text": {}}))
    return where


@pytest.mark.system
def test_every_term_has_its_cards(workdir: Path):
    assert terms(workdir) == ["mlm", "error"]
    code, out, err = scaling("fit", workdir, "--json")
    assert code == 0, err
    made = json.loads(out)
    cards = {(c["conventions"]["term"], c["law"], c["conventions"]["n"]): c for c in made["fits"]}
    assert len(cards) == len(made["fits"]) == 2 * 4 * 2
    assert [a["conventions"]["term"] for a in made["approaches"]] == ["mlm", "mlm", "error", "error"]
    for term, (e, _, alpha, _, beta) in LAWS.items():
        card = cards[term, "chinchilla", "nonembedding"]
        conventions = msgspec.convert(card["conventions"], Conventions)
        assert (conventions.term, conventions.unit) == (term, UNITS[term])
        assert meaning(conventions)["loss"] == f"{term} on the evaluation set, {UNITS[term]}"
        for name, truth in (("E", e), ("alpha", alpha), ("beta", beta)):
            cell = card["params"][name]
            assert cell["lo"] < truth < cell["hi"] and cell["hi"] - cell["lo"] < truth, (term, name)
    assert cards["mlm", "product", "total"]["data"]["rows"] == 24
    dropped = cards["error", "product", "total"]["data"]["dropped"]
    assert dropped == [{"row": "n55000-d2097152-s1", "why": "no_loss", "detail": "error", "reason": ""}]
    # The headline's cards are where forecasts and the report look for them, and theirs are the only ones there.
    files = {path.relative_to(workdir / "fits").as_posix() for path in (workdir / "fits").rglob("*.json")}
    assert {"text-chinchilla-nonembedding.json", "error/text-chinchilla-nonembedding.json"} < files
    assert len(files) == 20 and len(forecast.fit_cards(workdir)) == 8
    code, out, _ = scaling("fit", workdir)
    assert code == 0 and "up to date: 16 of 16" in out
    card = workdir / "fits" / "error" / "text-chinchilla-nonembedding.json"
    code, out, err = scaling("predict", card, "--params=2e4", "--tokens=1e6", "--json")
    assert code == 0, err
    assert json.loads(out)["loss"]["value"] == pytest.approx(value("error", 2e4, 1e6), rel=0.01)


def test_one_term_is_asked_for_by_name(workdir: Path):
    code, out, _ = scaling("fit", workdir, "--law=chinchilla", "--json")
    assert code == 0 and json.loads(out)["conventions"]["term"] == "mlm"
    code, out, _ = scaling("fit", workdir, "--law=chinchilla", "--term=error", "--json")
    assert code == 0 and json.loads(out)["conventions"]["term"] == "error"
    code, out, err = scaling("fit", workdir, "--term=itc")
    assert (code, out) == (2, "") and err == (
        "scaling: error: term = itc: is no loss term of these runs; choose one of mlm, error\n"
    )
    (workdir.parent / "runs.csv").write_text(GOOD)
    code, _, err = scaling("fit", workdir.parent / "runs.csv", "--term=error")
    assert code == 2 and "term = error: is for work directories" in err and err.count("\n") == 1


def test_the_entropy_bounds_likelihoods_of_tokens_only(workdir: Path):
    """A hidden token is seen from both sides: its loss may be below the entropy of the text."""
    assert check_entropy(workdir).datasets == {}
    assert "entropy" not in load(workdir).table
    about = manifest("x", entropy=1.9)
    bound = manifest("x", entropy=1.9, terms={"loss": Unit(bound=True)})
    assert entropy(about) == 1.9 and entropy(bound) == 1.9
    with refuses(Code.UNKNOWN, "term", "mlm"):
        entropy(about, "mlm")
