"""The command line: ``scaling VERB``. Parses, calls, and turns a user's mistake into one line and exit status 2.

Each verb declares its flags, an example and its function in its own file, ``scaling/verbs/NAME.py``. Verbs that take a
study also have ``--config`` and ``--config.path.to.field``. Heavy packages are imported only when a verb needs them.
"""

from __future__ import annotations

import errno
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from scaling import verbs
from scaling.errors import STORAGE, Code, UserError, choose
from scaling.flags import read
from scaling.verbs._declare import Verb

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141
KINDS = {str: "TEXT", int: "INTEGER", float: "NUMBER"}
WIDTH = 100  # columns of help texts
# errno values of a path that cannot be read or written; reported as a user's mistake.
UNREADABLE = STORAGE | {errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and turns errors into messages; the only place that does.

    Returns:
      Exit status: 0 success; 1 some run failed; 2 a user's mistake; 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _refuse(str(error))
    except BrokenPipeError:
        # The reader is gone (`scaling status | head`); without this, Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:
        print("scaling: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in UNREADABLE or error.filename is None:
            raise
        remedy = "free space or choose another" if error.errno in STORAGE else "choose another"
        return _refuse(f"path = {error.filename}: {error.strerror}; {remedy}")


def _refuse(text: str) -> int:
    print(f"scaling: error: {text}", file=sys.stderr)
    return EXIT_USER


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        from scaling import __version__

        print(f"scaling {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    verb = _verb(name)
    if any(argument in ("-h", "--help") for argument in rest):
        print(usage(name, next((word.partition("=")[2] for word in rest if word.startswith("--engine=")), "")))
        return 0
    return verb.call(parse(name, rest))


def _verb(name: str) -> Verb:
    verb = verbs.load(name)
    if verb is None:
        raise UserError("verb", name, choose(name, verbs.names()), Code.UNKNOWN)
    return verb


def overview() -> str:
    """Help text that lists the verbs, one per line."""
    names = verbs.names()
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {_verb(name).summary}" for name in names]
    return "\n".join(
        ["usage: scaling VERB [--flag=value ...]", "", *lines, "", "`scaling VERB --help` shows the flags of a verb."]
    )


def usage(name: str, engine: str = "") -> str:
    """Help text of a verb: what it does, its flags and an example.

    Args:
      engine: shows the flags that only this engine takes instead.
    """
    verb = _verb(name)
    others = sorted({flag.engine for flag in verb.flags} - {""})
    words = [*verb.positional, *(["--config=FILE.py[:ARGUMENT]"] if verb.study else []), "[--flag=value ...]"]
    summary = verb.summary
    if engine in others:
        words, summary = [f"--engine={engine}", *words], f"flags of --engine={engine} alone"
    shown = list(_flags(verb, engine if engine in others else ""))
    left = max((len(text) for text, _ in shown), default=0)
    lines = [f"usage: scaling {name} {' '.join(words)}", "", *_paragraph("", summary, 0), ""]
    for text, help in shown:
        lines += _paragraph(text, help, left + 2)
    if engine not in others:
        lines += [f"  `scaling {name} --engine={other} --help` shows the flags of that engine" for other in others]
    return "\n".join([*lines, "", f"example: {verb.example}"])


def _flags(verb: Verb, engine: str) -> Iterator[tuple[str, str]]:
    """How each flag is written, and its help text; those of the verb, or of an engine."""
    if verb.study and not engine:
        yield "--config=FILE.py[:ARGUMENT]", "experiment file, or the name of an installed one (demo)"
        yield "--config.PATH.TO.FIELD=VALUE", "override a field of the configuration"
    for flag in verb.flags:
        if flag.engine == engine:
            default = "" if flag.default is None or flag.kind is bool else f" (default {flag.default})"
            yield f"--{flag.name}" + ("" if flag.kind is bool else f"={KINDS[flag.kind]}"), f"{flag.help}{default}"


def _paragraph(head: str, text: str, indent: int) -> list[str]:
    rest = " " * (2 + indent)
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"  {head:{indent}}", subsequent_indent=rest, break_on_hyphens=False
    )


def parse(name: str, arguments: Sequence[str]) -> SimpleNamespace:
    """Parses the arguments of a verb.

    Returns:
      Its options: one attribute per flag, ``path`` and ``paths`` (the positional arguments), ``config`` (a ConfigDict
      or None) and ``argument`` (of the configuration).

    Raises:
      UserError: an unknown flag or field, a bad value, a missing file, a wrong number of arguments.
    """
    verb = _verb(name)
    given = read(verb.flags, arguments, study=verb.study)
    least, many = len(verb.positional), verb.positional[-1:] and verb.positional[-1].endswith("...")
    if len(given.positional) < least or (len(given.positional) > least and not many):
        wanted = f"takes {' '.join(verb.positional) or 'no argument'}; see scaling {name} --help"
        code = Code.MISSING if len(given.positional) < least else Code.INVALID
        raise UserError(name, " ".join(given.positional) or "nothing", wanted, code)
    config = argument = None
    if given.config is not None:
        from scaling.verbs._config import load

        config, argument = load(given.config, given.overrides)
    elif given.overrides:
        field, value = given.overrides[0]
        raise UserError(field, value, "there is nothing to override; give --config too", Code.MISSING)
    options = {flag.name: flag.default for flag in verb.flags} | given.flags
    paths = [Path(text) for text in given.positional]
    return SimpleNamespace(**options, path=paths[0] if paths else None, paths=paths, config=config, argument=argument)


if __name__ == "__main__":
    sys.exit(main())
