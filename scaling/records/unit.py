"""The unit of a loss or metric, as a value: what is counted, per what, and under which condition."""

from __future__ import annotations

from typing import Literal

import msgspec

Quantity = Literal["nats", "bits", "share", "squared error", "ratio", "number"]


class Unit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``nats/token`` and its relatives. Equal units are equal values; prose is made of them, never read into them.

    Attributes:
      quantity: ``nats`` or ``bits`` of a likelihood or a cross-entropy, ``share`` (a rate from 0 to 1, as errors and
        accuracies), ``squared error``, ``ratio`` (to what it is at best), ``number`` (anything else that a table gives
        without saying more).
      per: what one count is: token, hidden token, target token, image, pair, example ...; None for a plain number.
      given: what the likelihood is conditioned on beside the tokens before (the image); None for nothing.
      bound: an upper bound of the negative log likelihood, not the thing itself.
      among: candidates of a contrast, which the loss depends on; None where there are none.
    """

    quantity: Quantity = "nats"
    per: str | None = "token"
    given: str | None = None
    bound: bool = False
    among: int | None = None

    @property
    def bounded_by_entropy(self) -> bool:
        """Whether no model's loss in this unit can lie below the entropy per token of the data."""
        return self.quantity == "nats" and self.per == "token" and self.given is None and self.among is None

    def __str__(self) -> str:
        text = self.quantity if self.per is None else f"{self.quantity}/{self.per}"
        text += " (bound)" if self.bound else ""
        text += f" among {self.among}" if self.among is not None else ""
        return text + (f", given {self.given}" if self.given else "")


NATS_PER_TOKEN = Unit()
