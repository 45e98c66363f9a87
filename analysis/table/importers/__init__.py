"""Importers: the logs of other trainers and trackers as tables of runs. One importer is one file here, found by name.

A file of this package that declares ``IMPORTER`` (see ``contract``) is an importer; there is no other list. It is told
by content what a file is, and yields entries one by one. ``collect`` keeps what is wanted of them, and ``make`` the
table, with what the user says that the logs do not (``Told``).
"""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.table.importers.collect import Collected
from analysis.table.importers.contract import Importer, Why
from analysis.table.importers.make import (
    Imported,
    Points,
    Told,
    check_of_facts,
    named,
    of_facts,
    of_steps,
    some,
    wanted,
)
from analysis.table.importers.source import Source
from analysis.table.read import typed
from scaling.errors import Code, UserError
from scaling.errors import choose as nearest

__all__ = ["Imported", "Importer", "Told", "find", "importers", "point_at_import", "read", "recognise"]

# Names of files that say nothing of the run, which its folder names then.
GENERIC = re.compile(
    r"metrics|trainer_state|trainer_log|tracker_metrics|logs?|history|training_log|train|output|stdout|.*tfevents.*",
    re.IGNORECASE,
)
ENDINGS = re.compile(r"\.(csv|tsv|txt|log|out|jsonl|ndjson|json|parquet|xlsx|wandb)(\.(gz|bz2|xz))?$", re.IGNORECASE)
CHECKPOINT = re.compile(r"checkpoint-\d+")  # folders of one run
MOST_FILES = 20_000  # of a folder
LOOKED_AT = 50  # of a folder's files, where only a hint depends on them
FIRST = ("run", "N", "D", "C", "step", "learning_rate", "loss", "decayed")
SPECIFIC = 0.5  # confidence from which a file is a log, and no table that a fit reads itself
# How reading a log as a table or as a study fails: a file of another kind, no column N or D, nothing to read.
OF_A_LOG = (Code.UNSUPPORTED, Code.MISSING, Code.DAMAGED)
OF_A_PATH = ("path", "table", "workdir")


@cache
def importers() -> dict[str, Importer]:
    """All importers by name, sorted."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    found = (getattr(module, "IMPORTER", None) for module in modules)
    return {one.name: one for one in sorted((one for one in found if one is not None), key=lambda one: one.name)}


def find(name: str) -> Importer:
    """The importer of a name.

    Raises:
      UserError: there is none (UNKNOWN).
    """
    known = importers()
    if name not in known:
        raise UserError("from", name, nearest(name, known), Code.UNKNOWN)
    return known[name]


def recognise(source: Source, least: float = 0.0) -> Importer | None:
    """The importer that is surest of a file, None if none knows it.

    Raises:
      UserError: two are equally sure (CONFLICT).
    """
    sure = [(confidence, one) for one in importers().values() if (confidence := one.recognise(source)) is not None]
    source.forget()
    best = max((confidence for confidence, _ in sure), default=0.0)
    found = [one for confidence, one in sure if confidence == best and confidence >= least]
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise UserError("path", source.path, f"could be of {names}; say which with --from", Code.CONFLICT)
    return found[0] if found else None


def point_at_import(path: Path, error: UserError) -> None:
    """Says of a path that could not be loaded, if it holds logs, how they are imported.

    Args:
      error: why it could not be loaded. Another mistake of the user than the path comes before the hint.

    Raises:
      UserError: it can be imported (UNSUPPORTED).
    """
    if error.code not in OF_A_LOG or error.field not in OF_A_PATH or (path / "study.json").exists():
        return
    kind = _log_kind(path, tables=error.code is Code.UNSUPPORTED and error.field == "path")
    if kind is not None:
        remedy = f"can be imported (as {kind}): scaling import {path} --out=runs.csv makes a table to fit"
        raise UserError("path", path, remedy, Code.UNSUPPORTED) from error


def _log_kind(path: Path, *, tables: bool) -> str | None:
    """The name of the importer for a file that is a log rather than a table to fit, or of such files in a folder.

    Args:
      tables: whether tables of runs count as well, where nothing else reads such a file.
    """
    try:
        files = [file for file in _below(path) if file.is_file()][:LOOKED_AT] if path.is_dir() else [path]
        found = (recognise(Source(file), 0.0 if tables else SPECIFIC) for file in files)
        return next((one.name for one in found if one is not None), None)
    except (UserError, OSError):
        return None


def read(paths: Sequence[Path], told: Told, kind: str | None = None, sheet: str | None = None) -> Imported:
    """Reads logs and makes a table of them.

    Args:
      paths: files, or folders, of which every file that is recognised is read.
      kind: name of the importer; by default by content.
      sheet: of Excel files.

    Raises:
      UserError: nothing that is known (UNSUPPORTED), files of several kinds (CONFLICT), damaged ones, none with a loss,
        or something that only the user can say.
    """
    sources, others = _sources(paths, sheet, told.columns.get("step"))
    chosen = None if kind is None else find(kind)
    importer, mine = _of_one_kind(sources, chosen, paths)
    if sheet is not None and not any(source.kind == "xlsx" for source in mine):
        raise UserError("sheet", sheet, "is for Excel files; these are none", Code.UNSUPPORTED)
    collected = Collected(wanted(told, importer.names), run=told.columns.get("run"), restarted=told.restarted)
    others += [source.path for source in sources if source not in mine]
    collected.leave("other", str(next(iter(others), "")), len(others))
    files = 0
    for source in mine:
        if collected.add(importer.read(source), source.run, source.path.name):
            files += 1
        elif source.path in paths or len(mine) == 1:
            _check_names(mine, collected, told)
            if any(left.why == "no_step" for left in collected.left):
                remedy = "has no step at its losses; say what counts on with --columns=step=NAME, such as step=epoch"
                raise UserError("path", source.path, remedy, Code.MISSING)
            raise UserError("path", source.path, f"holds nothing of {importer.name}: {importer.about}", Code.DAMAGED)
        else:  # such as an event file without scalars
            collected.leave("other", source.path.name)
        if source.cut is not None:
            collected.leave("truncated", f"{source.path.name}, {source.cut}")
        source.forget()
    _check_names(mine, collected, told)
    return _made(collected, told, importer, files, {source.axis: None for source in mine if source.axis})


def _check_names(sources: list[Source], collected: Collected, told: Told) -> None:
    """Refuses a column of the step or of the run that is in no file (MISSING): it would be ignored in silence."""
    step, run = told.columns.get("step"), told.columns.get("run")
    if step is not None and (collected.seen or not collected.runs) and step not in {one.axis for one in sources}:
        remedy = f"is no name of a step in these logs; their columns are {some(_columns(sources))}"
        raise UserError("columns", f"step={step}", remedy, Code.MISSING)
    if run is not None and not collected.named and run not in (columns := _columns(sources)):
        remedy = f"is nowhere in these logs; their columns are {some(columns)}"
        raise UserError("columns", f"run={run}", remedy, Code.MISSING)


def _columns(sources: list[Source]) -> list[str]:
    names: dict[str, None] = {}
    for source in sources:
        names |= dict.fromkeys(source.columns)
        source.forget()
    return list(names)


def _made(collected: Collected, told: Told, importer: Importer, files: int, axes: dict[str, None]) -> Imported:
    if "run" in told.facts and len(collected.runs) > 1:
        raise UserError("set", "run", f"is one name for {len(collected.runs)} runs", Code.CONFLICT)
    _tell_apart(collected)
    _match(collected, told)
    chosen: dict[str, str] = {}
    aside: tuple[str, ...] = ()
    rows = []
    if collected.seen:
        rows, chosen, aside = of_steps(collected, told, importer.names)
        chosen |= {"step": ", ".join(axes)} if axes else {}
    else:
        check_of_facts(told)
    rows += of_facts(collected, told)
    if not rows:
        raise _no_loss(collected)
    logged = "decayed" in {name for row in rows for name in row}
    frame, units, others = named(pd.DataFrame(rows), told, importer.names, chosen)
    frame = _without(frame, collected, told.points)
    if told.n is not None:
        if "N" not in frame:
            raise UserError("n", told.n, "says what N counts, and there is no N; say --set=N=NUMBER", Code.MISSING)
        frame[f"N_{told.n}"] = frame["N"]
    if collected.seen:
        frame = frame[[c for c in frame.columns if c in FIRST or "/" not in str(c)]]
    ordered = [c for c in FIRST if c in frame] + [c for c in frame.columns if c not in FIRST]
    frame = frame[ordered].reset_index(drop=True)
    frame = frame.assign(**{c: typed(frame[c]) for c in ordered if c != "run"})
    lacking = tuple(name for name in ("N", "D") if name not in frame and not {"N", "C"} <= set(frame))
    how = "told" if told.decayed is not None else "logged" if logged else "unknown"
    return Imported(
        table=frame,
        kind=importer.name,
        files=files,
        runs=int(frame["run"].nunique()) if "run" in frame else len(frame),
        columns=chosen,
        aside=(*aside, *others),
        units=units,
        left=collected.left,
        lacking=lacking,
        decayed=how if collected.seen or told.decayed is not None else None,
    )


def _tell_apart(collected: Collected) -> None:
    """Runs that log steps and share a label have their names behind it."""
    runs = [run for run in collected.runs.values() if not run.row]
    labels = [run.label for run in runs]
    count = Counter(labels)
    for run, label in zip(runs, labels):
        if count[label] > 1:
            run.facts["run"] = f"{label} ({run.name})"


def _match(collected: Collected, told: Told) -> None:
    """Counts rows of the user's table that name no run of the log.

    Raises:
      UserError: none does, or the pattern is in none of their names (UNKNOWN).
    """
    labels = [run.label for run in collected.runs.values()]
    others = [name for name in told.runs if name not in labels]
    if told.runs and len(others) == len(told.runs):
        raise UserError("runs", others[0], f"is no run of these logs; they have {some(labels)}", Code.UNKNOWN)
    for name in others:
        collected.leave("unmatched", name)
    if told.pattern is not None and not any(re.search(told.pattern, label) for label in labels):
        raise UserError("pattern", told.pattern, f"is in no name of the runs; they are {some(labels)}", Code.UNKNOWN)


def _without(frame: Any, collected: Collected, points: Points) -> Any:
    """Without rows whose loss is missing or infinite, and those that lack N or D where others have them; counted.

    Raises:
      UserError: there is no loss (MISSING), or none in any row (TOO_FEW).
    """
    if "loss" not in frame:
        remedy = f"has no loss that it names so; say which with --columns=loss=NAME: {some(list(frame))}"
        raise UserError("loss", "none", remedy, Code.MISSING)
    rules: tuple[tuple[str, Why], ...]
    rules = (("loss", "diverged"), ("loss", "no_loss"), ("N", "no_N"), ("D", "no_tokens"))
    for name, why in rules:
        if name not in frame or (name == "loss" and points == "curves"):
            continue
        lack = frame[name].isin((math.inf, -math.inf)) if why == "diverged" else frame[name].isna()
        if lack.all() and name != "loss":
            frame = frame.drop(columns=name)
        elif lack.any():
            first = f"run {frame.loc[lack, 'run'].iloc[0]}" if "run" in frame else f"row {lack.idxmax() + 1}"
            collected.leave(why, first, int(lack.sum()))
            frame = frame[~lack]
    if len(frame) == 0:
        raise _no_loss(collected)
    return frame


def _no_loss(collected: Collected) -> UserError:
    why = "; ".join(f"{left.count} {left.why}, the first {left.first}" for left in collected.left)
    return UserError("loss", "none", f"no run has a loss that can be fitted ({why})", Code.TOO_FEW)


def _of_one_kind(
    sources: list[Source], chosen: Importer | None, paths: Sequence[Path]
) -> tuple[Importer, list[Source]]:
    """The importer of the files, and those of them that are its."""
    named = {path for path in paths if not path.is_dir()}
    if chosen is not None and all(source.path in named for source in sources):
        return chosen, sources
    found: dict[str, list[Source]] = {}
    for source in sources:
        if source.path in named and source.kind == "empty":
            raise UserError("path", source.path, "is empty", Code.DAMAGED)
        one = chosen if chosen is not None and source.path in named else recognise(source)
        if one is not None and (chosen is None or one is chosen):
            found.setdefault(one.name, []).append(source)
        elif source.path in named:
            remedy = f"is no log that is known; say what it is with --from: {', '.join(importers())}"
            raise UserError("path", source.path, remedy, Code.UNSUPPORTED)
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} of {name}" for name, files in sorted(found.items()))
        raise UserError("path", paths[0], f"holds files of several kinds ({counts}); choose with --from", Code.CONFLICT)
    if not found:
        remedy = f"holds no log that is known ({', '.join(importers())})"
        raise UserError("path", paths[0], remedy, Code.UNSUPPORTED)
    ((name, files),) = found.items()
    return find(name), files


def _sources(paths: Sequence[Path], sheet: str | None, step: str | None) -> tuple[list[Source], list[Path]]:
    """The files with the names of their runs, and those that are left out because they are empty or no files."""
    files: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise UserError("path", path, "does not exist", Code.MISSING)
        if not path.is_dir():
            files.append(path)
            continue
        if (path / "study.json").exists():
            raise UserError("path", path, "is a work directory, which `scaling fit` takes as it is", Code.UNSUPPORTED)
        below = _below(path)
        for file in below:
            (files if file.is_file() and file.stat().st_size else others).append(file)
    if not files:
        raise UserError("path", paths[0], "holds no files", Code.MISSING)
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    return [Source(file, _run_name(file, root), sheet, step) for file in files], others


def _below(folder: Path) -> list[Path]:
    """The files below a folder in natural order, without hidden ones; links to folders are not followed."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place) / name for name in files if not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise UserError("path", folder, f"holds more than {MOST_FILES:,} files; name a folder within it")
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdigit() and len(part) < 19 else (-1, part) for part in re.split(r"(\d+)", str(path))
    ]


def _run_name(file: Path, root: Path) -> str:
    """The name of the run of a file: of the file, or of its folder where the file's says nothing."""
    stem = ENDINGS.sub("", file.name)
    parts = [*file.absolute().parent.relative_to(root).parts, *([] if GENERIC.fullmatch(stem) else [stem])]
    parts = [part for part in parts if not CHECKPOINT.fullmatch(part)]
    if parts:
        return "/".join(parts)
    above = [part for part in root.parts[1:] if not CHECKPOINT.fullmatch(part)]
    return above[-1] if above else "run"
