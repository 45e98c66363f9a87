"""The table of runs that a law is fitted to: from a work directory of records, or from a table of any other trainer.

Units: N parameters, D training tokens, C training FLOPs, loss in nats per token unless the conventions say otherwise.
A row that cannot be used is either dropped with a reason (an unfinished or diverged run, an exact duplicate) or, where
the table is wrong (text in a number column, a negative loss), a ``UserError`` that names the line and the column.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.laws import Law, get
from analysis.table import curves as curve_tables
from analysis.table import quality as suspect
from analysis.table import read as tables
from analysis.table import seal as sealed
from analysis.table.select import select
from scaling.errors import UserError
from scaling.records import Record, read_json, records


@dataclass(frozen=True)
class Runs:
    """Rows that a law may be fitted to.

    Attributes:
      table: one row a run; columns ``run, N, D, C, loss`` (float64 but ``run``; N, D and C may be missing where the law
        needs none), others where known. ``stem`` names what rows share their noise with: the stem of a branch, or the
        run of several checkpoints.
      dropped: ``{"row", "reason"}`` of every row that was left out.
      conventions: what N, D, C and loss mean here, in words; of a work directory also ``n``, the name of its count N,
        and ``term``, the loss term.
      source, dataset: where the rows came from; ``dataset`` is None where the table does not say.
      sha256: of the numbers used (N, D, C, loss), whatever the order of the rows.
      warnings: ``{"name", "message", ...}`` of what looks wrong in the table and is not refused; goes on the fit card.
    """

    table: pd.DataFrame
    dropped: list[dict[str, str]]
    conventions: dict[str, str]
    source: str
    dataset: str | None
    sha256: str
    warnings: list[dict[str, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.table)


def load(
    path: str | Path,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    law: str | Law | None = None,
    warmup: int | None = None,
    term: str | None = None,
) -> Runs:
    """Reads the runs of a work directory, or of a .csv, .tsv, .jsonl or .parquet table.

    Args:
      path: a work directory (it holds ``runs/``) or a table with columns N, D, loss and perhaps C (else C = 6ND).
      where: a selection such as ``"outlier == 0 and N > 1e6"`` (see ``analysis.table.select``).
      dataset: which data set; a work directory defaults to the first one that its study declares. Never mixed.
      n: which parameters are N: ``nonembedding``, ``total``, ``active``, ``trainable``, a parameter group of the
        records, or a column of the table. In a table without such a column ``nonembedding`` means its column N.
      columns: names in the table of N, D, C, loss and the law's columns where they are called otherwise, such as
        ``{"loss": "loss_c4"}``.
      law: what the table is for: N and D are needed only where this law has them. A law of learning curves takes a
        table of logged steps or of arrays (``curve_tables``) and makes its columns.
      warmup: of learning curves: steps of a linear rise from 0 to the first rate in the table.
      term: of a work directory, which loss term or metric is the loss (see ``terms``); the default is the headline.

    Raises:
      UserError: no such path, an unusable table (line and column are named), a selection of nothing.
    """
    path = Path(path)
    if path.is_dir():
        if law is not None and get(law).curve:
            raise UserError("law", get(law).name, "needs a table of learning curves; a work directory has final losses")
        return _load_workdir(path, where, dataset, n, term)
    if term is not None:
        raise UserError("term", term, "is for work directories; name the column of a table, columns loss=COLUMN")
    if not path.exists():
        raise UserError("path", path, "does not exist; give a work directory or a .csv, .tsv, .jsonl, .parquet table")
    frame, lines = tables.read(path)
    more: dict[str, Any] = {"law": law, "warmup": warmup, "source": str(path), "rows": lines}
    return from_frame(frame, where=where, dataset=dataset, n=n, columns=columns, **more)


def from_frame(
    frame: pd.DataFrame,
    *,
    where: str | None = None,
    dataset: str | None = None,
    n: str = "nonembedding",
    columns: Mapping[str, str] | None = None,
    law: str | Law | None = None,
    warmup: int | None = None,
    source: str = "memory",
    rows: list[str] | None = None,
) -> Runs:
    """Checks a table that is already in memory, as ``load`` does; ``rows`` are the names of its rows in messages."""
    if len(frame) == 0:
        raise UserError("table", source, "has no rows; give one line a run with N, D and loss")
    rows = rows or [f"row {i + 1}" for i in range(len(frame))]
    form = None if law is None else get(law)
    if form is not None and form.curve:
        return _curves(frame, form, rows, dict(columns or {}), where, dataset, warmup, source)
    if warmup is not None:
        raise UserError("warmup", warmup, "is for laws of learning curves (annealing, multipower)")
    cells: Any = frame.reset_index(drop=True)
    given, conventions = tables.name_columns(cells, n, dict(columns or {}), form)
    raw = {name: cells[column] for name, column in given.items()}
    table: Any = pd.DataFrame({c: tables.typed(cells[c]) for c in cells.columns})
    for name, column in raw.items():
        table[name] = tables.number(column)
    for old, new in tables.COPIES.items():
        if old in table and new not in table:
            table[new] = table[old]
    names = pd.Series(rows)
    keep, dropped = tables.mask_rows(table, names)
    if where is not None:
        keep &= select(table, where)
    if dataset is not None:
        keep &= tables.dataset_mask(table, dataset)
    if not keep.any():
        raise UserError("where" if where else "table", where or source, f"leaves none of the {len(table)} rows")
    if form is not None and not {"N", "D"} <= set(form.columns):  # what this law does not look at is not wrong in it
        for name in {"N", "D", "C"} & set(raw) - set(form.columns):
            if not bool((table.loc[keep, name] > 0).all()):
                del raw[name], table[name], conventions[name]
    tables.reject_bad_cells(table, raw, keep, rows)
    dropped += tables.duplicates(cells, keep, rows)
    if "dataset" in table and dataset is None:
        found = [str(name) for name in pd.unique(table.loc[keep, "dataset"])]
        if len(found) > 1:
            raise UserError("dataset", ", ".join(found), "losses on different data are never mixed; choose one")
        dataset = found[0]
    if "N" in table and "D" in table:
        with np.errstate(over="ignore"):
            table["C_6ND"] = 6.0 * table["N"] * table["D"]
        for i in np.flatnonzero(keep & ~(np.isfinite(table["C_6ND"]) & (table["C_6ND"] > 0))):
            what = f"N {table['N'][i]:g} and D {table['D'][i]:g}"
            raise UserError(rows[i], what, "have no finite compute; check their units")
        if "C" not in table:
            table["C"] = table["C_6ND"]
    if "run" in table:
        table["run"] = table["run"].astype(str)
    else:
        table["run"] = names
    if "stem" not in table and "run" in frame:
        table["stem"] = table["run"]  # checkpoints of one run share its noise
    suspect.reject_mixed_scales(table, raw, keep, rows)
    return _finish(table[keep], dropped, conventions, source, dataset)


def load_holdouts(workdir: str | Path, dataset: str | None = None, n: str = "nonembedding") -> pd.DataFrame:
    """The held-out cells of a study, trained or only planned, WITHOUT their losses; columns as in ``Runs.table``."""
    workdir = Path(workdir)
    dataset = default_dataset(workdir, dataset)
    found = {run: (manifest, "planned") for run, manifest in _planned(workdir).items()}
    for record in records(workdir):
        manifest = record.manifest
        if _is_holdout(manifest):
            found[record.path.name] = (manifest, record.status)
    rows = []
    for run, (manifest, status) in sorted(found.items()):
        if manifest.get("dataset") == dataset:
            rows.append({**_row(run, manifest, n), "status": status})
    return _frame(rows)


def open_holdouts(workdir: str | Path, dataset: str | None = None, n: str = "nonembedding") -> pd.DataFrame:
    """The held-out cells with their losses: only finished ones that ``prediction.json`` sealed, which is verified.

    Raises:
      UserError: there is no prediction, it was changed after the seal, or it holds no cell of this data set.
    """
    workdir = Path(workdir)
    known = sealed.sealed_runs(workdir)
    table: Any = load_holdouts(workdir, dataset, n)
    table = table[table["run"].isin(known)].reset_index(drop=True)
    if len(table) == 0:
        raise UserError("prediction", workdir / sealed.FILE, "seals no cell of this data set; seal the forecasts first")
    outcomes = []
    for run, status in zip(table["run"], table["status"], strict=True):
        outcomes.append(_outcome(Record(workdir / "runs" / run)) if status == "done" else {"reason": status})
    for name in ("loss", "loss_se"):
        table[name] = [float(outcome.get(name, np.nan)) for outcome in outcomes]
    return table[np.isfinite(table["loss"])].reset_index(drop=True)


def default_dataset(workdir: str | Path, dataset: str | None = None) -> str:
    """The data set to use: the one asked for, or the first that the study declares.

    Raises:
      UserError: the work directory has no such data set, or several and no study that says which comes first.
    """
    workdir = Path(workdir)
    declared = list(_study(workdir).get("datasets", {}))
    found = declared + sorted({str(r.manifest.get("dataset")) for r in records(workdir)} - set(declared))
    if not found:
        raise UserError("workdir", workdir, "holds no runs; train a study there first, or give a table of runs")
    if dataset is None:
        if declared or len(found) == 1:
            return found[0]
        raise UserError("dataset", ", ".join(found), "there are several and no study.json; choose one")
    if dataset not in found:
        raise UserError("dataset", dataset, f"is not in this work directory; it has {', '.join(found)}")
    return dataset


def datasets(workdir: str | Path) -> list[str]:
    """Every data set of a work directory, the study's first one first."""
    first = default_dataset(workdir)
    named = list(_study(Path(workdir)).get("datasets", {}))
    others = {str(r.manifest.get("dataset")) for r in records(workdir)} | set(named)
    return [first, *[d for d in named if d != first], *sorted(others - {first} - set(named))]


def terms(workdir: str | Path, dataset: str | None = None) -> list[str]:
    """Every loss term and metric that runs of a data set record, the headline, which is trained on, first."""
    dataset = default_dataset(workdir, dataset)
    manifests = [record.manifest for record in records(Path(workdir))]
    own = [m for m in manifests if m.get("dataset") == dataset and m.get("kind") != "stem"]
    first = [_headline(manifest) for manifest in own]
    return list(dict.fromkeys([*first, *(name for manifest in own for name in manifest.get("terms") or ())]))


# --- work directories


def _headline(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("headline", "loss"))


def _unit(manifest: Mapping[str, Any], term: str) -> str:
    """Unit of a loss term. UserError where these runs have no such term."""
    units = {_headline(manifest): str(manifest.get("loss_unit", "nats/token")), **(manifest.get("terms") or {})}
    if term not in units:
        raise UserError("term", term, f"is no loss term of these runs; choose one of {', '.join(units)}")
    return units[term]


def entropy(manifest: Mapping[str, Any], term: str | None = None) -> float | None:
    """Nats per token of the source, where it is known and bounds the term: a loss per hidden token it does not."""
    likelihood = _unit(manifest, term or _headline(manifest)).startswith("nats/token")
    return (manifest.get("data") or {}).get("entropy") if likelihood else None


def _load_workdir(workdir: Path, where: str | None, dataset: str | None, n: str, term: str | None) -> Runs:
    dataset = default_dataset(workdir, dataset)
    rows: list[dict[str, Any]] = []
    dropped: list[dict[str, str]] = []
    units: set[tuple[str, str]] = set()
    for record in records(workdir):
        manifest, run = record.manifest, record.path.name
        if manifest.get("dataset") != dataset or manifest.get("kind") == "stem":
            continue
        if manifest.get("role") not in ("fit", "seed"):
            continue  # held out: the result file is not even opened
        wanted = term or _headline(manifest)
        unit = _unit(manifest, wanted)
        row, outcome = _row(run, manifest, n, wanted), _outcome(record, wanted)
        if "reason" in outcome:
            dropped.append({"row": run, "reason": outcome["reason"]})
            continue
        units.add((unit, wanted))
        rows.append({**row, **outcome, "status": "done", "decayed": True})
    if not rows:
        reasons = "; ".join(sorted({d["reason"] for d in dropped})) or "none has the role fit or seed"
        raise UserError("workdir", workdir, f"holds no finished run of {dataset} to fit ({reasons}); run the study")
    if len(units) > 1:
        raise UserError("loss", ", ".join(f"{t} in {u}" for u, t in sorted(units)), "runs of one fit need one loss")
    table = _frame(rows)
    if where is not None:
        table = table[select(table, where)]
        if len(table) == 0:
            raise UserError("where", where, f"leaves none of the {len(rows)} runs")
    ((unit, shown),) = units
    conventions = {
        "n": n,
        "term": shown,
        "N": f"{n} parameters of the records",
        "D": "tokens seen in training, the stem's part included",
        "C": "exact training FLOPs of D tokens, by the family's own count",
        "loss": f"{shown} on the evaluation set, {unit}",
    }
    if "lr_regret_hi" in table:
        worst = table.loc[table["lr_regret_hi"].astype(float).idxmax()]
        conventions["learning rate"] = (
            f"of a tuned recipe; the most regret is at N {worst['N']:.4g}, D {worst['D']:.4g}: "
            f"{worst['lr_regret']:.2%} of the loss, at most {worst['lr_regret_hi']:.2%}"
        )
    return _finish(table, dropped, conventions, str(workdir), dataset)


def _study(workdir: Path) -> dict[str, Any]:
    try:
        return read_json(workdir / "study.json")
    except FileNotFoundError:
        return {}


def _planned(workdir: Path) -> dict[str, dict[str, Any]]:
    runs = [run for program in _study(workdir).get("programs", []) for run in program["runs"]]
    return {run["run"]: run["manifest"] for run in runs if _is_holdout(run["manifest"])}


def _is_holdout(manifest: dict[str, Any]) -> bool:
    return manifest.get("role") == "holdout" and manifest.get("kind") != "stem"


def _row(run: str, manifest: dict[str, Any], n: str, term: str | None = None) -> dict[str, Any]:
    """What a manifest says of a run: everything but how it ended."""
    try:
        parameters, flops, tokens = manifest["parameters"], manifest["flops"], manifest["tokens"]
        choices = {k: v for k, v in parameters.items() if k != "groups"} | parameters.get("groups", {})
        if n not in choices:
            raise UserError("n", n, f"is no count of these runs; choose one of {', '.join(choices)}")
        recipe, config = manifest.get("recipe", {}), manifest.get("config", {})
        row = {
            "run": run,
            "N": float(choices[n]),
            "D": float(tokens["D"]),
            "C": float(flops["training"]),
            "C_6ND": flops.get("6ND"),
            **{f"N_{key}": value for key, value in parameters.items() if key != "groups"},
            "dataset": manifest["dataset"],
            "family": manifest.get("family"),
            "size": manifest.get("size"),
            "seed": manifest.get("seed"),
            "stem": manifest.get("stem") or run,
            "role": manifest["role"],
            "entropy": entropy(manifest, term),
            "unique_tokens": tokens.get("unique"),
            "U": tokens.get("unique"),
            "epochs": tokens.get("epochs"),
            "learning_rate": recipe.get("learning_rate"),
            "batch": recipe.get("batch"),
            "lr_regret": (manifest.get("regret") or {}).get("value"),
            "lr_regret_hi": (manifest.get("regret") or {}).get("hi"),
            "steps": manifest.get("steps"),
            "schedule": recipe.get("schedule"),
            "width": config.get("width", config.get("d")),
            "depth": config.get("depth", config.get("layers")),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            "manifest", f"runs/{run}/manifest.json", f"lacks {error}; train or import this run again"
        ) from error
    return {key: value for key, value in row.items() if value is not None}


def _outcome(record: Record, term: str | None = None) -> dict[str, Any]:
    """``{"loss", "loss_se"}`` of a run that may be fitted, or ``{"reason"}`` why it may not."""
    result = record.result
    if result is None:
        return {"reason": "unfinished"}
    if result.get("status") != "done":
        return {"reason": f"{result.get('status')}: {result.get('reason') or 'no reason given'}"}
    if not result.get("decayed", False):
        return {"reason": "the learning rate was not decayed"}
    term = term or _headline(record.manifest)
    found = (result.get("evaluation") or {}).get(term) or {}
    value, error = found.get("value"), found.get("se")
    if not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
        return {"reason": f"its {term} is {value}"}
    return {"loss": float(value)} if error is None else {"loss": float(value), "loss_se": float(error)}


def _frame(rows: list[dict[str, Any]]) -> Any:
    table = pd.DataFrame(rows)
    if len(table) == 0:
        return pd.DataFrame({name: [] for name in ("run", "N", "D", "C", "status")})
    return table


def _finish(
    table: Any,
    dropped: list[dict[str, str]],
    conventions: dict[str, str],
    source: str,
    dataset: str | None,
) -> Runs:
    first = [c for c in ("run", "N", "D", "C", "loss") if c in table]
    table = table[first + [c for c in table.columns if c not in first]].reset_index(drop=True)
    named = first[1:-1] or [c for c in table.columns if c != "loss" and table[c].dtype.kind in "fiu"]
    values = table[[*named, "loss"]].to_numpy(dtype="<f8")
    values = values[np.lexsort(values.T[::-1])]
    sha256 = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    found = suspect.warnings(table) if {"N", "D"} <= set(table) else []
    return Runs(table, dropped, conventions, source, dataset, sha256, found)


def _curves(
    frame: Any,
    law: Law,
    rows: list[str],
    columns: dict[str, str],
    where: str | None,
    dataset: str | None,
    warmup: int | None,
    source: str,
) -> Runs:
    if dataset is not None:
        raise UserError("dataset", dataset, "is not known of learning curves; choose rows with --where")
    if warmup is not None and warmup < 1:
        raise UserError("warmup", warmup, "must be a number of steps, at least 1")
    table, dropped, warnings, sha256 = curve_tables.read(frame, law, rows, columns, where, warmup, source)
    conventions = {
        "loss": f"column {columns.get('loss', 'loss')} of the table, at the logged steps",
        "learning_rate": "of every step, linear between the logged ones"
        + (f", after a linear rise from 0 over {warmup} steps" if warmup else ""),
    }
    return Runs(table, dropped, conventions, source, None, sha256, warnings)
