"""Pictures of every mode keep their range, transparency and orientation; damaged samples are skipped if allowed."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refuses
from test_own_sources import SIDE, load, pairs, picture, samples, write_tar

from scaling import data, plan, study
from scaling.data import _decode, _random
from scaling.errors import Code

image: Any = pytest.importorskip("PIL.Image")
RAMP = np.linspace(0, 255, 64).round().reshape(8, 8)  # levels of 8 bits, as they should come out
COLOURS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(picture: Any, kind: str = "PNG", background: str = "white", **options: Any) -> np.ndarray:
    return _decode.decode(encoded(picture, kind, **options), 8, "x", background)


def grey(levels: np.ndarray, kind: Any) -> Any:
    return image.fromarray(levels.astype(kind))


@pytest.mark.parametrize(
    ("levels", "kind", "format"),
    [
        (RAMP * 257, "<u2", "PNG"),
        (RAMP * 257, "<u2", "TIFF"),
        (RAMP * 257, ">u2", "TIFF"),
        (RAMP / 255, "<f4", "TIFF"),
        (RAMP, "<f4", "TIFF"),
        (RAMP, "<i4", "TIFF"),
        (RAMP, "u1", "PNG"),
        (RAMP, "u1", "WEBP"),
        (RAMP > 100, "?", "PNG"),
        (RAMP > 100, "?", "TIFF"),
    ],
)
def test_levels_of_every_depth_are_scaled_to_8_bits(levels, kind, format):
    expected = np.repeat(((RAMP > 100) * 255.0 if kind == "?" else RAMP)[:, :, None], 3, 2)
    made = _decode.decode(encoded(grey(levels, kind), format, lossless=True), 8, "x")
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize(
    ("levels", "kind"),
    [(RAMP * 300, "<f4"), (RAMP - 9, "<f4"), (np.where(RAMP > 9, np.nan, 0), "<f4"), (RAMP * 300, "<i4")],
)
def test_levels_of_a_range_that_nobody_states_are_refused(levels, kind):
    with refuses(Code.DAMAGED, "data.image", "x"):
        decoded(grey(levels, kind), "TIFF")


BACKGROUNDS = {"white": 255, "black": 0, "grey": 128}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_what_is_transparent_shows_the_background(background):
    level = BACKGROUNDS[background]
    alpha = np.repeat(np.array([[0, 85, 170, 255]]), 2, 1).repeat(8, 0)
    blended = np.round((COLOURS * (alpha / 255.0)[:, :, None]) + level * (1 - alpha / 255.0)[:, :, None])
    made = decoded(image.fromarray(np.dstack([COLOURS, alpha.astype(np.uint8)])), background=background)
    assert abs(made.astype(float) - blended).max() <= 1
    both = image.fromarray(np.dstack([RAMP, alpha]).astype(np.uint8))
    made = decoded(both, background=background)
    assert both.mode == "LA" and (made[:, :2] == level).all() and (made[:, -2:, 0] == RAMP[:, -2:]).all()


@pytest.mark.parametrize(
    ("picture", "transparency"),
    [
        (image.fromarray(COLOURS).quantize(8), 3),
        (image.fromarray(COLOURS).quantize(8), bytes([255, 255, 255, 0])),
        (grey(RAMP, "u1"), 0),
        (grey(RAMP * 257, "<u2"), 0),
        (image.fromarray(COLOURS), tuple(int(level) for level in COLOURS[0, 0])),
    ],
)
def test_transparency_by_a_colour_or_a_palette(picture, transparency):
    plain, made = decoded(picture), decoded(picture, background="black", transparency=transparency)
    hidden = (made != plain).any(axis=2)
    assert (made[hidden] == 0).all() or picture.mode != "P"
    white = decoded(picture, transparency=transparency)
    shown = (made == white).all(axis=2)
    assert 0 < (~shown).sum() < 64 and (white[~shown] == 255).all() and (made[~shown] == 0).all()
    np.testing.assert_array_equal(made[shown], plain[shown])


def test_gif_and_webp_with_transparency():
    alpha = np.where(np.arange(8) < 4, 0, 255)[None, :, None].repeat(8, 0)
    rgba = image.fromarray(np.concatenate([COLOURS, alpha], 2).astype(np.uint8))
    for kind in ("GIF", "WEBP", "TIFF"):
        assert (decoded(rgba, kind, lossless=True)[:, :4] == 255).all()
        assert (decoded(rgba, kind, "black", lossless=True)[:, :4] == 0).all()


def test_pictures_without_these_are_decoded_as_they_always_were():
    """The numbers of pictures in 8 bits, opaque and upright, do not depend on any of it."""
    large = image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8))
    opaque = large.convert("RGBA")
    for made, kind in (
        (large, "PNG"),
        (large, "JPEG"),
        (large.convert("L"), "JPEG"),
        (large.convert("CMYK"), "JPEG"),
        (large.quantize(50), "PNG"),
        (opaque, "PNG"),
    ):
        stored = image.open(io.BytesIO(encoded(made, kind)))
        stored.draft("RGB", (8, 8))
        width, height = stored.size
        square, left, top = min(width, height), (width - min(width, height)) // 2, (height - min(width, height)) // 2
        box = (left, top, left + square, top + square)
        before = np.asarray(stored.convert("RGB").resize((8, 8), image.Resampling.BICUBIC, box))
        np.testing.assert_array_equal(decoded(made, kind), before)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the first pixel of the file is seen: (row, column)
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
def test_a_picture_is_seen_upright(kind, orientation, corner):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:32, :32], pixels[:32, 32:] = 240, 120  # white in the first corner, grey beside it in the first row
    exif = image.Exif()
    exif[0x0112] = orientation
    made = decoded(image.fromarray(pixels), kind, exif=exif)[:, :, 0].astype(int)
    assert abs(made[corner] - 240) < 20
    beside = {row: made[row, -1 - corner[1] if corner[1] else -1] for row in (corner[0],)}[corner[0]]
    turned = made[-1 if corner[0] == 0 else 0, corner[1]]
    assert abs((turned if orientation > 4 else beside) - 120) < 20


def test_harmless_warnings_do_not_reject_and_damage_does():
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + bytes(range(40))  # says that it is longer than it is
    stored = encoded(image.fromarray(COLOURS), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="EXIF"):
        image.open(io.BytesIO(stored)).getexif()
    plain = encoded(image.fromarray(COLOURS), "JPEG")
    np.testing.assert_array_equal(_decode.decode(stored, 8, "x"), _decode.decode(plain, 8, "x"))
    large = encoded(image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8)), "JPEG")
    for broken in (large[: len(large) // 2], large[:40], b"GIF89a", b"", b"no picture"):
        with refuses(Code.DAMAGED, "data.image", "x"):
            _decode.decode(broken, 8, "x")


def test_a_background_is_part_of_the_data_unless_it_is_the_default(tmp_path):
    path = write_tar(tmp_path / "a.tar", samples(60))
    white, black = pairs(path).describe(), pairs(path, background="black").describe()
    assert "background" not in white and black == {**white, "background": "black"}
    with refuses(Code.INVALID, "data.background", "plaid"):
        pairs(path, background="plaid")


# Damaged samples


def large_samples() -> list[dict[str, Any]]:
    """Pictures of more bytes than decide the split, so that damage behind those does not move it."""
    return [{**sample, "png": picture(number, 64)} for number, sample in enumerate(samples())]


def _break(found: list[dict[str, Any]], numbers: Iterable[int]) -> None:
    for number in numbers:
        found[number]["png"] = found[number]["png"][:-40] + bytes(40)


def test_a_damaged_sample_is_replaced_and_no_other_example_changes(tmp_path):
    found = large_samples()
    whole = pairs(write_tar(tmp_path / "whole.tar", found))
    train = whole._sides[0]
    bad = int(train[7])
    _break(found, [bad])
    strict, tolerant = (pairs(write_tar(tmp_path / "a.tar", found), damaged=allowed) for allowed in (0, 1))
    assert strict.describe() == tolerant.describe()
    np.testing.assert_array_equal(strict._sides[0], train)
    order = _random.shuffled(np.arange(len(train)), len(train), 5)
    at = int(np.flatnonzero(order == 7)[0])
    others = np.delete(np.arange(len(train)), at)
    for source in (strict, tolerant):
        batch = source.batch(others, seed=5, context=40)
        np.testing.assert_array_equal(batch["image"], whole.batch(others, seed=5, context=40)["image"])
        assert not source.replaced.any()
    with refuses(Code.DAMAGED, "data.image", f"a.tar:{bad:05}"):
        strict.batch(np.array([at]), seed=5, context=40)
    instead = tolerant.batch(np.array([at, others[0]]), seed=5, context=40)
    assert tolerant.replaced.tolist() == [True, False]
    following = int(np.flatnonzero(order == 8)[0])
    expected = whole.batch(np.array([following, others[0]]), seed=5, context=40)
    for name in ("image", "label", "tokens", "mask"):
        np.testing.assert_array_equal(instead[name], expected[name])


def test_evaluation_goes_without_damaged_samples_and_more_than_allowed_is_an_error(tmp_path):
    found = large_samples()
    whole = pairs(write_tar(tmp_path / "whole.tar", found))
    held = whole._sides[1]
    _break(found, held[1:2].tolist())
    source = pairs(write_tar(tmp_path / "a.tar", found), damaged=1)
    names = [name.replace("whole", "a") for name in whole.evaluation(40)["documents"]]
    evaluation = source.evaluation(40)
    np.testing.assert_array_equal(source._sides[1], held)
    assert set(evaluation["documents"]) == set(names) - {f"a.tar:{held[1]:05}"}
    assert len(evaluation["document"]) == len(evaluation["image"]) == len(held) - 1
    _break(found, whole._sides[0][:2].tolist())
    with refuses(Code.DAMAGED, "data.damaged", 1):
        pairs(write_tar(tmp_path / "a.tar", found), damaged=1).batch(np.arange(100), seed=0, context=40)
    pairs(tmp_path / "a.tar", damaged=2).batch(np.arange(100), seed=0, context=40)


def test_a_source_beyond_its_allowance_raises_every_time_and_counts_samples_without_a_part(tmp_path):
    found = large_samples()
    train = pairs(write_tar(tmp_path / "whole.tar", found))._sides[0]
    _break(found, train[:2].tolist())
    source = pairs(write_tar(tmp_path / "a.tar", found), damaged=1)
    for _ in range(2):  # a worker keeps a source for its later runs
        with refuses(Code.DAMAGED, "data.damaged", 1):
            source.batch(np.arange(len(train)), seed=0, context=40)
    assert len(source.damage.samples) == 1
    del found[int(train[2])]["txt"]
    write_tar(tmp_path / "a.tar", found)
    with refuses(Code.DAMAGED, "data.damaged", 2):
        pairs(tmp_path / "a.tar", damaged=2).batch(np.arange(len(train)), seed=0, context=40)
    pairs(tmp_path / "a.tar", damaged=3).batch(np.arange(len(train)), seed=0, context=40)


def test_samples_without_a_part_are_left_out_if_allowed_and_a_plan_says_so(tmp_path):
    found = samples()
    del found[3]["txt"], found[9]["png"]
    path = write_tar(tmp_path / "a.tar", found)
    for allowed, key in ((0, "00003"), (1, "00009")):
        with refuses(Code.MISSING, None, f"a.tar:{key}"):
            pairs(path, damaged=allowed)
    source = pairs(path, damaged=2)
    assert len(source.store) == 118 and data.remarks(source)[0].count == 2
    config = study.base("captions")
    config.family, config.model, config.recipe.batch = "fusion", {"patch": 3, "text": 24}, 8
    config.data.mine = {"source": "webdataset", "path": str(path), "side": SIDE, "damaged": 2}
    config.cells.grid = study.block("grid", "mine", (0,), tokens=(28 * 8 * 10,))
    assert any("a.tar:00003" in text for text in plan.make(study.resolve(config)).warnings)


def test_tables_with_empty_rows_too(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    found = samples(60)
    rows = {
        "img": [None if number == 5 else sample["png"] for number, sample in enumerate(found)],
        "caption": [None if number == 8 else sample["txt"] for number, sample in enumerate(found)],
    }
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "a.parquet"))
    fields = {"image": "img", "text": "caption", "side": SIDE}
    with refuses(Code.DAMAGED, "data.image", "a.parquet:5"):
        load("parquet", tmp_path / "a.parquet", **fields)
    source = load("parquet", tmp_path / "a.parquet", damaged=2, **fields)
    used = np.concatenate(source._sides).tolist()
    assert sorted(used) == [number for number in range(60) if number not in (5, 8)]
    assert data.remarks(source)[0].count == 2
    with refuses(Code.DAMAGED, "data.text", "a.parquet:8"):
        load("parquet", tmp_path / "a.parquet", damaged=1, **fields)
