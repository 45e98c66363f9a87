"""tune: sweeps learning rate and batch at small sizes, and writes the recipe fitted to the sweep."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records import SCHEMA, Manifest, read_study, write_json
from scaling.records.typed import check_writable, plain
from scaling.verbs._declare import JSON, LEVEL, WORKDIR, Verb
from scaling.verbs._study import default_workdir
from scaling.verbs._training import TRAINING
from scaling.verbs.plan import VERB as PLAN
from scaling.verbs.plan import plan
from scaling.verbs.run import train
from scaling.verbs.show import interval, print_json, table

if TYPE_CHECKING:
    from analysis.card import Interval
    from analysis.decide.tune import PowerLaw, SweptCell, Tuned
    from scaling.recipe import Recipe


def tune(options: SimpleNamespace) -> int:
    """Trains the sweep, fits the best learning rate and batch, and writes the recipe. Resumable like ``run``."""
    if options.config is None:
        raise UserError("config", "nothing", "give --config=FILE.py, the study whose recipe to tune")
    config, base = sweep(options.config, options)
    workdir = Path(options.workdir) if options.workdir else default_workdir(config.name, options.argument)
    if options.dry_run:
        asked = {flag.name: flag.default for flag in PLAN.flags} | {"workdir": str(workdir), "json": options.json}
        return plan(SimpleNamespace(**asked, config=config, argument=None))
    out = Path(options.out) if options.out else workdir / "recipe.json"
    check_writable(out, "out")
    training = {flag.name: getattr(options, flag.name) for flag in TRAINING}
    asked = SimpleNamespace(**training, config=config, workdir=str(workdir), argument=None, dry_run=False, json=False)
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the recipe; what `run` prints is progress
        code = train(asked)
    if code != 0:
        return code
    tuned = fitted(workdir, options.level)
    write_json(out, {"schema": SCHEMA, "kind": "recipe", "recipe": fields(base, tuned, workdir), "fit": tuned})
    if options.json:
        shown = {name: value for name, value in plain(tuned).items() if name != "draws"}
        print_json({"schema": SCHEMA, "kind": "tune", "path": str(out), "workdir": str(workdir), **shown})
        return 0
    print("\n".join(summary(tuned)))
    print(f"written: {out}; name it in a study: config.recipe.name = {str(out)!r}")
    return 0


def sweep(config: Any, options: SimpleNamespace) -> tuple[Any, Recipe]:
    """The configuration of the sweep (learning rates x batches x sizes x D), and the recipe that it starts from.

    Defaults, from the study's first block that is not a holdout: its three smallest sizes, its smallest D and four
    times that, five learning rates a factor of 2 apart around the recipe's, and half, once and twice its batch.
    """
    from scaling import recipe
    from scaling import study as studies

    first = next((b for b in config.cells.values() if b["role"] != "holdout"), None)
    if first is None:
        raise UserError("config.cells", "holdouts only", "tune needs a block with role fit or seed")
    for field in ("family", "init_from", "freeze", "adapt", "distill", "prune"):
        if first.get(field):
            remedy = "tune sweeps runs that are drawn and trained whole; state the rates of others as blocks"
            raise UserError(field, first[field], remedy, Code.UNSUPPORTED)
    resolved = studies.resolve(config)
    cells = [c for c in resolved.cells if c.dataset == first["dataset"] and c.role != "holdout"]
    sizes = _list("sizes", options.sizes, int) or sorted({cell.size for cell in cells})[:3]
    least = min(cell.tokens for cell in cells)
    tokens = _list("tokens", options.tokens, float) or [least, 4 * least]
    rules = recipe.read(config.recipe.to_dict(), dict(first["recipe"]))
    middle = sorted(cells, key=lambda cell: cell.tokens)[len(cells) // 2].recipe
    rates = _list("rates", options.rates, float) or [middle.learning_rate * 2.0**i for i in range(-2, 3)]
    batches = _list("batches", options.batches, int)
    batches = batches or sorted({max(1, middle.batch // 2), middle.batch, 2 * middle.batch})
    seeds = _list("seeds", options.seeds, int) or [0]
    swept = studies.base(f"{config.name}-tune")
    kept = config.to_dict()
    swept.update({name: value for name, value in kept.items() if name not in ("name", "cells", "recipe", "data")})
    swept.data[first["dataset"]] = kept["data"][first["dataset"]]
    # Every cell states its own recipe: the study's, except for the swept fields.
    start = {k: v for k, v in recipe.record(rules).items() if k not in ("rate_law", "batch_law", "tuned")}
    for number, rate in enumerate(rates):
        for batch in batches:
            swept.cells[f"rate{number}_batch{batch}"] = studies.block(
                "grid",
                first["dataset"],
                sizes,
                tokens=tuple(tokens),
                seeds=tuple(seeds),
                model=dict(first["model"]),
                recipe={**start, "rule": "fixed", "learning_rate": rate, "batch": batch},
            )
    return swept, rules


def fitted(workdir: Path, level: float) -> Tuned:
    """Fits the best learning rate and batch to a sweep's finished runs."""
    from analysis.decide import tune
    from analysis.table import runs

    table = runs.load(workdir).table
    per_step = {manifest.run: manifest.tokens.per_step for manifest in _manifests(workdir)}
    table["batch"] = [float(per_step[name]) for name in table["run"]]
    return tune.fit(table, level=level)


def _manifests(workdir: Path) -> list[Manifest]:
    return [spec.manifest for program in read_study(workdir).programs for spec in program.runs]


def fields(base: Recipe, tuned: Tuned, workdir: Path) -> dict[str, Any]:
    """The recipe to write: the one that was tuned, with the fitted laws for learning rate and batch."""
    from scaling import recipe

    kept = {k: v for k, v in recipe.record(base).items() if k not in ("learning_rate", "batch", "tuned", "batch_law")}
    laws: dict[str, Any] = {"rule": "law", "rate_law": _coefficients(tuned.rate_law)}
    if tuned.batch_law is not None:
        return {**kept, **laws, "batch_law": _coefficients(tuned.batch_law)}
    batch = next(m.recipe["batch"] for m in _manifests(workdir) if m.tokens.per_step == tuned.batch)
    return {**kept, **laws, "batch": batch}


def _coefficients(law: PowerLaw) -> list[float]:
    return [law.k.value, law.p.value, law.q.value]


def _rate(cell: Interval | None) -> str:
    return "edge of the sweep" if cell is None else interval(cell, 3)


COLUMNS: dict[str, Callable[[SweptCell], object]] = {
    "N": lambda row: f"{row.N:,.0f}",
    "D": lambda row: f"{row.D:,.0f}",
    "batch tokens": lambda row: f"{row.batch:,.0f}",
    "best loss": lambda row: f"{row.loss:.4f}",
    "best run": lambda row: f"{row.best_run:.3g}",
    "learning rate": lambda row: _rate(row.learning_rate),
}


def summary(tuned: Tuned) -> list[str]:
    """Lines of text that describe the fit."""
    from analysis.show.tuning_sentences import sentence

    lines = table(tuned.optima, COLUMNS)
    for name, law in (("learning rate", tuned.rate_law), ("batch in tokens", tuned.batch_law)):
        if law is not None:
            k, p, q = (interval(cell, 3) for cell in (law.k, law.p, law.q))
            lines.append(f"{name} = k N^p D^q: k {k}, p {p}, q {q}")
    curvature = tuned.curvature
    value, lo, hi = (_twice(h) for h in (curvature.value, curvature.lo, curvature.hi))
    lines.append(
        f"a learning rate off by 2x raises the loss by {value} [{lo}, {hi}]; {tuned.runs} runs of {tuned.stems} stems "
        f"within {tuned.window:.0%} of their cell's best, noise {tuned.noise:.2%}"
    )
    return [*lines, *(f"warning {w.code}: {sentence(w)}" for w in tuned.warnings)]


def _twice(curvature: float | None) -> str:
    """Relative loss increase at twice or half the best learning rate."""
    return "open" if curvature is None else f"{math.expm1(curvature * math.log(2) ** 2):.2%}"


def _list(field: str, text: str | None, kind: type) -> list[Any]:
    try:
        numbers = [float(item) for item in (text or "").split(",") if item.strip()]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise UserError(field, text, "must be numbers separated by commas")
    values = [kind(value) for value in numbers]
    if values != numbers:
        raise UserError(field, text, "must be whole numbers")
    return values


VERB = Verb(
    summary="sweep learning rate and batch at small sizes, and write the recipe fitted to the sweep",
    flags=(
        WORKDIR,
        Flag("sizes", str, "sizes of the ladder to sweep, such as '0,1,2' (default: the study's three smallest)"),
        Flag("tokens", str, "values of D in tokens (default: the study's smallest, and four times that)"),
        Flag("rates", str, "learning rates (default: five, a factor of 2 apart around the recipe's)"),
        Flag("batches", str, "batches, in sequences (default: half, once and twice the recipe's)"),
        Flag("seeds", str, "seeds of the sweep, such as '0,1'", "0"),
        Flag("dry_run", bool, "show the plan of the sweep and train nothing", False),
        *TRAINING,
        LEVEL,
        Flag("out", str, "file for the recipe (default: recipe.json in the work directory of the sweep)"),
        JSON,
    ),
    study=True,
    example="scaling tune --config=demo --dry_run",
    call=tune,
)
