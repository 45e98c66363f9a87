"""Which cores and GPUs of this machine are in use, so that two launchers pin their workers to different ones."""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Sequence
from typing import TypeVar

NAME = "scaling"  # what the claims of this program begin with
T = TypeVar("T", int, str)


class Claims:
    """Claims on cores or GPUs. Other processes of this machine see them, whoever runs these; they end with this one.

    A claim is a socket with an abstract name (Linux): only one process can have it, and no file is left behind.

    Args:
      kind: of what is claimed.
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._claims: list[socket.socket] = []
        weakref.finalize(self, _close, self._claims)  # Python warns of a socket that is dropped without closing

    def claim(self, places: Sequence[T], count: int) -> list[T]:
        """The places with those that were free first, of which this object claims ``count``, or as many as it can."""
        self.release()
        mine = []
        for place in places:
            if len(mine) == count:
                break
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0{NAME}-{self._kind}-{place}")
            except OSError:  # taken; or there are no abstract names here
                claim.close()
                continue
            self._claims.append(claim)
            mine.append(place)
        return mine + [place for place in places if place not in mine]

    def release(self) -> None:
        """Gives all claims back."""
        _close(self._claims)


def _close(claims: list[socket.socket]) -> None:
    while claims:
        with contextlib.suppress(OSError):
            claims.pop().close()
