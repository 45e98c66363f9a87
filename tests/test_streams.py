"""What the family ``streams`` and the source ``graphs`` promise: co-attention from the old states, what is hidden leaks
nothing, tasks have their shares, and nodes their entropies."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, initial, quick, small

from scaling import count, data, families, inputs, objectives, plan, study
from scaling.blocks import crossing, stack
from scaling.data import graphs, scenes
from scaling.errors import Code
from scaling.families import streams

TWO = {"streams": "two", "regions": 3, "predicts": "class", "unit": "attribute"}


def made(**fields: Any) -> streams.Config:
    config = small("streams", layers=1, **fields)[1]
    assert isinstance(config, streams.Config)
    return config


def batch(config: streams.Config, size: int = 8) -> dict[str, jax.Array]:
    return {name: jnp.asarray(each) for name, each in batch_of(streams, config, size).items()}


def world(**fields: Any) -> graphs.Graphs:
    source = data.load({"source": "graphs", **fields})
    assert isinstance(source, graphs.Graphs)
    return source


# --- co-attention


def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def asked(x: np.ndarray, memory: np.ndarray, w: Any) -> np.ndarray:
    """What each position of one example of x (T, D) finds in the memory (S, W), head by head."""
    queries, keys, found = norm(x, w["query_norm"]), norm(memory, w["memory_norm"]), np.zeros_like(x)
    for head in range(w["q"].shape[1]):
        q, k = norm(queries @ w["q"][:, head], w["q_norm"]), norm(keys @ w["k"][:, head], w["k_norm"])
        scores = q @ k.T / math.sqrt(q.shape[1])
        share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        found += share @ (keys @ w["v"][:, head]) @ w["o"][head]
    return found


def mlp(x: np.ndarray, w: Any) -> np.ndarray:
    return np.maximum(norm(x, w["mlp_norm"]) @ w["up"], 0) ** 2 @ w["down"]


def test_both_streams_ask_the_old_states_of_the_other():
    """BertBiAttention and BertConnectionLayer of ViLBERT's code, in numpy; neither its usual mistakes."""
    rng, text, picture = np.random.default_rng(0), stack.Stack(1, 8, 2, 16), stack.Stack(1, 12, 3, 24)
    weights = {
        part: {name: rng.normal(0.3, 0.3, shape[1:]) for name, (shape, _) in own.items()}
        for part, own in crossing.leaves(1, text, picture).items()
    }
    first, second = weights["crossing"], weights["vision_crossing"]
    x, y = rng.normal(size=(2, 5, 8)), rng.normal(size=(2, 4, 12))
    keep = jnp.ones((2, 5), bool).at[1, 3:].set(False)
    layer = quick(lambda x, y, weights: crossing.layer(x, y, weights, keep, "relu2"))
    found = layer(x.astype(np.float32), y.astype(np.float32), (first, second))
    for example, seen in ((0, 5), (1, 3)):
        old_x, old_y = x[example], y[example]
        new_x, new_y = old_x + asked(old_x, old_y, first), old_y + asked(old_y, old_x[:seen], second)
        expected = new_x + mlp(new_x, first), new_y + mlp(new_y, second)
        for own, other in zip(found, expected):
            np.testing.assert_allclose(np.asarray(own[example]), other, rtol=2e-4, atol=2e-4)
        after = old_y + asked(old_y, new_x[:seen], second)  # the picture reads the text's new states
        assert np.abs(after - new_y).max() > 0.01


@pytest.mark.system
def test_crossings_stand_before_the_last_layers_of_both_stacks():
    """Of three layers of the text and two of the picture, the first and none stand alone."""
    config = small("streams", layers=3, vision_layers=2, **{**TWO, "crossings": 2})[1]
    weights, rng = initial(streams, config, 0.3), np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(2, n, 16)), jnp.float32) for n in (5, 3))
    keep, (text, picture) = jnp.ones((2, 5), bool), streams._stacks(config)
    names = "stack", "vision", "crossing", "vision_crossing"
    found = quick(lambda w, x, y: crossing.through((text, picture), [w[name] for name in names], x, y, keep))
    got = found(weights, x, y)

    @quick
    def slowly(w: Any, x: Any, y: Any) -> Any:
        def one(name: str, n: int) -> Any:
            return jax.tree.map(lambda leaf: leaf[n : n + 1], w[name])

        x = text.clone(layers=1).apply({"params": one("stack", 0)}, x)
        for n in range(2):
            both = tuple(jax.tree.map(lambda leaf: leaf[0], one(name, n)) for name in names[2:])
            x, y = crossing.layer(x, y, both, keep, "relu2")
            x = text.clone(layers=1).apply({"params": one("stack", n + 1)}, x)
            y = picture.clone(layers=1).apply({"params": one("vision", n)}, y)
        return x, y

    for own, other in zip(got, slowly(weights, x, y)):
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=2e-4)


# --- what is hidden


def test_every_four_examples_have_all_tasks_and_hide_one_modality():
    config = made(text=6)
    found = quick(lambda key: streams.prepare(batch(config, 64), key, config))(jax.random.key(3))
    words, regions, matching = (
        np.asarray(each) for each in (found.hidden_BT.any(axis=1), found.hidden_BP.any(axis=1), found.matching_B)
    )
    assert (words.astype(int) + regions + matching == 1).all()
    for task, of_four in ((words, 2), (regions, 1), (matching, 1)):
        assert (task.reshape(-1, 4).sum(axis=1) == of_four).all()
    assert (np.asarray(found.hidden_BT).sum(axis=1)[words] == 1).all()
    assert (np.asarray(found.hidden_BP).sum(axis=1)[regions] == config.hidden).all()
    both = quick(lambda key: streams.prepare(batch(config, 64), key, made(text=6, conditional=False)))(
        jax.random.key(3)
    )
    np.testing.assert_array_equal(both.hidden_BT.any(axis=1), both.hidden_BP.any(axis=1))
    np.testing.assert_array_equal(both.hidden_BT.any(axis=1), ~both.matching_B)


@pytest.mark.parametrize("fields", [{}, TWO])
def test_what_is_hidden_is_given_to_no_one(fields: dict[str, Any]):
    """Whatever stands at hidden positions, the model is given the same; what it is asked is not."""
    config = made(**fields)
    own, key = batch(config), jax.random.key(0)
    prepare = quick(lambda batch: streams.prepare(batch, key, config))
    found = prepare(own)
    changed = found.hidden_BT & (own["tokens"][:, 1:] != config.vocab - 1)  # where a text ends is no secret
    other = {**own, "tokens": own["tokens"].at[:, 1:].set(jnp.where(changed, 3, own["tokens"][:, 1:]))}
    if config.regions:
        other["region"] = jnp.where(found.hidden_BP[..., None, None, None], 7, own["region"])
    else:
        blocks = found.hidden_BP.reshape(8, 4, 4).repeat(2, axis=1).repeat(2, axis=2)
        other["image"] = jnp.where(blocks[..., None], 7, own["image"])
    again = prepare(other)
    for name in ("inputs_BS", "keep_BS", "picture_BPX"):
        np.testing.assert_array_equal(getattr(found, name), getattr(again, name))
    assert (np.asarray(found.inputs_BS[:, 1:])[np.asarray(found.hidden_BT)] == config.vocab).all()
    shown = np.asarray(found.picture_BPX)[np.asarray(found.hidden_BP)]
    assert (shown[:, : config.shown] == 0).all() and (shown[:, -1] == 1).all()
    if config.regions:  # where it is stays known
        np.testing.assert_array_equal(found.picture_BPX[..., config.shown : -1], own["box"])


@pytest.mark.system
def test_half_of_the_texts_to_match_are_anothers():
    config = made(matching_share=0.5, region_share=0.0)
    own = batch(config, 256)
    found = quick(lambda: streams.prepare(own, jax.random.key(0), config))()
    other = np.asarray(found.is_other_B & found.matching_B)
    expected = np.where(other[:, None], own["other_tokens"][:, 1:], own["tokens"][:, 1:])
    shown, hidden = np.asarray(found.inputs_BS[:, 1:]), np.asarray(found.hidden_BT)
    np.testing.assert_array_equal(shown[~hidden], expected[~hidden])
    assert other.sum() == pytest.approx(64, abs=20)


@pytest.mark.system
def test_a_causal_text_reads_the_picture_and_what_precedes():
    """And its picture reads no text, through which a later word would come back."""
    config = made(mask="mixed", region_share=0.0, matching_share=0.0)
    own, weights = batch(config), initial(streams, config, 0.3)
    terms = quick(lambda batch: streams.loss(weights, batch, jax.random.key(0), config))
    (nats, counted), (hidden_nats, hidden) = terms(own).values()
    causal = np.asarray(counted).any(axis=1)
    assert causal.sum() == 6 and (np.asarray(counted)[causal] == 1).all() and not hidden[causal].any()
    moved = {**own, "tokens": own["tokens"].at[:, 4].add(1)}
    after = np.abs(np.asarray(terms(moved)["text"][0] - nats)) > 1e-6
    assert not after[causal, :3].any() and after[causal, 3:].all() and not after[~causal].any()
    seen = np.abs(np.asarray(terms({**own, "image": 255 - own["image"]})["text"][0] - nats)) > 1e-6
    assert seen[causal].all()
    words = np.abs(np.asarray(terms({**own, "image": 255 - own["image"]})["words"][0] - hidden_nats)) > 1e-6
    np.testing.assert_array_equal(words, np.asarray(hidden) > 0)


@pytest.mark.system
def test_losses_start_where_they_are_known():
    """The squared error of features at their mean square; that classes do at ln K is the battery's."""
    config = made(tied=False, regions=3)
    own, weights, key = batch(config), initial(streams, config), jax.random.key(0)
    total, n = quick(lambda: streams.loss(weights, own, key, config))()["regions"]
    hidden = np.asarray(quick(lambda: streams.prepare(own, key, config))().hidden_BP)
    expected = ((np.asarray(own["region"])[hidden] / 127.5 - 1) ** 2).mean()
    assert float(total.sum() / n.sum()) == pytest.approx(expected, rel=1e-5)
    assert families.terms(streams, config)["regions"].start is None
    classes = families.terms(streams, made(**TWO, region_classes=5))["regions"]
    assert classes.start == math.log(5) and classes.weight == 0.25


# --- what is counted


def test_one_stream_costs_its_weights_at_all_positions_and_two_each_at_its_own():
    """FLOPs of training without products between positions: 6 N (P + T), and 6 (N_t T + N_v P) with the keys of the
    other stream at its positions; the class token is one of T."""
    one = streams.Config(width=32, layers=4, heads=4, patch=8)
    two = streams.Config(
        width=32, layers=4, heads=4, patch=8, streams="two", vision_width=24, vision_layers=2, crossings=2
    )
    places, text, block = 16, 7, 12  # a block of width D has 12 D^2 weights
    for config, weights in (
        (one, {"attention": 4 * 4 * 32**2 * 23, "mlp": 4 * 8 * 32**2 * 23}),
        (
            two,
            {
                "attention": 4 * 4 * 32**2 * text,
                "mlp": 4 * 8 * 32**2 * text,
                "vision_attention": 2 * 4 * 24**2 * places,
                "vision_mlp": 2 * 8 * 24**2 * places,
                "crossing_query": 2 * 2 * 32 * 32 * text,
                "crossing_memory": 2 * 2 * 24 * 32 * places,
                "crossing_mlp": 2 * 8 * 32**2 * text,
                "vision_crossing_query": 2 * 2 * 24 * 24 * places,
                "vision_crossing_memory": 2 * 2 * 32 * 24 * text,
                "vision_crossing_mlp": 2 * 8 * 24**2 * places,
            },
        ),
    ):
        parts = {part.name: part for part in streams.components(config)}
        flops = {name: 6 * part.matmul * part.tokens for name, part in parts.items()}
        assert {name: flops[name] for name in weights} == {name: 6 * each for name, each in weights.items()}
        assert sum(count.training_flops(parts.values()).values()) > sum(flops.values())
    assert block * 32**2 * 4 == parts["attention"].parameters + parts["mlp"].parameters


# --- the source


def test_a_node_has_the_entropy_of_its_choices_without_the_picture_and_none_with_it():
    """All 4,096 scenes, each once: given all other words, those of a node are its choices, all alike; a region without
    noise shows colour and shape."""
    source = world(noise=0)
    every = np.stack(np.unravel_index(np.arange(4096), scenes.CHOICES), axis=1)
    tokens, graph = source._text(every, np.zeros(4096, int), 6)
    for place, kind in enumerate(graphs.CAPTION):
        assert (graph[:, place] == 4 * (1 + place) + kind).all()
        rest = np.delete(tokens, place + 1, axis=1)
        _, group = np.unique(rest, axis=0, return_inverse=True)
        entropies = []
        for number in range(0, group.max() + 1, 37):
            _, counts = np.unique(tokens[group.ravel() == number, place + 1], return_counts=True)
            share = counts / counts.sum()
            entropies.append(-(share * np.log(share)).sum())
        np.testing.assert_allclose(entropies, source.node_entropy[graphs.KINDS[kind]], rtol=1e-12)
    assert source.node_entropy == {"attribute": math.log(8), "object": math.log(4), "relation": math.log(4)}
    drawn = source.batch(np.arange(2000), seed=0, context=6)
    words = drawn["tokens"][:, [1, 4]]
    centre = drawn["region"][:, :, 5, 5]
    np.testing.assert_array_equal(centre, scenes.RGB[words])
    by_class = {}
    for pixels, label in zip(drawn["region"].reshape(4000, -1), (np.array([0, 32]) + drawn["region_class"]).ravel()):
        by_class.setdefault(int(label), set()).add(pixels.tobytes())
    assert len(by_class) == 64 and all(len(looks) == 1 for looks in by_class.values())
    assert len(set().union(*by_class.values())) == 64  # 32 classes of two sizes, each of one look


def test_a_box_is_where_the_object_is():
    drawn = world(noise=0).batch(np.arange(200), seed=1, context=6)
    ends = np.round(drawn["box"][..., :4] * 32).astype(int)
    for image, boxes in zip(drawn["image"], ends):
        lit = (image != 60).any(axis=2)
        for left, top, right, bottom in boxes:
            lit[top:bottom, left:right] = False
        assert not lit.any()
    np.testing.assert_allclose(drawn["box"][..., 4], np.tile([11**2 / 32**2, 7**2 / 32**2], (200, 1)))
    large, small_one = drawn["box"][:, 0], drawn["box"][:, 1]
    left = drawn["tokens"][:, 3] == 12
    assert (large[left, 2] < small_one[left, 0]).all()


def test_questions_have_one_answer_each():
    source = world(questions=True)
    drawn, told = source.batch(np.arange(4000), seed=0, context=6), world().batch(np.arange(4000), seed=0, context=6)
    np.testing.assert_array_equal(drawn["image"], told["image"])
    asked = [tuple(row) for row in drawn["tokens"][:, 1:3]]
    known = {tuple(pair): place for place, pair in enumerate(graphs.QUESTIONS)}
    places = np.array([known[pair] for pair in asked])
    np.testing.assert_array_equal(drawn["tokens"][:, 3], told["tokens"][np.arange(4000), 1 + places])
    assert drawn["mask"][0].sum() == 4 and (drawn["graph"][:, 2] % 4 == graphs.ANSWER).all()
    assert np.count_nonzero(drawn["graph"]) == 4000
    assert source.node_entropy["answer"] == pytest.approx(12 / 5 * math.log(2))
    assert source.describe()["entropy"] == pytest.approx((math.log(5) + 12 / 5 * math.log(2)) / 4)
    assert "answer_entropy" not in world().describe()  # of which runs on captions have their hashes
    with refuses(Code.CONFLICT, "model.text", 3):
        source.batch(np.arange(2), seed=0, context=3)


def test_the_family_reads_the_world_and_hides_whole_nodes():
    source = world()
    config = streams.Config(vocab=24, regions=2, predicts="class", unit="object", objects=2, rate=0.3)
    inputs.require_supply(streams, streams.batch_spec(config), source.supplies, "graphs", "streams")
    drawn = {name: jnp.asarray(each) for name, each in source.batch(np.arange(64), seed=0, context=6).items()}
    drawn["other_tokens"] = drawn["tokens"]
    hidden = np.asarray(quick(lambda: streams.prepare(drawn, jax.random.key(0), config).hidden_BT)())
    assert hidden.sum() == 32 and not hidden[:, [0, 2, 3, 5]].any() and hidden[:, 1].any() and hidden[:, 4].any()
    with refuses(Code.CONFLICT, "model.regions", 3):
        spec = streams.batch_spec(streams.Config(vocab=24, regions=3))
        inputs.require_supply(streams, spec, source.supplies, "graphs", "streams")


def planned(data_fields: dict[str, Any], **model: Any) -> Any:
    """The one manifest of a study of a source."""
    config: Any = study.base("streams")
    config.family, config.model = "streams", model
    config.data.told, config.recipe.batch = {"source": "graphs", **data_fields}, 8
    config.cells.grid = study.block("grid", "told", (0,), tokens=(2**12,))
    return plan.make(study.resolve(config)).programs[0].runs[0].manifest


KINDS = [(kind, kind != "answer") for kind in graphs.KINDS]


@pytest.mark.parametrize(("unit", "captions"), KINDS)
def test_a_unit_that_no_text_has_is_refused_and_any_other_is_planned(unit: str, captions: bool):
    assert planned({"questions": not captions}, unit=unit).config[f"{unit}s"] == 2 - (unit in ("relation", "answer"))
    with refuses(Code.MISSING, "family", "streams") as caught:
        planned({"questions": captions}, unit=unit)
    assert f" {unit}s," in str(caught.value) and "\n" not in str(caught.value)
    with refuses(Code.CONFLICT, f"model.{unit}s", 7):
        planned({"questions": not captions}, unit=unit, **{f"{unit}s": 7})


@pytest.mark.parametrize(
    ("unit", "rate", "text", "hidden"),
    [
        ("token", 0.15, 16, 1),
        ("token", 1.0, 6, 5),
        ("object", 0.5, 6, 1),
        ("object", 1.0, 16, 2),
        ("relation", 1.0, 6, 1),
        ("answer", 0.5, 16, 1),
    ],
)
def test_hidden_words_are_as_many_as_the_manifest_says(unit: str, rate: float, text: int, hidden: int):
    """Half of the examples have words; the end, the highest token, is none of them."""
    told = {"questions": unit == "answer"}
    manifest = planned(told, unit=unit, rate=rate, text=text)
    assert manifest.tokens.loss == manifest.tokens.D / manifest.tokens.per_step * 8 * hidden / 2
    own = {name: jnp.asarray(x) for name, x in world(**told).batch(np.arange(8), seed=0, context=text).items()}
    own["other_tokens"] = own["tokens"]
    config = streams.Config(**manifest.config)
    found = np.asarray(streams.prepare(own, jax.random.key(0), config).hidden_BT)
    assert found.sum() == 4 * hidden and not found[np.asarray(own["tokens"][:, 1:]) == graphs.END].any()


def test_nodes_are_chosen_whole():
    """Two of the three objects, of two, three and one tokens; none of their neighbours."""
    graph = jnp.tile(jnp.asarray([4, 4, 9, 12, 12, 12, 0, 16]), (40, 1))
    keys = jax.random.split(jax.random.key(0), 40)
    chosen = quick(lambda: objectives.nodes(keys, graph, (0, 4), graph >= 0, 0.5))()
    nodes = [np.asarray(graph[0] == number) for number in (4, 12, 16)]
    pairs = {tuple((a | b).tolist()) for n, a in enumerate(nodes) for b in nodes[n + 1 :]}
    assert {tuple(row.tolist()) for row in np.asarray(chosen)} == pairs
