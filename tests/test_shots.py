"""Questions after k answered examples: prompts, scores, their record, and what is known of them."""

import io
import json
import math
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from conftest import tiny_config
from refusals import refuses
from test_parents import train_all

from scaling import data, plan, study
from scaling.cli import main
from scaling.data.instructions import TASKS, Instructions
from scaling.errors import Code
from scaling.evaluate import choices
from scaling.evaluations import Finished, Question
from scaling.families import gpt
from scaling.run import Run

CONTEXT = 32  # four blocks
OWN = {"source": "instructions", "vocabulary": 8, "noise": 0.02}


def world(**fields: Any) -> Instructions:
    source = data.load({**OWN, **fields})
    assert isinstance(source, Instructions)
    return source


def summed(nats: np.ndarray, found: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return (nats * found["mask"]).sum(axis=1), found["mask"].sum(axis=1)


def test_candidates_are_what_the_tasks_make_of_one_prompt_after_answered_ones():
    source = world(named=False, tasks=("sort", "next", "reverse"), symbols=4)
    found = {shots: source.questions(40, shots, 3000) for shots in (0, 1, 3)}
    for shots, each in found.items():
        tokens = each["tokens"].reshape(-1, 3, 41)
        assert len(tokens) == 3000 // 12 and (tokens[:, :, 0] == source.vocab - 1).all()
        end = (shots + 1) * 10
        blocks = tokens[:, :, 1 : end + 1].reshape(len(tokens), 3, shots + 1, 10)
        assert (tokens[:, :, end + 1 :] == source.vocab - 1).all() and (blocks[..., [0, 5]] == 8 + len(TASKS)).all()
        assert (blocks[:, :, :-1] == blocks[:, :1, :-1]).all()  # candidates differ in the last answer alone
        x, y = blocks[:, 0, -1, 1:5], blocks[:, :, -1, 6:]
        made = np.stack([np.sort(x, axis=1), (x + 1) % 8, x[:, ::-1]], axis=1)
        np.testing.assert_array_equal(y, made)
        assert all(len({tuple(row) for row in rows}) == 3 for rows in made.tolist())
        mask = np.zeros(40)
        mask[end - 4 : end] = 1
        assert (each["mask"] == mask).all()
        right = each["right"].reshape(-1, 3)
        assert (right.sum(axis=1) == 1).all() and np.abs(right.mean(axis=0) - 1 / 3).max() < 0.12
        np.testing.assert_array_equal(right, found[0]["right"].reshape(-1, 3))
        np.testing.assert_array_equal(x, found[0]["tokens"].reshape(-1, 3, 41)[:, 0, 2:6])  # the same questions
        assert (each["document"] == np.repeat(np.arange(len(tokens)) // 16, 3)).all()
        shown = blocks[:, 0, :-1].reshape(-1, 10)
        task = np.repeat(right.argmax(axis=1), shots)
        made = np.stack([np.sort(shown[:, 1:5], axis=1), (shown[:, 1:5] + 1) % 8, shown[:, 4:0:-1]], axis=1)
        wrong = made[np.arange(len(task)), task] != shown[:, 6:]
        assert shots == 0 or abs(wrong.mean() - 0.02) < 4 * math.sqrt(0.02 / wrong.size)  # as in the data
    small, large = source.questions(40, 1, 600), found[1]
    np.testing.assert_array_equal(small["tokens"], large["tokens"][: len(small["tokens"])])


def test_a_hidden_task_costs_what_the_mixture_of_tasks_says_and_one_answer_tells_it():
    """Against the mixture written out, symbol by symbol."""
    source = world(named=False, noise=0.1, tasks=("copy", "reverse", "next"))
    found: Any = source.evaluation(CONTEXT, 300)
    for tokens, nats in zip(found["tokens"][:12], found["reference"]):
        belief = np.ones(3) / 3
        for block, costs in zip(tokens[1:].reshape(-1, 8), nats.reshape(-1, 8)):
            x, y = block[1:4], block[5:]
            for place in range(3):
                says = np.array([x[place], x[2 - place], (x[place] + 1) % 8])
                likely = np.where(says == y[place], 0.9, 0.1 / 7)
                assert costs[5 + place] == pytest.approx(-math.log(belief @ likely), rel=1e-5)
                belief = belief * likely / (belief @ likely)
    assert source.entropy is None and source.describe()["named"] is False
    assert "named" not in world().describe()  # what was described before is the same data
    # Of fixed windows the -log p falls from the first answer to the last, to that of a task that is named.
    more: Any = world(named=False).evaluation(CONTEXT, 12_000)
    by_block = more["reference"].reshape(-1, 4, 8)[..., 5:].mean(axis=(0, 2))
    named = world().entropy
    assert named is not None and by_block[0] > by_block[1] > by_block[3] and abs(by_block[3] - named) < 0.02


def mixture(source: Instructions, tokens: np.ndarray) -> np.ndarray:
    """-log p of every symbol of the last answers by the mixture of the tasks, by an enumeration of the tasks."""
    c, nats = source.config, np.zeros((len(tokens), tokens.shape[1] - 1))
    for row, text in enumerate(tokens):
        blocks = text[1:].reshape(-1, source.block)
        shown = blocks[(blocks != source.vocab - 1).all(axis=1)]
        joint = before = np.ones(len(c.tasks))
        for block in shown:
            before = joint.copy()
            for number, name in enumerate(c.tasks):
                right = TASKS[name](block[None, 1 : c.symbols + 1], c.vocabulary)[0] == block[c.symbols + 2 :]
                joint[number] *= np.where(right, 1 - c.noise, c.noise / (c.vocabulary - 1)).prod()
        nats[row, len(shown) * source.block - 1] = -math.log(joint.sum() / before.sum())
    return nats


def test_the_best_predictor_is_at_chance_without_an_example_and_right_after_one():
    source = world(named=False, noise=1e-12)  # so that a candidate is made by one task
    found = [source.questions(CONTEXT, shots, 1200) for shots in (0, 1, 3)]
    scored = []
    for each in found:
        nats = mixture(source, each["tokens"]).round(9)
        scored.append(choices(*summed(nats, each), each["right"], 4, each["document"], each["documents"]))
    assert [each["error"].value for each in scored] == pytest.approx([0.75, 0, 0], abs=1e-12)
    assert scored[0]["answer"].value == pytest.approx(math.log(4) / 3, abs=1e-5)
    assert scored[1]["answer"].value == pytest.approx(0, abs=1e-5)
    assert scored[0]["error"].count == 100 and scored[0]["answer"].count == 300


def test_scores_are_by_length_and_ties_share():
    nats = np.array([3.0, 2.0, 4.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.1])
    count = np.array([3.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    right = np.array([True, False, False, True, False, False, False, True, False])
    found = choices(nats, count, right, 3, np.array([0, 0, 0, 1, 1, 1, 2, 2, 2]), ["a", "b", "c"])
    # 1 a token, the fewest; another has half of it; a tie of two
    assert found["error"].value == pytest.approx((0 + 1 + 0.5) / 3)
    assert found["answer"].value == pytest.approx((3 + 1 + 5) / 5) and found["answer"].se is not None


# --- a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A study of one run on hidden tasks, of which each half of the steps of a decay is a run, with its parameters."""
    made: Any = tiny_config(grid=study.block("grid", "asked", (0,), tokens=(128 * 10,)))
    del made.data["known"]
    made.data.asked = {**OWN, "named": False}
    made.model.context, made.keep_final, made.evaluation = CONTEXT, True, {"tokens": 384, "batch": 32}
    workdir = tmp_path_factory.mktemp("shots")
    planned = plan.make(study.resolve(made))
    plan.write(planned, workdir)
    train_all(planned.programs, workdir)
    return workdir, planned.programs[0]


def cli(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["run", "--evaluate", *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def test_without_examples_it_is_the_plain_loss_of_the_answer(finished: tuple[Path, Any], tmp_path: Path):
    workdir, program = finished
    out = tmp_path / "shots.csv"
    code, text, err = cli(f"--workdir={workdir}", "--shots=3,0", f"--out={out}", "--json")
    assert code == 0, err
    plain, none, three = json.loads(text)["evaluations"]
    assert plain["reproduces"] is True and (plain["shots"], none["shots"], three["shots"]) == (None, 0, 3)
    assert none["headline"] == "answer" and none["reproduces"] is None
    assert none["terms"]["error"]["among"] == 4 and none["terms"]["error"]["quantity"] == "share"
    each = Finished(workdir, program, program.runs[-1])
    record = each.evaluate(Question(shots=0))  # read, not computed
    assert record.evaluation["answer"].value == none["evaluation"]["answer"]["value"]
    run = Run(program.runs[-1], program, workdir)
    parameters = each._loaded(run.trainer.abstract["params"])
    loss = jax.jit(lambda parameters, batch: gpt.loss(parameters, batch, jax.random.key(0), run.trainer.config))
    for found, shots in ((none, 0), (three, 3)):
        windows: Any = run.source.questions(CONTEXT, shots, 384)
        batch = {name: windows[name] for name in ("tokens", "mask")}
        nats, count = loss(dict(parameters), batch)["loss"]
        own = np.asarray(nats)[windows["right"]].sum() / np.asarray(count)[windows["right"]].sum()
        assert found["evaluation"]["answer"]["value"] == pytest.approx(float(own), rel=2e-6)
        assert found["evaluation"]["error"]["count"] == 32
    import pandas as pd

    table: Any = pd.read_csv(out)
    assert table["shots"].fillna(-1).tolist() == [-1, 0, 3] and table["chance"].dropna().tolist() == [0.75] * 2
    assert table["loss"][1] == pytest.approx(none["evaluation"]["answer"]["value"])
    assert table["val_loss"][2] == pytest.approx(plain["evaluation"]["loss"]["value"]) == table["loss"][0]
    code, text, _ = cli(f"--workdir={workdir}", "--shots=0,3")
    assert code == 0 and "0.75 by chance" in text


def test_what_knows_nothing_is_at_chance_exactly(finished: tuple[Path, Any]):
    workdir, program = finished
    run = Run(program.runs[-1], program, workdir)
    state = run.trainer.init(0)
    zero = {**state, "params": {**state["params"], "embedding": 0 * state["params"]["embedding"]}}  # tied
    found = run.answers(zero, 2)
    assert found["error"].value == pytest.approx(0.75, abs=1e-12)
    assert found["answer"].value == pytest.approx(math.log(run.source.vocab), rel=1e-6)


def test_questions_that_cannot_be_asked_are_one_line(finished: tuple[Path, Any]):
    workdir, program = finished
    each = Finished(workdir, program, program.runs[-1])
    for arguments, code, field in (
        (("--shots=-1",), Code.INVALID, "shots"),
        (("--shots=two",), Code.INVALID, "shots"),
        (("--shots=",), Code.MISSING, "shots"),
        (("--shots=4",), Code.CONFLICT, "shots"),  # five blocks, of which four are in the context
        (("--shots=1", "--bits=4"), Code.CONFLICT, "shots"),
    ):
        status, out, err = cli(f"--workdir={workdir}", *arguments)
        assert status == 2 and not out and len(err.splitlines()) == 1 and field in err, (arguments, err, code)
    with refuses(Code.CONFLICT, "shots", 4):
        each.check(Question(shots=4))
    with refuses(Code.CONFLICT, "data.tasks"):
        world(tasks=("copy",)).questions(CONTEXT, 0)
    with refuses(Code.CONFLICT, "data.tasks"):  # one symbol is its own copy and its own reverse
        world(symbols=1).questions(16, 0)
