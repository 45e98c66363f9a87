"""Probable mistakes in a table whose cells are all valid numbers: mixed units, rows measured twice.

A mistake that would ruin any fit (D in billions in one row, in tokens elsewhere) is an error with row and column; what
only looks like a mistake (losses in bits among losses in nats) is a warning, since a bad run can look the same.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import special

from analysis.card import AnyWarning, Duplicates, MixedUnits, QuestionedUnits, StrayValue, SweptSettings
from analysis.laws import REGISTRY, Law
from analysis.table.names import RUN, Named
from analysis.table.rounding import rounded
from scaling.errors import Code, UserError

GAP = 3e3  # factor between neighbouring values of a column: no study leaves 3.5 decades empty, but mixed units do
BITS = float(np.log(1 / np.log(2)))  # difference of log loss between bits and nats
CLEAN, SHARE = 0.06, 0.4  # largest rms of log loss after the correction, absolute and as a share of that before
PAIRS = 300  # rows up to which rows in another unit are also sought two at a time
MANY = 5000  # rows above which the units of single rows are not checked
MOST = 0.4  # largest share of rows in the smaller part
STRAY, RATIO = 10.0, 3.0  # smallest factors by which a stray N, D, D/N or C/6ND lies off all others
ALONE = 3.0  # smallest ratio of the stray's log gap to the widest among the others
# What no study has in all its rows: a model below a thousand parameters, D/N outside this range (of tokens, images or
# pairs), more compute than the world has, C/6ND outside this range (C below 6ND counts no backward pass, or N counts
# parameters that are not used), a loss above that of guessing among the largest vocabularies.
SMALLEST, RATIOS, MOST_FLOPS, COSTS, VOCABULARY = 1e3, (0.2, 1e6), 1e28, (0.6, 30.0), 2**18
# Settings of a run by the table's name in lower case, with the name that laws use.
SETTINGS = {
    **dict.fromkeys(("lr", "learning_rate", "peak_lr", "max_lr", "base_lr"), "learning_rate"),
    **dict.fromkeys(("batch", "batch_size", "bs", "global_batch_size"), "batch"),
    **dict.fromkeys(("wd", "weight_decay"), "weight_decay"),
    **{name: name for name in ("warmup", "warmup_steps", "beta1", "beta2", "dropout", "momentum", "optimizer")},
}
# Of a column of words: most words, fewest cells of one N and D in which it differs, p value below which it is said.
MOST_GROUPS, FEWEST_CELLS, SURE = 20, 3, 1e-3
FEW = 0.02  # largest share of rows that can be stray (at least one row)


def reject_mixed_scales(table: Any, named: Named, keep: Any, rows: list[str]) -> None:
    """Raises a UserError where N, D or C falls into two distant parts, with the first row of the smaller part."""
    kept = np.flatnonzero(np.asarray(keep))
    if len(kept) < 3:
        return
    for name in ("N", "D", "C"):
        if name not in named.cells or name not in table:
            continue
        values = np.log(np.asarray(table[name], dtype=float)[kept])
        order = np.argsort(values, kind="stable")
        jumps = np.diff(values[order])
        if jumps.max() < np.log(GAP):
            continue
        cut = int(np.argmax(jumps)) + 1
        low, high = order[:cut], order[cut:]
        few = low if len(low) <= len(high) else high
        i = int(kept[few.min()])
        side = "below" if few is low else "above"
        remedy = (
            f"is {np.exp(jumps.max()):.2g} times {side} the next value of this column ({len(few)} such of {len(kept)} "
            "rows): are some in millions or billions? Give one unit, or leave the rows out (--where)"
        )
        where = f"{rows[i]}, column {named.columns[name]}"
        raise UserError(where, str(named.cells[name][i]).strip(), remedy, Code.MIXED)


def warnings(table: Any, unit_known: bool) -> tuple[AnyWarning, ...]:
    """Warnings about a table of runs with columns run, N, D, C, loss.

    Args:
      unit_known: each row's record says its unit; a loss far off the others is then no mistaken one.
    """
    return (*_stray(table), *(() if unit_known else _bits(table)), *_repeated(table))


def questioned(table: Any, given: Collection[str], form: Law | None = None) -> list[QuestionedUnits]:
    """Columns and ratios that no study has, in every row: a whole table in another unit. Only the first that is found.

    Args:
      given: those of N, D, C and loss that stand in the table itself; the others were computed from them.
      form: the law to fit, if it is known: what it gives may be no loss.
    """
    values = {name: np.asarray(table[name], dtype=float) for name in ("N", "D", "C", "loss") if name in table}
    looked: list[tuple[Literal["N", "D/N", "6ND", "C/6ND", "loss"], Any, float | None, float | None]] = []
    if "N" in values:
        looked.append(("N", values["N"], SMALLEST, None))
    if {"N", "D"} <= set(values):
        looked.append(("D/N", values["D"] / values["N"], *RATIOS))
        looked.append(("6ND", 6 * values["N"] * values["D"], None, MOST_FLOPS))
        if {"D", "C"} <= set(given):
            looked.append(("C/6ND", values["C"] / (6 * values["N"] * values["D"]), *COSTS))
    if "loss" in values and (form is None or form.quantity in ("loss", "other_loss")):
        looked.append(("loss", values["loss"], None, float(np.log(VOCABULARY))))
    for what, x, low, high in looked:
        least, most = float(x.min()), float(x.max())
        if what == "loss":
            least = most = float(np.median(x))  # the perplexity of good runs is as low as a loss
        if (low is not None and most < low) or (high is not None and least > high):
            return [QuestionedUnits(column=what, lo=float(x.min()), hi=float(x.max()), below=low, above=high)]
    return []


def swept(table: Any, form: Law | None) -> list[SweptSettings]:
    """What differs between rows of one N and D and is not known to ``form``: settings, or groups of runs."""
    return [*_settings(table, form), *_groups(table, form)]


def _settings(table: Any, form: Law | None) -> list[SweptSettings]:
    """Settings by their names, such as the learning rate."""
    known = () if form is None else form.columns
    columns = [c for c in table.columns if str(c).lower() in SETTINGS and SETTINGS[str(c).lower()] not in known]
    if not columns or not {"N", "D"} <= set(table):
        return []
    cells = table.groupby(list(cell_of(table)), sort=False)
    differ = {str(c): cells[c].nunique() > 1 for c in columns}
    columns = [c for c, where in differ.items() if bool(where.any())]
    if not columns or {"N", "D"} & set(columns):
        return []
    there = np.logical_or.reduce([np.asarray(differ[c]) for c in columns])
    apart = (cells["loss"].max() - cells["loss"].min()) / cells["loss"].min().abs()
    spread = np.log1p(np.asarray(apart, dtype=float))[there]
    wanted = {SETTINGS[c.lower()] for c in columns}
    fitting = tuple(
        name for name, law in REGISTRY.items() if {"N", "D"} <= set(law.columns) and wanted & set(law.columns)
    )
    first = {SETTINGS[c.lower()]: c for c in reversed(columns)}  # lr and its copy learning_rate are one
    return [
        SweptSettings(
            columns=tuple(reversed(first.values())),
            cells=int(there.sum()),
            of=len(there),
            spread_log=float(np.median(spread)),
            laws=fitting,
        )
    ]


def _groups(table: Any, form: Law | None) -> list[SweptSettings]:
    """A column of words, such as the data or the architecture, whose groups differ in loss at one N and D.

    What tells runs apart (a name, a host) differs too; so the mean log losses of the groups, each less the mean of its
    cell, must differ by more than the rest of the cells allows: an F test of one factor, within cells.
    """
    if not {"N", "D"} <= set(table) or bool((table["loss"] <= 0).any()):
        return []
    known = {*RUN, *([] if form is None else form.columns)}
    keys, y = list(cell_of(table)), np.log(table["loss"])
    cells = table.groupby(keys, sort=False)
    centred = y - y.groupby(keys).transform("mean")
    for name in table.columns:
        column = table[name]
        if name in known or pd.api.types.infer_dtype(column) != "string" or not 2 <= column.nunique() <= MOST_GROUPS:
            continue  # a cell may hold a list
        counts = cells[name].nunique()
        differ = cells[name].transform("nunique") > 1
        within = centred[differ]
        means = within.groupby(column[differ]).transform("mean")
        count, df1 = int((counts > 1).sum()), column[differ].nunique() - 1
        df2 = len(within) - count - df1
        if df1 < 1 or count < FEWEST_CELLS or df2 < 1:
            continue
        rest = float(((within - means) ** 2).sum()) / df2
        if special.fdtrc(df1, df2, float((means**2).sum()) / df1 / max(rest, 1e-30)) < SURE:
            spread = float((cells["loss"].max() / cells["loss"].min())[counts > 1].median())
            groups = tuple(str(word) for word in column[differ].unique())
            return [
                SweptSettings(
                    columns=(str(name),),
                    cells=count,
                    of=len(counts),
                    spread_log=float(np.log(spread)),
                    laws=(),
                    groups=groups,
                )
            ]
    return []


def cell_of(table: Any) -> tuple[Any, Any]:
    """Keys (rows,) by which rows of one N and D, equal to rounding, are grouped."""
    return rounded(table["N"]), rounded(table["D"])


def _stray(table: Any) -> list[StrayValue]:
    """Rows far off all others in N, D, D/N or C/6ND where the others leave no such gap: probably a slip of some zeros.

    If the value is right, that run dominates the fit. A row is reported for the first of these columns only.
    """
    if len(table) < 8:
        return []
    n, d, c = (np.log(np.asarray(table[name], dtype=float)) for name in ("N", "D", "C"))
    looked: tuple[tuple[Literal["N", "D", "D/N", "C/6ND"], Any, float], ...] = (
        ("N", n, STRAY),
        ("D", d, STRAY),
        ("D/N", d - n, STRAY),
        ("C/6ND", c - n - d - np.log(6.0), RATIO),
    )
    out, named = [], np.zeros(len(table), dtype=bool)
    for what, values, least in looked:
        for side, few in _apart(values, least):
            if named[few].any():
                continue
            named[few] = True
            far = np.exp(np.abs(side * values[few] - np.delete(side * values, few).max()).min())
            out.append(
                StrayValue(
                    column=what,
                    rows=tuple(str(v) for v in table["run"].iloc[few]),
                    values=tuple(float(np.exp(values[i])) for i in few),
                    of=len(values),
                    factor=float(far),
                    side="above" if side > 0 else "below",
                )
            )
    return out


def _apart(values: Any, least: float) -> list[tuple[int, Any]]:
    """(+1 above or -1 below, indices) of a few values (n,) beyond a gap wider than any among the others."""
    order, most, groups = np.argsort(values, kind="stable"), max(1, int(FEW * len(values))), []
    gaps = np.diff(values[order])
    for side, few, gap in ((1, order[::-1], gaps[::-1]), (-1, order, gaps)):
        cut = int(np.argmax(gap[:most]))
        others = np.delete(gaps, len(gaps) - 1 - cut if side > 0 else cut)
        if gap[cut] >= np.log(least) and gap[cut] > ALONE * others.max():
            groups.append((side, np.sort(few[: cut + 1])))
    return groups


def _bits(table: Any) -> list[MixedUnits]:
    """Rows whose log loss is ln(1 / ln 2) off a smooth surface through the others: bits among nats."""
    if not 8 <= len(table) <= MANY or bool((table["loss"] <= 0).any()):
        return []
    y = np.log(np.asarray(table["loss"], dtype=float))
    columns = [np.log(np.asarray(table[c], dtype=float)) for c in ("N", "D")]
    spread = [c - c.mean() for c in columns if np.ptp(c) > 1e-9]
    full = [np.ones(len(y)), *spread]
    if len(y) >= 20:
        full += [x * z for i, x in enumerate(spread) for z in spread[i:]]
    design = np.stack(full, 1)
    basis = np.linalg.qr(design)[0]
    before = _rms(y - basis @ (basis.T @ y))
    if before < CLEAN / 4:
        return []
    ways = ((1, 1), (-1, 1), (1, 2), (-1, 2)) if len(y) <= PAIRS else ((1, 1), (-1, 1))
    found = [(sign, _odd(basis, y, sign, moved)) for sign, moved in ways]
    # Many odd rows bend to any noise: each has to earn its place, as in the Bayesian information criterion.
    sign, odd = min(found, key=lambda x: len(y) * np.log(_rms_of(basis, y, *x) + 1e-12) + x[1].sum() * np.log(len(y)))
    after = _rms_of(basis, y, sign, odd)
    if not odd.any() or odd.mean() > MOST or after > CLEAN or after > SHARE * before:
        return []
    names = tuple(str(v) for v in table["run"][odd])
    return [MixedUnits(rows=names, of=len(y), looks_like="bits" if sign > 0 else "nats")]


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(x**2)))


def _rms_of(basis: Any, y: Any, sign: int, odd: Any) -> float:
    moved = y - sign * BITS * odd
    return _rms(moved - basis @ (basis.T @ moved))


def _odd(basis: Any, y: Any, sign: int, most: int) -> Any:
    """Mask (n,) of rows that, when their log loss is shifted by ``sign`` * BITS, bring all nearest to one surface.

    Greedy, by the row or (``most`` 2) the two rows that gain most: a few odd rows bend the surface towards themselves,
    so that one of them alone may not seem odd.
    """
    n, odd = len(y), np.zeros(len(y), dtype=bool)
    hat = basis @ basis.T if most == 2 else None
    leverage = 1 - (basis**2).sum(1)
    for _ in range(2 * n):
        moved = y - sign * BITS * odd
        residual = moved - basis @ (basis.T @ moved)
        step = sign * BITS * np.where(odd, -1.0, 1.0)  # reduction of the residual sum of squares by changing each row
        gain = 2 * step * residual - step**2 * leverage
        best = np.argmax(gain), np.argmax(gain)
        if hat is not None:
            both = gain[:, None] + gain + 2 * step[:, None] * step * hat
            np.fill_diagonal(both, gain)
            best = np.unravel_index(np.argmax(both), both.shape)
            gain = both.max(0)
        if gain[best[1]] <= 1e-12:
            break
        odd[list({*best})] ^= True
    return odd


def _repeated(table: Any) -> list[Duplicates]:
    """Rows with the same N, D and loss to the last digit that differ elsewhere: a copy is no second measurement."""
    numbers = table[["N", "D", "loss"]]
    again = np.asarray(numbers.duplicated(keep=False))
    if not again.any():
        return []
    return [Duplicates(rows=tuple(str(v) for v in table["run"][again]))]
