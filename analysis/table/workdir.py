"""The records of a work directory as tables: finished runs to fit, and held-out runs without or with their losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.card import Conventions, Dropped, Regret
from analysis.table import importers
from analysis.table import seal as sealed
from analysis.table.frame import Runs, runs_of
from analysis.table.select import select
from scaling.errors import Code, UserError, choose
from scaling.records import RESTORED, Manifest, Record, read_study, records
from scaling.records.files import damaged, exists
from scaling.records.types import Evaluation, StudyRecord
from scaling.records.unit import Unit

SPARSITY, DENSE = "sparsity", "N_dense"  # columns of a data set that has pruned runs


def load_workdir(workdir: Path, where: str | None, dataset: str | None, n: str, term: str | None) -> Runs:
    """The finished runs of one data set with the roles fit and seed; results of other runs are not opened.

    Raises:
      UserError: no run can be fitted (TOO_FEW), their losses differ (MIXED), or a finished run of the study has no
        manifest (DAMAGED): none is left out in silence.
    """
    dataset = default_dataset(workdir, dataset)
    planned = _planned(workdir)
    rows: list[dict[str, Any]] = []
    dropped: list[Dropped] = []
    units: dict[str, Unit] = {}
    for record in records(workdir):
        manifest = record.manifest
        if manifest.dataset != dataset or manifest.role not in ("fit", "seed"):
            continue
        if planned and record.path.name not in planned and manifest.origin == "trained":
            dropped.append(Dropped(row=record.path.name, why="unplanned"))
            continue
        wanted = term or manifest.headline
        unit = _unit(manifest, wanted)
        outcome = _outcome(record, wanted)
        if isinstance(outcome, Dropped):
            dropped.append(outcome)
            continue
        if units and units != {wanted: unit}:
            shown = ", ".join(f"{t} in {u}" for t, u in (*units.items(), (wanted, unit)))
            raise UserError("loss", shown, "runs of one fit need one loss", Code.MIXED)
        units = {wanted: unit}
        rows.append(
            {**_row(record.path.name, manifest, n, wanted), **_loss(outcome), "status": "done", "decayed": True}
        )
    if not rows:
        reasons = "; ".join(sorted({_why(row) for row in dropped})) or "none has the role fit or seed"
        remedy = f"holds no finished run of {dataset} to fit ({reasons}); run the study"
        raise UserError("workdir", workdir, remedy, Code.TOO_FEW)
    table = _frame(rows)
    if where is not None:
        table = table[select(table, where)]
        if len(table) == 0:
            raise UserError("where", where, f"leaves none of the {len(rows)} runs", Code.TOO_FEW)
    ((shown, unit),) = units.items()
    conventions = Conventions(origin="records", n=n, flops="exact", term=shown, unit=unit, regret=_regret(table))
    return runs_of(table, dropped, conventions, str(workdir), dataset)


def _planned(workdir: Path) -> frozenset[str]:
    """Names of the runs of study.json; none if there is no study.

    Raises:
      UserError: one of them has a result and no manifest (DAMAGED).
    """
    study = _study(workdir)
    names = frozenset(spec.run for program in study.programs for spec in program.runs) if study else frozenset()
    for name in sorted(names):
        manifest = workdir / "runs" / name / "manifest.json"
        if not exists(manifest) and exists(manifest.with_name("result.json")):
            raise damaged(manifest, "is missing, though the run has a result", RESTORED)
    return names


def _why(row: Dropped) -> str:
    """Reasons and counts of the dropped runs, for an error message."""
    return ": ".join(part for part in (row.detail or row.why, row.reason) if part)


def _regret(table: Any) -> Regret | None:
    """The row whose tuned learning rate may cost the most."""
    if "lr_regret_hi" not in table:
        return None
    worst = table.loc[table["lr_regret_hi"].astype(float).idxmax()]
    return Regret(
        N=float(worst["N"]), D=float(worst["D"]), value=float(worst["lr_regret"]), hi=float(worst["lr_regret_hi"])
    )


def load_holdouts(workdir: str | Path, dataset: str | None = None, n: str = "nonembedding") -> pd.DataFrame:
    """The held-out cells of a study, trained or only planned, WITHOUT their losses.

    Args:
      n: which parameters are N, as in ``load``.

    Returns:
      One row per cell; columns as in ``Runs.table``, without the loss.
    """
    workdir = Path(workdir)
    dataset = default_dataset(workdir, dataset)
    study = _study(workdir)
    planned = [run.manifest for program in study.programs for run in program.runs] if study else []
    holdouts = {manifest.run: (manifest, "planned") for manifest in planned if manifest.role == "holdout"}
    for record in records(workdir):
        manifest = record.manifest
        if manifest.role == "holdout":
            holdouts[record.path.name] = (manifest, record.status)
    rows = []
    for run, (manifest, status) in sorted(holdouts.items()):
        if manifest.dataset == dataset:
            rows.append({**_row(run, manifest, n), "status": status})
    return _frame(rows)


def open_holdouts(workdir: str | Path, dataset: str | None = None, n: str = "nonembedding") -> pd.DataFrame:
    """The held-out cells with their losses: only finished ones that are sealed in a verified ``prediction.json``.

    Raises:
      UserError: there is no prediction, it was changed after the seal, or it holds no cell of this data set.
    """
    workdir = Path(workdir)
    known = sealed.sealed_runs(workdir)
    table: Any = load_holdouts(workdir, dataset, n)
    table = table[table["run"].isin(known)].reset_index(drop=True)
    if len(table) == 0:
        remedy = "seals no cell of this data set; seal the forecasts first"
        raise UserError("prediction", workdir / sealed.FILE, remedy, Code.MISSING)
    losses = []
    for run, status in zip(table["run"], table["status"], strict=True):
        record = Record(workdir / "runs" / run)
        outcome = _outcome(record, record.manifest.headline) if status == "done" else None
        losses.append(_loss(outcome) if isinstance(outcome, Evaluation) else {})
    for name in ("loss", "loss_se"):
        table[name] = [loss.get(name, np.nan) for loss in losses]
    return table[np.isfinite(table["loss"])].reset_index(drop=True)


def default_dataset(workdir: str | Path, dataset: str | None = None) -> str:
    """The data set to use: the requested one, or the first that the study declares.

    Raises:
      UserError: no such data set in the work directory, or several and no study to choose one; or it holds the logs of
        another trainer, which can be imported (UNSUPPORTED).
    """
    workdir = Path(workdir)
    declared = _declared(workdir)
    names = declared + sorted({r.manifest.dataset for r in records(workdir)} - set(declared))
    if not names:
        remedy = "holds no runs; train a study there first, or give a table of runs"
        error = UserError("workdir", workdir, remedy, Code.MISSING)
        importers.point_at_import(workdir, error)
        raise error
    if dataset is None:
        if declared or len(names) == 1:
            return names[0]
        remedy = "there are several and no study.json; choose one"
        raise UserError("dataset", ", ".join(names), remedy, Code.CONFLICT)
    if dataset not in names:
        remedy = f"is not in this work directory; {choose(dataset, names)}"
        raise UserError("dataset", dataset, remedy, Code.UNKNOWN)
    return dataset


def datasets(workdir: str | Path) -> list[str]:
    """All data sets of a work directory, in the study's order."""
    first = default_dataset(workdir)
    named = _declared(Path(workdir))
    others = {r.manifest.dataset for r in records(workdir)} | set(named)
    return [first, *[d for d in named if d != first], *sorted(others - {first} - set(named))]


def terms(workdir: str | Path, dataset: str | None = None) -> list[str]:
    """All loss terms and metrics that runs of a data set record; the headline, which is trained on, comes first."""
    dataset = default_dataset(workdir, dataset)
    manifests = [record.manifest for record in records(Path(workdir))]
    own = [m for m in manifests if m.dataset == dataset and m.kind != "stem"]
    return list(dict.fromkeys([*(m.headline for m in own), *(name for m in own for name in m.terms)]))


def entropy(manifest: Manifest, term: str | None = None) -> float | None:
    """Entropy of the source in nats per token, where it is known and bounds the loss in this term: where both are given
    the same."""
    data = manifest.data
    return data.entropy if _unit(manifest, term or manifest.headline).bounded_given(data.entropy_given) else None


def _study(workdir: Path) -> StudyRecord | None:
    try:
        return read_study(workdir)
    except UserError as error:
        if error.code is Code.MISSING:
            return None
        raise


def _declared(workdir: Path) -> list[str]:
    study = _study(workdir)
    return list(study.datasets) if study else []


def _unit(manifest: Manifest, term: str) -> Unit:
    if term not in manifest.terms:
        remedy = f"is no loss term of these runs; {choose(term, manifest.terms)}"
        raise UserError("term", term, remedy, Code.UNKNOWN)
    return manifest.terms[term]


def _row(run: str, manifest: Manifest, n: str, term: str | None = None) -> dict[str, Any]:
    """The columns of a run that its manifest gives: everything but its result."""
    counts, recipe, config = manifest.parameters, manifest.recipe, manifest.config
    own = {name: getattr(counts, name) for name in counts.__struct_fields__ if name not in ("groups", "zeros")}
    choices = own | counts.groups
    if n not in choices:
        raise UserError("n", n, f"is no count of these runs; {choose(n, choices)}", Code.UNKNOWN)
    row = {
        "run": run,
        "N": float(choices[n]),
        "D": float(manifest.tokens.D),
        "C": float(manifest.flops.training),
        "C_6ND": manifest.flops.six_nd,
        "C_teacher": float(manifest.flops.teacher) if manifest.distill else None,
        "C_parents": float(manifest.parent_flops) if manifest.parents else None,
        **{f"N_{name}": value for name, value in own.items()},
        "dataset": manifest.dataset,
        "family": manifest.family,
        "size": manifest.size,
        "seed": manifest.seed,
        "stem": manifest.stem or run,
        "role": manifest.role,
        "entropy": entropy(manifest, term),
        "unique_tokens": manifest.tokens.unique,
        "U": manifest.tokens.unique,
        "epochs": manifest.tokens.epochs,
        "learning_rate": recipe.get("learning_rate"),
        "batch": recipe.get("batch"),
        "lr_regret": None if manifest.regret is None else manifest.regret.value,
        "lr_regret_hi": None if manifest.regret is None else manifest.regret.hi,
        "steps": manifest.steps,
        "schedule": recipe.get("schedule"),
        "width": config.get("width", config.get("d")),
        "depth": config.get("depth", config.get("layers")),
        "bits": config.get("weight_bits"),
        **_sparse(manifest),
    }
    return {key: value for key, value in row.items() if value is not None}


def _sparse(manifest: Manifest) -> dict[str, float]:
    """What a pruned run adds: the share of its matrices' weights that is zero, and N with these."""
    if not manifest.prune:
        return {}
    counts = manifest.parameters
    return {SPARSITY: counts.zeros / manifest.prune["weights"], DENSE: float(counts.nonembedding + counts.zeros)}


def _outcome(record: Record, term: str) -> Evaluation | Dropped:
    """The evaluation of a run that may be fitted, or the reason why it may not."""
    run, result = record.path.name, record.result
    if result is None:
        return Dropped(row=run, why="unfinished")
    if result.status != "done":
        return Dropped(row=run, why="status", detail=result.status, reason=result.reason or "")
    if not result.decayed:
        return Dropped(row=run, why="undecayed")
    evaluation = result.evaluation.get(term)
    if evaluation is None or not np.isfinite(evaluation.value) or evaluation.value <= 0:
        return Dropped(row=run, why="no_loss", detail=term)
    return evaluation


def _loss(evaluation: Evaluation) -> dict[str, float]:
    loss = {"loss": float(evaluation.value)}
    return loss if evaluation.se is None else {**loss, "loss_se": float(evaluation.se)}


def _frame(rows: list[dict[str, Any]]) -> Any:
    table = pd.DataFrame(rows)
    if len(table) == 0:
        return pd.DataFrame({name: [] for name in ("run", "N", "D", "C", "status")})
    if SPARSITY in table:  # beside pruned runs, the others are dense
        table[SPARSITY], table[DENSE] = table[SPARSITY].fillna(0.0), table[DENSE].fillna(table["N_nonembedding"])
    return table
