"""Tells failures of the machine from failures of a program, and passes errors from a worker to its engine."""

from __future__ import annotations

from scaling.errors import Code, NewerVersion, UserError, is_storage
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
    attention, too little memory for an ensemble, an old version of this program), so that no run should be marked as
    failed."""
    if not isinstance(error, UserError):
        return any(is_storage(cause) for cause in _chain(error))
    if error.code is Code.ENVIRONMENT or isinstance(error, NewerVersion):
        return True
    return any(isinstance(cause, OSError) or is_storage(cause) for cause in _chain(error))


def as_exception(raised: Exception | SystemExit) -> Exception:
    """What a program raised, as an exception: ``sys.exit`` in its code must not end the worker as if all were done."""
    return raised if isinstance(raised, Exception) else RuntimeError(f"its code called sys.exit({raised.code!r})")


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
