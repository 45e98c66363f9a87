"""The certificate of known answers: on planted losses, whose verdicts are known, and once on runs that were trained."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade import result, write
from refusals import refuses
from test_cli import ROOT, scaling

from analysis.card import Interval
from experiments import known_answers
from scaling import plan, study
from scaling.errors import Code
from scaling.records import records


def planted(workdir: Path, floor: float = 1.0, beta: float = 1.0, noise: float = 1e-4) -> Path:
    """The study as planned, its losses drawn from an additive law above ``floor`` times the entropy."""
    made, rng = plan.make(study.resolve(known_answers.get_config())), np.random.default_rng(0)
    plan.write(made, workdir)
    for spec in (spec for program in made.programs for spec in program.runs if spec.kind != "stem"):
        n, d, entropy = spec.manifest.parameters.nonembedding, spec.manifest.tokens.D, spec.manifest.data.entropy
        assert entropy is not None
        excess = 0.2 * (n / 4608) ** -0.7 + 0.5 * (d / 2**16) ** -beta
        loss = (floor * entropy + excess) * np.exp(noise * rng.standard_normal())
        write(workdir, spec.manifest, result(float(loss), se=1e-4))
    return workdir


def rows(answer: known_answers.Answer, **wanted: str) -> dict[str, known_answers.Row]:
    """By quantity, the rows of an answer that have these fields."""
    return {
        row.quantity: row for row in answer.rows if all(getattr(row, name) == value for name, value in wanted.items())
    }


def bias(row: known_answers.Row) -> float:
    assert row.bias is not None
    return row.bias


@pytest.mark.system
def test_verdicts_are_those_of_the_planted_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    good = known_answers.analyse(planted(tmp_path / "good"))
    assert good.below == 0 and (good.family, good.recipe) == ("gpt", "width")
    for world in known_answers.WORLDS:
        found = rows(good, world=world, learner="gpt", law="chinchilla")
        assert found["floor E"].verdict == "within" and abs(bias(found["floor E"])) < 0.01
        of_d = found["exponent of D"]
        assert (of_d.verdict, of_d.exact) == (("within", 1.0) if world == "markov" else ("-", None))
    # Counted, so true of any study on these worlds: the fitter alone misses no exponent by 5 %.
    for world, exact in (("markov", 1.0), ("zipf", 0.5)):
        found = rows(good, world=world, learner="table")
        assert found["exponent of D"].exact == exact and abs(bias(found["exponent of D"])) < 0.05
        assert found["floor E"].verdict == "within"
    monkeypatch.setattr(known_answers, "LAWS", ("chinchilla",))
    monkeypatch.setattr(known_answers, "SAMPLES", 1)
    bad = known_answers.analyse(planted(tmp_path / "bad", floor=1.06, beta=0.6))
    found = rows(bad, world="markov", learner="gpt", law="chinchilla")
    assert {row.verdict for row in found.values()} == {"outside"}
    assert bias(found["floor E"]) == pytest.approx(0.06, abs=0.01)
    assert bias(found["exponent of D"]) == pytest.approx(-0.4, abs=0.03)
    low = known_answers.analyse(planted(tmp_path / "low", floor=0.8))
    assert low.below > 0  # a loss below the entropy is a mistake somewhere: it is counted
    assert any("losses lie below the entropy" in line for line in known_answers.lines(low))


def test_a_verdict_needs_the_whole_interval():
    cell = Interval(value=1.0, lo=0.95, hi=1.05)
    assert known_answers.verdict(cell, 1.0, 0.06) == "within"
    assert known_answers.verdict(cell, 1.0, 0.02) == "cannot tell"
    assert known_answers.verdict(cell, 1.2, 0.06) == "outside"
    assert known_answers.verdict(Interval(value=1.0, lo=0.95, hi=None), 1.0, 0.06) == "cannot tell"


def test_recipes_are_not_mixed(tmp_path: Path):
    planted(tmp_path)
    path = next(record.path for record in records(tmp_path) if record.manifest.dataset == "rhm") / "manifest.json"
    path.write_text(path.read_text().replace('"name": "width"', '"name": "mup"'))
    with refuses(Code.MIXED, "workdir", tmp_path) as caught:
        known_answers.analyse(tmp_path)
    assert "gpt with mup, gpt with width" in caught.value.remedy


SMALL = """
from experiments import known_answers
from scaling import study

def get_config(argument=""):
    config = known_answers.get_config("smoke")
    config.model = {"layers": 1, "context": 16}
    config.recipe.batch = 4
    config.recipe.warmup_steps = 8
    config.data = {"markov": {"source": "markov", "vocab": 8, "concentration": 1.0}}
    config.cells = {"grid": study.block("grid", "markov", (0, 1), tokens=(4096, 8192, 16384))}
    return config
"""


@pytest.mark.system
def test_small_runs_are_put_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "small.py").write_text(SMALL)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, _, err = scaling("run", f"--config={tmp_path / 'small.py'}", f"--workdir={tmp_path / 'w'}", "--workers=1")
    assert code == 0, err
    command = [sys.executable, str(ROOT / "experiments" / "known_answers.py"), f"--workdir={tmp_path / 'w'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "gpt with recipe width; 0 losses lie below the entropy" in done.stdout
    answer = json.loads((tmp_path / "w" / "certificate.json").read_text())
    assert {row["learner"] for row in answer["rows"]} == {"gpt", "table"} and len(answer["rows"]) == 6
    entropy = next(row["exact"] for row in answer["rows"] if row["quantity"] == "floor E")
    losses = [r.result.evaluation["loss"] for r in records(tmp_path / "w") if r.result and r.result.evaluation]
    # Above the entropy, and below what knows the frequencies of tokens alone: something was learnt.
    assert len(losses) == 6 and all(entropy < loss.value < np.log(8) for loss in losses)
