"""What a work directory says, read once for the figures and the report: fits, approaches, forecasts, outcomes, runs.

Nothing here, and so nothing in a figure or the report, holds a loss of a held-out run, or the training curve of it or
of its stem, before ``prediction.json`` seals that run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.check.approaches import compare_approaches
from analysis.decide.forecast import check_entropy, score
from analysis.fitting import Fit, load_fit, rank
from analysis.table import seal as sealed
from analysis.table.runs import Runs, datasets, entropy, load
from scaling.errors import UserError
from scaling.records import Record, read_json, records

FIRST = "nonembedding"  # the convention that the headline uses where both were fitted


@dataclass(frozen=True)
class Part:
    """One data set: its fits by convention of N and law, best by AICc first, and why something is missing.

    Attributes:
      fits: ``{n: {law: Fit}}``.
      ranks: ``{n: rows of analysis.fitting.rank}``.
      approaches: ``{n: result of compare_approaches}``.
      entropy: nats per token, where the source is known exactly.
      opened: sealed and finished held-out cells with their losses (columns as ``Runs.table``).
      problems: what could not be read, in words, by name.
    """

    name: str
    fits: dict[str, dict[str, Fit]] = field(default_factory=dict)
    ranks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    approaches: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: Runs | None = None
    entropy: float | None = None
    opened: pd.DataFrame | None = None
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def n(self) -> str | None:
        """The convention of N that the headline uses."""
        return FIRST if FIRST in self.fits else next(iter(self.fits), None)

    def best(self) -> Fit | None:
        """The law that describes the runs best, by AICc."""
        return next(iter(self.fits.get(self.n or "", {}).values()), None)

    def main(self) -> Fit | None:
        """The law that allocates, of those whose budget chooses an N: chinchilla where it is fitted, else the best.

        It is the one whose optimum approaches 1 and 2 are compared with. Without such a law, the best of all.
        """
        fits = self.fits.get(self.n or "", {})
        able = [law for law, f in fits.items() if {"N", "D"} <= set(f.law.columns) and not f.law.no_optimum]
        return fits[("chinchilla" if "chinchilla" in able else able[0])] if able else self.best()


@dataclass(frozen=True)
class Evidence:
    """A whole work directory. ``cells`` are rows of the table of runs, ``curves`` what training printed."""

    workdir: Path
    name: str
    parts: list[Part]
    prediction: dict[str, Any] | None
    score: dict[str, Any] | None
    entropy: dict[str, Any] | None
    cells: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    made: dict[str, Any]
    problems: dict[str, str]

    def unit(self, dataset: str) -> str:
        """Of the loss of a data set's runs."""
        return next((cell["unit"] for cell in self.cells if cell["dataset"] == dataset), "nats/token")


def runs_of(fit: Fit) -> Runs:
    """The rows that a fit was made on, from its card."""
    table = pd.DataFrame(fit.card()["runs"])
    data = fit.data
    return Runs(table, [], dict(fit.conventions), data["source"], data["dataset"], data["sha256"])


def of_fit(fit: Fit) -> Part:
    """The part of a single card: a fit of some table, with the approaches worked out from the card's rows."""
    n, problems, approaches = str(fit.conventions.get("n", "table")), {}, {}
    if set(fit.law.columns) == {"N", "D"}:
        found = _try(lambda: compare_approaches(runs_of(fit), fit, level=fit.level), problems, "approaches")
        approaches = {} if found is None else {n: found}
    return Part(
        name=str(fit.data["dataset"] or Path(fit.data["source"]).stem),
        fits={n: {fit.law.name: fit}},
        approaches=approaches,
        problems=problems,
    )


def collect(workdir: str | Path) -> Evidence:
    """Reads a work directory, finished or not. What is missing or damaged is named in ``problems``, not raised.

    Raises:
      UserError: the directory holds neither a study nor a run.
    """
    workdir = Path(workdir)
    problems: dict[str, str] = {}
    study = _try(lambda: _json(workdir / "study.json"), problems, "study") or {}
    names = datasets(workdir)
    prediction = _try(lambda: sealed.read(workdir), problems, "prediction")
    known = sealed.sealed_runs(workdir) if prediction else set()
    scored = _try(lambda: score(workdir), problems, "score") if prediction else None
    entropy = _try(lambda: check_entropy(workdir), problems, "entropy") if "prediction" not in problems else None
    cells, shown = _cells(workdir, study, known)
    outcomes = {c["run"]: c for c in cells if c["role"] == "holdout" and c["loss"] is not None}
    parts = [_part(workdir, name, cells, outcomes) for name in names]
    return Evidence(
        workdir=workdir,
        name=str(study.get("name") or workdir.name),
        parts=parts,
        prediction=prediction,
        score=scored,
        entropy=entropy,
        cells=cells,
        curves=_curves(shown),
        made=_made(shown, study),
        problems=problems,
    )


def _try(read: Callable[[], Any], problems: dict[str, str], name: str) -> Any:
    try:
        return read()
    except UserError as error:
        problems[name] = str(error)
        return None


def _json(path: Path) -> Any:
    try:
        return read_json(path)
    except FileNotFoundError:
        return None


def _part(workdir: Path, name: str, cells: list[dict[str, Any]], outcomes: dict[str, dict[str, Any]]) -> Part:
    problems: dict[str, str] = {}
    fits: dict[str, dict[str, Fit]] = {}
    approaches: dict[str, dict[str, Any]] = {}
    for path in sorted((workdir / "fits").glob("*.json")):
        card = _try(lambda p=path: _json(p), problems, path.name)
        if not isinstance(card, dict) or (card.get("data") or {}).get("dataset") != name:
            continue
        n = str((card.get("conventions") or {}).get("n", "table"))
        if card.get("kind") == "fit":
            found = _try(lambda p=path: load_fit(p), problems, path.name)
            if found is not None:
                fits.setdefault(n, {})[found.law.name] = found
        elif card.get("kind") == "approaches":
            approaches[n] = card
    runs = _try(lambda: load(workdir, dataset=name), problems, "runs")
    order = sorted(fits, key=lambda n: (n != FIRST, n))
    ranks: dict[str, list[dict[str, Any]]] = {}
    for n in order:
        found = _try(lambda n=n: rank(list(fits[n].values())), problems, "rank")
        ranks[n] = found or [{"law": law, "parameters": len(f.law.params)} for law, f in fits[n].items()]
        fits[n] = {row["law"]: fits[n][row["law"]] for row in ranks[n]}
    stale = [f for f in fits.get(FIRST, {}).values() if runs is not None and f.data["sha256"] != runs.sha256]
    if stale:
        problems["stale"] = "the runs have changed since these fits were made; fit again (scaling fit)"
    own = [c for c in cells if c["dataset"] == name]
    opened = [
        {
            "run": c["run"],
            "N_nonembedding": c["N"],
            "N_total": c["N_total"],
            "D": c["D"],
            "C": c["C"],
            "loss": c["loss"],
        }
        for c in own
        if c["run"] in outcomes
    ]
    entropies = [c["entropy"] for c in own if c["entropy"] is not None]
    return Part(
        name=name,
        fits={n: fits[n] for n in order},
        ranks=ranks,
        approaches=approaches,
        runs=runs,
        entropy=float(entropies[0]) if entropies else None,
        opened=pd.DataFrame(opened) if opened else None,
        problems=problems,
    )


def _cells(
    workdir: Path, study: dict[str, Any], known: set[str]
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], Record]]]:
    """The table of runs, and every record that may be shown. A held-out run that is not sealed, and the stem that it
    grew from, is listed with its status and nothing more."""
    planned = {run["run"]: run["manifest"] for program in study.get("programs", []) for run in program["runs"]}
    found = {record.path.name: record for record in records(workdir)}
    manifests = {**planned, **{name: record.manifest for name, record in found.items()}}
    hidden = {run for run, m in manifests.items() if m.get("role") == "holdout" and run not in known}
    hidden |= {str(manifests[run].get("stem")) for run in hidden}
    cells = []
    for run, m in manifests.items():
        if m.get("kind") == "stem":
            continue
        status = found[run].status if run in found else "planned"
        result = (found[run].result or {}) if run in found and run not in hidden else {}
        term = (result.get("evaluation") or {}).get(str(m.get("headline", "loss"))) or {}
        parameters, tokens, flops = m.get("parameters", {}), m.get("tokens", {}), m.get("flops", {})
        cells.append(
            {
                "run": run,
                "dataset": str(m.get("dataset")),
                "role": m.get("role"),
                "size": m.get("size"),
                "seed": m.get("seed"),
                "N": parameters.get("nonembedding"),
                "N_total": parameters.get("total"),
                "groups": parameters.get("groups", {}),
                "D": tokens.get("D"),
                "steps": m.get("steps"),
                "batch": m.get("recipe", {}).get("batch"),
                "learning_rate": m.get("recipe", {}).get("learning_rate"),
                "C": flops.get("training"),
                "C_6ND": flops.get("6ND"),
                "entropy": entropy(m),
                "status": status,
                "reason": result.get("reason"),
                "hidden": run in hidden,
                "unit": str(m.get("loss_unit", "nats/token")),
                "loss": term.get("value") if status == "done" else None,
                "se": term.get("se"),
                "positions": term.get("positions") if status == "done" else None,
            }
        )
    order = {name: i for i, name in enumerate(study.get("datasets", {}))}
    roles = {"fit": 0, "seed": 0, "holdout": 1}
    cells.sort(
        key=lambda c: (
            order.get(c["dataset"], len(order)),
            c["dataset"],
            roles.get(c["role"], 2),
            c["N"] or 0,
            c["D"] or 0,
            c["seed"] or 0,
        )
    )
    return cells, [(manifests[run], record) for run, record in found.items() if run not in hidden]


def _curves(shown: list[tuple[dict[str, Any], Record]]) -> list[dict[str, Any]]:
    """Mean training loss of each chunk against tokens, per stem, branch or whole run."""
    curves = []
    for manifest, record in shown:
        per_step = manifest.get("tokens", {}).get("per_step") or 1
        rows = [row for row in record.steps() if isinstance(row.get("loss"), int | float)]
        if rows:
            curves.append(
                {
                    "run": record.path.name,
                    "dataset": str(manifest.get("dataset")),
                    "kind": manifest.get("kind"),
                    "N": manifest.get("parameters", {}).get("nonembedding"),
                    "seed": manifest.get("seed"),
                    "unit": str(manifest.get("loss_unit", "nats/token")),
                    "tokens": [float(row.get("tokens", row["step"] * per_step)) for row in rows],
                    "loss": [float(row["loss"]) for row in rows],
                }
            )
    return curves


def _made(shown: list[tuple[dict[str, Any], Record]], study: dict[str, Any]) -> dict[str, Any]:
    """Every value that the records give of what they ran on, and the seconds that they took."""
    environment: dict[str, list[str]] = {}
    data: dict[str, dict[str, Any]] = {}
    seconds = {"train": 0.0, "evaluate": 0.0, "compile": 0.0}
    finished, flops = [], 0.0
    for manifest, record in shown:
        for key, value in (manifest.get("environment") or {}).items():
            text = str(value)
            if text not in environment.setdefault(key, []):
                environment[key].append(text)
        data.setdefault(str(manifest.get("dataset")), manifest.get("data") or {})
        result = record.result
        if result is None:
            continue
        for key in seconds:
            seconds[key] += float((result.get("seconds") or {}).get(key) or 0)
        finished += [str(result["finished"])] if result.get("finished") else []
        per_step = manifest.get("flops", {}).get("training", 0) / max(1, manifest.get("steps") or 1)
        flops += per_step * ((manifest.get("steps") or 0) - (manifest.get("branch_step") or 0))
    return {
        "environment": environment,
        "data": data,
        "seconds": seconds,
        "flops": flops,
        "finished": max(finished, default=None),
        "datasets": study.get("datasets", {}),
    }
