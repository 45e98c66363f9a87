"""Log-mel spectrograms as Whisper's ``audio.py`` has them (arXiv 2212.04356), in numpy.

Frames of ``window`` samples, ``hop`` apart, each centred on its place with the sound mirrored at both ends, under a
periodic Hann window; squared magnitudes of their Fourier coefficients; ``bands`` triangles of equal area whose centres
are equidistant in mel; log10, not below 1e-10; not more than 8 below the largest value **of the clip**; (x + 4) / 4.
The frame at the end of the sound is left out, so that there are samples / hop.

Mel is Slaney's (Auditory Toolbox, 1998): linear up to 1 kHz, 200/3 Hz each, and logarithmic above, 27 for a factor 6.4.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from scaling.errors import Code, UserError
from scaling.settings import check, setting

FLOOR, RANGE = 1e-10, 8.0
HIGHEST_RATE = 768_000  # samples a second
_LINEAR, _KNEE, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27


@dataclass(frozen=True)
class Spectrogram:
    """Fields of every source of sounds, for its ``Config`` to inherit. Whisper's are 16000, 400, 160 and 80."""

    rate: int = setting(16000, least=1, most=HIGHEST_RATE)
    """Samples a second; of files, that to which they are resampled."""
    window: int = setting(400, least=2, most=2**14)
    """Samples under the window of a frame."""
    hop: int = setting(160, least=1, most=2**14)
    """Samples from a frame to the next."""
    mel: int = setting(80, least=1, most=1024)
    """Bands."""

    def __post_init__(self):
        check(self, "data")
        if not (filters(self.rate, self.window, self.mel) > 0).any(axis=0).all():
            remedy = f"are too many for {self.window // 2 + 1} frequencies: a band would hold none of them"
            raise UserError("data.mel", self.mel, remedy, Code.CONFLICT)


def to_mel(hertz: np.ndarray) -> np.ndarray:
    """Frequencies in mel, float64."""
    hertz = np.asarray(hertz, np.float64)
    above = _KNEE / _LINEAR + np.log(np.maximum(hertz, _KNEE) / _KNEE) / _STEP
    return np.where(hertz < _KNEE, hertz / _LINEAR, above)


def to_hertz(mel: np.ndarray) -> np.ndarray:
    """Frequencies in Hz, float64: the inverse of ``to_mel``."""
    mel = np.asarray(mel, np.float64)
    knee = _KNEE / _LINEAR
    return np.where(mel < knee, mel * _LINEAR, _KNEE * np.exp(_STEP * (np.maximum(mel, knee) - knee)))


@functools.cache
def filters(rate: int, window: int, bands: int) -> np.ndarray:
    """Weights of each frequency in each band, (window // 2 + 1, bands) float32: triangles of area 1 in Hz."""
    edges = to_hertz(np.linspace(0, to_mel(np.array(rate / 2)), bands + 2))
    frequency = np.fft.rfftfreq(window, 1 / rate)[:, None]
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


def log_mel(sound_NS: np.ndarray, form: Spectrogram) -> np.ndarray:
    """Spectrograms (n, S // hop, bands) float32 of sounds (n, S) in [-1, 1]; a clip's does not depend on the others.

    Raises:
      UserError: the sounds are shorter than half a window, which cannot be mirrored (CONFLICT).
    """
    half, samples = form.window // 2, sound_NS.shape[1]
    if samples <= half:
        raise UserError(
            "data.window", form.window, f"must be below twice the {samples} samples of a clip", Code.CONFLICT
        )
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(form.window) / form.window)).astype(np.float32)
    around = np.pad(sound_NS.astype(np.float32), ((0, 0), (half, half)), mode="reflect")
    frames_NTW = np.lib.stride_tricks.sliding_window_view(around, form.window, axis=1)[:, :: form.hop]
    spectrum = np.fft.rfft(frames_NTW[:, : samples // form.hop] * hann, axis=2)
    power_NTF = np.square(spectrum.real) + np.square(spectrum.imag)
    # A product for each clip, since one for all would be rounded by how many there are.
    bands_NTM = np.log10(np.maximum(power_NTF @ filters(form.rate, form.window, form.mel), np.float32(FLOOR)))
    loudest_N11 = bands_NTM.max(axis=(1, 2), keepdims=True)
    return (np.maximum(bands_NTM, loudest_N11 - np.float32(RANGE)) + np.float32(4)) / np.float32(4)
