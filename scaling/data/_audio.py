"""Decodes sounds to one channel at a given rate: WAV of whole numbers by the standard library, all else by soundfile.

Channels are averaged. A sound of another rate is resampled with an antialiasing filter; what is longer than asked for
is cut off, and what is shorter is silent at its end, as in Whisper's ``audio.py``. A WAV whose header lacks its
length, as a writer leaves it that cannot go back (``ffmpeg`` into a pipe), has what there is.
"""

from __future__ import annotations

import io
import math
import wave

import numpy as np

from scaling.data._mel import HIGHEST_RATE
from scaling.errors import Code, UserError, library

_STORED = {1: "u1", 2: "<i2", 4: "<i4"}  # by bytes of a sample
_PULSE_CODE, _EXTENSIBLE = 1, 0xFFFE  # format tags
_UNKNOWN = (0, 2**32 - 1)  # in the place of a length


def decode(sound: bytes, rate: int, samples: int, where: str) -> np.ndarray:
    """Decodes a sound to (samples,) float32 in [-1, 1].

    Args:
      sound: encoded bytes.
      rate: samples a second.
      where: file and key, for the message.

    Raises:
      UserError: the sound is damaged, empty or of an unknown format (DAMAGED), or is no WAV of whole numbers and
        soundfile is not installed (ENVIRONMENT).
    """
    try:
        heard = _pulse_code(sound) if sound[:4] == b"RIFF" else None
        channels_SC, own = _by_library(sound, where) if heard is None else heard
        if not len(channels_SC) or not np.isfinite(channels_SC).all():
            raise ValueError("it has no samples, or some that are no numbers")
        if not 0 < own <= HIGHEST_RATE:
            raise ValueError(f"it has {own} samples a second")
    except UserError:
        raise
    except Exception as error:  # as for pictures: whatever a decoder makes of damaged bytes
        reason = str(error).split("\n")[0][:120] or type(error).__name__
        remedy = f"is not a readable sound ({reason}); repair or remove it, or allow for it with data.damaged"
        raise UserError("data.sound", where, remedy, Code.DAMAGED) from None
    mono_S = channels_SC.mean(axis=1)
    if own != rate:
        import scipy.signal  # a second, which sources without sounds need not wait for

        common = math.gcd(own, rate)
        mono_S = scipy.signal.resample_poly(mono_S, rate // common, own // common)
    kept = np.clip(mono_S[:samples], -1, 1).astype(np.float32)
    return np.pad(kept, (0, samples - len(kept)))


def _pulse_code(sound: bytes) -> tuple[np.ndarray, int] | None:
    """Samples (S, channels) in [-1, 1] and their rate; None for a WAV of another form than whole numbers."""
    closed, tag = _closed(sound)
    try:
        with wave.open(io.BytesIO(closed), "rb") as file:
            width, channels, count = file.getsampwidth(), file.getnchannels(), file.getnframes()
            stored, own = file.readframes(count), file.getframerate()
    except wave.Error:
        if tag in (None, _PULSE_CODE):
            raise
        return None
    if len(stored) != count * channels * width:
        raise ValueError(f"it ends after {len(stored)} of {count * channels * width} bytes")
    if width == 3:  # the upper three bytes of a number of four
        wide = np.zeros((len(stored) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(stored, np.uint8).reshape(-1, 3)
        numbers, width = wide.view("<i4")[:, 0], 4
    else:
        numbers = np.frombuffer(stored, _STORED[width])
    half = 2.0 ** (8 * width - 1)
    return (numbers.astype(np.float64) / half - (1.0 if width == 1 else 0.0)).reshape(-1, channels), own


def _closed(sound: bytes) -> tuple[bytes, int | None]:
    """A RIFF file with lengths in the place of those that its writer did not know, and its format tag if it has one."""
    written, tag, at = bytearray(sound), None, 12
    length = int.from_bytes(sound[4:8], "little")
    while at + 8 <= len(sound):
        name, size, start = sound[at : at + 4], int.from_bytes(sound[at + 4 : at + 8], "little"), at + 8
        if name == b"fmt ":
            tag = int.from_bytes(sound[start : start + 2], "little")
            if tag == _EXTENSIBLE and size >= 26:  # the tag proper begins its last field
                tag = int.from_bytes(sound[start + 24 : start + 26], "little")
                written[start : start + 2] = tag.to_bytes(2, "little")
        elif name == b"data":
            # An empty chunk may be meant, unless the file ends with it by its own length.
            if size == _UNKNOWN[1] or (size == 0 and (length in _UNKNOWN or length + 8 <= start)):
                written[at + 4 : start] = (len(sound) - start).to_bytes(4, "little")
                length = _UNKNOWN[1]
            break
        at = start + size + size % 2
    if length in _UNKNOWN:
        written[4:8] = (len(sound) - 8).to_bytes(4, "little")
    return bytes(written), tag


def _by_library(sound: bytes, where: str) -> tuple[np.ndarray, int]:
    soundfile = library("soundfile", "audio", "data.sound", where)
    return soundfile.read(io.BytesIO(sound), dtype="float64", always_2d=True)
