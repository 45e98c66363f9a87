"""Sources of training tokens behind one contract. A source is one module of this folder; adding one touches no list.

A source module has ``Config``, a frozen dataclass of ints, floats and strings with defaults whose fields declare what
they may hold (``scaling.settings``), and ``make(config)``. ``load({"source": "text", "path": "books"})`` finds the
module by its file name and refuses unknown names and fields.

What every source promises:

- Example ``index`` under ``seed`` is a pure function of the two (and of ``context``): no batch, chunk, host, device
  or call before it has an influence, so a resumed run needs its step and nothing else.
- A smaller D is a prefix of a larger D of the same seed, because D only says how many indices are read.
- Seeds differ in the order of the same training tokens (for a generated source: in the sample drawn).
- Evaluation is fixed by hash, shares no document with training, and is the same for every seed and D. A smaller
  ``limit_tokens`` is a prefix of a larger one. Losses are summed by document, so that a standard error is by document.
- ``describe()`` names the content by its hash: two machines with the same bytes get the same description, whatever
  the folders are called, and D has no part in it.

Imports numpy and the standard library only: the planner describes sources without starting JAX, and what reads users'
own files (the extra ``data``) is imported by the source that needs it. In a Grain pipeline a source is
``grain.MapDataset.range(n).map(lambda i: source.batch(np.array([i]), seed=0, context=256))``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import asdict
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from scaling.settings import mapping, read, require_known


@runtime_checkable
class Source(Protocol):
    """What the planner and the trainer know of a source. Shapes: n examples, T = context, m evaluation windows."""

    @property
    def vocab(self) -> int:
        """Every token is in [0, vocab)."""
        ...

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of the original text for a token (1.0 where tokens are bytes); None where unknown or meaningless."""
        ...

    def describe(self) -> dict[str, Any]:
        """For ``manifest["data"]``: source, sha256, bytes, unique_tokens (training tokens before they are cut into
        windows; None if unbounded), entropy (nats per loss token where it is known exactly, else None) and what else
        tells this content from another. JSON values only, no paths."""
        ...

    def unique_tokens(self, context: int) -> int:
        """Training tokens that can be given without a repeat: windows * context. Planners refuse D above it."""
        ...

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        """Examples ``indices`` (n,), int64, >= 0 -> {"tokens": int32 (n, T + 1)}, what else ``supplies`` names
        ("image": uint8 (n, side, side, 3), "sound": uint8 (n, samples), "label": int32 (n,)) and, where not every
        target counts, "mask": float32 (n, T), 1 where the loss of target ``tokens[:, 1:]`` counts. The mask is the same
        for every example of a source, so loss tokens per example = ``mask[0].sum()``; a source whose examples differ
        has ``loss_tokens(context)``, their mean. Indices past one epoch repeat the data in another order.

        Raises:
          UserError: an example is damaged; the message names its file and key."""
        ...

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        """{"tokens": int32 (m, T + 1), "mask": float32 (m, T), "document": int32 (m,) into "documents",
        "documents": list of names; pictures, sounds and labels as in ``batch``} of the fewest windows, in order of
        their hash, that hold ``limit_tokens`` loss tokens (all of them for None or a larger limit); a known source adds
        "reference": float32 (m, T), the exact -log p in nats of every target under the distribution it was drawn
        from, 0 where masked; one with labels and captions may add "prompts": int32 (classes, k, T + 1), texts that
        tell of each class."""
        ...


def supplies(source: Any) -> dict[str, int]:
    """What a source has, by name of an input as a family's ``batch_spec`` names it (``scaling.inputs``).

    {"vocab": tokens up to this}, the side of images ("image"), samples of a sound ("sound"), labels ("classes") and
    texts that tell of each ("prompts"); where documents end, the tokens of the longest one of the evaluation
    ("context"). The highest token of a caption is its end-of-text.
    """
    return dict(getattr(source, "supplies", None) or {"vocab": source.vocab})


def unique(source: Source, spec: Mapping[str, int]) -> int:
    """What D counts of a family's ``batch_spec`` that the source gives without a repeat."""
    text = spec.get("text", spec["context"])
    return source.unique_tokens(text) // text * spec["context"]


def names() -> list[str]:
    """Sources that exist: the modules of this folder whose name has no leading underscore."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_"))


def _resolved(config: object) -> tuple[ModuleType, Any]:
    values = mapping("data", config)
    name = values.pop("source", None)
    require_known("source", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    return module, read(module.Config, "data", values)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with every default written out, as study.json keeps it.

    Raises:
      UserError: the source or a field does not exist (UNKNOWN), or a field cannot hold its value (INVALID).
    """
    _, values = _resolved(config)
    return {"source": config["source"], **asdict(values)}


def load(config: Mapping[str, Any]) -> Source:
    """Makes the source that ``config["source"]`` names from the other fields of ``config``.

    Raises:
      UserError: the source or a field does not exist (UNKNOWN), a field cannot hold its value (INVALID), or the data is
        missing (MISSING), damaged (DAMAGED), or too little to be split (TOO_FEW).
    """
    module, values = _resolved(config)
    return module.make(values)
