"""laws: lists the functional forms and published coefficients, with their sources."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError, choose, closest
from scaling.flags import Flag
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json

if TYPE_CHECKING:
    from analysis.laws import Law
    from analysis.laws.published import Published


def laws(options: SimpleNamespace) -> int:
    """Lists the functional forms and published coefficients, with their sources."""
    from analysis.laws import REGISTRY, published

    wanted = {name.strip() for name in (options.columns or "").split(",")} - {""}
    if options.columns is not None and not wanted:
        raise UserError("columns", options.columns or "nothing", "give names separated by commas", Code.MISSING)
    chosen = _chosen(wanted)
    if options.json:
        print_json([_entry(law, published.of(law)) for law in chosen])
        return 0
    if any(law.name not in REGISTRY and set(law.columns) == wanted for law in chosen):
        print(f"{', '.join(wanted)}: no law names this column; the laws of one variable, in it:")
    for law in chosen:
        print(f"{law.name:14} {law.formula}\n{'':14} {law.source}")
        for parameter in law.params:
            print(f"{'':16} {parameter.name:8} {parameter.meaning}, {parameter.unit}")
        for entry in published.of(law):
            values = ", ".join(f"{name} {value:.4g}" for name, value in entry.params.items())
            print(f"{'':14} {entry.name}: {values}")
            note = f"; {entry.note}" if entry.note else ""
            print(f"{'':16} {entry.source}, arXiv {entry.arxiv}; {entry.where}; {entry.mark}{note}")
    print(
        "a law in x can be fitted in any column (power:C); parameters can be tied by name (NAME[beta=alpha]); a law of"
    )
    print("your own is a Law in a Python file (mine.py:law)")
    return 0


def _chosen(wanted: set[str]) -> list[Law]:
    """Every law, or those of the ``wanted`` columns; of one column that no law names, those of one variable in it."""
    from analysis.laws import REGISTRY, of_columns

    if not wanted:
        return list(REGISTRY.values())
    shares = [law for law in of_columns(wanted) if getattr(law, "shares", False)]
    known = {column for law in (*REGISTRY.values(), *shares) for column in law.columns}
    only = next(iter(wanted))
    if len(wanted) == 1 and only not in known and not closest(only, known):
        return [law.in_column(only) for law in REGISTRY.values() if law.columns == ("x",)]
    for name in sorted(wanted - known):
        raise UserError("columns", name, choose(name, sorted(known)), Code.UNKNOWN)
    plain = [law for law in REGISTRY.values() if not getattr(law, "shares", False)]
    return [law for law in (*plain, *shares) if set(law.columns) <= wanted]


def _entry(law: Law, known: Sequence[Published]) -> dict[str, object]:
    return {
        "name": law.name,
        "formula": law.formula,
        "columns": law.columns,
        "source": law.source,
        "no_optimum": law.no_optimum,
        "response": law.response,
        "published": known,
        "params": [{"name": p.name, "unit": p.unit, "meaning": p.meaning} for p in law.params],
    }


VERB = Verb(
    summary="list the laws that can be fitted, with their sources and published coefficients",
    flags=(
        Flag("columns", str, "only laws of these columns, such as 'N,D,learning_rate'"),
        JSON,
    ),
    example="scaling laws",
    call=laws,
)
