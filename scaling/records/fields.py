"""Types of the fields that many records have, and what no type says of them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

MOST_FLOPS = 10**40  # all computers of the world, for longer than it is old
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
# What may need more bits, see ``require_possible``: FLOPs, and the tokens of a source that never repeats.
WideCount = Annotated[int, Meta(ge=0)]
Amount = Annotated[float, Meta(ge=0)]
# A run's name is the name of its folder, so it must not be a path that leads elsewhere, nor too long for one.
# (``$`` alone would admit a line feed at the end.)
RunName = Annotated[str, Meta(pattern=r"^(?!\.\.?$)[\w.-]{1,200}(?!\n)$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{12}$")]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]


def require_printable(*names: str) -> None:
    """Raises ValueError for a name that would make a terminal do something: names are shown as they are."""
    for name in names:
        if not name.isprintable():
            raise ValueError(f"the name {ascii(name)[:100]} has characters that are not printed")


def require_possible(*counts: int, what: str = "FLOPs") -> None:
    """Raises ValueError for FLOPs, or tokens, that nothing can have, which a float may not hold either."""
    if max(counts) > MOST_FLOPS:
        raise ValueError(f"more than {MOST_FLOPS:.0e} {what}")
