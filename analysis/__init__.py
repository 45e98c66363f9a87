"""Scaling laws from a table of runs: fit, diagnose, forecast, allocate. Never imports the trainer, nor JAX.

    import analysis
    fit = analysis.fit("runs.csv")       # or a DataFrame: columns N, D, loss
    print(fit)
    fit.predict(N=7e9, D=1e12)
    fit.optimal(flops=1e24)

``load`` reads runs, ``fit`` fits a law to them and returns a ``Fit``, ``compare`` compares fits, ``gate`` says how much
compute a change saves and ``plan_gate`` what a gate could tell. ``laws`` has the
formulas and ``Law`` defines new ones, ``plots`` draws figures, ``reference`` holds published runs. All are imported on
first use.

Letters in names: S parameter sets, n runs, P parameters, K terms of a law.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis import laws, reference
    from analysis.api import Fit, compare, fit, gate, load, plan_gate
    from analysis.laws import Law
    from analysis.show import plots

__all__ = ["Fit", "Law", "compare", "fit", "gate", "laws", "load", "plan_gate", "plots", "reference"]

# public name -> (module, name in that module; None for the module itself)
_PLACES = {
    "Fit": ("analysis.api", "Fit"),
    "Law": ("analysis.laws", "Law"),
    "compare": ("analysis.api", "compare"),
    "fit": ("analysis.api", "fit"),
    "gate": ("analysis.api", "gate"),
    "laws": ("analysis.laws", None),
    "load": ("analysis.api", "load"),
    "plan_gate": ("analysis.api", "plan_gate"),
    "plots": ("analysis.show.plots", None),
    "reference": ("analysis.reference", None),
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, inner = _PLACES[name]
    loaded = importlib.import_module(module)
    value = loaded if inner is None else getattr(loaded, inner)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
