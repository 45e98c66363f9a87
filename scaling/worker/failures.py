"""Whose fault an exception is, the program's or the machine's; and an error on its way from a worker to its engine."""

from __future__ import annotations

from scaling.errors import STORAGE, Code, UserError
from scaling.records.value import Value


class Problem(Value):
    """A UserError as JSON: what a worker that ends with EXIT_USER says to its engine."""

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
        """The error that it was."""
        return UserError(self.field, self.value, self.remedy, self.code)


def is_environment_error(error: BaseException) -> bool:
    """Whether an error is about the machine (disk full, read-only, a missing file, too few devices, no such attention,
    too little memory for an ensemble), so that no run is to blame."""
    if not isinstance(error, UserError):
        return any(isinstance(each, OSError) and each.errno in STORAGE for each in _chain(error))
    return error.code is Code.ENVIRONMENT or any(
        # The second is how orbax reports a full disk.
        isinstance(each, OSError) or (isinstance(each, ValueError) and "RESOURCE_EXHAUSTED" in str(each))
        for each in _chain(error)
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return chain


def one_line(error: BaseException) -> str:
    """Type and first line of an exception: the reason in a result."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
