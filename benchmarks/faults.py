"""Every I/O call of a short study fails in turn, and a random storm strikes studies: nothing finished may change.

    python benchmarks/faults.py --part=calls --ground=chains|trainer [--errors=turns|all]
    python benchmarks/faults.py --part=seal
    python benchmarks/faults.py --part=storm --chains=300 --trainer=100 --seed=1
    python benchmarks/faults.py --part=table

Needs Linux and a C compiler, and root for workers of other users. It goes on where it stopped: what is done is in the
file of ``--progress``. ``--folder`` takes the studies; in memory (/dev/shm) they are not slowed by other writers.

calls: a worker trains a short study, and its n-th open, write, fsync, rename, link, unlink, mkdir or truncate below the
work directory fails (with ENOSPC, EIO and EROFS by turns, or each), also those of the C++ that writes checkpoints; with
every fifth n also all calls from the n-th on. Then it trains again: it must end with the undisturbed bits, no result
that was there may have changed, and the first time it must have said nothing or one line. seal: ``predict`` likewise.

storm: kinds of faults in an order drawn from the seed, several to a study (``faults_storm.py``), until each study has
been let finish. ``chains`` and ``trainer`` are the grounds of ``faults_ground.py``.

table: puts together what the progress file holds, as ``faults.json``.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from cpu import cpu_name
from faults_ground import Ground, core
from faults_rows import ERRORS, UNREACHED, Fault, Group, Row, Sealing, Trial, tried
from faults_seal import seals
from faults_storm import KINDS, OF_THE_TRAINER, Scene
from faults_workers import Page, Worker, under_library, verb_call, worker_call

HERE = Path(__file__).resolve().parent
BATCH = 20  # trials a process
EACH = {"chains": 10, "trainer": 5}  # faults a study
SHAPES = {"chains": "40x2x20", "trainer": "30-60x2"}  # of the storm
SHORT = {"chains": "6x2x0", "trainer": "20x1"}  # where every call fails in turn
# Seconds between renewals there. On a loaded machine most calls of the trainer would be renewals, as chains make them.
BEAT = {"chains": 0.1, "trainer": 1.0}


# --- every call


def command(ground: Ground) -> tuple[int, str]:
    """The command of a worker in this process: its exit code, and what it said."""
    said = ground.said()
    held = [os.dup(1), os.dup(2)]
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
    try:
        code = worker_call(ground.workdir, ground.cache, core(0), ground.arguments)()
    except Exception:
        code = 1
        traceback.print_exc()
    finally:
        for descriptor, copy in enumerate(held, 1):
            os.dup2(copy, descriptor)
            os.close(copy)
    return code, said.read_text().strip()


def trial(ground: Ground, page: Page, error: int, first: int, for_good: bool) -> Trial:
    """The command of a worker while its calls fail, and again while none does."""
    ground.fresh()
    row = tried(Trial, ground.name, page, lambda: command(ground), error, first, for_good)
    if row.problems:
        row.problems.append("".join(path.read_text() for path in ground.workdir.glob("logs/*"))[-1500:])
    if raised := list(ground.workdir.glob("runs/*/error.log")):
        row.problems.append(raised[0].read_text()[-1500:])
    held = ground.results()
    if (second := command(ground))[0] != 0:
        row.problems.append(f"the second run: exit {second}")
    row.problems += wrong(ground, held)
    if not for_good:  # on a disk that fails for good a lease stays, beside runs that are finished
        row.problems += [f"{path} is left" for path in ground.workdir.glob("runs/*/lease.json")]
    return row


def wrong(ground: Ground, held: dict[str, bytes]) -> list[str]:
    """What does not hold of a study that was let finish, in which these results were finished before."""
    now, found, rows = ground.results(), ground.found(), ground.rows()
    problems = [f"{run}: a finished result changed" for run, was in held.items() if now.get(run) != was]
    for run, bits in ground.expected.items():
        if found.get(run) != bits:
            problems.append(f"{run}: {found.get(run)} is not {bits}")
    for at, loss in rows.items():
        if loss != ground.rows_expected.get(at):
            problems.append(f"{at}: loss {loss} is not {ground.rows_expected.get(at)}")
    return problems


def calls(options: argparse.Namespace, done: list[Row]) -> Iterator[Trial]:
    """A row for each trial that is not done; ``BATCH`` of them in a process, which JAX makes slow to start."""
    ground = Ground(options.ground, options.folder, SHORT[options.ground], BEAT[options.ground])
    page = Page(ground.workdir)
    had = {(row.error, row.first, row.for_good) for row in done if isinstance(row, Trial) and row.ground == ground.name}
    batch = [(errno.EIO, UNREACHED, False)]  # counts

    def work() -> int:
        page.attach()
        for error, first, for_good in batch:
            row = trial(ground, page, error, first, for_good)
            with (options.folder / "rows").open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")
        return 0

    def rows() -> list[Trial]:
        if (process := Worker(work, options.folder / "batch")).wait() != 0:
            raise RuntimeError(process.traceback()[-2000:])
        text = (options.folder / "rows").read_bytes()
        (options.folder / "rows").unlink()
        return msgspec.json.Decoder(Trial).decode_lines(text)

    total = rows()[0].calls
    print(f"{total} calls", file=sys.stderr, flush=True)
    wanted = [
        (ERRORS[(first + turn) % 3], first, for_good)
        for turn in range(3 if options.errors == "all" else 1)
        for first in range(1, total + 1)
        for for_good in (False, True)[: 2 if first % 5 == 0 else 1]
    ]
    left = [each for each in wanted if (errno.errorcode[each[0]], *each[1:]) not in had]
    for at in range(0, len(left), BATCH):
        batch = left[at : at + BATCH]
        yield from rows()


# --- the storm


def schedule(ground: str, count: int, seed: int) -> list[str]:
    """Kinds of faults, each as often as the others, in an order drawn from the seed."""
    kinds = [kind for kind in KINDS if ground == "trainer" or kind not in OF_THE_TRAINER]
    if os.getuid() != 0:
        kinds.remove("another user")
    rng, order = random.Random(f"{ground} {seed}"), []
    while len(order) < count:
        order += rng.sample(kinds, len(kinds))
    return order[:count]


def study(ground: Ground, kinds: list[str], seed: int) -> Group:
    """One study, or as many as these faults need, and what was wrong after each."""
    rng, begun = random.Random(f"{ground.name} {seed}"), time.monotonic()
    faults, problems, ends, studies = [], [], Counter(), 0
    left = list(kinds)
    while left:
        ground.fresh()
        studies += 1
        scene = Scene(ground, rng, wanted=rng.choice((1, 2, 3) if ground.name == "chains" else (1, 1, 2)))
        while left:
            scene.keep_up()
            try:
                met = KINDS[left[0]](scene)
            except (RuntimeError, OSError, ValueError, LookupError) as error:
                met = "error"
                scene.problems.append(f"{left[0]}: {error}")
            if met is None:
                break
            faults.append(Fault(left.pop(0), met))
            scene.look()
        try:
            settle(scene)
        except (RuntimeError, OSError) as error:
            scene.problems.append(f"{faults[-1:]}: {error}")
        problems += scene.problems
        ends += scene.ends
        if studies > 3 * len(kinds):
            problems.append(f"{left[0]} finds no moment")
            break
    return Group(ground.name, seed, faults, studies, dict(ends), round(time.monotonic() - begun, 1), problems)


def settle(scene: Scene) -> None:
    """Lets the study finish, undisturbed, and notes what is wrong with it."""
    for worker in scene.workers:
        if worker.page is not None:
            worker.page.heal()
        worker.send(signal.SIGCONT)
    for _ in range(10):
        if scene.ground.worker().wait() == 0:
            break
    for worker in scene.workers:
        worker.wait()
    scene.reap()
    scene.look()
    ground, workdir = scene.ground, str(scene.workdir)
    ground.run(verb_call("run", f"--workdir={workdir}"), wanted=(0,))
    held = {run: content for run, content in scene.held.items() if run not in scene.ours}
    scene.problems += wrong(ground, held)
    said = ground.run(verb_call("verify", workdir, "--json"), wanted=(0, 1))
    for finding in json.loads(said[said.index("{") :])["findings"]:
        # Checkpoints that the storm damaged after their use, and metrics after their run, stay as they are.
        if "checkpoints" not in finding["file"] and finding["file"] not in scene.cut:
            scene.problems.append(f"verify: {finding['file']}: {finding['what']}")


def storm(options: argparse.Namespace, done: list[Row]) -> Iterator[Group]:
    """A row for each group of faults that is not done."""
    had = {(row.ground, row.seed) for row in done if isinstance(row, Group)}
    grounds = {name: Ground(name, options.folder, shape) for name, shape in SHAPES.items() if getattr(options, name)}
    groups = {name: schedule(name, getattr(options, name), options.seed) for name in grounds}
    for number in range(max(len(order) for order in groups.values())):
        for name, ground in grounds.items():
            kinds, seed = groups[name][number * EACH[name] :][: EACH[name]], 1000 * options.seed + number
            if kinds and (name, seed) not in had:
                yield study(ground, kinds, seed)


# --- what came of it


def table(rows: list[Row]) -> dict[str, Any]:
    """The committed result: trials by error, faults by kind and ground, problems."""
    storms = [row for row in rows if isinstance(row, Group)]
    by: dict[str, dict[str, int]] = {kind: {"chains": 0, "trainer": 0} for kind in KINDS}
    for row in storms:
        for fault in row.faults:
            by[fault.kind][row.ground] += 1
    return {
        "schema": 1,
        "kind": "faults",
        "machine": {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": sys.version.split()[0]},
        "calls": counted([row for row in rows if type(row) is Trial]),
        "seals": counted([row for row in rows if isinstance(row, Sealing)]),
        "storm": {
            "seeds": {name: [row.seed for row in storms if row.ground == name] for name in SHAPES},
            "studies": sum(row.studies for row in storms),
            "faults": {name: sum(by[kind][name] for kind in by) for name in SHAPES},
            "kinds": by,
            "stopped_in": Counter(f.met for row in storms for f in row.faults if f.kind.startswith("worker stopped")),
            "workers_ended": sum((Counter(row.ends) for row in storms), Counter()),
            "problems": [problem for row in storms for problem in row.problems],
        },
    }


def counted(trials: Sequence[Trial]) -> dict[str, Any]:
    """Trials by error and by kind of call, and their problems."""
    struck = [row for row in trials if row.struck]
    return {
        "trials": len(trials),
        "struck": len(struck),
        "for_good": sum(row.for_good for row in struck),
        "errors": Counter(row.error for row in struck),
        "calls": Counter(row.what.split(" ")[0] for row in struck if not row.for_good),
        "exits": Counter(str(row.exit) for row in struck),
        "problems": [problem for row in trials for problem in row.problems],
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("calls", "seal", "storm", "table"), required=True)
    parser.add_argument("--ground", choices=tuple(SHORT), default="trainer", help="of the calls")
    parser.add_argument("--errors", choices=("turns", "all"), default="turns")
    parser.add_argument("--chains", type=int, default=0, help="faults of the storm on chains of hashes")
    parser.add_argument("--trainer", type=int, default=0, help="faults of the storm on the real trainer")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm/scaling-faults"))
    parser.add_argument("--progress", type=Path, default=HERE / "faults.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "faults.json")
    options = parser.parse_args()
    text = options.progress.read_bytes() if options.progress.exists() else b""
    rows: list[Row] = msgspec.json.Decoder(Row).decode_lines(text)
    if options.part == "table":
        options.out.write_text(json.dumps(table(rows), indent=1) + "\n")
        return
    options.folder = options.folder / options.part
    options.folder.mkdir(parents=True, exist_ok=True)
    under_library(options.folder)
    part = {"calls": calls, "seal": seals, "storm": storm}[options.part]
    with options.progress.open("a") as file:
        for row in part(options, rows):
            print(msgspec.json.encode(row).decode(), file=file, flush=True)
            print(msgspec.json.encode(row).decode(), flush=True)
    shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
