"""Distillation: known values of the divergence, FLOPs apart, and a student of a run of the study or of another."""

from pathlib import Path
from typing import Any

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from test_families import MESH, batch_of, initial, quick, small
from test_parents import train_all

from analysis.table import runs
from scaling import adapt, count, distill, evaluations, families, objectives, plan, recipe, study
from scaling.errors import Code
from scaling.records import Record, canonical
from scaling.records.types import Manifest
from scaling.run import Run
from scaling.step import Trainer

STEP = 48  # tokens of a step of the tiny study


def config(**fields: Any) -> Any:
    """A wide run, and a student of it on data of another name, beside the same model that learns alone."""
    made: Any = tiny_config(
        large=study.block("grid", "known", (0,), tokens=(STEP * 20,), model={"width": 16}),
        taught=study.block("grid", "taught", (0,), tokens=(STEP * 20,), seeds=(1,), **{"distill": TAUGHT, **fields}),
    )
    made.data.taught = {"source": "zipf", "base": 4, "targets": 8}
    made.recipe.schedule, made.keep_final = "cosine", True
    return made


TAUGHT = {"teacher": {"block": "large", "seed": 0}, "temperature": 2.0, "kl": 0.75, "clm": 0.25}


# --- known values


def test_the_divergence_has_its_known_values_and_a_gradient_that_does_not_fade():
    rng = np.random.default_rng(0)
    taught, own = (jnp.asarray(rng.normal(size=(2, 3, 7)) * 2, jnp.float32) for _ in range(2))

    @quick
    def both(temperature: jax.Array):
        def total(student: jax.Array) -> jax.Array:
            return objectives.divergence(taught, student, temperature).sum()

        values = [objectives.divergence(taught, x_, temperature) for x_ in (taught, jnp.zeros_like(own))]
        return *values, jnp.linalg.norm(jax.grad(total)(own))

    norms = {}
    for temperature in (1.0, 3.0, 50.0, 100.0):
        copy, uniform, norms[temperature] = both(jnp.float32(temperature))
        assert not np.asarray(copy).any()
        p = np.exp(np.asarray(taught, float) / temperature)
        p /= p.sum(axis=-1, keepdims=True)
        entropy = -(p * np.log(p)).sum(axis=-1)
        rounding = 4 * temperature**2 * 2.0**-23  # of a difference of logarithms, times T^2
        np.testing.assert_allclose(uniform, temperature**2 * (np.log(7) - entropy), rtol=1e-5, atol=rounding)
    assert norms[100.0] == pytest.approx(float(norms[50.0]), rel=0.02)  # without T^2, a fourth
    assert norms[100.0] > 0.1


@pytest.mark.system
def test_a_students_loss_starts_where_it_must_and_is_counted_apart():
    """A head of zeros: ln V, and T^2 (ln V - H(teacher_T)). Its step: the student's FLOPs and a forward pass more."""
    module, model = small("gpt", tied=False)
    _, large = small("gpt", size=1, tied=False)
    teacher, how = distill.Teacher("gpt", large), distill.Distill(temperature=3.0)
    family = distill.applied(module, how, teacher)
    params: Any = initial(family, model)
    taught: Any = initial(teacher.module, large, 0.2)
    batch, student = batch_of(module, model, 2), {name: value for name, value in params.items() if name != "teacher"}

    def means(params: Any, taught: Any, batch: Any) -> Any:
        found = family.loss({**params, "teacher": taught}, batch, jax.random.key(0), model)
        terms = {name: total.sum() / n.sum() for name, (total, n) in found.items()}
        return terms, teacher.module.logits(taught, batch["tokens"][:, :-1], large)

    found, logits = quick(means)(params, taught, batch)
    p = np.exp(np.asarray(logits, float) / 3.0)
    p /= p.sum(axis=-1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=-1).mean()
    assert float(found["loss"]) == pytest.approx(np.log(32), abs=1e-5)
    assert float(found["distill"]) == pytest.approx(9 * (np.log(32) - entropy), rel=1e-4)

    def loss(student: Any, held: Any) -> jax.Array:
        terms = family.loss({**student, "teacher": held}, batch, jax.random.key(0), model).values()
        return jnp.stack([total.sum() / n.sum() for total, n in terms]).sum()

    own = sum(count.executed_flops(module.components(model), 2).values())
    assert count.jaxpr_flops(jax.grad(loss), student, taught) == 2 * (own + teacher.flops)
    assert families.further(family, model) == teacher.flops
    units = [term.unit for term in families.terms(family, model).values()]
    assert units[0] == families.terms(module, model)["loss"].unit != units[1] and not units[1].bounded_by_entropy


def test_teacher_and_student_are_each_rounded_to_bits_of_their_own():
    module, few = small("gpt", weight_bits=2)
    rng, (_, whole) = np.random.default_rng(0), small("gpt")
    for model, own in ((few, whole), (whole, few)):
        family = distill.applied(module, distill.Distill(), distill.Teacher("gpt", own))
        trainer = Trainer(family, model, recipe.named("width", batch=4), MESH, 1)
        drawn = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), trainer.abstract["params"])
        used = quick(trainer._cast)(drawn)
        for config, given, found in ((model, drawn, used), (own, drawn["teacher"], used["teacher"])):
            assert np.array_equal(given["stack"]["q"], found["stack"]["q"]) == (config is whole)


# --- what is refused


@pytest.mark.parametrize(
    ("written", "code", "field"),
    [
        ({"temperature": 2.0}, Code.MISSING, "distill.teacher"),
        ({"teacher": "large", "temperature": 0.0}, Code.INVALID, "distill.temperature"),
        ({"teacher": "large", "kl": 0.0}, Code.INVALID, "distill.kl"),
        ({"teacher": "large", "alpha": 0.5}, Code.UNKNOWN, "distill.alpha"),
        ("large", Code.INVALID, "distill"),
    ],
)
def test_what_cannot_be_meant_is_refused(written: object, code: Code, field: str):
    with refuses(code, field):
        distill.read("distill", written)


@pytest.mark.parametrize(
    ("recorded", "code", "field"),
    [
        ({"temperature": 2.0}, Code.INVALID, "distill.teacher"),
        ({"teacher": 3}, Code.INVALID, "distill.teacher"),
        ({"teacher": {"family": "gtp", "config": {}, "adapt": {}}}, Code.UNKNOWN, "distill.teacher.family"),
        ({"teacher": {"family": "gpt"}}, Code.INVALID, "distill.teacher.config"),
    ],
)
def test_a_damaged_record_of_a_teacher_is_one_line(recorded: Any, code: Code, field: str):
    with refuses(code, field):
        distill.from_record(families.load("gpt"), recorded)


def test_a_teacher_must_predict_what_its_student_does():
    module, model = small("gpt")
    for name, case in (("bert", "mlm"), ("gpt", "experts")):
        other, own = small(name, case)
        with refuses(Code.UNSUPPORTED, "distill", name):
            distill.check(module, model, distill.Teacher(name, own))
        with refuses(Code.UNSUPPORTED, "distill", name):
            distill.check(other, own, distill.Teacher("gpt", model))
    _, longer = small("gpt", context=24)
    with refuses(Code.CONFLICT, "distill.teacher"):
        distill.check(module, model, distill.Teacher("gpt", longer))


def test_a_student_that_learns_from_itself_or_nobody_or_is_adapted_is_refused():
    with refuses(Code.CONFLICT, "cells.taught.init_from"):
        study.resolve(config(distill={"teacher": {"block": "taught"}}))
    with refuses(Code.UNKNOWN, "cells.taught.distill.teacher"):
        study.resolve(config(distill={"teacher": "nobody"}))
    with refuses(Code.CONFLICT, "cells.taught.distill.teacher.part"):
        study.resolve(config(distill={"teacher": {"block": "large", "part": "stack"}}))
    with refuses(Code.CONFLICT, "cells.taught.distill"):
        study.resolve(config(adapt={"kind": "lora"}))
    with refuses(Code.MIXED, value="known"):
        made = config()
        made.cells.taught.dataset = "known"
        study.resolve(made)


# --- trained


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[plan.Plan, Path]:
    made = plan.make(study.resolve(config()))
    workdir = tmp_path_factory.mktemp("distill")
    plan.write(made, workdir)
    train_all(made.programs, workdir)
    return made, workdir


def of(made: plan.Plan, dataset: str) -> Manifest:
    return next(each.runs[0].manifest for each in made.programs if each.runs[0].manifest.dataset == dataset)


@pytest.mark.system
def test_a_student_is_counted_as_itself_and_its_teacher_apart(finished: tuple[plan.Plan, Path]):
    made, workdir = finished
    large, taught = of(made, "known"), of(made, "taught")
    alone = of(plan.make(study.resolve(config(distill={}))), "taught")
    assert taught.identity != alone.identity and of(plan.make(study.resolve(config())), "known") == large
    assert taught.parameters == alone.parameters and taught.flops.training == alone.flops.training
    assert taught.flops.teacher == large.flops.forward_per_example * taught.steps * 4 and not alone.flops.teacher
    assert taught.parent_flops == large.flops.training and taught.headline == alone.headline == "loss"
    assert taught.parents[0].parts == {"teacher": "*"} and taught.terms["loss"] == alone.terms["loss"]
    rows = {row.dataset: row for row in made.rows()}
    assert rows["taught"].state_bytes == 16 * taught.parameters.total + 4 * large.parameters.total
    assert not any("again" in text for text in made.warnings)
    table = runs.load(workdir, dataset="taught").table
    assert table["C_teacher"].tolist() == [taught.flops.teacher] and table["C"].tolist() == [taught.flops.training]
    assert "C_teacher" not in runs.load(workdir, dataset="known").table
    result = handmade.ended(Record(workdir / "runs" / taught.run))
    assert result.status == "done" and set(result.evaluation) == {"loss", "distill"}
    program = next(each for each in made.programs if each.runs[0].manifest == taught)
    few = evaluations.Finished(workdir, program, program.runs[0]).evaluate(evaluations.Question(bits=4)).quantisation
    assert few is not None and few.weights + few.kept == taught.parameters.total  # without the teacher's
    other = plan.make(study.resolve(config(distill={**TAUGHT, "temperature": 4.0})))
    assert of(other, "taught").identity != taught.identity


@pytest.mark.system
def test_a_copy_has_no_divergence_and_an_interrupted_student_ends_as_an_undisturbed_one(
    finished: tuple[plan.Plan, Path], tmp_path: Path
):
    """A student that begins as its teacher, a run of another work directory: KL 0, and the plain loss to the bit."""
    _, workdir = finished
    large = of(finished[0], "known")
    place = {"workdir": str(workdir), "run": large.run}
    written = config(distill={**TAUGHT, "teacher": place}, init_from={"*": place}, model={"width": 16})
    del written.cells["large"]
    made = plan.make(study.resolve(written))
    (own,) = made.programs
    assert own.runs[0].manifest.parents[0].parts["teacher"] == "*"
    train_all(made.programs, tmp_path / "whole")
    assert train_all(made.programs, tmp_path / "parts", stop_after=1) >= 1
    ended = [handmade.ended(Record(tmp_path / name / "runs" / own.program)) for name in ("whole", "parts")]
    assert canonical(ended[0].evaluation) == canonical(ended[1].evaluation)
    run = Run(own.runs[0], own, tmp_path / "whole")
    begun = run.initial()
    value = run.evaluate(begun)
    assert value["distill"].value == 0.0
    known = handmade.ended(Record(workdir / "runs" / large.run)).evaluation["loss"]
    assert value["loss"].value == known.value
    assert set(begun["opt"][1].mu) == {"embedding", "norm", "stack"} and adapt.PART not in begun["params"]
