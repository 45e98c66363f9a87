"""Whose fault an exception is: a program's, or the machine's. Standard library only."""

from __future__ import annotations

from scaling.errors import STORAGE, UserError


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return found


def outside(error: BaseException) -> bool:
    """Whether an error is about the machine (disk full, read-only, a missing file, too few devices, no such attention,
    too little memory for an ensemble), so that no run is to blame."""
    machine = ("mesh", "execution.attention", "checkpoints", "coordinator", "ensemble")
    if isinstance(error, UserError) and error.field in machine:
        return True
    for each in _chain(error):
        if isinstance(each, OSError) and (isinstance(error, UserError) or each.errno in STORAGE):
            return True
        if isinstance(error, UserError) and isinstance(each, ValueError) and "RESOURCE_EXHAUSTED" in str(each):
            return True  # how orbax reports a full disk
    return False


def one_line(error: BaseException) -> str:
    """Type and first line of an exception: the reason in a result."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
