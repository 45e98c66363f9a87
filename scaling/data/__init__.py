"""Sources of training data with a common interface. A source is one module of this folder; there is no other list.

A source module has ``Config``, a frozen dataclass of ints, floats and strings with defaults whose fields declare their
valid values (``scaling.settings``), and ``make(config)``. ``load({"source": "text", "path": "books"})`` finds the
module by its file name and refuses unknown names and fields.

Every source guarantees:

- Example ``index`` under ``seed`` is a pure function of the two (and of ``context``). It does not depend on batch,
chunk,
  host, device or earlier calls, so a resumed run needs only its step.
- The data of a smaller D is a prefix of that of a larger D with the same seed: D only says how many indices are read.
- Seeds differ in the order of the same training tokens (for a generated source: in the sample drawn).
- Evaluation data is chosen by hash, shares no document with training, and is the same for every seed and D. The set for
  a smaller ``limit_tokens`` is a prefix of that for a larger one. Losses are summed by document, for standard errors.
- ``describe()`` identifies the content by its hash: two machines with the same bytes get the same description, whatever
  the names of the folders. It does not depend on D.

This package imports only numpy and the standard library, so the planner can describe sources without starting JAX;
libraries of the extra ``data`` are imported by the sources that need them. In a Grain pipeline a source is
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

from scaling.data._remarks import Remark
from scaling.settings import mapping, read, require_known


@runtime_checkable
class Source(Protocol):
    """The interface of a source. Shapes: n examples, T = context, m evaluation windows."""

    @property
    def vocab(self) -> int:
        """Every token is in [0, vocab)."""
        ...

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of the original text per token (1.0 if tokens are bytes); None if unknown or meaningless."""
        ...

    def describe(self) -> dict[str, Any]:
        """For ``manifest["data"]``: source, sha256, bytes, unique_tokens (training tokens before they are cut into
        windows; None if unbounded), entropy (nats per loss token if known exactly, else None), entropy_given (only if
        it is not that of the text alone: the words that ``Unit.given`` has) and other fields that distinguish this
        content. JSON values only, no paths."""
        ...

    def unique_tokens(self, context: int) -> int:
        """Training tokens available without a repeat: windows * context. Planners refuse a larger D."""
        ...

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        """Examples ``indices`` (n,), int64, >= 0, as {"tokens": int32 (n, T + 1)}, with other inputs of ``supplies``
        ("image": uint8 (n, side, side, 3), "field": float32 (n, side, side, 3), "sound": uint8 (n, samples), "mel":
        float32 (n, frames, bands), "label": int32 (n,)) and, unless every target counts, "mask": float32 (n, T), 1
        where the loss of target ``tokens[:, 1:]`` counts. The mask is the same for every example, so loss tokens per
        example = ``mask[0].sum()``; a source whose examples differ has ``loss_tokens(context)``, their mean. Indices
        beyond one epoch repeat the data in another order.

        A source that can skip damaged samples has ``replaced``, bool (n,): rows of the latest batch that hold others.

        Raises:
          UserError: an example is damaged; the message names its file and key."""
        ...

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, Any]:
        """{"tokens": int32 (m, T + 1), "mask": float32 (m, T), "document": int32 (m,) into "documents",
        "documents": list of names; other inputs as in ``batch``}.

        It has the fewest windows, in order of their hash, that hold ``limit_tokens`` loss tokens; all windows for None
        or a larger limit. A source with a known distribution adds "reference": float32 (m, T), the exact -log p in nats
        of every target, 0 where masked; or the best prediction's loss of another kind, and then it has
        ``expected_reference(context)``, the mean per prediction over the world, None if that is not known.
        One with labels and captions may add "prompts": int32 (classes, k, T + 1), texts that describe each class.

        A source with questions also has ``candidates``, how many answers each offers, C, and ``questions(context,
        shots, limit_tokens)``: m C windows, those of a question together, that differ in the answer alone, after so
        many answered examples. ``mask`` counts the answer's tokens, at most about ``limit_tokens`` of all candidates;
        "right" is bool (m C,), True for one of each question. A question is the same whatever ``shots``. UserError
        ("shots", CONFLICT) if the context is too short."""
        ...


def supplies(source: Any) -> dict[str, int]:
    """The inputs of a source and their numbers, by the names of a family's ``batch_spec`` (``scaling.inputs``).

    "vocab": size of the vocabulary; "marks": tokens of which it is known whether they begin words; "image": side of the
    images; "field": side of arrays of real numbers; "sound": samples of a sound; "mel", "frames": bands and frames of
    its spectrogram; "points": numbers of a point, its y included; "regions", "region_side", "region_classes": of a
    picture, their side and their classes; "graph": kinds of nodes; "classes": number of labels; "prompts": texts per
    label; "pictures" of a "side" in an example of text, and the token that is their "mark"; "video": frames of a
    video, of the side of images; "context": tokens of all evaluation documents, if they end; "words" of every text, and
    by kind the nodes of its graph, such as "objects"; "question", "answer": tokens of each, beside a caption. The
    highest token of each of these texts is its end.
    """
    return dict(getattr(source, "supplies", None) or {"vocab": source.vocab})


def remarks(source: Any) -> tuple[Remark, ...]:
    """What the user should know about the files of a source: what was left out, and what may not be meant."""
    return getattr(source, "remarks", ())


def unique(source: Source, spec: Mapping[str, int]) -> int:
    """The largest D without a repeat, in the units in which D counts for a family's ``batch_spec``."""
    text = spec.get("text", spec["context"])
    return source.unique_tokens(text) // text * spec["context"]


def names() -> list[str]:
    """Names of the sources: the modules of this folder whose name has no leading underscore."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def _resolved(config: object) -> tuple[ModuleType, Any]:
    values = mapping("data", config)
    name = values.pop("source", None)
    require_known("source", name, names())
    module = importlib.import_module(f"{__name__}.{name}")
    return module, read(module.Config, "data", values)


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with all defaults filled in, as stored in study.json.

    Raises:
      UserError: the source or a field does not exist (UNKNOWN), or a field has an invalid value (INVALID).
    """
    _, values = _resolved(config)
    return {"source": config["source"], **asdict(values)}


def load(config: Mapping[str, Any]) -> Source:
    """Makes the source that ``config["source"]`` names from the other fields of ``config``.

    Raises:
      UserError: the source or a field does not exist (UNKNOWN), a field has an invalid value (INVALID), or the data is
        missing (MISSING), damaged (DAMAGED), or too small to be split (TOO_FEW).
    """
    module, values = _resolved(config)
    return module.make(values)
