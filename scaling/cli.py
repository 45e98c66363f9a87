"""The command line: ``scaling VERB``. Parses, calls, and turns a user's mistake into one line and exit status 2.

Every verb has flags of its own (absl), and those that take a study have ``--config`` and ``--config.path.to.field``
(ml_collections). What a verb does is in ``scaling.verbs``, imported when it is needed, as is everything heavy.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling import verbs
from scaling.errors import STORAGE, Code, UserError
from scaling.verbs._declare import Verb

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141
KINDS = {str: "STRING", int: "INTEGER", float: "FLOAT"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The one error boundary. Returns the exit status: 0; 1 some run failed; 2 a user's mistake; 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # The reader is gone (`scaling status | head`); Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:
        print("scaling: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in STORAGE or error.filename is None:
            raise
        return _refuse(f"path = {error.filename}: {error.strerror}; free space or choose another")


def _refuse(text: str) -> int:
    print(f"scaling: error: {text}", file=sys.stderr)
    return EXIT_USER


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        from scaling import __version__

        print(f"scaling {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    verb = _verb(name)
    if any(argument in ("-h", "--help", "--helpfull", "--helpshort") for argument in rest):
        print(_usage(name))
        return 0
    return verb.call(parse(name, rest))


def _verb(name: str) -> Verb:
    verb = verbs.load(name)
    if verb is None:
        raise UserError("verb", name, f"choose one of {', '.join(verbs.names())}", Code.UNKNOWN)
    return verb


def _overview() -> str:
    names = verbs.names()
    width = max(map(len, names))
    lines = ["usage: scaling VERB [--flag=value ...]", ""]
    lines += [f"  {name:{width}}  {_verb(name).summary}" for name in names]
    return "\n".join([*lines, "", "`scaling VERB --help` shows the flags of a verb."])


def _usage(name: str) -> str:
    verb = _verb(name)
    words = [*verb.positional, *(["--config=FILE.py[:ARGUMENT]"] if verb.study else []), "[--flag=value ...]"]
    lines = [f"usage: scaling {name} {' '.join(words)}", "", f"  {verb.summary}", ""]
    if verb.study:
        lines += [
            "  --config=FILE.py[:ARGUMENT]   an experiment file, or the name of an installed one (demo)",
            "  --config.PATH.TO.FIELD=VALUE  overrides a field of it",
        ]
    for flag in verb.flags:
        text = f"--{flag.name}" + ("" if flag.kind is bool else f"={KINDS[flag.kind]}")
        default = "" if flag.default in (None, False) else f" (default {flag.default})"
        lines.append(f"  {text:<28}  {flag.help}{default}")
    return "\n".join([*lines, "", f"  {verb.example}"])


def parse(name: str, arguments: Sequence[str]) -> SimpleNamespace:
    """The options of a verb: its flags, ``path`` (the positional argument), ``config`` (a ConfigDict or None) and
    ``argument`` (of the configuration).

    Raises:
      UserError: an unknown flag or field, a bad value, a missing file, a wrong number of arguments.
    """
    from absl import flags

    verb, arguments = _verb(name), list(arguments)
    values: Any = flags.FlagValues()
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_boolean,
    }
    for flag in verb.flags:
        define[flag.kind](flag.name, flag.default, flag.help, flag_values=values)
    chosen = argument = config = None
    if verb.study:
        chosen, argument = _locate_config(arguments)
        if chosen is not None:
            from ml_collections import config_flags

            # config_flags would load the file itself, by an import call that is deprecated, and hide what it raised.
            config = _load_config(chosen, argument)
            _open_sections(config, arguments)
            sys_argv = ["scaling", *arguments]
            try:
                config_flags.DEFINE_config_dict("config", config, "", flag_values=values, sys_argv=sys_argv)
            except Exception as error:
                raise _flag_error(error, flags.Error, arguments) from error
    try:
        positional = values(["scaling", *arguments])[1:]
        config = values.config if chosen is not None else None
    except Exception as error:
        raise _flag_error(error, flags.Error, arguments) from error
    many = bool(verb.positional) and verb.positional[-1].endswith("...")
    if len(positional) != len(verb.positional) and not (many and len(positional) > len(verb.positional)):
        wanted = f"takes {' '.join(verb.positional) or 'no argument'}; see scaling {name} --help"
        raise UserError(name, " ".join(positional) or "nothing", wanted)
    options = {flag.name: getattr(values, flag.name) for flag in verb.flags}
    if not 0.5 <= options.get("level", 0.5) < 1:  # before a sweep is trained for an interval that cannot be
        raise UserError("level", options["level"], "give a probability from 0.5 to 1, such as 0.95")
    path = Path(positional[0]) if positional else None
    paths = [Path(each) for each in positional]
    return SimpleNamespace(**options, path=path, paths=paths, config=config, argument=argument)


def _locate_config(arguments: list[str]) -> tuple[Path | None, str | None]:
    """Takes --config out of the arguments; returns the file that it means and the argument for it."""
    for index, text in enumerate(arguments):
        match = re.fullmatch(r"--?config(?:=(.*))?", text, re.DOTALL)
        if match is None:
            continue
        if match[1] is None and index + 1 == len(arguments):
            raise UserError("config", "nothing", f"give a file or one of {', '.join(_installed()) or 'none'}")
        value = arguments.pop(index + 1) if match[1] is None else match[1]
        del arguments[index]
        name, _, argument = value.partition(":")
        path = Path(name)
        if path.suffix != ".py" and os.sep not in name:
            path = _installed().get(name, path)
        if not path.is_file():
            known = ", ".join(_installed())
            raise UserError("config", name, f"no such file; give FILE.py or the name of an installed one ({known})")
        return path, argument or None
    return None, None


def _installed() -> dict[str, Path]:
    """The experiment files that were installed with the package, by name."""
    import importlib.util

    spec = importlib.util.find_spec("experiments")
    places = (spec.submodule_search_locations if spec else None) or []
    found = [path for place in places for path in sorted(Path(place).glob("*.py"))]
    return {path.stem: path for path in found if not path.stem.startswith("_")}


def _load_config(path: Path, argument: str | None) -> Any:
    """The ConfigDict that ``get_config(argument)`` of an experiment file returns."""
    import importlib.util

    from ml_collections import ConfigDict

    spec = importlib.util.spec_from_file_location("experiment", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if argument is None else module.get_config(argument)
    except UserError:
        raise
    except Exception as error:
        line, at = "", error.__traceback__
        while at is not None:
            if Path(at.tb_frame.f_code.co_filename).resolve() == path.resolve():
                line = f" in line {at.tb_lineno}"
            at = at.tb_next
        given = "" if argument is None else f":{argument}"
        raise UserError("config", f"{path}{given}", f"cannot be used: {type(error).__name__}{line}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError("config", path, f"get_config returned a {type(config).__name__}; it must return a ConfigDict")
    return config


# Sections whose fields have defaults elsewhere (a family's Config, a recipe, a source): any may be given on the command
# line, and the study checks it against the ones that exist.
OPEN = re.compile(r"--?config\.((?:cells\.\w+\.)?(?:model|recipe)|data\.\w+)\.(\w+)(?:=(.*))?", re.DOTALL)


def _open_sections(config: Any, arguments: Sequence[str]) -> None:
    """Adds the fields of open sections that the arguments override and the experiment file leaves at their default."""
    import ast

    for index, text in enumerate(arguments):
        if (match := OPEN.fullmatch(text)) is None:
            continue
        section: Any = config
        for name in match[1].split("."):
            section = section.get(name) if hasattr(section, "get") else None
        value = match[3] if match[3] is not None else "".join(arguments[index + 1 : index + 2])
        if not hasattr(section, "unlock") or match[2] in section:
            continue
        with contextlib.suppress(SyntaxError, ValueError):  # else it is a string
            value = ast.literal_eval(value)
        with section.unlocked():
            section[match[2]] = value


def _flag_error(error: Exception, base: type[Exception], arguments: list[str]) -> Exception:
    """What absl or ml_collections said, as a UserError that names the flag. Anything else is given back as it is."""
    text = re.sub(r"\('([^']*)', .*\)", r"\1", str(error).strip().replace("\n", " "))
    if isinstance(error, base):
        if match := re.match(r"(?:flag )?--([\w.\[\]]+)=(.*?): (.*)", text):
            return UserError(match[1], match[2], match[3])
        if match := re.search(r"Unknown command line flag '([^']+)'", text):
            if match[1].startswith("config."):
                return UserError(match[1], "overridden", "there is nothing to override; give --config too")
            hint = re.search(r"Did you mean: ([^?]+)", text)
            remedy = f"unknown flag; did you mean --{hint[1].strip()}?" if hint else "unknown flag; see --help"
            return UserError("flag", f"--{match[1]}", remedy)
        return UserError("flags", " ".join(arguments), text)
    for item in arguments:
        override = re.fullmatch(r"--?(config\.[^=]+)=?(.*)", item, re.DOTALL)
        if override is None or not isinstance(error, (AttributeError, KeyError, TypeError, ValueError)):
            continue
        parts = re.split(r"[.\[\]]+", override[1])
        if any(part and part in text for part in parts[1:]):
            missing = isinstance(error, (AttributeError, KeyError))
            return UserError(override[1], override[2], "no such field" if missing else f"has a wrong type ({text})")
    return error


if __name__ == "__main__":
    sys.exit(main())
