"""Runs that start from runs: identity, order, what is inherited, what is refused, and the same bits after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from chain_study import ROOT, ending, program, wait_for
from chain_study import chain_study as chain_study
from conftest import tiny_config
from refusals import refuses

from analysis.table import runs
from scaling import plan, study, train
from scaling.cli import main
from scaling.errors import Code
from scaling.records import Record, canonical, write_json
from scaling.records.order import in_order
from scaling.records.types import Parent, ProgramSpec, RunSpec
from scaling.run import Run
from scaling.status import StatusReader
from scaling.worker import EXIT_DONE, lease

STEP = 48  # tokens of a step of the tiny study


def config(tokens: tuple[int, ...] = (STEP * 10, STEP * 20), **child: Any) -> Any:
    """Two seeds on one world, and children of the first on another."""
    start = {"init_from": {"*": "pretrain"}, **child}
    made: Any = tiny_config(
        pretrain=study.block("grid", "known", (0,), tokens=(STEP * 20,), seeds=(0, 1)),
        tuned=study.block("grid", "other", (0,), tokens=tokens, **start),
    )
    made.data.other = {"source": "zipf", "base": 4, "targets": 8, "world": 1}
    return made


def specs(made: plan.Plan, dataset: str) -> list[RunSpec]:
    """The cells of a data set, by seed and D."""
    found = [spec for each in made.programs for spec in each.runs if spec.manifest.dataset == dataset]
    return sorted((s for s in found if s.kind != "stem"), key=lambda spec: (spec.manifest.seed, spec.steps))


def interrupted(each: ProgramSpec, workdir: Path, stop_after: int | None) -> bool:
    """Trains a program; whether it was stopped, at its ``stop_after``-th chunk."""
    chunks: list[str] = []

    def stop() -> bool:
        return stop_after is not None and len(chunks) >= stop_after

    try:
        train.execute(each, workdir, progress=lambda run, flops: chunks.append(run), should_stop=stop)
    except train.Interrupted:
        return True
    return False


def train_all(programs: tuple[ProgramSpec, ...], workdir: Path, stop_after: int | None = None) -> int:
    """Trains programs in their order, stopped at every ``stop_after``-th chunk; returns the number of stops."""
    stops = 0
    for each in programs:
        while interrupted(each, workdir, stop_after):
            stops += 1
    return stops


@pytest.fixture(scope="module")
def planned() -> plan.Plan:
    return plan.make(study.resolve(config()))


@pytest.fixture(scope="module")
def finished(planned: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, trained without a disturbance, but for the second seed, from which nothing starts."""
    workdir = tmp_path_factory.mktemp("parents")
    plan.write(planned, workdir)
    train_all(tuple(each for each in planned.programs if each.runs[0].manifest.seed == 0), workdir)
    return workdir


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def start_again(workdir: Path, made: plan.Plan, dataset: str = "other") -> ProgramSpec:
    """The program of a data set, whose runs begin anew."""
    (program,) = (each for each in made.programs if each.runs[0].manifest.dataset == dataset)
    for spec in program.runs:
        shutil.rmtree(workdir / "runs" / spec.run)
    return program


# --- identity and order


def test_a_child_has_an_identity_of_its_own_and_its_parent_keeps_the_old_one(planned: plan.Plan):
    (parent, other), (child, longer) = specs(planned, "known"), specs(planned, "other")
    drawn = plan.make(study.resolve(config(init_from={})))
    assert [spec.manifest.identity for spec in specs(drawn, "known")] == [
        spec.manifest.identity for spec in (parent, other)
    ]
    assert child.manifest.identity not in {spec.manifest.identity for spec in specs(drawn, "other")}
    assert (parent.keep, other.keep, child.keep) == (True, False, False)
    (known,) = child.manifest.parents
    assert (known.run, known.workdir, known.identity) == (parent.run, None, parent.manifest.identity)
    assert known.parts == {part: part for part in ("embedding", "norm", "stack")} and known.result is None
    # Apart, and never added to what the child costs.
    assert child.manifest.parent_flops == known.flops == parent.manifest.flops.training
    assert [spec.manifest.flops for spec in specs(drawn, "other")] == [child.manifest.flops, longer.manifest.flops]
    # Another parent is another child, and another stem.
    second = plan.make(study.resolve(config(init_from={"*": {"block": "pretrain", "seed": 1}})))
    names = [{spec.run for each in made.programs for spec in each.runs} for made in (planned, second)]
    assert {name.split("-")[0] for name in names[0] & names[1]} == {"known"} and len(names[0] - names[1]) == 3
    by_name = plan.make(study.resolve(config(init_from={"*": parent.run})))
    assert {spec.run for each in by_name.programs for spec in each.runs} == names[0]


def test_parents_come_first_and_a_chain_counts_each_ancestor_once():
    written: Any = tiny_config(
        base=study.block("grid", "known", (0,), tokens=(STEP * 10,)),
        middle=study.block("grid", "second", (0,), tokens=(STEP * 20,), init_from={"*": "base"}),
        last=study.block("grid", "third", (0,), tokens=(STEP * 40,), init_from={"*": "middle", "norm": "base"}),
    )
    for world, name in enumerate(("second", "third"), 1):
        written.data[name] = {"source": "zipf", "base": 4, "targets": 8, "world": world}
    made = plan.make(study.resolve(written))
    assert [each.runs[0].manifest.dataset for each in made.programs] == ["known", "second", "third"]
    base, middle, last = (specs(made, name)[0].manifest for name in ("known", "second", "third"))
    assert {parent.run for parent in last.parents} == {base.run, middle.run}
    assert last.parent_flops == base.flops.training + middle.flops.training
    rows = {row.dataset: row for row in made.rows()}
    assert rows["third"].parents == tuple(parent.run for parent in last.parents)
    assert made.totals.flops == sum(each.flops for each in made.programs)
    assert made.wall(3) == pytest.approx(made.totals.device_seconds)  # a chain: more workers do not help


def child_of(name: str, parent: str, **fields: Any) -> ProgramSpec:
    made = program(name, **fields)
    known = (Parent(run=parent, parts={"stack": "stack"}, identity="0" * 12, flops=1),)
    edit = handmade.edited
    return edit(made, runs=tuple(edit(spec, manifest=edit(spec.manifest, parents=known)) for spec in made.runs))


def test_programs_are_in_the_order_of_the_longest_chain():
    listed = [
        program("alone", seconds=15),
        program("short", seconds=5),
        child_of("long", "short", seconds=20),
        child_of("free", "nobody", seconds=9),
        program("zero", seconds=0),
        child_of("alpha", "zero", seconds=0),
    ]
    order = [each.program for each in in_order(listed)]
    assert order == ["short", "long", "alone", "free", "zero", "alpha"]
    circle = [child_of("a", "b"), child_of("b", "a")]
    assert {each.program for each in in_order(circle)} == {"a", "b"}


@pytest.mark.system
def test_a_child_waits_for_its_parent_and_an_idle_worker_stays_for_it(study):
    study.plan(program("first", seconds=1), *(child_of(f"child{i}", "first", seconds=50) for i in range(3)))
    reader = StatusReader(study.workdir)
    assert next(row.run for row in reader.read().runs) == "first"
    assert reader.read(3).seconds.eta == pytest.approx(51)  # a chain of two, though three workers could share
    mine = lease.acquire(study.record("first").path)
    assert mine is not None
    with ending(study.worker("--idle=0.1")) as process:
        wait_for(lambda: (study.workdir / "logs").exists() and "worker on core" in study.log(), 60)
        time.sleep(2.5)
        # Who holds the parent could take one child after it: for the other two, this worker stays.
        assert process.poll() is None and not study.trace()
        mine.release()
        assert process.wait(60) == EXIT_DONE
    study.assert_finished()
    assert [line.split()[0] for line in study.trace()][:10] == ["first"] * 10


@pytest.mark.system
def test_an_idle_worker_leaves_the_only_child_to_who_trains_its_parent(study):
    study.plan(program("first"), child_of("child", "first"))
    mine = lease.acquire(study.record("first").path)
    assert mine is not None
    with mine, ending(study.worker("--idle=0.1")) as process:
        assert process.wait(60) == EXIT_DONE
    assert not study.trace()


@pytest.mark.system
def test_a_parent_that_failed_does_not_make_its_child_wait_for_ever(study):
    study.plan(program("bad", reject=1), child_of("child", "bad"))
    with ending(study.worker()) as process:
        assert process.wait(30) == EXIT_DONE
    assert study.record("bad").status == "rejected"
    assert study.record("child").status == "done"  # this trainer of chains does not look; the real one refuses


# --- what is inherited


def test_a_child_without_steps_has_the_loss_of_its_parent_to_the_bit(finished: Path, planned: plan.Plan):
    (parent, _), (child, _) = specs(planned, "known"), specs(planned, "other")
    (ended,) = (each for each in planned.programs if parent in each.runs)
    # The child's program on the parent's data.
    asked = handmade.edited(child.manifest, data=parent.manifest.data, dataset="known")
    spec = handmade.edited(child, manifest=asked)
    run = Run(spec, handmade.edited(ended, runs=(spec,)), finished)
    state = run.initial()
    result = handmade.ended(Record(finished / "runs" / parent.run))
    assert canonical(run.evaluate(state)) == canonical(result.evaluation)
    assert int(state["step"]) == 0 and not np.any(np.asarray(state["opt"][1].mu["embedding"]))


def test_a_child_says_what_it_started_from(finished: Path, planned: plan.Plan):
    (parent, _), children = specs(planned, "known"), specs(planned, "other")
    hashed = (finished / "runs" / parent.run / "result.json.sha256").read_text().split()[0]
    for spec in children:
        record = Record(finished / "runs" / spec.run)
        assert handmade.ended(record).parents == (hashed,) and record.manifest.parents[0].result == hashed
        assert not list((record.path / "checkpoints").glob("*"))
    assert handmade.ended(Record(finished / "runs" / parent.run)).parameters is not None
    losses = [handmade.ended(Record(finished / "runs" / spec.run)).evaluation["loss"].value for spec in children]
    drawn = plan.make(study.resolve(config(init_from={})))
    assert losses[1] < losses[0] and len(drawn.programs) == len(planned.programs)
    rows = {row.run: row.parents for row in StatusReader(finished).read().runs}
    assert rows[children[0].run] == (parent.run,) and rows[parent.run] == ()


def test_an_interrupted_child_ends_as_an_undisturbed_one(copy: Path, finished: Path, planned: plan.Plan):
    program = start_again(copy, planned)
    assert train_all((program,), copy, stop_after=1) >= 2
    for spec in program.runs[1:]:
        before, after = (handmade.ended(Record(place / "runs" / spec.run)) for place in (finished, copy))
        assert canonical(before.evaluation) == canonical(after.evaluation) and before.parents == after.parents


def test_a_part_may_be_drawn_and_another_be_called_otherwise(finished: Path):
    made = plan.make(study.resolve(config(init_from={"*": "pretrain", "embedding": ""})))
    program = next(each for each in made.programs if each.runs[0].manifest.dataset == "other")
    assert program.runs[0].manifest.parents[0].parts == {"norm": "norm", "stack": "stack"}
    run = Run(program.runs[0], program, finished)
    drawn, state = run.trainer.init(0)["params"], run.initial()["params"]
    assert np.array_equal(state["embedding"], drawn["embedding"]) and not np.array_equal(state["norm"], drawn["norm"])


def test_a_parent_of_another_workdir_is_known_by_its_result(finished: Path, planned: plan.Plan, tmp_path: Path):
    parent = specs(planned, "known")[0]
    start = {"*": {"workdir": str(finished), "run": parent.run}}
    child = config(tokens=(STEP * 10,), init_from=start)
    del child.cells["pretrain"]
    made = plan.make(study.resolve(child))
    (spec,) = specs(made, "other")
    (known,) = spec.manifest.parents
    assert known.workdir == str(finished) and known.result is not None
    assert spec.manifest.identity != specs(planned, "other")[0].manifest.identity
    assert spec.manifest.parent_flops == parent.manifest.flops.training and not made.programs[0].parents
    # A copy elsewhere is the same parent, and so the same child.
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    child.cells.tuned.init_from = {"*": {"workdir": str(moved), "run": f"{parent.run}/"}}  # as a shell completes it
    again = plan.make(study.resolve(child))
    assert specs(again, "other")[0].run == spec.run
    plan.write(again, tmp_path / "work")
    train_all(again.programs, tmp_path / "work")
    mine = handmade.ended(Record(tmp_path / "work" / "runs" / spec.run))
    own = handmade.ended(Record(finished / "runs" / specs(planned, "other")[0].run))
    assert canonical(mine.evaluation) == canonical(own.evaluation) and mine.parents == own.parents
    assert not any("again" in text for text in again.warnings)
    del child.data.other.world  # that of its parent
    assert any("again" in text for text in plan.make(study.resolve(child)).warnings)


def test_a_parent_whose_family_had_other_fields_is_refused(copy: Path, planned: plan.Plan):
    record = Record(copy / "runs" / specs(planned, "known")[0].run)
    older = {**record.manifest.config, "bias": True}
    write_json(record.path / "manifest.json", handmade.edited(record.manifest, config=older))
    child = config(tokens=(STEP * 10,), init_from={"*": {"workdir": str(copy), "run": record.path.name}})
    with refuses(Code.UNKNOWN, f"{record.path.name}.config.bias"):
        study.resolve(child)


# --- what is refused


@pytest.mark.parametrize(
    ("init_from", "code"),
    [
        ({"*": "nowhere"}, Code.UNKNOWN),
        ({"trunk": "pretrain"}, Code.UNKNOWN),
        ({"stack": {"block": "pretrain", "part": "tail"}}, Code.UNKNOWN),
        ({"stack": {"block": "pretrain", "part": "norm"}}, Code.INVALID),
        ({"*": {"block": "pretrain", "part": "norm"}}, Code.CONFLICT),
        ({"*": {"block": "pretrain", "seed": 7}}, Code.MISSING),
        ({"*": {"block": "pretrain", "tokens": 7.0}}, Code.MISSING),
        ({"*": {"block": "pretrain", "run": "x"}}, Code.CONFLICT),
        ({"*": {}}, Code.CONFLICT),
        ({"*": {"blok": "pretrain"}}, Code.UNKNOWN),
        ({"*": {"block": "pretrain", "seed": -2}}, Code.INVALID),
        ({"*": {"block": "tuned"}}, Code.CONFLICT),  # from itself
        ({"*": {"workdir": "nowhere", "run": "x"}}, Code.MISSING),
        ({"*": {"workdir": "nowhere", "run": "runs/x"}}, Code.INVALID),
        ({"*": 3}, Code.INVALID),
        ("pretrain", Code.INVALID),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_planned(init_from: object, code: Code):
    with refuses(code):
        study.resolve(config(tokens=(STEP * 10,), init_from=init_from))


def test_a_circle_several_candidates_mixed_arms_and_leaks_are_refused():
    circle = config(tokens=(STEP * 10,))
    circle.cells.pretrain.init_from = {"*": "tuned"}
    circle.cells.pretrain.seeds = (0,)
    with refuses(Code.CONFLICT, value="pretrain <- tuned <- pretrain"):
        study.resolve(circle)
    several = config()
    several.cells.pretrain.tokens = (STEP * 10, STEP * 20)
    with refuses(Code.CONFLICT, "cells.tuned.init_from.*", "pretrain"):
        study.resolve(several)
    several.cells.tuned.init_from = {"*": {"block": "pretrain", "tokens": STEP * 10.1}}
    parents = [start.parent for cell in study.resolve(several).cells for start in cell.start]
    assert {parent.tokens for parent in parents if isinstance(parent, study.Cell)} == {STEP * 10}
    mixed = config()
    mixed.cells.scratch = study.block("grid", "other", (0,), tokens=(STEP * 10,))
    with refuses(Code.MIXED, value="other"):
        study.resolve(mixed)
    leak = config()
    leak.cells.pretrain.role = "holdout"
    with refuses(Code.CONFLICT, "init_from"):
        study.resolve(leak)
    wider = config()
    wider.cells.tuned.model = {"width": 16}
    with refuses(Code.INVALID, "cells.tuned.init_from.embedding"):
        study.resolve(wider)


def test_a_child_that_sees_its_parents_examples_again_is_warned_of():
    same = config()
    same.data.other = {"source": "zipf", "base": 4, "targets": 8}
    assert any("again" in text for text in plan.make(study.resolve(same)).warnings)
    same.cells.tuned.seeds = (5,)
    same.cells.tuned.init_from = {"*": {"block": "pretrain", "seed": 0}}
    assert not any("again" in text for text in plan.make(study.resolve(same)).warnings)


def test_a_lost_failed_or_changed_parent_is_refused_in_one_line(copy: Path, planned: plan.Plan):
    program, parent = start_again(copy, planned), specs(planned, "known")[0].run
    folder = copy / "runs" / parent

    def refused(code: Code) -> None:
        with refuses(code) as caught:
            train_all((program,), copy)
        assert "\n" not in str(caught.value)

    kept = {name: (folder / name).read_bytes() for name in ("result.json", "result.json.sha256")}
    sidecar = next((folder / "checkpoints").glob("*.json"))
    hashes = sidecar.read_text()
    sidecar.unlink()
    refused(Code.MISSING)  # of its parameters
    first = next(path for path in json.loads(hashes)["leaves"] if "params" in path)
    other = json.loads(hashes.replace(json.loads(hashes)["leaves"][first], "0" * 64))
    del other["sha256"]  # as older versions wrote it; else the sidecar itself would be damaged
    write_json(sidecar, other)
    refused(Code.CHANGED)  # they are not those that it ended with
    sidecar.write_text(hashes)
    (folder / "result.json").write_bytes(kept["result.json"].replace(b'"done"', b'"failed"'))
    refused(Code.INVALID)
    (folder / "result.json").write_bytes(kept["result.json"] + b"\n")
    refused(Code.DAMAGED)
    (folder / "result.json").unlink()
    refused(Code.MISSING)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    # It began from this parent: then another takes its place.
    with pytest.raises(train.Interrupted):
        train.execute(program, copy, progress=lambda *_: None, should_stop=iter((False, True)).__next__)
    result = handmade.ended(Record(folder))
    for name in kept:
        (folder / name).unlink()
    assert Record(folder).finish(handmade.edited(result, finished="later"))
    refused(Code.CHANGED)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    train_all((program,), copy)


def test_a_parent_that_was_trained_before_it_had_children_is_refused_when_they_are_planned(tmp_path: Path):
    alone = config(init_from={})
    del alone.cells["tuned"]
    made = plan.make(study.resolve(alone))
    plan.write(made, tmp_path)
    record = Record(tmp_path / "runs" / specs(made, "known")[0].run)
    record.begin(specs(made, "known")[0].manifest)
    record.finish(handmade.result(1.5))
    with refuses(Code.MISSING, "init_from", record.path.name):
        plan.make(study.resolve(config()), tmp_path)


@pytest.mark.system
def test_the_shell_trains_a_graph_and_a_kill_changes_nothing(tmp_path, monkeypatch, capsys, finished, planned):
    """A worker that is killed, then two: the same losses as one process gave; then nothing is damaged."""
    monkeypatch.chdir(tmp_path)
    work = tmp_path / "work"
    plan.write(planned, work)
    command = [sys.executable, "-m", "scaling.worker", f"--workdir={work}", "--core=all"]
    with subprocess.Popen(command, cwd=ROOT) as first:
        try:
            wait_for(lambda: list(work.glob("runs/known*/result.json")), 300)
        finally:
            first.send_signal(signal.SIGKILL)
    assert main(["run", "--workdir=work", "--workers=2"]) == 0
    for spec in [specs(planned, "known")[0], *specs(planned, "other")]:
        mine, own = (handmade.ended(Record(place / "runs" / spec.run)) for place in (work, finished))
        # Workers are bound to one core, and the order of a sum may depend on the number of threads.
        assert mine.status == "done" and mine.evaluation["loss"].value == pytest.approx(own.evaluation["loss"].value)
    table = runs.load(work, dataset="other").table
    parent = specs(planned, "known")[0].manifest.flops.training
    assert table["C_parents"].tolist() == [parent, parent] and "C_parents" not in runs.load(work).table
    assert table["C"].tolist() == [spec.manifest.flops.training for spec in specs(planned, "other")]
    assert main(["verify", "work"]) == 0
    capsys.readouterr()
    assert main(["status", "work"]) == 0 and "starts from" in capsys.readouterr().out
