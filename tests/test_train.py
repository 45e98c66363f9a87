"""The trainer on a real, tiny study: exact resumption, one compilation, extension, divergence, evaluation."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import handmade
import jax
import jsonschema
import msgspec
import numpy as np
import pytest
from refusals import refuses

from scaling import data, plan, study, train
from scaling import run as runs
from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.errors import Code, UserError
from scaling.evaluate import term_summary
from scaling.records import Record, canonical, records, schema, write_json
from scaling.records.types import StepRow

ROOT = Path(__file__).parents[1]
ODD: tuple[Any, ...] = (None, True, -1, 1.5, "x", [], [[1]], {}, {"a": {}})


def prepare(config, workdir: Path):
    made = plan.make(study.resolve(config))
    plan.write(made, workdir)
    return made.programs


def go(program, workdir: Path, stop_after: int | None = None) -> int:
    """Executes a program; stops it at the ``stop_after``-th chunk. Returns the chunks that it took."""
    ticks = 0

    def progress(run: str, flops: int) -> None:
        nonlocal ticks
        ticks += 1

    train.execute(
        program, workdir, progress=progress, should_stop=lambda: stop_after is not None and ticks >= stop_after
    )
    return ticks


def outcome(workdir: Path) -> dict[str, tuple]:
    """What must not depend on interruptions: final losses, by document, and every training loss."""
    found = {}
    for record in records(workdir):
        result = record.result
        assert result is not None
        curve = tuple((row.step, row.loss) for row in record.steps())
        found[record.path.name] = (result.status, canonical(result.evaluation), curve[-1])
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run of the tiny study."""
    from conftest import tiny_config

    workdir = tmp_path_factory.mktemp("undisturbed")
    (program,) = prepare(tiny_config(), workdir)
    go(program, workdir)
    return workdir, program


def test_records_obey_the_schema(finished):
    workdir, program = finished
    described = schema.json_schema()
    for record in records(workdir):
        for name in ("manifest.json", "result.json"):
            content = json.loads((record.path / name).read_text())
            jsonschema.validate(content, {**described, **described["properties"][name]})
    assert {record.manifest.kind for record in records(workdir)} == {"stem", "branch"}
    first, second = (Record(workdir / "runs" / run.run).result for run in program.runs[1:])
    assert first is not None and second is not None
    assert second.evaluation["loss"].value < first.evaluation["loss"].value
    assert second.tokens == 48 * 60 and second.decayed and (second.tokens_per_second or 0) > 0
    term = second.evaluation["loss"]
    assert term.positions is not None and term.sample is not None
    by = {name: np.array(values) for name, values in msgspec.structs.asdict(term.positions).items()}
    assert by["upto"].tolist() == [2, 8, 12] and by["count"].sum() == term.count  # a target in each block of three
    assert by["count"] @ by["value"] == pytest.approx(term.sample * term.count, rel=1e-9)
    excess = term.value - (first_manifest(workdir).data.entropy or 0.0)
    assert by["count"] @ by["excess"] == pytest.approx(excess * term.count, rel=1e-9)


def first_manifest(workdir):
    return records(workdir)[0].manifest


def test_a_finished_program_does_nothing(finished):
    workdir, program = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}
    assert go(program, workdir) == 0
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*") if path.is_file()}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_interrupted_run_ends_as_an_undisturbed_one(finished, tiny, tmp_path, every):
    (program,) = prepare(tiny(), tmp_path)
    stops = 0
    while True:
        try:
            go(program, tmp_path, stop_after=every)
            break
        except train.Interrupted:
            stops += 1
    assert stops >= 2
    assert outcome(tmp_path) == outcome(finished[0])


def test_rows_are_the_undisturbed_ones_where_a_branch_was_final_before(finished, tiny, tmp_path):
    """A row is the mean since the row before, and a chunk ends where a branch starts: also where that one has ended."""
    (program,) = prepare(tiny(), tmp_path)
    stem, first, *others = (spec.run for spec in program.runs)
    shutil.copytree(finished[0] / "runs" / first, tmp_path / "runs" / first)  # all else is lost
    go(program, tmp_path)
    assert others and program.runs[1].branch_step % 10  # within a chunk
    curves = [
        [(row.step, row.loss) for row in Record(workdir / "runs" / stem).steps()] for workdir in (tmp_path, finished[0])
    ]
    assert curves[0] == curves[1]


CHILD = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from scaling import train
from scaling.records import read_study
workdir = Path(sys.argv[1])
program, = read_study(workdir).programs
train.execute(program, workdir, progress=lambda run, flops: print("tick", flush=True), should_stop=lambda: False)
"""


def child(workdir: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.system
def test_sigkill_at_any_moment_changes_nothing(tiny, tmp_path):
    """Two runs in one-core processes, one killed wherever it happens to be: mid-chunk, mid-checkpoint, mid-result."""

    def config():
        made = tiny(grid=study.block("grid", "known", (0,), tokens=(48 * 200, 48 * 400)))
        made.checkpoint_seconds = 0.0  # a checkpoint at every chunk, so that kills hit them too
        return made

    for name in ("calm", "killed"):
        prepare(config(), tmp_path / name)
    with child(tmp_path / "calm") as calm:
        assert calm.wait() == 0
    rng = np.random.default_rng(0)
    kills = 0
    for _ in range(4):
        with child(tmp_path / "killed") as process:
            assert process.stdout is not None
            for _ in range(int(rng.integers(1, 8))):
                process.stdout.readline()
            time.sleep(float(rng.uniform(0, 0.05)))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
    assert kills >= 3
    with child(tmp_path / "killed") as process:
        assert process.wait() == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")


def test_one_compilation_serves_every_rate_decay_seed_schedule_and_length(tiny, tmp_path):
    block = study.block
    made = tiny(
        grid=block("grid", "known", (0,), tokens=(1440, 2880), seeds=(0, 1)),
        rate=block("grid", "known", (0,), tokens=(1440,), recipe={"learning_rate": 0.001, "warmup_steps": 7}),
        decay=block("grid", "known", (0,), tokens=(1440,), recipe={"weight_decay": 0.001, "decay_fraction": 0.5}),
        cosine=block("grid", "known", (0,), tokens=(1920,), recipe={"schedule": "cosine", "final_fraction": 0.2}),
        constant=block("grid", "known", (0,), tokens=(1920,), recipe={"schedule": "constant"}),
    )
    made.model.context = 9  # a shape that no other test compiles
    programs = prepare(made, tmp_path)
    assert len(programs) == 6
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    first, *rest = programs
    runs._trainer.cache_clear()
    go(first, tmp_path)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for program in rest:
            go(program, tmp_path)
        assert runs._trainer.cache_info().misses == 1
        assert compiled == []
    finally:
        jax.monitoring.clear_event_listeners()
    assert all(record.status == "done" for record in records(tmp_path))
    losses = [r.result.evaluation["loss"].value for r in records(tmp_path) if r.result and r.result.evaluation]
    assert len(set(losses)) == len(losses) == 8
    # Whoever compiled is charged with it, once.
    results = {record.path.name: handmade.ended(record) for record in records(tmp_path)}
    paid = {program.program: [results[spec.run].seconds.compile for spec in program.runs] for program in programs}
    trainer = train.trainer_of(first.runs[0].manifest, first.options)
    assert sum(paid.pop(first.program)) == pytest.approx(trainer.compile_seconds) and trainer.compile_seconds > 0
    assert {seconds for program in paid.values() for seconds in program} == {0.0}


def test_more_d_extends_the_stem(finished, tiny, tmp_path):
    (program,) = prepare(tiny(), tmp_path)
    go(program, tmp_path)
    before = outcome(tmp_path)
    stem = program.program
    grown = tiny(grid=study.block("grid", "known", (0,), tokens=(1440, 1920, 2880, 5760)))
    (program,) = prepare(grown, tmp_path)
    assert program.program == stem
    chunks = go(program, tmp_path)
    # 1920 replays the stem from step 21 to 28 and decays 12; 5760 extends it from 42 to 84 and decays 36.
    assert chunks <= 2 + 2 + 6 + 6
    after = outcome(tmp_path)
    assert {name: after[name] for name in before if name != stem} == {n: v for n, v in before.items() if n != stem}
    assert Record(tmp_path / "runs" / stem).manifest.steps == 84
    assert Checkpoints(tmp_path / "runs" / stem / "checkpoints").steps() == [21, 28, 42, 84]
    fresh = tmp_path / "fresh"
    (whole,) = prepare(grown, fresh)
    go(whole, fresh)
    assert outcome(fresh) == after


def test_divergence_ends_a_run_with_a_status(tiny, tmp_path):
    wild = study.block("grid", "known", (0,), tokens=(1440, 2880), recipe={"learning_rate": 1e9})
    (program,) = prepare(tiny(grid=wild), tmp_path)
    go(program, tmp_path)
    results = [record.result for record in records(tmp_path)]
    assert len(results) == 3 and all(result and result.status == "diverged" for result in results)
    assert all(result and "loss" in str(result.reason) for result in results)
    assert go(program, tmp_path) == 0


def test_a_branch_that_leaves_before_its_stem_diverged_is_trained(tiny, tmp_path, monkeypatch):
    def ends() -> dict[int, tuple[str, int, str]]:
        found = {}
        for record in records(tmp_path):
            result = record.result
            assert result is not None
            found[record.manifest.steps] = (result.status, result.steps, str(result.reason))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(runs, "DIVERGENCE_MARGIN", -100.0)  # as if the first chunk of ten steps were far too high
        (program,) = prepare(tiny(), tmp_path)
        go(program, tmp_path)
    assert {(status, steps) for status, steps, _ in ends().values()} == {("diverged", 10)}
    (program,) = prepare(tiny(grid=study.block("grid", "known", (0,), tokens=(48 * 8, 1440, 2880))), tmp_path)
    go(program, tmp_path)
    found = ends()
    assert found.pop(8)[:2] == ("done", 8)
    assert {(status, steps) for status, steps, _ in found.values()} == {("diverged", 10)}
    assert sum("its stem diverged" in reason for *_, reason in found.values()) == 2


def test_the_seconds_of_a_row_hold_the_save_before_it(tiny, tmp_path, monkeypatch):
    config = tiny(grid=study.block("grid", "known", (0,), tokens=(48 * 30,)))
    config.checkpoint_seconds = 0.0  # a checkpoint at every chunk
    (program,) = prepare(config, tmp_path)
    clock = itertools.count(0, 1000)  # each look at it is 1000 s later
    fake = types.SimpleNamespace(monotonic=lambda: float(next(clock)), strftime=time.strftime)
    monkeypatch.setattr(runs, "time", fake)
    go(program, tmp_path)
    rows = [row.seconds for row in Record(tmp_path / "runs" / program.runs[0].run).steps()]
    assert rows[0] < 1000 < rows[1] < 2000


def test_where_a_run_began_is_known_after_any_number_of_starts(tiny, tmp_path):
    """Divergence is told by the first loss of all: also where a kill left rows and no checkpoint."""
    (program,) = prepare(tiny(), tmp_path)
    stem = Record(tmp_path / "runs" / program.program)
    for start in range(3):
        with pytest.raises(train.Interrupted):
            go(program, tmp_path, stop_after=1)
        if start == 0:
            shutil.rmtree(stem.path / "checkpoints")
    assert [row.step for row in stem.events(StepRow)] == [10, 10, 20]
    assert [row.step for row in stem.events(StepRow) if row.first_loss is not None] == [10]


def test_other_data_than_planned_is_refused(tiny, tmp_path):
    (program,) = prepare(tiny(), tmp_path)
    with refuses(Code.CHANGED, "data"):
        go(handmade.edited(program, data={**program.data, "world": 5}), tmp_path)
    assert records(tmp_path) == []


@pytest.mark.parametrize("field", ["config", "recipe", "adapt", "distill", "frozen"])
def test_what_a_manifest_cannot_mean_is_a_refusal(field: str, tiny, tmp_path: Path):
    """Of a study without a hash: each value, and the whole, as something else. No traceback, and no attempt."""
    (program,) = prepare(tiny(), tmp_path)
    spec, refused = program.runs[0], set()
    held = msgspec.to_builtins(getattr(spec.manifest, field))
    inside = [{**held, name: other} for name in held for other in ODD] if isinstance(held, dict) else []
    for value in (*inside, *({**held, "colour": other} for other in ODD if isinstance(held, dict)), *ODD):
        written = {**msgspec.to_builtins(spec.manifest), field: value}
        try:
            manifest = msgspec.convert(written, type(spec.manifest), strict=True)
        except msgspec.ValidationError:
            continue  # it is not read
        one = handmade.edited(program, runs=(handmade.edited(spec, manifest=manifest),))
        try:
            runs.Run(one.runs[0], one, tmp_path).batches(0, 1)
        except UserError as error:
            refused.add(error.code)
    assert refused & {Code.INVALID, Code.UNKNOWN} or field == "frozen"


def test_a_mesh_that_does_not_fit_is_refused(tiny, tmp_path):
    config = tiny()
    config.mesh.data = config.recipe.batch = config.evaluation.batch = 64
    (program,) = prepare(config, tmp_path)
    with refuses(Code.ENVIRONMENT, "mesh"):
        go(program, tmp_path)


def test_the_final_state_is_kept_on_request(tiny, tmp_path):
    config = tiny()
    config.keep_final = True
    (program,) = prepare(config, tmp_path)
    go(program, tmp_path)
    for run in program.runs[1:]:
        assert Checkpoints(tmp_path / "runs" / run.run / "checkpoints").steps() == [run.steps]


class TestCheckpoints:
    STATE: ClassVar = {"params": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "step": np.int32(4)}

    def abstract(self):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self.STATE)

    def store(self, root: Path) -> Checkpoints:
        store = Checkpoints(root)
        for step in (10, 20, 30):
            state = jax.tree.map(lambda x, step=step: jax.numpy.asarray(x + step), self.STATE)
            store.save(step, state)
        return store

    def test_the_newest_that_verifies_is_loaded(self, tmp_path):
        store = self.store(tmp_path)
        assert store.steps() == [10, 20, 30]
        sidecar = json.loads((tmp_path / "30.json").read_text())
        sidecar["leaves"]["['params']['w']"] = "0" * 64  # as if a bit had flipped in the array
        del sidecar["sha256"]  # those of older versions have none
        write_json(tmp_path / "30.json", sidecar)
        found = store.load(self.abstract())
        assert found is not None and found[0] == 20 and float(found[1]["params"]["w"][0, 0]) == 20
        assert "differ from their hash" in store.problems[0]
        for file in (tmp_path / "20").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
        found = store.load(self.abstract())
        assert found is not None and found[0] == 10
        (tmp_path / "10.json").unlink()  # a save that was cut short
        assert store.load(self.abstract()) is None

    def test_a_relative_path_will_do(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        self.store(Path("below/it"))
        assert Checkpoints(tmp_path / "below" / "it").steps() == [10, 20, 30]

    def test_at_most_and_keep(self, tmp_path):
        store = self.store(tmp_path)
        found = store.load(self.abstract(), at_most=25)
        assert found is not None and found[0] == 20
        shutil.rmtree(tmp_path / "20")  # lost; its hashes must not stay, to be called damaged
        store.keep([10])
        assert store.steps() == [10] and sorted(p.name for p in tmp_path.iterdir()) == ["10", "10.json"]

    def test_another_configuration_is_refused(self, tmp_path):
        store = self.store(tmp_path)
        with refuses(Code.CHANGED, "checkpoint"):
            store.load({"params": {"v": self.abstract()["params"]["w"]}})

    @pytest.mark.parametrize("was", ["['w']", "leaves", '"step": 30', '": "'])
    def test_a_flipped_bit_beside_a_checkpoint_is_damage_and_not_another_configuration(self, tmp_path, was):
        store, path = self.store(tmp_path), tmp_path / "30.json"
        text = path.read_text()
        for at in range(text.index(was), text.index(was) + len(was)):
            path.write_text(text[:at] + chr(ord(text[at]) ^ 2) + text[at + 1 :])
            found = store.load(self.abstract())
            assert found is not None and found[0] in ((20,) if was == "['w']" else (20, 30)), text[at]

    def test_hashes_see_type_and_shape(self):
        zeros = [np.zeros(4, np.float32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32)]
        assert len({leaf_hashes({"x": array})["['x']"] for array in zeros}) == 3


def test_the_known_source_takes_out_its_own_sampling_error():
    rng = np.random.default_rng(0)
    entropy, windows = 2.0, 400
    exact = rng.normal(entropy, 0.5, windows) * 10
    nats = exact + 10 * 0.1 + rng.normal(0, 0.01, windows)
    count, document = np.full(windows, 10.0), np.arange(windows) // 4
    names = [str(index) for index in range(100)]
    plain = term_summary(nats, count, document, names, bytes_per_token=1.0)
    known = term_summary(nats, count, document, names, exact, entropy=entropy)
    assert known.se is not None and plain.se is not None
    assert known.value == pytest.approx(2.1, abs=5 * known.se) and known.se < plain.se / 50
    assert known.sample == plain.value and plain.bits_per_byte == pytest.approx(plain.value / np.log(2))
    means = np.bincount(document, nats) / 40
    assert plain.se == pytest.approx(means.std(ddof=1) / 10, rel=1e-6)
    single = term_summary(nats, count, np.zeros(windows, int), ["one"])
    assert single.se is None and single.value == pytest.approx(plain.value)


def test_loss_by_position_is_exact_on_a_known_source():
    """A learner that sees one token where order 2 needs two pays the conditional entropies' difference, there alone."""
    source: Any = data.load({"source": "markov", "vocab": 4, "order": 2, "concentration": 0.5})
    fixed = source.evaluation(9, 2**17)
    exact, tokens = fixed["reference"].astype(np.float64), fixed["tokens"]
    joint = (source.stationary[:, None] * source.table).reshape(4, 4, 4).sum(axis=0)  # of a token and the next
    one = joint / joint.sum(axis=1, keepdims=True)
    entropy_of_one = float(-(joint * np.log(one)).sum())
    nats = exact.copy()
    nats[:, 1] = -np.log(one[tokens[:, 1], tokens[:, 2]])
    names = (fixed["document"], fixed["documents"], exact)
    found = term_summary(nats, fixed["mask"], *names, entropy=source.entropy, positions=True)
    assert found.positions is not None
    by = {name: np.array(values) for name, values in msgspec.structs.asdict(found.positions).items()}
    windows = len(tokens)
    # The first position has one token to see, and does not count.
    assert by["upto"].tolist() == [2, 4, 8, 9] and by["count"].tolist() == [windows, 2 * windows, 4 * windows, windows]
    means = np.stack([np.bincount(fixed["document"], nats[:, t]) for t in (1, 8)]) / 16
    assert by["se"][[0, 3]] == pytest.approx(means.std(axis=1, ddof=1) / math.sqrt(means.shape[1]), rel=1e-6)
    true = np.array([entropy_of_one, *[source.entropy] * 3])
    assert entropy_of_one > source.entropy + 20 * by["se"][0]
    assert (np.abs(by["value"] - true) < 4 * by["se"]).all()
    assert abs(by["excess"][0] - (entropy_of_one - source.entropy)) < 4 * by["excess_se"][0]
    assert (by["excess"][1:] == 0).all() and (by["excess_se"][1:] == 0).all()
    assert found.value == pytest.approx(source.entropy + by["excess"][0] / 8, rel=1e-12)


HOW = [{"evaluation": 32}, {"evaluation": 20}, {"evaluation": 7}, {"microbatches": 4}]
DRAWN = [
    ("bert", {"objective": "diffusion"}),
    ("bert", {"objective": "mlm", "nsp": True}),
    ("bert", {"objective": "mlm", "unit": "span"}),
    ("t5", {}),
    ("vit", {"objective": "rotation"}),
    ("vit", {"objective": "mim"}),
]


@pytest.mark.system
@pytest.mark.parametrize(("family", "fields"), DRAWN)
def test_one_identity_is_one_loss(tmp_path, tiny, family, fields):
    """However training and evaluation are split: what is hidden, turned or drawn is keyed by example."""
    found = []
    for number, how in enumerate(HOW):
        config = tiny(grid=study.block("grid", "known", (0,), tokens=(48 * 24,)))
        config.family, config.evaluation.tokens = family, 4096
        if family == "vit":
            config.data.known = {"source": "scenes"}
            config.cells.grid.tokens = (64 * 4 * 24,)
            del config.model.context
        config.model.update(fields)
        config.evaluation.batch = how.get("evaluation", 32)
        config.execution.microbatches = how.get("microbatches", 1)
        (program,) = prepare(config, tmp_path / str(number))
        go(program, tmp_path / str(number))
        done = [(r.manifest.identity, r.result) for r in records(tmp_path / str(number)) if r.manifest.kind != "stem"]
        (identity, result), *_ = done
        assert result is not None
        found.append((identity, {name: term.value for name, term in result.evaluation.items()}))
    assert len({identity for identity, _ in found}) == 1
    for _, values in found[1:]:
        assert values == pytest.approx(found[0][1], rel=1e-5)
