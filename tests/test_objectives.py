"""Blocks and objectives: what each hides stays hidden, what each counts is exact, and what each bounds is bounded."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_families import quick

from scaling import families, objectives
from scaling.blocks import attention, experts, stack
from scaling.families import bert, gpt, t5, vit


def noisy(module, config, scale: float = 1.0):
    """Parameters in which nothing is zero, so that whatever is seen has an effect."""

    def draw():
        parameters = module.init(jax.random.key(0), config)
        return jax.tree.map(lambda w: w + scale * jax.random.normal(jax.random.key(3), w.shape), parameters)

    return quick(draw)()  # one compilation in place of one for every shape


gpt_logits, bert_logits = (quick(family.logits, static_argnums=2) for family in (gpt, bert))
t5_logits, vit_outputs = quick(t5.logits, static_argnums=3), quick(vit.outputs, static_argnums=2)


def differs(before, after) -> np.ndarray:
    """(B, T): where the outputs of a position differ at all."""
    return (np.asarray(before) != np.asarray(after)).any(axis=-1)


TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, 16)), jnp.int32)


def test_attention_is_softmax_attention():
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, 3, 6, 4)) for seed in range(3))
    scores = jnp.einsum("bhtk,bhsk->bhts", q, k) / 2
    keep = jnp.asarray([[True] * 6, [True] * 4 + [False] * 2])
    tril = np.tril(np.ones((6, 6), bool))
    allowed = {"causal": tril, "bidirectional": np.ones((6, 6), bool), "prefix": tril | (np.arange(6) < 3)}
    for mask, seen in allowed.items():
        seen = jnp.asarray(seen)[None, None] & keep[:, None, None, :]
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        expected = jnp.einsum("bhts,bhsk->bhtk", weights, v)
        np.testing.assert_allclose(attention.attend(q, k, v, mask, prefix=3, keep_BS=keep), expected, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"kv_heads": 1}, {"experts": 4, "top": 2, "capacity": 0.5}])
def test_gpt_sees_no_future(fields):
    config = families.configure(gpt, 0, vocab=32, context=16, **fields)
    parameters = noisy(gpt, config)
    changed = TOKENS.at[:, 9].set((TOKENS[:, 9] + 1) % 32)
    seen = differs(gpt_logits(parameters, TOKENS, config), gpt_logits(parameters, changed, config))
    assert not seen[:, :9].any() and seen[:, 9].all() and seen[:, 10:].any()


def test_bert_sees_no_hidden_token_and_no_padding():
    config = families.configure(bert, 0, vocab=32, context=16, objective="diffusion")
    parameters, everything = noisy(bert, config), jnp.ones(TOKENS.shape, bool)
    inputs, hidden, targets, _ = bert.hide(TOKENS, everything, jax.random.key(1), config)
    other = jnp.where(hidden, (TOKENS + 5) % 32, TOKENS)
    again, still, others, _ = bert.hide(other, everything, jax.random.key(1), config)
    assert (hidden == still).all() and (targets != others).any()
    assert not differs(bert_logits(parameters, inputs, config), bert_logits(parameters, again, config)).any()
    # What is not hidden reaches every position, in both directions.
    place = int(np.flatnonzero(~np.asarray(hidden[0]))[0])
    moved = inputs.at[0, place].set((inputs[0, place] + 1) % 32)
    assert differs(bert_logits(parameters, inputs, config), bert_logits(parameters, moved, config))[0].all()
    # Padding (after the last position that counts) changes no loss; an uncounted token before it does.
    mask = jnp.ones(TOKENS.shape).at[:, 4].set(0).at[:, 12:].set(0)
    for place, unseen in ((13, True), (4, False)):
        tokens = jnp.pad(TOKENS, ((0, 0), (1, 0)))
        changed = tokens.at[:, place + 1].set((tokens[:, place + 1] + 1) % 32)
        found = [
            bert.loss(parameters, {"tokens": t, "mask": mask}, jax.random.key(1), config)["diffusion"][0]
            for t in (tokens, changed)
        ]
        assert bool((found[0] == found[1]).all()) == unseen


@pytest.mark.system
def test_t5_decoder_sees_the_holes_only_through_what_it_wrote():
    config = families.configure(t5, 0, vocab=32, context=16, rate=0.4)
    parameters = noisy(t5, config)
    noise = objectives.span_noise(jax.random.key(1), 4, 16, 0.4, 3.0)
    weight = jnp.ones(TOKENS.shape)
    first = objectives.span_corruption(TOKENS, noise, weight, config.noise, 32)
    other = jnp.where(noise, (TOKENS + 5) % 32, TOKENS)
    second = objectives.span_corruption(other, noise, weight, config.noise, 32)
    assert (first[0] == second[0]).all() and (first[2] != second[2]).any()  # the encoder's input is the same
    given = jnp.pad(first[2][:, :-1], ((0, 0), (1, 0)), constant_values=config.outputs)
    changed = given.at[:, 4].set((given[:, 4] + 1) % 32)
    seen = differs(t5_logits(parameters, first[0], given, config), t5_logits(parameters, first[0], changed, config))
    assert not seen[:, :4].any() and seen[:, 4].all()
    moved = first[0].at[:, 0].set((first[0][:, 0] + 1) % 32)
    assert differs(t5_logits(parameters, first[0], given, config), t5_logits(parameters, moved, given, config)).all()


@pytest.mark.system
def test_mim_encoder_sees_visible_patches_only():
    config = families.configure(vit, 0, image=8, patch=2, objective="mim")
    parameters = noisy(vit, config)
    patches = jax.random.normal(jax.random.key(0), (2, config.patches, config.pixels))
    order = jnp.argsort(jax.random.uniform(jax.random.key(1), (2, config.patches)), axis=1)
    before = vit_outputs(parameters, patches, config, order)
    assert before.shape == (2, config.hidden, config.pixels)
    for rank in (0, config.patches - config.hidden - 1, config.patches - config.hidden, config.patches - 1):
        changed = patches.at[jnp.arange(2), order[:, rank]].add(1.0)
        seen = differs(before, vit_outputs(parameters, changed, config, order))
        assert seen.all() if rank < config.patches - config.hidden else not seen.any()


@pytest.mark.parametrize("unit", objectives.UNITS)
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_exactly_as_many_are_hidden_as_asked(unit: str, rate: float):
    tokens = jnp.asarray(np.frombuffer(b"def area(width_1, b):\n    return " * 64, np.uint8).reshape(-1, 64), jnp.int32)
    keep = jnp.ones(tokens.shape, bool).at[:, 60:].set(False)
    count = objectives.mlm_count(keep, rate)
    chosen = np.asarray(objectives.choose(jax.random.key(0), tokens, count, keep, unit, 4.0))
    assert (chosen.sum(axis=1) == round(rate * 60)).all() and not chosen[:, 60:].any()
    share = chosen[:, :60].mean(axis=0)
    assert np.abs(share - rate).max() < 5 * 0.5 / math.sqrt(len(chosen))  # every position as often as any other
    edges = (chosen[:, 1:60] != chosen[:, :59]).sum() / chosen.sum()
    most = {"token": 2.5, "span": 0.8, "word": 1.4}[unit] * (1 - rate)  # independent positions have 2
    assert edges < most and (unit != "token" or edges > 1.5 * (1 - rate))
    if unit == "word":
        starts = np.asarray(objectives.word_starts(tokens))
        partial = [
            len(set(row[a:b])) > 1
            for row, begin in zip(chosen[:, :60], starts[:, :60])
            for a, b in itertools.pairwise([0, *np.flatnonzero(begin[1:]) + 1, 60])
        ]
        assert sum(partial) <= len(chosen)  # at most the last word of an example is cut


def test_corruption_is_80_10_10():
    tokens = jnp.full((200, 100), 7, jnp.int32)
    chosen = jnp.arange(100)[None] < jnp.full((200, 1), 50)
    inputs = np.asarray(objectives.corrupt(jax.random.key(0), tokens, chosen, 32, 32))
    assert (inputs[:, 50:] == 7).all()
    shares = [(inputs[:, :50] == 32).mean(), (inputs[:, :50] == 7).mean()]
    assert shares == pytest.approx([0.8, 0.1 + 0.1 / 32], abs=0.012)


def test_diffusion_bounds_the_likelihood_and_is_exact_for_exact_conditionals():
    """Over every subset of 4 binary tokens: with the true conditional p(x_i | what is seen), the weighted sum is
    -log p(x) averaged over x, the entropy; with any other network it is more."""
    rng, time = np.random.default_rng(0), 4
    joint = rng.dirichlet(np.full(2**time, 0.5)).reshape((2,) * time)
    entropy = -(joint * np.log(joint)).sum()
    states = np.array(list(itertools.product((0, 1), repeat=time)))
    subsets = np.array(list(itertools.product((False, True), repeat=time))[1:])

    def bound(sharpen: float) -> float:
        total = 0.0
        for hidden in subsets:
            logits = np.zeros((len(states), time, 2))
            for row, state in enumerate(states):
                for place in np.flatnonzero(hidden):
                    seen = tuple(slice(None) if h else s for h, s in zip(hidden, state))
                    axis = int(hidden[:place].sum())
                    marginal = joint[seen].sum(axis=tuple(a for a in range(hidden.sum()) if a != axis))
                    logits[row, place] = sharpen * np.log(marginal)
            wide = jnp.broadcast_to(jnp.asarray(hidden), states.shape)
            each = objectives.cross_entropy(jnp.asarray(logits), jnp.asarray(states))
            nats, count = objectives.diffusion(each, wide, jnp.ones_like(wide))
            assert (count == time).all()
            chance = 1 / time / math.comb(time, int(hidden.sum()))
            total += chance * float(joint.reshape(-1) @ np.asarray(nats))
        return total

    assert bound(1.0) == pytest.approx(entropy, rel=1e-5)
    assert bound(0.7) > entropy * 1.005 and bound(1.4) > entropy * 1.005
    counts = np.asarray(objectives.diffusion_count(jax.random.key(0), jnp.ones((64, 16), bool)))
    assert (np.bincount(counts, minlength=17)[1:] == 4).all()  # stratified: each number as often as any other


@pytest.mark.system
def test_spans_are_as_many_and_as_long_as_asked_and_can_be_put_back():
    time, rate, span = 64, 0.15, 3.0
    noise, count = objectives.span_shape(time, rate, span)
    assert (noise, count) == (10, 3)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (500, time)), jnp.int32)
    chosen = objectives.span_noise(jax.random.key(0), 500, time, rate, span)
    starts = np.asarray(chosen) & ~np.pad(np.asarray(chosen)[:, :-1], ((0, 0), (1, 0)))
    assert (np.asarray(chosen).sum(axis=1) == noise).all() and (starts.sum(axis=1) == count).all()
    found = objectives.span_corruption(tokens, chosen, jnp.ones(tokens.shape), (noise, count), 32)
    inputs, kept, targets, weights = (np.asarray(array) for array in found)
    assert inputs.shape == (500, 57) and targets.shape == (500, 14) and (weights == 1).all()
    for row in range(500):
        written = dict(zip(range(32, 36), np.split(targets[row], np.flatnonzero(targets[row] >= 32))[1:]))
        restored = [t for symbol in inputs[row] for t in (written[symbol][1:] if symbol >= 32 else [symbol])]
        assert restored == tokens[row].tolist() and len(written[35]) == 1
        assert (tokens[row][kept[row]] == inputs[row])[inputs[row] < 32].all()
    share = np.asarray(chosen).mean(axis=0)[8:-8]
    assert np.abs(share - rate).max() < 0.12


def test_next_sentences_are_another_examples():
    tokens = jnp.arange(64)[:, None] * jnp.ones((1, 6), jnp.int32)
    paired, other = objectives.pair(jax.random.key(0), tokens, 3)
    assert 16 < int(other.sum()) < 48
    for row in range(64):
        assert paired[row].tolist() == [row] * 3 + [(row - 1) % 64 if other[row] else row] * 3


def test_pictures_are_turned():
    image = jax.random.randint(jax.random.key(0), (64, 4, 4, 3), 0, 256).astype(jnp.uint8)
    turned, quarters = objectives.turn(jax.random.key(1), image)
    assert set(np.asarray(quarters).tolist()) == {0, 1, 2, 3}
    for row in range(64):
        np.testing.assert_array_equal(turned[row], np.rot90(np.asarray(image[row]), int(quarters[row])))
    patches = vit.patchify(image, 2)
    np.testing.assert_allclose(patches[0, 1].reshape(2, 2, 3), np.asarray(image[0, :2, 2:]) / 127.5 - 1, atol=1e-6)


@pytest.mark.system
def test_a_mixture_is_the_sum_of_its_chosen_experts():
    shape = experts.Experts(4, 2, 6, shared=1, capacity=2.0)
    weights = {
        name: jax.random.normal(jax.random.key(number), size[1:])
        for number, (name, size) in enumerate(experts.shapes(shape, 1, 8).items())
    }
    h = jax.random.normal(jax.random.key(9), (3, 10, 8))
    found, balance = experts.mixture(h, weights, shape, jax.nn.gelu)
    probability = jax.nn.softmax(h @ weights["router"], axis=-1)
    expected = jax.nn.gelu(h @ weights["shared_up"]) @ weights["shared_down"]
    every = jnp.stack([jax.nn.gelu(h @ weights["expert_up"][e]) @ weights["expert_down"][e] for e in range(4)], axis=2)
    best = jnp.argsort(-probability, axis=-1)[..., :2]
    gates = jnp.take_along_axis(probability, best, axis=-1)
    gates = gates / gates.sum(axis=-1, keepdims=True)
    expected += (jnp.take_along_axis(every, best[..., None], axis=2) * gates[..., None]).sum(axis=2)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)
    assert balance.shape == (3,) and float(balance.min()) > 0.8
    even = experts.mixture(h, {**weights, "router": jnp.zeros((8, 4))}, shape, jax.nn.gelu)[1]
    np.testing.assert_allclose(even, 1, rtol=1e-6)


def test_a_full_expert_takes_the_first_and_no_more():
    shape = experts.Experts(2, 1, 4, capacity=0.5)
    assert shape.slots(8) == 2 and experts.Experts(2, 2, 4, capacity=9.0).slots(8) == 8
    scores = jnp.asarray([[[3.0, 0.0]] * 5 + [[0.0, 3.0]] * 3])
    chosen, slot, gate = experts.route(scores, shape)
    assert chosen[0, :, 0].tolist() == [0] * 5 + [1] * 3 and slot[0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    weights = {
        "router": jnp.asarray([[3.0, 0.0], [0.0, 3.0]]),
        "expert_up": jnp.ones((2, 2, 4)),
        "expert_down": jnp.ones((2, 4, 2)),
    }
    h = jnp.asarray([[[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 3])
    found, _ = experts.mixture(h, weights, shape, jax.nn.relu)
    assert (np.asarray(found)[0, :, 0] > 0).tolist() == [True, True, False, False, False, True, True, False]
    np.testing.assert_allclose(found[0, 0], 4 * gate[0, 0, 0], rtol=1e-5)


@pytest.mark.system
def test_grouped_queries_share_keys_and_values():
    whole = stack.Stack(2, 16, 4, 32)
    shared = stack.Stack(2, 16, 4, 32, kv_heads=2)
    x = jax.random.normal(jax.random.key(0), (2, 6, 16))
    few = shared.init(jax.random.key(1), x)["params"]
    few = jax.tree.map(lambda w: w + 0.3 * jax.random.normal(jax.random.key(2), w.shape), dict(few))
    many = {**few, **{name: jnp.repeat(few[name], 2, axis=2) for name in ("k", "v")}}
    expected = whole.apply({"params": many}, x)
    np.testing.assert_allclose(shared.apply({"params": few}, x), expected, rtol=1e-5, atol=1e-5)  # type: ignore[arg-type]


def test_active_parameters_of_a_mixture_are_those_of_the_plain_model():
    from scaling import count

    plain = count.parameters(gpt.components(families.configure(gpt, 4)))
    mixed = count.parameters(gpt.components(families.configure(gpt, 4, experts=8, top=1, shared=1)))
    router = mixed["groups"]["router"]
    assert mixed["nonembedding_active"] == plain["nonembedding"] + router
    assert mixed["nonembedding"] == plain["nonembedding"] + router + 7 * plain["groups"]["mlp"] // 2
