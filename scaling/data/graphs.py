"""Scenes with their graph and their regions, and questions about them whose answers are exact.

Pictures and captions are those of ``scenes``, true and complete. The graph of a caption has a node for each of its
words, which are independent and uniform: two objects (their shapes, ln 4 = 1.386 nats each), an attribute of each (its
colour, ln 8 = 2.079) and the relation of the first to the second (ln 4). So what a node's word has, given all the
others, is known exactly: these numbers without the picture, and 0 with it. ``graph`` names the node of each token,
int32 (n, T): 4 x number + kind, numbers from 1, kinds from 0; 0 is a token of no node. Tokens of one node, were there
several, have one number.

Regions are the two objects, the large one first: ``region``, uint8 (n, 2, 11, 11, 3), the pixels around its centre, of
which none shows the other object; ``box``, float32 (n, 2, 5), its left, top, right and bottom end and its area, in
shares of the picture, as in ViLBERT; and ``region_class``, int32 (n, 2), its shape and colour, one of 32.

A question of a scene is two words: the colour or the shape of the large or the small object, or where the large one
is; its answer is one. Given the picture the answer has 0 nats; given the question alone ln 8, ln 4, ln 8, ln 4 or ln 4,
in the mean 12/5 ln 2 = 1.664. Beside a caption stand a ``question`` and its ``answer``, each with its end, int32 (n, 3)
and (n, 2); with ``questions`` both are the text, whose only node is the answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from scaling.data import scenes
from scaling.data._random import key
from scaling.errors import Code, UserError
from scaling.settings import check, setting

KINDS = ("object", "attribute", "relation", "answer")
OBJECT, ATTRIBUTE, RELATION, ANSWER = range(len(KINDS))
CAPTION = (
    ATTRIBUTE,
    OBJECT,
    RELATION,
    ATTRIBUTE,
    OBJECT,
)  # kinds of a caption's words, which ``scenes.CHOICES`` counts
ASKS = ("colour", "shape", "where", "large", "small")
BLANK, START, END = (len(scenes.WORDS) + len(ASKS) + place for place in range(3))
# Of the five questions, each about the choice of its number: what it asks for, and of which object.
QUESTIONS = np.array([(0, 3), (1, 3), (2, 3), (0, 4), (1, 4)]) + len(scenes.WORDS)
SIDE, REGIONS = 11, 2  # of a region in pixels; of a picture
TRAIN, EVALUATE = 21, 22


@dataclass(frozen=True)
class Config:
    questions: bool = False
    """Whether texts are questions with their answers, not captions."""
    noise: int = setting(16, least=0, most=60)
    """Amplitude of the noise added to each byte of a picture."""
    world: int = setting(0, least=0, most=2**63 - 1)
    """Seed of the sample of scenes."""

    def __post_init__(self):
        check(self, "data")


@dataclass(frozen=True)
class Graphs:
    """See ``scaling.data.Source`` for the methods."""

    config: Config
    vocab: int = END + 1
    bytes_per_token: float | None = None

    @property
    def supplies(self) -> dict[str, int]:
        regions = {"regions": REGIONS, "region_side": SIDE, "region_classes": 32}
        nodes = [ANSWER] if self.config.questions else CAPTION
        held = {f"{KINDS[kind]}s": nodes.count(kind) for kind in sorted(set(nodes))}
        own = {"vocab": self.vocab, "words": self.length - 1}
        own |= {} if self.config.questions else {"question": 3, "answer": 2}
        return {**own, "image": scenes.SIDE, "graph": len(KINDS), **held, **regions}

    @property
    def length(self) -> int:
        """Tokens of a text with its end."""
        return 1 + (3 if self.config.questions else len(scenes.CHOICES))

    @property
    def node_entropy(self) -> dict[str, float]:
        """Nats of a node's word by kind, given the rest of the text, without the picture."""
        if self.config.questions:
            return {KINDS[ANSWER]: self.answer_entropy}
        return {KINDS[kind]: math.log(count) for kind, count in zip(CAPTION, scenes.CHOICES)}

    @property
    def answer_entropy(self) -> float:
        """Nats of an answer given its question, without the picture."""
        return sum(map(math.log, scenes.CHOICES)) / len(QUESTIONS)

    def describe(self) -> dict[str, str | float | None]:
        own = asdict(self.config)
        text = json.dumps({"source": "graphs", "version": 1, **own}, sort_keys=True)
        whole = math.log(len(QUESTIONS)) if self.config.questions else 0.0
        each = self.answer_entropy if self.config.questions else sum(map(math.log, scenes.CHOICES))
        return {
            "source": "graphs",
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "bytes": None,
            "unique_tokens": None,
            "entropy": (whole + each) / self.length,
            **{f"{kind}_entropy": nats for kind, nats in self.node_entropy.items()},
            **own,
        }

    def unique_tokens(self, context: int) -> int:
        """Unbounded: every example is a new draw."""
        return scenes.UNBOUNDED // context * context

    @cached_property
    def _scenes(self) -> scenes.Scenes:
        return scenes.make(scenes.Config(noise=self.config.noise))

    def _text(self, scene: np.ndarray, asked: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (n, context + 1) and graph (n, context) of scenes (n, 5); ``asked`` (n,) is a question's number."""
        if context < self.length:
            remedy = f"must hold a text and its end: at least {self.length}"
            raise UserError("model.text", context, remedy, Code.CONFLICT)
        tokens, graph = np.full((len(scene), context + 1), END, np.int32), np.zeros((len(scene), context), np.int32)
        tokens[:, 0] = START
        if self.config.questions:
            tokens[:, 1:3], tokens[:, 3:4] = QUESTIONS[asked], answers(scene, asked)
            graph[:, 2] = len(KINDS) + ANSWER
        else:
            tokens[:, 1 : self.length] = scene + scenes.FIRST
            graph[:, : len(CAPTION)] = len(KINDS) * (1 + np.arange(len(CAPTION))) + CAPTION
        return tokens, graph

    def _batch(self, secret: np.ndarray, indices: np.ndarray, context: int) -> dict[str, np.ndarray]:
        start, u = scenes.numbers(secret, np.asarray(indices, np.int64))
        scene = scenes.choices(u)
        asked = (u[:, 5] * len(QUESTIONS)).astype(np.int64)
        tokens, graph = self._text(scene, asked, context)
        places = scenes.places(scene, u)
        image = self._scenes.render(scene, places, start)
        beside = (
            {}
            if self.config.questions
            else {"question": _ended(QUESTIONS[asked]), "answer": _ended(answers(scene, asked))}
        )
        return {
            **beside,
            "tokens": tokens,
            "mask": np.tile((np.arange(context) < self.length).astype(np.float32), (len(tokens), 1)),
            "graph": graph,
            "image": image,
            "region": regions(image, places),
            "box": boxes(places),
            "region_class": (scene[:, [1, 4]] * len(scenes.COLOURS) + scene[:, [0, 3]]).astype(np.int32),
        }

    def batch(self, indices: np.ndarray, *, seed: int, context: int) -> dict[str, np.ndarray]:
        return self._batch(key(self.config.world, TRAIN, seed), indices, context)

    def evaluation(self, context: int, limit_tokens: int | None = None) -> dict[str, np.ndarray | list[str]]:
        count = scenes.DOCUMENT * scenes.DOCUMENTS
        if limit_tokens is not None:
            count = max(1, min(count, -(-limit_tokens // self.length)))
        block = np.arange(count) // scenes.DOCUMENT
        return {
            **self._batch(key(self.config.world, EVALUATE), np.arange(count), context),
            "document": block.astype(np.int32),
            "documents": [f"block {number}" for number in range(block[-1] + 1)],
        }


def answers(scene: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The word that answers the question of each scene, (n, 1)."""
    return np.take_along_axis(scene + scenes.FIRST, asked[:, None], axis=1)


def _ended(words: np.ndarray) -> np.ndarray:
    """Texts with their end, int32 (n, T + 1)."""
    return np.pad(words, ((0, 0), (0, 1)), constant_values=END).astype(np.int32)


def regions(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The pixels around the centres ``places`` (y of both objects, x of both), (n, 2, 11, 11, 3)."""
    reach = SIDE // 2
    wide = np.pad(image, ((0, 0), (reach, reach), (reach, reach), (0, 0)), constant_values=scenes.BACKGROUND)
    along = np.arange(SIDE)  # a centre at c is at c + reach of the wider picture
    y, x = places[:, :REGIONS, None, None] + along[:, None], places[:, REGIONS:, None, None] + along
    return wide[np.arange(len(image))[:, None, None, None], y, x]


def boxes(places: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom end of each object, and its area, in shares of the picture: float32 (n, 2, 5)."""
    radius = np.array(scenes.RADII)
    y, x, size = places[:, :REGIONS], places[:, REGIONS:], np.broadcast_to(2 * radius + 1, (len(places), REGIONS))
    left, top = (x - radius) / scenes.SIDE, (y - radius) / scenes.SIDE
    share = size / scenes.SIDE
    return np.stack([left, top, left + share, top + share, share**2], axis=2).astype(np.float32)


def make(config: Config) -> Graphs:
    """The scenes of a configuration."""
    return Graphs(config)
