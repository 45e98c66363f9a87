"""The verbs of the command line, one file each. A file is a verb if it declares ``VERB``; there is no other list.

Files whose name begins with an underscore, ``show`` and ``experiment`` are helpers. Importing a verb is cheap: heavy
packages (numpy, analysis, jax) are imported by the functions that need them. Training happens in workers, never here.
"""

from __future__ import annotations

import importlib
import pkgutil

from scaling.verbs._declare import Verb

# Order of the overview: the steps of a study. Verbs that are not listed follow, sorted by name.
ORDER = (
    *(
        "init",
        "plan",
        "run",
        "status",
        "cancel",
        "verify",
        "import",
        "fit",
        "predict",
        "next",
        "tune",
        "compare",
        "gate",
    ),
    *("report", "plot", "export"),
)


def names() -> list[str]:
    """Names of all verbs, in the order of the overview."""
    modules = [module.name for module in pkgutil.iter_modules(__path__) if load(module.name) is not None]
    return sorted(modules, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def load(name: str) -> Verb | None:
    """The declaration of a verb; None if no verb has that name."""
    if name.startswith("_") or all(module.name != name for module in pkgutil.iter_modules(__path__)):
        return None
    return getattr(importlib.import_module(f"scaling.verbs.{name}"), "VERB", None)
