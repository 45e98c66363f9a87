"""The one error that a user may see. Standard library only."""

import errno

# What a full, read-only or forbidden place says: the user's to mend, and no fault of ours or of a run.
STORAGE = frozenset({errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES, errno.EPERM})


class UserError(Exception):
    """A wrong input: which field, the value it had, and what to do about it.

    The command line prints it as one line and exits with status 2; nothing that exists is touched.
    """

    def __init__(self, field: str, value: object, remedy: str):
        super().__init__(field, value, remedy)
        self.field, self.value, self.remedy = field, value, remedy

    def __str__(self) -> str:
        value = str(self.value).replace("\n", " ")
        remedy = self.remedy.replace("\n", " ")
        return f"{self.field} = {value}: {remedy}"
