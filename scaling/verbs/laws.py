"""laws: the functional forms and the published coefficients, with their sources."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec

from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json


def laws(options: SimpleNamespace) -> int:
    """The functional forms and the published coefficients, with their sources."""
    from analysis.laws import REGISTRY, published

    if options.json:
        print_json([
            {"name": law.name, "formula": law.formula, "columns": list(law.columns), "source": law.source,
             "no_optimum": law.no_optimum, "response": law.response,
             "published": [msgspec.to_builtins(entry) for entry in published.of(law.name)],
             "params": [{"name": p.name, "unit": p.unit, "meaning": p.meaning} for p in law.params]}
            for law in REGISTRY.values()
        ])  # fmt: skip
        return 0
    for law in REGISTRY.values():
        print(f"{law.name:14} {law.formula}\n{'':14} {law.source}")
        for parameter in law.params:
            print(f"{'':16} {parameter.name:8} {parameter.meaning}, {parameter.unit}")
        for entry in published.of(law.name):
            values = ", ".join(f"{name} {value:.4g}" for name, value in entry.params.items())
            print(f"{'':14} {entry.name}: {values}")
            note = f"; {entry.note}" if entry.note else ""
            print(f"{'':16} {entry.source}, arXiv {entry.arxiv}; {entry.where}; {entry.mark}{note}")
    print("a law of x is fitted in any column (power:C); parameters are tied by name (chinchilla[beta=alpha])")
    return 0


VERB = Verb(
    summary="list the laws that can be fitted, with their sources and published coefficients",
    flags=(JSON,),
    example="scaling laws",
    call=laws,
)
