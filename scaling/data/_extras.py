"""Libraries that only some sources need: imported when one is used, and one clear line where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from scaling.errors import UserError


def need(module: str, what: str) -> ModuleType:
    """The module, imported now.

    Raises:
      UserError: it is not installed; ``what`` (a file, a source) needs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        name = module.split(".")[0].replace("_", "-").replace("PIL", "pillow")
        raise UserError("source", what, f"needs {name}, which is not there: pip install 'scaling-lab[data]'") from error
