"""Which cores of this machine are in use, so that two launchers at once pin their workers to different ones."""

from __future__ import annotations

import contextlib
import socket
import weakref
from collections.abc import Sequence

NAME = "scaling-core"  # what the claims of this program begin with


class Cores:
    """Claims on cores, which other processes of this machine see, whoever runs them, and which end with this process.

    A claim is a socket with an abstract name (Linux): only one process can have it, and no file is left behind.
    """

    def __init__(self):
        self._claims: list[socket.socket] = []
        weakref.finalize(self, _close, self._claims)  # Python warns of a socket that is dropped without closing

    def claim(self, cores: Sequence[int], count: int) -> list[int]:
        """The cores with those that were free first, of which this object claims ``count``, or as many as there are."""
        self.release()
        mine = []
        for core in cores:
            if len(mine) == count:
                break
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0{NAME}-{core}")
            except OSError:  # taken; or there are no abstract names here
                claim.close()
                continue
            self._claims.append(claim)
            mine.append(core)
        return mine + [core for core in cores if core not in mine]

    def release(self) -> None:
        """Gives all claims back."""
        _close(self._claims)


def _close(claims: list[socket.socket]) -> None:
    while claims:
        with contextlib.suppress(OSError):
            claims.pop().close()
