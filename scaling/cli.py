"""The command line: ``scaling VERB``. Parses, calls, and turns a user's mistake into one line and exit status 2.

Every verb has flags of its own (absl), and those that take a study have ``--config`` and ``--config.path.to.field``
(ml_collections). What a verb does is in ``scaling.verbs``, imported when it is needed, as is everything heavy.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import STORAGE, UserError

EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED, EXIT_PIPE = 1, 2, 130, 141


@dataclass(frozen=True)
class Flag:
    """One flag: ``kind`` is string, integer, float or boolean."""

    name: str
    kind: str
    help: str
    default: Any = None


@dataclass(frozen=True)
class Verb:
    """One verb: its positional arguments (a last one with dots: one or more), its flags, whether it takes a study."""

    summary: str
    positional: tuple[str, ...] = ()
    flags: tuple[Flag, ...] = ()
    study: bool = False


JSON = Flag("json", "boolean", "print JSON for programs", False)
WORKDIR = Flag("workdir", "string", "directory of the study (default runs/NAME, or runs/NAME-ARGUMENT)")
OUT = Flag("out", "string", "where to write")
LEVEL = Flag("level", "float", "of the intervals", 0.95)
DISCREPANCY = Flag(
    "discrepancy",
    "string",
    "how wrong the law may be beyond its runs: auto, off or a scale of log loss per e-fold",
    "auto",
)
TRAINING = (
    Flag("engine", "string", "where to train", "local"),
    Flag("workers", "integer", "processes (default: one a core, or one with an accelerator)"),
    Flag("retry_failed", "boolean", "train failed and rejected runs again", False),
    Flag("max_attempts", "integer", "of a program, without progress, before it is failed", 3),
    Flag(
        "ensemble",
        "string",
        "programs of one shape (seeds, learning rates, D) that a worker trains at a time by vmap; auto: 1 on CPU, "
        "where more are slower; on an accelerator up to 8 where some steps of them are measured to be faster",
        "auto",
    ),
    Flag("cache", "string", "compilation cache (default $SCALING_CACHE or ~/.cache/scaling/xla)"),
    Flag("execute", "string", "module:function that trains a program, in place of scaling.train:execute"),
)

VERBS: dict[str, Verb] = {
    "plan": Verb(
        "the cells of a study: N, D, steps, learning rate, FLOPs, memory, time, what it can hope for",
        (),
        (
            WORKDIR,
            Flag("simulate", "integer", "studies to draw and fit for the expected intervals", 0),
            Flag("noise", "float", "sd of log loss between runs in the expected intervals", 0.005),
            Flag("check_memory", "boolean", "compile every shape and reject a cell that does not fit", False),
            Flag("device", "string", "to check for, such as h100-80gb (default: the present one)"),
            JSON,
        ),
        True,
    ),
    "run": Verb(
        "train every cell that has no final record; run it again to continue",
        (),
        (WORKDIR, *TRAINING, JSON),
        True,
    ),
    "status": Verb("what is done, what is left, and what failed and why", ("WORKDIR",), (JSON,)),
    "fit": Verb(
        "fit laws to the runs of a study, or to a table of any other trainer (csv, tsv, jsonl, parquet)",
        ("PATH",),
        (
            Flag(
                "law",
                "string",
                "of `scaling laws`, several with commas, or all; default chinchilla (of a study: all)",
            ),
            Flag("n", "string", "what N counts: nonembedding, total, a parameter group or a column (study: both)"),
            Flag("dataset", "string", "which data set; default every one of a study"),
            Flag("term", "string", "of a study: which loss term or metric; default every one, with --law the headline"),
            Flag("where", "string", "rows to fit, such as 'outlier == 0 and N > 1e6'"),
            Flag("columns", "string", "names of columns, such as 'N=params,loss=val_loss', 'x=C', 'learning_rate=lr'"),
            Flag("fixed", "string", "parameters held fixed, such as 'E=1.69,alpha=0.34'"),
            Flag("prior", "string", "normal priors NAME=MEAN:SD, such as 'E=1.7:0.1,A=400:50'"),
            Flag(
                "objective",
                "string",
                "of log residuals: auto (Huber adapted to the noise), squares, huber:DELTA, student or student:NU "
                "(Student's t, scale from the residuals); raw:OBJECTIVE for residuals of the loss itself",
                "auto",
            ),
            Flag(
                "weights",
                "string",
                "of the rows: none, seeds (inverse variance between seeds by size) or a column of precisions",
                "none",
            ),
            Flag(
                "scheme",
                "string",
                "of the intervals: auto (chosen by the design), likelihood-t, profile-t, delta-t, bootstrap, "
                "bootstrap-runs, jackknife-t, or all to see them side by side",
                "auto",
            ),
            Flag("seed", "integer", "of the draws and resamples", 0),
            Flag("warmup", "integer", "learning curves: steps of the linear warm-up before the first row of a run"),
            LEVEL,
            DISCREPANCY,
            Flag("out", "string", "the card (one law) or a directory; default DIR/fits for a study"),
            JSON,
        ),
    ),
    "predict": Verb(
        "what to train for a budget by a fit card; or seal the forecasts of a study's held-out cells",
        ("FIT.json|WORKDIR",),
        (
            Flag("flops", "float", "training compute"),
            Flag("params", "float", "parameters N"),
            Flag("tokens", "float", "training tokens D"),
            Flag("learning_rate", "float", "with a card of lr_loss: the regret of this one"),
            Flag("max_params", "float", "with --flops: no more parameters than this"),
            Flag("tokens_per_parameter", "float", "with --flops: this D/N, over-trained or under-trained"),
            Flag("unique_tokens", "float", "with --flops: the data there is; more is repeats"),
            Flag("inference_tokens", "float", "with --flops: tokens served in its life; least lifetime compute"),
            Flag("device_hours", "float", "in place of --flops: hours of a device, as fast as the runs were"),
            LEVEL,
            DISCREPANCY,
            Flag("force", "boolean", "answer even where the fit does not support it, with the reason", False),
            JSON,
        ),
    ),
    "next": Verb(
        "the cells that shrink the variance of a target most per FLOP, as a configuration that run takes",
        ("FIT.json|WORKDIR",),
        (
            Flag("target", "string", "what to know better: a, E, alpha, ..., log_N_opt@FLOPS, loss@FLOPS"),
            Flag("budget", "float", "FLOPs that may be spent"),
            Flag("out", "string", "NAME.py (a configuration for run: the study and the new cells) or NAME.json"),
            Flag("seeds", "string", "further seeds that may be trained, such as '1,2' (new stems)"),
            Flag("ratios", "string", "smallest and largest tokens per parameter, such as '2,400' (default: as fitted)"),
            Flag("share", "float", "least share of the spend in the top decade of compute", 0.3),
            Flag("drift", "float", "how wrong the law may be: sd of log loss per e-fold (default: by the card)"),
            Flag("dataset", "string", "of a study with several; default its first"),
            Flag("law", "string", "the study's card to use", "chinchilla"),
            LEVEL,
            JSON,
        ),
    ),
    "tune": Verb(
        "a small sweep of learning rate and batch, and the recipe that it supports, for a study to name",
        (),
        (
            WORKDIR,
            Flag("sizes", "string", "of the ladder, such as '0,1,2' (default: the three smallest of the study)"),
            Flag("tokens", "string", "D of the sweep (default: the study's smallest and four times that)"),
            Flag("rates", "string", "learning rates (default: five, factors of 2 around the recipe's)"),
            Flag("batches", "string", "sequences a step (default: half, once and twice the recipe's)"),
            Flag("seeds", "string", "such as '0,1'", "0"),
            Flag("dry_run", "boolean", "print the plan of the sweep and train nothing", False),
            *TRAINING,
            LEVEL,
            Flag("out", "string", "the recipe (default recipe.json in the workdir of the sweep)"),
            JSON,
        ),
        True,
    ),
    "compare": Verb(
        "what differs between laws of several data sets, families or recipes, or between two runs, with intervals",
        ("FIT.json|WORKDIR|RUN...",),
        (
            Flag("law", "string", "the card to take from a work directory", "chinchilla"),
            Flag("n", "string", "the count of N of that card", "nonembedding"),
            Flag("dataset", "string", "of work directories; default every one that has a card"),
            Flag("margin", "string", "differences below which two are equal, such as 'a=0.05,alpha=0.1'"),
            Flag("axis", "string", "of equal loss: auto (only where it is one quantity) or bits_per_byte", "auto"),
            Flag("expected", "boolean", "of `plan --json` files, before any run: what differences can be told", False),
            LEVEL,
            JSON,
        ),
    ),
    "report": Verb("one self-contained HTML file", ("WORKDIR",), (OUT, JSON)),
    "plot": Verb(
        "the figures of a study or of a fit card, as files",
        ("WORKDIR|FIT.json",),
        (Flag("out", "string", "directory for the figures (default figures beside them)"), JSON),
    ),
    "data": Verb(
        "prepare text for training: tokens in memory-mapped shards with a manifest, for the source `prepared`",
        ("prepare", "PATH..."),
        (
            OUT,
            Flag("tokenizer", "string", "bytes, or a tokenizer.json of Hugging Face's tokenizers", "bytes"),
            Flag("end", "string", "token after every document: its name, none, or auto (the tokenizer's own)", "auto"),
            Flag("column", "string", "of jsonl, parquet and arrow: text, or lists of tokens", "text"),
            Flag("glob", "string", "which files of a folder, as plain text if the name says no other (default: known)"),
            Flag("evaluation", "string", "files for evaluation, by commas (default: a share of the documents)"),
            Flag("share", "float", "of the documents that go to evaluation, by the hash of their content", 0.05),
            Flag("cut", "integer", "bytes above which plain text is several documents (default: by the files)"),
            Flag("shard_tokens", "integer", "tokens of a shard; what a crash can cost", 2**26),
            JSON,
        ),
    ),
    "laws": Verb("the functional forms, with their sources", (), (JSON,)),
}


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
    if name not in VERBS:
        raise UserError("verb", name, f"choose one of {', '.join(VERBS)}")
    if any(argument in ("-h", "--help", "--helpfull", "--helpshort") for argument in rest):
        print(_usage(name))
        return 0
    options = parse(name, rest)
    from scaling import verbs

    call: Callable[[SimpleNamespace], int] = getattr(verbs, name)
    return call(options)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = ["usage: scaling VERB [--flag=value ...]", ""]
    lines += [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join([*lines, "", "`scaling VERB --help` shows the flags of a verb."])


def _usage(name: str) -> str:
    verb = VERBS[name]
    words = [*verb.positional, *(["--config=FILE.py[:ARGUMENT]"] if verb.study else []), "[--flag=value ...]"]
    lines = [f"usage: scaling {name} {' '.join(words)}", "", f"  {verb.summary}", ""]
    if verb.study:
        lines += [
            "  --config=FILE.py[:ARGUMENT]   an experiment file, or the name of an installed one (demo)",
            "  --config.PATH.TO.FIELD=VALUE  overrides a field of it",
        ]
    for flag in verb.flags:
        text = f"--{flag.name}" + ("" if flag.kind == "boolean" else f"={flag.kind.upper()}")
        default = "" if flag.default in (None, False) else f" (default {flag.default})"
        lines.append(f"  {text:<28}  {flag.help}{default}")
    return "\n".join(lines)


def parse(name: str, arguments: Sequence[str]) -> SimpleNamespace:
    """The options of a verb: its flags, ``path`` (the positional argument), ``config`` (a ConfigDict or None) and
    ``argument`` (of the configuration).

    Raises:
      UserError: an unknown flag or field, a bad value, a missing file, a wrong number of arguments.
    """
    from absl import flags

    verb, arguments = VERBS[name], list(arguments)
    values: Any = flags.FlagValues()
    define = {
        "string": flags.DEFINE_string,
        "integer": flags.DEFINE_integer,
        "float": flags.DEFINE_float,
        "boolean": flags.DEFINE_boolean,
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
