"""What tacotron promises: its attention and its LSTMs held against loops, what sees what, the masks of its prenet, and
a world whose text determines the spectrogram."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, initial, quick, small

from scaling import count, data, families, inputs, objectives
from scaling.blocks import recurrent
from scaling.data.tones import Tones
from scaling.errors import Code
from scaling.families import tacotron

KEY = jax.random.key(0)
DETERMINED = {"noise": 0.0, "hiss": 0.0, "variety": 0.0}
SMALL = {"rate": 4000, "window": 128, "hop": 64, "mel": 8, "tones": 4, "notes": 3, "slot": 4, "languages": 3}


def tones(**fields) -> Tones:
    source = data.load({"source": "tones", **SMALL, **DETERMINED, **fields})
    assert isinstance(source, Tones)
    return source


@functools.cache
def made():
    """A configuration of 8 bands, 12 frames and 17 positions of text, and parameters of which none is zero."""
    module, config = small("tacotron")
    return config, initial(module, config, 0.3)


@functools.cache
def compiled():
    config, parameters = made()
    found = quick(lambda batch, key: tacotron.outputs(parameters, batch, key, config))
    return lambda batch, key=KEY: jax.tree.map(np.asarray, found(batch, key))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_weights(weights, query, memory, seen, keep):
    """Location-sensitive attention of one example, number by number."""
    question, filters, location, energy = weights
    reach, places = len(filters) // 2, len(memory)
    energies = []
    for place in range(places):
        heard = np.zeros(filters.shape[1])
        for tap in range(reach):
            other = place + tap - reach // 2
            for channel in range(2):
                if 0 <= other < places:
                    heard += seen[other, channel] * filters[2 * tap + channel]
        energies.append(float(np.tanh(query @ question + heard @ location + memory[place]) @ energy))
    shares = np.array([math.exp(each) if kept else 0.0 for each, kept in zip(energies, keep)])
    return shares / shares.sum()


def slow_lstm(given, own, hidden, cell):
    """A step of an LSTM of one example, from what its inputs add to the gates."""
    forget, enter, leave, update = given + np.einsum("d,dge->ge", hidden, own)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    cell = sigmoid(forget + 1) * cell + sigmoid(enter) * np.tanh(update)
    return sigmoid(leave) * np.tanh(cell), cell


def test_attention_knows_what_it_asks_for_and_where_it_has_been():
    """An LSTM with its attention, eight frames over five places, against loops: question, text and location."""
    batch, frames, places, cells, scores, filters, taps, width = 2, 8, 5, 6, 4, 3, 3, 3
    shapes = (cells, scores), (width, scores), (2 * taps, filters), (filters, scores), (scores,)
    simple = [2 * normal(seed, *shape) for seed, shape in enumerate(shapes)]
    drawn = recurrent.Attention(*map(jnp.asarray, simple))
    x, states = normal(10, batch, frames, width), normal(11, batch, places, width)
    sizes = {"input": width, "read": width, "recurrent": cells}
    gates = {name: normal(20 + number, size, 4, cells) for number, (name, size) in enumerate(sizes.items())}
    keep = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)
    attending = quick(recurrent.attending_lstm)
    found = attending(x, gates, drawn, states, keep)
    for row in range(batch):
        hidden, cell, read = np.zeros(cells), np.zeros(cells), np.zeros(width)
        seen = np.zeros((places, 2))
        for frame in range(frames):
            given = np.einsum("d,dge->ge", x[row, frame], gates["input"]) + np.einsum("d,dge->ge", read, gates["read"])
            hidden, cell = slow_lstm(given, gates["recurrent"], hidden, cell)
            share = slow_weights([simple[0], *simple[2:]], hidden, states[row] @ simple[1], seen, keep[row])
            read = share @ states[row]
            seen = np.stack([share, seen[:, 1] + share], axis=1)
            for value, other in zip(found, (hidden, read, share)):
                np.testing.assert_allclose(value[row, frame], other, atol=2e-5)
        np.testing.assert_allclose(seen[:, 1].sum(), frames, rtol=1e-6)  # the location is no bystander:
    still = recurrent.Attention(*drawn[:2], 0 * drawn.filter_XF, *drawn[3:])
    assert np.abs(attending(x, gates, still, states, keep)[2] - found[2]).max() > 0.1


@pytest.mark.parametrize("back", [False, True])
def test_an_lstm_runs_over_what_is_kept_as_if_nothing_else_were_there(back: bool):
    x, own, given = normal(0, 2, 7, 3), normal(1, 5, 4, 5), normal(2, 3, 4, 5)
    keep = np.arange(7) < np.array([[7], [4]])
    found = quick(recurrent.lstm, static_argnames="back")(x, given, own, keep, back=back)
    for row, length in enumerate((7, 4)):
        hidden, cell = np.zeros(5), np.zeros(5)
        for time in range(length)[:: -1 if back else 1]:
            hidden, cell = slow_lstm(np.einsum("d,dge->ge", x[row, time], given), own, hidden, cell)
            np.testing.assert_allclose(found[row, time], hidden, atol=1e-5)
        assert not np.asarray(found[row, length:]).any()


@pytest.mark.system
def test_attention_is_shared_out_over_the_text_and_none_of_it_beyond_the_end():
    config, _ = made()
    batch = batch_of(tacotron, config, 3)
    batch["tokens"][0, 5] = batch["tokens"][1, 9] = config.vocab - 1  # the end, before the last place
    found = compiled()(batch)
    np.testing.assert_allclose(found.weight_BTS.sum(axis=2), 1, rtol=1e-5)
    assert not found.weight_BTS[0, :, 6:].any() and not found.weight_BTS[1, :, 10:].any()
    assert (found.weight_BTS[0, :, :6] > 0).all() and (found.weight_BTS[2] > 0).all()
    other = {**batch, "tokens": batch["tokens"].copy()}
    other["tokens"][0, 6:] = 3  # nothing is read there, by no convolution and no LSTM
    for one, two in zip(found, compiled()(other)):
        np.testing.assert_array_equal(one, two)
    other["tokens"][0, 2] = (batch["tokens"][0, 2] + 1) % (config.vocab - 1)
    changed = np.abs(compiled()(other).before_BTM - found.before_BTM).max(axis=2)
    assert (changed[0] > 1e-6).all() and not changed[1:].any()


@pytest.mark.system
def test_a_frame_is_told_from_those_before_it_and_the_post_net_sees_ten_around():
    config, _ = made()
    batch, steps = batch_of(tacotron, config, 2), np.arange(config.frames)[:, None]
    assert tacotron.REACH == 10 and config.frames == 12
    found = compiled()(batch)
    for at in (10, 11):  # the last frame is its own input least of all
        again = compiled()({**batch, "mel": batch["mel"] + (steps == at) * np.array([1, 0], np.float32)[:, None, None]})
        for name, first in (("before_BTM", at + 1), ("stop_BT", at + 1), ("weight_BTS", at + 1), ("after_BTM", at - 9)):
            change = np.abs(getattr(again, name) - getattr(found, name)).reshape(2, config.frames, -1).max(axis=2)
            seen = first if at == 10 else config.frames
            assert not change[0, :seen].any() and (change[0, seen:] > 0).all() and not change[1].any(), name


def test_the_prenet_drops_half_by_example_in_evaluation_too():
    _, config = small("tacotron")
    keys = objectives.keys(KEY, {"example": jnp.arange(64)})
    whole = np.asarray(tacotron.kept(keys, config))
    assert whole.shape == (2, 64, config.frames, config.half)
    assert abs(whole.mean() - 0.5) < 4 * 0.5 / math.sqrt(whole.size)
    np.testing.assert_array_equal(whole[:, 40:43], tacotron.kept(keys[40:43], config))
    assert (
        (whole[0] != whole[1]).any() and (whole[:, :, 0] != whole[:, :, 1]).any() and (whole[:, 0] != whole[:, 1]).any()
    )


@pytest.mark.system
def test_an_example_has_its_masks_in_any_batch():
    config, _ = made()
    batch = batch_of(tacotron, config, 3)
    numbered = {**batch, "example": np.array([4, 2, 9], np.uint32)}
    found, swapped = compiled()(numbered), np.array([1, 2, 0])
    again = compiled()({name: value[swapped] for name, value in numbered.items()})
    np.testing.assert_allclose(again.before_BTM, found.before_BTM[swapped], atol=1e-5)
    assert np.abs(compiled()(numbered, jax.random.key(1)).before_BTM - found.before_BTM).max() > 0.01


@pytest.mark.system
def test_both_errors_start_at_the_mean_square_of_the_frames():
    """Which the source decides and no Config knows: two samples of it agree within 4 standard errors."""
    module, config = small("tacotron")
    source = tones()
    inputs.require_supply(tacotron, tacotron.batch_spec(config), source.supplies, "tones", "tacotron")
    many = [source.batch(np.arange(200), seed=seed, context=config.text)["mel"] for seed in (0, 1)]
    (one, two), of = [np.square(each).mean(axis=(1, 2)) for each in many], families.terms(module, config)
    assert abs(one.mean() - two.mean()) < 4 * math.sqrt((one.var() + two.var()) / 200)
    batch = {name: jnp.asarray(each) for name, each in source.batch(np.arange(8), seed=0, context=config.text).items()}
    found = quick(lambda p: tacotron.loss(p, batch, KEY, config))(initial(module, config))
    square = float(np.square(batch["mel"]).mean())
    for name, start in (("before", square), ("after", square), ("stop", math.log(2))):
        total, counted = (np.asarray(each) for each in found[name])
        assert (counted == config.frames).all() and total.sum() / counted.sum() == pytest.approx(start, rel=1e-5)
        assert of[name].start == (math.log(2) if name == "stop" else None)
    assert len({term.unit for term in of.values()}) == 3


def test_the_cost_is_that_of_cells_by_frame_and_of_the_text_by_frame():
    """By the formulas of the layers, one by one, at the reference's shape: 148 symbols, 80 bands, 512 wide."""
    config = tacotron.Config(width=512, vocab=148, mel=80, frames=100, text=19)
    found = count.parameters(tacotron.components(config))
    lstm = lambda inputs, cells: 4 * cells * (inputs + cells)  # noqa: E731
    recurrent = 2 * lstm(512, 256) + lstm(256 + 512, 1024) + lstm(1024 + 512, 1024) + 1024 * 128
    groups = {"embedding": 148 * 512, "recurrent": recurrent, "prenet": 80 * 256 + 256 * 256}
    groups |= {"convolution": 3 * 5 * 512**2 + 5 * 80 * 512 + 3 * 5 * 512**2, "norm": 7 * 512}
    groups |= {"attention": 512 * 128 + 31 * 2 * 32 + 32 * 128 + 128, "head": 1536 * 81 + 5 * 512 * 80}
    assert found["groups"] == groups
    # The reference has biases besides: of convolutions and norms, two in each LSTM, of the outputs; and one more norm.
    biases = 2 * 3 * 512 + 2 * 4 * (2 * 256 + 2 * 1024) + 81 + 2 * (4 * 512 + 80)
    assert found["total"] + biases + 80 == 28_193_153
    flops = count.forward_flops(tacotron.components(config))
    assert flops["decoder_location"] == 2 * 100 * 20 * (31 * 2 * 32 + 32 * 128 + 128)
    assert flops["decoder_attention"] - 2 * 100 * (lstm(768, 1024) + 1024 * 128) == 2 * 100 * 20 * 512


def test_the_text_determines_the_spectrogram_bit_by_bit_unless_the_tones_vary():
    source = tones(skew=0.0)
    batch = source.batch(np.arange(600), seed=0, context=6)
    words = (batch["tokens"][:, 3:6] % 4).tolist()  # whatever the language
    first: dict[tuple[int, ...], int] = {}
    for row, word in enumerate(map(tuple, words)):
        np.testing.assert_array_equal(batch["mel"][row], batch["mel"][first.setdefault(word, row)])
    assert len(first) == 4**3 and len({batch["mel"][row].tobytes() for row in first.values()}) == 4**3
    for field, value in (("hiss", 0.002), ("variety", 0.1)):
        other = tones(skew=0.0, **{field: value}).batch(np.arange(600), seed=0, context=6)
        assert len({each.tobytes() for each in other["mel"]}) == 600
    wrong = tones(skew=0.0, noise=0.5).batch(np.arange(600), seed=0, context=6)
    np.testing.assert_array_equal(wrong["mel"], batch["mel"])
    assert (wrong["tokens"] != batch["tokens"]).any()
    with refuses(Code.INVALID, "data.variety", 1.5):
        tones(variety=1.5)
