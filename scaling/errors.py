"""The one error that a user may see. Standard library only."""

import enum
import errno
from collections.abc import Iterable

# errno values of the environment (disk full, read-only, quota, permission): reported to the user, never counted as the
# failure of a run.
STORAGE = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM})


class Code(enum.StrEnum):
    """What kind of mistake it is: what programs and tests read, instead of the wording.

    INVALID: a value that cannot be (out of range, wrong type, empty). UNKNOWN: a name that is not one of those that
    exist. MISSING: a file, column, field or record that is needed and not there. DAMAGED: a file that cannot be read or
    has another shape. CHANGED: something differs from what was recorded of it (a hash, a seal, a parent).
    CONFLICT: two things that exclude each other. MIXED: losses, data or units that may not be put together.
    TOO_FEW: not enough runs, sizes or rows for what is asked. NOT_IDENTIFIED: the runs do not show what is asked.
    BEYOND: further from the runs than a forecast may go. UNSUPPORTED: this law, family, source or engine cannot.
    ENVIRONMENT: full disk, no permission, a missing extra: to be mended outside.
    """

    INVALID = "invalid"
    UNKNOWN = "unknown"
    MISSING = "missing"
    DAMAGED = "damaged"
    CHANGED = "changed"
    CONFLICT = "conflict"
    MIXED = "mixed"
    TOO_FEW = "too_few"
    NOT_IDENTIFIED = "not_identified"
    BEYOND = "beyond"
    UNSUPPORTED = "unsupported"
    ENVIRONMENT = "environment"


def closest(word: object, names: Iterable[str]) -> str:
    """``did you mean chinchilla?``, of the names that exist; empty where none is like the word."""
    import difflib

    near = difflib.get_close_matches(str(word)[:80], list(names), 1)
    return f"did you mean {near[0]}?" if near else ""


def choose(word: object, names: Iterable[str]) -> str:
    """A remedy for a name that does not exist: the nearest one that does, and all of them."""
    known = list(names)
    return f"{closest(word, known)} choose one of {', '.join(known) or 'none'}".lstrip()


class UserError(Exception):
    """A wrong input: which field, the value it had, what to do about it, and which kind of mistake it is.

    The command line prints it as one line and exits with status 2; nothing that exists is touched.
    """

    def __init__(self, field: str, value: object, remedy: str, code: Code = Code.INVALID):
        super().__init__(field, value, remedy, code)
        self.field, self.value, self.remedy, self.code = field, value, remedy, code

    def __str__(self) -> str:
        value = str(self.value).replace("\n", " ")
        remedy = self.remedy.replace("\n", " ")
        return f"{self.field} = {value}: {remedy}"
