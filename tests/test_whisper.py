"""What whisper promises: its features held against other formulas, its stem against a convolution, what sees what, and
the world of tones, whose clips determine their captions."""

import functools
import math
from pathlib import Path

import handmade
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.signal
from refusals import refuses
from test_families import batch_of, initial, quick, small

from analysis.decide.entropy import check_entropy
from analysis.table.runs import entropy
from scaling import count, data, families, inputs
from scaling.blocks import convolution
from scaling.data import _mel
from scaling.data.tones import PROMPT, Tones
from scaling.errors import Code
from scaling.families import gpt, whisper
from scaling.records import write_json
from scaling.records.types import DataDescription, Evaluation

# A clip of the small world has 3 x 4 frames of 64 samples.
SMALL = {"rate": 4000, "window": 128, "hop": 64, "mel": 12, "tones": 8, "notes": 3, "slot": 4, "languages": 3}


def tones(**fields) -> Tones:
    source = data.load({"source": "tones", **SMALL, **fields})
    assert isinstance(source, Tones)
    return source


@functools.cache
def made():
    """A configuration of 8 bands, 12 frames and 16 positions of text, and parameters of which none is zero."""
    module, config = small("whisper", layers=1)
    return config, initial(module, config, 0.3)


def slow_filter(frequency: float, band: int, bands: int, rate: int) -> float:
    """One weight of the filterbank: mel inverted by a search, the triangle by interpolation, its area by its sides."""

    def mel(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    top = mel(rate / 2)
    places = [(band + step) * top / (bands + 1) for step in range(3)]
    low, centre, high = (
        scipy.optimize.root_scalar(lambda f, at=at: mel(f) - at, bracket=(-1, rate)).root for at in places
    )
    return float(np.interp(frequency, [low, centre, high], [0, 2 / (high - low), 0], left=0, right=0))


@pytest.mark.parametrize(("rate", "window", "bands"), [(16000, 400, 80), (4000, 128, 12)])
def test_the_filterbank_is_slaneys(rate: int, window: int, bands: int):
    filters = _mel.filters(rate, window, bands)
    assert filters.shape == (window // 2 + 1, bands) and filters.dtype == np.float32
    for band in (0, 1, bands // 2, bands - 1):
        slow = [slow_filter(number * rate / window, band, bands, rate) for number in range(window // 2 + 1)]
        np.testing.assert_allclose(filters[:, band], slow, rtol=1e-4, atol=1e-8)


def test_the_filterbank_is_the_published_one():
    """Numbers that mel_filter (docs.rs/mel_filter, a port of librosa.filters.mel) prints in its documentation."""
    first = [0, 0.016182853208219942, 0.032365706416439884, 0.028990088037379964, 0.012807234829160026, 0]
    second = [0, 0, 0, 0.009779235793639925, 0.025962089001859864, 0.035393705451959974, 0.01921085224374004]
    filters = _mel.filters(22050, 2048, 128)
    np.testing.assert_allclose(filters[:6, 0], first, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(filters[:7, 1], second, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(_mel.to_mel(np.array([60.0, 440.0, 11025.0])), [0.9, 6.6, 49.91059448015905], rtol=1e-9)
    np.testing.assert_allclose(_mel.to_hertz(_mel.to_mel(np.array([0.0, 999.0, 1001.0, 8000.0]))), [0, 999, 1001, 8000])


def test_a_spectrogram_is_what_scipy_and_the_formula_make_of_the_sound():
    """With Whisper's own numbers: 16 kHz, windows of 400 samples 160 apart, 80 bands."""
    rng, form = np.random.default_rng(0), _mel.Spectrogram()
    sound = rng.normal(0, 0.1, (2, 3200)) * np.geomspace(1e-6, 1, 3200)
    found = _mel.log_mel(sound, form)
    assert found.shape == (2, 20, 80) and found.dtype == np.float32
    _, _, coefficients = scipy.signal.stft(
        sound, nperseg=400, noverlap=240, window="hann", boundary="even", padded=False, scaling="spectrum"
    )
    power = np.abs(coefficients[..., :-1] * 200) ** 2  # 200 is the window's sum, over which scipy divides
    table = [[slow_filter(40.0 * number, band, 80, 16000) for number in range(201)] for band in range(80)]
    bands = np.log10(np.maximum(np.einsum("mf,nft->ntm", np.array(table), power), 1e-10))
    assert (bands.max(axis=(1, 2)) - bands.min(axis=(1, 2)) > 8).all()  # so that the range is cut
    expected = (np.maximum(bands, bands.max(axis=(1, 2), keepdims=True) - 8) + 4) / 4
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(np.ptp(found, axis=(1, 2)), 2, atol=1e-6)


def test_a_clip_is_normalised_by_itself():
    """Not by its batch; ten times the amplitude is two decades of power, 2 / 4 more, but for silence."""
    rng, form = np.random.default_rng(0), _mel.Spectrogram()
    sound = rng.normal(0, 0.05, (3, 1600)) * np.array([[1.0], [10.0], [1e-9]])
    together = _mel.log_mel(sound, form)
    np.testing.assert_array_equal(together, np.concatenate([_mel.log_mel(each[None], form) for each in sound]))
    louder = _mel.log_mel(10 * sound[:1], form)
    np.testing.assert_allclose(louder - together[:1], 0.5, atol=1e-4)
    np.testing.assert_allclose(_mel.log_mel(np.zeros((1, 1600)), form), -1.5, atol=1e-6)
    with refuses(Code.CONFLICT, "data.window", 400):
        _mel.log_mel(sound[:, :200], form)
    with refuses(Code.CONFLICT, "data.mel", 400):
        data.load({"source": "tones", "mel": 400})


@pytest.mark.parametrize("stride", [1, 2])
def test_the_stem_is_a_convolution_and_costs_as_much(stride: int):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 12, 5)).astype(np.float32), rng.normal(size=(3, 5, 7)).astype(np.float32)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (stride,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC"))

    found = convolution.convolve(jnp.asarray(x), jnp.asarray(kernel.reshape(15, 7)), stride)
    np.testing.assert_allclose(found, reference(x, kernel), rtol=1e-4, atol=1e-5)
    cost = count.jaxpr_flops(reference, x, kernel)
    assert cost == 2 * 2 * (12 // stride) * kernel.size
    assert cost == count.jaxpr_flops(lambda x, w: convolution.convolve(x, w, stride), x, kernel.reshape(15, 7))
    parts = {part.name: part for part in whisper.components(whisper.Config(width=64, mel=80, frames=100))}
    stem = sum(part.matmul * part.tokens for name, part in parts.items() if name.startswith("stem_"))
    assert stem == 100 * (3 * 80 * 64 + 3 * 64**2 // 2)
    found = count.parameters(parts.values())
    assert found["groups"]["convolution"] == 3 * 80 * 64 + 3 * 64**2  # which N counts, but not tables and positions
    assert found["total"] - found["nonembedding"] == (256 + 16) * 64


def test_positions_of_the_encoder_are_sinusoids():
    found = np.asarray(whisper.sinusoids(5, 8))
    for place in range(5):
        for number in range(4):
            angle, both = place * 10000 ** (-number / 3), [number, number + 4]
            np.testing.assert_allclose(found[place, both], [math.sin(angle), math.cos(angle)], atol=1e-6)


@pytest.mark.system
def test_the_text_sees_all_of_the_sound_and_nothing_of_its_future():
    config, parameters = made()
    batch = batch_of(whisper, config, 2)
    mel, given = jnp.asarray(batch["mel"]), jnp.asarray(batch["tokens"][:, :-1])
    logits = quick(lambda mel, given: whisper.logits(parameters, mel, given, config))
    before = logits(mel, given)

    def moved(after):
        return np.abs(np.asarray(after - before)).max(axis=2) > 1e-6

    later = moved(logits(mel, given.at[0, 5].set((given[0, 5] + 1) % 32)))
    assert not later[0, :5].any() and later[0, 5:].all() and not later[1].any()
    for frame in (0, config.frames - 1):
        heard = moved(logits(mel.at[0, frame].add(1.0), given))
        assert heard[0].all() and not heard[1].any()


def test_the_prompt_is_given_and_not_predicted():
    """Its targets have no loss and no gradient, and what is asked for changes the loss of the text."""
    source, (config, parameters) = tones(mel=8), made()
    batch = source.batch(np.arange(4), seed=0, context=config.text)
    inputs.require_supply(whisper, whisper.batch_spec(config), source.supplies, "tones", "whisper")
    terms = quick(lambda batch: whisper.loss(parameters, batch, jax.random.key(0), config)["text"])
    nats, counted = terms(batch)
    nats, text = np.asarray(nats), slice(PROMPT - 1, PROMPT + 3)  # of the targets: three words and their end
    assert (np.asarray(counted)[:, text] == 1).all() and np.asarray(counted).sum() == 4 * 4
    assert (nats[:, text] > 0).all() and np.count_nonzero(nats) == 4 * 4
    other = batch["tokens"].copy()
    other[:, 2] = 2 * (8 * 3 + 3) + 1 - other[:, 2]  # the other task, after 3 languages of 8 words
    assert (np.abs(np.asarray(terms({**batch, "tokens": other})[0] - nats)[:, text]) > 1e-6).any(axis=1).all()
    for field, value in (("mel", 16), ("frames", 16)):
        spec = {**whisper.batch_spec(config), field: value}
        with refuses(Code.CONFLICT, f"model.{field}", value):
            inputs.require_supply(whisper, spec, source.supplies, "tones", "whisper")


@pytest.mark.system
def test_the_loss_of_a_tied_head_starts_where_the_docstring_says():
    config = whisper.Config(width=256, layers=1, heads=4, vocab=64, mel=8, frames=4, text=32)
    parameters, rng = initial(whisper, config), np.random.default_rng(0)
    given = jnp.asarray([rng.permutation(64)[:32] for _ in range(8)])
    found = quick(lambda: whisper.logits(parameters, jnp.zeros((8, 4, 8)), given, config))()
    own = np.take_along_axis(np.asarray(found), np.asarray(given)[..., None], axis=2)[..., 0]
    table = np.asarray(parameters["embedding"])
    states = table[np.asarray(given)]
    states = states / np.sqrt(np.square(states).mean(axis=-1, keepdims=True)) + np.asarray(parameters["position"])
    rows = table[np.asarray(given)]
    share = (states * rows).sum(axis=-1) / np.linalg.norm(states, axis=-1) / np.linalg.norm(rows, axis=-1)
    assert own.mean() == pytest.approx(share.mean() * math.sqrt(256) / 16, rel=0.02)
    start = math.log(63 * math.exp(1 / 512) + math.exp(own.mean()))
    others = jax.nn.logsumexp(found, axis=-1).mean()  # less the logit of another token, which is 0 on the mean
    assert float(others) == pytest.approx(start, abs=0.01)


def test_a_clip_determines_its_caption():
    """The strongest pitch of each slot, heard in the sound, is the tone; its word is that of the language asked for."""
    source = tones(noise=0.0, languages=5, translate=0.5, skew=0.0)
    config, heard = source.config, []
    sound, real = [], source.sound

    def recorded(tone, draws, start):
        heard.append(tone)
        sound.append(real(tone, draws, start))
        return sound[-1]

    object.__setattr__(source, "sound", recorded)
    batch = source.batch(np.arange(400), seed=0, context=6)
    np.testing.assert_array_equal(source.batch(np.array([7]), seed=0, context=6)["mel"][0], batch["mel"][7])
    slots = sound[0].reshape(400, config.notes, -1).astype(np.float64)
    assert np.abs(sound[0]).max() <= 1
    time = np.arange(slots.shape[2])
    waves = np.exp(-2j * np.pi * config.pitches[:, None] * time / config.rate)
    tone = np.abs(slots @ waves.T).argmax(axis=2)
    np.testing.assert_array_equal(tone, heard[0])
    language, task = batch["tokens"][:, 1] - 5 * config.tones, batch["tokens"][:, 2] - 5 * config.tones - 5
    assert set(task) == {0, 1} and set(language) == set(range(5))
    words = np.where(task == 1, 0, language)[:, None] * config.tones + tone
    np.testing.assert_array_equal(batch["tokens"][:, PROMPT : PROMPT + config.notes], words)
    assert (batch["tokens"][:, -1] == source.vocab - 1).all()


def test_the_floor_of_the_captions_is_known():
    source = tones(noise=0.2)
    found = source.evaluation(8, 4 * 4000)
    tokens, mask, reference = (np.asarray(found[name]) for name in ("tokens", "mask", "reference"))
    assert len(tokens) == 4000 and (mask == [0, 0, 1, 1, 1, 1, 0, 0]).all()
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2 / 7)
    assert source.describe()["entropy"] == pytest.approx(3 * entropy / 4)
    nats = reference.sum(axis=1) / mask.sum(axis=1)
    assert abs(nats.mean() - 3 * entropy / 4) < 4 * nats.std() / math.sqrt(4000)
    assert tones(noise=0.0).describe()["entropy"] == 0
    assert not np.asarray(tones(noise=0.0).evaluation(8, 400)["reference"]).any()
    shares = np.bincount(tokens[:, 1] - 8 * 3, minlength=3) / 4000
    np.testing.assert_allclose(shares, np.array([6, 3, 2]) / 11, atol=0.03)  # 1, 1/2, 1/3
    wrong = tones(noise=0.2, tones=8).batch(np.arange(2000), seed=0, context=6)["tokens"][:, 3:6]
    right = tones(noise=0.0, tones=8).batch(np.arange(2000), seed=0, context=6)["tokens"][:, 3:6]
    assert (wrong != right).mean() == pytest.approx(0.2, abs=0.02)
    assert np.bincount(((wrong - right) % 8)[wrong != right], minlength=8)[1:].min() > 100


def test_the_floor_is_that_of_models_which_hear(tmp_path: Path):
    """0.4767 bounds the loss given the sound; a gpt of the captions alone cannot be below ln 16 a word, and is held to
    nothing: at its best of 2.2181 it is not above a floor."""
    world = {"rate": 8000, "window": 256, "hop": 128, "mel": 40, "tones": 16, "notes": 4, "languages": 16}
    described = DataDescription.of(data.load({"source": "tones", **world}).describe())
    assert described.entropy == pytest.approx(0.4767, abs=5e-5) and described.entropy_given == "the sound"
    for family, config in ((whisper, whisper.Config()), (gpt, gpt.Config())):
        units = {name: term.unit for name, term in families.terms(family, config).items()}
        name, headline = family.__name__.rpartition(".")[2], next(iter(units))
        about = handmade.manifest(name, family=name, dataset=name, data=described, terms=units, headline=headline)
        evaluation = {headline: Evaluation(value=2.2181 if family is gpt else 0.4, se=0.001)}
        handmade.write(tmp_path, about, handmade.result(evaluation=evaluation))
        assert entropy(about) == (None if family is gpt else described.entropy)
        assert entropy(handmade.edited(about, data=handmade.edited(described, about={}))) == (
            described.entropy if family is gpt else None  # a source that says nothing has the entropy of the text alone
        )
    write_json(tmp_path / "study.json", handmade.study(datasets={"whisper": {}, "gpt": {}}))
    checks = check_entropy(tmp_path).datasets
    assert set(checks) == {"whisper"} and checks["whisper"].entropy == described.entropy
    assert checks["whisper"].below == ("whisper",)


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("tones", 200, Code.CONFLICT),
        ("mel", 1, Code.CONFLICT),
        ("mel", 2, Code.CONFLICT),
        ("mel", 7, Code.CONFLICT),
        ("noise", 1.0, Code.INVALID),
        ("hop", 0, Code.INVALID),
        ("hiss", 1.0, Code.INVALID),
    ],
)
def test_a_world_that_cannot_be_is_named(field: str, value: float, code: Code):
    with refuses(code, f"data.{field}", value):
        tones(**{field: value})
    with refuses(Code.CONFLICT, "data.mel", 2):  # pitches above the centres of both bands, of 500 samples a second
        tones(rate=500, window=400, mel=2, tones=2, slot=8)
    with refuses(Code.CONFLICT, "model.text", 5):
        tones().batch(np.arange(2), seed=0, context=5)
