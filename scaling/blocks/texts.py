"""What of a text is hidden: words, or whole nodes of its scene's graph; never its end, which is known by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax

from scaling import objectives
from scaling.settings import setting

KINDS = ("object", "attribute", "relation", "answer")  # of nodes, by their number
UNITS = ("token", *KINDS)


@dataclass(frozen=True)
class HiddenShape:
    """Fields of a family that hides some of a text, for its ``Config`` to inherit.

    Attributes:
      text: positions of a text with its end.
      unit: what is hidden: single tokens, or all tokens of a node of this kind.
      rate: share of the tokens or nodes that are hidden; at least one.
      words: of each text before its end, if the source tells; 0: texts differ, or fill ``text``.
      objects, attributes, relations, answers: nodes of each text by kind, as the source tells.
    """

    text: int = setting(6, least=2)
    unit: str = setting("token", choices=UNITS)
    rate: float = setting(0.15, above=0, most=1)
    words: int = setting(0, least=0, later=True)
    objects: int = setting(0, least=0, later=True)
    attributes: int = setting(0, least=0, later=True)
    relations: int = setting(0, least=0, later=True)
    answers: int = setting(0, least=0, later=True)

    @property
    def nodes(self) -> dict[str, int]:
        """What must be in a text beside its tokens: the number of nodes of the kind that is hidden."""
        return {} if self.unit == "token" else {f"{self.unit}s": getattr(self, f"{self.unit}s")}

    @property
    def blank(self) -> float:
        """Hidden words over the tokens of a text, its end among them.

        Exact where nodes are of one word and all texts as long as the source tells, or fill ``text``; of longer texts
        too little, of shorter ones too much or too little, since at least one is hidden.
        """
        words = self.words or self.text - 1
        return max(1, round(self.rate * next(iter(self.nodes.values()), words))) / (words + 1)


def hide(keys_B: jax.Array, batch: Mapping[str, jax.Array], may_BT: jax.Array, shape: HiddenShape) -> jax.Array:
    """Chooses what to hide among the words of ``may_BT``, bool (B, T)."""
    if shape.unit == "token":
        return objectives.choose(keys_B, batch["tokens"][:, 1:], objectives.mlm_count(may_BT, shape.rate), may_BT)
    return objectives.nodes(keys_B, batch["graph"], (KINDS.index(shape.unit), len(KINDS)), may_BT, shape.rate)
