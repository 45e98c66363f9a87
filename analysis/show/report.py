"""The report: one HTML file that a reader can keep, print or send, and its summary as plain text.

The order is a reader's: the verdict, what it predicts, how the sealed forecasts came out, the check against theory, the
laws and approaches side by side, warnings, noise, runs, and how it was made. A section without its facts says why.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import numpy as np
from scipy import stats

from analysis.check.diagnose import REFUTED, standing
from analysis.decide.allocate import OF_THE_FIT, optimal
from analysis.fitting import Fit
from analysis.show import evidence, plots
from analysis.show.evidence import Evidence, Part
from analysis.show.style import percent, power_text, short
from scaling.errors import UserError
from scaling.records import write_atomic

FILE = "report.html"
TEMPLATE = Path(__file__).with_name("report.html.jinja")
BUDGETS = (1.0, 10.0, 100.0)  # times the largest fitted compute; above 100 no prediction is made
N_WORDS = {"nonembedding": "non-embedding", "total": "total"}
NO_FIT = "No law is fitted yet: run `scaling fit` on this work directory."
NO_SEAL = (
    "No forecast is sealed yet: run `scaling predict` on this work directory. Held-out losses stay unread until then."
)


def write(workdir: str | Path, out: str | Path | None = None) -> Path:
    """Writes the report of a work directory, finished or not, as one file without scripts or outside references.

    Args:
      out: the file; by default ``report.html`` in the work directory.

    Raises:
      UserError: the directory holds no study and no run, or the file cannot be written.
    """
    found = evidence.collect(workdir)
    drawn = plots.of_workdir(found)
    path = Path(out) if out is not None else Path(workdir) / FILE
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(n=_count, flops=_flops, loss=_loss, greek=greek, math=formula)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    write_atomic(path, page.render(**_context(found, drawn)))
    return path


def summary(workdir: str | Path) -> str:
    """The end of a study in about 25 lines of at most 100 characters: law, prediction, forecasts, report."""
    found = evidence.collect(workdir)
    lines = [f"{found.name}: what the runs say"]
    for part in found.parts:
        lines += ["", *_summary(found, part)]
    scored = (found.score or {}).get("verdict")
    lines += ["", "Sealed forecasts"]
    lines += _wrap(scored or found.problems.get("prediction") or NO_SEAL)
    if found.entropy and found.entropy["datasets"]:
        lines += ["", "Check against theory", *_wrap(_theory(found, found.entropy["datasets"]))]
    path = Path(workdir) / FILE
    lines += ["", f"Report: {path}" if path.exists() else f"Report: not written yet (scaling report {workdir})"]
    return "\n".join(lines)


def _summary(found: Evidence, part: Part) -> list[str]:
    fit, main = part.best(), part.main()
    if fit is None or main is None:
        return [f"{part.name}", *_wrap(part.problems.get("runs", NO_FIT))]
    n = N_WORDS.get(str(fit.conventions.get("n")), "table's")
    title = (
        f"{part.name}: {fit.law.formula}, N = {n} parameters, {fit.data['rows']} runs, {percent(fit.level)} intervals"
    )
    known = standing(fit.law, fit.intervals, fit.warnings)
    lost = {name for name, how in known.items() if how == "no"}
    cells = [f"{k} = {interval(c)}{'*' if k in lost else ''}" for k, c in fit.intervals.items()]
    # a cell is one word while its line is filled
    filled = textwrap.wrap("   ".join(c.replace(" ", "\u00a0") for c in cells), 96, break_long_words=False)
    lines = [*textwrap.wrap(title, 100), *(f"  {line}".replace("\u00a0", " ") for line in filled)]
    if lost:
        lines.append("  * not identified at this scale")
    elsewhere = ("Sealed", "Theory", "Approaches", f"{fit.law.name}:", f"{main.law.name}:")
    told = [sentence for sentence in _verdict(found, part) if not sentence.startswith(elsewhere)]
    lines += _wrap(" ".join(told))
    rows = _predictions(main, part.entropy)
    for row in rows[:1] if all("reason" in r for r in rows) else rows[1:2]:
        where = f"At {row['ratio']:g}x the largest fitted compute ({row['C']:.2e} FLOPs), by {main.law.name}:"
        if "reason" in row:
            lines += _wrap(f"{where} no prediction, {row['reason']}")
        else:
            notes = "".join(f" ({note})" for note in (*row["notes"], *row["fit"]))
            lines += _wrap(f"{where} N {row['N']}, D {row['D']}, loss {row['loss']}{notes}")
    return lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  ")


# --- numbers for people


def interval(cell: Mapping[str, Any] | None, text: Any = None, reason: str = "not identified") -> str:
    """``0.399 [0.333, 0.476]``; an end that these runs leave open is ``open``; no interval says why."""
    if not cell or cell.get("value") is None:
        return reason
    text = text or _number
    low, high = cell.get("lo"), cell.get("hi")
    if low is None and high is None:
        return f"{text(cell['value'])} (no interval{': ' if reason else ''}{reason})"
    if low == high:
        return f"{text(cell['value'])} (given)"
    return f"{text(cell['value'])} [{'open' if low is None else text(low)}, {'open' if high is None else text(high)}]"


def _number(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{value:.2e}"


def _count(value: float | None) -> str:
    return "–" if value is None else short(float(value))


def _flops(value: float | None) -> str:
    return "–" if value is None else power_text(float(value), 3)


def _loss(value: float | None) -> str:
    return "–" if value is None else f"{float(value):.4f}"


def greek(text: str) -> str:
    """Names of parameters and counts as people write them."""
    for name, sign in (("alpha", "α"), ("beta", "β")):
        text = re.sub(rf"(?<![a-zA-Z]){name}(?![a-zA-Z])", sign, text)
    return text.replace("N_nonembedding", "non-embedding N").replace("N_total", "total N")


def formula(text: str) -> markupsafe.Markup:
    """A formula with superscripts and subscripts, as HTML."""
    escaped = str(markupsafe.escape(greek(text)))
    escaped = re.sub(r"(?<=[A-Za-zα-ω])_([A-Za-z]+)", r"<sub>\1</sub>", escaped)
    power = r"\^\(([^()]*)\)|\^(-?[\wα-ω]+(?:<sub>\w+</sub>)?)"
    raised = re.sub(power, lambda m: f"<sup>{(m.group(1) or m.group(2)).replace('-', '−')}</sup>", escaped)
    return markupsafe.Markup(raised)


# --- what each section says


def _context(found: Evidence, drawn: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    parts = []
    for part in found.parts:
        svgs = {k: _inline(plots.render(f, "svg", f"{part.name}-{k}"), f"{part.name}-{k}", f.get_suptitle())
                for k, f in drawn.get(part.name, {}).items()}  # fmt: skip
        best, main = part.best(), part.main()
        parts.append(
            {
                "name": part.name,
                "unit": found.unit(part.name),
                "figures": svgs,
                "verdict": _verdict(found, part),
                "law": None if best is None else _law(best),
                "predictions": [] if main is None else _predictions(main, part.entropy),
                "prediction": None if main is None else _law(main),
                "behind": _behind(part),
                "forecast": _forecast(found, part.name),
                "theory": ((found.entropy or {}).get("datasets") or {}).get(part.name),
                "tables": [_laws(n, part) for n in part.fits],
                "approaches": [_approaches(n, result) for n, result in part.approaches.items()],
                "warnings": _warnings(part),
                "noise": _noise(best),
                "positions": _positions([cell for cell in found.cells if cell["dataset"] == part.name]),
                "dropped": [] if part.runs is None else part.runs.dropped,
                "problems": list(part.problems.values()),
                "no_fit": part.problems.get("runs", NO_FIT),
            }
        )
    groups = list(dict.fromkeys(g for cell in found.cells for g in cell["groups"]))
    states: dict[str, int] = {}
    for cell in found.cells:
        states[cell["status"]] = states.get(cell["status"], 0) + 1
    return {
        "name": found.name,
        "parts": parts,
        "cells": found.cells,
        "groups": groups,
        "states": states,
        "unfinished": sum(count for state, count in states.items() if state in ("planned", "unfinished", "failed")),
        "made": found.made,
        "problems": found.problems,
        "no_seal": NO_SEAL,
        "interval": interval,
        "n_words": N_WORDS,
    }


def _verdict(found: Evidence, part: Part) -> list[str]:
    """The answer in sentences: law, what is identified, what is refuted, forecasts, theory, approaches."""
    best, n = part.best(), part.n
    if best is None or n is None:
        return [part.problems.get("runs", NO_FIT)]
    words = f"N = {N_WORDS.get(n, n)} parameters"
    ranks = [row for row in part.ranks[n] if row.get("aicc") is not None]
    out = []
    if ranks:
        first = f"{ranks[0]['law']} describes the {best.data['rows']} runs best of {len(ranks)} forms ({words}; rms "
        first += f"residual {100 * best.card()['objective']['rms_log_residual']:.2g} % of the loss)"
        if len(ranks) > 1:
            first += f"; {ranks[1]['law']} is next, {ranks[1]['delta_aicc']:.3g} AICc behind"
        out.append(f"{first}.")
    out.append(f"{best.law.name}: {best.verdict}")
    main, behind = part.main(), _behind(part)
    out += [behind, f"{main.law.name}: {main.verdict}"] if main is not None and behind else []
    misfit = [row["law"] for row in ranks if row["refuted"]]
    ranking = (((found.score or {}).get("datasets") or {}).get(part.name) or {}).get("ranking", [])
    failed = [e["law"] for e in ranking if e["refuted"] and e["n"] == n and e["law"] != "naive"]
    tested = any(row["refuted"] is not None for row in ranks)
    refuted = []
    if misfit:
        refuted.append(f"{', '.join(misfit)} by seed noise (lack of fit, p < {REFUTED:g})")
    if failed:
        refuted.append(f"{', '.join(failed)} by the sealed outcomes (outside the joint 95 % region)")
    if refuted:
        out.append(f"Refuted on {words}: {'; '.join(refuted)}.")
    elif tested or ranking:
        out.append(f"No form is refuted on {words}: a form can be far behind by AICc and still not be excluded.")
    verdict = (((found.score or {}).get("datasets") or {}).get(part.name) or {}).get("verdict")
    out += [f"Sealed forecasts, {verdict}"] if verdict else []
    theory = ((found.entropy or {}).get("datasets") or {}).get(part.name)
    out += [f"Theory: {_theory(found, {part.name: theory})}"] if theory else []
    out += [part.approaches[n]["verdict"]] if n in part.approaches else []
    return out


def _theory(found: Evidence, sources: Mapping[str, Any]) -> str:
    """One sentence a known source: the losses, and the floor of the best law that has one beside the exact value."""
    best = {}
    for part in found.parts:
        able = [law for law, fit in part.fits.get(part.n or "", {}).items() if fit.law.floor]
        best[part.name] = (part.n, able[0] if able else None)
    sentences = []
    for name, entry in sources.items():
        side = "at or above" if entry["ok"] else "NOT all at or above"
        text = f"{name}: {entry['runs']} losses are {side} the exact entropy {entry['entropy']:.4f}"
        for f in (f for f in entry["floors"] if (f["n"], f["law"]) == best[name]):
            text += (
                f"; {f['law']} puts its floor at {interval(f)}, which {'holds' if f['holds_entropy'] else 'misses'} it"
            )
        sentences.append(f"{text}.")
    return " ".join(sentences)


def _behind(part: Part) -> str | None:
    """What to know where the law that allocates is not the one that describes the runs best."""
    best, main = part.best(), part.main()
    if best is None or main is None or best is main:
        return None
    row = next((row for row in part.ranks[part.n or ""] if row["law"] == main.law.name), {})
    gap = row.get("delta_aicc")
    far = "" if gap is None else f", though {gap:.3g} AICc behind {best.law.name}"
    why = f" ({best.law.name} gives no compute-optimal N)" if best.law.no_optimum else ""
    return f"Predictions of N and D use {main.law.name}{far}{why}."


def _law(fit: Fit) -> dict[str, Any]:
    meanings = {p.name: p.meaning for p in fit.law.params}
    meanings |= {"a": "N_opt grows as C^a", "b": "D_opt grows as C^b"}
    known = standing(fit.law, fit.intervals, fit.warnings)
    rows = [
        {
            "name": k,
            "value": interval(c),
            "meaning": meanings.get(k, ""),
            "identified": known.get(k),
        }
        for k, c in fit.intervals.items()
    ]
    for budget, cell in (fit.derived.get("tokens_per_parameter") or {}).items():
        meaning = f"compute-optimal tokens per parameter at {_flops(float(budget))} FLOPs, {fit.card()['derived_note']}"
        rows.append({"name": "D/N", "value": interval(cell), "meaning": meaning, "identified": known.get("a")})
    card = fit.card()
    return {
        "name": fit.law.name,
        "formula": fit.law.formula,
        "source": fit.law.source,
        "rows": rows,
        "level": percent(fit.level),
        "scheme": f"{card['interval']['scheme']}, {card['interval']['df']:g} degrees of freedom: "
        f"{card['interval']['reason']}",
        "runs": fit.data["rows"],
        "n": N_WORDS.get(str(fit.conventions.get("n")), "table's"),
        "beyond": "hold a term for the law being wrong there, the card's discrepancy"
        if fit.discrepancy["k"] > 0
        else "hold only if the law does: the discrepancy is switched off",
    }


def _predictions(fit: Fit, entropy: float | None) -> list[dict[str, Any]]:
    """Compute-optimal N, D and loss at a few budgets, or the reason why not; a loss below the entropy is called so."""
    rows = []
    for ratio in BUDGETS:
        budget = ratio * float(fit.scope["C_max"]) if "C_max" in fit.scope else math.nan
        row: dict[str, Any] = {"ratio": ratio, "C": budget}
        try:
            # 100 times is allowed, but not 100 times and a rounding error
            found = optimal(fit, flops=budget * (1 - 1e-9), level=fit.level)
        except UserError as error:
            rows.append({**row, "reason": f"{error.field} {error.value} {error.remedy}"})
            continue
        said = [w["message"] for w in found["warnings"] if w["name"] != "extrapolation"]
        reason = next((w["message"] for w in found["warnings"] if w["name"] == "allocation"), "not identified")
        row |= {k: interval(found[k], short, reason) for k in ("N", "D")}
        row |= {"tokens_per_parameter": interval(found["tokens_per_parameter"], None, reason)}
        row |= {
            "loss": interval(found["loss"], _loss, reason),
            "notes": [text for text in said if not text.startswith(OF_THE_FIT)],
            "fit": [text for text in said if text.startswith(OF_THE_FIT)],
        }
        if entropy is not None and found["loss"]["value"] < entropy:
            row["notes"].append(f"below the exact entropy {entropy:.4f}: this law's floor is too low")
        rows.append(row | {"sensitivity": found["sensitivity"], "cost": found["conventions"]["cost"]})
    return rows


def _forecast(found: Evidence, dataset: str) -> dict[str, Any] | None:
    """Expected power as it was sealed, and forecasts beside outcomes; None where nothing of it is sealed."""
    if found.prediction is None:
        return None
    entries = [e for e in found.prediction["entries"] if any(c["dataset"] == dataset for c in e["cells"])]
    cells = [c for e in entries for c in e["cells"] if c["dataset"] == dataset]
    if not cells:
        return None
    rows = {(r["run"], r["forecaster"]): r for r in (found.score or {}).get("rows", [])}
    made = {(f["run"], f["forecaster"]): f for e in entries for f in e["forecasts"] if f["dataset"] == dataset}
    outcomes = {run: row["outcome"] for (run, _), row in rows.items()}
    scored = ((found.score or {}).get("datasets") or {}).get(dataset) or {}
    ranking = scored.get("ranking", [])
    names = [e["forecaster"] for e in ranking] or list(dict.fromkeys(name for _, name in made))
    lines = []
    for name in names:
        line = []
        for cell in cells:
            f, row = made.get((cell["run"], name)), rows.get((cell["run"], name))
            line.append(
                None
                if f is None
                else {
                    "value": _loss(f["value"]),
                    "ends": f"[{_loss(f['interval95'][0])}, {_loss(f['interval95'][1])}]",
                    "inside": None if row is None else row["inside95"],
                    "error": None if row is None else f"{row['error_percent']:+.2f} %",
                }
            )
        lines.append({"name": _forecaster(name), "cells": line})
    powers = []
    for e in entries:
        power = e["power"].get(dataset)
        if power:
            counts = [t.partition("/")[2] for t in power["refute"]]
            n = evidence.FIRST if evidence.FIRST in counts else counts[0]
            shown = [t for t, count in zip(power["refute"], counts) if count == n]
            table = [(t.split("/")[0], [power["refute"][t][w] for w in shown], power["choose"][t]) for t in shown]
            names_of = [w.split("/")[0] for w in shown]
            words = N_WORDS.get(n, n)
            powers.append({"sentence": power["sentence"], "names": names_of, "table": table, "n": words})
    return {
        "seals": [{"time": e["time"], "sha256": e["sha256"], "cells": len(e["cells"])} for e in entries],
        "power": powers,
        "cells": [{**c, "outcome": outcomes.get(c["run"])} for c in cells],
        "lines": lines,
        "ranking": [{**e, "name": _forecaster(e["forecaster"])} for e in ranking],
        "verdict": scored.get("verdict"),
        "naive": next((w for e in entries for k, w in e.get("naive", {}).items() if k.startswith(dataset)), None),
        "waiting": sum(c["run"] not in outcomes for c in cells),
    }


def _forecaster(name: str) -> str:
    law, _, n = name.partition("/")
    return f"{law}, N {N_WORDS.get(n, n)}"


def _laws(n: str, part: Part) -> dict[str, Any]:
    rows = []
    for row in part.ranks[n]:
        fit = part.fits[n][row["law"]]
        optima = fit.card()["optima"]
        rows.append(
            {
                **{k: row.get(k) for k in ("law", "parameters", "aicc", "delta_aicc", "loo_rms", "rolling_rms")},
                "formula": fit.law.formula,
                "params": [(k, interval(c)) for k, c in fit.intervals.items()],
                "rms": fit.card()["objective"]["rms_log_residual"],
                "p": fit.noise["lack_of_fit"]["p"],
                "refuted": row.get("refuted"),
                "optima": len(optima),
                "share": optima[0]["share_of_starts"] if optima else None,
            }
        )
    return {"n": N_WORDS.get(n, n), "rows": rows}


def _approaches(n: str, result: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    for name, entry in result["approaches"].items():
        scheme = entry["interval"]["scheme"] or ""
        df = entry["interval"]["df"]
        rows.append(
            {
                "name": f"{name}. {entry['name']}",
                "a": interval(entry["a"], None, ""),
                "b": interval(entry["b"], None, ""),
                "N": interval(entry["at_reference"]["N"], short, ""),
                "D": interval(entry["at_reference"]["D"], short, ""),
                "reason": entry["reason"],
                "scheme": f"{scheme}, {df:g} df" if scheme and df is not None else scheme,
                "mode": entry.get("mode", entry.get("cost", "")),
                "warnings": [w["message"] for w in entry["warnings"] if w["message"] != entry["reason"]],
            }
        )
    at = next((e["at_reference"]["C"] for e in result["approaches"].values() if e["at_reference"]["C"]), None)
    level = percent(next(iter(result["approaches"].values()))["interval"]["level"])
    return {"n": N_WORDS.get(n, n), "rows": rows, "verdict": result["verdict"], "reference": at, "level": level}


def _warnings(part: Part) -> list[dict[str, Any]]:
    """Each different warning once, with the fits that it is about."""
    found: dict[tuple[str, str], list[str]] = {}
    for n, fits in part.fits.items():
        for law, fit in fits.items():
            for w in fit.warnings:
                found.setdefault((w["name"], w["message"]), []).append(f"{law}, N {N_WORDS.get(n, n)}")
    return [{"name": k[0].replace("_", " "), "message": k[1], "fits": v} for k, v in found.items()]


def _noise(fit: Fit | None) -> list[tuple[str, str]]:
    """Noise of log loss in percent of the loss, each with an interval or why it has none."""
    if fit is None:
        return []
    pure, noise, rows = fit.noise["pure_error"], fit.noise, []
    if pure["sd"] is None:
        rows.append(("between seeds", "not measured: no two runs differ only in their seed"))
    else:
        ends = [100 * pure["sd"] * math.sqrt(pure["df"] / stats.chi2.ppf(q, pure["df"])) for q in (0.975, 0.025)]
        text = f"{100 * pure['sd']:.2g} % [{ends[0]:.2g}, {ends[1]:.2g}] (chi-squared, {pure['df']} degrees of freedom)"
        rows.append(("between seeds, whatever the law", text))
    run = [100 * float(x) for x in _quantiles(fit.sigma_run)]
    rows.append(("of a run about the law", f"{100 * noise['sigma_run']:.2g} % [{run[0]:.2g}, {run[1]:.2g}]"))
    if noise["groups"] is None:
        rows.append(("shared by the runs of a stem", "not estimated: no two runs share a stem"))
    else:
        stem = [100 * float(x) for x in _quantiles(fit.sigma_stem)]
        kind, count = noise["groups"]["kind"], noise["groups"]["count"]
        text = f"{100 * noise['sigma_stem']:.2g} % [{stem[0]:.2g}, {stem[1]:.2g}] ({count} {kind}s)"
        rows.append((f"shared by the runs of a {kind}", text))
    return rows


def _positions(cells: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Loss by position of the cheapest and the dearest run that have it, and what each bin of positions is called."""
    able = sorted((cell for cell in cells if cell["positions"] and cell["C"]), key=lambda cell: cell["C"])
    if not able:
        return None
    columns = []
    for cell in able[:1] + able[1:][-1:]:
        by = cell["positions"]
        kinds = [("loss", "value", "se")] + ([("above the source", "excess", "excess_se")] if "excess" in by else [])
        columns += [(cell, what, dict(zip(by["upto"], zip(by[value], by[se])))) for what, value, se in kinds]
    ends = sorted({end for _, _, values in columns for end in values})
    lines = []
    for end in ends:
        first = 2 ** (math.ceil(math.log2(end)) - 1) + 1 if end > 1 else 1
        cells_of = [values.get(end) for _, _, values in columns]
        lines.append((f"{first}–{end}" if first < end else f"{end}", cells_of))
    above = any(what != "loss" for _, what, _ in columns)
    return {"columns": [(cell, what) for cell, what, _ in columns], "lines": lines, "runs": len(able), "above": above}


def _quantiles(values: Any) -> Any:
    return np.quantile(values, [0.025, 0.975])


def _inline(svg: bytes, name: str, title: str) -> markupsafe.Markup:
    """An SVG as part of the page: no prologue or metadata, ids of its own, width by the page."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text)
    mark = re.sub(r"\W", "_", name)
    text = re.sub(r'\bid="', f'id="{mark}-', text)
    text = re.sub(r"url\(#", f"url(#{mark}-", text)
    text = re.sub(r'xlink:href="#', f'href="#{mark}-', text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = float(width.group(1)) if width else 600.0
    head = re.sub(r'\s(width|height)="[\d.]+pt"', "", text[: text.index(">") + 1])
    label = markupsafe.escape(f"{name}: {title}")
    head = head.replace("<svg", f'<svg role="img" aria-label="{label}" style="max-width:{size * 1.45:.0f}px"', 1)
    return markupsafe.Markup(head + text[text.index(">") + 1 :])
