"""How far does the whole pipeline, from training to the fitted law, lie from answers that are known exactly?

    scaling plan --config=experiments/known_answers.py
    scaling run  --config=experiments/known_answers.py --workdir=runs/known_answers
    python experiments/known_answers.py --workdir=runs/known_answers      # the table; also written as certificate.json

Three worlds: ``markov`` (order 1, V = 32: exact entropy, and exponent 1 in D, since every size can represent the
chain), ``rhm`` (a random hierarchy of three levels: exact entropy, reached by a staircase), ``zipf`` (4,096 contexts
with p ~ c^-2: exact entropy). Four sizes of gpt x four D, a second seed at two sizes. On each world two forms with a
floor, additive (chinchilla) and not (product_floor); the fitted floor and D-exponent are held against the exact ones.

Beside them stands the tabular learner (scaling/data/_tabular.py), whose exponents are exact too: a / (1 + a) in D on
zipf, 1 on markov. It is counted, not trained: what its fits miss is the fitter's own bias, the rest is the training's.

The verdict is of equivalence: ``within`` where the whole 95 % interval lies within 2 % of the exact entropy, or 10 %
of the exact exponent; ``outside`` where the interval leaves the exact value out; else ``cannot tell``, as always where
the fit says that it does not identify the number. Losses below the entropy are counted: there must be none.

Any recipe can be put through, each in its own work directory, and any family that predicts the next token:

    scaling run --config=experiments/known_answers.py --config.recipe.name=recipe.json --workdir=runs/known_mine

It took 200 s on two cores beside other work (2026-11-22; AMD EPYC with AVX-512; `scaling plan` says 4 minutes of
one core) and said of gpt with the recipe ``width`` at 0.02:

    world   learner  law            quantity        exact  fitted                     bias  verdict
    markov  gpt      chinchilla     floor E        3.0555  3.055 [3.046, 3.058]      -0.0%  within
    markov  gpt      chinchilla     exponent of D  1.0000  0.9351 [0.745, 1.141]     -6.5%  cannot tell
    markov  gpt      product_floor  floor E        3.0555  3.058 [3.056, 3.059]      +0.1%  within
    markov  gpt      product_floor  exponent of D  1.0000  1.043 [0.9132, 1.169]     +4.3%  cannot tell
    markov  table    power_floor:D  floor E        3.0555  3.055 [3.055, 3.056]      -0.0%  within
    markov  table    power_floor:D  exponent of D  1.0000  0.9683 [0.9389, 1.005]    -3.2%  within
    rhm     gpt      chinchilla     floor E        1.5596  1.713 [0.7883, 1.837]*    +9.9%  cannot tell
    rhm     gpt      product_floor  floor E        1.5596  1.781 [1.571, 1.867]     +14.2%  outside
    zipf    gpt      chinchilla     floor E        0.1512  0.1655 [0.09294, 0.1715]* +9.4%  cannot tell
    zipf    gpt      product_floor  floor E        0.1512  0.1682 [0.1553, 0.177]   +11.2%  outside
    zipf    table    power_floor:D  floor E        0.1512  0.1508 [0.1505, 0.1511]   -0.3%  within
    zipf    table    power_floor:D  exponent of D  0.5000  0.4979 [0.489, 0.5047]    -0.4%  within

What it means, and what a column of 64 steps did to it, is in experiments/LOG.md.

``:smoke`` is two sizes at three small D: a look at the path, no answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from scaling import data, study
from scaling.data import _tabular
from scaling.errors import Code, UserError
from scaling.records import read_study
from scaling.records.value import Value
from scaling.verbs import experiment, show

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.fitting import Fit
    from analysis.table.runs import Runs

K, M = 2**10, 2**20
LAWS = ("chinchilla", "product_floor")
MARGIN = {"floor E": 0.02, "exponent of D": 0.1}  # relative to the exact value
WORLDS = {
    "markov": {"source": "markov", "vocab": 32, "concentration": 1.0},
    "rhm": {"source": "rhm", "depth": 3},
    "zipf": {"source": "zipf", "base": 64, "targets": 16, "exponent": 1.0},
}
# D and samples of the tabular learner: below, the rare successors on markov (V = 32) are not yet known.
TABULAR, SAMPLES = tuple(2**power for power in range(14, 20)), 24


def get_config(argument: str = "") -> ConfigDict:
    """The study; ``smoke`` for the smallest one."""
    config, smoke = study.base("known_answers", argument, ("smoke",)), argument == "smoke"
    config.recipe.learning_rate = 0.02
    config.evaluation.tokens = (16 if smoke else 256) * K
    sizes = (0, 1) if smoke else (1, 2, 3, 4)
    tokens = (16 * K, 32 * K, 64 * K) if smoke else (M // 8, M // 4, M // 2, M)  # below, the start is what is seen
    for name, world in WORLDS.items():
        config.data[name] = world
        config.cells[name] = study.block("grid", name, sizes, tokens=tokens)
        config.cells[f"{name}_seeds"] = study.block("grid", name, sizes[::2], tokens=tokens, seeds=(1,), role="seed")
    return config


def exponent(world: dict[str, Any], learner: str) -> float | None:
    """The exact exponent of D; None where none is known: on zipf only a table's is."""
    if world["source"] == "zipf" and learner == "table":
        return world["exponent"] / (1 + world["exponent"])
    return 1.0 if world["source"] == "markov" else None


class Row(Value):
    """A quantity of a fit on a world, beside its exact value.

    Attributes:
      exact: None where it is not known.
      fitted: None where the law has no such number.
      identified: whether the runs show it. bias: relative to the exact value.
      verdict: ``within``, ``outside``, ``cannot tell``, or ``-`` without an exact value.
    """

    world: str
    learner: str
    law: str
    quantity: str
    exact: float | None
    fitted: Interval | None
    identified: bool
    bias: float | None
    verdict: str


class Answer(Value):
    """What learnt, how many of its losses lie more than four standard errors below the entropy, and a row for each
    world, learner, law and quantity."""

    family: str
    recipe: str
    below: int
    rows: tuple[Row, ...]


def verdict(cell: Interval, exact: float, margin: float) -> str:
    """within, outside or cannot tell: of an interval, against the exact value with a relative margin."""
    if cell.lo is None or cell.hi is None:
        return "cannot tell"
    if exact * (1 - margin) <= cell.lo and cell.hi <= exact * (1 + margin):
        return "within"
    return "cannot tell" if cell.lo <= exact <= cell.hi else "outside"


def analyse(workdir: Path) -> Answer:
    """Fits of all worlds against what is exact.

    Raises:
      UserError: MIXED: several learners; UNSUPPORTED: losses that no entropy bounds.
    """
    from analysis.fitting import fit
    from analysis.table import runs

    kinds = {(m.family, m.recipe["name"]) for m, _ in experiment.finished(workdir)}
    if len(kinds) > 1:
        text = ", ".join(f"{family} with {recipe}" for family, recipe in sorted(kinds))
        remedy = f"holds several learners ({text}); give each a work directory of its own"
        raise UserError("workdir", workdir, remedy, Code.MIXED)
    ((family, recipe),) = kinds
    rows: list[Row] = []
    below = 0
    for name, world in read_study(workdir).datasets.items():
        trained, source = runs.load(workdir, dataset=name), data.load(world)
        if "entropy" not in trained.table:
            remedy = f"no entropy bounds its losses on {name}; choose a likelihood"
            raise UserError("workdir", workdir, remedy, Code.UNSUPPORTED)
        exact = {"floor E": source.describe()["entropy"], "exponent of D": exponent(world, family)}
        error = trained.table.reindex(columns=["loss_se"], fill_value=0.0)["loss_se"]  # one document alone has none
        below += int((trained.table["loss"] + 4 * error < exact["floor E"]).sum())
        for law in LAWS:
            rows += judge(name, family, fit(trained, law), exact)
        if isinstance(source, _tabular.Known):
            found, exact = fit(_counted(source), "power_floor:D"), {**exact, "exponent of D": exponent(world, "table")}
            rows += judge(name, "table", found, exact)
    return Answer(family=family, recipe=recipe, below=below, rows=tuple(rows))


def _counted(source: _tabular.Known) -> Runs:
    """Runs of the tabular learner: the mean loss of its samples at each D."""
    import numpy as np
    import pandas as pd

    from analysis.table import runs

    loss = np.mean([_tabular.losses(source, TABULAR, seed=seed) for seed in range(SAMPLES)], axis=0)
    return runs.from_frame(pd.DataFrame({"N": 1.0, "D": np.array(TABULAR, float), "loss": loss}))


def judge(world: str, learner: str, found: Fit, exact: dict[str, float | None]) -> list[Row]:
    """A row for each quantity of a fit: its exact and fitted value, its relative bias and the verdict."""
    from analysis.card import NotIdentified, ParameterAtBound

    bad = {w.parameter for w in found.warnings if isinstance(w, NotIdentified | ParameterAtBound)}
    names, rows = {"floor E": "E", "exponent of D": "beta" if "beta" in found.intervals else "a"}, []
    for quantity, name in names.items():
        cell, value = found.intervals.get(name), exact[quantity]
        known, bias, said = name not in bad and cell is not None, None, "-" if value is None else "cannot tell"
        if value is not None and cell is not None:
            bias = cell.value / value - 1
            said = verdict(cell, value, MARGIN[quantity]) if known else "cannot tell"
        rows.append(
            Row(
                world=world,
                learner=learner,
                law=found.law.name,
                quantity=quantity,
                exact=value,
                fitted=cell,
                identified=known,
                bias=bias,
                verdict=said,
            )
        )
    return rows


def lines(answer: Answer) -> list[str]:
    shown = show.table(
        answer.rows,
        {
            "world": lambda row: row.world,
            "learner": lambda row: row.learner,
            "law": lambda row: row.law,
            "quantity": lambda row: row.quantity,
            "exact": lambda row: "-" if row.exact is None else f"{row.exact:.4f}",
            "fitted": lambda row: show.interval(row.fitted, 4) + ("" if row.identified else "*"),
            "bias": lambda row: "-" if row.bias is None else f"{row.bias:+.1%}",
            "verdict": lambda row: row.verdict,
        },
    )
    below = f"{answer.below} losses lie below the entropy; * the fit does not identify it"
    return [*shown, f"{answer.family} with recipe {answer.recipe}; {below}"]


if __name__ == "__main__":
    experiment.command(__doc__, "certificate.json", analyse, lines)
