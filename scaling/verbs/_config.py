"""The configuration of a study: ``--config=FILE.py[:ARGUMENT]`` and ``--config.path.to.field=VALUE``."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scaling
from scaling.errors import Code, UserError, choose
from scaling.flags import convert
from scaling.records import python_file

if TYPE_CHECKING:
    from ml_collections import ConfigDict

# Sections whose fields are defined elsewhere (a family's Config, a recipe, a source): the command line accepts any
# field of theirs, and the study then checks that it exists.
OPEN = re.compile(r"config\.((cells\.\w+\.)?(model|recipe)|data\.\w+)")


def installed() -> dict[str, Path]:
    """The experiment files shipped with the package, by name: inside it, or next to it in its repository."""
    package = Path(scaling.__file__).parent
    place = package / "_experiments"
    if not place.is_dir() and (package.parent / "pyproject.toml").is_file():
        place = package.parent / "experiments"
    return {path.stem: path for path in sorted(place.glob("*.py")) if not path.stem.startswith("_")}


def load(given: str, overrides: Sequence[tuple[str, str]]) -> tuple[ConfigDict, str | None]:
    """The configuration that the command line selects, and the argument passed to its file (None without one).

    Args:
      given: ``FILE.py[:ARGUMENT]``, or the name of an installed experiment in place of the file.
      overrides: (``config.path.to.field``, text) pairs, applied in order.

    Raises:
      UserError: the file or a field does not exist, the file cannot be used, or a field cannot have that value.
    """
    name, _, argument = given.partition(":")
    path = _locate(name)
    config = _run(path, argument or None)
    for field, text in overrides:
        override(config, field, text)
    config.lock()
    return config, argument or None


def _locate(name: str) -> Path:
    path, known = Path(name), installed()
    if path.suffix != ".py" and os.sep not in name:
        path = known.get(name, path)
    if not path.is_file():
        remedy = f"no such file; give FILE.py or the name of an installed experiment: {choose(name, known)}"
        raise UserError("config", name or "nothing", remedy, Code.MISSING)
    return path


def _run(path: Path, argument: str | None) -> ConfigDict:
    """What ``get_config(argument)`` of an experiment file returns."""
    from ml_collections import ConfigDict

    try:
        module = python_file.run(path, "experiment")
        get_config = getattr(module, "get_config", None)
        if get_config is None:
            raise UserError("config", path, "defines no function get_config(argument)", Code.MISSING)
        config = get_config() if argument is None else get_config(argument)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        line, at = "", error.__traceback__
        while at is not None:
            if Path(at.tb_frame.f_code.co_filename).resolve() == path.resolve():
                line = f" in line {at.tb_lineno}"
            at = at.tb_next
        given = "" if argument is None else f":{argument}"
        remedy = f"cannot be used: {type(error).__name__}{line}: {error}"
        raise UserError("config", f"{path}{given}", remedy, Code.DAMAGED) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            "config", path, f"get_config returned a {type(config).__name__}; it must return a ConfigDict", Code.DAMAGED
        )
    return config


def override(config: ConfigDict, field: str, text: str) -> None:
    """Sets one field of a configuration, ``config.path.to.field``, to the value that ``text`` denotes.

    Raises:
      UserError: the field does not exist (UNKNOWN), or cannot have that value (INVALID).
    """
    from ml_collections import ConfigDict

    *path, name = field.split(".")[1:]
    section, at = config, "config"
    for part in path:
        if part not in section:
            raise UserError(f"{at}.{part}", text, f"no such field; {choose(part, section)}", Code.UNKNOWN)
        section, at = section[part], f"{at}.{part}"
        if not isinstance(section, ConfigDict):
            raise UserError(field, text, f"{at} is a {type(section).__name__}, which has no fields", Code.UNKNOWN)
    if name in section:
        value = _converted(field, section[name], section.get_type(name), text)
    elif OPEN.fullmatch(at):
        value = literal(text)
    else:
        raise UserError(field, text, f"no such field; {choose(name, section)}", Code.UNKNOWN)
    with section.unlocked():
        section[name] = value


def _converted(field: str, present: object, kind: type, text: str) -> Any:
    """The text converted to the type of the field's present value."""
    from ml_collections import ConfigDict

    if isinstance(present, ConfigDict):
        remedy = f"is a section; override its fields, such as --{field}.{next(iter(present), 'NAME')}=VALUE"
        raise UserError(field, text, remedy)
    if kind in (str, bool, int, float):
        return convert(field, kind, text)
    value = literal(text)
    if not issubclass(kind, tuple | list):
        return value
    if isinstance(value, str):
        raise UserError(field, text, "must be values separated by commas, such as (1, 2)")
    return kind(value if isinstance(value, tuple | list) else (value,))


def literal(text: str) -> Any:
    """The value if the text is a Python literal; else the text itself."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
