"""Moving shapes held against what is said of them: where they go, what a frame tells, and what a video leaves."""

import itertools
import math

import numpy as np
import pytest
from refusals import refuses

from scaling import data, families, inputs
from scaling.data import moving, scenes
from scaling.errors import Code
from scaling.families import videobert

STATES = np.array(list(itertools.product(range(16), range(16), range(4))))  # y, x and number of the radius


def made(**fields: int) -> moving.Moving:
    source = data.load({"source": "moving", **fields})
    assert isinstance(source, moving.Moving)
    return source


@pytest.fixture(scope="module")
def every() -> np.ndarray:
    """Videos of two frames without noise, of every shape and action from every first state: (4, 6, 1024, 2, 16, 16)
    bool, whether a pixel is of the shape."""
    source, red = made(frames=2, noise=0), scenes.RGB[0]
    captions = np.array(list(itertools.product([0], range(4), range(6))))
    video = source.render(np.repeat(captions, 1024, axis=0), np.tile(STATES, (24, 1)), np.zeros(24 * 1024, np.uint64))
    shown = (video == red).all(axis=-1)
    assert (video[~shown] == scenes.BACKGROUND).all()
    return shown.reshape(4, 6, 1024, 2, 16, 16)


def test_a_shape_goes_where_its_caption_says(every: np.ndarray):
    first, second = every[:, :, :, 0], every[:, :, :, 1]
    # An image's first row is at its top.
    for name, axis, by in (("left", -1, -2), ("right", -1, 2), ("up", -2, -2), ("down", -2, 2)):
        action = moving.ACTIONS.index(name)
        np.testing.assert_array_equal(second[:, action], np.roll(first[:, action], by, axis))
    smaller = np.arange(1024).reshape(-1, 4)
    for name, by in (("grow", 1), ("shrink", -1)):  # in a circle of radii, where it is
        action = moving.ACTIONS.index(name)
        np.testing.assert_array_equal(second[:, action], first[:, action][:, np.roll(smaller, -by, axis=1).ravel()])
    area = first[:, 0].reshape(4, 256, 4, -1).sum(axis=-1)
    assert (np.diff(area, axis=2) > 0).all() and (area == area[:, :1]).all()  # whole at every place
    np.testing.assert_array_equal(area[:, 0], [[13, 29, 49, 81], [9, 25, 49, 81], [13, 25, 41, 61], [15, 21, 45, 55]])


def test_one_frame_tells_the_shape_and_nothing_of_the_action_and_two_tell_all(every: np.ndarray):
    flat = np.packbits(every.reshape(4, 6, 1024, 2, 256), axis=-1)
    assert len(np.unique(flat[:, 0, :, 0].reshape(-1, 32), axis=0)) == 4 * 1024  # a frame tells shape, place and radius
    for shape in range(4):
        known = np.unique(flat[shape, 0, :, 0], axis=0)
        for action, frame in itertools.product(range(6), range(2)):  # each frame once, whatever the action
            np.testing.assert_array_equal(np.unique(flat[shape, action, :, frame], axis=0), known)
    assert len(np.unique(flat.reshape(-1, 64), axis=0)) == 4 * 6 * 1024


def test_choices_are_uniform_and_independent_and_their_entropy_is_said():
    tokens = made().batch(np.arange(6000), seed=0, context=6)["tokens"]
    assert (tokens[:, 0] == moving.START).all() and (tokens[:, 4:] == moving.END).all() and moving.END == 19
    words = tokens[:, 1:4] - np.array([0, 8, 12])
    counts = np.bincount(np.ravel_multi_index(words.T, (8, 4, 6)), minlength=192)
    assert ((counts - 31.25) ** 2 / 31.25).sum() < 191 + 4 * math.sqrt(2 * 191)  # chi-squared
    about = made().describe()
    assert about["caption_entropy"] == pytest.approx(math.log(8 * 4 * 6)) == pytest.approx(4 * about["entropy"])
    assert about["caption_entropy_given_frame"] == pytest.approx(math.log(6))
    assert about["caption_entropy_given_video"] == 0
    assert about["sha256"] != made(frames=5).describe()["sha256"]


def test_a_batch_shows_its_captions_with_noise_and_one_frame_of_each_video():
    source, plain = made(frames=3), made(frames=3, noise=0)
    batch, still = (each.batch(np.arange(600), seed=5, context=4) for each in (source, plain))
    assert batch["video"].shape == (600, 3, 16, 16, 3) and batch["video"].dtype == np.uint8
    np.testing.assert_array_equal(batch["tokens"], still["tokens"])
    moved = batch["video"].astype(int) - still["video"]
    assert np.abs(moved).max() == 16 and np.abs(moved.mean(axis=0)).max() < 5 * 16 / math.sqrt(3 * 600)
    assert not np.array_equal(moved[:, 0], moved[:, 1])
    colour = scenes.RGB[batch["tokens"][:, 1]]
    shown = (still["video"] == colour[:, None, None, None]).all(axis=-1)
    assert ((still["video"] == scenes.BACKGROUND).all(axis=-1) ^ shown).all()
    which = (batch["video"] == batch["image"][:, None]).all(axis=(2, 3, 4))
    assert (which.sum(axis=1) == 1).all() and np.abs(which.mean(axis=0) - 1 / 3).max() < 5 * 0.48 / math.sqrt(600)
    halves = [source.batch(np.arange(low, low + 300), seed=5, context=4) for low in (0, 300)]
    for name in batch:  # pixels too are functions of seed and index
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), batch[name])
    assert len(np.unique(np.reshape(source.evaluation(4, 400)["video"], (100, -1)), axis=0)) == 100


def test_a_family_of_frames_is_matched_with_the_source():
    spec = videobert.batch_spec(families.configure(videobert, 0, image=16, text=4, vocab=20))
    inputs.require_supply(videobert, spec, made().supplies, "moving", "videobert")
    assert inputs.arrays(videobert, spec) == {"tokens", "mask", "video"}  # and no picture
    for field, value in (("video", 5), ("image", 8)):
        with refuses(Code.CONFLICT, f"model.{field}", value):
            inputs.require_supply(videobert, {**spec, field: value}, made().supplies, "moving", "videobert")
    with refuses(Code.CONFLICT, "model.text", 3):
        made().batch(np.arange(2), seed=0, context=3)
    with refuses(Code.INVALID, "data.frames", 1):
        made(frames=1)
