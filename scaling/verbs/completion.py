"""completion: completes verbs, flags and the values of flags in a shell, by asking this program at each tab."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

from scaling import verbs
from scaling.errors import UserError
from scaling.settings import require_choice
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import print_json

WORDS = "words"  # in place of a shell: print what may stand at the end of a line
SCRIPTS = {
    "bash": """\
# scaling: put  eval "$(scaling completion bash)"  into ~/.bashrc
_scaling() {
    local found
    COMPREPLY=()
    while IFS= read -r found; do
        # bash ends a word at =, where it is among the breaks: what stands before it is on the line already
        [[ $COMP_WORDBREAKS == *=* && $found == --*=?* ]] && found=${found#*=}
        COMPREPLY+=("$found")
    done < <(scaling completion words -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _scaling scaling
""",
    "zsh": """\
# scaling: put  eval "$(scaling completion zsh)"  into ~/.zshrc, after compinit
_scaling() {
    local -a found
    found=(${(f)"$(scaling completion words -- "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -q -S ' ' -- ${found:#*=}
        compadd -S '' -- ${(M)found:#*=}
    else
        compset -P '*='
        _files
    fi
}
compdef _scaling scaling
""",
    "fish": """\
# scaling: put  scaling completion fish | source  into ~/.config/fish/config.fish
function __scaling
    scaling completion words -- (commandline -cp | string collect) 2>/dev/null
end
complete -c scaling -a '(__scaling)'
""",
}


def completion(options: SimpleNamespace) -> int:
    """Prints the script for a shell; or, for ``words``, what may stand at the end of the line that follows."""
    shell, *line = (str(path) for path in options.paths)
    require_choice("shell", shell, (*SCRIPTS, *([WORDS] if line else [])))
    if line[shell == WORDS :]:
        raise UserError("shell", " ".join([shell, *line]), "give one shell")
    if shell == WORDS:
        found = list(candidates(line[0]))
        print_json(found) if options.json else print("\n".join(found))
    elif options.json:
        print_json({"shell": shell, "script": SCRIPTS[shell]})
    else:
        print(SCRIPTS[shell], end="")
    return 0


def candidates(line: str) -> Iterator[str]:
    """What may stand at the end of a line, as whole words; nothing where files may, which shells complete themselves.

    Args:
      line: of the shell, up to the cursor: ``scaling fit runs.csv --law=ch``.
    """
    *before, last = _words(line)
    if len(before) < 2:
        known: Iterable[str] = (*verbs.names(), "--help", "--version") if before else ()
    else:
        verb = verbs.load(before[1])
        known = () if verb is None else _of_verb(verb, before, last)
    yield from (word for word in known if word.startswith(last))


def _words(line: str) -> list[str]:
    """The words of an unfinished line; the last one is empty after a space."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    words = []
    try:
        words += lexer
    except ValueError:  # an open quote
        words = line.split()
    return words if words and not line[-1].isspace() else [*words, ""]


def _of_verb(verb: Verb, before: list[str], last: str) -> Iterator[str]:
    if "=" in last:
        name = last.partition("=")[0]
        yield from (f"{name}={value}" for value in _values(verb, name.lstrip("-")))
        return
    name = before[-1].lstrip("-")
    if before[-1].startswith("-") and any(flag.name == name and flag.kind is not bool for flag in verb.flags):
        yield from _values(verb, name)
        return
    if last.startswith("-") or not verb.positional:
        engine = next((word.partition("=")[2] for word in before if word.startswith("--engine=")), "")
        shown = [flag for flag in verb.flags if flag.engine in ("", engine)]
        yield from (f"--{flag.name}" + ("" if flag.kind is bool else "=") for flag in shown)
        yield from ("--config=", "--help") if verb.study else ("--help",)
    elif verb.offers is not None:
        yield from verb.offers()


def _values(verb: Verb, name: str) -> Iterable[str]:
    """The values of a flag that are names of something."""
    if verb.study and name == "config":
        from scaling.verbs._config import installed

        return installed()
    flag = next((flag for flag in verb.flags if flag.name == name), None)
    return () if flag is None or flag.offers is None else flag.offers()


VERB = Verb(
    summary="print what completes verbs, flags and names in a shell: bash, zsh or fish",
    positional=("SHELL...",),
    flags=(JSON,),
    example="scaling completion bash",
    call=completion,
    offers=lambda: SCRIPTS,
)
