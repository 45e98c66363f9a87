"""Instruction tuning: a world of prompts and answers whose entropy is exact, and a run tuned on the answers alone."""

import math
from pathlib import Path
from typing import Any

import handmade
import jax
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from test_families import all_terms, initial, small
from test_parents import train_all

from scaling import data, plan, study
from scaling.data.instructions import ALL, TASKS, Instructions
from scaling.errors import Code
from scaling.records import Record
from scaling.run import Run

STEP = 4 * 8  # tokens of a step of the tiny study


def world(**fields: Any) -> Instructions:
    source = data.load({"source": "instructions", **fields})
    assert isinstance(source, Instructions)
    return source


@pytest.mark.parametrize("loss", ["answer", ALL])
def test_answers_are_what_the_tasks_make_of_the_prompts_and_cost_their_entropy(loss: str):
    source = world(loss=loss, tasks=("sort", "reverse", "next"), symbols=4, vocabulary=7, noise=0.2)
    found: Any = source.evaluation(20, 40_000)
    blocks = found["tokens"][:, 1:].reshape(-1, 10)
    task, x, marker, y = blocks[:, 0] - 7, blocks[:, 1:5], blocks[:, 5], blocks[:, 6:]
    assert (found["tokens"][:, 0] == source.vocab - 1).all() and (marker == 7 + len(TASKS)).all()
    assert set(task) == {1, 2, 3} and np.abs(np.bincount(task)[1:] / len(task) - 1 / 3).max() < 0.02
    right = np.array([{1: list(a[::-1]), 2: [(s + 1) % 7 for s in a], 3: sorted(a)}[t] for t, a in zip(task, x)])
    wrong = y != right
    assert abs(wrong.mean() - 0.2) < 4 * math.sqrt(0.16 / wrong.size)
    misses = np.bincount((y - right)[wrong] % 7, minlength=7)
    assert misses[0] == 0 and np.abs(misses[1:] / wrong.sum() - 1 / 6).max() < 0.02
    nats, mask = found["reference"], found["mask"]
    answers = np.where(wrong, -math.log(0.2 / 6), -math.log(0.8)).ravel()
    counted = nats.reshape(-1, 10)[:, 6:].ravel()
    np.testing.assert_allclose(counted, answers, rtol=1e-6)
    assert mask.reshape(-1, 10).sum(axis=1).tolist() == [4 if loss == "answer" else 10] * len(blocks)
    assert not nats[mask == 0].any()
    by_window = nats.sum(axis=1) / mask.sum(axis=1)
    assert abs(by_window.mean() - source.entropy) < 4 * by_window.std() / math.sqrt(len(by_window))
    assert (source.batch(np.arange(3), seed=1, context=20)["mask"] == mask[:3]).all()


def test_a_task_that_does_not_exist_or_a_cut_prompt_is_refused():
    for tasks, code in ((("copy", "copy"), Code.INVALID), ((), Code.INVALID), (("rhyme",), Code.UNKNOWN)):
        with refuses(code, "data.tasks"):
            world(tasks=tasks)
    with refuses(Code.CONFLICT, "model.context", 12):
        world().batch(np.arange(2), seed=0, context=12)


def config() -> Any:
    """A run on all tokens of two tasks, and one tuned on the answers of two others."""
    grid: dict[str, Any] = {"tokens": (STEP * 20,)}
    made: Any = tiny_config(
        before=study.block("grid", "before", (0,), **grid),
        tuned=study.block("grid", "tuned", (0,), **grid, init_from={"*": "before"}),
    )
    del made.data["known"]
    own = {"source": "instructions", "vocabulary": 8}
    made.data.before = {**own, "tasks": ("copy", "next"), "loss": ALL}
    made.data.tuned = {**own, "tasks": ("reverse", "sort")}
    made.model.context = 8
    return made


def test_the_prompt_has_no_part_in_the_loss_and_is_not_counted_in_it():
    made = {
        each.runs[0].manifest.dataset: each.runs[-1].manifest for each in plan.make(study.resolve(config())).programs
    }
    before, tuned = made["before"], made["tuned"]
    assert before.tokens.D == tuned.tokens.D == STEP * 20
    assert before.tokens.loss == STEP * 20 and tuned.tokens.loss == STEP * 20 * 3 // 8
    assert before.flops.training == tuned.flops.training and before.identity != tuned.identity
    source = world(vocabulary=8)
    module, model = small("gpt", context=8, vocab=source.vocab)
    batch, parameters = source.batch(np.arange(4), seed=0, context=8), initial(module, model, 0.3)
    total, count = all_terms(module, parameters, batch, model)["loss"]
    assert np.asarray(count).tolist() == [3] * 4
    logits = module.logits(parameters, batch["tokens"][:, :-1], model)
    nats = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch["tokens"][:, 1:, None], 2)[:, 5:, 0]
    np.testing.assert_allclose(total, nats.sum(axis=1), rtol=1e-4)


@pytest.mark.system
def test_a_run_is_tuned_on_answers_from_its_parents_loss(tmp_path: Path):
    made = plan.make(study.resolve(config()))
    train_all(made.programs, tmp_path)
    parent, child = made.programs
    assert child.runs[0].manifest.parents and not parent.runs[0].manifest.parents
    run = Run(child.runs[-1], child, tmp_path)
    begun, ended = run.evaluate(run.initial())["loss"], handmade.ended(Record(tmp_path / "runs" / run.spec.run))
    assert ended.evaluation["loss"].value < begun.value  # untuned, it has never seen these tasks
    assert ended.evaluation["loss"].count == begun.count == 3 * -(-1024 // 3)
