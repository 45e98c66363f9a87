"""What a source did with its files that the user should know, for ``plan`` to say: typed, without words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

RemarkCode = Literal["held", "damaged", "literals"]
"""held: files named test or validation, not trained on. damaged: samples that lack a part, not used.
literals: texts in which the name of a special token is read as that token."""


@dataclass(frozen=True)
class Remark:
    """What happened to ``count`` items, of which ``example`` is the first."""

    code: RemarkCode
    count: int
    example: str


def remark(code: RemarkCode, names: Sequence[str]) -> tuple[Remark, ...]:
    """The remark about the items of these names; none if there are none."""
    return (Remark(code, len(names), names[0]),) if names else ()
