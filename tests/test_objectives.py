"""Blocks and objectives: what each hides stays hidden, what each counts is exact, and what each bounds is bounded."""

import dataclasses
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from selection import mostly_system
from test_families import quick

from scaling import families, objectives
from scaling.blocks import attention, execution, experts, patches, stack
from scaling.data._tokenizer import CONTINUES, SPACE, STOP, WITHIN, marks
from scaling.families import bert, gpt, t5, vit


def noisy(module, config, scale: float = 1.0):
    """Parameters in which nothing is zero, so that whatever is seen has an effect."""

    def draw():
        parameters = module.init(jax.random.key(0), config)
        return jax.tree.map(lambda w: w + scale * jax.random.normal(jax.random.key(3), w.shape), parameters)

    return quick(draw)()  # one compilation in place of one for every shape


gpt_logits, bert_logits = (quick(family.logits, static_argnums=2) for family in (gpt, bert))
bert_loss = quick(bert.loss, static_argnums=3)
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


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_gradient_of_cross_entropy_is_softmax_less_one_hot_and_scatters_on_a_cpu_alone(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    logits = (3 * jax.random.normal(jax.random.key(0), (2, 5, 7))).astype(jnp.bfloat16)
    targets = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 5)), jnp.int32)
    weights = jnp.arange(1.0, 11).reshape(2, 5)
    slope = jax.jit(jax.grad(lambda logits: (objectives.cross_entropy(logits, targets) * weights).sum()))
    expected = (jax.nn.softmax(logits.astype(jnp.float32)) - jax.nn.one_hot(targets, 7)) * weights[..., None]
    found = slope(logits)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), expected, rtol=5e-3, atol=1e-6)
    program = slope.lower(logits).as_text()
    assert ("scatter" in program) == (backend == "cpu")


MIXED = {"experts": 4, "top": 2, "capacity": 0.5, "group": 32}


DROPLESS = pytest.param({**MIXED, "dropless": True}, marks=pytest.mark.system)


@pytest.mark.parametrize("fields", [{}, {"kv_heads": 1}, MIXED, DROPLESS])
def test_gpt_sees_no_future(fields):
    config = families.configure(gpt, 0, vocab=32, context=16, **fields)
    parameters = noisy(gpt, config)
    changed = TOKENS.at[2, 9].set((TOKENS[2, 9] + 1) % 32)
    seen = differs(gpt_logits(parameters, TOKENS, config), gpt_logits(parameters, changed, config))
    assert not seen[2, :9].any() and seen[2, 9] and seen[2, 10:].any()
    # Experts have a capacity in groups of two: another example may lose its place to an earlier one of its group.
    assert not seen[:2].any() and ("capacity" in fields or not seen[3].any())


def before(tokens: jax.Array) -> jax.Array:
    """Inputs whose targets are ``tokens``."""
    return jnp.pad(tokens, ((0, 0), (1, 0)))


def keys(seed: int, size: int) -> jax.Array:
    return jax.random.split(jax.random.key(seed), size)


@pytest.mark.system
def test_bert_sees_no_hidden_token_and_no_padding():
    config = families.configure(bert, 0, vocab=32, context=16, objective="diffusion")
    parameters, everything = noisy(bert, config), jnp.ones(TOKENS.shape, bool)
    inputs, hidden, targets, *_ = bert.hide({"tokens": before(TOKENS)}, everything, jax.random.key(1), config)
    other = jnp.where(hidden, (TOKENS + 5) % 32, TOKENS)
    again, still, others, *_ = bert.hide({"tokens": before(other)}, everything, jax.random.key(1), config)
    assert (hidden == still).all() and (targets != others).any()
    assert not differs(bert_logits(parameters, inputs, config), bert_logits(parameters, again, config)).any()
    # What is not hidden reaches every position, in both directions; inputs are led by the token before the text.
    place = 1 + int(np.flatnonzero(~np.asarray(hidden[0]))[0])
    moved = inputs.at[0, place].set((inputs[0, place] + 1) % 32)
    assert differs(bert_logits(parameters, inputs, config), bert_logits(parameters, moved, config))[0].all()
    # Padding (after the last position that counts) changes no loss; an uncounted token before it does.
    mask = jnp.ones(TOKENS.shape).at[:, 4].set(0).at[:, 12:].set(0)
    for place, unseen in ((13, True), (4, False)):
        tokens = before(TOKENS)
        changed = tokens.at[:, place + 1].set((tokens[:, place + 1] + 1) % 32)
        found = [
            bert_loss(parameters, {"tokens": t, "mask": mask}, jax.random.key(1), config)["diffusion"][0]
            for t in (tokens, changed)
        ]
        assert bool((found[0] == found[1]).all()) == unseen


@pytest.mark.system
def test_diffusion_is_given_what_the_causal_model_is_given():
    """The token before the text: never hidden, never predicted, and seen by every prediction."""
    config = families.configure(bert, 0, vocab=32, context=16, objective="diffusion")
    parameters, everything = noisy(bert, config), jnp.ones(TOKENS.shape, bool)
    batch = {"tokens": before(TOKENS).at[:, 0].set(jnp.arange(4))}
    inputs, hidden, targets, *_ = bert.hide(batch, everything, jax.random.key(1), config)
    assert inputs.shape == (4, 17) and hidden.shape == (4, 16) and bool((targets == TOKENS).all())
    np.testing.assert_array_equal(inputs[:, 0], np.arange(4))
    np.testing.assert_array_equal(inputs[:, 1:], np.where(hidden, 32, TOKENS))
    moved = bert_logits(parameters, inputs.at[:, 0].add(1), config)
    seen = bert_logits(parameters, inputs, config)
    assert seen.shape == (4, 16, 32) and differs(seen, moved).all()
    # It has no loss of its own: every hidden token counts T / k, as the reference formula says.
    found, total = bert_loss(parameters, batch, jax.random.key(1), config)["diffusion"]
    logits = np.asarray(seen, np.float64)
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.asarray(TOKENS)[..., None], 2)[..., 0]
    expected = [16 / row.sum() * nats[number][row].sum() for number, row in enumerate(np.asarray(hidden))]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (np.asarray(total) == 16).all()


@pytest.mark.system
def test_t5_decoder_sees_the_holes_only_through_what_it_wrote():
    config = families.configure(t5, 0, vocab=32, context=16, rate=0.4)
    parameters = noisy(t5, config)
    noise = objectives.span_noise(keys(1, 4), 16, 0.4, 3.0)
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


PICTURES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
PICTURES[0, :2, :2] = 7  # a uniform patch


def test_hidden_patches_are_measured_by_the_formulas_of_mae_and_simmim():
    cut = np.asarray(vit.patchify(jnp.asarray(PICTURES), 2), np.float64)
    expected = (cut - cut.mean(axis=2, keepdims=True)) / np.sqrt(cut.var(axis=2, ddof=1, keepdims=True) + 1e-6)
    found = patches.normalised(jnp.asarray(cut, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not expected[0, 0].any() and np.square(expected[1:]).mean() == pytest.approx(11 / 12, rel=1e-4)
    total, count = objectives.absolute_error(found, jnp.asarray(cut))
    np.testing.assert_allclose(total, np.abs(expected - cut).mean(axis=2).sum(axis=1), rtol=1e-4)
    assert (np.asarray(count) == 16).all()


@pytest.mark.system
@pytest.mark.parametrize(("objective", "target"), [("mim", "normalised"), ("simmim", "pixels")])
def test_what_is_hidden_is_predicted_from_what_is_seen(objective: str, target: str):
    """The loss by an order of patches written down here, and what reaches a prediction."""
    config, key = families.configure(vit, 0, image=8, patch=2, objective=objective, target=target), jax.random.key(5)
    parameters, batch = noisy(vit, config), {"image": jnp.asarray(PICTURES)}
    order = np.argsort(objectives.uniform(objectives.keys(key, batch), 16), axis=1)
    cut = vit.patchify(jnp.asarray(PICTURES), 2)
    wanted = np.asarray(patches.normalised(cut) if target == "normalised" else cut)
    chosen = np.take_along_axis(wanted, order[:, 4:, None], axis=1)
    plain = vit_outputs(parameters, cut, config, order)
    error = (np.square if objective == "mim" else np.abs)(np.asarray(plain) - chosen)
    found, count = quick(lambda p: vit.loss(p, batch, key, config)[objective])(parameters)
    np.testing.assert_allclose(found, error.mean(axis=2).sum(axis=1), rtol=2e-4)
    assert (np.asarray(count) == 12).all()
    for rank, reaches in ((15, False), (4, False), (3, True), (0, True)):
        moved = vit_outputs(parameters, cut.at[np.arange(3), order[:, rank]].add(1.0), config, order)
        seen = differs(plain, moved)
        assert seen.all() if reaches else not seen.any()


def test_the_decoder_of_mim_does_not_grow_with_the_encoder():
    from scaling import count

    shares = []
    for size in (0, 3, 11):
        config = families.configure(vit, size, objective="mim")
        parts = vit.components(config)
        flops = count.training_flops(parts)
        own = sum(cost for name, cost in flops.items() if name.startswith("decoder_") or name in ("head", "projection"))
        shares.append(own / sum(flops.values()))
        decoder = count.parameters(parts)["groups"]
        assert decoder["decoder_attention"] == 4 * 16**2 and decoder["decoder_mlp"] == 8 * 16**2
    assert shares[0] > 0.5 > shares[1] > 0.1 and shares[2] < 0.01


@pytest.mark.parametrize("fields", [{"objective": "diffusion"}, {"nsp": True}, {"unit": "span"}])
def test_what_is_hidden_does_not_depend_on_how_a_batch_is_split(fields):
    """A quick sister of the tests of whole families: masks, levels and swaps of bert, by the index of an example."""
    config = families.configure(bert, 0, vocab=32, context=16, **fields)
    batch = {"tokens": before(TOKENS), "other_tokens": before(TOKENS[::-1]), "example": jnp.arange(4)}
    hide = quick(lambda part: bert.hide(part, jnp.ones(part["tokens"][:, 1:].shape, bool), jax.random.key(5), config))
    whole = hide(batch)
    for rows in ([2, 3], [3, 0]):
        part = hide({name: value[np.array(rows)] for name, value in batch.items()})
        for some, every in zip(part, whole):
            assert (some is None) == (every is None)
            if every is not None:
                np.testing.assert_array_equal(some, every[np.array(rows)])


CODE = np.frombuffer(b"def area(width_1, b):\n    return " * 64, np.uint8).reshape(-1, 64)


@pytest.mark.parametrize("unit", ["token", "span"])
@pytest.mark.parametrize("rate", [0.15, 0.5])
def test_exactly_as_many_are_hidden_as_asked(unit: str, rate: float):
    tokens = jnp.asarray(CODE, jnp.int32)
    keep = jnp.ones(tokens.shape, bool).at[:, 60:].set(False)
    count = objectives.mlm_count(keep, rate)
    chosen = np.asarray(objectives.choose(keys(0, len(tokens)), tokens, count, keep, unit, 4.0))
    assert (chosen.sum(axis=1) == round(rate * 60)).all() and not chosen[:, 60:].any()
    share = chosen[:, :60].mean(axis=0)
    assert np.abs(share - rate).max() < 5 * 0.5 / math.sqrt(len(chosen))  # every position as often as any other
    edges = (chosen[:, 1:60] != chosen[:, :59]).sum() / chosen.sum()
    most = {"token": 2.5, "span": 0.8}[unit] * (1 - rate)  # independent positions have 2
    assert edges < most and (unit != "token" or edges > 1.5 * (1 - rate))


@pytest.mark.parametrize("count", mostly_system([1, 9, 30], 9))
def test_words_are_whole_and_one_that_does_not_fit_is_skipped(count: int):
    """As in BERT's code: words in random order, ``continue`` for one that is longer than what is left."""
    tokens, keep = jnp.asarray(CODE[:8], jnp.int32), jnp.ones((8, 64), bool).at[:, 60:].set(False)
    drawn = keys(3, 8)
    chosen = np.asarray(quick(lambda drawn: objectives.choose(drawn, tokens, jnp.full(8, count), keep, "word"))(drawn))
    scores = np.asarray(objectives.uniform(objectives._split(drawn)[0], 64))
    for row, order in enumerate(np.argsort(scores, axis=1)):
        words: list[list[int]] = []
        for place in range(60):
            joins = place and re.match(rb"\w\w", bytes(CODE[row])[place - 1 : place + 1])
            words[-1].append(place) if joins else words.append([place])
        left, taken = count, []
        for word in order:
            if word < len(words) and len(words[word]) <= left:
                left, taken = left - len(words[word]), taken + words[word]
        assert np.flatnonzero(chosen[row]).tolist() == sorted(taken) and len(taken) <= count


def test_corruption_is_80_10_10():
    tokens = jnp.full((200, 100), 7, jnp.int32)
    chosen = jnp.arange(100)[None] < jnp.full((200, 1), 50)
    inputs = np.asarray(objectives.corrupt(keys(0, len(tokens)), tokens, chosen, 32, 32))
    assert (inputs[:, 50:] == 7).all()
    shares = [(inputs[:, :50] == 32).mean(), (inputs[:, :50] == 7).mean()]
    assert shares == pytest.approx([0.8, 0.1 + 0.1 / 32], abs=0.012)


@pytest.mark.system
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
    for first, size in ((0, 64), (64, 16), (96, 32)):  # stratified: each number as often as any other
        index, keep = jnp.arange(first, first + size), jnp.ones((size, 16), bool)
        counts = np.asarray(objectives.diffusion_count(jax.random.key(first), index, keep))
        assert (np.bincount(counts, minlength=17)[1:] == size // 16).all()
    levels = [np.asarray(objectives.levels(key, jnp.arange(3))) for key in keys(0, 2000)]
    shares = np.histogram(np.stack(levels)[:, 1], 10, (0, 1))[0] / 2000
    assert np.abs(shares - 0.1).max() < 0.03  # uniform over keys


@pytest.mark.system
def test_spans_are_as_many_and_as_long_as_asked_and_can_be_put_back():
    time, rate, span = 64, 0.15, 3.0
    noise, count = objectives.span_shape(time, rate, span)
    assert (noise, count) == (10, 3)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (500, time)), jnp.int32)
    chosen = objectives.span_noise(keys(0, 500), time, rate, span)
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


def test_next_sentences_are_cut_where_they_begin_and_are_another_examples_in_half():
    own = b"One. Two! 3? x\nThe next line, long"
    others = [b"ab. Cd ef gh ij kl mn op qr st uv ", b"no end of any sentence here at all"]
    text = np.stack([np.frombuffer(own, np.uint8)] * 64).astype(np.int32)
    other = np.stack([np.frombuffer(others[row % 2], np.uint8) for row in range(64)]).astype(np.int32)
    starts = np.flatnonzero(objectives.sentence_starts(jnp.asarray(text[:1]))[0]).tolist()
    assert starts == [5, 10, 13, 15]
    begin = objectives.sentence_starts

    @quick
    def pair(text, other):
        pairs = objectives.pair(keys(0, 64), begin(text), begin(other))
        return pairs.of(text, other), pairs.split_B, pairs.is_other_B

    paired, split, swapped = pair(text, other)
    assert (np.asarray(split) == 15).all() and 16 < int(swapped.sum()) < 48  # nearest to 17, the middle
    for row in range(64):
        first = 4 if row % 2 == 0 else 15  # the last sentence that leaves enough, or the same place
        second = others[row % 2][first : first + 19] if swapped[row] else own[15:]
        assert bytes(np.asarray(paired[row], np.uint8)) == own[:15] + second
    whole = pair(other[1:2].repeat(64, 0), text)[1]
    assert (np.asarray(whole) == 17).all()


def test_words_and_sentences_of_a_tokenizer_are_those_of_its_pieces():
    """One text by tokenizers that write spaces, bytes as letters, and what continues a word."""
    spaced = [
        "The",
        "\u2581un",
        "seen",
        "\u2581wor\u010d",
        ".",
        "\u2581Next",
        "!",
        "?",
        "<0x0A>",
        "def",
        "_x",
        "(",
        "1",
    ]
    letters = {0x2581: "\u0120", 0x010D: "\u00c3\u00b6"}
    by_byte = [piece.replace("<0x0A>", "\u010a").translate(letters) for piece in spaced]
    joined = ["the", "un", "##seen", "word", ".", "next", "!"]
    ended = ["the</w>", "un", "seen</w>", "word</w>", ".</w>", "next</w>", "!</w>", "1", ".", "5</w>"]
    maltese = ["\u2581a", "\u2014", "b", "\u0120", "\u2581c"]  # a letter of it is the space of bytes; a dash is none
    words = [0, 1, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert marks(["the", "un", "seen", "word", "."]) is None  # neither spaces nor what continues or ends a word
    for pieces, continuing, ending, expected in (
        (spaced, "", "", (words, [5, 9])),
        ([*by_byte, "\u0120"], "", "", ([*words, 13], [5, 9])),
        (joined, "##", "", ([0, 1, 3, 4, 5, 6], [5])),
        (ended, "", "</w>", ([0, 1, 3, 4, 5, 6, 7, 8, 9], [5, 7])),
        (maltese, "", "", ([0, 1, 2, 4], [])),
    ):
        told = marks(pieces, continuing, ending)
        assert told is not None
        found = objectives.marked_starts(jnp.asarray(told)[None])
        assert tuple(np.flatnonzero(each[0]).tolist() for each in found) == expected


@pytest.mark.system
def test_a_tokenizer_of_any_size_hides_whole_words_and_cuts_between_sentences():
    config = families.configure(bert, 0, vocab=1000, context=16, nsp=True, unit="word", rate=0.4)
    assert bert.batch_spec(config)["marks"] == 1000 and bert.partners(config) == ("tokens", "marks")
    told = np.zeros((4, 17), np.uint8)
    told[:, 1:] = CONTINUES | WITHIN
    told[:, 1::3] = WITHIN  # words of three, the first of which begins with the text
    told[:, 9], told[:, 10] = STOP, SPACE | WITHIN
    batch = {"tokens": before(TOKENS + 900), "other_tokens": before(TOKENS), "marks": told, "other_marks": told}
    seen = quick(lambda: bert.hide(batch, jnp.ones(TOKENS.shape, bool), jax.random.key(1), config))()
    assert (np.asarray(seen.split_B) == 9).all()
    for row in np.asarray(seen.hidden_BT):
        assert row.sum() <= round(0.4 * 16) and row.sum() >= 4
        for word in ([0, 1, 2], [3, 4, 5], [6, 7], [12, 13, 14]):
            assert len(set(row[word])) == 1


@pytest.mark.system
def test_pairs_have_a_class_token_and_separators_and_no_token_is_lost():
    config = families.configure(bert, 0, vocab=32, context=16, nsp=True)
    text = TOKENS.at[:, 6].set(10)  # a line ends
    batch = {"tokens": before(text), "other_tokens": before(TOKENS[::-1])}
    seen = bert.hide(batch, jnp.ones(text.shape, bool), jax.random.key(1), config)
    assert seen.inputs_BS.shape == (4, 19) and seen.split_B is not None
    for row, split in enumerate(np.asarray(seen.split_B)):
        inputs = np.asarray(seen.inputs_BS[row])
        assert inputs[0] == 33 and inputs[split + 1] == inputs[18] == 34 and (inputs == 34).sum() == 2
        kept = np.delete(inputs, [0, split + 1, 18])
        still = ~np.asarray(seen.hidden_BT[row])
        np.testing.assert_array_equal(kept[still], np.asarray(seen.targets_BT[row])[still])
    # Every prediction is of its own token: what stands in its place moves it most where nothing else mixes.
    parameters = noisy(bert, config)
    moved = seen.inputs_BS.at[:, 3].set((seen.inputs_BS[:, 3] + 1) % 32)
    still = jax.tree.map(jnp.zeros_like, parameters["stack"])
    alone = {**parameters, "stack": still}
    plain, after = (bert_logits(alone, inputs, config, seen.split_B) for inputs in (seen.inputs_BS, moved))
    found = differs(plain, after)
    for row, split in enumerate(np.asarray(seen.split_B)):
        assert np.flatnonzero(found[row]).tolist() == ([] if split == 2 else [2 if split > 2 else 1])


def test_every_picture_is_turned_all_four_ways():
    image = jax.random.randint(jax.random.key(0), (8, 4, 4, 3), 0, 256).astype(jnp.uint8)
    turned, quarters = objectives.turns(image)
    assert turned.shape == (32, 4, 4, 3) and quarters.tolist() == [0, 1, 2, 3] * 8
    for row in range(32):
        np.testing.assert_array_equal(turned[row], np.rot90(np.asarray(image[row // 4]), row % 4))
    patches = vit.patchify(image, 2)
    np.testing.assert_allclose(patches[0, 1].reshape(2, 2, 3), np.asarray(image[0, :2, 2:]) / 127.5 - 1, atol=1e-6)


def mixed_by_hand(h: np.ndarray, w: dict, shape: experts.Experts, capacity: float, together: int):
    """A mixture token by token: output, and by example the balance and the share of choices that found no place."""
    size, time, _ = h.shape
    logits = h @ w["router"]
    probability = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    y, balance, dropped = np.zeros_like(h), np.zeros(size), np.zeros(size)
    for first in range(0, size, together):
        group = range(first, min(first + together, size))
        slots = len(group) * min(time, math.ceil(capacity * shape.top * time / shape.count))
        taken, chosen, lost = np.zeros(shape.count, int), np.zeros(shape.count), 0
        for example, place in itertools.product(group, range(time)):
            best = np.argsort(-probability[example, place], kind="stable")[: shape.top]
            gates = probability[example, place, best]
            for expert, gate in zip(best, gates / gates.sum() if shape.top > 1 else gates):
                chosen[expert] += 1
                if taken[expert] == slots:
                    lost += 1
                    continue
                taken[expert] += 1
                hidden = np.maximum(h[example, place] @ w["expert_up"][expert], 0)
                y[example, place] += gate * (hidden @ w["expert_down"][expert])
        rows = slice(first, first + len(group))
        share = chosen / chosen.sum()
        balance[rows] = shape.count * (share * probability[rows].mean(axis=(0, 1))).sum()
        dropped[rows] = lost / chosen.sum()
    return y, balance, dropped


@pytest.mark.parametrize(("top", "together"), mostly_system([(1, 1), (2, 2), (1, 8)]))
def test_a_mixture_is_the_sum_of_its_chosen_experts_over_groups_of_the_batch(top: int, together: int):
    """Five examples, so that the last group may be a smaller one; the capacity of evaluation; and none at all."""
    shape = experts.Experts(3, top, 4, capacity=0.6, evaluation_capacity=1.2, together=together)
    drawn = {name: size[1:] for name, size in experts.shapes(shape, 1, 6).items()}
    rng = np.random.default_rng(together)
    w, h = {name: rng.normal(size=size) for name, size in drawn.items()}, rng.normal(size=(5, 7, 6))
    given = jax.tree.map(lambda array: jnp.asarray(array, jnp.float32), (h, w))
    lost = []
    for how, evaluating, capacity in ((shape, False, 0.6), (shape, True, 1.2), (None, True, 99.0)):
        how = how or dataclasses.replace(shape, dropless=True)
        with execution.using(execution.Execution(), evaluating=evaluating):
            found, load = quick(functools.partial(experts.mixture, experts=how, activation=jax.nn.relu))(*given)
        y, balance, dropped = mixed_by_hand(h, w, shape, capacity, together)
        np.testing.assert_allclose(found, y, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(load.balance, balance, rtol=1e-5)
        lost.append((dropped, load))
    assert lost[0][0].max() > lost[1][0].max() and not lost[2][0].any()
    for _, load in lost:  # whatever the capacity in force
        np.testing.assert_allclose(load.dropped, lost[0][0], atol=1e-6)
        np.testing.assert_allclose(load.dropped_evaluation, lost[1][0], atol=1e-6)


def test_a_full_expert_takes_the_first_and_no_more():
    shape = experts.Experts(2, 1, 4, capacity=0.5, together=2)
    assert shape.slots(4, 0.5) == 1 and shape.slots(4, 2.0) == 4 == shape.slots(4, 9.0)
    scores = jnp.asarray([[[3.0, 0.0]] * 5 + [[0.0, 3.0]] * 3])
    chosen, slot, gate = experts.route(scores, shape)
    assert chosen[0, :, 0].tolist() == [0] * 5 + [1] * 3 and slot[0, :, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    weights = {
        "router": jnp.asarray([[3.0, 0.0], [0.0, 3.0]]),
        "expert_up": jnp.ones((2, 2, 4)),
        "expert_down": jnp.ones((2, 4, 2)),
    }
    h = jnp.asarray([[[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 3]).reshape(2, 4, 2)  # two places each: the first of the group
    found, load = quick(lambda h: experts.mixture(h, weights, shape, jax.nn.relu))(h)
    assert (np.asarray(found)[:, :, 0] > 0).tolist() == [[True, True, False, False], [False, True, True, False]]
    np.testing.assert_allclose(found[0, 0], 4 * gate[0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(load.dropped, 0.5)


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
