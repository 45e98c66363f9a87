"""The command ``python -m scaling.worker``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from scaling import distributed
from scaling.errors import Code, UserError
from scaling.records import write_json
from scaling.records.files import make_folder, open_to_append
from scaling.worker import EXIT_AGAIN, EXIT_USER
from scaling.worker.ensembles import parse_ensemble_size
from scaling.worker.environment import bind, usable_cache, variables
from scaling.worker.failures import Problem, is_environment_error, one_line
from scaling.worker.lease import BEAT, TTL
from scaling.worker.log import log
from scaling.worker.loop import MAX_ATTEMPTS, Settings, Worker
from scaling.worker.training import EXECUTE

GRACE = 5.0  # seconds that a worker alone has to end, once all is written


def end_soon(code: int) -> None:
    """Ends this process with ``code`` within ``GRACE`` seconds, whatever threads are left.

    A checkpoint that failed leaves threads of orbax behind, for which a normal exit waits five minutes.
    """

    def end() -> None:
        time.sleep(GRACE)
        os._exit(code)

    sys.stdout.flush()
    sys.stderr.flush()
    threading.Thread(target=end, daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker; returns its exit code."""
    options = _parser().parse_args(arguments)
    report, worker, group = 1, None, None
    try:
        options.workdir = options.workdir.absolute()  # orbax takes no relative path
        ensemble = parse_ensemble_size(options.ensemble)
        group = distributed.detect(os.environ, options.processes, options.process, options.coordinator)
        if group is not None and ensemble not in (None, 1):
            remedy = "a group of processes trains one program at a time"
            raise UserError("ensemble", ensemble, remedy, Code.CONFLICT)
        places = (options.label, options.core, str(group.process) if group else "")
        report = _redirect(options.workdir, "-".join(filter(None, places)))
        bind(options.core)
        os.environ.update(variables(usable_cache(options.cache), single=options.core != "all"))
        worker = Worker(options.workdir, _settings(options, ensemble))
        if group is not None:
            log(f"joining a group of {group.processes} at {group.coordinator}")
            distributed.join(group)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # schedulers warn by SIGUSR2
            signal.signal(number, worker.stop)
        code = worker.run()
    except (UserError, OSError) as error:
        if not isinstance(error, UserError) and not is_environment_error(error):
            raise
        problem = _as_user_error(error, options.workdir)
        _report(report, problem, as_json=options.json)
        if options.report is not None and (group is None or (distributed.count() > 1 and distributed.primary())):
            with contextlib.suppress(UserError):  # the disk may be what is wrong
                write_json(options.report, Problem.of(problem))
        code = EXIT_USER
    if (distributed.count() > 1 and code in (EXIT_AGAIN, EXIT_USER)) or (worker is not None and worker.compiling):
        os._exit(code)  # a normal exit would wait for the other processes, or for the compiler
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m scaling.worker", description="Trains programs of a study.")
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--core", default="all", help="bind to this core with one thread; all: no binding")
    parser.add_argument("--label", default="", help="of the log, for machines that share a work directory")
    parser.add_argument("--cache", default=None, help="compilation cache (default $SCALING_CACHE or ~/.cache/scaling)")
    parser.add_argument("--execute", default=EXECUTE, help="module:function that trains a program")
    parser.add_argument("--max_attempts", default=MAX_ATTEMPTS, type=int)
    parser.add_argument("--ensemble", default="auto", help="programs at a time, or auto (see scaling run --help)")
    parser.add_argument("--only", default="", help="programs, separated by commas (default: all of study.json)")
    parser.add_argument("--parent", default=None, type=int, help="process number; end when it is no longer the parent")
    parser.add_argument("--ttl", default=TTL, type=float, help="seconds without a renewal after which a lease is void")
    parser.add_argument(
        "--processes", default=None, type=int, help="processes in the group that trains as one (1: no group)"
    )
    parser.add_argument("--process", default=None, type=int, help="index of this process in its group, from 0")
    parser.add_argument("--coordinator", default=None, help="HOST:PORT of process 0; the port must be free there")
    parser.add_argument("--beat", default=BEAT, type=float, help="seconds between renewals of a lease")
    parser.add_argument(
        "--idle", default=None, type=float, help="seconds to wait for what others hold (default: for ever)"
    )
    parser.add_argument("--json", action="store_true", help="report errors as JSON, for an engine")
    parser.add_argument("--report", default=None, help="file for the error that ends it, or its group once formed")
    return parser


def _settings(options: argparse.Namespace, ensemble: int | None) -> Settings:
    return Settings(
        core=options.core,
        execute=options.execute,
        max_attempts=options.max_attempts,
        ensemble=ensemble,
        only=tuple(name for name in options.only.split(",") if name),
        parent=options.parent,
        ttl=options.ttl,
        beat=options.beat,
        idle=options.idle,
    )


def _redirect(workdir: Path, place: str) -> int:
    """Redirects this process's output to its log file. Returns a descriptor of the original standard output."""
    report = os.dup(1)
    path = workdir / "logs" / f"worker-{place}.log"
    try:
        make_folder(path.parent, inside=workdir)
        file = open_to_append(path)
    except OSError as error:
        remedy = f"cannot be written ({error.strerror}); choose another"
        raise UserError("workdir", workdir, remedy, Code.ENVIRONMENT) from error
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    return report


def _as_user_error(error: UserError | OSError, workdir: Path) -> UserError:
    return error if isinstance(error, UserError) else UserError("workdir", workdir, one_line(error), Code.ENVIRONMENT)


def _report(descriptor: int, error: UserError, *, as_json: bool) -> None:
    """Reports an error in the log, and to the parent process."""
    log(str(error))
    message = msgspec.json.encode(Problem.of(error)) if as_json else str(error).encode()
    with contextlib.suppress(OSError):
        os.write(descriptor, message + b"\n")
