"""Finished runs, evaluated by themselves: on their own data, on other data, in another dtype, in few bits."""

import contextlib
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import msgspec
import numpy as np
import pytest
import test_distill
from conftest import tiny_config
from refusals import refuses
from test_parents import train_all

from scaling import evaluations, families, parts, plan, quantise, study, train, verbs
from scaling.cli import main, parse
from scaling.errors import Code
from scaling.evaluations import Finished, Question
from scaling.records import Record, read_typed
from scaling.records.typed import UPDATE
from scaling.records.types import EvaluationRecord, ProgramSpec, RunSpec

STEP = 48  # tokens of a step of the tiny study
OTHER = {"source": "zipf", "base": 4, "targets": 8, "world": 1}


def config(**settings: Any) -> Any:
    made = tiny_config(
        grid=study.block("grid", "known", (0,), tokens=(STEP * 10, STEP * 20)),
        held=study.block("grid", "known", (0,), tokens=(STEP * 15,), seeds=(1,), role="holdout"),
    )
    made.keep_final = True
    for name, value in settings.items():
        made[name] = value
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, trained."""
    workdir = tmp_path_factory.mktemp("evaluations")
    planned = plan.make(study.resolve(config()))
    plan.write(planned, workdir)
    for each in planned.programs:
        train.execute(each, workdir, progress=lambda run, flops: None, should_stop=lambda: False)
    return workdir


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def specs(workdir: Path) -> list[tuple[ProgramSpec, RunSpec]]:
    """A stem and its two branches; then the stem of the held-out run, and that run."""
    from scaling.records import read_study

    found = [(each, spec) for each in read_study(workdir).programs for spec in each.runs]
    return sorted(found, key=lambda pair: (pair[1].manifest.seed, pair[1].kind != "stem", pair[1].steps))


def opened(workdir: Path, index: int = 1, step: int | None = None) -> Finished:
    return Finished(workdir, *specs(workdir)[index], step)


def cli(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["run", "--evaluate", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def audited(workdir: Path) -> list[dict[str, str]]:
    """What `scaling verify` finds."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(["verify", str(workdir), "--json"])
    return json.loads(out.getvalue())["findings"]


def files(workdir: Path) -> dict[str, bytes]:
    return {str(path.relative_to(workdir)): path.read_bytes() for path in workdir.rglob("*") if path.is_file()}


# --- the run's own question, and others


def test_the_result_comes_back_bit_by_bit_and_stays(copy: Path):
    before = files(copy)
    for index in (1, 2):
        each = opened(copy, index)
        record, result = each.evaluate(Question()), Record(copy / "runs" / each.spec.run).result
        assert result is not None and record.reproduces is True
        assert record.evaluation == result.evaluation and record.parameters == result.parameters
        assert record.evaluation["loss"].positions is not None
    written = {path: content for path, content in files(copy).items() if path not in before}
    assert {**before, **written} == files(copy) and len(written) == 2
    assert all("/evaluations/" in path and json.loads(content)["step"] in (10, 20) for path, content in written.items())
    # A second time it is read, not computed.
    again = opened(copy, 2).evaluate(Question())
    assert again == record and files(copy) == {**before, **written}


def test_other_data_and_steps_are_other_records(copy: Path):
    each, stem = opened(copy), opened(copy, 0)
    plain = each.evaluate(Question())
    other = each.evaluate(Question("another world", OTHER))
    assert other.dataset == "another world" and other.data.sha256 != plain.data.sha256 and other.reproduces is None
    assert other.evaluation["loss"].value > plain.evaluation["loss"].value + 0.01  # the worlds share no rule
    assert other.parameters == plain.parameters and other.result == plain.result
    # A stem evaluates nothing when it is trained; by itself it can be.
    record = stem.evaluate(Question())
    assert record.step == stem.spec.steps and record.reproduces is None and record.parameters != plain.parameters
    assert len(list((copy / "runs" / each.spec.run / evaluations.FOLDER).iterdir())) == 2


@pytest.mark.system
def test_another_dtype(copy: Path):
    each = opened(copy)
    plain = each.evaluate(Question())
    half = each.evaluate(Question(dtype="bfloat16"))
    assert (half.dtype, half.bytes, half.reproduces) == ("bfloat16", plain.bytes / 2, None)
    assert half.evaluation["loss"].value == pytest.approx(plain.evaluation["loss"].value, abs=0.02)
    assert half.evaluation != plain.evaluation


def test_a_damaged_record_is_written_again(copy: Path):
    each = opened(copy)
    record = each.evaluate(Question())
    (path,) = (copy / "runs" / each.spec.run / evaluations.FOLDER).iterdir()
    path.write_text("{")
    (finding,) = audited(copy)
    assert finding["file"] == str(path) and finding["command"] == f"scaling run --evaluate --workdir={copy}"
    again = opened(copy)
    assert again.evaluate(Question()).evaluation == record.evaluation and len(again.problems) == 1
    assert read_typed(path, EvaluationRecord).evaluation == record.evaluation and not audited(copy)
    for planted in ({"dtype": "\x1b[2J"}, {"headline": "other"}):
        path.write_text(json.dumps({**json.loads(msgspec.json.encode(record)), **planted}))
        assert len(audited(copy)) == 1
    assert opened(copy).evaluate(Question()).evaluation == record.evaluation
    # A result that cannot be read is counted.
    (copy / "runs" / specs(copy)[2][1].run / "result.json").write_text("{")
    code, out, _ = cli(f"--workdir={copy}", "--json")
    assert code == 0 and json.loads(out)["damaged"] == 1 == len(json.loads(out)["evaluations"])


def test_the_record_of_a_newer_version_is_kept(copy: Path):
    each = opened(copy)
    each.evaluate(Question())
    (path,) = (copy / "runs" / each.spec.run / evaluations.FOLDER).iterdir()
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    refused(Code.DAMAGED, "file", copy, f"--run={each.spec.run}")
    (finding,) = audited(copy)
    assert finding["command"] == UPDATE and "again" not in finding["what"]


# --- few bits


AXES = {
    "norm": ("layers", "embed"),
    "q": ("layers", "embed", "heads", "head"),
    "o": ("layers", "heads", "head", "embed"),
    "expert_up": ("layers", "experts", "embed", "mlp"),
    "router": ("layers", "embed", "experts"),
    "embedding": ("vocab", "embed"),
}
SCALES = {"q": (2, 1, 3, 4), "o": (2, 1, 1, 5), "expert_up": (2, 6, 1, 7)}  # one for each output channel
SIZES = {"layers": 2, "embed": 5, "heads": 3, "head": 4, "experts": 6, "mlp": 7, "vocab": 9}


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("name", SCALES)
def test_no_weight_moves_by_more_than_half_a_scale(name: str, bits: int):
    shape = [SIZES[axis] for axis in AXES[name]]
    weight = np.random.default_rng(bits).standard_normal(shape).astype(np.float32)
    weight[:, ..., 0] = 0  # a channel, or input, that never left its start
    rounded = quantise.round_matrix(weight, AXES[name], bits)
    assert rounded.scale.shape == SCALES[name] and rounded.weight.dtype == np.float32
    error = np.abs(rounded.weight.astype(np.float64) - weight)
    assert (error <= rounded.scale / 2 + np.spacing(np.abs(weight).max())).all() and (error.max() > 0)
    codes = rounded.weight / np.where(rounded.scale > 0, rounded.scale, 1)
    assert len(np.unique(np.rint(codes))) <= 2**bits - 1 and (rounded.weight[weight == 0] == 0).all()
    inputs = tuple(axis for axis, size in enumerate(rounded.scale.shape) if size != shape[axis])
    largest = [np.abs(values).max(axis=inputs) for values in (rounded.weight, weight)]
    np.testing.assert_allclose(*largest, rtol=1e-6)  # it sets the scale, and stays


def test_what_is_rounded_and_what_it_takes():
    shapes = {name: jax.ShapeDtypeStruct([SIZES[axis] for axis in names], np.float32) for name, names in AXES.items()}
    random = np.random.default_rng(0)
    parameters = {name: jax.device_put(random.normal(0, 1, each.shape)) for name, each in shapes.items()}
    changed = quantise.quantise(parameters, AXES, 3)
    assert {name for name in AXES if not np.array_equal(changed[name], parameters[name])} == set(SCALES)
    found = quantise.stored(shapes, AXES, 3)
    sizes = {name: math.prod(each.shape) for name, each in shapes.items()}
    assert found.weights == sum(sizes[name] for name in SCALES) == 120 + 120 + 420
    assert found.scales == sum(math.prod(shape) for shape in SCALES.values()) == 24 + 10 + 84
    assert found.kept == sizes["norm"] + sizes["router"] + sizes["embedding"]
    whole = found.weights + found.kept
    assert quantise.size_in_bytes(whole, "float32", None) == 4 * whole
    assert quantise.size_in_bytes(whole, "bfloat16", found) == math.ceil((3 * 660 + 32 * 118 + 16 * found.kept) / 8)


@pytest.mark.parametrize("name", families.names())
def test_the_matrices_of_all_blocks_are_rounded(name: str):
    """Those that the family counts as attention, MLP and modulation of a stack, cells or filters, and nothing else."""
    family = families.load(name)
    shaped = families.configure(family, 0)
    found = quantise.stored(parts.shapes(family, shaped), family.axes(shaped), 8)
    names = re.compile("attention|mlp|cross|_query|_memory|filters|cells|inner|(?<!final_)modulation")
    blocks = [part for part in family.components(shaped) if names.search(part.name)]
    assert found.weights == sum(part.parameters for part in blocks) > 0


def test_fewer_bits_cost_more_and_none_costs_nothing(copy: Path):
    each = opened(copy, 2)
    plain = each.evaluate(Question())
    rounded = {bits: each.evaluate(Question(bits=bits)) for bits in (2, 4, 8, 16)}
    loss = {bits: record.evaluation["loss"].value for bits, record in rounded.items()}
    before = plain.evaluation["loss"].value
    assert abs(loss[16] - before) < 1e-4 and abs(loss[8] - before) < 1e-2 < loss[2] - before
    record = rounded[4]
    counts = each.spec.manifest.parameters
    assert record.quantisation is not None and record.quantisation.weights + record.quantisation.kept == counts.total
    assert record.bytes < plain.bytes == 4 * counts.total and record.forward_flops == plain.forward_flops
    assert plain.forward_flops == each.spec.manifest.flops.forward_per_example
    assert record.reproduces is None and record.parameters == plain.parameters
    # Off again, these are the bits of the parent.
    assert opened(copy, 2).evaluate(Question()).evaluation == plain.evaluation


def test_a_rounded_pass_has_the_gradient_of_the_weights_that_are_kept():
    random = np.random.default_rng(3)
    weights = {name: random.normal(0, 1, [SIZES[axis] for axis in AXES[name]]).astype(np.float32) for name in AXES}
    weights["q"][:, :, 0] = 0

    def loss(parameters: Any) -> tuple[Any, Any]:
        used = quantise.straight_through(parameters, AXES, 3)
        return sum((used[name] * (weights[name] + 2)).sum() for name in AXES), used

    gradient, used = jax.jit(jax.grad(loss, has_aux=True))(weights)
    for name, weight in weights.items():
        np.testing.assert_array_equal(gradient[name], weight + 2, err_msg=name)  # also where a scale is 0
        expected = quantise.round_matrix(weight, AXES[name], 3).weight if name in SCALES else weight
        np.testing.assert_allclose(used[name], expected, rtol=1e-6, err_msg=name)


def test_bits_of_training_are_part_of_the_identity_and_none_are_not():
    def planned(**model: Any) -> RunSpec:
        made = config()
        made.model.update(model)
        return plan.make(study.resolve(made)).programs[0].runs[0]

    float32, none, three = planned(), planned(weight_bits=0), planned(weight_bits=3)
    assert float32.manifest == none.manifest and "weight_bits" not in float32.manifest.config
    assert three.manifest.identity != float32.manifest.identity and three.manifest.config["weight_bits"] == 3
    assert three.manifest.flops == float32.manifest.flops and three.manifest.parameters == float32.manifest.parameters
    for wrong in (1, 17, -1):
        with refuses(Code.INVALID, "model.weight_bits", wrong):
            planned(weight_bits=wrong)


@pytest.mark.system
def test_training_in_few_bits_beats_rounding_afterwards(tmp_path: Path, copy: Path):
    workdir = tmp_path / "few"
    made = config()
    made.model.weight_bits = 2
    planned = plan.make(study.resolve(made))
    plan.write(planned, workdir)
    for each in planned.programs[:1]:
        train.execute(each, workdir, progress=lambda run, flops: None, should_stop=lambda: False)
    few, whole = opened(workdir, 2), opened(copy, 2)
    plain = few.evaluate(Question())
    assert plain.reproduces is True and plain.quantisation is not None and plain.quantisation.bits == 2
    assert plain.bytes == whole.evaluate(Question(bits=2)).bytes
    loss = plain.evaluation["loss"].value
    assert loss < whole.evaluate(Question(bits=2)).evaluation["loss"].value
    # What is rounded already is not changed by rounding it to as many bits.
    assert few.evaluate(Question(bits=2)).evaluation["loss"].value == pytest.approx(loss, abs=1e-5)


@pytest.mark.system
def test_a_teacher_is_neither_rounded_nor_kept_with_its_student(tmp_path: Path):
    made = test_distill.config()
    made.keep_final = True
    planned = plan.make(study.resolve(made))
    plan.write(planned, tmp_path)
    train_all(planned.programs, tmp_path)
    code, out, err = cli(f"--workdir={tmp_path}", "--bits=2", "--json")
    assert code == 0, err
    records = {(each["dataset"], bool(each["quantisation"])): each for each in json.loads(out)["evaluations"]}
    plain, few = records["taught", False], records["taught", True]
    assert plain["reproduces"] is True and few["bytes"] < plain["bytes"]
    assert 4 * (few["quantisation"]["weights"] + few["quantisation"]["kept"]) == plain["bytes"]
    _, out, _ = cli(f"--workdir={tmp_path}")
    assert "on known; " in out and "on taught; " in out


# --- the command


def test_the_command_prints_records_and_writes_a_table(copy: Path, tmp_path: Path):
    out = tmp_path / "bits.csv"
    code, text, err = cli(f"--workdir={copy}", "--bits=8,3", f"--out={out}", "--positions")
    assert code == 0, err
    runs = [spec.run for _, spec in specs(copy)[1:3]]
    assert all(text.count(run) == 6 for run in runs)  # a line and a table of positions for 3 precisions
    assert "2 of 2" in text and "1 held-out" in text
    from analysis.table.runs import load

    table: Any = load(out, law="precision").table
    assert list(table["bits"]) == [32, 8, 3] * 2 and set(table["run"]) == set(runs)
    assert (table["loss"] > 0).all() and table["stem"].nunique() == 1
    code, text, _ = cli(f"--workdir={copy}", "--bits=8,3", "--json")
    found = json.loads(text)
    assert code == 0 and found["sealed"] == 1 and len(found["evaluations"]) == 6
    first, second = found["evaluations"][:2]
    delta = second["evaluation"]["loss"]["value"] - first["evaluation"]["loss"]["value"]
    assert (
        table["delta"][1] == pytest.approx(delta, abs=1e-12)
        and 0 < table["delta_se"][1] < first["evaluation"]["loss"]["se"]
    )


# --- refusals


def refused(code: Code, field: str, workdir: Path, *arguments: str) -> None:
    """One line, exit status 2, and nothing written."""
    before = files(workdir)
    with refuses(code, field):
        verbs.load("run").call(parse("run", ["--evaluate", f"--workdir={workdir}", *arguments]))
    status, out, err = cli(f"--workdir={workdir}", *arguments)
    assert status == 2 and not out and len(err.splitlines()) == 1 and err.startswith("scaling: error: ")
    assert files(workdir) == before


def test_wrong_questions_are_one_line_and_write_nothing(copy: Path):
    held, stem = specs(copy)[4][1].run, specs(copy)[3][1].run
    for code, field, *arguments in (
        (Code.INVALID, "bits", "--bits=8,1"),
        (Code.INVALID, "bits", "--bits=17"),
        (Code.INVALID, "bits", "--bits=0"),
        (Code.INVALID, "bits", "--bits=some"),
        (Code.MISSING, "bits", "--bits="),
        (Code.MISSING, "run", "--run=,"),
        (Code.MISSING, "data", "--data="),  # not this folder
        (Code.INVALID, "model.dtype", "--dtype=float16"),
        (Code.UNKNOWN, "data", "--data=knwon"),
        (Code.UNKNOWN, "source", "--data=source=zpif,base=4"),
        (Code.CONFLICT, "model.vocab", "--data=source=zipf,base=64,targets=8"),  # more tokens than the model has
        (Code.CONFLICT, "data", "--data=source=zipf,base=2,targets=8"),  # fewer, which are others
        (Code.UNKNOWN, "run", "--run=known-gpt0"),
        (Code.CONFLICT, "run", f"--run={held}"),
        (Code.CONFLICT, "run", f"--run={stem}"),  # it tells almost as much
        (Code.MISSING, "workdir", "--step=3"),
        (Code.MISSING, "step", "--step=3", f"--run={specs(copy)[1][1].run}"),
        (Code.INVALID, "out", "--out=bits.txt"),
        (Code.CONFLICT, "retry_failed", "--retry_failed"),
        (Code.CONFLICT, "execute", "--execute=a:b"),
    ):
        refused(code, field, copy, *arguments)
    with refuses(Code.CONFLICT, "bits"):
        verbs.load("run").call(parse("run", [f"--workdir={copy}", "--bits=8"]))
    with refuses(Code.MISSING, "workdir"):
        verbs.load("run").call(parse("run", ["--evaluate"]))


def test_a_lost_or_damaged_checkpoint_is_one_line(copy: Path, finished: Path):
    run = specs(copy)[1][1].run
    place = copy / "runs" / run / "checkpoints"
    hashes = (place / "10.json").read_text()
    first = next(digest for path, digest in json.loads(hashes)["leaves"].items() if "params" in path)
    (place / "10.json").write_text(hashes.replace(first, "0" * 64))
    refused(Code.DAMAGED, "checkpoint", copy, f"--run={run}")
    (place / "10.json").write_text(hashes)
    sidecar = json.loads((place / "10.json").read_text())
    shutil.rmtree(place)
    refused(Code.MISSING, "step", copy, f"--run={run}")
    # Intact, but of another run: not what the result says that this one ended with.
    shutil.copytree(finished / "runs" / specs(copy)[2][1].run / "checkpoints", place)
    (place / "20").rename(place / "10")
    (place / "20.json").rename(place / "10.json")
    assert json.loads((place / "10.json").read_text()) != sidecar
    refused(Code.CHANGED, "checkpoint", copy, f"--run={run}")
    # The others are evaluated, and this one is counted.
    shutil.rmtree(place)
    code, out, _ = cli(f"--workdir={copy}")
    assert code == 0 and run not in out and "left out: 1 runs without" in out
    result = copy / "runs" / specs(copy)[2][1].run / "result.json"
    result.write_bytes(result.read_bytes().replace(b"}", b" }", 1))
    refused(Code.DAMAGED, "run", copy, f"--run={specs(copy)[2][1].run}")


def test_a_configuration_that_is_none_is_one_line(copy: Path):
    text = (copy / "study.json").read_text()
    (copy / "study.json").write_text(
        re.sub(r'"sha256": "\w+"\n}\n$', '"sha256": null\n}\n', text.replace('"width": 8', '"width": "8"'))
    )
    refused(Code.INVALID, "manifest.config.width", copy)
    (copy / "study.json").write_text(text.replace('"width": 8', '"width": 9'))
    refused(Code.DAMAGED, "file", copy)


def test_data_of_the_study_by_its_name_and_changed_data(copy: Path):
    program, spec = specs(copy)[1]
    code, out, _ = cli(f"--workdir={copy}", f"--run={spec.run}", "--data=known", "--json")
    (record,) = json.loads(out)["evaluations"]
    assert code == 0 and record["reproduces"] is True and record["dataset"] == "known"
    other = msgspec.structs.replace(program, data={**program.data, "world": 1})
    with refuses(Code.CHANGED, "data"):
        Finished(copy, other, spec).evaluate(Question())


def test_a_mesh_that_this_machine_lacks_is_replaced_by_one_device(copy: Path):
    program, spec = specs(copy)[1]
    options = msgspec.structs.replace(program.options, mesh={**program.options.mesh, "data": 2 * jax.device_count()})
    record = Finished(copy, msgspec.structs.replace(program, options=options), spec).evaluate(Question())
    assert record.reproduces is True and set(record.environment.mesh.values()) == {1}
