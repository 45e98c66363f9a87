"""Libraries that only some sources need: imported when one is used, refused in one line where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from scaling.errors import Code, UserError


def need(module: str, what: str) -> ModuleType:
    """The module, imported now.

    Raises:
      UserError: it is not installed (ENVIRONMENT); ``what`` (a file, a source) needs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        name = module.split(".")[0].replace("_", "-").replace("PIL", "pillow")
        remedy = f"needs {name}, which is not there: pip install 'scaling-lab[data]'"
        raise UserError("source", what, remedy, Code.ENVIRONMENT) from error
