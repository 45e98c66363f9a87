"""What albef promises: the losses of its reference, computed pair by pair; its known values; the teacher, the queue and
the negatives that are drawn."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, initial, quick, small

from scaling import count, families, objectives
from scaling.blocks import aligned
from scaling.checkpoint import Checkpoints, leaf_hashes
from scaling.errors import Code
from scaling.families import albef

B, Q = 4, 6
CONFIG = small("albef", layers=1, patch=4, queue=Q, vocab=32)[1]
# Two words, an end and padding; the others are whole.
MASK = np.ones((B, CONFIG.text), np.float32)
MASK[1, 3:] = 0
BATCH = {name: jnp.asarray(value) for name, value in batch_of(albef, CONFIG, B).items()}
BATCH |= {"mask": jnp.asarray(MASK), "tokens": BATCH["tokens"].at[1, 3:].set(CONFIG.vocab - 1)}


@functools.cache
def moved() -> Any:
    """Parameters none of which is as it was drawn, the teacher unlike the student, and unit vectors in the queues."""
    found = initial(albef, CONFIG, 0.3)
    queues = {name: found[name] / np.linalg.norm(found[name], axis=1, keepdims=True) for name in albef.QUEUES}
    return {**found, **queues, "log_temperature": jnp.float32(math.log(0.3))}


@functools.cache
def compiled():
    """(parameters, batch) -> sums and counts of all terms, and the vectors for the queues."""
    return quick(lambda parameters, batch: albef.loss_and_aux(parameters, batch, jax.random.key(0), CONFIG))


def means(terms) -> dict[str, float]:
    return {name: float(total.sum() / n.sum()) for name, (total, n) in terms.items()}


def cross(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-sum of targets times log-softmax, as the reference writes it, in float64."""
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return -(targets * (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))).sum(axis=-1)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


@functools.cache
def parts() -> Any:
    """What student and teacher make of the batch: encoded, hidden words, and logits of words; and, for each picture
    beside each text, the two logits of whether they belong together (B, B, 2)."""
    seen, keep = albef._kept(BATCH), albef._kept(BATCH)
    words, hidden = albef.hide(BATCH, keep, jax.random.split(jax.random.key(0), 3)[0], CONFIG)

    @quick
    def found(parameters):
        out, every = {}, []
        for who in ("student", "teacher"):
            own = aligned.encode(parameters[who], BATCH["image"], words, seen, CONFIG)
            read = aligned.apply("fuse", parameters[who], CONFIG, own.states_BNSD[:, 1], seen, own.memory_BPD)
            out[who] = own, aligned.apply("words", parameters[who], CONFIG, read)
        own = out["student"][0]
        for text in range(B):
            states, kept = (jnp.stack([x_[text]] * B) for x_ in (own.states_BNSD[:, 0], seen))
            fused = aligned.apply("fuse", parameters["student"], CONFIG, states, kept, own.memory_BPD)
            every.append(fused[:, 0] @ parameters["matching"])
        return out, jnp.stack(every, axis=1)

    return words, hidden, jax.device_get(found(moved()))


@pytest.mark.system
def test_each_loss_is_that_of_the_reference_computed_pair_by_pair():
    """Half way up the ramp: the weight of the teacher's targets is 0.2."""
    _, hidden, ((student, teacher), judged) = (*parts()[:2], (parts()[2][0].values(), parts()[2][1]))
    progress, temperature = CONFIG.ramp / 2, 0.3
    terms, aux = compiled()(moved(), {**BATCH, "progress": jnp.float32(progress)})
    found, (own, own_words), (taught, taught_words) = means(terms), student, teacher
    images, texts = (
        np.concatenate([new, moved()[name]]) for name, new in zip(albef.QUEUES, (taught.image_BE, taught.text_BE))
    )
    truth, alpha = np.eye(B, B + Q), CONFIG.alpha / 2
    logits, both = {}, []
    for name, mine, theirs, among in (
        ("text", own.image_BE, taught.image_BE, texts),
        ("image", own.text_BE, taught.text_BE, images),
    ):
        logits[name] = mine @ among.T / temperature
        both.append(cross(logits[name], alpha * softmax(theirs @ among.T / temperature) + (1 - alpha) * truth).mean())
    assert found["contrast"] == pytest.approx(np.mean(both), rel=1e-5)
    keys = [objectives.keys(key, BATCH) for key in jax.random.split(jax.random.key(0), 3)[1:]]
    other_text, other_image = (
        np.asarray(objectives.another(k, jnp.asarray(logits[name][:, :B]))) for k, name in zip(keys, ("text", "image"))
    )
    right, wrong = np.array([0.0, 1.0]), np.array([1.0, 0.0])
    nats = [cross(judged[i, i], right) for i in range(B)]
    nats += [cross(judged[i, other_text[i]], wrong) for i in range(B)]
    nats += [cross(judged[other_image[i], i], wrong) for i in range(B)]
    assert found["matching"] == pytest.approx(np.mean(nats), rel=1e-5)
    words = np.eye(CONFIG.vocab)[np.asarray(BATCH["tokens"][:, 1:])]
    soft = cross(own_words, alpha * softmax(taught_words) + (1 - alpha) * words)[np.asarray(hidden)].mean()
    assert found["words"] == pytest.approx(soft, rel=1e-5)
    assert found["words_plain"] == pytest.approx(cross(own_words, words)[np.asarray(hidden)].mean(), rel=1e-5)
    np.testing.assert_allclose(aux["text_queue"], taught.text_BE, atol=1e-6)
    assert len({round(value, 2) for value in found.values()}) == 4


@pytest.mark.system
def test_evaluation_is_at_the_whole_weight_and_padding_says_nothing():
    evaluated = means(compiled()(moved(), BATCH)[0])
    assert evaluated == means(compiled()(moved(), {**BATCH, "progress": jnp.float32(CONFIG.ramp)})[0])
    assert evaluated != means(compiled()(moved(), {**BATCH, "progress": jnp.float32(0)})[0])
    other = BATCH["tokens"].at[1, 4:].set(3)  # behind two words and the end
    assert means(compiled()(moved(), {**BATCH, "tokens": other})[0]) == pytest.approx(evaluated, rel=1e-6)


@pytest.mark.system
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_the_known_values_for_any_weight_of_the_teacher(progress: float):
    """Without projections of the student every candidate is alike to it, whatever the queue and the teacher hold."""
    student = {**moved()["student"], **{name: 0 * moved()["student"][name] for name in ("image_head", "text_head")}}
    parameters = {**moved(), "student": {**student, "head": 0 * student["head"]}, "matching": 0 * moved()["matching"]}
    found = means(compiled()(parameters, {**BATCH, "progress": jnp.float32(progress)})[0])
    known = {"contrast": math.log(B + Q), "matching": math.log(2), "words": math.log(CONFIG.vocab)}
    assert found == pytest.approx({**known, "words_plain": known["words"]}, rel=1e-6)
    started = means(compiled()(initial(albef, CONFIG), {**BATCH, "progress": jnp.float32(progress)})[0])
    assert started == pytest.approx(found, rel=1e-6)


@pytest.mark.system
def test_the_teacher_starts_as_the_student_to_the_bit():
    parameters = {**moved(), "teacher": moved()["student"]}

    @quick
    def vectors(parameters):
        words = BATCH["tokens"][:, None, 1:]
        own = aligned.encode(parameters["student"], BATCH["image"], words, albef._kept(BATCH), CONFIG)
        return own, albef.loss_and_aux(parameters, BATCH, jax.random.key(0), CONFIG)[1]

    own, aux = vectors(parameters)
    np.testing.assert_array_equal(aux["image_queue"], own.image_BE)
    np.testing.assert_array_equal(aux["text_queue"], own.text_BE)
    drawn = initial(albef, CONFIG)
    jax.tree.map(np.testing.assert_array_equal, drawn["teacher"], drawn["student"])


def test_teacher_and_queue_after_k_steps_are_their_closed_forms():
    """A student of one number; batches of which the queue is no multiple."""
    config = dataclasses.replace(CONFIG, decay=0.75)
    rng, steps, m = np.random.default_rng(0), 5, config.decay
    students = rng.normal(size=steps + 1)
    news = {name: rng.normal(size=(steps, B, CONFIG.project)).astype(np.float32) for name in albef.QUEUES}
    state: Any = {"teacher": {"w": jnp.float32(students[0])}, "log_temperature": jnp.float32(0)}
    state |= {name: jnp.zeros((Q, CONFIG.project)) for name in albef.QUEUES}
    for step in range(steps):
        aux = {name: jnp.asarray(value[step]) for name, value in news.items()}
        state["student"] = {"w": jnp.float32(students[step + 1])}
        state = albef.after(state, aux, jax.random.key(step), config)
    exact = m**steps * students[0] + (1 - m) * sum(m**i * students[steps - i] for i in range(steps))
    assert float(state["teacher"]["w"]) == pytest.approx(exact, rel=1e-5)
    assert abs(exact - students[0]) > 1e-3
    for name, value in news.items():
        np.testing.assert_array_equal(state[name], value.reshape(-1, CONFIG.project)[-Q:])


def test_another_is_drawn_by_the_softmax_never_itself_and_by_its_own_key():
    draws, rng = 4000, np.random.default_rng(0)
    scores = jnp.asarray(2 * rng.normal(size=(B, B)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), (draws, B))
    found = np.asarray(quick(jax.vmap(lambda k: objectives.another(k, scores)))(keys))
    shares = softmax(np.where(np.eye(B, dtype=bool), -np.inf, scores))
    for example in range(B):
        frequency = np.bincount(found[:, example], minlength=B) / draws
        assert frequency[example] == 0
        assert (
            np.abs(frequency - shares[example]) <= 4 * np.sqrt(shares[example] * (1 - shares[example]) / draws)
        ).all()
    mixed = keys[0].at[1].set(keys[1, 1])
    np.testing.assert_array_equal(np.delete(objectives.another(mixed, scores), 1), np.delete(found[0], 1))


@pytest.mark.system
def test_words_are_hidden_and_neither_their_end_nor_padding():
    words, hidden, _ = parts()
    tokens = np.asarray(BATCH["tokens"][:, 1:])
    np.testing.assert_array_equal(words[:, 0], tokens)
    assert (np.asarray(hidden).sum(axis=1) == 1).all() and not np.asarray(hidden)[1, 2:].any()
    assert (tokens[np.asarray(hidden)] < CONFIG.vocab - 1).all()
    assert ((np.asarray(words[:, 1]) == tokens) | np.asarray(hidden)).all()


def test_it_is_counted_as_it_says():
    """6 per weight and position of the student, whose text is read twice and fused four times; 2 of the teacher's."""
    c, batch = families.configure(albef, 2, layers=3, patch=8, queue=96), 64
    d, patches, text, half = c.width, c.patches, 1 + c.text, 2
    block = 12 * d * d

    def passes(fused: int) -> tuple[int, int]:
        """Weights times positions, and forward FLOPs of scores and mixing."""
        weights = c.pixels * d * patches + c.layers * block * patches + half * block * text * 2
        weights += half * fused * ((block + 2 * d * d) * text + 2 * d * d * patches)
        weights += 2 * d * c.project + d * c.vocab * c.text
        mixing = c.layers * patches**2 + 2 * half * text**2 + half * fused * (text**2 + text * patches)
        return weights, 4 * d * mixing

    (own, scores), (taught, taught_scores) = passes(4), passes(1)
    alike = 2 * 2 * (batch + c.queue) * c.project  # both ways
    total = sum(count.training_flops(albef.components(c), batch).values())
    assert total == 6 * (own + 3 * 2 * d) + 3 * scores + 2 * taught + taught_scores + 2 * alike + alike
    n = count.parameters(albef.components(c))
    assert n["trainable"] == n["active"] and n["total"] - n["active"] == n["groups"][count.STATE]


@pytest.mark.parametrize("fields", [{"queue": 0, "alpha": 0.0}, pytest.param({"queue": 0}, marks=pytest.mark.system)])
def test_without_a_teacher_or_a_queue_the_program_is_still_what_is_counted(fields: dict[str, Any]):
    module, config = small("albef", "", 0, layers=1, **fields)
    shapes: Any = jax.eval_shape(lambda: module.init(jax.random.key(0), config))
    assert set(shapes) == {"student", "matching", "log_temperature", *albef.frozen(config)}
    assert bool(albef.frozen(config)) == config.taught == ("alpha" not in fields)
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch_of(module, config, 3).items()}
    terms = families.terms(module, config)

    def total(parameters, batch):
        found = module.loss(parameters, batch, jax.random.key(0), config)
        return sum(nats.sum() / n.sum() for name, (nats, n) in found.items() if terms[name].weight)

    traced = count.jaxpr_flops(jax.grad(total), shapes, batch)
    assert traced == 3 * sum(count.executed_flops(module.components(config), 3).values())
    assert terms["contrast"].unit == terms["contrast_plain"].unit or config.alpha


@pytest.mark.system
def test_without_a_teacher_contrast_is_that_of_the_own_vectors():
    module, config = small("albef", layers=1, patch=4, queue=0, alpha=0.0)
    parameters, batch = initial(module, config, 0.3), batch_of(module, config, B)
    own = quick(lambda p: (module.loss(p, batch, jax.random.key(0), config), module.metrics(p, batch, config)))
    terms, measured = own(parameters)
    np.testing.assert_allclose(terms["contrast"][0], measured["contrast_plain"][0], rtol=1e-5)
    np.testing.assert_array_equal(terms["words"][0], terms["words_plain"][0])
    assert module.after(parameters, {}, jax.random.key(0), config) is parameters


def test_units_say_among_how_many_and_whose_targets():
    units = families.units(albef, CONFIG, B, {})
    assert {name: units[name].among for name in ("contrast", "matching", "contrast_plain")} == {
        "contrast": B + Q,
        "matching": B - 1,
        "contrast_plain": B,
    }
    plain = families.units(albef, small("albef", queue=0, alpha=0.0)[1], B, {})
    assert units["words"] != plain["words"] == units["words_plain"] and plain["contrast"].among == B


@pytest.mark.parametrize("name", ["albef", "blip2"])
def test_one_example_has_no_wrong_pair(name: str):
    module, config = small(name, layers=1)
    shapes, alone = jax.eval_shape(lambda: module.init(jax.random.key(0), config)), batch_of(module, config, 1)
    with refuses(Code.TOO_FEW, "batch", 1):
        jax.eval_shape(lambda parameters: module.loss(parameters, alone, jax.random.key(0), config), shapes)


def test_the_end_of_a_text_is_never_hidden_whatever_the_vocabulary():
    """Larger than the source's, and without a mask: neither the end nor what is behind it."""
    config = dataclasses.replace(CONFIG, vocab=1000, rate=0.99)
    tokens = jnp.asarray(np.tile([20, 3, 5, 21, 21, 21, 21], (2, 1)))
    _, hidden = albef.hide({"tokens": tokens}, jnp.ones((2, 7), bool), jax.random.key(0), config)
    np.testing.assert_array_equal(hidden, np.tile([True, True, False, False, False, False], (2, 1)))


def test_another_is_drawn_also_where_all_but_its_own_are_far_from_alike():
    scores = 1000 * jnp.eye(B)
    found = np.asarray(objectives.another(jax.random.split(jax.random.key(0), B), scores))
    assert (found != np.arange(B)).all()


def test_a_teacher_without_a_queue_is_kept_and_read_again(tmp_path: Path):
    """No leaf is empty, which no checkpoint could hold; and contrast is among the batch's."""
    module, config = small("albef", layers=1, patch=4, queue=0)
    batch, state = batch_of(module, config, B), initial(module, config)

    def step(parameters):
        _, aux = module.loss_and_aux(parameters, batch, jax.random.key(0), config)
        return module.after(parameters, aux, jax.random.key(0), config)

    assert config.alpha and all(leaf.size for leaf in jax.tree.leaves(state))
    assert jax.eval_shape(lambda: state) == jax.eval_shape(step, state)
    assert set(state) == {"student", "teacher", "matching", "log_temperature"} == set(module.axes(config))
    assert families.units(module, config, B, {})["contrast"].among == B
    store = Checkpoints(tmp_path)
    store.save(1, state)
    kept = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    found = store.load(kept)
    assert found is not None and leaf_hashes(found[1]) == leaf_hashes(state)
