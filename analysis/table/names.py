"""Which columns of a table are N, D, C and loss: by name, by the user's choice, or computed from other columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.laws import Law
from analysis.table.select import compute
from analysis.table.units import Units, check, number, written
from scaling.errors import Code, UserError, choose

REQUIRED = ("N", "D", "loss")
# Other names of the columns, in lower case. Only unambiguous ones: "size" could mean bytes. A loss on a
# validation or test set is preferred to a plain loss, which may be of the training batches.
ALIASES: dict[str, tuple[tuple[str, ...], ...]] = {
    "N": (("params", "parameters", "n_params", "num_params", "num_parameters", "n_parameters"),),
    "D": (
        ("tokens", "train_tokens", "training_tokens", "n_tokens", "num_tokens", "tokens_trained", "tokens_seen"),
        ("total_tokens", "trained_tokens", "token_count"),
    ),
    "C": (
        ("flops", "training_flops", "train_flops", "total_flops", "training_compute"),
        ("compute_budget", "flops_budget", "flop_budget", "compute"),
    ),
    "loss": (
        tuple(of + end for of in ("val", "validation", "valid", "eval", "test") for end in ("_loss", "/loss")),
        ("loss", "final_loss"),
    ),
}
# A lower-case letter alone means N, D or C only beside the others: d may be a width, c a schedule.
LETTERS = {"N": "n", "D": "d", "C": "c"}
RUN = ("run", "run_name", "run_id")
OTHERS = ("run", "stem", "seed", "dataset", "unique_tokens", "epochs", "learning_rate", "batch", "tokens_per_second")
COPIES = {"lr": "learning_rate", "U": "unique_tokens"}  # canonical name beside the one in the table
BITS = ("bpb", "val_bpb", "eval_bpb", "test_bpb", "bits_per_byte", "val_bits_per_byte", "bpc", "val_bpc", "bits")
ERROR = ("error", "error_rate", "err", "downstream_error", "top1_error", "val_error", "test_error")
ACCURACY = ("accuracy", "acc", "acc_norm", "val_accuracy", "test_accuracy", "top1", "exact_match", "pass_rate")
PERPLEXITY = ("ppl", "perplexity", "val_ppl", "val_perplexity", "eval_ppl", "eval_perplexity")


@dataclass(frozen=True)
class Named:
    """What the columns of a table are.

    Attributes:
      columns: {name: column of the table, or arithmetic of columns}.
      values: {name: numbers (rows,)} in parameters, tokens, FLOPs and nats; not a number where a cell is none.
      cells: {name: cells as they stand in the table}.
      count: which count of parameters N is, if known.
      aside: other columns that could be the loss.
      units: the declared units by name.
    """

    columns: dict[str, str]
    values: dict[str, pd.Series]
    cells: dict[str, pd.Series]
    count: str | None = None
    aside: tuple[str, ...] = ()
    units: dict[str, str] = field(default_factory=dict)


def name_columns(
    frame: pd.DataFrame,
    n: str,
    columns: Mapping[str, str],
    law: Law | None = None,
    units: Units | None = None,
) -> Named:
    """Finds N, D, C, loss and the others in ``columns``, and reads their numbers.

    N and D are required, or the columns of ``law`` where one is given; its ``x`` is determined when it is fitted.

    Args:
      n: as in ``load``.
      columns: {name: column of the table, or arithmetic of columns}, chosen by the user.
      units: {name: unit}, as in ``analysis.load``.

    Raises:
      UserError: an unknown name or unit, a missing or ambiguous column, or no arithmetic.
    """
    present, given = [str(c) for c in frame.columns], dict(columns)
    own = () if law is None else law.columns
    _check_choice(given, present, own)
    count = next((c for c in (n, f"N_{n}") if c in present), None)
    if count is not None:
        given.setdefault("N", count)
    elif n != "nonembedding":
        known = (*present, *(column[2:] for column in present if column.startswith("N_")))
        raise UserError("n", n, f"is no column of this table (nor is N_{n}); {choose(n, known)}", Code.MISSING)
    if law is not None:
        given |= _of_losses(law, present, given)
    needed = REQUIRED if law is None else (*(c for c in own if c in ALIASES), "loss")
    aside: tuple[str, ...] = ()
    for name in ALIASES:
        if name in given:
            continue
        found, others = find(name, present)
        if name in LETTERS and name not in needed:
            found = [c for c in found if bool(number(frame[c]).notna().any())]  # text in an unneeded column is no C
        if len(found) > 1:
            remedy = f"could each be {name}; say which one with --columns={name}=COLUMN"
            raise UserError("column", ", ".join(found), remedy, Code.CONFLICT)
        if found:
            given[name] = found[0]
        if name == "loss" and found:
            aside = tuple(others)
    for name in needed:
        derived = (name == "C" and {"N", "D"} <= set(given)) or (name == "D" and {"N", "C"} <= set(given))
        if name not in given and not derived:
            raise _no_column(name, needed, present, law)
    converted = check(units or {}, given)
    cells = {name: _cells(frame, name, column) for name, column in given.items()}
    values = {name: written(cells[name], given[name], count=name in ("N", "D", "C")) for name in given}
    with np.errstate(all="ignore"):  # what becomes no number is named with its line later
        for name, unit in converted.items():
            values[name] = unit.to_base(values[name])
    said = {name: str(unit) for name, unit in (units or {}).items()}
    return Named(given, values, cells, None if count is None else n, aside, said)


def _of_losses(law: Law, present: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Where a law makes another quantity of a loss: the column of that quantity as ``loss``, and the loss as ``x``.

    Raises:
      UserError: nothing says which column is the other quantity (MISSING), or it is the loss itself (CONFLICT).
    """
    if not law.of_a_loss:
        return {}
    (column,), what = law.columns, law.quantity.replace("_", " ")
    how = f"say --law={law.name.partition(':')[0]} --columns='x=COLUMN OF THE LOSS,loss=COLUMN OF THE {what.upper()}'"
    if column == "loss":
        raise UserError("law", law.name, f"gives the {what}, which is then called loss; {how}", Code.CONFLICT)
    losses = [c for c in find("loss", present)[0] if c != given.get("loss")]
    x = {"x": losses[0]} if column == "x" and len(losses) == 1 and "x" not in (*present, *given) else {}
    if "loss" in given or "x" in present:
        return x
    others = [c for c in present if c.lower() in ERROR and law.quantity == "error"]
    if len(others) != 1:
        right = [c for c in present if c.lower() in ACCURACY and law.quantity == "error"]
        remedy = f"it is not said which column holds the {what} ({', '.join(present)}); {how}"
        remedy += f", here loss=1-{right[0]}" if len(right) == 1 else ""
        raise UserError("law", law.name, remedy, Code.MISSING)
    return {**x, "loss": others[0]}


def available(frame: pd.DataFrame, columns: Mapping[str, str]) -> set[str]:
    """The columns of laws that a table has, under any name, among ``columns`` or computed from others."""
    present = [str(c) for c in frame.columns]
    found = {*present, *columns, *(new for old, new in COPIES.items() if old in present)} - set(LETTERS)
    found |= {name for name in LETTERS if name in columns or find(name, present)[0]}
    if "N" in found and found & {"C", "D"}:
        found |= {"C", "D"}
    return found


def _check_choice(given: Mapping[str, str], present: list[str], own: tuple[str, ...]) -> None:
    known = tuple(dict.fromkeys((*ALIASES, *own, *OTHERS)))
    for name, column in given.items():
        if name not in known:
            raise UserError("columns", f"{name}={column}", choose(name, known), Code.UNKNOWN)
        if column not in present and column.isidentifier():
            remedy = f"is no column of the table; {choose(column, present)}"
            raise UserError("columns", f"{name}={column}", remedy, Code.MISSING)


def _cells(frame: pd.DataFrame, name: str, column: str) -> Any:
    """The cells of a column, or the numbers of arithmetic of columns."""
    if column in frame.columns:
        return frame[column]
    numbers = {str(c): values for c in frame.columns if bool((values := number(frame[c])).notna().any())}
    return compute(pd.DataFrame(numbers, index=frame.index), column, name)


def find(name: str, present: list[str]) -> tuple[list[str], list[str]]:
    """Columns that could be ``name``, the most likely ones, and the other ones."""
    tiers = [[c for c in present if c.lower() in tier] for tier in ALIASES[name]]
    if name in LETTERS:
        if name in present:
            return [name], []
        letters = [letter for letter in LETTERS.values() if letter in present]
        if LETTERS[name] in letters and (len(letters) > 1 or name == "N") and not any(tiers):
            return [LETTERS[name]], []
    elif name in present and name not in ALIASES[name][0] and not tiers[0]:
        tiers = [[name], [c for tier in tiers for c in tier if c != name]]
    best = next((tier for tier in tiers if tier), [])
    return best, [c for tier in tiers for c in tier if c not in best]


def is_loss(column: str) -> bool:
    """Whether a column is the loss by its name, in any unit."""
    return column.lower() in {*(name for tier in ALIASES["loss"] for name in tier), *BITS, *PERPLEXITY}


def _no_column(name: str, needed: tuple[str, ...], present: list[str], law: Law | None) -> UserError:
    close = [c for c in present if name.lower() in c.lower()] if name == "loss" else []
    kinds = ((PERPLEXITY, "a perplexity", "ppl"), (BITS, "in bits", "bits")) if name == "loss" else ()
    other = next(((c, what, unit) for names, what, unit in kinds for c in present if c.lower() in names), None)
    hint = f"rename {' or '.join(close)} to {name}" if close else f"its columns are {', '.join(present)}"
    if other is not None:
        column, what, unit = other
        hint = f"{column} is {what}: give --columns=loss={column} --units=loss={unit}"
    else:
        hint += f"; say which one with --columns={name}=COLUMN, or arithmetic of columns"
    if law is not None and len(law.columns) > 1:
        hint += ", or fit a law of one variable, such as --law=power_floor"
    who = "a fit" if law is None else f"law {law.name}"
    wanted = " and ".join(needed) if len(needed) < 3 else f"{', '.join(needed[:-1])} and {needed[-1]}"
    return UserError("table", f"no column {name}", f"{who} needs {wanted}; {hint}", Code.MISSING)
