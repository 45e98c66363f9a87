"""Every I/O call fails in turn: a second run ends with the undisturbed bits, and nothing that was finished changes.

The worker runs in this process on chains of hashes, and ``Faults`` stands under ``os``: it counts the calls that touch
the work directory and fails one of them, or all from one on.
"""

import errno
import functools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chain_study
import pytest
from selection import mostly_system

from scaling.errors import Code, UserError
from scaling.worker import EXIT_DONE, loop
from scaling.worker.failures import is_environment_error
from scaling.worker.loop import Settings, Worker
from scaling.worker.main import _as_user_error

BY_PATH = ("open", "rename", "replace", "link", "unlink", "mkdir")
BY_DESCRIPTOR = ("write", "pwrite", "fsync")


class Faults:
    """Counts the calls of ``os`` on files below a directory, and fails those that ``fails`` chooses by their number.

    Attributes:
      calls: what was called, in order. struck: the calls that failed.
    """

    def __init__(self, root: Path, fails: Callable[[int], bool] = lambda _: False, number: int = errno.ENOSPC):
        self.root, self.fails, self.number = str(root), fails, number
        self.calls: list[str] = []
        self.struck: list[str] = []

    def __enter__(self) -> "Faults":
        self._undo = pytest.MonkeyPatch()
        for name in (*BY_PATH, *BY_DESCRIPTOR):
            self._undo.setattr(os, name, functools.partial(self._call, name, getattr(os, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.undo()

    def _call(self, name: str, real: Callable[..., Any], target: Any, *rest: Any, **more: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{target}") if name in BY_DESCRIPTOR else os.fspath(target)
        if str(path).startswith(self.root):
            self.calls.append(f"{name} {os.path.relpath(path, self.root)}")
            if self.fails(len(self.calls)):
                self.struck.append(self.calls[-1])
                raise OSError(self.number, os.strerror(self.number), str(path))
        return real(target, *rest, **more)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[chain_study.Study]:
    """A short study in a module that this process imports. Nobody sleeps."""
    made = chain_study.Study(tmp_path)
    monkeypatch.syspath_prepend(str(made.modules))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(loop, "POLL", 0.01)
    made.plan(chain_study.program("one", runs=2, steps=6), chain_study.program("two", steps=2))
    yield made
    sys.modules.pop("chains", None)


def work(workdir: Path) -> UserError | int:
    """What one worker ends with: its exit code, or the one line that it says. Anything else is a traceback."""
    settings = Settings(execute="chains:execute", ttl=0.2, beat=3600)
    try:
        return Worker(workdir, settings).run()
    except (UserError, OSError) as error:
        assert isinstance(error, UserError) or is_environment_error(error), error
        return _as_user_error(error, workdir)


def results(workdir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.glob("runs/*/result.json")}


def survives(study: chain_study.Study, fails: Callable[[int], bool], number: int) -> Faults:
    """Trains under faults, then without; everything that must hold afterwards."""
    planned = study.workdir / "study.json"
    held = planned.read_bytes()
    shutil.rmtree(study.workdir)
    study.workdir.mkdir()
    planned.write_bytes(held)
    with Faults(study.workdir, fails, number) as faults:
        ended = work(study.workdir)
    if isinstance(ended, UserError):
        assert ended.code is Code.ENVIRONMENT and "\n" not in str(ended), (faults.struck, ended)
    else:
        assert ended == EXIT_DONE, (faults.struck, ended)
    finished = results(study.workdir)
    assert all(b'"done"' in content for content in finished.values()), (faults.struck, finished)
    assert work(study.workdir) == EXIT_DONE, faults.struck
    study.assert_finished()
    assert finished.items() <= results(study.workdir).items(), faults.struck
    return faults


def first_of_each(calls: list[str]) -> list[int]:
    """The number of the first call of each kind on each file; names that are drawn by chance are all one."""
    kinds = [re.sub(r"\.[\w-]{8,}$", ".drawn", call) for call in calls]
    return [kinds.index(kind) + 1 for kind in dict.fromkeys(kinds)]


@pytest.mark.parametrize("which", mostly_system(["first", "every"], "first"))
def test_one_call_that_fails_is_one_line_and_no_run_is_lost(study, which: str):
    calls = survives(study, lambda _: False, errno.ENOSPC).calls
    chosen = first_of_each(calls) if which == "first" else range(1, len(calls) + 1)
    assert len(chosen) > 20
    for number in chosen:
        code = (errno.ENOSPC, errno.EIO, errno.EROFS)[number % 3]
        faults = survives(study, lambda call, number=number: call == number, code)
        assert len(faults.struck) == 1, number
        assert not list(study.workdir.glob("runs/*/lease.json")), faults.struck


@pytest.mark.parametrize("every", mostly_system([23, 1], 23))
def test_a_disk_that_fails_for_good_is_one_line_and_no_run_is_lost(study, every: int):
    total = len(survives(study, lambda _: False, errno.ENOSPC).calls)
    for number in range(1, total + 1, every):
        survives(study, lambda call, number=number: call >= number, (errno.ENOSPC, errno.EROFS)[number % 2])


def test_a_disk_that_is_full_again_and_again_fails_no_run(study):
    """Four times full at the first step: no attempt of the program, which has three."""
    for _ in range(4):
        with Faults(study.workdir, lambda call: False) as faults:
            faults.fails = lambda call, calls=faults.calls: "checkpoint" in calls[-1] or "result" in calls[-1]
            assert isinstance(work(study.workdir), UserError) and faults.struck
    assert not results(study.workdir)
    assert work(study.workdir) == EXIT_DONE
    study.assert_finished()
