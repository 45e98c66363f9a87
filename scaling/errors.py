"""The one error that a user may see. Standard library only."""

import enum
import errno
import importlib
import re
from collections.abc import Iterable
from types import ModuleType

# errno values for problems of the machine (disk full, read-only, quota, permission, a disk or file server that fails,
# too many open files): reported to the user, never recorded as the failure of a run.
STORAGE = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE}
    | {errno.EMFILE, errno.ENFILE}
)


class Code(enum.StrEnum):
    """The kind of a UserError, for programs and tests, which should not depend on the wording.

    INVALID: an invalid value (out of range, wrong type, empty). UNKNOWN: a name that does not exist. MISSING: a
    required file, column, field or record that is not there. DAMAGED: a file that cannot be read or has the wrong form.
    CHANGED: something differs from what was recorded about it (a hash, a seal, a parent). CONFLICT: two settings that
    exclude each other. MIXED: losses, data or units that must not be combined. TOO_FEW: not enough runs, sizes or rows.
    NOT_IDENTIFIED: the runs do not determine the requested quantity. BEYOND: further from the runs than a forecast may
    extrapolate. UNSUPPORTED: this law, family, source or engine cannot do it. ENVIRONMENT: a problem of the machine,
    such as a full disk, a missing permission or a missing extra.
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


def closest(word: object, names: Iterable[str], mark: str = "") -> str:
    """``did you mean chinchilla?`` for the closest of ``names``, said behind ``mark``; empty if none is similar."""
    import difflib

    near = difflib.get_close_matches(str(word)[:80], list(names), 1)
    return f"did you mean {mark}{near[0]}?" if near else ""


def choose(word: object, names: Iterable[str]) -> str:
    """A remedy for an unknown name: the closest existing name, and the list of all."""
    known = list(names)
    return f"{closest(word, known)} choose one of {', '.join(known) or 'none'}".lstrip()


def is_storage(error: BaseException) -> bool:
    """Whether the machine refused to read or write: an OSError with a number of ``STORAGE``, or what tensorstore, which
    writes the arrays of a checkpoint, makes of one: a ValueError with a status or the number in its text."""
    if isinstance(error, OSError):
        return error.errno in STORAGE
    if not isinstance(error, ValueError):
        return False
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text or "PERMISSION_DENIED" in text:
        return True
    return any(int(number) in STORAGE for number in re.findall(r"\bos_error_code='(\d+)'", text))


def printable(text: str) -> str:
    """The text with what a terminal would obey (escape sequences, line feeds) written as Python escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class UserError(Exception):
    """A user's mistake: the field, its value, the remedy, and the kind of mistake.

    The command line prints it as one line and exits with status 2; existing files are not touched.

    Args:
      field: name of the flag, field, file or column.
      value: its value.
      remedy: what is wrong with it or what to do, one line.
      code: kind of mistake.
      problem: what is wrong, without the advice, for who has an advice of their own; default ``remedy``.
    """

    def __init__(
        self, field: str, value: object, remedy: str, code: Code = Code.INVALID, *, problem: str | None = None
    ):
        super().__init__(field, value, remedy, code)
        self.field, self.value, self.remedy, self.code = field, value, remedy, code
        self.problem = remedy if problem is None else problem

    def __str__(self) -> str:
        try:
            value = str(self.value)
        except ValueError:  # Python writes no whole number of more than 4,300 digits
            value = "a number of thousands of digits"
        return printable(f"{self.field} = {value}: {self.remedy}".replace("\n", " "))


class NewerVersion(UserError):
    """A file that a newer version of this program wrote: for this one it is damaged, but it must never replace it."""


def library(module: str, extra: str, field: str, value: object) -> ModuleType:
    """Imports a module of a library that an extra installs.

    Args:
      extra: its name, as in ``pip install 'scaling-lab[data]'``.
      field, value: what needs it, for the message.

    Raises:
      UserError: the library is not installed (ENVIRONMENT).
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise  # it is installed, and lacks something itself
        name = module.split(".")[0].replace("_", "-").replace("PIL", "pillow")
        remedy = f"needs {name}, which is not installed: pip install 'scaling-lab[{extra}]'"
        raise UserError(field, value, remedy, Code.ENVIRONMENT) from error
