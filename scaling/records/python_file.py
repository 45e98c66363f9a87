"""A user's Python file, run as it is now."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType


def run(path: Path, name: str) -> ModuleType:
    """The module that the file makes, which is not entered into ``sys.modules``.

    Bytecode is neither read nor written: it is found by the size of the file and the second of its last change, so that
    an edit within a second, as of a script that writes one configuration after another, could run the old file.

    Raises:
      Exception: whatever the file raises, SyntaxError among them.
    """
    module = ModuleType(name)
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    return module
