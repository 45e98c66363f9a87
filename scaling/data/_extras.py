"""Imports libraries that only some sources need, with a one-line error if one is not installed."""

from __future__ import annotations

import importlib
from types import ModuleType

from scaling.errors import Code, UserError


def need(module: str, what: str) -> ModuleType:
    """Imports a module.

    Args:
      what: the file or source that needs it, for the message.

    Raises:
      UserError: it is not installed (ENVIRONMENT).
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        name = module.split(".")[0].replace("_", "-").replace("PIL", "pillow")
        remedy = f"needs {name}, which is not installed: pip install 'scaling-lab[data]'"
        raise UserError("source", what, remedy, Code.ENVIRONMENT) from error
