"""The analyses of the experiments on hyperparameters, on planted runs."""

import importlib

import numpy as np
import pandas as pd
import pytest
from handmade import result

from analysis.card import Interval
from experiments import kaplan_to_chinchilla, lr_transfer, wsd_equals_cosine
from scaling import plan, study
from scaling.verbs import experiment


def test_lr_transfer_finds_how_far_the_best_rate_moves(monkeypatch, tmp_path):
    made = plan.make(study.resolve(lr_transfer.get_config()))
    rng, rows = np.random.default_rng(0), []
    for program in made.programs:
        manifest = program.runs[-1].manifest
        recipe, config = manifest.recipe, manifest.config
        # standard falls as 1 / width, and mup as 1 / layers.
        shape = config["width"] / 32 if recipe["parametrisation"] == "standard" else 1.0
        depth = config["layers"] / 2 if recipe["parametrisation"] == "mup" else 1.0
        x = np.log(recipe["learning_rate"] * shape * depth / 0.018)
        loss = 2.0 * config["width"] ** -0.05 * np.exp(0.01 * x * x + 0.001 * rng.standard_normal())
        rows.append(lr_transfer._row(manifest, result(float(loss))))
    monkeypatch.setattr(lr_transfer, "rows", lambda workdir: pd.DataFrame(rows))
    planted = {("width", "standard"): -1, ("width", "mup"): 0, ("layers", "mup"): -1, ("layers", "completep"): 0}
    for answer in lr_transfer.analyse(tmp_path):
        true = planted[answer.axis, answer.parametrisation]
        lo, hi = ends(answer.exponent)
        assert lo - 0.05 < true < hi + 0.05 and hi - lo < 0.3
        assert answer.factor is not None and len(answer.optima) == 4
        assert answer.factor.value == pytest.approx(8.0**true, rel=0.5)


def ends(cell: Interval | None) -> tuple[float, float]:
    """Of an interval that is closed."""
    assert cell is not None and cell.lo is not None and cell.hi is not None
    return cell.lo, cell.hi


@pytest.mark.parametrize(("worse", "verdict"), [(0.0, "equal"), (0.01, "different"), (0.003, "cannot tell")])
def test_equivalence_needs_the_interval_inside_the_margin(worse, verdict):
    rng, rows = np.random.default_rng(1), []
    for size in (2, 4):
        for seed in range(3):
            stem = 0.004 * rng.standard_normal()  # shared by arms of a seed, so that pairing takes it out
            for d in (2**19, 2**20, 2**21):
                for arm, off in (("branch", 0.0), ("cosine", worse)):
                    y = 0.5 - 0.02 * size + stem + off + 0.001 * rng.standard_normal()
                    rows.append({"arm": arm, "size": size, "D": d, "seed": seed, "y": y})
    table = pd.DataFrame(rows)
    found = wsd_equals_cosine.difference(table, "cosine", "branch", paired=True)
    lo, hi = ends(found.difference)
    assert found.verdict == verdict and lo < worse < hi
    # Unpaired, the shared noise stays and widens the interval.
    other = wsd_equals_cosine.difference(table, "cosine", "branch", paired=False).difference
    assert other.half_width > 2 * found.difference.half_width


def test_the_accounts_of_kaplan_differ_as_the_head_says(monkeypatch, tmp_path):
    """On one law of N with head, leaving the head out of N and C steepens the exponent; the right account finds it."""
    made = plan.make(study.resolve(kaplan_to_chinchilla.get_config()))
    rng, rows = np.random.default_rng(2), []
    for program in made.programs:
        for run in program.runs:
            manifest = run.manifest
            if run.kind == "stem":
                continue
            n = manifest.parameters.nonembedding
            total, d = n + 256 * manifest.config["width"], manifest.tokens.D
            loss = (1.0 + 60 / total**0.4 + 250 / d**0.4) * np.exp(0.001 * rng.standard_normal())
            for arm, recipe in kaplan_to_chinchilla.ARMS.items():
                schedule = recipe.get("schedule", "wsd")
                same = tuple(manifest.recipe[name] for name in ("name", "schedule", "warmup_steps"))
                if same == (recipe["name"], schedule, recipe["warmup_steps"]):
                    rows.append(
                        {
                            "run": run.run,
                            "stem": manifest.stem or run.run,
                            "seed": manifest.seed,
                            "arm": arm,
                            "D": float(d),
                            "N_without": float(n),
                            "N_with": float(total),
                            "C_exact": float(manifest.flops.training),
                            "loss": loss,
                        }
                    )
    table = pd.DataFrame(rows)
    assert set(table.groupby("arm").size()) == {35}
    monkeypatch.setattr(kaplan_to_chinchilla, "rows", lambda workdir: table)
    monkeypatch.setattr(kaplan_to_chinchilla, "STEPS", kaplan_to_chinchilla.STEPS[::2])
    answers = {answer.step: answer.a for answer in kaplan_to_chinchilla.analyse(tmp_path)}
    head, last = answers["+ head in N"], answers["+ decay"]
    (lo, hi), above = ends(last), ends(answers["kaplan"])[0]
    assert head is not None and last is not None and above > hi and abs(head.value - last.value) < 0.03
    # alpha = beta gives 0.5 for C ~ N D; attention in the exact C moves it a little.
    assert last.value == pytest.approx(0.5, abs=0.05) and lo < last.value < hi


@pytest.mark.parametrize(
    "name", ["lr_transfer", "wsd_equals_cosine", "kaplan_to_chinchilla", "critical_batch", "transfer", "distill"]
)
def test_an_experiment_without_runs_is_one_line(name, tmp_path, monkeypatch, capsys):
    module = importlib.import_module(f"experiments.{name}")
    monkeypatch.setattr("sys.argv", [name, f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        experiment.command(module.__doc__, "x.json", module.analyse, module.lines)
    said = capsys.readouterr()
    assert end.value.code == 2 and "holds no finished run" in said.err and said.err.count("\n") == 1 and not said.out
    assert not (tmp_path / "x.json").exists()
