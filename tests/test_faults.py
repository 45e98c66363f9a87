"""Every I/O call fails in turn: a second run ends with the undisturbed bits, and nothing that was finished changes.

The worker runs in this process on chains of hashes, and ``Faults`` stands under ``os``: it counts the calls that touch
the work directory and fails one of them, or all from one on.
"""

import errno
import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chain_study
import handmade
import pytest
from conftest import tiny_config
from refusals import refuses
from selection import mostly_system

from scaling import plan as plans
from scaling import study as studies
from scaling.checkpoint import Checkpoints
from scaling.errors import Code, UserError
from scaling.records import canonical, records
from scaling.study import block
from scaling.worker import EXIT_AGAIN, EXIT_DONE, loop
from scaling.worker.failures import is_environment_error
from scaling.worker.loop import Settings, Worker
from scaling.worker.main import _as_user_error
from scaling.worker.training import EXECUTE

BY_PATH = ("open", "rename", "replace", "link", "unlink", "mkdir")
BY_DESCRIPTOR = ("write", "pwrite", "fsync")


Fails = Callable[[list[str]], bool]


def never(_: list[str]) -> bool:
    return False


def at(number: int) -> Fails:
    """The call of this number fails, and no other."""
    return lambda calls: len(calls) == number


def since(number: int) -> Fails:
    """Every call from this number on."""
    return lambda calls: len(calls) >= number


class Faults:
    """Counts the calls of ``os`` on files below a directory, and fails those that ``fails`` chooses.

    Attributes:
      fails: takes the calls so far, of which the last is the one that may fail.
      calls: what was called, in order; names that are drawn by chance are all one. struck: the calls that failed.
    """

    def __init__(self, root: Path, fails: Fails, number: int = errno.ENOSPC):
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
            drawn = re.sub(r"\.[\w-]{8,}( \(deleted\))?$", ".drawn", os.path.relpath(path, self.root))
            self.calls.append(f"{name} {drawn}")
            if self.fails(self.calls):
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


def work(workdir: Path, execute: str = "chains:execute", ttl: float = 0.2) -> UserError | int:
    """What one worker ends with: its exit code, or the one line that it says. Anything else is a traceback."""
    settings = Settings(execute=execute, ttl=ttl, beat=3600, ensemble=None if execute == "chains:execute" else 1)
    try:
        return Worker(workdir, settings).run()
    except (UserError, OSError) as error:
        assert isinstance(error, UserError) or is_environment_error(error), error
        return _as_user_error(error, workdir)


def results(workdir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.glob("runs/*/result.json")}


def survives(study: chain_study.Study, fails: Fails, number: int = errno.ENOSPC) -> Faults:
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
    """The number of the first call of each kind on each file."""
    return [calls.index(call) + 1 for call in dict.fromkeys(calls)]


@pytest.mark.parametrize("which", mostly_system(["first", "every"], "first"))
def test_one_call_that_fails_is_one_line_and_no_run_is_lost(study, which: str):
    calls = survives(study, never).calls
    chosen = list(range(1, len(calls) + 1))
    if which == "first":  # what is called for the second run and program was called for the first
        chosen = [number for number in first_of_each(calls) if not re.search("runs/(one-1|two)", calls[number - 1])]
    assert len(chosen) > 20
    for number in chosen:
        code = (errno.ENOSPC, errno.EIO, errno.EROFS)[number % 3]
        faults = survives(study, at(number), code)
        assert len(faults.struck) == 1, number
        assert not list(study.workdir.glob("runs/*/lease.json")), faults.struck


@pytest.mark.parametrize("every", mostly_system([23, 1], 23))
def test_a_disk_that_fails_for_good_is_one_line_and_no_run_is_lost(study, every: int):
    total = len(survives(study, never).calls)
    for number in range(1, total + 1, every):
        survives(study, since(number), (errno.ENOSPC, errno.EROFS)[number % 2])


def test_a_disk_that_is_full_again_and_again_fails_no_run(study):
    """Four times full at the first checkpoint: no attempt of the program, which has three."""
    for _ in range(4):
        with Faults(study.workdir, lambda calls: "checkpoint" in calls[-1] or "result" in calls[-1]) as faults:
            assert isinstance(work(study.workdir), UserError) and faults.struck
    assert not results(study.workdir)
    assert work(study.workdir) == EXIT_DONE
    study.assert_finished()


def test_a_program_that_leaves_python_is_an_attempt_and_not_the_end(study):
    study.plan(chain_study.program("one", leave_at=3), chain_study.program("two", seconds=0.5))
    codes = [work(study.workdir) for _ in range(5)]
    assert codes == [EXIT_AGAIN] * 4 + [EXIT_DONE]
    result = study.record("one").result
    assert result.status == "failed" and "sys.exit" in result.reason and study.record("two").status == "done"


TENSORSTORE = "UNKNOWN: Error writing local file \"w/10/manifest\": Failed to fsync file: words [os_error_code='{}']"


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_below_the_arrays_of_a_checkpoint_is_no_failure_of_a_run(tmp_path, number: int):
    """tensorstore, which is C++, raises no OSError: its words as jax 0.10.2 and orbax 0.12.8 gave them."""
    error = ValueError(TENSORSTORE.format(number))
    assert is_environment_error(error)
    assert not is_environment_error(ValueError(TENSORSTORE.format(errno.EINVAL)))
    assert not is_environment_error(RuntimeError(TENSORSTORE.format(number)))
    with refuses(Code.ENVIRONMENT, "checkpoint"):
        Checkpoints(tmp_path)._refuse(10, error)


def losses(workdir: Path) -> dict[str, str]:
    """What must be the same bit for bit."""
    found = {record.path.name: (handmade.ended(record), record.steps()[-1].loss) for record in records(workdir)}
    return {run: canonical([result.status, result.evaluation, loss]) for run, (result, loss) in found.items()}


def checkpoints_that_fail(workdir: Path) -> None:
    """Each kind of call below ``checkpoints`` fails once, and every fourth for good; every fault must cost no bit."""
    loop.POLL = 0.01
    config = tiny_config(grid=block("grid", "known", (0,), tokens=(48 * 30,)))
    config.checkpoint_seconds = 0.0
    plan = plans.make(studies.resolve(config))

    def trained(fails: Fails, number: int = errno.ENOSPC) -> Faults:
        shutil.rmtree(workdir, ignore_errors=True)
        plans.write(plan, workdir)
        with Faults(workdir, fails, number) as faults:
            ended = work(workdir, EXECUTE, ttl=30)
        assert ended == EXIT_DONE or (isinstance(ended, UserError) and ended.code is Code.ENVIRONMENT), faults.struck
        for left in workdir.glob("runs/*/lease.json"):
            left.unlink()  # as if the process that could not give it back had ended
        finished = results(workdir)
        assert work(workdir, EXECUTE, ttl=30) == EXIT_DONE, faults.struck
        assert finished.items() <= results(workdir).items(), faults.struck
        return faults

    calls = [call for call in dict.fromkeys(trained(never).calls) if "checkpoints" in call]
    undisturbed = losses(workdir)
    assert len(calls) > 20 and len(undisturbed) == 2
    for index, call in enumerate(calls):
        faults = trained(lambda past, call=call: past[-1] == call and past.count(call) == 1, errno.EIO)
        assert losses(workdir) == undisturbed and faults.struck == [call]
        if index % 4 == 0:
            faults = trained(lambda past, call=call: call in past)
            assert losses(workdir) == undisturbed, faults.struck


@pytest.mark.system
def test_checkpoints_that_fail_cost_no_bit_of_a_real_run(tmp_path):
    # In a process of its own: orbax leaves threads and coroutines behind where it was made to fail.
    call = f"test_faults.checkpoints_that_fail(pathlib.Path({str(tmp_path / 'w')!r}))"
    code = f"import os, pathlib, test_faults; {call}; os._exit(0)"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert ran.returncode == 0, ran.stderr[-3000:]
