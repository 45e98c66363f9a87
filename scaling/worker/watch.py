"""Takes leases that are free, or whose holder is dead or has been silent for too long."""

from __future__ import annotations

import os
import time
from pathlib import Path

from scaling.records.files import refuse_links
from scaling.worker.lease import BEAT, TTL, Lease, acquire
from scaling.worker.lease_file import NAME, claim_of, parse, read, take_over

SETTLE = 0.2  # seconds that a lease must survive after a takeover before it counts


class Watch:
    """One observer's memory of leases that others hold.

    A lease counts as abandoned once it has been unchanged for ``ttl`` seconds in total. The time between two looks
    counts for at most a quarter of that, so an observer that was suspended along with the owner must look again.
    """

    def __init__(self, ttl: float = TTL, beat: float = BEAT):
        self.ttl, self.beat = ttl, beat
        self._seen: dict[Path, tuple[bytes, float, float]] = {}  # content, last look, evidence in seconds

    def take(self, directory: str | os.PathLike[str]) -> Lease | None:
        """Takes the lease of a directory if it is free or abandoned; else None.

        After a takeover it waits ``SETTLE`` seconds, and asks whether the new lease is still there: see ``lease`` for
        the one process that may have moved it away by mistake.

        Raises:
          UserError: the directory cannot be read or written, or it or the folder above it is a link (ENVIRONMENT).
        """
        path = Path(directory) / NAME
        refuse_links(path.parent, inside=path.parent.parent.parent)
        content = read(path)
        if content is not None and not self._take_over(path, content):
            return None
        contested = content is not None or self._seen.pop(path, None) is not None
        lease = acquire(directory, beat=self.beat, ttl=self.ttl)
        if lease is None or not contested:
            return lease
        time.sleep(SETTLE)
        if lease.confirm():
            return lease
        lease.release()
        return None

    def _take_over(self, path: Path, content: bytes) -> bool:
        """Removes a lease, or a claim on one, that is abandoned. Returns whether this process removed it."""
        if not self._abandoned(path, content):
            return False
        if take_over(path, content):
            return True
        # Another process claims it. If that one died with its claim, the claim goes now, and the lease at a later look.
        claim = claim_of(path, content)
        if (held := read(claim)) is not None:
            self._take_over(claim, held)
        return False

    def _abandoned(self, path: Path, content: bytes) -> bool:
        record = parse(content)
        if record is not None and record.dead:
            return True
        now = time.monotonic()
        before, looked, evidence = self._seen.get(path, (b"", now, 0.0))
        evidence = evidence + min(now - looked, self.ttl / 4) if before == content else 0.0
        self._seen[path] = (content, now, evidence)
        return evidence >= self.ttl
