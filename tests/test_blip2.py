"""What the family ``blip2`` promises: its losses are the reference's, no mask leaks, what is not trained has no
gradient, and its parts are inherited."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system
from test_families import batch_of, initial, quick, small

from experiments import blip2 as experiment
from scaling import count, families, objectives, plan, study
from scaling.blocks import patches, qformer, tower
from scaling.errors import Code
from scaling.families import albef, blip2, clip

# Three layers, of which the first and the third attend to the picture.
CONFIG = small("blip2", layers=3, patch=4, context=5)[1]
Q, T, V = CONFIG.queries, CONFIG.context, CONFIG.vocab
BATCH = {name: jnp.asarray(value) for name, value in batch_of(blip2, CONFIG, 2).items()}


@functools.cache
def moved() -> Any:
    """Parameters none of which is as it was drawn."""
    return initial(blip2, CONFIG, 0.3)


@functools.cache
def found_states():
    """(parameters, memory, tokens, mask) -> the Q-Former's states; compiled once for each kind of pass."""
    return quick(lambda w, memory, tokens, see: blip2.states(w, memory, tokens, see, CONFIG))


@functools.cache
def first_stage():
    """parameters -> the terms of BATCH, compiled once."""
    return quick(lambda w: blip2.loss(w, BATCH, jax.random.key(3), CONFIG))


# --- by the formulas, in float64, one example after another


def norm(y_D: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    return y_D / np.sqrt(np.square(y_D).mean(axis=-1, keepdims=True) + 1e-6) * scale


def attended(x_TD: np.ndarray, memory_SW: np.ndarray, w: dict[str, np.ndarray], see_TS: np.ndarray) -> np.ndarray:
    out_TD = np.zeros_like(x_TD)
    for head in range(w["q"].shape[1]):
        q_TK = norm(x_TD @ w["q"][:, head], w["q_norm"])
        k_SK = norm(memory_SW @ w["k"][:, head], w["k_norm"])
        share_TS = np.where(see_TS, np.exp(q_TK @ k_SK.T / math.sqrt(q_TK.shape[1])), 0)
        out_TD += share_TS / share_TS.sum(axis=1, keepdims=True) @ (memory_SW @ w["v"][:, head]) @ w["o"][head]
    return out_TD


def mlp(x_TD: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    return np.square(np.maximum(norm(x_TD, w["mlp_norm"]) @ w["up"], 0)) @ w["down"]


def slow(exact: Any, memory_PW: np.ndarray | None, tokens_T: np.ndarray | None, see_SS: np.ndarray) -> np.ndarray:
    """The states of one example."""
    w, x_SD = exact["qformer"], np.zeros((0, CONFIG.width))
    if memory_PW is not None:
        x_SD = norm(w["ends"]["queries"])
    if tokens_T is not None:
        text_TD = norm(norm(exact["embedding"][tokens_T]) + exact["position"][: len(tokens_T)])
        x_SD = np.concatenate([x_SD, text_TD])
    first = 0 if memory_PW is None else Q
    for layer in range(CONFIG.layers):
        own, text = ({name: leaf[layer] for name, leaf in each.items()} for each in (w["layers"], exact["reader"]))
        h_SD = norm(x_SD, own["query_norm"])
        x_SD = x_SD + attended(h_SD, h_SD, own, see_SS)
        if memory_PW is not None and layer % 2 == 0:
            crossing = {name: leaf[layer // 2] for name, leaf in w["cross"].items()}
            asked_QD = norm(x_SD[:Q], crossing["query_norm"])
            x_SD[:Q] += attended(asked_QD, memory_PW, crossing, np.ones((Q, len(memory_PW)), bool))
        x_SD = np.concatenate([x_SD[:first] + mlp(x_SD[:first], own), x_SD[first:] + mlp(x_SD[first:], text)])
    return norm(x_SD, w["ends"]["norm"])


def nats(logits_V: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits_V).sum()) - logits_V[target])


def test_the_first_stage_is_that_of_the_reference():
    """Of two examples, so that the wrong pairs are known. The contrast has passes of its own, as in the reference."""
    parameters, tokens = moved(), np.asarray(BATCH["tokens"])
    exact: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), parameters)
    cut = patches.patchify(BATCH["image"], CONFIG.patch)
    seen = np.asarray(quick(lambda w, cut: tower.seen(w, cut, CONFIG))(parameters, cut), np.float64)
    memory = norm(seen, exact["qformer"]["ends"]["memory_norm"])
    everyone = functools.partial(np.ones, dtype=bool)
    images = [slow(exact, each, None, everyone((Q, Q))) @ exact["image_head"] for each in memory]
    texts = [slow(exact, None, each, everyone((T + 1, T + 1)))[0] @ exact["text_head"] for each in tokens]
    images, texts = (
        [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in vectors] for vectors in (images, texts)
    )
    alike = np.exp(exact["log_scale"]) * np.array([[max(image @ text) for text in texts] for image in images])
    contrast, matching, text = [], [], []
    behind = np.tril(everyone((Q + T, Q + T)))
    behind[:, :Q] = True
    for own, other in ((0, 1), (1, 0)):
        both = 0.0
        for scores in (alike[own], alike[:, own]):
            spread = [0.1 / 2 + (0.9 if place == own else 0) for place in (0, 1)]
            both += sum(share * nats(scores, place) for place, share in enumerate(spread))
        contrast.append(both / 2)
        asked = ((own, own, 1), (other, own, 0), (own, other, 0))
        logits = [
            (slow(exact, memory[a], tokens[b], everyone((Q + T + 1,) * 2))[:Q] @ exact["match"]).mean(axis=0)
            for a, b, _ in asked
        ]
        matching.append(sum(nats(each, right) for each, (_, _, right) in zip(logits, asked)))
        x_SD = slow(exact, memory[own], np.array([V, *tokens[own][1:-1]]), behind)
        text.append([nats(x_D @ exact["embedding"][:V].T, token) for x_D, token in zip(x_SD[Q:], tokens[own][1:])])
    found = first_stage()(parameters)
    for name, wanted in (("contrast", contrast), ("matching", matching), ("text", text)):
        np.testing.assert_allclose(found[name][0], wanted, rtol=3e-4, err_msg=name)
    assert found["matching"][1].tolist() == [3, 3] and found["contrast"][1].tolist() == [1, 1]


def differs(one: jax.Array, other: jax.Array) -> list[bool]:
    """By position: whether any number differs, in every example."""
    return (np.asarray(one) != np.asarray(other)).any(axis=-1).all(axis=0).tolist()


def test_no_mask_leaks():
    """Queries with the text causal behind them, text alone, and both together; and text behind padding."""
    w, memory = moved(), jax.random.normal(jax.random.key(0), (2, CONFIG.patches, CONFIG.vision_width))
    tokens, find = BATCH["tokens"], found_states()
    text, both = tokens[:, :-1], jnp.ones((2, Q + T), bool)
    behind = qformer.behind(Q, T)
    before, alone = find(w, memory, text, behind), find(w, None, text, qformer.among(jnp.ones((2, T), bool)))
    together = find(w, memory, text, qformer.among(both))
    for place in range(T):
        changed = text.at[:, place].set((text[:, place] + 1) % V)
        after = find(w, memory, changed, behind)
        assert differs(before, after) == [False] * Q + [position >= place for position in range(T)]
        assert all(differs(together, find(w, memory, changed, qformer.among(both))))
        assert all(differs(alone, find(w, None, changed, qformer.among(jnp.ones((2, T), bool)))))
    assert all(differs(before, find(w, -memory, text, behind)))
    queries = find(w, memory, None, jnp.ones((1, Q, Q), bool))
    np.testing.assert_allclose(before[:, :Q], queries, atol=2e-5)  # so one pass serves the contrast and the text
    # The picture reaches text through queries alone, and neither sees what is behind the padding.
    apart = jnp.asarray((np.arange(Q + T) < Q)[:, None] == (np.arange(Q + T) < Q))[None]
    assert differs(find(w, memory, text, apart), find(w, -memory, text, apart)) == [True] * Q + [False] * T
    keep = jnp.asarray(np.arange(Q + T) < Q + 3)[None]
    padded = qformer.among(jnp.broadcast_to(keep, both.shape))
    other = text.at[:, 3:].set((text[:, 3:] + 1) % V)
    assert differs(find(w, memory, text, padded), find(w, memory, other, padded)) == [False] * (Q + 3) + [True] * 2


def test_a_wrong_pair_is_never_the_right_one_and_the_likelier_the_more_alike_it_is():
    scores = jnp.asarray(np.random.default_rng(0).normal(0, 1.5, (5, 5)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), (4000, 5))
    drawn = np.asarray(quick(jax.vmap(lambda keys: objectives.another(keys, scores, 0.05)))(keys))
    weights = np.asarray(jax.nn.softmax(scores)) + 0.05
    np.fill_diagonal(weights, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    for own in range(5):
        share = np.bincount(drawn[:, own], minlength=5) / len(drawn)
        np.testing.assert_array_less(np.abs(share - weights[own]), 4.5 * np.sqrt(weights[own] / len(drawn)) + 1e-9)


def test_units_say_whose_targets_and_what_is_asked():
    units, one = families.units(blip2, CONFIG, 8, {}), families.units(clip, small("clip")[1], 8, {})
    sharp = families.units(blip2, dataclasses.replace(CONFIG, smoothing=0.0), 8, {})
    assert units["contrast"] != sharp["contrast"] == next(iter(one.values()))
    assert units["retrieval"] == sharp["retrieval"] and units["retrieval"].among == units["contrast"].among == 8
    taught = families.units(albef, small("albef")[1], 8, {})
    assert units["matching"] == taught["matching"] and units["matching"].among == 7


def test_the_scale_stays_exact():
    assert families.exact(blip2, CONFIG) == ("log_scale",) and not families.exact(blip2, SPOKEN)


def test_it_starts_at_ln_of_the_batch_whatever_the_smoothing():
    found = first_stage()(initial(blip2, CONFIG))
    np.testing.assert_allclose(found["contrast"][0], math.log(len(BATCH["tokens"])), rtol=1e-6)
    assert CONFIG.smoothing == 0.1 and families.terms(blip2, CONFIG)["contrast"].start is None
    np.testing.assert_allclose(found["matching"][0], 3 * math.log(2), rtol=1e-6)


SPOKEN = small("blip2", "stage", layers=2, patch=4, language_layers=2, context=5)[1]


def test_behind_a_map_of_zero_the_picture_does_not_matter_to_the_bit():
    """Its gradient there has the slopes of a norm at zero, one behind the other: a map that starts there never recovers
    in a deep language model."""
    w, batch = initial(blip2, SPOKEN, 0.1), batch_of(blip2, SPOKEN, 3)
    turned = {**batch, "image": batch["image"][::-1]}

    @quick
    def run(projection, batch):
        def text(projection):
            return blip2.loss({**w, "projection": projection}, batch, jax.random.key(0), SPOKEN)["text"][0]

        return text(projection), jax.grad(lambda projection: text(projection).mean())(projection)

    drawn, zero = w["projection"], jnp.zeros_like(w["projection"])
    np.testing.assert_array_equal(run(zero, batch)[0], run(zero, turned)[0])
    assert (np.asarray(run(drawn, batch)[0]) != np.asarray(run(drawn, turned)[0]))[[0, 2]].all()
    steep, even = (float(jnp.linalg.norm(run(each, batch)[1])) for each in (zero, drawn))
    assert steep > 1e4 * even > 0


FIELDS: dict[str, Any] = {"image": 32, "patch": 8, "vocab": 64, "context": 12, "vision_layers": 2, "layers": 3}
FIELDS |= {"language_layers": 3, "queries": 5}


@pytest.mark.system
@pytest.mark.parametrize("trains", tower.TRAINS)
@pytest.mark.parametrize("stage", blip2.STAGES)
def test_flops_are_2_of_the_tower_4_of_the_language_model_and_6_of_the_rest(stage: str, trains: str):
    _, config = small("blip2", "", 4, **FIELDS, stage=stage, trains=trains, tied=False)
    parts = {part.name: part for part in blip2.components(config)}
    shapes = jax.eval_shape(lambda: blip2.init(jax.random.key(0), config))
    batch = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in batch_of(blip2, config, 3).items()}

    def total(parameters, batch):
        found = blip2.loss(parameters, batch, jax.random.key(0), config)
        return sum(nats.sum() for name, (nats, _) in found.items() if name != "retrieval")

    executed = count.executed_flops(parts.values(), 3)
    assert count.jaxpr_flops(jax.grad(total), shapes, batch) == 3 * sum(executed.values())
    d, wide, own, queries, text, places = config.width, config.vision_width, config.language_width, 5, 12, 16
    k = {"tower": 2 if trains == "added" else 6, "language": 6 if trains == "all" else 4}
    tower_flops = k["tower"] * (192 * wide + 2 * 12 * wide**2) * places
    scores = 2 * 2 * places**2 * wide * (1 if trains == "added" else 3)
    if stage == "generate":
        both = queries + text
        rest = 6 * (3 * 12 * d**2 + 2 * 2 * d**2) * queries + 6 * 2 * 2 * wide * d * places + 6 * d * own * queries
        rest += k["language"] * (3 * 12 * own**2 * both + 64 * own * text)
        scores += 3 * 2 * (3 * queries**2 * d + 2 * queries * places * d + 3 * both**2 * own)
    else:
        passes = [queries + text, text + 1, *[queries + text + 1] * 3]
        rest = 6 * (3 * 4 * d**2 * sum(passes) + 3 * 8 * d**2 * (4 * queries + 5 * text + 4))
        rest += 6 * 2 * (2 * d**2 * 4 * queries + 2 * wide * d * 4 * places)
        rest += 6 * (64 * d * text + config.project * d * (queries + 1) + 2 * d * 3)
        scores += 3 * 2 * (3 * sum(each**2 for each in passes) * d + 2 * 4 * queries * places * d)
        scores += 3 * config.project * queries * 3
    assert sum(count.training_flops(parts.values(), 3).values()) == tower_flops + rest + 2 * scores
    found, still = count.parameters(parts.values()), blip2.frozen(config)
    kept = [leaf for name in still for leaf in jax.tree.leaves(shapes[name])]
    assert found["total"] - found["trainable"] == sum(math.prod(leaf.shape) for leaf in kept)


# --- what is inherited


def config_of(**fields: Any) -> Any:
    """A vit, a gpt, a Q-Former of the first stage and one of the second that starts from all three."""
    made: Any = study.base("blip2")
    made.family, made.chunk = "blip2", 10
    small_parts = {"vision_width": 8, "vision_layers": 1, "vision_heads": 1}
    small_parts |= {"language_width": 8, "language_layers": 1, "language_heads": 1}
    made.model = {"patch": 8, "width": 8, "layers": 1, "heads": 1, "queries": 2, "project": 4, **small_parts}
    for name in ("captions", "said", "language", "scenes"):
        made.data[name] = {"source": "scenes"}
    made.recipe.batch, made.recipe.warmup_steps, made.recipe.schedule = 4, 2, "constant"
    made.evaluation = {"tokens": 384, "batch": 32}
    shape = {"width": 8, "layers": 1, "heads": 1}
    own = {"family": "gpt", "model": {**shape, "context": 6}}
    made.cells.language = study.block("grid", "language", (0,), tokens=(6 * 4 * 10,), **own)
    vit = {"family": "vit", "model": {**shape, "patch": 8}}
    made.cells.tower = study.block("grid", "scenes", (0,), tokens=(16 * 4 * 10,), **vit)
    made.cells.first = study.block("grid", "captions", (0,), tokens=(6 * 4 * 10,), init_from=TOWER)
    second = {"model": {"stage": "generate", **fields.pop("model", {})}, "init_from": {**HANDED, **LANGUAGE}, **fields}
    made.cells.second = study.block("grid", "said", (0,), tokens=(6 * 4 * 10,), **second)
    return made


LANGUAGE: dict[str, Any] = dict.fromkeys(("embedding", "stack", "norm"), "language")
TOWER: dict[str, Any] = {part: {"block": "tower", "part": source} for part, source in tower.PARTS.items()}
HANDED: dict[str, Any] = dict.fromkeys((*tower.PARTS, "qformer"), "first")
INITIAL = "cells.second.init_from"
REFUSED: list[tuple[dict[str, Any], Code, str]] = [
    ({"init_from": {}}, Code.MISSING, INITIAL),
    ({"init_from": HANDED}, Code.MISSING, INITIAL),
    ({"init_from": {**LANGUAGE, "qformer": "first"}}, Code.MISSING, INITIAL),
    ({"init_from": {"*": "first"}}, Code.INVALID, f"{INITIAL}.embedding"),
    ({"init_from": {**HANDED, **LANGUAGE, "qformer": "tower"}}, Code.CONFLICT, f"{INITIAL}.qformer"),
    ({"init_from": {**HANDED, **LANGUAGE, "norm": "tower"}}, Code.CONFLICT, f"{INITIAL}.norm"),
    ({"model": {"every": 1}}, Code.CONFLICT, "model.every"),
    ({"model": {"activation": "gelu"}}, Code.CONFLICT, "model.activation"),
    ({"model": {"language_activation": "gelu"}}, Code.CONFLICT, "model.language_activation"),
    ({"model": {"tied": False}, "init_from": {**HANDED, **LANGUAGE, "head": "language"}}, Code.CONFLICT, "model.tied"),
    ({"model": {"queries": 3}}, Code.INVALID, f"{INITIAL}.qformer"),
    ({"adapt": {"kind": "lora"}}, Code.UNSUPPORTED, "adapt"),
]


@pytest.mark.parametrize(("fields", "code", "field"), REFUSED)
def test_what_is_not_trained_is_inherited_from_parents_that_compute_alike(fields: dict, code: Code, field: str):
    with refuses(code, field) as caught:
        study.resolve(config_of(**fields))
    assert "\n" not in str(caught.value)


def test_the_second_stage_takes_the_queries_half_of_the_first():
    made = plan.make(study.resolve(config_of()))
    by_data = {spec.manifest.dataset: spec.manifest for program in made.programs for spec in program.runs}
    first, second = by_data["captions"], by_data["said"]
    assert {each.run: set(each.parts) for each in second.parents} == {
        first.run: set(HANDED),
        by_data["language"].run: set(LANGUAGE),
    }
    assert list(first.terms) == ["contrast", "matching", "text", "retrieval"] and list(second.terms) == ["text"]
    assert second.terms["text"] == first.terms["text"] and not first.terms["text"].bounded_by_entropy
    assert first.terms["contrast"].among == 32
    costs = [by_data[name].flops.training for name in ("captions", "language", "scenes")]
    assert second.parent_flops == sum(costs) and first.parent_flops == costs[2]
    drawn = study.resolve(config_of(init_from={**TOWER, **LANGUAGE})).cells  # the Q-Former may be drawn
    assert len(drawn) == 4


@pytest.mark.parametrize("argument", mostly_system(["", "generate", "rates", "large"], "", "rates"))
def test_the_study_inherits_what_it_trains(argument: str):
    cells = [cell for cell in study.resolve(experiment.get_config(argument)).cells if cell.family == "blip2"]
    assert {cell.config.stage for cell in cells} == ({"represent", "generate"} if argument else {"represent"})
    for cell in cells:
        parents: Any = {start.part: start.parent for start in cell.start}
        assert parents.keys() >= set(blip2.frozen(cell.config))
        assert {parent.seed for parent in parents.values()} == {cell.seed}
        if cell.config.stage == "generate":
            assert parents["qformer"].config.stage == "represent" and parents["qformer"].size == cell.size
            assert parents["vision"] is parents["qformer"]
