"""laws: lists the functional forms and published coefficients, with their sources."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError, choose
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
    known = {column for law in REGISTRY.values() for column in law.columns}
    for name in sorted(wanted - known):
        raise UserError("columns", name, choose(name, sorted(known)), Code.UNKNOWN)
    chosen = [law for law in REGISTRY.values() if not wanted or set(law.columns) <= wanted]
    if options.json:
        print_json([_entry(law, published.of(law)) for law in chosen])
        return 0
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
