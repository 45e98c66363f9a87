"""Figures of the runs of a study: sealed forecasts beside their outcomes, and training curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import laws
from analysis.decide.forecast import ScoredForecast
from analysis.show.numbers import plural, short
from analysis.show.plots.style import D_LABEL, INK, MUTED, Canvas, Sizes, law_styles, log_axis, plain, span, styled
from analysis.show.workdir_summary import FIRST, TrainingCurve
from analysis.table.seal import Forecast, Forecaster, Prediction, SealedCell
from scaling.records.unit import NATS_PER_TOKEN, Unit

Styles = Mapping[Forecaster, tuple[str, str]]
NAIVE_STYLE = (MUTED, "v")


@styled
def forecasts(
    prediction: Prediction,
    dataset: str,
    rows: Sequence[ScoredForecast] = (),
    *,
    unit: Unit = NATS_PER_TOKEN,
    ax: Sequence[Axes] | Axes | None = None,
) -> Figure:
    """Sealed forecasts, a panel for each held-out cell: point, 50 % and 95 % interval of every law and the naive rival.

    Args:
      rows: forecasts whose outcomes have been opened.
      unit: of the loss.
      ax: axes to draw into, one a cell; by default those of a new figure.
    """
    cells = [c for entry in prediction.entries for c in entry.cells if c.dataset == dataset]
    made = [f for entry in prediction.entries for f in entry.forecasts if f.dataset == dataset]
    outcomes = {row.run: row.outcome for row in rows}
    who = sorted(dict.fromkeys(f.forecaster for f in made), key=lambda f: (f.n, f.naive))
    opened = sum(cell.run in outcomes for cell in cells)
    caption = (
        f"{plural(len(cells), 'held-out run')} of {dataset}, forecast before their losses were read. Points: "
        "forecasts; thick bars: 50 %, thin bars: 95 % interval of one new run. Stars and dashed lines: outcomes, "
        f"{opened} of {len(cells)} opened. The naive rival's interval knows the noise of runs only."
    )
    across = min(4, max(1, len(cells)))
    down = math.ceil(len(cells) / across)
    size = 2.7 * across + 1.6, max(3.4, (0.27 * len(who) + 1.0) * down + 1.0)
    shape = (down, across) if ax is None else (1, len(cells))
    canvas = Canvas("Sealed forecasts and outcomes", caption, size, shape, ax=ax, sharey=True)
    styles = _styles(who)
    for panel, cell in zip(canvas.first(len(cells)), cells):
        own = [f for f in made if f.run == cell.run]
        _forecasts_of(panel, cell, own, styles, outcomes.get(cell.run))
        panel.set_xlabel(f"loss ({unit})")
    return canvas.figure


def _styles(who: Sequence[Forecaster]) -> dict[Forecaster, tuple[str, str]]:
    own = law_styles(laws.get(f.law) for f in who if f.law is not None)
    return {f: NAIVE_STYLE if f.law is None else own[laws.get(f.law).name] for f in who}


def _forecasts_of(ax: Axes, cell: SealedCell, made: Sequence[Forecast], styles: Styles, outcome: float | None) -> None:
    """One panel: the forecasts of a cell, the first forecaster at the top, and its outcome."""
    who, ends = list(styles), []
    for f in made:
        y, (colour, marker) = len(who) - 1 - who.index(f.forecaster), styles[f.forecaster]
        (a, b), (c, d) = f.interval50, f.interval95
        ax.plot([c, d], [y, y], color=colour, linewidth=1.2)
        ax.plot([a, b], [y, y], color=colour, linewidth=4, alpha=0.55, solid_capstyle="butt")
        ax.plot(f.value, y, marker, color=colour, markeredgecolor="white")
        ends += [a, b, f.value, min(d, b + 3 * (b - a)), max(c, a - 3 * (b - a))]
    if outcome is not None:
        ax.axvline(outcome, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, zorder=0)
        ax.plot(outcome, len(who) - 0.35, "*", color=INK, markersize=12, clip_on=False, zorder=5)
        ends.append(outcome)
    beyond = " and ".join(cell.beyond) or "neither N nor D"
    size = cell.N.get(FIRST) or cell.N.get("total") or 0
    ratio = f"{cell.compute_ratio:.2g}× the fitted C"
    ax.set_title(f"N {short(size)}, D {short(cell.D)}\nbeyond in {beyond}\n{ratio}", fontsize=8.5)
    pad = 0.06 * (max(ends) - min(ends) + 1e-9)
    ax.set_xlim(min(ends) - pad, max(ends) + pad)
    ax.set_ylim(-0.6, len(who) - 0.1)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.set_yticks(range(len(who)), [_label(f) for f in reversed(who)])
    ax.grid(axis="y", visible=False)


def _label(who: Forecaster) -> str:
    return f"{'naive' if who.law is None else who.law}, N {'non-emb.' if who.n == FIRST else who.n}"


@styled
def training(curves: Sequence[TrainingCurve], dataset: str, *, ax: Axes | None = None) -> Figure:
    """Training loss of stems and branches against tokens; the caller leaves out what is still sealed.

    Args:
      ax: axes to draw into; by default those of a new figure.
    """
    own = [c for c in curves if c.manifest.dataset == dataset]
    stems = sum(c.manifest.kind == "stem" for c in own)
    caption = (
        f"{stems} stems (thick, learning rate not decayed) and {len(own) - stems} other runs (thin: decay branches, or "
        f"whole runs) of {dataset}, the mean training loss of each chunk of steps; no interval, as these are single "
        "runs. Held-out runs without a forecast are not shown."
    )
    canvas = Canvas("Training curves", caption, (7.6, 4.4), ax=ax)
    ax, sizes = canvas.only, Sizes(np.array([_size(c) for c in own]))
    colours = {n: sizes.colour(n) for n in {_size(c) for c in own}}
    for stem, width, alpha in ((True, 1.5, 0.55), (False, 0.8, 0.95)):
        some = [c for c in own if (c.manifest.kind == "stem") is stem]
        # One artist for all of them: with one each, those of 10,000 runs take half the time of the report.
        lines = LineCollection(
            [np.column_stack([c.tokens, c.loss]) for c in some if len(c.loss) > 1],
            colors=[colours[_size(c)] for c in some if len(c.loss) > 1],
            linewidths=width,
            alpha=alpha,
            capstyle="projecting",
            joinstyle="round",
            zorder=2,
        )
        ax.add_collection(lines, autolim=False)
        single = [c for c in some if len(c.loss) == 1]
        ax.scatter(
            [c.tokens[0] for c in single],
            [c.loss[0] for c in single],
            c=[colours[_size(c)] for c in single],
            s=9,
            alpha=alpha,
            zorder=2,
        )
    log_axis(ax, "x", span(np.concatenate([np.asarray(c.tokens) for c in own])), short)
    log_axis(ax, "y", span(np.concatenate([np.asarray(c.loss) for c in own])), plain)
    ax.set_xlabel(D_LABEL)
    ax.set_ylabel(f"training loss ({own[0].manifest.unit})")
    sizes.explain(canvas, ax, markers=False)
    return canvas.figure


def _size(curve: TrainingCurve) -> float:
    return float(curve.manifest.parameters.nonembedding or 1)
