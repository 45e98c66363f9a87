"""The unit of a loss or metric as a value: the quantity, what it is per, and what it is conditioned on."""

from __future__ import annotations

from typing import Literal

import msgspec

Quantity = Literal["nats", "bits", "share", "squared error", "absolute error", "ratio", "number"]


class Unit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A unit such as ``nats/token``. Units are compared as values and printed as text, never parsed from text.

    Attributes:
      quantity: ``nats`` or ``bits`` of a likelihood or a cross-entropy, ``share`` (a rate from 0 to 1, such as an error
        or accuracy), ``squared error``, ``absolute error``, ``ratio`` (to the best possible value), ``number`` (a
        perplexity, or a column of a table whose unit is not known).
      per: what is counted: token, hidden token, target token, image, pair, example ...; None for a plain number.
      given: what the likelihood is conditioned on besides the preceding tokens (the image); None for nothing else.
      bound: whether it is an upper bound on the negative log likelihood rather than its value.
      among: number of candidates of a contrastive loss, which its value depends on; None for other losses.
    """

    quantity: Quantity = "nats"
    per: str | None = "token"
    given: str | None = None
    bound: bool = False
    among: int | None = None

    @property
    def bounded_by_entropy(self) -> bool:
        """Whether no model's loss in this unit can lie below the entropy per token of the text alone."""
        return self.bounded_given(None)

    def bounded_given(self, given: str | None) -> bool:
        """Whether no model's loss in this unit can lie below the entropy per token given this besides the text."""
        return self.quantity == "nats" and self.per == "token" and self.given == given and self.among is None

    def __str__(self) -> str:
        text = self.quantity if self.per is None else f"{self.quantity}/{self.per}"
        text += " (bound)" if self.bound else ""
        text += f" among {self.among}" if self.among is not None else ""
        return text + (f", given {self.given}" if self.given else "")


NATS_PER_TOKEN = Unit()
