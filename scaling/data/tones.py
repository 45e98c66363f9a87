"""Sequences of tones with captions: clips whose text is known exactly, in many languages of different frequency.

A clip has ``notes`` slots of ``slot`` frames. Each holds one of ``tones`` pitches, uniform and independent, which
begins and ends within its slot and sounds for at least half of it, at the clip's loudness, over a hiss. It is given as
a log-mel spectrogram (``scaling.data._mel``). Its caption is, after a prompt of start, language and task,

    word(tone 1) .. word(tone n) end

Every language has words of its own, one a tone; the clip does not tell which language is asked for, the prompt does.
Language l is asked for in a share of the clips proportional to (l + 1)^-``skew``. The task is to
transcribe, or in a share ``translate`` of the clips to translate into language 0. A share ``noise`` of the words is
wrong: another of the language's V, uniformly. So a caption has ln V nats a word without the clip, and with clip and
prompt, e being the noise,

    H = -(1 - e) ln(1 - e) - e ln(e / (V - 1))      nats a word, n H / (n + 1) a token, since the end costs nothing;

0 without noise. It is the entropy that ``describe`` tells, given the sound: a model of the captions alone is not
held to it. The clip determines its tones: neighbouring pitches differ by a period or more within the shortest tone,
so of S samples of amplitude a in a hiss of amplitude h a matched filter mistakes one for another with a probability
below exp(-a^2 S / (8 h^2)) (Hoeffding), which is nothing: exp(-80) at the loudest hiss and the quietest tone of 160
samples.

With ``variety``, ``hiss`` and ``noise`` at 0 the caption determines the spectrogram too, bit by bit: what speaks it can
have an error of exactly 0 (``tacotron``).

Examples are pure functions of (world, seed, index) by a counter-based hash: stateless and unbounded. Evaluation uses a
key that no seed has, in documents of 16 clips, with the exact -log p of every target.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.data._mel import FLOOR, RANGE, Spectrogram, filters, log_mel, to_hertz, to_mel
from scaling.data._random import key, mix, uniform
from scaling.errors import Code, UserError
from scaling.records.types import JSON
from scaling.settings import fields_of, setting

_TRAIN, _EVALUATE, _HISS = 1, 2, 1 << 32
DOCUMENT = 16
DOCUMENTS = 2048
UNBOUNDED = 2**62
TASKS = ("transcribe", "translate")
PROMPT = 3  # tokens: start, language, task
LOWEST, HIGHEST = 200.0, 0.45  # pitches: in Hz, and as a share of the samples a second
QUIETEST, LOUDEST = 0.2, 0.9
TOLD = 1.0  # see ``Config._told``: a factor of ten


@dataclass(frozen=True)
class Config(Spectrogram):
    """In addition to the fields of ``Spectrogram``."""

    tones: int = setting(32, least=2, most=4096)
    """Pitches, and words of a language, V."""
    notes: int = setting(6, least=1, most=1024)
    """Tones of a clip."""
    slot: int = setting(8, least=2, most=4096)
    """Frames of a tone and the silence around it."""
    languages: int = setting(16, least=1, most=4096)
    skew: float = setting(1.0, least=0, most=8)
    """Exponent of the frequencies of languages; 0: all are as frequent."""
    translate: float = setting(0.25, least=0, most=1)
    """Share of clips whose caption is in language 0."""
    noise: float = setting(0.1, least=0, below=1)
    """Share of words that are wrong, so that the best loss is above zero."""
    hiss: float = setting(0.002, least=0, most=0.1)
    """Amplitude of the noise of the sound, whose tones have 0.2 to 0.9."""
    variety: float = setting(1.0, least=0, most=1, later=True)
    """How far loudness, onset, end and phase differ between tones; 0: not at all, and all are as quiet as can be."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of clips."""

    def __post_init__(self):
        super().__post_init__()
        apart, shortest = float(np.diff(self.pitches).min()), self.slot * self.hop / 2 / self.rate
        if apart * shortest < 1:
            remedy = (
                f"are {apart:.3g} Hz apart, which tones of {shortest:.3g} s do not tell; at least {1 / shortest:.3g}"
            )
            raise UserError("data.tones", self.tones, remedy, Code.CONFLICT)
        if self.mel < self.tones or self._told() < TOLD:
            remedy = f"of {self.rate / 2:g} Hz do not tell {self.tones} tones in a hiss of {self.hiss}; give more"
            raise UserError("data.mel", self.mel, remedy, Code.CONFLICT)

    def _told(self) -> float:
        """log10 of the factor by which the ratio of two bands' powers differs between neighbouring pitches, the least
        of all neighbours: what the quietest tone, held through a window in the hiss, has beside its loudness."""
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        weights_FM = filters(self.rate, self.window, self.mel).astype(np.float64)
        turns_VW = np.outer(self.pitches / self.rate, np.arange(self.window)) % 1
        spectrum_VF = np.fft.fft(hann * np.exp(2j * np.pi * turns_VW), axis=1)[:, : len(weights_FM)]
        hiss_M = self.hiss**2 / 3 * np.square(hann).sum() * weights_FM.sum(axis=0)  # uniform in [-hiss, hiss]
        power_VM = np.square(np.abs(spectrum_VF) * QUIETEST / 2) @ weights_FM + hiss_M
        bands_VM = np.log10(np.maximum(power_VM, FLOOR))
        change_UM = np.diff(np.maximum(bands_VM, bands_VM.max(axis=1, keepdims=True) - RANGE), axis=0)
        return float(np.ptp(change_UM, axis=1).min())

    @property
    def pitches(self) -> np.ndarray:
        """Of each tone in Hz, equidistant in mel, (V,) float64."""
        low, high = to_mel(np.array([LOWEST, HIGHEST * self.rate])).tolist()
        return to_hertz(np.linspace(low, high, self.tones))

    @property
    def entropy(self) -> float:
        """Nats of a word, given clip and prompt."""
        e = self.noise
        return 0.0 if e == 0 else -(1 - e) * math.log(1 - e) - e * math.log(e / (self.tones - 1))


@dataclass(frozen=True)
class Tones:
    """See ``scaling.data.Source`` for the methods. Tokens: words, languages, tasks, start, end."""

    config: Config
    bytes_per_token: float | None = None

    @property
    def vocab(self) -> int:
        return self.config.languages * (self.config.tones + 1) + len(TASKS) + 2

    @property
    def supplies(self) -> dict[str, int]:
        return {"vocab": self.vocab, "mel": self.config.mel, "frames": self.config.notes * self.config.slot}

    @cached_property
    def shares(self) -> np.ndarray:
        """Of the clips, by language, (languages,) float64."""
        weights = np.arange(1, self.config.languages + 1) ** -self.config.skew
        return weights / weights.sum()

    def describe(self) -> dict[str, JSON]:
        world = fields_of(self.config)
        text = json.dumps({"source": "tones", "version": 1, **world}, sort_keys=True)
        return {
            "source": "tones",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": self.config.notes * self.config.entropy / (self.config.notes + 1),
            "entropy_given": "the sound",
            "word_entropy": self.config.entropy,
            **world,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return UNBOUNDED // context * context

    def sound(self, tone: np.ndarray, draws: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Clips (n, samples) float32 in [-1, 1].

        Args:
          tone: of each slot, (n, notes).
          draws: uniforms, (n, 1 + 3 * notes): loudness, then onset, end and phase of each tone.
          start: of each clip's random numbers, (n,).
        """
        c = self.config
        length, count = c.slot * c.hop, len(tone)
        draws = c.variety * draws
        loudness = QUIETEST + (LOUDEST - QUIETEST) * draws[:, :1, None]
        onset, end, phase = np.split(draws[:, 1:, None], 3, axis=1)
        time = np.arange(length)
        cycles = c.pitches[tone][..., None] / c.rate * time + phase
        # A quarter of the slot at either side may be silent, so that half of it always sounds.
        sounds = (time >= onset * length / 4) & (time < length - end * length / 4)
        played = loudness * np.sin(2 * np.pi * (cycles % 1)) * sounds
        samples = c.notes * length
        words = mix(start[:, None] + np.arange(_HISS, _HISS + -(-samples // 8), dtype=np.uint64))
        hiss = (words.view(np.uint8)[:, :samples].astype(np.float32) / np.float32(127.5) - 1) * np.float32(c.hiss)
        return played.astype(np.float32).reshape(count, samples) + hiss

    def _draw(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        """Arrays of a batch, and "reference", -log p of every target, (n, T) float32."""
        c = self.config
        if context < c.notes + PROMPT:
            remedy = f"must hold a prompt, {c.notes} words and their end: at least {c.notes + PROMPT}"
            raise UserError("model.text", context, remedy, Code.CONFLICT)
        start = mix(secret ^ mix(indices.astype(np.uint64)))
        u = uniform(mix(start[:, None] + np.arange(3 + 6 * c.notes, dtype=np.uint64)))
        language = np.minimum(np.searchsorted(self.shares.cumsum(), u[:, 0], side="right"), c.languages - 1)
        task = (u[:, 1] < c.translate).astype(np.int64)
        drawn, spoilt, other = np.split(u[:, 3 : 3 + 3 * c.notes], 3, axis=1)
        tone = (drawn * c.tones).astype(np.int64)
        wrong = spoilt < c.noise
        word = np.where(wrong, (tone + 1 + (other * (c.tones - 1)).astype(np.int64)) % c.tones, tone)
        word += np.where(task == 1, 0, language)[:, None] * c.tones
        tokens = np.full((len(indices), context + 1), self.vocab - 1, np.int32)
        tokens[:, 0] = self.vocab - 2
        tokens[:, 1] = c.languages * c.tones + language
        tokens[:, 2] = c.languages * (c.tones + 1) + task
        tokens[:, PROMPT : PROMPT + c.notes] = word
        counts = np.arange(context) - (PROMPT - 1)  # of the targets, the first word is 0
        mask = ((counts >= 0) & (counts <= c.notes)).astype(np.float32)
        nats = np.zeros((len(indices), context), np.float32)
        if c.noise:
            costs = -math.log(1 - c.noise), -math.log(c.noise / (c.tones - 1))
            nats[:, PROMPT - 1 : PROMPT - 1 + c.notes] = np.where(wrong, costs[1], costs[0])
        draws = np.concatenate([u[:, 2:3], u[:, 3 + 3 * c.notes :]], axis=1)
        mel = log_mel(self.sound(tone, draws, start), c)
        return {"tokens": tokens, "mask": np.tile(mask, (len(indices), 1)), "mel": mel, "reference": nats}

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        drawn = self._draw(key(self.config.world, _TRAIN, seed), np.asarray(indices, np.int64), context)
        del drawn["reference"]
        return drawn

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        count = DOCUMENT * DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // (self.config.notes + 1))))
        indices = np.arange(count)
        return {
            **self._draw(key(self.config.world, _EVALUATE), indices, context),
            "document": (indices // DOCUMENT).astype(np.int32),
            "documents": [f"block {number}" for number in range(-(-count // DOCUMENT))],
        }


def make(config: Config) -> Tones:
    """The tones of a configuration."""
    return Tones(config)
