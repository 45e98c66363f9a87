"""What a study has done and what is left, read from its directories alone.

Losses of held-out cells stay hidden until their forecasts are sealed, and with them the losses of the stems that they
leave from: a stem of a size that was never fitted says almost as much as its branch.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.errors import UserError
from scaling.launch.lease import holder
from scaling.launch.worker import load_programs
from scaling.records import Record, read_json

SETTLED = ("done", "diverged", "rejected", "failed")
STATES = (*SETTLED, "running", "stopped", "waiting")


def study_status(workdir: str | Path) -> dict[str, Any]:
    """One look at a study; see ``StatusReader.read``."""
    return StatusReader(workdir).read()


class StatusReader:
    """Reads the status again and again, and every file only when it changed.

    Args:
      workdir: holds study.json.

    Raises:
      UserError: there is no study, or a file of it is damaged.
    """

    def __init__(self, workdir: str | Path):
        self.workdir = Path(workdir)
        if not self.workdir.is_dir():
            raise UserError("workdir", workdir, "does not exist; give the directory of a study")
        self.programs = load_programs(self.workdir)
        self.name = str(read_json(self.workdir / "study.json").get("name", self.workdir.name))
        self._cache: dict[tuple[str, Path], tuple[tuple[int, int, int], Any]] = {}

    def read(self, workers: int | None = None) -> dict[str, Any]:
        """The status now, as JSON.

        Args:
          workers: how many will share what is left, for the ETA; default those that hold a lease, at least one.

        Returns:
          ``runs``: one row a run: run, program, kind, role, dataset, size, seed, N, D, state (one of ``STATES``), step,
            steps, loss, se (null while hidden), hidden, seconds, attempts, reason.
          ``counts``: runs by state. ``programs``: {total, final, running}. ``flops``: {total, done}.
          ``seconds``: {spent, left, eta} of device time; left and eta by the plan's estimate, corrected by what was
            spent. ``share``: of the estimated time, 0 to 1.
          ``running``: [{program, run, step, steps, loss, host, pid, since}].
          ``failures``: [{run, status, reason, log}], and ``retry``, the command that trains them again.
          ``warnings``: sentences.
        """
        warnings: list[str] = []
        known = self._sealed(warnings)
        rows: list[dict[str, Any]] = []
        running: list[dict[str, Any]] = []
        final = done = estimated = spent = left = 0.0
        longest = 0.0
        for program in self.programs:
            found, lease = self._program(program, known)
            rows += found
            share = _share(found, program, lease)
            final += all(row["state"] in SETTLED for row in found)
            done += sum(row["flops_done"] for row in found)
            spent += sum(row["seconds"] + row["compile"] for row in found)
            estimated += program["seconds"] * share
            left += program["seconds"] * (1 - share)
            longest = max(longest, program["seconds"] * (1 - share))
            if lease is not None:
                at = next((row for row in found if row["state"] == "running"), {})
                who = {"host": lease["host"], "pid": lease["pid"], "since": lease["started"]}
                where = {key: at.get(key) for key in ("run", "step", "steps", "loss")}
                running.append({"program": program["program"], **where, **who})
        total = sum(program["seconds"] for program in self.programs)
        # Until a tenth of the estimate is behind us, compilation blurs the comparison: trust the plan.
        speed = spent / estimated if estimated > 0.1 * total and spent > 0 else 1.0
        hands = max(1, workers if workers is not None else len(running))
        failures = [
            {
                "run": row["run"],
                "status": row["state"],
                "reason": row["reason"],
                "log": str(self.workdir / "runs" / row["program"] / "error.log"),
            }
            for row in rows
            if row["state"] in ("failed", "rejected")
        ]
        for row in rows:
            warnings += [f"{row['run']}: {problem}" for problem in row.pop("problems", ())]
            for key in ("flops_done", "flops_share", "compile"):
                del row[key]
        return {
            "schema": 1,
            "study": self.name,
            "workdir": str(self.workdir),
            "counts": {state: sum(row["state"] == state for row in rows) for state in STATES} | {"total": len(rows)},
            "programs": {"total": len(self.programs), "final": int(final), "running": len(running)},
            "share": 1.0 if not left else estimated / total if total else 1.0,
            "flops": {"total": sum(program["flops"] for program in self.programs), "done": round(done)},
            "seconds": {"spent": spent, "left": left * speed, "eta": max(left / hands, longest) * speed},
            "running": running,
            "failures": failures,
            "retry": f"scaling run --workdir={shlex.quote(str(self.workdir))} --retry_failed" if failures else None,
            "warnings": warnings,
            "runs": rows,
        }

    def _sealed(self, warnings: list[str]) -> set[str]:
        """Runs whose forecasts are sealed. A prediction that was tampered with seals nothing."""
        path = self.workdir / "prediction.json"

        def load() -> set[str]:
            from analysis.table.seal import sealed_runs

            return sealed_runs(self.workdir)

        try:
            return self._cached("sealed", path, load) or set()
        except UserError as error:
            warnings.append(str(error))
            return set()

    def _cached(self, what: str, path: Path, load: Callable[[], Any]) -> Any:
        """``load()``, done again only when the file at ``path`` changed; None where there is no file."""
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if (what, path) not in self._cache or self._cache[what, path][0] != key:
            self._cache[what, path] = (key, load())
        return self._cache[what, path][1]

    def _program(self, program: dict[str, Any], known: set[str]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Rows of a program's runs, and its lease where a living worker holds it."""
        hides = any(spec["role"] == "holdout" and spec["run"] not in known for spec in program["runs"])
        root = self.workdir / "runs"
        first = root / program["program"]
        starts = self._cached("starts", first / "metrics.jsonl", lambda: len(Record(first).events("start"))) or 0
        rows = [self._run(spec, hides) for spec in program["runs"]]
        lease = None
        if any(row["state"] not in SETTLED for row in rows):
            lease = holder(first)
            lease = None if lease is None or lease["dead"] else lease
        at = ((lease or {}).get("progress") or {}).get("run") or program["program"]
        for row in rows:
            row.update(program=program["program"], attempts=starts)
            if lease is not None and row["run"] == at and row["state"] not in SETTLED:
                row["state"] = "running"
        return rows, lease

    def _run(self, spec: dict[str, Any], hides: bool) -> dict[str, Any]:
        record = Record(self.workdir / "runs" / spec["run"])
        result = self._cached("result", record.path / "result.json", lambda: record.result)
        manifest, begun = spec["manifest"], spec["branch_step"] or 0
        span = max(1, spec["steps"] - begun)
        row: dict[str, Any] = {
            "run": spec["run"],
            "kind": spec["kind"],
            "role": spec["role"],
            "dataset": manifest["dataset"],
            "size": manifest["size"],
            "seed": manifest["seed"],
            "N": manifest["parameters"]["nonembedding"],
            "D": manifest["tokens"]["D"],
            "steps": spec["steps"],
            "hidden": hides,
            "loss": None,
            "se": None,
            "reason": None,
            "compile": 0.0,
        }
        longer = spec["kind"] == "stem" and result is not None and result["status"] == "done"
        if result is not None:
            row["problems"] = result.get("checkpoint_problems") or []
        if result is not None and not (longer and result["steps"] < spec["steps"]):
            seconds = result.get("seconds") or {}
            share = min(1.0, max(0, result["steps"] - begun) / span)
            tells = not hides or result["status"] != "diverged"  # why a run diverged quotes its loss
            row.update(state=result["status"], step=result["steps"], reason=result.get("reason") if tells else None)
            row.update(seconds=(seconds.get("train") or 0) + (seconds.get("evaluate") or 0))
            row.update(compile=seconds.get("compile") or 0.0, flops_share=1.0, flops_done=spec["flops"] * share)
            if not hides and result["status"] == "done":
                term = (result.get("evaluation") or {}).get(manifest.get("headline", "loss")) or {}
                row.update(loss=term.get("value", result.get("train_loss")), se=term.get("se"))
            return row
        steps = self._cached("steps", record.path / "metrics.jsonl", record.steps) or []
        step = steps[-1]["step"] if steps else begun
        share = min(1.0, max(0, step - begun) / span)
        row.update(state="stopped" if steps else "waiting", step=step if steps else 0)
        row.update(seconds=sum(each.get("seconds", 0.0) for each in steps))
        row.update(flops_share=share, flops_done=spec["flops"] * share)
        if steps and not hides:
            row["loss"] = steps[-1].get("loss")
        return row


def _share(rows: list[dict[str, Any]], program: dict[str, Any], lease: dict[str, Any] | None) -> float:
    """How much of a program is behind it, by FLOPs: what the records say, or its worker, whichever is more."""
    total = program["flops"]
    if all(row["state"] in SETTLED for row in rows) or not total:
        return 1.0 if all(row["state"] in SETTLED for row in rows) else 0.0
    flops = {spec["run"]: spec["flops"] for spec in program["runs"]}
    recorded = sum(flops[row["run"]] * row["flops_share"] for row in rows)
    reported = ((lease or {}).get("progress") or {}).get("flops") or 0
    return min(1.0, max(recorded, reported) / total)


def duration(seconds: float) -> str:
    """Seconds for people: 8 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def headline(status: dict[str, Any]) -> str:
    """The whole study on one line."""
    counts, programs = status["counts"], status["programs"]
    ended = sum(counts[state] for state in SETTLED)
    parts = [f"{status['study']}: {100 * status['share']:.0f} %", f"runs {ended}/{counts['total']}"]
    parts.append(f"programs {programs['final']}/{programs['total']}")
    parts += [f"{counts[state]} {state}" for state in ("diverged", "rejected", "failed") if counts[state]]
    if ended < counts["total"]:
        parts.append(f"ETA {duration(status['seconds']['eta'])}")
    return ", ".join(parts)


def activity(status: dict[str, Any]) -> list[str]:
    """One line for each program that is being trained."""
    lines = []
    for work in status["running"]:
        if work["run"] is None:
            lines.append(f"{work['program']} starting")
            continue
        loss = "" if work["loss"] is None else f", loss {work['loss']:.4f}"
        lines.append(f"{work['run']} step {work['step']}/{work['steps']}{loss}")
    return lines
