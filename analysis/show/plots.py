"""Figures as pure functions: a fit or a result in, a ``matplotlib.figure.Figure`` out.

Every figure says how many runs it shows and what its interval is. Units: N parameters, D training tokens, C training
FLOPs, loss in nats per token unless the fit's conventions differ.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from analysis.engine.frontier import cost_table, flops_for, frontier
from analysis.fitting import Fit, load_fit
from analysis.show import evidence
from analysis.show.evidence import Evidence, Part
from analysis.show.plots_approaches import allocation, isoflop
from analysis.show.style import (
    D_LABEL,
    INK,
    KINDS,
    MANY_POINTS,
    MUTED,
    Array,
    Sizes,
    c_label,
    columns_of,
    count_runs,
    law_style,
    log_axis,
    loss_label,
    n_label,
    new_figure,
    percent,
    plain,
    power_text,
    round_ticks,
    short,
    span,
    styled,
)
from scaling.errors import UserError
from scaling.records import write_atomic

# --- figures


@styled
def loss(fit: Fit, *, entropy: float | None = None, opened: Any = None) -> Figure:
    """Loss against D, a line a size, with the fitted law's curves and their band; the entropy where it is known.

    Args:
      opened: sealed held-out cells with their outcomes (columns N_nonembedding or N_total, D, loss), drawn as stars.
    """
    data = columns_of(fit)
    if len(fit.law.columns) == 1:
        return _loss_of_one(fit, data, entropy)
    if set(fit.law.columns) != {"N", "D"}:
        return _loss_of_many(fit, data)
    sizes, n_runs = Sizes(data["N"]), len(data["loss"])
    caption = (
        f"{count_runs(n_runs)} of {fit.data['dataset'] or Path(fit.data['source']).name}. Lines: {fit.law.name}, "
        f"{fit.law.formula}; shaded: {percent(fit.level)} interval of the curve (the noise of a single run comes on "
        "top)."
    )
    column = f"N_{fit.conventions.get('n', '')}"
    stars = opened if opened is not None and column in opened else None
    if stars is not None:
        caption += f" Stars: {len(stars)} held-out outcomes, opened after the seal; dashed: the law at their N."
    figure, axes = new_figure("Loss against training tokens", caption, (7.6, 4.6))
    ax = axes[0, 0]
    tokens = data["D"] if stars is None else np.concatenate([data["D"], stars["D"]])
    limits = span(tokens)
    grid = np.geomspace(*limits, 70)
    for n in sizes.drawn:
        band = fit.predict({"N": np.full_like(grid, n), "D": grid}, level=fit.level, new_run=False)
        ax.plot(grid, band["value"], color=sizes.colour(n), zorder=2)
        ax.fill_between(grid, band["lo"], band["hi"], color=sizes.colour(n), alpha=0.16, linewidth=0)
    sizes.scatter(ax, data["N"], data["D"], data["loss"])
    seen = data["loss"]
    if stars is not None:
        seen = np.concatenate([seen, stars["loss"], np.asarray(stars["loss"]) * 0.985])
        for n in dict.fromkeys(float(n) for n in stars[column]):
            if np.abs(np.log(sizes.levels / n)).min() > 0.03:
                curve = fit.law.predict(fit.theta, {"N": np.full_like(grid, n), "D": grid})
                ax.plot(grid, curve, color=MUTED, linestyle=(0, (4, 2)), linewidth=1.0, zorder=2)
        ax.plot(stars["D"], stars["loss"], "*", color=INK, markersize=11, markeredgecolor="white", zorder=4)
        for size, d, value in zip(stars[column], stars["D"], stars["loss"], strict=True):
            label = {"xytext": (0, -12), "textcoords": "offset points", "fontsize": 7.5, "ha": "center"}
            ax.annotate(short(size), (d, value), color=INK, **label)
    if entropy is not None:
        seen = np.append(seen, entropy)
        ax.axhline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.1)
        text = {"xytext": (-4, 4), "textcoords": "offset points", "ha": "right", "fontsize": 8.5}
        ax.annotate(f"exact entropy {entropy:.4f}", (limits[1], entropy), **text)
    log_axis(ax, "x", limits, short)
    log_axis(ax, "y", span(seen), plain)
    ax.set_xlabel(D_LABEL)
    ax.set_ylabel(loss_label(fit.conventions))
    sizes.explain(figure, ax)
    return figure


def _loss_of_one(fit: Fit, data: dict[str, Array], entropy: float | None) -> Figure:
    """Loss against the one column of a one-variable law."""
    (column,) = fit.law.columns
    caption = (
        f"{count_runs(len(data['loss']))}. Line: {fit.law.formula}; shaded: {percent(fit.level)} interval of the curve."
    )
    figure, axes = new_figure(f"Loss against {column}", caption, (6.8, 4.2))
    ax, limits = axes[0, 0], span(data[column])
    grid = np.geomspace(*limits, 80)
    band = fit.predict({column: grid}, level=fit.level, new_run=False)
    ax.plot(grid, band["value"], color=KINDS[1], zorder=4)
    ax.fill_between(grid, band["lo"], band["hi"], color=KINDS[1], alpha=0.25, linewidth=0, zorder=3)
    count = len(data["loss"])
    style = {"markersize": 5 if count < 60 else 3, "rasterized": count > MANY_POINTS}
    ax.plot(data[column], data["loss"], "o", color=MUTED, **style)
    if entropy is not None:
        ax.axhline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.1)
    labels = {"N": n_label(fit.conventions), "D": D_LABEL, "C": c_label(fit.conventions)}
    log_axis(ax, "x", limits, power_text if column == "C" else short)
    log_axis(ax, "y", span(data["loss"]), plain)
    ax.set_xlabel(labels.get(column, column))
    ax.set_ylabel(loss_label(fit.conventions))
    return figure


def _loss_of_many(fit: Fit, data: dict[str, Array]) -> Figure:
    """Measured against fitted, for a law whose columns no plane holds."""
    rms = 100 * float(np.sqrt(np.mean(data["residual_log"] ** 2)))
    caption = (
        f"{len(data['loss'])} {'logged steps' if fit.law.curve else 'rows'}. Line: measured as fitted by "
        f"{fit.law.name}, {fit.law.formula}. The points' root mean square distance from it is {rms:.2g} % of the loss; "
        "no interval is drawn."
    )
    figure, axes = new_figure("Measured against fitted", caption, (6.8, 4.6))
    ax, limits = axes[0, 0], span(np.concatenate([data["loss"], data["fitted"]]))
    ax.plot(limits, limits, color=KINDS[1], zorder=4)
    count = len(data["loss"])
    style = {"markersize": 5 if count < 60 else 3, "rasterized": count > MANY_POINTS}
    ax.plot(data["fitted"], data["loss"], "o", color=MUTED, **style)
    log_axis(ax, "x", limits, plain)
    log_axis(ax, "y", limits, plain)
    ax.set_xlabel(loss_label(fit.conventions, "fitted loss"))
    ax.set_ylabel(loss_label(fit.conventions, "measured loss"))
    return figure


@styled
def compute(fit: Fit) -> Figure:
    """Loss above the fitted floor against C with the compute-optimal frontier, and the allocation in the N-D plane."""
    data, law = columns_of(fit), fit.law
    cost = cost_table(fit)
    floor = fit.params[law.floor] if law.floor else 0.0
    limits = span(data["C"], 0.1)
    budget = np.geomspace(*limits, 24)
    path, why = None, ""
    try:
        log_n, log_d = frontier(fit, budget, cost)
        path = np.exp(log_n), np.exp(log_d)
    except UserError as error:
        why = f" No frontier: {error.remedy}."
    what = f"the fitted floor {law.floor} = {floor:.3g}" if law.floor else f"nothing ({law.name} has no floor)"
    caption = (
        f"{count_runs(len(data['loss']))}. Left: the loss less {what}, held at its estimate; black: the lowest loss "
        f"that the law gives at each compute, with its {percent(fit.level)} interval. Right: contours of the fitted "
        f"loss; black: the compute-optimal N and D; grey: 40 draws of the fit.{why}"
    )
    figure, axes = new_figure("Compute frontier and optimal allocation", caption, (10.4, 4.8), 1, 2)
    left, right = axes[0]
    sizes = Sizes(data["N"])
    excess = data["loss"] - floor
    good = excess > 0
    seen = [excess[good]]
    for n in sizes.drawn:
        own = np.abs(np.log(data["N"] / n)) < 0.03
        d = np.geomspace(data["D"][own].min() / 1.3, data["D"][own].max() * 1.3, 40)
        value = np.atleast_1d(law.predict(fit.theta, {"N": np.full_like(d, n), "D": d})) - floor
        left.plot(flops_for(n, d, cost), value, color=sizes.colour(n), linewidth=1.1)
    sizes.scatter(left, data["N"][good], data["C"][good], excess[good])
    if path is not None and np.isfinite(path[0][0]).any():
        n, d = path[0][0], path[1][0]
        ok = np.isfinite(n) & np.isfinite(d)
        band = fit.predict({"N": n[ok], "D": d[ok]}, level=fit.level, new_run=False)
        value, low, high = (band[k] - floor for k in ("value", "lo", "hi"))
        left.plot(budget[ok], value, color=INK, linewidth=1.8, zorder=4)
        left.fill_between(budget[ok], np.maximum(low, 1e-9), np.maximum(high, 1e-9), color=INK, alpha=0.15, linewidth=0)
        seen.append(value)
    log_axis(left, "x", limits, power_text)
    log_axis(left, "y", span(np.concatenate(seen)), plain)
    left.set_xlabel(c_label(fit.conventions))
    left.set_ylabel(loss_label(fit.conventions, "loss less floor" if law.floor else "loss"))
    _plane(right, fit, data, sizes, path)
    sizes.explain(figure, right)
    return figure


def _plane(ax: Axes, fit: Fit, data: dict[str, Array], sizes: Sizes, path: tuple[Array, Array] | None) -> None:
    """Contours of the fitted loss over N and D, the runs, and the compute-optimal path."""
    across, up = span(data["N"], 0.12), span(data["D"], 0.12)
    n, d = np.geomspace(*across, 50), np.geomspace(*up, 50)
    mesh = np.meshgrid(n, d)
    surface = np.atleast_1d(fit.law.predict(fit.theta, {"N": mesh[0].ravel(), "D": mesh[1].ravel()})).reshape(50, 50)
    lines = ax.contour(n, d, surface, levels=7, colors=MUTED, linewidths=0.7, alpha=0.8)
    ax.clabel(lines, fontsize=7, fmt=lambda v: f"{v:.3g}")
    if path is not None:
        draws = np.linspace(1, len(path[0]) - 1, min(40, len(path[0]) - 1)).astype(int)
        for i in draws:
            ax.plot(path[0][i], path[1][i], color=MUTED, linewidth=0.6, alpha=0.35, zorder=1)
        ax.plot(path[0][0], path[1][0], color=INK, linewidth=1.8, zorder=4)
    sizes.scatter(ax, data["N"], data["N"] * 0 + data["N"], data["D"])
    log_axis(ax, "x", across, short)
    log_axis(ax, "y", up, short)
    ax.set_xlabel(n_label(fit.conventions))
    ax.set_ylabel(D_LABEL)


@styled
def residuals(fits: Mapping[str, Fit]) -> Figure:
    """Residuals of each law against C on one scale, with the band of seed noise."""
    first = next(iter(fits.values()))
    pure = first.noise["pure_error"]
    noise = pure["sd"]
    count = len(columns_of(first)["loss"])
    words = (
        f"Shaded: ±2 standard deviations between seeds (one is {100 * noise:.2g} % of the loss, from {pure['df']} "
        "degrees of freedom)."
        if noise is not None
        else "No seed noise: no two runs differ only in their seed."
    )
    caption = (
        f"{count_runs(count)}, natural-log residuals in percent of the loss. {words} Points that trend with C or N "
        "show a form that is wrong."
    )
    columns = min(4, len(fits))
    rows = math.ceil(len(fits) / columns)
    share = {"sharex": True, "sharey": True}
    figure, axes = new_figure(
        "Residuals of each law", caption, (max(4.6, 2.9 * columns + 1.2), 2.7 * rows + 1.1), rows, columns, **share
    )
    sizes = Sizes(columns_of(first)["N"])
    for ax in axes.ravel()[len(fits) :]:
        ax.remove()
    largest = 0.0
    for ax, (name, fit) in zip(axes.ravel(), fits.items()):
        data = columns_of(fit)
        miss = 100 * data["residual_log"]
        largest = max(largest, float(np.abs(miss).max()))
        if noise is not None:
            ax.axhspan(-200 * noise, 200 * noise, color=KINDS[4], alpha=0.22, linewidth=0)
        ax.axhline(0, color=INK, linewidth=0.8)
        sizes.scatter(ax, data["N"], data["C"], miss)
        rms = 100 * float(np.sqrt(np.mean(data["residual_log"] ** 2)))
        p = fit.noise["lack_of_fit"]["p"]
        tail = "" if p is None else f", lack of fit p = {p:.2g}"
        ax.set_title(f"{name}\nrms {rms:.2g} %{tail}", fontsize=9)
        limits = span(data["C"], 0.1)
        log_axis(ax, "x", limits, power_text)
        ax.xaxis.set_major_locator(FixedLocator(round_ticks(*limits, 4)))
        ax.set_xlabel(c_label(fit.conventions))
    ax = axes[0, 0]
    ax.set_ylim(-1.12 * largest - 1e-3, 1.12 * largest + 1e-3)
    for row in axes:
        row[0].set_ylabel("loss over law, % of loss")
    sizes.explain(figure, axes[0, columns - 1])
    return figure


@styled
def forecasts(
    prediction: Mapping[str, Any], dataset: str, rows: Sequence[Mapping[str, Any]] = (), *, unit: str = "nats/token"
) -> Figure:
    """Sealed forecasts, a panel a held-out cell: point, 50 % and 95 % interval of every law and of the naive rival,
    and the outcome where it has been opened (``rows`` of ``analysis.decide.forecast.score``); ``unit`` of the loss."""
    cells = [c for e in prediction["entries"] for c in e["cells"] if c["dataset"] == dataset]
    made = [f for e in prediction["entries"] for f in e["forecasts"] if f["dataset"] == dataset]
    outcomes = {row["run"]: row["outcome"] for row in rows}
    names = list(dict.fromkeys(f["forecaster"] for f in made))
    names.sort(key=lambda name: (name.split("/")[-1], name.startswith("naive")))
    waiting = sum(c["run"] not in outcomes for c in cells)
    opened = f"Stars and dashed lines: outcomes, {len(cells) - waiting} of {len(cells)} opened."
    caption = (
        f"{len(cells)} held-out cells of {dataset}, forecast before their losses were read. Points: forecasts; thick "
        f"bars: 50 %, thin bars: 95 % interval of one new run. {opened} The naive rival's interval knows the "
        "noise of runs only."
    )
    columns = min(4, max(1, len(cells)))
    rows_of = math.ceil(len(cells) / columns)
    height = (0.27 * len(names) + 1.0) * rows_of + 1.0
    figure, axes = new_figure(
        "Sealed forecasts and outcomes", caption, (2.7 * columns + 1.6, max(3.4, height)), rows_of, columns, sharey=True
    )
    for ax in axes.ravel()[len(cells) :]:
        ax.remove()
    for ax, cell in zip(axes.ravel(), cells):
        ends = []
        for f in (f for f in made if f["run"] == cell["run"]):
            y = len(names) - 1 - names.index(f["forecaster"])
            law = f["forecaster"].split("/")[0]
            colour, marker = (MUTED, "v") if law == "naive" else law_style(law)
            (a, b), (c, d) = f["interval50"], f["interval95"]
            ax.plot([c, d], [y, y], color=colour, linewidth=1.2)
            ax.plot([a, b], [y, y], color=colour, linewidth=4, alpha=0.55, solid_capstyle="butt")
            ax.plot(f["value"], y, marker, color=colour, markeredgecolor="white")
            ends += [a, b, f["value"]]
            width = min(d, b + 3 * (b - a)), max(c, a - 3 * (b - a))
            ends += list(width)
        if cell["run"] in outcomes:
            value = outcomes[cell["run"]]
            ax.axvline(value, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, zorder=0)
            ax.plot(value, len(names) - 0.35, "*", color=INK, markersize=12, clip_on=False, zorder=5)
            ends.append(value)
        beyond = " and ".join(cell["beyond"]) or "neither N nor D"
        size = cell.get("N_nonembedding") or cell.get("N_total") or 0
        ratio = f"{cell['compute_ratio']:.2g}× the fitted C"
        ax.set_title(f"N {short(size)}, D {short(cell['D'])}\nbeyond in {beyond}\n{ratio}", fontsize=8.5)
        pad = 0.06 * (max(ends) - min(ends) + 1e-9)
        ax.set_xlim(min(ends) - pad, max(ends) + pad)
        ax.set_ylim(-0.6, len(names) - 0.1)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.set_yticks(range(len(names)), [_forecaster(name) for name in reversed(names)])
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(f"loss ({unit})")
    return figure


def _forecaster(name: str) -> str:
    law, _, n = name.partition("/")
    return f"{law}, N {'non-emb.' if n == 'nonembedding' else n}"


@styled
def floor(fits: Mapping[str, Fit], *, entropy: float | None = None) -> Figure:
    """What each law that has a floor says of it: its draws, estimate and interval; the entropy where it is known.

    Raises:
      UserError: no law here has a floor.
    """
    having = {name: fit for name, fit in fits.items() if fit.law.floor}
    if not having:
        raise UserError("law", ", ".join(fits), "has no floor; fit one that has (chinchilla, product_floor)")
    first = next(iter(having.values()))
    known = f"Dashed: the exact entropy {entropy:.4f}." if entropy is not None else "The source's entropy is not known."
    caption = (
        f"{count_runs(len(columns_of(first)['loss']))}. Outlines: density of the draws of each fit, over its own peak; "
        f"bars: estimate and {percent(first.level)} interval. Floors across which a law is spread fit equally well. "
        f"{known}"
    )
    figure, axes = new_figure("Which floor the runs allow", caption, (7.6, 3.9))
    ax, shown = axes[0, 0], [] if entropy is None else [entropy]
    for k, (name, fit) in enumerate(having.items()):
        draws, cell = fit.draws[:, fit.law.index(str(fit.law.floor))], fit.intervals[str(fit.law.floor)]
        low, high = np.quantile(draws, [0.002, 0.998])
        density, edges = np.histogram(draws, bins=np.linspace(low, max(high, low + 1e-6), 30))
        colour, marker = law_style(name)
        ax.stairs(density / density.max(), edges, color=colour, fill=True, alpha=0.18)
        ax.stairs(density / density.max(), edges, color=colour, linewidth=1.2)
        ends = [low if cell["lo"] is None else cell["lo"], high if cell["hi"] is None else cell["hi"]]
        shown += [low, high, *ends]
        y = -0.08 - 0.09 * k
        ax.plot(ends, [y, y], color=colour, linewidth=2.2)
        ax.plot(cell["value"], y, marker, color=colour, markersize=7, markeredgecolor="white", label=name)
    if entropy is not None:
        ax.axvline(entropy, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
    pad = 0.04 * (max(shown) - min(shown) + 1e-9)
    ax.set_xlim(min(shown) - pad, max(shown) + pad)
    ax.set_ylim(-0.1 - 0.09 * len(having), 1.08)
    ax.set_yticks([0, 0.5, 1])
    ax.set_xlabel(loss_label(first.conventions, "floor E"))
    ax.set_ylabel("density over its peak")
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure


@styled
def training(curves: Sequence[Mapping[str, Any]], dataset: str) -> Figure:
    """Training loss of stems and branches against tokens; the caller leaves out what is still sealed."""
    own = [c for c in curves if c["dataset"] == dataset]
    stems, others = [c for c in own if c["kind"] == "stem"], [c for c in own if c["kind"] != "stem"]
    caption = (
        f"{len(stems)} stems (thick, learning rate not decayed) and {len(others)} other runs (thin: decay branches, or "
        f"whole runs) of {dataset}, the mean training loss of each chunk of steps; no interval, as these are single "
        "runs. Held-out runs that are not sealed are not shown."
    )
    figure, axes = new_figure("Training curves", caption, (7.6, 4.4))
    ax = axes[0, 0]
    sizes = Sizes(np.array([float(c["N"] or 1) for c in own]))
    for c in own:
        colour, stem = sizes.colour(float(c["N"] or 1)), c["kind"] == "stem"
        single = {"marker": "o", "markersize": 3} if len(c["loss"]) == 1 else {}
        width = 1.5 if stem else 0.8
        ax.plot(c["tokens"], c["loss"], color=colour, linewidth=width, alpha=0.55 if stem else 0.95, **single)
    every = np.concatenate([np.asarray(c["loss"], float) for c in own])
    log_axis(ax, "x", span(np.concatenate([np.asarray(c["tokens"], float) for c in own])), short)
    log_axis(ax, "y", span(every), plain)
    ax.set_xlabel(D_LABEL)
    ax.set_ylabel(f"training loss ({own[0]['unit']})")
    sizes.explain(figure, ax, markers=False)
    return figure


# --- files


def of_part(part: Part) -> dict[str, Figure]:
    """The figures that one data set supports without its forecasts, by name."""
    found: dict[str, Figure] = {}
    best, main, n = part.best(), part.main(), part.n
    if best is None or main is None or n is None:
        return found
    fits = part.fits[n]
    plane = {name: fit for name, fit in fits.items() if {"N", "D"} <= set(fit.law.columns)}
    found["loss"] = loss(best, entropy=part.entropy, opened=part.opened)
    if set(main.law.columns) == {"N", "D"}:
        found["compute"] = compute(main)
    comparison = part.approaches.get(n)
    if comparison is not None:
        runs = evidence.runs_of(main)
        found["isoflop"] = isoflop(runs, comparison["approaches"]["2"])
        found["allocation"] = allocation(main, comparison)
    if plane:
        found["residuals"] = residuals(plane)
    if any(fit.law.floor for fit in fits.values()):
        found["floor"] = floor(fits, entropy=part.entropy)
    return found


def of_workdir(found: Evidence) -> dict[str, dict[str, Figure]]:
    """Every figure that a work directory supports: data set -> name -> figure."""
    figures = {}
    for part in found.parts:
        own = of_part(part)
        if found.prediction and any(c["dataset"] == part.name for e in found.prediction["entries"] for c in e["cells"]):
            rows = [row for row in (found.score or {}).get("rows", []) if row["dataset"] == part.name]
            own["forecasts"] = forecasts(found.prediction, part.name, rows, unit=found.unit(part.name))
        if any(c["dataset"] == part.name for c in found.curves):
            own["training"] = training(found.curves, part.name)
        figures[part.name] = own
    return figures


@styled
def render(figure: Figure, kind: str, salt: str = "") -> bytes:
    """A figure as ``svg`` or ``png`` bytes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": salt or "scaling"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def save(figures: Mapping[str, Figure], out: str | Path, prefix: str = "") -> list[Path]:
    """Writes each figure as ``<prefix><name>.svg`` and ``.png``. UserError where ``out`` cannot be written."""
    paths = []
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            path = Path(out) / f"{prefix}{name}.{kind}"
            write_atomic(path, render(figure, kind, prefix + name))
            paths.append(path)
    return paths


def save_all(workdir: str | Path, out: str | Path) -> list[Path]:
    """Every figure that the work directory supports, as SVG and PNG named ``<dataset>-<figure>``. Returns the paths."""
    figures = of_workdir(evidence.collect(workdir))
    return [path for name, own in figures.items() for path in save(own, out, f"{name}-")]


def save_fit(fit: Fit | str | Path, out: str | Path) -> list[Path]:
    """The figures of one fit, or of one card: of a CSV as of a work directory. Returns the paths."""
    fit = fit if isinstance(fit, Fit) else load_fit(fit)
    return save(of_part(evidence.of_fit(fit)), out)
