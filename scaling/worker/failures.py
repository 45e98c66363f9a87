"""Tells failures of the machine from failures of a program, and passes errors from a worker to its engine."""

from __future__ import annotations

from scaling.errors import STORAGE, Code, UserError
from scaling.records.value import Value


class Problem(Value):
    """A UserError as JSON: what a worker that exits with EXIT_USER reports to its engine."""

    field: str
    value: str
    remedy: str
    code: Code

    @classmethod
    def of(cls, error: UserError) -> Problem:
        """The error without its causes."""
        return cls(error.field, str(error.value), error.remedy, error.code)

    @property
    def error(self) -> UserError:
        """The UserError that was reported."""
        return UserError(self.field, self.value, self.remedy, self.code)


def is_environment_error(error: BaseException) -> bool:
    """Whether the machine caused an error (full or read-only disk, missing file, too few devices, unsupported
    attention, too little memory for an ensemble), so that no run should be marked as failed."""
    if not isinstance(error, UserError):
        return any(isinstance(cause, OSError) and cause.errno in STORAGE for cause in _chain(error))
    return error.code is Code.ENVIRONMENT or any(
        # orbax reports a full disk as a ValueError.
        isinstance(cause, OSError) or (isinstance(cause, ValueError) and "RESOURCE_EXHAUSTED" in str(cause))
        for cause in _chain(error)
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return chain


def one_line(error: BaseException) -> str:
    """Type and first line of an exception, for the reason in a result."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
