"""Imports libraries that only some sources need, with a one-line error if one is not installed."""

from __future__ import annotations

from types import ModuleType

from scaling.errors import library


def need(module: str, what: str) -> ModuleType:
    """Imports a module for ``what``, a file or a source.

    Raises:
      UserError: it is not installed (ENVIRONMENT).
    """
    return library(module, "data", "source", what)
