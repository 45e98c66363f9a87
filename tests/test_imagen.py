"""What dit promises of captions as its condition: the reference's mechanism, what is hidden, and a parent's encoder."""

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system
from test_families import MESH, batch_of, quick, small

from experiments import imagen as experiment
from scaling import count, families, parts, plan, recipe, settings, study, train
from scaling.blocks import captions
from scaling.errors import Code
from scaling.families import dit, t5
from scaling.run import Run
from scaling.step import Trainer

MODULE, CONFIG = small("dit", "condition", layers=1, text=5, text_vocab=11, drop=0.0)
END = CONFIG.text_vocab - 1


@functools.cache
def made() -> tuple[Any, dict[str, jax.Array]]:
    """Parameters that are all random, and a batch of captions of one word to all, with their ends."""
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), parts.shapes(MODULE, CONFIG))
    batch = batch_of(MODULE, CONFIG, 4)
    for row, words in enumerate((1, 2, 3, 4)):
        batch["tokens"][row, 1 + words] = END
    batch["other_tokens"] = batch["tokens"][[1, 0, 3, 2]]
    return jax.tree.map(jnp.asarray, (drawn, batch))


@functools.cache
def compiled() -> Any:
    """Of parameters, a batch and a key: losses without and with dropped captions, of other captions, and predictions of
    what is not noised at time 7; one compilation for all tests."""

    def found(parameters: Any, batch: dict[str, jax.Array], key: jax.Array) -> Any:
        own, half = (dit.loss(parameters, batch, key, replace(CONFIG, drop=drop)) for drop in (0.0, 0.5))
        given = captions.encoded(parameters, batch["tokens"][:, 1:], CONFIG)
        noised_BPX, time_B = jnp.ones((4, CONFIG.patches, CONFIG.pixels)), jnp.full(4, 7)
        predicted = dit.outputs(parameters, noised_BPX, time_B, CONFIG, given)
        return own["eps"][0], half["eps"][0], dit.metrics(parameters, batch, CONFIG)["another"][0], predicted, given

    return quick(found)


def norm(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def attended(asks: np.ndarray, told: np.ndarray, w: dict[str, np.ndarray], prefix: str, place: Any) -> np.ndarray:
    """Attention of (T, D) to (S, D), with all its heads; ``place`` turns queries and keys by their positions."""
    q, k, v = (np.einsum("td,dhk->htk", x, w[f"{prefix}{name}"]) for x, name in ((asks, "q"), (told, "k"), (told, "v")))
    q, k = (place(norm(x) * w[f"{prefix}{name}_norm"]) for x, name in ((q, "q"), (k, "k")))
    scores = np.exp(np.einsum("htk,hsk->hts", q, k) / math.sqrt(q.shape[-1]))
    return np.einsum("hts,hsk,hkd->td", scores / scores.sum(axis=-1, keepdims=True), v, w[f"{prefix}o"])


def turned(x: np.ndarray) -> np.ndarray:
    """Rotary positions: each pair of numbers as a complex number, times one of its place."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    pairs = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def told(p: Any, words: np.ndarray) -> np.ndarray:
    """The vectors of one caption, which has no padding: an encoder of one pre-norm block, and its last norm."""
    w = jax.tree.map(lambda leaf: leaf[0], p["text_encoder"])
    x = norm(p["text_embedding"][words])
    h = norm(x) * w["attention_norm"]
    x = x + attended(h, h, w, "", turned)
    x = x + np.square(np.maximum((norm(x) * w["mlp_norm"]) @ w["up"], 0)) @ w["down"]
    return norm(x) * p["text_norm"]


def imagined(p: Any, noised: np.ndarray, time: int, words: np.ndarray) -> np.ndarray:
    """The prediction for one picture: cross-attention to all vectors of its caption, and their mean with the time."""
    w, place = jax.tree.map(lambda leaf: leaf[0], p["stack"]), lambda x: x
    memory = norm(told(p, words) @ p["read"]["words"])
    given = silu(np.asarray(dit.sinusoids(jnp.array(time), 256)) @ p["time_in"]) @ p["time_out"]
    given = silu(given + norm(memory.mean(axis=0)) @ p["read"]["whole"])
    x = noised @ p["patch"] + np.asarray(dit.positions(CONFIG.side, CONFIG.width))
    by = np.einsum("d,dne->ne", given, w["modulation"])
    h = norm(x) * (1 + by[1]) + by[0]
    x = x + by[2] * attended(h, h, w, "", place)
    x = x + attended(norm(x) * w["cross_norm"], memory, w, "cross_", place)
    h = norm(x) * (1 + by[4]) + by[3]
    x = x + by[5] * (np.square(np.maximum(h @ w["up"], 0)) @ w["down"])
    last = np.einsum("d,dne->ne", given, p["final_modulation"])
    return (norm(x) * (1 + last[1]) + last[0]) @ p["head"]


def test_predictions_are_those_of_the_mechanism_written_down_again():
    """One picture after another, in numpy and without padding: words are read by every block and in the mean."""
    parameters, batch = made()
    *_, predicted, (vectors, keep) = compiled()(parameters, batch, jax.random.key(0))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)
    for row in range(4):
        words = np.asarray(batch["tokens"])[row, 1 : 3 + row]
        assert words[-1] == END and np.asarray(keep)[row].sum() == len(words) == row + 2
        np.testing.assert_allclose(np.asarray(vectors)[row, : len(words)], told(p, words), atol=1e-4)
        expected = imagined(p, np.ones((CONFIG.patches, CONFIG.pixels)), 7, words)
        np.testing.assert_allclose(np.asarray(predicted)[row], expected, rtol=1e-3, atol=1e-3)


def test_no_caption_reaches_another_example_nor_anything_behind_its_end():
    parameters, batch = made()
    key = jax.random.key(0)
    own, _, another, *_ = compiled()(parameters, batch, key)
    padded = batch["tokens"].at[0, 3:].set(3)  # behind the end of the first
    np.testing.assert_array_equal(compiled()(parameters, {**batch, "tokens": padded}, key)[0], own)
    for row in range(4):
        moved = batch["tokens"].at[row, 1].set((batch["tokens"][row, 1] + 1) % END)
        differs = np.asarray(compiled()(parameters, {**batch, "tokens": moved}, key)[0] != own)
        assert differs.tolist() == [row == other for other in range(4)]
    swapped = {**batch, "tokens": batch["other_tokens"]}
    np.testing.assert_allclose(another, compiled()(parameters, swapped, key)[0], rtol=1e-6)


def test_a_dropped_caption_is_empty_and_which_are_depends_on_the_example():
    parameters, batch = made()
    empty = captions.emptied(batch["tokens"][:, 1:], jnp.array([True, False, True, False]))
    assert (np.asarray(empty)[::2] == END).all()
    np.testing.assert_array_equal(empty[1::2], batch["tokens"][1::2, 1:])
    nothing = {**batch, "tokens": jnp.full_like(batch["tokens"], END)}
    found, dropped = [], 0
    for seed in range(8):
        key = jax.random.key(seed)
        own, half, *_ = compiled()(parameters, batch, key)
        without, *_ = compiled()(parameters, nothing, key)
        hidden = np.asarray(half == without)
        np.testing.assert_array_equal(half, np.where(hidden, without, own))
        found.append(hidden.tolist())
        dropped += hidden.sum()
    assert 8 <= dropped <= 24 and len({tuple(each) for each in found}) > 4


def test_at_the_start_no_caption_changes_anything_and_all_are_one():
    parameters, batch = made()
    start = {**parameters, **{name: jnp.zeros_like(parameters[name]) for name in ("head", "final_modulation")}}
    own, half, another, predicted, _ = compiled()(start, batch, jax.random.key(0))
    assert not np.asarray(predicted).any()
    np.testing.assert_array_equal(own, half)
    np.testing.assert_array_equal(own, another)
    assert float(own.sum()) / 4 / CONFIG.patches == pytest.approx(1, abs=4 * math.sqrt(2 / (4 * 16 * 12)))
    drawn = jax.eval_shape(lambda: dit.init(jax.random.key(0), CONFIG))
    assert {name: leaf.shape for name, leaf in drawn["read"].items()} == {"words": (16, 16), "whole": (16, 16)}


def test_the_encoder_is_counted_forward_alone_and_is_no_part_of_n():
    c, own = CONFIG, {part.name: part for part in dit.components(CONFIG)}
    found, training = count.parameters(own.values()), count.training_flops(own.values())
    weights, scores = c.text_layers * 12 * c.text_width**2, 4 * c.text_layers * c.text_width * c.text**2
    encoder = {name: part for name, part in own.items() if part.group == count.TOKENIZER}
    assert sum(training[name] for name in encoder) == 2 * weights * c.text + scores
    held = sum(part.parameters for part in encoder.values())
    assert found["trainable"] == found["active"] == found["total"] - held
    assert found["nonembedding"] == found["trainable"] - c.width * c.pixels  # the head
    d, positions = c.width, c.patches
    assert training["cross_memory"] == 6 * 2 * d**2 * c.layers * c.text
    assert training["cross_query"] == 6 * 2 * d**2 * c.layers * positions + 12 * c.layers * d * positions * c.text
    assert (training["read_words"], training["read_whole"]) == (6 * c.text_width * d * c.text, 6 * d**2)


def test_no_weight_of_the_encoder_has_a_gradient_in_the_program():
    batch = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in batch_of(MODULE, CONFIG, 2).items()}
    shapes = parts.shapes(MODULE, CONFIG)
    held = {name: shapes[name] for name in captions.PARTS}

    def loss(held: Any, rest: Any, batch: Any) -> jax.Array:
        return dit.loss({**rest, **held}, batch, jax.random.key(0), CONFIG)["eps"][0].sum()

    rest = {name: shapes[name] for name in shapes if name not in held}
    forward = count.jaxpr_flops(loss, held, rest, batch)
    # With respect to the encoder alone nothing is differentiated: the program is the forward pass.
    assert count.jaxpr_flops(jax.grad(loss), held, rest, batch) == forward > 0


def test_records_of_classes_and_of_fields_are_as_they_were():
    own = settings.fields_of(families.configure(dit, 0, field=8, patch=2, classes=0))
    assert not [name for name in own if name.startswith("text") or name in ("condition", "sentinels")]
    spec = dit.batch_spec(CONFIG)
    assert spec == {"context": 16, "image": 8, "text": 5, "vocab": 11} and dit.partners(CONFIG) == ("tokens",)
    plain = small("dit")[1]
    assert not (dit.inherits(plain) or dit.partners(plain) or dit.metrics({}, {}, plain) or dit.frozen(plain))
    another, own_unit = (dit.terms(CONFIG)[name] for name in ("another", "eps"))
    assert another.unit != own_unit.unit == dit.terms(plain)["eps"].unit and another.weight == 0


def test_the_encoder_stays_exact_in_bfloat16():
    config = replace(CONFIG, dtype="bfloat16")
    cast = Trainer(dit, config, recipe.named("width", batch=4), {"data": 1}, 1)._cast(made()[0])
    kinds = {name: {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} for name, tree in cast.items()}
    assert {name for name, kind in kinds.items() if kind == {"float32"}} == set(captions.PARTS)
    assert all(kind == {"bfloat16"} for name, kind in kinds.items() if name not in captions.PARTS)


def test_vectors_are_those_of_the_encoder_of_t5():
    """To the bit, for whole captions: what its own model computes before the decoder reads it."""
    config = t5.Config(width=16, layers=1, heads=2, vocab=11, context=5)
    shape = replace(CONFIG, sentinels=config.outputs + 1 - config.vocab)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, END, (3, 5)), jnp.int32).at[:, -1].set(END)

    def both() -> Any:
        parameters: Any = dict(t5.init(jax.random.key(0), config))
        parameters["encoder_norm"] = parameters["encoder_norm"] * 1.5
        inner = t5.Model(config).apply({"params": parameters}, tokens, tokens, mutable=["intermediates"], **CAUGHT)[1]
        (states,) = inner["intermediates"]["encoder"]["__call__"]
        own = {part: parameters[source] for part, source in captions.PARTS.items()}
        return states, parameters["encoder_norm"], captions.encoded(own, tokens, shape)

    states, scale, (vectors, keep) = quick(both)()
    np.testing.assert_allclose(vectors, norm(np.asarray(states)) * np.asarray(scale), rtol=1e-5, atol=1e-6)
    assert np.asarray(keep).all()


CAUGHT: Any = {"capture_intermediates": lambda module, method: module.name == "encoder"}


@pytest.mark.system
def test_a_caption_that_tells_the_picture_is_worth_something():
    """Black and white pictures, which the first word names."""
    config, white = replace(CONFIG, predicts="v"), np.arange(8) % 2
    batch: Any = batch_of(MODULE, config, 8)
    batch["image"][:], batch["tokens"][:, 1] = 255 * white[:, None, None, None], white
    batch["other_tokens"] = batch["tokens"][np.arange(8) ^ 1]
    trainer, steps = Trainer(dit, config, recipe.named("width", batch=8), MESH, 100), 100
    hyper = {"learning_rate": jnp.full(steps, 0.01), "weight_decay": jnp.zeros(steps), "steps": jnp.int32(steps)}
    every = {name: np.repeat(value[None], steps, 0) for name, value in batch.items()}

    def worth(every: Any) -> jax.Array:
        state, _ = trainer.step_chunk(trainer._init(jnp.uint32(0)), hyper, every)
        own = dit.loss(state["params"], batch, jax.random.key(0), config)["v"]
        return dit.metrics(state["params"], batch, config)["another"][0].sum() / own[0].sum()

    assert float(quick(worth)(every)) > 1.5


def test_the_study_compares_runs_of_one_place_alone():
    runs = [
        experiment.Run(arm, size, 0, 64, loss, 2 * loss)
        for arm, size, loss in (("trained", 0, 0.1), ("trained", 1, 0.2), ("drawn", 0, 0.15), ("drawn", 1, 0.3))
    ]
    runs.append(experiment.Run("drawn", 2, 0, 64, 9.0, 18.0))  # without a partner
    drawn, trained = experiment.compared(runs)
    assert drawn.ratio is not None and trained.ratio is None
    assert (drawn.runs, drawn.pairs, trained.runs) == (3, 2, 2)
    for each, value in ((drawn.ratio, 1.5), (drawn.another, 2), (trained.another, 2)):
        assert (each.lo, each.value, each.hi) == pytest.approx((value, value, value))
    assert len(experiment.lines([drawn, trained])) >= 3


def test_words_without_their_order_say_less_of_a_picture_than_a_caption():
    """The variance of the pixels' own noise is that of a whole number from -16 to 16, over 127.5."""
    caption, bag, nothing = (experiment.variance(told, 60, 16) for told in ("caption", "bag", "nothing"))
    assert (33**2 - 1) / 12 / 127.5**2 < caption[0] < bag[0] - 2 * bag[1] < nothing[0] - 4 * nothing[1]


STUDIES = [("", 54), ("rates", 16), ("large", 54)]


@pytest.mark.parametrize(("argument", "children"), mostly_system(STUDIES, ("rates", 16)))
def test_the_study_trains_the_encoders_that_it_reads(argument: str, children: int):
    cells = study.resolve(experiment.get_config(argument)).cells
    found = [cell for cell in cells if cell.family == "dit"]
    assert len(found) == children
    for cell in found:
        (parent,) = {id(start.parent): start.parent for start in cell.start}.values()
        assert isinstance(parent, study.Cell) and parent.family == "t5" and parent.seed == cell.seed
        assert {start.part: start.source for start in cell.start} == captions.PARTS
        assert cell.config.text_vocab + cell.config.sentinels == parent.config.outputs + 1
        assert (parent.steps == 1) == (cell.dataset == "drawn")


# --- in a study


def config_of(**fields: Any) -> Any:
    """A t5 and a dit of few steps, all tiny; ``fields`` of the block of the dit."""
    made: Any = study.base("imagen")
    made.family, made.chunk = "dit", 10
    told = {"condition": "text", "text_width": 8, "text_heads": 1, "text_layers": 1}
    made.model = {"patch": 8, "layers": 1, "width": 16, "heads": 1, **told}
    made.recipe.batch, made.recipe.warmup_steps = 4, 2
    made.data.scenes, made.data.captions = {"source": "scenes"}, {"source": "scenes", "world": 1}
    made.evaluation = {"tokens": 6 * 32, "batch": 32}
    encoder: dict[str, Any] = {"family": "t5", "model": {"width": 8, "heads": 1, "layers": 1, "context": 6}}
    made.cells.text = study.block("grid", "captions", (1,), tokens=(6 * 4 * 10,), seeds=(7, 8), **encoder)
    start = {part: {**PARENT, "part": source} for part, source in captions.PARTS.items()}
    made.cells.grid = study.block("grid", "scenes", (0,), **{"tokens": (640,), "init_from": start, **fields})
    return made


PARENT = {"block": "text", "size": 1, "seed": 7}
START = {part: {**PARENT, "part": source} for part, source in captions.PARTS.items()}
REFUSED: list[tuple[dict[str, Any], Code, str]] = [
    ({"init_from": {}}, Code.MISSING, "cells.grid.init_from"),
    ({"init_from": {**START, "text_norm": ""}}, Code.MISSING, "cells.grid.init_from"),
    (
        {"init_from": {**START, "text_norm": {**START["text_norm"], "seed": 8}}},
        Code.CONFLICT,
        "cells.grid.init_from",
    ),
    (
        {"init_from": {**START, "text_norm": {**PARENT, "part": "norm"}}},
        Code.CONFLICT,
        "cells.grid.init_from.text_norm",
    ),
    ({"model": {"text_layers": 2}}, Code.CONFLICT, "model.text_layers"),
    ({"model": {"text_activation": "gelu"}}, Code.CONFLICT, "model.text_activation"),
    ({"model": {"text_weight_bits": 4}}, Code.CONFLICT, "model.text_weight_bits"),
    ({"model": {"text_vocab": 20}}, Code.CONFLICT, "model.text_vocab"),
    ({"model": {"sentinels": 4}}, Code.INVALID, "cells.grid.init_from.text_embedding"),
]


@pytest.mark.parametrize(("fields", "code", "field"), REFUSED)
def test_an_encoder_that_is_not_there_or_computes_otherwise_is_refused(fields: dict[str, Any], code: Code, field: str):
    with refuses(code, field) as caught:
        study.resolve(config_of(**fields))
    assert "\n" not in str(caught.value)


@pytest.mark.system
def test_a_child_of_no_step_reads_as_its_parent_did(tmp_path: Path):
    made = plan.make(study.resolve(config_of()))
    plan.write(made, tmp_path)
    every = {spec.run: (spec, program) for program in made.programs for spec in program.runs}
    child = next(each for each, _ in every.values() if each.manifest.family == "dit")
    (given,) = child.manifest.parents
    parent, maker = every[given.run]
    assert given.parts == captions.PARTS and parent.manifest.seed == 7
    assert child.manifest.parent_flops == parent.manifest.flops.training
    train.execute(maker, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    theirs, run = Run(parent, maker, tmp_path), Run(child, every[child.run][1], tmp_path)
    kept, state = theirs.checkpoints.load(theirs.trainer.abstract), run.initial()
    assert kept is not None
    for part, source in captions.PARTS.items():
        jax.tree.map(np.testing.assert_array_equal, state["params"][part], kept[1]["params"][source])
