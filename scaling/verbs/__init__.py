"""The verbs of the command line: ONE file each, that ends with its declaration ``VERB``; nothing lists them.

A file here is a verb if it has a ``VERB``; those with an underscore, ``show`` and ``experiment`` are helpers. Importing
one is light: what is heavy (numpy, analysis, jax) is imported by the function that needs it, and training happens in
workers, never here.
"""

from __future__ import annotations

import importlib
import pkgutil

from scaling.verbs._declare import Verb

# The order of the overview, as a study goes; a verb that is not here comes after them, by name.
ORDER = ("plan", "run", "status", "fit", "predict", "next", "tune", "compare", "report", "plot", "data", "laws")


def names() -> list[str]:
    """The verbs there are."""
    found = [module.name for module in pkgutil.iter_modules(__path__) if load(module.name) is not None]
    return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def load(name: str) -> Verb | None:
    """The declaration of a verb; None where there is none of that name."""
    if name.startswith("_") or all(module.name != name for module in pkgutil.iter_modules(__path__)):
        return None
    return getattr(importlib.import_module(f"scaling.verbs.{name}"), "VERB", None)
