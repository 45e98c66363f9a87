"""What videobert promises beyond the battery: regimes and their shares, what is hidden and from whom, and its codes."""

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refuses
from test_families import batch_of, quick, small

from experiments import videobert as experiment
from scaling import count, families, parts, plan, study
from scaling.errors import Code
from scaling.families import dalle, videobert
from scaling.families.videobert import Seen
from scaling.records.types import Manifest
from scaling.records.unit import Unit

FIELDS: dict[str, Any] = {"layers": 1, "patch": 4, "text": 6, "vocab": 11, "codes": 13, "video": 3, "vq_layers": 1}
V, K, T, F, P = 11, 13, 6, 3, 4  # words, codes, positions of text, frames, codes of a frame
SIZE = 64
KEY = jax.random.key(3)
MODULE = families.load("videobert")


def made(masks: str = "joint", **fields: Any) -> videobert.Config:
    config = small("videobert", **{**FIELDS, "tied": False, "masks": masks, **fields})[1]
    assert isinstance(config, videobert.Config)
    return config


@functools.cache
def given() -> tuple[Any, dict[str, jax.Array]]:
    """Parameters that are all random, and a batch whose texts end after two to five words; nothing is compiled."""
    rng, config = np.random.default_rng(0), made()
    drawn = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape), parts.shapes(MODULE, config))
    batch = batch_of(MODULE, config, SIZE)
    ends = np.arange(T) >= (2 + np.arange(SIZE) % 4)[:, None]
    batch["tokens"][:, 1:] = np.where(ends, V - 1, batch["tokens"][:, 1:] % (V - 1))
    batch["mask"] = (np.arange(T) <= (2 + np.arange(SIZE) % 4)[:, None]).astype(np.float32)
    batch["other_tokens"] = batch["tokens"][np.arange(SIZE) ^ 1]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), drawn), jax.tree.map(jnp.asarray, batch)


@functools.partial(quick, static_argnums=2)
def read(parameters: Any, batch: dict[str, jax.Array], config: videobert.Config) -> tuple[Any, Seen, jax.Array]:
    codes = videobert.tokenize(parameters, batch["video"], config)
    return videobert.loss(parameters, batch, KEY, config), videobert.prepare(batch, codes, KEY, config), codes


@functools.partial(quick, static_argnums=1)
def hidden(batch: dict[str, jax.Array], config: videobert.Config, codes: jax.Array) -> Seen:
    return videobert.prepare(batch, codes, KEY, config)


outputs = quick(lambda parameters, seen: videobert.outputs(parameters, seen, made()))


def host(seen: Seen) -> Any:
    """The same in numpy."""
    return jax.device_get(seen)


@pytest.mark.parametrize("unit", ["frame", "patch"])
def test_half_have_a_hidden_word_and_a_hidden_frame_and_half_are_whole_pairs(unit: str):
    _, batch = given()
    codes = jnp.asarray(np.random.default_rng(1).integers(0, K, (SIZE, F * P)), jnp.int32)
    seen = host(hidden(batch, made(unit=unit), codes))
    own, other = (np.asarray(batch[name])[:, 1:] for name in ("tokens", "other_tokens"))
    words, places, pairs = seen.words_BT, seen.places_BP, seen.pairs_B
    for four in pairs.reshape(-1, 4):  # stratified
        assert four.sum() == 2
    assert (words.sum(axis=1) == ~pairs).all() and (words.any(axis=1) == places.any(axis=1)).all()
    ended = own.argmax(axis=1)[:, None]
    assert not words[np.arange(T) >= ended].any()  # neither the end nor padding
    frames = places.reshape(SIZE, F, P)[~pairs].sum(axis=2)
    if unit == "frame":
        assert (np.sort(frames, axis=1) == [0, 0, P]).all() and (frames.sum(axis=0) > 3 * P).all()
    else:
        assert (frames.sum(axis=1) == 2).all() and (frames == 1).any()
    blank = V + K
    text = np.where(seen.is_other_B[:, None], other, own)
    np.testing.assert_array_equal(seen.text_BS, np.c_[np.full(SIZE, blank + 1), np.where(words, blank, text)])
    np.testing.assert_array_equal(seen.codes_BP, np.where(places, blank, V + np.asarray(codes)))
    assert not seen.is_other_B[~pairs].any() and 0.25 < seen.is_other_B[pairs].mean() < 0.75
    kept = np.arange(T) <= text.argmax(axis=1)[:, None]  # of the text that is shown
    np.testing.assert_array_equal(seen.keep_BU, np.c_[np.ones(SIZE), kept, np.ones((SIZE, F * P))].astype(bool))


def test_alone_words_have_no_video_codes_no_text_and_pairs_both():
    _, batch = given()
    seen = host(hidden(batch, made("alone"), jnp.zeros((SIZE, F * P), jnp.int32)))
    words, codes, pairs = seen.words_BT.any(axis=1), seen.places_BP.any(axis=1), seen.pairs_B
    assert (words.astype(int) + codes + pairs == 1).all()
    for task, of_four in ((words, 1), (codes, 1), (pairs, 2)):
        assert (task.reshape(-1, 4).sum(axis=1) == of_four).all()
    text, video = seen.keep_BU[:, 1 : 1 + T].any(axis=1), seen.keep_BU[:, 1 + T :].all(axis=1)
    np.testing.assert_array_equal(text, words | pairs)
    np.testing.assert_array_equal(video, codes | pairs)
    assert seen.keep_BU[:, 0].all() and not seen.keep_BU[words, 1 + T :].any()
    terms = families.terms(MODULE, made("alone"))
    assert [term.weight for term in terms.values()] == [0.25, 0.25, 0.5]
    assert terms["text"].unit == Unit(per="hidden token", given="what is seen of the text")
    assert terms["video"].count == P / 4 and terms["text"].share == pytest.approx(0.25 / T)
    few = families.terms(MODULE, replace(made("alone"), alignment=0.9, unit="patch"))["video"].count
    assert few == pytest.approx(0.05 * max(1, round(0.15 * F * P)))


def test_losses_are_cross_entropies_of_what_is_hidden_and_of_the_pair():
    parameters, batch = given()
    found, seen, codes = read(parameters, batch, made())
    words, video, pair = outputs(parameters, seen)
    assert words.shape == (SIZE, T, V) and video.shape == (SIZE, F * P, K) and pair.shape == (SIZE, 2)
    seen = host(seen)

    def nats(logits: jax.Array, targets: jax.Array, asked: np.ndarray) -> np.ndarray:
        full = np.asarray(logits, np.float64)
        chosen = np.take_along_axis(full, np.asarray(targets)[..., None], axis=-1)[..., 0]
        return np.where(asked, np.log(np.exp(full).sum(axis=-1)) - chosen, 0)

    expected = {
        "video": nats(video, codes, seen.places_BP).sum(axis=1),
        "text": nats(words, batch["tokens"][:, 1:], seen.words_BT),
        "alignment": nats(pair, seen.is_other_B.astype(int), seen.pairs_B),
    }
    counts = seen.places_BP.sum(axis=1), seen.words_BT, seen.pairs_B
    for (name, value), asked in zip(expected.items(), counts):
        np.testing.assert_allclose(found[name][0], value, rtol=2e-5, atol=2e-5)
        np.testing.assert_array_equal(found[name][1], asked)


def test_codes_are_those_of_every_frame_by_itself():
    parameters, batch = given()
    codes = np.asarray(read(parameters, batch, made())[2]).reshape(SIZE, F, P)
    alone = quick(lambda picture: dalle.tokenize(parameters, picture, made()))
    for frame in range(F):  # a program of its own may round otherwise
        assert (codes[:, frame] == np.asarray(alone(batch["video"][:, frame]))).mean() > 0.999
    assert len(np.unique(codes)) > 2 and (codes[:, 0] != codes[:, 1]).any()


def test_what_is_hidden_is_given_to_no_one_and_what_is_seen_to_all():
    parameters, batch = given()
    _, seen, codes = read(parameters, batch, made())
    changed = hidden(batch, made(), jnp.where(seen.places_BP, (codes + 1) % K, codes))
    words = jnp.where(seen.words_BT, (batch["tokens"][:, 1:] + 1) % (V - 1), batch["tokens"][:, 1:])
    told = hidden({**batch, "tokens": batch["tokens"].at[:, 1:].set(words)}, made(), codes)
    for other in (changed, told):
        for name in ("text_BS", "codes_BP", "keep_BU"):
            np.testing.assert_array_equal(getattr(other, name), getattr(seen, name))

    def differ(moved: Seen) -> list[np.ndarray]:
        """By example: whether any logit of words, of codes and of the pair differs."""
        pairs = zip(outputs(parameters, seen), outputs(parameters, moved))
        return [np.abs(np.asarray(a - b)).reshape(SIZE, -1).max(axis=1) > 1e-6 for a, b in pairs]

    # A word, and a code of a frame, reach all three; padding, and codes that an example does not have, none.
    for place, moved in ((0, seen.text_BS.at[:, 1].add(1)), (1, seen.codes_BP.at[:, -1].add(-1))):
        fields = {("text_BS", "codes_BP")[place]: moved}
        assert all(each.all() for each in differ(seen._replace(**fields)))
    padding = ~np.asarray(seen.keep_BU)[:, 1 : 1 + T]
    shifted = jnp.where(padding, 0, seen.text_BS[:, 1:])
    after = differ(seen._replace(text_BS=seen.text_BS.at[:, 1:].set(shifted)))
    assert padding.any() and not after[1].any() and not after[2].any()
    absent = seen._replace(keep_BU=seen.keep_BU.at[:, 1 + T :].set(False))
    other = absent._replace(codes_BP=jnp.full_like(seen.codes_BP, V))
    for one, two in zip(outputs(parameters, absent)[::2], outputs(parameters, other)[::2]):
        np.testing.assert_array_equal(one, two)


def test_the_loss_starts_at_its_weights_of_ln_k_ln_v_and_ln_2():
    parameters, batch = given()
    zero = {name: jnp.zeros_like(parameters[name]) for name in ("head", "alignment")}
    terms = families.terms(MODULE, made())
    found = read({**parameters, **zero}, batch, made())[0]
    total = sum(term.weight * float(found[name][0].sum() / found[name][1].sum()) for name, term in terms.items())
    assert total == pytest.approx((math.log(13) + math.log(11) + math.log(2)) / 2, abs=1e-5)
    starts = [term.start for term in terms.values()]
    assert starts == pytest.approx([math.log(13), math.log(11), math.log(2)])


def test_the_tokenizer_reads_every_frame_and_a_class_token_is_counted_beside_d():
    config = made()
    own = {part.name: part for part in videobert.components(config)}
    one = {part.name: part for part in dalle.components(config)}
    training, single = (count.training_flops(each.values()) for each in (own, one))
    encoder = [name for name, part in own.items() if part.group == count.TOKENIZER]
    assert encoder and all(training[name] == F * single[name] for name in encoder)
    width, positions = config.width, 1 + T + F * P
    blocks = 12 * config.layers * width**2
    assert training["attention"] + training["mlp"] == 6 * blocks * positions + 12 * width * positions**2
    assert training["video_head"] == 6 * K * width * F * P and training["alignment"] == 12 * width
    assert videobert.batch_spec(config)["context"] == T + F * P


def test_a_study_reads_videos_by_the_tokenizer_of_their_frames():
    made_: Any = study.base("videos")
    made_.family, made_.recipe.batch, made_.recipe.warmup_steps, made_.chunk = "videobert", 4, 4, 10
    shape = {"patch": 8, "layers": 1, "width": 8, "heads": 1, "codes": 8}
    made_.model = {**shape, "text": 4, "vq_width": 8, "vq_heads": 1, "vq_layers": 1}
    made_.data.videos = made_.data.pictures = {"source": "moving", "frames": 3}
    made_.evaluation = {"tokens": 4 * 64, "batch": 32}
    made_.cells.tokenizer = study.block("grid", "pictures", (1,), tokens=(4 * 40,), family="vq", model=shape)
    start = {part: {"block": "tokenizer", "size": 1} for part in dalle.PARTS}
    made_.cells.grid = study.block("grid", "videos", (0,), tokens=(16 * 40,), init_from=start)
    found = plan.make(study.resolve(made_))
    every: list[Manifest] = [run.manifest for program in found.programs for run in program.runs if run.kind != "stem"]
    tokenizer, videos = sorted(every, key=lambda each: each.dataset)
    assert tokenizer.family == "vq" and tokenizer.config["image"] == 16
    config = videos.config
    assert (config["image"], config["video"], config["words"], config["vocab"]) == (16, 3, 3, 20)
    assert videos.parents[0].run == tokenizer.run and videos.parent_flops == tokenizer.flops.training
    both = "what is seen of the text and of the codes"
    unit = f"code of a hidden frame of {tokenizer.identity[:12]}"
    assert videos.terms["video"] == Unit(per=unit, given=both)


@pytest.mark.parametrize("captions", [1, 2, 192])
def test_the_floor_of_the_alignment_is_the_entropy_of_a_label_given_the_pair(captions: int):
    """By the table of own caption, shown caption and label: the label's entropy given the two captions."""
    own = np.full((captions, captions), 0.5 / captions**2)  # another's, drawn by itself
    table = np.stack([np.eye(captions) * 0.5 / captions, own], axis=2)
    assert table.sum() == pytest.approx(1)
    pair = table.sum(axis=2, keepdims=True)
    share = np.divide(table, pair, out=np.ones_like(table), where=table > 0)
    assert experiment.alignment(captions) == pytest.approx(-(table * np.log(share)).sum(), abs=1e-12)
    if captions == 1:
        assert experiment.alignment(1) == pytest.approx(math.log(2))


def test_the_study_has_the_sizes_and_seeds_of_a_law_and_one_tokenizer():
    cells = study.resolve(experiment.get_config()).cells
    videos = [cell for cell in cells if cell.family == "videobert"]
    assert len({(cell.size, cell.tokens) for cell in videos}) == 12 and len(cells) == len(videos) + 1 == 31
    seeds = [{cell.seed for cell in videos if cell.size == size} for size in range(4)]
    assert seeds == [{0, 1, 2}] * 3 + [{0}]
    assert all(cell.tokens % experiment.POSITIONS == 0 for cell in videos)
    with refuses(Code.UNKNOWN, "config argument", "joint"):
        experiment.get_config("joint")
