"""What vlt5 promises: every task as text, a picture beside it in a T5's encoder, answers of exactly known entropy."""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import MESH, batch_of, initial, quick, small

from scaling import count, data, families, inputs, plan, recipe, study, train
from scaling.data import graphs, scenes
from scaling.errors import Code
from scaling.families import streams, t5, vlt5
from scaling.records import Record
from scaling.step import Trainer

END = graphs.END


def made(**fields: Any) -> vlt5.Config:
    config = small("vlt5", layers=1, **{"vocab": 24, **fields})[1]
    assert isinstance(config, vlt5.Config)
    return config


def world(size: int, text: int = 6) -> dict[str, Any]:
    """A batch of ``graphs`` with each neighbour's caption."""
    drawn = data.load({"source": "graphs"}).batch(np.arange(size), seed=0, context=text)
    return {**drawn, "other_tokens": drawn["tokens"][inputs.partner(np.arange(size), size)]}


@functools.cache
def asking(config: vlt5.Config) -> Any:
    return quick(lambda batch: vlt5.prepare(batch, jax.random.key(3), config))


def asked(batch: dict[str, Any], config: vlt5.Config) -> Any:
    """``vlt5.Asked`` in numpy."""
    return jax.device_get(asking(config)({name: jnp.asarray(each) for name, each in batch.items()}))


@functools.cache
def noisy() -> tuple[vlt5.Config, Any, Any]:
    """A configuration with two regions, weights of which none is zero, and what a batch then costs, by term."""
    config = made(regions=2, region_side=11)
    costs = quick(lambda w, batch: vlt5.loss(w, batch, jax.random.key(3), config))
    return config, jax.device_get(initial(vlt5, config, 0.3)), lambda w, batch: jax.device_get(costs(w, batch))


# --- tasks


def restored(text: list[int], target: list[int], config: vlt5.Config) -> list[int]:
    """The caption, each sentinel of the text replaced by the words behind it in the target."""
    runs: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token >= config.words:
            runs[token] = []
        else:
            runs[max(runs)].append(token)
    assert target[-1] == END and list(runs) == list(range(config.words, config.words + len(runs)))
    assert [token for token in text if token >= config.words] == list(runs) and all(runs.values())
    return [word for token in text for word in runs.get(token, [token])]


def test_every_task_is_a_text_with_a_prefix_and_an_answer():
    """Against the words of each example, one by one; some captions are shorter than others."""
    config, batch = made(rate=0.5, text=8), world(64, text=8)
    short = np.arange(65)[:64, None] % 3 == 0
    for name in ("tokens", "other_tokens"):
        batch[name] = np.where(short & (np.arange(9) > 3), END, batch[name])
    batch["mask"] = np.where(short & (np.arange(8) > 3), 0, batch["mask"])
    found, missing = asked(batch, config), set()
    assert (np.stack([*found.tasks.values()]).reshape(4, 16, 4).sum(axis=2) == 1).all()
    for row in range(64):
        (task,) = (name for name, is_B in found.tasks.items() if is_B[row])
        own, other = ([*each[each < END - 1], END] for each in (batch[k][row, 1:] for k in ("tokens", "other_tokens")))
        prefix, *text = found.input_BS[row][found.keep_BS[row]].tolist()
        target = found.target_BU[row][found.count_BU[row]].tolist()
        assert prefix == 24 + vlt5.TASKS.index(task)
        if task == "span":
            words = len(own) - 1
            assert restored(text, target, config) == own[:-1]
            assert sum(token < END for token in target) == max(1, round(0.5 * words))
            missing |= {place for place, pair in enumerate(zip(text, own)) if pair[0] != pair[1]}
        else:
            true, yes = (text == own, 24 + 4) if text == own else (text == other, 24 + 5)
            expected = {
                "vqa": (text == batch["question"][row].tolist(), batch["answer"][row].tolist()),
                "match": (true, [yes, END]),
                "caption": (not text, own),
            }
            assert (True, target) == expected[task]
    assert missing == set(range(5)) and (np.diff(found.keep_BS.astype(int)) <= 0).all()
    verdicts = found.target_BU[found.tasks["match"], 0]
    assert set(verdicts) == {28, 29} and (verdicts == 28).sum() == pytest.approx(8, abs=6)


@pytest.mark.parametrize(("rate", "text"), [(0.15, 6), (0.4, 6), (0.5, 9)])
def test_missing_words_make_as_many_runs_as_they_do_in_all_places(rate: float, text: int):
    config = vlt5.Config(rate=rate, text=text)
    every = list(itertools.combinations(range(text - 1), config.missing))
    runs = [sum(place - 1 not in chosen for place in chosen) for chosen in every]
    assert config.targets["span"] == pytest.approx(config.missing + np.mean(runs) + 1)
    assert config.lengths[1] >= config.missing + max(runs) + 1


def test_what_is_missing_is_given_to_no_one():
    config, batch = made(rate=0.5, text=8), world(64, text=8)
    found, changed = asked(batch, config), batch["tokens"].copy()
    for row in np.flatnonzero(found.tasks["span"]):
        shown = found.input_BS[row][found.keep_BS[row]]
        changed[row, 1:6] = np.where(np.isin(changed[row, 1:6], shown), changed[row, 1:6], 17)
    assert (changed != batch["tokens"]).any(axis=1).sum() > 8
    np.testing.assert_array_equal(asked({**batch, "tokens": changed}, config).input_BS, found.input_BS)


# --- the model


def norm(x: np.ndarray, scale: Any = 1.0) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary positions of (T, K), as complex numbers."""
    half = x.shape[1] // 2
    angle = np.arange(len(x))[:, None] * 10000.0 ** (-np.arange(half) / half)
    z = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angle)
    return np.concatenate([z.real, z.imag], axis=1)


def read(x: np.ndarray, memory: np.ndarray, w: Any, name: str, see: np.ndarray) -> np.ndarray:
    """What each position of one example of x (T, D) finds in the memory (S, D), head by head."""
    place, found = (lambda y: y) if name else turned, np.zeros_like(x)
    for head in range(w["q"].shape[1]):
        q, k = (
            place(norm(y @ w[name + part][:, head], w[f"{name}{part}_norm"])) for y, part in ((x, "q"), (memory, "k"))
        )
        score = np.where(see, np.exp(q @ k.T / math.sqrt(q.shape[1])), 0)
        found += score / score.sum(axis=1, keepdims=True) @ (memory @ w[name + "v"][:, head]) @ w[name + "o"][head]
    return found


def mlp(x: np.ndarray, w: Any) -> np.ndarray:
    return np.maximum(norm(x, w["mlp_norm"]) @ w["up"], 0) ** 2 @ w["down"]


def slowly(p: Any, text: np.ndarray, keep: np.ndarray, picture: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Logits (U, O) of one example, of one layer each."""
    encoder, decoder = ({name: leaf[0] for name, leaf in p[part].items()} for part in ("encoder", "decoder"))
    seen = norm(picture @ p["patches"]["patch"] + p["patches"]["position"])
    x, see = np.concatenate([norm(p["embedding"][text]), seen]), np.append(keep, np.ones(len(picture), bool))
    h = norm(x, encoder["attention_norm"])
    x = x + read(h, h, encoder, "", see)
    memory, y = norm(x + mlp(x, encoder), p["encoder_norm"]), norm(p["embedding"][given])
    h = norm(y, decoder["attention_norm"])
    y = y + read(h, h, decoder, "", np.tril(np.ones((len(y), len(y)), bool)))
    y = y + read(norm(y, decoder["cross_norm"]), memory, decoder, "cross_", see)
    return norm(y + mlp(y, decoder), p["norm"]) @ p["embedding"][:-1].T


def test_the_loss_is_that_of_the_formula():
    """Encoder over text and picture, decoder over all of it, in numpy; regions with their boxes."""
    (config, weights, costs), batch = noisy(), world(8)
    terms, found = costs(weights, batch), asked(batch, config)
    exact = jax.tree.map(lambda w: np.asarray(w, np.float64), weights)
    picture = np.concatenate([batch["region"].reshape(8, 2, -1) / 127.5 - 1, batch["box"]], axis=2)
    for row in range(8):
        target = found.target_BU[row]
        given = np.append(config.outputs, target[:-1])
        logits = slowly(exact, found.input_BS[row], found.keep_BS[row], picture[row], given)
        nats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(target)), target]
        for task, (own, counts) in terms.items():
            np.testing.assert_array_equal(counts[row], found.count_BU[row] & found.tasks[task][row])
            np.testing.assert_allclose(own[row], nats * counts[row], rtol=2e-4, atol=2e-4)


def test_without_its_picture_it_is_a_t5():
    """The same weights, prefix, text and target in t5: the same nats."""
    (config, weights, _), batch = noisy(), world(8)
    found = asked(batch, config)
    other = t5.Config(config.width, 1, config.heads, vocab=config.words - 1, context=10, rate=0.1)
    assert other.outputs == config.outputs  # a sentinel and a last one
    given = np.pad(found.target_BU[:, :-1], ((0, 0), (1, 0)), constant_values=config.outputs)
    keep = np.pad(found.keep_BS, ((0, 0), (0, config.places)))
    picture = np.zeros((8, config.places, config.features), np.float32)
    target = found.target_BU

    @quick
    def both(weights: Any) -> Any:
        text = {name: leaf for name, leaf in weights.items() if name != "patches"}
        alone = t5.Model(other).apply({"params": text}, found.input_BS, given, found.keep_BS, target)
        return vlt5.Model(config).apply({"params": weights}, found.input_BS, keep, picture, given, target), alone

    own, alone = both(weights)
    np.testing.assert_allclose(own, alone, rtol=1e-5, atol=1e-5)


def test_an_example_sees_its_own_picture_alone():
    (_, weights, costs), batch = noisy(), world(8)
    moved = batch["region"].copy()
    moved[5] = 255 - moved[5]
    before, after = (costs(weights, {**batch, "region": region}) for region in (batch["region"], moved))
    changed = np.any([(after[task][0] != nats).any(axis=1) for task, (nats, _) in before.items()], axis=0)
    np.testing.assert_array_equal(changed, np.arange(8) == 5)


@pytest.mark.parametrize(
    "fields", [{"regions": 2, "region_side": 11}, {"vqa_share": 1.0, "match_share": 0.0, "caption_share": 0.0}]
)
def test_counts_are_those_of_the_traced_program(fields: dict[str, Any]):
    config = made(**fields)
    parts = vlt5.components(config)
    shapes = jax.eval_shape(lambda: vlt5.init(jax.random.key(0), config))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count.parameters(parts)["total"]
    traced = count.jaxpr_flops(
        lambda p, b: vlt5.loss(p, b, jax.random.key(0), config), shapes, batch_of(vlt5, config, 3)
    )
    assert traced == 3 * sum(count.forward_flops(parts, 3).values())
    assert set(families.terms(vlt5, config)) == set(config.shares)
    assert ("question" in vlt5.batch_spec(config)) == ("vqa" in config.shares)


# --- a batch without a task


@pytest.mark.system
@pytest.mark.parametrize("family", [vlt5, streams])
def test_a_term_of_which_a_batch_has_nothing_is_zero(family: Any):
    """And not 0 / 0, which would end the run: one example has one task, whose loss starts where it is known."""
    fields: dict[str, Any] = {"regions": 3, "predicts": "class", "tied": False}
    config = small(family.__name__.rpartition(".")[2], layers=1, **fields)[1]
    batch = {name: jnp.asarray(each) for name, each in batch_of(family, config, 1).items()}
    trainer = Trainer(family, config, recipe.named("width", batch=1), MESH, 1)
    loss, gradient = quick(trainer._gradient)(trainer.init(0)["params"], batch, jax.random.key(0))
    starts = {term.weight * (term.start or math.nan) for term in families.terms(family, config).values()}
    assert any(float(loss) == pytest.approx(start, rel=1e-5) for start in starts)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))
    assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))


# --- questions of the source


def test_answers_have_the_entropy_of_their_choices_without_the_picture_and_none_with_it():
    """All 4,096 scenes, each with all questions."""
    every = np.stack(np.unravel_index(np.arange(4096), scenes.CHOICES), axis=1)
    entropies = []
    for number in range(len(graphs.QUESTIONS)):
        words = graphs.answers(every, np.full(4096, number))
        np.testing.assert_array_equal(words[:, 0], (every + scenes.FIRST)[:, number])
        share = np.unique(words, return_counts=True)[1] / 4096
        entropies.append(-(share * np.log(share)).sum())
    np.testing.assert_allclose(entropies, np.log([8, 4, 4, 8, 4]), rtol=1e-12)
    source: Any = data.load({"source": "graphs"})
    assert source.answer_entropy == pytest.approx(np.mean(entropies))


def test_questions_beside_a_caption_are_those_that_are_texts():
    own, texts = (
        data.load({"source": "graphs", "questions": asks}).batch(np.arange(300), seed=1, context=6)
        for asks in (False, True)
    )
    np.testing.assert_array_equal(own["image"], texts["image"])
    np.testing.assert_array_equal(own["question"][:, :2], texts["tokens"][:, 1:3])
    np.testing.assert_array_equal(own["answer"], texts["tokens"][:, 3:5])
    assert (own["question"][:, 2] == END).all() and "question" not in texts


def program(source: dict[str, Any], evaluated: int = 0, **model: Any) -> Any:
    """The one program of a study of a source, of its one run; with so many examples in its evaluation set, if not 0."""
    config: Any = study.base("vlt5")
    config.family, config.model = "vlt5", {"vocab": 24, "regions": 2, **model}
    config.data.told, config.recipe.batch = source, 8
    config.cells.grid = study.block("grid", "told", (0,), tokens=(2**12,))
    if evaluated:
        config.evaluation = {"tokens": 6 * evaluated, "batch": evaluated}
    return plan.make(study.resolve(config)).programs[0]


def planned(source: dict[str, Any], **model: Any) -> Any:
    """The one manifest of a study of a source."""
    return program(source, **model).runs[0].manifest


def test_a_source_without_questions_is_refused_and_a_plan_counts_what_is_asked():
    manifest = planned({"source": "graphs"})
    assert manifest.tokens.loss == manifest.tokens.D / 8 * 3 / 4  # of eight positions an example, three in one of four
    with refuses(Code.MISSING, "family", "vlt5"):
        planned({"source": "graphs", "questions": True})
    with refuses(Code.CONFLICT, "model.question", 4):
        planned({"source": "graphs"}, question=4)
    assert planned({"source": "scenes"}, vocab=19, regions=0, vqa_share=0.0).config["vqa_share"] == 0


@pytest.mark.system
def test_an_evaluation_set_without_a_task_is_refused_before_the_first_step(tmp_path):
    """Two examples have two of the four tasks at most: no loss of 0/0 is written, and nothing is trained for it."""
    small = program({"source": "graphs"}, evaluated=2, width=8, heads=1, layers=1)
    with refuses(Code.CONFLICT, "evaluation.tokens", 12):
        train.execute(small, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    assert not Record(tmp_path / "runs" / small.runs[0].run).steps()


@pytest.mark.system
def test_an_answer_costs_nothing_with_the_picture_and_its_entropy_without():
    """Nats per token of the answer and its end, over the last 100 of 1,200 steps of 32 new questions of what regions
    show: colours and shapes."""
    config = made(regions=2, region_side=11, width=32, heads=4, vqa_share=1.0, match_share=0.0, caption_share=0.0)
    source, steps, reads = data.load({"source": "graphs"}), 1200, inputs.arrays(vlt5, vlt5.batch_spec(config))
    drawn = source.batch(np.arange(60_000), seed=0, context=6)
    shown = np.flatnonzero(drawn["question"][:, 0] != graphs.QUESTIONS[2, 0])[: 32 * steps]
    batches = {name: drawn[name][shown].reshape(steps, 32, *drawn[name].shape[1:]) for name in reads}
    rules = recipe.named("width", warmup_steps=20, batch=32)
    trainer = Trainer(vlt5, config, rules, MESH, steps)
    rates = np.float32(0.004) * recipe.rate(rules, np.arange(steps), steps).astype(np.float32)
    hyper = {"learning_rate": rates, "weight_decay": 0 * rates, "steps": np.int32(steps)}
    blind = {**batches, **{name: np.zeros_like(batches[name]) for name in ("region", "box")}}
    for given, floor in ((batches, 0.0), (blind, np.log([8, 4, 8, 4]).mean() / 2)):
        losses = np.asarray(trainer.chunk(trainer.init(0), hyper, given)[1]["loss"])
        assert losses[-100:].mean() == pytest.approx(floor, abs=0.03)
