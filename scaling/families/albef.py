"""ALBEF (arXiv 2107.07651): picture and caption are aligned, then read together, beside a slow average as teacher.

The blocks are those of ``blocks.aligned``. Three losses of weight 1:

``contrast``: nats of the own partner among the batch's and those of a queue, mean of both directions. The candidates
are the teacher's unit vectors, of the batch and of the last ``queue`` examples before it.
``matching``: whether text and picture belong together, by the class token behind the fusion blocks. Beside each pair
are two that do not, its picture with another's text and its text with another's picture, drawn from the batch by
softmax(similarity) with random numbers of the example's own. ``words``: hidden words, given the picture.

The teacher is averaged after every step, so that what teaches a step holds the student before it, as in salesforce's
code, where the average comes first. A target of contrast and words is the truth with weight 1 - a and the teacher's
distribution with weight a, which rises to ``alpha`` over the first ``ramp`` of training. Where ``alpha`` and ``queue``
are 0 there is no teacher, and the candidates are the student's own vectors of the batch.

At the start contrast is ln(batch + queue) for any target, since the picture's vectors and the queues are zero, matching
ln 2 (a head that knows no more than how frequent the classes are has .6365), and words ln V.

Evaluation adds nothing to the queue and takes teacher, queue and a = ``alpha`` as they stand: contrast and words then
hold a target that every model makes for itself. With no part of the teacher, and so for comparing models, are
``words_plain``, of the truth alone, and ``contrast_plain`` and ``retrieval``, among the evaluation batch's own vectors.

What differs from the paper and its code: mean patch for the ViT's class token, RMSNorm before each block for LayerNorm
behind it, QK-norm, rotary places of the text, an untied head, a start from scratch; the temperature's logarithm is
learned. A run that inherits another's ``student`` without its ``teacher`` has one as drawn. D counts positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import msgspec

from scaling import objectives
from scaling.blocks import aligned, average
from scaling.blocks.aligned import Encoded
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import STATE, Component
from scaling.families import Aux, Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

Batch: TypeAlias = Mapping[str, jax.Array]
COLDEST, HOTTEST = 0.001, 0.5  # bounds of the temperature
QUEUES = ("image_queue", "text_queue")
PAIRS = (1, 0, 0)  # labels: a picture and its text, the picture with another's text, the text with another's picture
PASSES = len(PAIRS) + 1  # through the fusion blocks: the pairs, and the text with hidden words


@dataclass(frozen=True)
class Config(aligned.Shape):
    """Shape of the encoders (``aligned.Shape``), and:

    Attributes:
      temperature: initial, of the vectors' cosines; it is learned.
      rate: share of a caption's words that are hidden.
      decay: share of the teacher that a step keeps.
      queue: examples whose vectors the queue holds, a multiple of the batch; the paper's is 128 batches.
      alpha: largest weight of the teacher's distribution in a target.
      ramp: share of training in which that weight rises; the paper's is one epoch of 30.
    """

    temperature: float = setting(0.07, least=COLDEST, most=HOTTEST)
    rate: float = setting(0.15, above=0, below=1)
    decay: float = setting(0.995, least=0, most=1)
    queue: int = setting(16, least=0)
    alpha: float = setting(0.4, least=0, most=1)
    ramp: float = setting(0.1, above=0, most=1)

    @property
    def taught(self) -> bool:
        """Whether there is a teacher."""
        return self.queue > 0 or self.alpha > 0

    @property
    def queues(self) -> tuple[str, ...]:
        """Names of the queues; none is empty, which no checkpoint can hold."""
        return QUEUES if self.queue else ()


ladder = gpt.ladder


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; the teacher is a copy of the student."""
    c, student = config, aligned.init(key, config)
    heads = {"matching": jnp.zeros((c.width, 2)), "log_temperature": jnp.float32(math.log(c.temperature))}
    if not c.taught:
        return {"student": student, **heads}
    queues = {name: jnp.zeros((c.queue, c.project)) for name in c.queues}
    return {"student": student, **heads, "teacher": jax.tree.map(jnp.copy, student), **queues}


def frozen(config: Config) -> tuple[str, ...]:
    """What ``after`` changes, and no gradient."""
    return ("teacher", *config.queues) if config.taught else ()


beside = frozen


def clamped(config: Config) -> dict[str, tuple[float, float]]:
    """Bounds of the temperature's logarithm."""
    del config
    return {"log_temperature": (math.log(COLDEST), math.log(HOTTEST))}


def exact(config: Config) -> tuple[str, ...]:
    """What scales or is compared: the temperature and the queues."""
    return ("log_temperature", *config.queues)


def paced(config: Config) -> bool:
    """Whether the weight of the teacher's distribution rises."""
    return config.alpha > 0


# --- the losses


def _kept(batch: Batch) -> jax.Array:
    """Which positions, the class token's first, are no padding, (B, S)."""
    keep_BT = objectives.before_padding(batch["mask"]) if "mask" in batch else batch["tokens"][:, 1:] >= 0
    return jnp.pad(keep_BT, ((0, 0), (1, 0)), constant_values=True)


def hide(batch: Batch, keep_BS: jax.Array, key: jax.Array, config: Config) -> tuple[jax.Array, jax.Array]:
    """A caption as it is and with words hidden, (B, 2, T), and which, (B, T): never the end."""
    words_BT, (first, second) = batch["tokens"][:, 1:], jax.random.split(key)
    may_BT = keep_BS[:, 1:] & objectives.before_end(words_BT)
    count_B = objectives.mlm_count(may_BT, config.rate)
    hidden_BT = objectives.choose(objectives.keys(first, batch), words_BT, count_B, may_BT)
    keys_B = objectives.keys(second, batch)
    seen_BT = objectives.corrupt(keys_B, words_BT, hidden_BT, config.vocab, config.vocab)
    return jnp.stack([words_BT, seen_BT], axis=1), hidden_BT


def _similarities(own: Encoded, taught: Encoded | None, parameters: Any) -> tuple[Any, Any]:
    """Logits of pictures among texts and of texts among pictures, (B, C) each: the student's, and the teacher's."""
    temperature = jnp.exp(parameters["log_temperature"].astype(jnp.float32))
    if taught is None:
        scores_BC, back_BC, _ = objectives.matches(own.image_BE, constrain(own.text_BE, "candidates", "embed"))
        return (scores_BC / temperature, back_BC / temperature), (None, None)
    axes = "candidates", "embed"
    images_CE, texts_CE = (
        constrain(jax.lax.stop_gradient(jnp.concatenate([new_BE, parameters.get(name, new_BE[:0])])), *axes)
        for name, new_BE in zip(QUEUES, (taught.image_BE, taught.text_BE))
    )

    def both(one: Encoded, temperature: jax.Array) -> tuple[jax.Array, jax.Array]:
        pairs = ((one.image_BE, texts_CE), (one.text_BE, images_CE))
        found = [jnp.einsum("be,ce->bc", constrain(x_BE, "batch", "embed"), y_CE) for x_BE, y_CE in pairs]
        return found[0] / temperature, found[1] / temperature

    return both(own, temperature), both(taught, jax.lax.stop_gradient(temperature))


def _read(parameters: Any, own: Encoded, keep_BS: jax.Array, others: list[jax.Array], config: Config) -> Any:
    """Logits of a pair and two that are none, (B, 3, 2), and of the words of the second text, (B, T, V).

    Args:
      others: by example, whose text is put beside its picture, and whose picture beside its text.
    """

    def of(x_: jax.Array, index_B: jax.Array) -> jax.Array:
        rest = ("time", "embed")[: x_.ndim - 1]
        return constrain(constrain(x_, "candidates", *rest)[index_B], "batch", *rest)

    (whole_BSD, hidden_BSD), memory_BPD, size = own.states_BNSD.swapaxes(0, 1), own.memory_BPD, len(keep_BS)
    passes = (
        [whole_BSD, of(whole_BSD, others[0]), whole_BSD, hidden_BSD],
        [keep_BS, of(keep_BS, others[0]), keep_BS, keep_BS],
        [memory_BPD, memory_BPD, of(memory_BPD, others[1]), memory_BPD],
    )
    flat = [jnp.stack(each, axis=1).reshape(size * PASSES, *each[0].shape[1:]) for each in passes]
    fused: Any = aligned.apply("fuse", parameters["student"], config, *flat)
    fused_BNSD = fused.reshape(size, PASSES, *fused.shape[1:])
    judged_BN2 = jnp.einsum("bnd,dc->bnc", fused_BNSD[:, :3, 0], parameters["matching"])
    return judged_BN2, aligned.apply("words", parameters["student"], config, fused_BNSD[:, 3])


def loss_and_aux(
    parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config
) -> tuple[dict[str, objectives.Term], Aux]:
    """{"contrast": nats of a pair, "matching": of each of three, "words": of a hidden word, "words_plain": of the truth
    alone}, and the teacher's vectors. Raises as ``objectives.another``."""
    c, size, parts = config, len(batch["image"]), cast("Any", parameters)
    hiding, *drawing = jax.random.split(key, 3)
    keep_BS = _kept(batch)
    words_BNT, hidden_BT = hide(batch, keep_BS, hiding, c)
    own, taught, taught_BTV = aligned.encode(parts["student"], batch["image"], words_BNT, keep_BS, c), None, None
    if c.taught:
        # Gradients are stopped at the weights, so that no product of the teacher is differentiated.
        teacher = jax.lax.stop_gradient(parts["teacher"])
        taught = aligned.encode(teacher, batch["image"], words_BNT, keep_BS, c)
        fused = aligned.apply("fuse", teacher, c, taught.states_BNSD[:, 1], keep_BS, taught.memory_BPD)
        taught_BTV = aligned.apply("words", teacher, c, fused)
    weight = c.alpha * jnp.minimum(objectives.progress(batch) / c.ramp, 1)
    directions, targets = _similarities(own, taught, parts)
    nats = [objectives.softened(each, jnp.arange(size), to, weight) for each, to in zip(directions, targets)]
    others = [objectives.another(objectives.keys(k, batch), x_[:, :size]) for k, x_ in zip(drawing, directions)]
    judged_BN2, words_BTV = _read(parts, own, keep_BS, others, c)
    nats_BN = objectives.cross_entropy(judged_BN2, jnp.broadcast_to(jnp.array(PAIRS), (size, len(PAIRS))))
    words_BT, ones_B = words_BNT[:, 0], jnp.ones(size, jnp.float32)
    terms = {
        "contrast": ((nats[0] + nats[1]) / 2, ones_B),
        "matching": (nats_BN.sum(axis=1), len(PAIRS) * ones_B),
        "words": objectives.clm(objectives.softened(words_BTV, words_BT, taught_BTV, weight), hidden_BT),
        "words_plain": objectives.clm(objectives.cross_entropy(words_BTV, words_BT), hidden_BT),
    }
    return terms, {} if taught is None else dict(zip(c.queues, (taught.image_BE, taught.text_BE)))


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """The terms of ``loss_and_aux``."""
    return loss_and_aux(parameters, batch, key, config)[0]


def metrics(parameters: Parameters, batch: dict[str, jax.Array], config: Config):
    """{"contrast_plain": nats of a pair among the student's own vectors, "retrieval": share found wrong}."""
    parts, words_B1T = cast("Any", parameters), batch["tokens"][:, None, 1:]
    own = aligned.encode(parts["student"], batch["image"], words_B1T, _kept(batch), config)
    (scores_BC, back_BC), _ = _similarities(own, None, parts)
    found = scores_BC, back_BC, jnp.arange(len(scores_BC))
    return {"contrast_plain": objectives.contrast(*found), "retrieval": objectives.retrieval_error(*found)}


def after(parameters: Parameters, aux: Aux, key: jax.Array, config: Config) -> Parameters:
    """The teacher's average, and the queues with this batch at their end."""
    del key
    if not config.taught:
        return parameters
    parts: Any = parameters
    teacher = average.moving(parts["teacher"], parts["student"], config.decay)
    queues = {name: jnp.concatenate([parts[name], new.astype(jnp.float32)])[len(new) :] for name, new in aux.items()}
    return {**parameters, "teacher": teacher, **queues}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss`` and ``metrics``, the headline first. That of contrast at the start is ln(batch + queue)."""
    soft, picture = f"{config.alpha:g} of a teacher's targets" if config.alpha else None, "the picture"
    pair, hidden = Unit(per="pair"), Unit(per="hidden token", given=picture)
    words = Term(hidden, start=math.log(config.vocab), share=config.rate)
    judged = Term(Unit(per="judged pair"), start=math.log(2), count=3, batchwise=True, candidates=lambda b: b - 1)
    plain = Term(pair, weight=0.0, count=1, batchwise=True)
    softly = msgspec.structs.replace(hidden, given=f"{picture}, {soft}" if soft else picture)
    return {
        "contrast": Term(Unit(per="pair", given=soft), count=1, batchwise=True, candidates=lambda b: b + config.queue),
        "matching": judged,
        "words": replace(words, unit=softly),
        "words_plain": replace(words, weight=0.0),
        "contrast_plain": plain,
        "retrieval": replace(plain, unit=Unit(quantity="share", per="pair")),
    }


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of pairs, each {config.patches} of image, {config.text} of text"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of a pair, of which text, size of the vocabulary, and side of the image."""
    c = config
    return {"context": c.patches + c.text, "text": c.text, "vocab": c.vocab, "image": c.image}


def components(config: Config) -> list[Component]:
    """The student, the teacher forward only, and similarities with the batch and the queue, of which those of the
    student have one gradient: the candidates are held still."""
    c, alike = config, 2 * config.project
    parts = [
        *(replace(each, part="student") for each in aligned.components(c, 2, PASSES)),
        Component("matching", "head", 2 * c.width, 2 * c.width, len(PAIRS)),
        Component("log_temperature", "head", 1),
    ]
    if not c.taught:
        return [*parts, Component("similarity", "head", 0, among=alike)]
    for each in aligned.components(c, 2, 1):
        kept = {"name": f"teacher_{each.name}", "group": STATE, "k": 2, "first": False, "part": "teacher"}
        parts.append(replace(each, **kept))
    for name in c.queues:
        read = c.queue * c.project
        parts += [Component(name, STATE, read, read, 1, k=4), Component(f"teacher_{name}", STATE, 0, read, 1, k=2)]
    parts.append(Component("similarity", "head", 0, among=2 * alike, held=True))
    return [*parts, Component("teacher_similarity", STATE, 0, among=2 * alike, k=2)]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    tree: Axes = {"student": aligned.axes(), "matching": ("embed", "vocab"), "log_temperature": ()}
    queues: Axes = dict.fromkeys(config.queues, ("vocab", "embed"))
    return {**tree, "teacher": aligned.axes(), **queues} if config.taught else tree
