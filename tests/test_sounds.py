"""Users' own sounds: WAV by the standard library, other formats by soundfile, in tars and Parquet, as spectrograms."""

import io
import sys
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from refusals import refuses

from scaling import data
from scaling.data import _audio, _pairs
from scaling.data._mel import Spectrogram, log_mel
from scaling.errors import Code

RATE, COUNT, FRAMES = 4000, 60, 10
FORM = {"rate": RATE, "window": 128, "hop": 64, "mel": 12, "frames": FRAMES}


def packed(sound: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """A WAV file of samples (S,) or (S, channels) in [-1, 1)."""
    stored, whole = io.BytesIO(), np.round(sound * 2.0 ** (8 * width - 1)).astype(np.int64)
    raw = (whole + 128 if width == 1 else whole).astype("<i8")[..., None].view(np.uint8)[..., :width]
    with wave.open(stored, "wb") as file:
        file.setnchannels(sound.shape[1] if sound.ndim > 1 else 1)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw.tobytes())
    return stored.getvalue()


def tone(number: int, samples: int = 700, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * (200 + 10 * number) * np.arange(samples) / rate)


@pytest.fixture(scope="module")
def tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips 0 ... 59, whose captions are their numbers."""
    path = tmp_path_factory.mktemp("sounds") / "clips.tar"
    with tarfile.open(path, "w") as file:
        for number in range(COUNT):
            for ending, content in (("wav", packed(tone(number))), ("txt", str(number).encode())):
                info = tarfile.TarInfo(f"{number:06d}.{ending}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_a_wav_is_what_was_written(width: int):
    left, right = tone(3), np.full(700, 0.25)
    heard = _audio.decode(packed(np.stack([left, right], axis=1), width=width), RATE, 700, "a")
    assert heard.shape == (700,) and heard.dtype == np.float32
    np.testing.assert_allclose(heard, (left + right) / 2, atol=2.0 ** (1 - 8 * width) + 1e-6)
    longer, shorter = (_audio.decode(packed(left), RATE, samples, "a") for samples in (900, 300))
    assert not longer[700:].any()
    np.testing.assert_array_equal(longer[:300], shorter)


def test_another_rate_is_resampled():
    heard = _audio.decode(packed(tone(20, 6000, 3 * RATE), 3 * RATE), RATE, 2000, "a")
    np.testing.assert_allclose(heard[100:-100], tone(20, 2000)[100:-100], atol=0.01)
    above = 0.5 * np.sin(2 * np.pi * 5000 * np.arange(6000) / (3 * RATE))  # Hz that 4 kHz cannot have: no alias
    assert np.abs(_audio.decode(packed(above, 3 * RATE), RATE, 2000, "a")[100:-100]).max() < 0.02


def test_damaged_sounds_are_named():
    whole = packed(tone(0))
    for stored in (whole[:600], packed(tone(0, 0)), b"RIFFxxxxWAVE"):
        with refuses(Code.DAMAGED, "data.sound", "clips.tar:a"):
            _audio.decode(stored, RATE, 100, "clips.tar:a")
    for rate in (0, 2**31 - 1):  # the second would be a filter of 160 GB
        with refuses(Code.DAMAGED, "data.sound", "clips.tar:a"):
            _audio.decode(whole[:24] + rate.to_bytes(4, "little") + whole[28:], RATE, 100, "clips.tar:a")


@pytest.mark.parametrize(("riff", "length"), [(2**32 - 1, 2**32 - 1), (0, 0), (36, 0), (2**32 - 1, None)])
def test_a_wav_of_a_pipe_has_what_there_is(riff: int, length: int | None):
    """By ``ffmpeg``; by a recorder that was killed; by a writer that began with no samples; with the length alone."""
    whole = packed(tone(0))
    size = whole[40:44] if length is None else length.to_bytes(4, "little")
    streamed = whole[:4] + riff.to_bytes(4, "little") + whole[8:40] + size + whole[44:]
    heard = _audio.decode(whole, RATE, 700, "a")
    np.testing.assert_array_equal(_audio.decode(streamed, RATE, 700, "a"), heard)
    np.testing.assert_array_equal(_audio.decode(streamed + b"x", RATE, 700, "a"), heard)  # half a sample
    noted = streamed[:36] + b"LIST\4\0\0\0INFO" + streamed[36:]
    np.testing.assert_array_equal(_audio.decode(noted, RATE, 700, "a"), heard)
    empty = whole[:40] + bytes(4) + b"LIST\4\0\0\0INFO"  # no sound, and what is behind it is none
    with refuses(Code.DAMAGED, "data.sound", "a"):
        _audio.decode(empty[:4] + (len(empty) - 8).to_bytes(4, "little") + empty[8:], RATE, 700, "a")


def test_whole_numbers_need_no_extra_however_they_are_announced_or_damaged(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    whole = packed(tone(0))
    announced = b"fmt " + (40).to_bytes(4, "little") + b"\xfe\xff" + whole[22:36] + b"\x16\0\x10\0\4\0\0\0\1\0"
    announced += bytes.fromhex("000000001000800000aa00389b71")
    extensible = whole[:4] + (len(whole) - 8 + 24).to_bytes(4, "little") + b"WAVE" + announced + whole[36:]
    np.testing.assert_array_equal(_audio.decode(extensible, RATE, 700, "a"), _audio.decode(whole, RATE, 700, "a"))
    no_channel, no_data = whole[:22] + bytes(2) + whole[24:], whole[:36] + b"dota" + whole[40:]
    for stored in (no_channel, no_data, extensible[:300], b"RIFFxxxxWAVE"):
        with refuses(Code.DAMAGED, "data.sound", "a"):
            _audio.decode(stored, RATE, 100, "a")
    real = whole[:20] + b"\3\0" + whole[22:]
    with refuses(Code.ENVIRONMENT, "data.sound", "a"):
        _audio.decode(real, RATE, 100, "a")


@pytest.mark.parametrize(
    ("field", "value"), [("mel", 10**9), ("rate", 10**9), ("window", 10**9), ("hop", 10**9), ("mel", 1025)]
)
def test_a_spectrogram_that_no_memory_holds_is_refused(field: str, value: int):
    with refuses(Code.INVALID, f"data.{field}", value):
        Spectrogram(**{field: value})


def test_what_is_no_wav_needs_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with refuses(Code.ENVIRONMENT, "data.sound", "clips.tar:a") as caught:
        _audio.decode(b"fLaC" + bytes(100), RATE, 100, "clips.tar:a")
    assert "[audio]" in caught.value.remedy


def test_flac_and_wav_of_real_numbers_are_read_with_it():
    soundfile = pytest.importorskip("soundfile")
    for form, subtype in (("FLAC", "PCM_16"), ("WAV", "FLOAT")):
        stored = io.BytesIO()
        soundfile.write(stored, tone(5), RATE, format=form, subtype=subtype)
        np.testing.assert_allclose(_audio.decode(stored.getvalue(), RATE, 700, "a"), tone(5), atol=1e-4)
    with refuses(Code.DAMAGED, "data.sound", "a"):
        _audio.decode(b"fLaC" + bytes(100), RATE, 100, "a")


def check(source: data.Source) -> None:
    """Captions and spectrograms of a source of the clips belong together and are those of the clips."""
    assert data.supplies(source) == {"vocab": 257, "mel": 12, "frames": FRAMES}
    batch = source.batch(np.arange(20), seed=0, context=6)
    assert set(batch) == {"tokens", "mask", "mel"} and batch["mel"].dtype == np.float32
    form = Spectrogram(**{name: value for name, value in FORM.items() if name != "frames"})
    for tokens, mask, mel in zip(batch["tokens"], batch["mask"], batch["mel"]):
        text = bytes(tokens[tokens < 256].astype(np.uint8).tolist())
        assert tokens[0] == 256 and mask.sum() == len(text) + 1
        clip = np.round(tone(int(text)) * 2**15) / 2**15
        np.testing.assert_allclose(mel, log_mel(clip[None, : FRAMES * 64], form)[0], atol=1e-5)
    assert source.describe()["frames"] == FRAMES and "side" not in source.describe()


def test_a_tar_of_sounds(tar: Path):
    check(data.load({"source": "webdataset", "path": str(tar), **FORM}))
    pictures = {"source": "webdataset", "path": str(tar)}
    with refuses(Code.TOO_FEW, "data.path", str(tar)):
        data.load({**pictures, "text": "", "image": "png"})
    with refuses(Code.MISSING, "data.sound", f"{tar.name}:000000"):
        data.load({**pictures, **FORM, "sound": "flac"})


def test_an_evaluation_that_memory_should_not_hold_is_refused(tar: Path, monkeypatch: pytest.MonkeyPatch):
    source = data.load({"source": "webdataset", "path": str(tar), **FORM})
    clips = len(source.evaluation(6)["document"])
    monkeypatch.setattr(_pairs, "HELD", clips * FRAMES * FORM["mel"] * 4 - 1)
    with refuses(Code.UNSUPPORTED, "evaluation.tokens", 1000):
        source.evaluation(6, 1000)
    assert 0 < len(source.evaluation(6, 2)["document"]) < clips


def test_a_table_of_sounds(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": packed(tone(number)), "path": f"{number}.wav"} for number in range(COUNT)]
    path = tmp_path / "clips.parquet"
    parquet.write_table(pyarrow.table({"audio": rows, "text": [str(number) for number in range(COUNT)]}), path)
    check(data.load({"source": "parquet", "path": str(path), "sound": "audio", **FORM}))
    with refuses(Code.CONFLICT, "data.sound", "audio"):
        data.load({"source": "parquet", "path": str(path), "sound": "audio"})
    with refuses(Code.CONFLICT, "data.image", "text"):
        data.load({"source": "parquet", "path": str(path), "sound": "audio", "image": "text", **FORM})
