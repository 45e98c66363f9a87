"""What the family ``flamingo`` and its documents promise: it starts as its language model to the bit, a token sees one
picture, what is not trained has no gradient, and its parts are inherited from a vit and from gpts."""

import functools
import math
from pathlib import Path
from typing import Any

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from selection import mostly_system
from test_adapt import counted
from test_families import batch_of, initial, quick, small

from experiments import flamingo as experiment
from scaling import adapt, count, data, families, plan, study, train
from scaling.blocks import attention, patches, tower
from scaling.data import scenes
from scaling.data.interleaved import MARK, Interleaved
from scaling.errors import Code
from scaling.families import flamingo, gpt
from scaling.records import Record
from scaling.run import Run

ADDED = ("resampler", "gated", "mark")
CONFIG = small("flamingo", layers=2, every=2, resampler_layers=1, patch=4)[1]
BATCH = {name: jnp.asarray(value) for name, value in batch_of(flamingo, CONFIG).items()}
FIRST, SECOND = np.flatnonzero(np.asarray(BATCH["tokens"][0] == CONFIG.mark))  # positions of the two marks


@functools.cache
def logits():
    """(parameters, pictures) -> logits of BATCH, compiled once."""

    def found(parameters, pictures_BSHWC):
        flat = patches.patchify(pictures_BSHWC.reshape(-1, *pictures_BSHWC.shape[2:]), CONFIG.patch)
        cut = flat.reshape(*pictures_BSHWC.shape[:2], *flat.shape[1:])
        return flamingo.outputs(parameters, cut, BATCH["tokens"][:, :-1], CONFIG)

    return quick(found)


@functools.cache
def moved() -> Any:
    """Parameters none of which is as it was drawn."""
    return initial(flamingo, CONFIG, 0.3)


def unread() -> Any:
    """The same, with what starts at zero."""
    gates = {name: jnp.zeros(CONFIG.gated) for name in ("attention_gate", "mlp_gate")}
    return {**moved(), "gated": {**moved()["gated"], **gates}, "mark": jnp.zeros(CONFIG.width)}


@pytest.mark.system
def test_it_starts_as_its_language_model_to_the_bit_for_any_picture():
    """Of programs that are compiled without fusing."""
    parameters = unread()
    language = {name: parameters[name] for name in ("embedding", "stack", "norm")}
    exact = quick(lambda parameters: gpt.logits(parameters, BATCH["tokens"][:, :-1], CONFIG.language))(language)
    assert np.asarray(exact).std() > 0.1
    for pictures in (BATCH["pictures"], 255 - BATCH["pictures"]):
        np.testing.assert_array_equal(logits()(parameters, pictures), exact)


def test_a_token_sees_the_picture_before_it_alone():
    """In the language model, whose blocks are of use here, a picture also reaches what comes after the next mark."""
    one = BATCH["pictures"]
    still = {**moved(), "stack": {name: 0 * w if name in ("o", "down") else w for name, w in moved()["stack"].items()}}
    for parameters, mixes in ((moved(), True), (still, False)):
        before = np.asarray(logits()(parameters, one))
        first, second = (
            np.asarray(logits()(parameters, one.at[:, number].set(255 - one[:, number]))) != before for number in (0, 1)
        )
        assert not first[:, :FIRST].any() and first[:, FIRST:SECOND].any(axis=-1).all()
        assert not second[:, :SECOND].any() and second[:, SECOND:].any(axis=-1).all()
        assert first[:, SECOND:].any() == mixes


def test_a_query_that_sees_nothing_gets_zeros_and_no_mean():
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, 3, time, 4)) for seed, time in enumerate((5, 6, 6)))
    see = np.random.default_rng(0).random((2, 5, 6)) < 0.5
    see[:, 1] = False

    @quick
    def mixed(q, k, v, see):
        return attention.attend(q, k, v, "bidirectional", see_BTS=see)

    @quick
    def pulled(q, k, v, see, given):
        return jax.vjp(lambda q, k, v: attention.attend(q, k, v, "bidirectional", see_BTS=see), q, k, v)[1](given)

    scores = np.where(see[:, None], np.einsum("bhtk,bhsk->bhts", q, k) / 2, -np.inf)
    weights = np.exp(scores) / np.maximum(np.exp(scores).sum(axis=-1, keepdims=True), 1e-9)
    found = mixed(q, k, v, see)
    np.testing.assert_allclose(found, np.einsum("bhts,bhsk->bhtk", weights, v), rtol=1e-5, atol=1e-6)
    assert not np.asarray(found[:, :, 1]).any()
    for gradient in pulled(q, k, v, see, np.where(np.arange(5)[:, None] == 1, np.ones_like(found), 0)):
        assert not np.asarray(gradient).any()
    see[:, :, 3] = False
    np.testing.assert_array_equal(mixed(q, k.at[:, :, 3].set(9.0), v.at[:, :, 3].set(9.0), see), mixed(q, k, v, see))


@pytest.mark.system
def test_at_first_the_gates_have_a_gradient_and_what_is_behind_them_has_after_a_step():
    """The mark's does not wait: it passes through the language model and no gate."""

    @quick
    def gradient(parameters):
        def loss(parameters):
            return flamingo.loss(parameters, BATCH, jax.random.key(0), CONFIG)["text"][0].mean()

        return jax.grad(loss)(parameters)

    parameters = unread()
    for waits in (True, False):
        found = gradient(parameters)
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            name, first = jax.tree_util.keystr(path), path[0].key
            moves = first in ADDED and (not waits or "gate'" in name or first == "mark")
            assert np.asarray(leaf).any() == moves, name
        parameters = jax.tree.map(lambda w, slope: w - 0.1 * slope, parameters, found)


def _layer(x_TD: np.ndarray, memory_SW: np.ndarray, w: dict[str, np.ndarray], gates=(1.0, 1.0), see_TS=None):
    """One layer of attention and MLP by the formulas, in float64, query by query."""

    def norm(y_D: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
        return y_D / np.sqrt(np.mean(np.square(y_D), axis=-1, keepdims=True) + 1e-6) * scale

    added_TD = np.zeros_like(x_TD)
    for time, x_D in enumerate(x_TD):
        seen = np.flatnonzero(see_TS[time]) if see_TS is not None else np.arange(len(memory_SW))
        for number in range(w["q"].shape[1] if seen.size else 0):
            q_K = norm(norm(x_D, w["query_norm"]) @ w["q"][:, number], w["q_norm"])
            k_SK = norm(memory_SW[seen] @ w["k"][:, number], w["k_norm"])
            scores_S = k_SK @ q_K / math.sqrt(len(q_K))
            share_S = np.exp(scores_S) / np.exp(scores_S).sum()
            added_TD[time] += share_S @ (memory_SW[seen] @ w["v"][:, number]) @ w["o"][number]
    x_TD = x_TD + gates[0] * added_TD
    hidden_TF = np.square(np.maximum(norm(x_TD, w["mlp_norm"]) @ w["up"], 0))
    return x_TD + gates[1] * hidden_TF @ w["down"]


@pytest.mark.system
def test_resampler_and_gated_block_are_their_formulas():
    """Each example by itself, with the keys and values of the resampler from [media; latents]."""
    weights = moved()
    exact: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    rng, tokens = np.random.default_rng(1), np.asarray(BATCH["tokens"][:, :-1])
    media = rng.normal(size=(2 * len(tokens), CONFIG.patches, CONFIG.vision_width))
    x = rng.normal(size=(*tokens.shape, CONFIG.width))
    own, gated = ({name: w[0] for name, w in exact[part].items()} for part in ("resampler", "gated"))
    latents = []
    for each in media:
        start = exact["resampler"]["latents"]
        scaled = [y / np.sqrt(np.square(y).mean(axis=-1, keepdims=True) + 1e-6) for y in (each, start)]
        memory = np.concatenate([scaled[0] * own["media_norm"], scaled[1] * own["query_norm"]])
        end = _layer(start, memory, own)
        latents.append(end / np.sqrt(np.square(end).mean(axis=-1, keepdims=True) + 1e-6) * exact["resampler"]["norm"])
    found = quick(lambda w, media: flamingo._resampled(w, media, CONFIG))(weights["resampler"], jnp.asarray(media))
    np.testing.assert_allclose(found, latents, rtol=2e-4, atol=2e-5)
    picture = np.cumsum(tokens == CONFIG.mark, axis=1)
    see = picture[..., None] == np.repeat([1, 2], CONFIG.latents)
    gates = np.tanh(gated["attention_gate"]), np.tanh(gated["mlp_gate"])
    memory = np.reshape(latents, (len(tokens), -1, CONFIG.vision_width))
    wanted = [_layer(one, latents, gated, gates, seen) for one, latents, seen in zip(x, memory, see)]
    identity = {name: 0 * w if name in ("o", "down") else w for name, w in weights["stack"].items()}
    arrays = (jnp.asarray(x, jnp.float32), jnp.asarray(memory, jnp.float32), jnp.asarray(see))
    read = quick(lambda w, x, memory, see: flamingo._read(w, x, memory, see, CONFIG))(
        {**weights, "stack": identity}, *arrays
    )
    np.testing.assert_allclose(read, wanted, rtol=2e-4, atol=2e-5)


FIELDS: dict[str, Any] = {"image": 32, "patch": 8, "vocab": 64, "context": 24, "vision_layers": 2}
FIELDS |= {"layers": 5, "every": 2, "resampler_layers": 2}
COUNTED = [("added", True), ("tower", False), ("all", True)]


@pytest.mark.system
@pytest.mark.parametrize(("trains", "tied"), COUNTED)
def test_flops_are_2_of_the_tower_4_of_the_language_model_and_6_of_the_rest(trains: str, tied: bool):
    """With two gated blocks, before the second and the fourth of five blocks."""
    _, config = small("flamingo", "", 4, **FIELDS, trains=trains, tied=tied)
    parts = {part.name: part for part in flamingo.components(config)}
    shapes = jax.eval_shape(lambda: flamingo.init(jax.random.key(0), config))
    batch = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in batch_of(flamingo, config, 3).items()}

    def nats(parameters, batch):
        return flamingo.loss(parameters, batch, jax.random.key(0), config)["text"][0].sum()

    assert count.jaxpr_flops(nats, shapes, batch) == 3 * sum(count.forward_flops(parts.values()).values())
    executed = count.executed_flops(parts.values())
    assert count.jaxpr_flops(jax.grad(nats), shapes, batch) == 3 * sum(executed.values())
    k = {"tower": 2 if trains == "added" else 6, "language": 6 if trains == "all" else 4, "added": 6}
    tower, latents, d, wide = 2 * config.patches, 2 * config.latents, config.width, config.vision_width
    own, gated = config.resampler_layers * wide**2, config.gated * d**2
    by_hand = k["tower"] * (48 * 4 * wide + config.vision_layers * 12 * wide**2) * tower
    by_hand += k["language"] * (config.layers * 12 * d**2 + 64 * d) * config.context
    by_hand += 6 * (own * (10 * latents + 2 * (tower + latents)))
    by_hand += 6 * (10 * gated * config.context + 2 * config.gated * wide * d * latents)
    scores = config.vision_layers * 2 * config.patches**2 * wide * (1 if trains == "added" else 3)
    scores += 3 * config.layers * config.context**2 * d + 3 * config.gated * config.context * latents * d
    scores += 3 * config.resampler_layers * latents * (config.patches + config.latents) * wide
    assert sum(count.training_flops(parts.values()).values()) == by_hand + 4 * scores
    found, still = count.parameters(parts.values()), flamingo.frozen(config)
    kept = [leaf for name in still for leaf in jax.tree.leaves(shapes[name])]
    assert found["total"] - found["trainable"] == sum(math.prod(leaf.shape) for leaf in kept)
    alone = count.parameters(gpt.components(config.language))
    assert {name: found["groups"][name] for name in ("attention", "mlp", "head")} == {
        name: alone["groups"][name] for name in ("attention", "mlp", "head")
    }


@pytest.mark.system
def test_what_would_adapt_its_stacks_is_refused():
    """Its frozen parts have products whose gradients are counted as if nothing in them were trained."""
    for how in (adapt.Lora(rank=2), adapt.Prompt(length=3, parts=("stack",))):
        with refuses(Code.UNSUPPORTED, "adapt", "flamingo") as caught:
            counted("flamingo", "", how)
        assert "\n" not in str(caught.value)


# --- documents


def documents(**fields: Any) -> Interleaved:
    source = data.load({"source": "interleaved", **fields})
    assert isinstance(source, Interleaved)
    return source


def test_a_document_is_marks_and_captions_of_its_own_pictures():
    """What a picture shows is read off it: colours and their order, and its labels where scenes are drawn alike."""
    found = documents(pictures=2, noise=0).batch(np.array([3, 0]), seed=5, context=16)
    tokens, mask = found["tokens"], found["mask"]
    assert (tokens[:, 0] == scenes.START).all() and (tokens[:, [1, 8]] == MARK).all() and documents().vocab == MARK + 1
    assert (tokens[:, [7, 14, 15, 16]] == scenes.END).all()
    np.testing.assert_array_equal(mask, np.tile([0, *[1] * 6, 0, *[1] * 6, 0, 0], (2, 1)))
    caption = tokens[:, [*range(2, 7), *range(9, 14)]].reshape(4, 5) - scenes.FIRST
    for picture, (large, _, relation, little, _) in zip(found["pictures"].reshape(4, 32, 32, 3), caption):
        colours = {tuple(scenes.RGB[each]) for each in (large, little)}
        assert {tuple(pixel) for pixel in picture.reshape(-1, 3)} == {(60, 60, 60), *colours}
        if large != little:
            centre = [np.argwhere((picture == scenes.RGB[each]).all(axis=-1)).mean(axis=0) for each in (large, little)]
            moved = (centre[1] - centre[0])[1 if relation < 2 else 0] * (1 if relation % 2 == 0 else -1)
            assert moved > 3
    with refuses(Code.CONFLICT, "model.context", 13):
        documents(pictures=2).batch(np.arange(1), seed=0, context=13)
    assert np.sum(documents().evaluation(21, 600)["mask"]) == 612  # whole documents of 18


def test_captions_without_pictures_cost_what_the_source_says():
    assert documents(alike=0.0).entropy == pytest.approx(math.log(4096) / 6)
    assert documents(alike=1.0).entropy == pytest.approx(math.log(4096) / 18)
    source = documents(pictures=2, alike=0.6)
    words = source.batch(np.arange(4000), seed=0, context=14)["tokens"][:, 2:]
    first, later = words[:, :5], words[:, 7:12]
    nats = math.log(4096)
    for place, values in enumerate(scenes.CHOICES):
        share = (first[:, place] == later[:, place]).mean()
        exact = 0.6 + 0.4 / values
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / 4000)
        nats -= exact * math.log(exact) + (1 - exact) * math.log((1 - exact) / (values - 1))
    assert source.describe()["entropy"] == source.entropy == pytest.approx(nats / 12)


# --- what is inherited


def config_of(**fields: Any) -> Any:
    """A vit and a gpt of one step or more, and a flamingo that starts from them."""
    made: Any = study.base("flamingo")
    made.family, made.chunk = "flamingo", 10
    small_tower = {"vision_width": 8, "vision_layers": 1, "vision_heads": 1}
    made.model = {"patch": 8, "width": 8, "layers": 1, "heads": 1, "context": 14, **small_tower}
    made.data.documents = {"source": "interleaved", "pictures": 2}
    made.data.language = {"source": "interleaved", "pictures": 2, "world": 1}
    made.data.scenes = {"source": "scenes"}
    made.recipe.batch, made.recipe.warmup_steps, made.recipe.schedule = 4, 2, "constant"
    made.evaluation = {"tokens": 384, "batch": 32}
    shape = {"width": 8, "layers": 1, "heads": 1}
    own = {"family": "gpt", "model": {**shape, "context": 14}}
    made.cells.language = study.block("grid", "language", (0,), tokens=(14 * 4 * 10,), **own)
    vit = {"family": "vit", "model": {**shape, "patch": 8}}
    made.cells.tower = study.block("grid", "scenes", (0,), tokens=(16 * 4 * 10,), **vit)
    start: dict[str, Any] = {part: "language" for part in ("embedding", "stack", "norm")}
    for part, source in (("patches", "patches"), ("vision", "stack"), ("vision_norm", "norm")):
        start[part] = {"block": "tower", "part": source}
    fields = {"tokens": (14 * 4 * 10,), "init_from": start, **fields}
    made.cells.documents = study.block("grid", "documents", (0,), **fields)
    return made


def test_a_block_has_a_family_of_its_own_and_the_models_of_no_other():
    made = plan.make(study.resolve(config_of()))
    manifests = {spec.manifest.dataset: spec.manifest for program in made.programs for spec in program.runs}
    assert {name: own.family for name, own in manifests.items()} == {
        "documents": "flamingo",
        "language": "gpt",
        "scenes": "vit",
    }
    child, language, tower = (manifests[name] for name in ("documents", "language", "scenes"))
    assert {own.run: own.parts for own in child.parents} == {
        tower.run: {"patches": "patches", "vision": "stack", "vision_norm": "norm"},
        language.run: {"embedding": "embedding", "stack": "stack", "norm": "norm"},
    }
    assert child.parent_flops == language.flops.training + tower.flops.training > child.flops.training / 10
    assert child.terms["text"].given is not None and not child.terms["text"].bounded_by_entropy
    with refuses(Code.UNKNOWN, "family", "gtp"):
        study.resolve(config_of(family="gtp"))


LANGUAGE = dict.fromkeys(("embedding", "stack", "norm"), "language")
TOWER = {part: {"block": "tower", "part": source} for part, source in tower.PARTS.items()}
INITIAL = "cells.documents.init_from"
REFUSED: list[tuple[dict[str, Any], Code, str]] = [
    ({"init_from": {}}, Code.MISSING, INITIAL),
    ({"init_from": LANGUAGE}, Code.MISSING, INITIAL),
    ({"init_from": TOWER, "model": {"trains": "tower"}}, Code.MISSING, INITIAL),
    ({"init_from": {**TOWER, **LANGUAGE, "vision": "tower"}}, Code.CONFLICT, f"{INITIAL}.vision"),
    ({"init_from": {**TOWER, **LANGUAGE, "stack": "tower"}}, Code.CONFLICT, f"{INITIAL}.stack"),
    ({"init_from": {"*": "tower"}, "model": {"trains": "all"}}, Code.CONFLICT, f"{INITIAL}.vision"),
    ({"init_from": LANGUAGE, "model": {"trains": "all", "activation": "gelu"}}, Code.CONFLICT, "model.activation"),
    ({"model": {"activation": "gelu"}}, Code.CONFLICT, "model.activation"),
    ({"adapt": {"kind": "lora"}}, Code.UNSUPPORTED, "adapt"),
    ({"model": {"vision_activation": "gelu"}}, Code.CONFLICT, "model.vision_activation"),
    ({"model": {"vision_layers": 2}}, Code.CONFLICT, "model.vision_layers"),
    ({"model": {"tied": False}, "init_from": {**TOWER, **LANGUAGE, "head": "language"}}, Code.CONFLICT, "model.tied"),
]


@pytest.mark.parametrize(("fields", "code", "field"), REFUSED)
def test_what_is_not_trained_is_inherited_from_parents_that_compute_alike(fields: dict, code: Code, field: str):
    with refuses(code, field) as caught:
        study.resolve(config_of(**fields))
    assert "\n" not in str(caught.value)


def test_parents_of_another_activation_are_met_and_a_child_hands_its_parts_on():
    """The ViT keeps its own, and what is trained may be drawn."""
    made = config_of(model={"activation": "gelu"})
    made.cells.language.model.activation = "gelu"
    made.data.later = {"source": "interleaved", "pictures": 2, "world": 2}
    own: dict[str, Any] = {"model": {"activation": "gelu"}, "tokens": (14 * 4 * 10,), "init_from": {"*": "documents"}}
    made.cells.later = study.block("grid", "later", (0,), **own)
    cells = {cell.dataset: cell for cell in study.resolve(made).cells}
    assert {start.part for start in cells["later"].start} == {*TOWER, *LANGUAGE, *ADDED}
    assert cells["documents"].config.vision_activation == "relu2" and cells["documents"].config.activation == "gelu"
    for trains, needed in (("tower", LANGUAGE), ("all", {})):
        found = study.resolve(config_of(init_from=needed, model={"trains": trains})).cells
        (child,) = (cell for cell in found if cell.family == "flamingo")
        assert {start.part for start in child.start} == needed.keys()
        assert (families.terms(flamingo, child.config)["text"].start is None) == (trains != "all")


@pytest.mark.parametrize(("argument", "children"), mostly_system([("", 30), ("rates", 8), ("large", 30)], ("rates", 8)))
def test_the_study_inherits_towers_and_language_models_that_it_trains(argument: str, children: int):
    cells = study.resolve(experiment.get_config(argument)).cells
    found = [cell for cell in cells if cell.family == "flamingo"]
    assert len(found) == children
    for cell in found:
        parents: Any = {start.part: start.parent for start in cell.start}
        assert parents.keys() == set(flamingo.frozen(cell.config))
        assert {parent.family for parent in parents.values()} == {"gpt", "vit"}
        assert {parent.seed for parent in parents.values()} == {cell.seed}
        assert parents["stack"].size == cell.size and cell.tokens == cell.steps * cell.recipe.batch * 21


@pytest.mark.system
def test_a_child_starts_with_the_loss_of_its_language_model(tmp_path: Path):
    """It is evaluated before its first step, on the text of the language model. The compiler fuses the two programs in
    two ways, so that they agree to rounding here."""
    made = plan.make(study.resolve(config_of(init_from=LANGUAGE, model={"trains": "tower"})))
    plan.write(made, tmp_path)
    specs = {spec.manifest.dataset: (program, spec) for program in made.programs for spec in program.runs}
    (program, parent), (_, child) = specs["language"], specs["documents"]
    train.execute(program, tmp_path, progress=lambda *_: None, should_stop=lambda: False)
    spec = handmade.edited(
        child, manifest=handmade.edited(child.manifest, data=parent.manifest.data, dataset="language")
    )
    run = Run(spec, handmade.edited(program, runs=(spec,)), tmp_path)
    found = run.evaluate(run.initial())["text"]
    ended = handmade.ended(Record(tmp_path / "runs" / parent.run)).evaluation["loss"]
    assert found.value == pytest.approx(ended.value, rel=1e-7) and found.positions is not None
    assert found.value != pytest.approx(math.log(20), abs=0.01)
