"""Objectives: corruption of inputs, and loss terms from a model's outputs.

A term is a pair (sum, count) in float32: the summed loss and number of predictions of each example (B,), or of each of
its positions (B, T). The trainer takes sum / count over the batch; evaluation sums by document and by position.
Functions that need the examples of other devices take the name of the mesh axis, or None if the batch is whole.

Which positions an objective hides is random, but how many positions and spans is fixed by the shape. So counts of loss
tokens are exact, and every array has a static shape.

What is random has a key for each example (``keys``, (B,)), so that it is the same however a batch is split: over
microbatches, devices, or evaluation batches of another size.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from scaling.errors import Code, UserError

Term = tuple[jax.Array, jax.Array]

UNITS = ("token", "span", "word")


def index(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Index of each example among those that share a key, (B,): in the whole batch of a step, or the evaluation set.

    The trainer puts it into a batch as ``example``; without it the batch is whole, and counted from 0.
    """
    return batch["example"] if "example" in batch else jnp.arange(len(next(iter(batch.values()))))


def keys(key: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """A key for each example of a batch, (B,), which depends on ``key`` and the example's ``index`` alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index(batch))


def progress(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Share of the run's training that is done, (): from 0 at its first step, and 1 in evaluation.

    The trainer puts it into the batches of a family that is ``paced``.
    """
    return batch["progress"] if "progress" in batch else jnp.float32(1)


def _split(keys_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    first_B, second_B = jax.vmap(jax.random.split, out_axes=1)(keys_B)
    return first_B, second_B


def uniform(keys_B: jax.Array, count: int) -> jax.Array:
    """``count`` numbers of [0, 1) for each example, (B, count) float32."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys_B)


def normal(keys_B: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers of a shape for each example, (B, *shape) float32."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys_B)


def _whole(keys_B: jax.Array, count: int, below: int) -> jax.Array:
    """``count`` whole numbers from 0 to ``below`` - 1 for each example, int32 (B, count)."""
    return jax.vmap(lambda key: jax.random.randint(key, (count,), 0, below))(keys_B)


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, (B, T) float32. Log-sum-exp minus a gather: no (B, T, V) log-probabilities are kept."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    # The gradient of a gather is a scatter. On a CPU that is the faster (10 to 30 % of the head's time); an accelerator
    # would first fill zeros of (B, T, V), where a comparison fuses with the softmax's gradient.
    gather = _gather if jax.default_backend() == "cpu" else _gather_with_comparison
    # Before the sum: traced in the other order, gradients of a split batch of pairs are sent twice as often.
    chosen_BT = gather(logits_BTV, targets_BT)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT


def _gather(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    return jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]


def _gather_forward(logits_BTV: jax.Array, targets_BT: jax.Array):
    return _gather(logits_BTV, targets_BT), (logits_BTV[..., :0, :], targets_BT)  # empty: only V is needed


def _gather_backward(kept: tuple[jax.Array, jax.Array], gradient_BT: jax.Array):
    empty, targets_BT = kept
    column_V = jnp.arange(empty.shape[-1], dtype=targets_BT.dtype)
    return jnp.where(column_V == targets_BT[..., None], gradient_BT[..., None], 0), None


_gather_with_comparison = jax.custom_vjp(_gather)
_gather_with_comparison.defvjp(_gather_forward, _gather_backward)


def clm(nats_BT: jax.Array, mask_BT: jax.Array | None = None) -> Term:
    """Language modelling: nats of each position where the mask is 1; of all positions without a mask."""
    if mask_BT is None:
        return nats_BT, jnp.ones(nats_BT.shape, jnp.float32)
    mask_BT = mask_BT.astype(jnp.float32)
    return nats_BT * mask_BT, mask_BT


def divergence(taught_BTV: jax.Array, logits_BTV: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """T^2 KL(teacher || student) in nats of each position, (B, T) float32, both softened by the temperature T.

    The divergence's gradient falls as 1 / T^2, so that the factor keeps its weight (arXiv 1503.02531, section 2.1).
    """
    taught_BTV, own_BTV = (
        jax.nn.log_softmax(each.astype(jnp.float32) / temperature) for each in (taught_BTV, logits_BTV)
    )
    return temperature**2 * (jnp.exp(taught_BTV) * (taught_BTV - own_BTV)).sum(axis=-1)


def softened(logits_: jax.Array, own_: jax.Array, taught_: jax.Array | None, weight: float | jax.Array) -> jax.Array:
    """Cross-entropy in nats with targets of which a share is a teacher's distribution and the rest the truth.

    Args:
      logits_: (..., C). own_: index of the truth. taught_: the teacher's logits, (..., C), zeros where targets are
        smoothed; None: the truth is all.
      weight: the teacher's share.
    """
    nats_ = cross_entropy(logits_, own_)
    if taught_ is None:
        return nats_
    logits_, shares_ = logits_.astype(jnp.float32), jax.nn.softmax(taught_.astype(jnp.float32))
    soft_ = jax.nn.logsumexp(logits_, axis=-1) - (shares_ * logits_).sum(axis=-1)
    return (1 - weight) * nats_ + weight * soft_


def classify(logits_BC: jax.Array, labels_B: jax.Array) -> Term:
    """Classification: nats per example, over C classes."""
    return cross_entropy(logits_BC, labels_B), jnp.ones(len(labels_B), jnp.float32)


def error(logits_BC: jax.Array, labels_B: jax.Array) -> Term:
    """Share of examples whose most probable class is wrong: a metric, without a gradient."""
    return (logits_BC.argmax(axis=-1) != labels_B).astype(jnp.float32), jnp.ones(len(labels_B), jnp.float32)


def before_padding(mask_BT: jax.Array) -> jax.Array:
    """True up to the last position with mask 1; later positions are padding."""
    return jnp.flip(jnp.cumsum(jnp.flip(mask_BT, axis=1), axis=1), axis=1) > 0


def before_end(tokens_BT: jax.Array) -> jax.Array:
    """True before the end of each text, which is its highest token, and the first of them; bool (B, T)."""
    return jnp.arange(tokens_BT.shape[1]) < tokens_BT.argmax(axis=1)[:, None]


def ranks(scores_BT: jax.Array) -> jax.Array:
    """Rank of each entry in its row, ascending, ties in the order of T: int32 (B, T)."""
    return jnp.argsort(jnp.argsort(scores_BT, axis=1, stable=True), axis=1).astype(jnp.int32)


def marked_starts(marks_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where a word and where a sentence begins, bool (B, T), from the marks of a tokenizer's tokens (uint8; their bits
    are those of ``scaling.data._tokenizer``). A sentence begins after a line's end, or by a space after a full stop."""
    continues_BT, within_BT, line_BT, stop_BT, space_BT = ((marks_BT & 1 << bit) > 0 for bit in range(5))
    before_BT = functools.partial(jnp.pad, pad_width=((0, 0), (1, 0)))
    words_BT = ~(continues_BT & before_BT(within_BT[:, :-1]))
    return words_BT, (before_BT(line_BT[:, :-1]) & ~line_BT) | (before_BT(stop_BT[:, :-1]) & space_BT & ~line_BT)


def word_starts(tokens_BT: jax.Array) -> jax.Array:
    """True where a word of bytes begins: a letter, digit, underscore or non-ASCII byte after something else, and every
    byte that is none of these."""
    table = np.zeros(256, bool)
    table[[*b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
    inside_BT = jnp.asarray(table)[jnp.clip(tokens_BT, 0, 255)]
    before_BT = jnp.pad(inside_BT[:, :-1], ((0, 0), (1, 0)))
    return ~(inside_BT & before_BT)


def sentence_starts(tokens_BT: jax.Array) -> jax.Array:
    """True where a sentence of bytes begins: after a line's end, or after ``.``, ``!`` or ``?`` and a space. Never at
    the first two positions, of which it cannot be known."""
    here_BT, before_BT = tokens_BT[:, 2:], tokens_BT[:, 1:-1]
    line_BT = (before_BT == ord("\n")) & (here_BT != ord("\n"))
    ended_BT = jnp.isin(tokens_BT[:, :-2], jnp.asarray(list(b".!?"))) & (before_BT == ord(" "))
    return jnp.pad(line_BT | ended_BT, ((0, 0), (2, 0)))


def choose(
    keys_B: jax.Array,
    tokens_BT: jax.Array,
    count_B: jax.Array,
    keep_BT: jax.Array,
    unit: str = "token",
    span: float = 3.0,
    starts_BT: jax.Array | None = None,
) -> jax.Array:
    """Chooses ``count_B`` positions of each example at random, among those of ``keep_BT``; bool (B, T).

    Args:
      unit: ``token``: independent positions; ``span``: runs whose lengths are geometric with mean ``span`` (SpanBERT,
        arXiv 1907.10529, without its cut at 10), of which the last one is cut so that the count is exact; ``word``:
        whole words. They are taken in random order; one that is longer than what is left of the count is skipped, as in
        BERT's code (arXiv 1810.04805), so that ``count_B`` is an upper bound.
      starts_BT: where words begin, bool; None: those of a byte text (``word_starts``).
    """
    draw_B, cut_B = _split(keys_B)
    time = tokens_BT.shape[1]
    scores_BT = uniform(draw_B, time)
    if unit == "word":
        starts_BT = word_starts(tokens_BT) if starts_BT is None else starts_BT
        return _whole_units(scores_BT, starts_BT, count_B, keep_BT)
    if unit == "span":
        starts_BT = uniform(cut_B, time) < 1 / span
        unit_BT = jnp.cumsum(starts_BT.at[:, 0].set(False), axis=1)
        scores_BT = jnp.take_along_axis(scores_BT, unit_BT, axis=1)
    return (ranks(jnp.where(keep_BT, scores_BT, 2.0)) < count_B[:, None]) & keep_BT


def _whole_units(scores_BU: jax.Array, starts_BT: jax.Array, count_B: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """Positions of the units that are taken in order of their scores, without those that do not fit; bool (B, T)."""
    rows = jnp.arange(len(starts_BT))[:, None]
    unit_BT = jnp.cumsum(starts_BT.at[:, 0].set(False), axis=1)
    size_BU = jnp.zeros(starts_BT.shape, jnp.int32).at[rows, unit_BT].add(keep_BT.astype(jnp.int32))
    order_BU = jnp.argsort(scores_BU, axis=1)

    def take(left_B: jax.Array, size_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        fits_B = size_B <= left_B
        return left_B - jnp.where(fits_B, size_B, 0), fits_B

    _, fits_UB = jax.lax.scan(take, count_B, jnp.take_along_axis(size_BU, order_BU, axis=1).T)
    taken_BU = jnp.zeros(starts_BT.shape, bool).at[rows, order_BU].set(fits_UB.T)
    return jnp.take_along_axis(taken_BU, unit_BT, axis=1) & keep_BT


def nodes(keys_B: jax.Array, graph_BT: jax.Array, kind: tuple[int, int], keep_BT: jax.Array, rate: float) -> jax.Array:
    """Chooses whole nodes of a kind, the share ``rate`` of them and at least one; their tokens, bool (B, T).

    Args:
      graph_BT: the node of each token, its number (from 1) times the number of kinds, plus its kind; 0: of none.
      kind: the kind, and the number of kinds.
      keep_BT: False: no token of a node that is chosen from.
    """
    of_kind_BT = keep_BT & (graph_BT > 0) & (graph_BT % kind[1] == kind[0])
    first_BT = of_kind_BT & (graph_BT != jnp.pad(graph_BT[:, :-1], ((0, 0), (1, 0))))
    taken_BT = choose(keys_B, graph_BT, mlm_count(first_BT, rate), first_BT)
    return of_kind_BT & (graph_BT[:, :, None] == jnp.where(taken_BT, graph_BT, 0)[:, None]).any(axis=2)


def tasks(key: jax.Array, index_B: jax.Array, shares: tuple[float, ...]) -> list[jax.Array]:
    """One task for each example, bool (B,) for each of ``shares``, which sum to 1.

    Any 2^k aligned indices have exactly these shares, if they are multiples of 2^-k (``levels``).
    """
    level_B, ends = levels(key, index_B), np.cumsum((0, *shares)).tolist()
    return [(level_B >= low) & (level_B < high) for low, high in zip(ends[:-1], (*ends[1:-1], 2))]


def mlm_count(keep_BT: jax.Array, rate: float) -> jax.Array:
    """Number of positions that mlm hides, (B,): the share ``rate`` of those in ``keep_BT``, at least one."""
    total_B = keep_BT.sum(axis=1)
    return jnp.minimum(jnp.maximum(jnp.round(rate * total_B), 1), total_B).astype(jnp.int32)


def corrupt(keys_B: jax.Array, tokens_BT: jax.Array, chosen_BT: jax.Array, vocab: int, blank: int) -> jax.Array:
    """BERT's inputs: 80 % of the chosen become ``blank``, 10 % a random token, 10 % stay (arXiv 1810.04805)."""
    fate_B, other_B = _split(keys_B)
    fate_BT = uniform(fate_B, tokens_BT.shape[1])
    random_BT = _whole(other_B, tokens_BT.shape[1], vocab)
    replaced_BT = jnp.where(fate_BT < 0.8, blank, jnp.where(fate_BT < 0.9, random_BT, tokens_BT))
    return jnp.where(chosen_BT, replaced_BT, tokens_BT)


def levels(key: jax.Array, index_B: jax.Array) -> jax.Array:
    """A number of [0, 1) for each index, (B,) float32: uniform over ``key``, and stratified over consecutive indices.

    The index with its bits reversed (van der Corput's sequence), shifted by a random number: any 2^k aligned indices
    have one number in each of 2^k equal parts of [0, 1), whatever the size of the batch.
    """
    bits_B = index_B.astype(jnp.uint32)
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF)):
        bits_B = ((bits_B >> width) & mask) | ((bits_B & mask) << width)
    return ((bits_B + jax.random.bits(key, (), jnp.uint32)) >> 8).astype(jnp.float32) / 2**24


def diffusion_count(key: jax.Array, index_B: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """Number of positions that masked diffusion hides, (B,): uniform from 1 to T, stratified over the batch."""
    total_B = keep_BT.sum(axis=1)
    level_B = levels(key, index_B)
    return jnp.minimum(jnp.floor(level_B * total_B).astype(jnp.int32) + 1, total_B)


def diffusion(nats_BT: jax.Array, hidden_BT: jax.Array, keep_BT: jax.Array) -> Term:
    """Masked discrete diffusion: an upper bound on -log p of the kept tokens, from the nats of the hidden ones.

    With masking rate t uniform on (0, 1] and weight 1 / t (arXiv 2406.07524, 2406.04329) the bound is
    E_t[1/t sum of hidden nats]. Since integral 1/t Binomial(k; T, t) dt = 1/k, this is E_k[T/k sum of hidden nats] with
    k uniform on 1..T and the k positions uniform, for every network that does not see t: the same expectation, with a
    bounded weight. The number of ``hidden_BT`` must come from ``diffusion_count``.
    """
    total_B = keep_BT.sum(axis=1).astype(jnp.float32)
    weight_B = total_B / jnp.maximum(hidden_BT.sum(axis=1), 1)
    return (nats_BT * hidden_BT).sum(axis=1) * weight_B, total_B


class Pairs(NamedTuple):
    """Pairs of segments: for each position of the text its place in the example's own tokens followed by those of the
    other, (B, T); where the second segment begins, and whether it is the other's, (B,)."""

    source_BT: jax.Array
    split_B: jax.Array
    is_other_B: jax.Array

    def of(self, own_BT: jax.Array, other_BT: jax.Array) -> jax.Array:
        """The pairs' entries of an array of both."""
        return jnp.take_along_axis(jnp.concatenate([own_BT, other_BT], axis=1), self.source_BT, axis=1)


def pair(keys_B: jax.Array, starts_BT: jax.Array, other_starts_BT: jax.Array) -> Pairs:
    """Next-sentence prediction: in half of the examples the second segment is as much of another example.

    An example is split where a sentence begins, at the place nearest to its middle; the other's part begins at its last
    sentence that leaves enough. Where none begins, the cut is within a sentence: at the middle, or at the split.

    Args:
      starts_BT, other_starts_BT: where sentences begin, bool.
    """
    time = starts_BT.shape[1]
    place_T = jnp.arange(time)
    far_BT = jnp.where(starts_BT & (place_T > 0), jnp.abs(place_T - time // 2), time)
    split_B = jnp.where(far_BT.min(axis=1) < time, far_BT.argmin(axis=1), time // 2)
    last_B = jnp.where(other_starts_BT & (place_T <= split_B[:, None]), place_T, 0).max(axis=1)
    from_B = jnp.where(last_B > 0, last_B, split_B)
    is_other_B1 = uniform(keys_B, 1) < 0.5
    shifted_BT = time + place_T + (from_B - split_B)[:, None]
    source_BT = jnp.where(is_other_B1 & (place_T >= split_B[:, None]), shifted_BT, place_T)
    return Pairs(source_BT, split_B, is_other_B1[:, 0].astype(jnp.int32))


def span_shape(time: int, rate: float, span: float) -> tuple[int, int]:
    """(noise tokens, spans) of span corruption on ``time`` tokens."""
    noise = min(max(round(rate * time), 1), time - 1)
    return noise, min(max(round(noise / span), 1), noise, time - noise)


def _pieces(keys_B: jax.Array, total: int, count: int) -> jax.Array:
    """Cuts ``total`` items at random into ``count`` nonempty pieces; the piece of each item, int32 (B, total)."""
    if total == 1:
        return jnp.zeros((len(keys_B), 1), jnp.int32)
    cuts = ranks(uniform(keys_B, total - 1)) < count - 1
    return jnp.pad(jnp.cumsum(cuts, axis=1), ((0, 0), (1, 0)))


def span_noise(keys_B: jax.Array, time: int, rate: float, span: float) -> jax.Array:
    """Noise mask of T5 (arXiv 1910.10683), bool (B, T): random spans of text and noise alternate, text first."""
    noise, count = span_shape(time, rate, span)
    first_B, second_B = _split(keys_B)
    # Sorting by this key interleaves the pieces of the two streams: text 0, noise 0, text 1, noise 1 ...
    clean_BN = _pieces(first_B, time - noise, count)
    noisy_BN = _pieces(second_B, noise, count)
    order_BT = jnp.concatenate([2 * clean_BN, 2 * noisy_BN + 1], axis=1)
    is_noise = jnp.arange(time) >= time - noise
    return jnp.take_along_axis(
        jnp.broadcast_to(is_noise, order_BT.shape), jnp.argsort(order_BT, axis=1, stable=True), axis=1
    )


def span_corruption(
    tokens_BT: jax.Array, noise_BT: jax.Array, weight_BT: jax.Array, shape: tuple[int, int], vocab: int
):
    """Inputs and targets of span corruption, all of static shape.

    In the input each noise span is replaced by a sentinel, ``vocab`` + its index. The target lists each sentinel
    followed by the tokens that it replaces, and ends with one more sentinel.

    Args:
      weight_BT: 1 where a token may count in the loss; a sentinel counts where its span's first token does.
      shape: (noise tokens, spans), as ``span_shape`` gives them.

    Returns:
      input_BS, kept_BS (the position in T of each input), target_BU, weight_BU.
    """
    noise, count = shape
    size, time = tokens_BT.shape
    start_BT = noise_BT & ~jnp.pad(noise_BT[:, :-1], ((0, 0), (1, 0)))
    sentinel_BT = vocab + jnp.cumsum(start_BT, axis=1) - 1
    kept_BS = jnp.argsort(noise_BT & ~start_BT, axis=1, stable=True)[:, : time - noise + count]
    input_BS = jnp.take_along_axis(jnp.where(start_BT, sentinel_BT, tokens_BT), kept_BS, axis=1)
    both_BX = jnp.stack([sentinel_BT, tokens_BT], axis=2).reshape(size, 2 * time)
    used_BX = jnp.stack([start_BT, noise_BT], axis=2).reshape(size, 2 * time)
    order_BU = jnp.argsort(~used_BX, axis=1, stable=True)[:, : noise + count]
    last_B1 = jnp.full((size, 1), vocab + count, both_BX.dtype)
    target_BU = jnp.concatenate([jnp.take_along_axis(both_BX, order_BU, axis=1), last_B1], axis=1)
    weight_BU = jnp.take_along_axis(jnp.repeat(weight_BT, 2, axis=1), order_BU, axis=1)
    return input_BS, kept_BS, target_BU, jnp.concatenate([weight_BU, jnp.ones((size, 1), weight_BU.dtype)], axis=1)


def squared_error(predicted_BPX: jax.Array, target_BPX: jax.Array) -> Term:
    """Squared error: the mean over each of P patches; counts patches."""
    error_BP = jnp.square(predicted_BPX.astype(jnp.float32) - target_BPX).mean(axis=-1)
    return error_BP.sum(axis=1), jnp.full(len(error_BP), error_BP.shape[1], jnp.float32)


def absolute_error(predicted_BPX: jax.Array, target_BPX: jax.Array) -> Term:
    """Absolute error: the mean over each of P patches; counts patches."""
    error_BP = jnp.abs(predicted_BPX.astype(jnp.float32) - target_BPX).mean(axis=-1)
    return error_BP.sum(axis=1), jnp.full(len(error_BP), error_BP.shape[1], jnp.float32)


def turns(image_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotation prediction (arXiv 1803.07728): each square image turned by 0, 1, 2 and 3 quarters, one after another
    (4B, H, W, C), and by how many (4B,)."""
    turned_B4HWC = jnp.stack([jnp.rot90(image_BHWC, quarters, (1, 2)) for quarters in range(4)], axis=1)
    return turned_B4HWC.reshape(-1, *image_BHWC.shape[1:]), jnp.tile(jnp.arange(4), len(image_BHWC))


def matches(left_BD: jax.Array, right_BD: jax.Array, axis: str | tuple[str, ...] | None = None):
    """Scores of all pairs of a contrastive loss.

    Args:
      axis: inside ``shard_map``, the mesh axes over which the batch is split; candidates C are gathered from all of
        them. None if the batch is whole, as under ``jit`` on any mesh, where the partitioner gathers.

    Returns:
      (scores_BC, back_BC, own_B): each left against every right, each right against every left, and the index of each
      example's own partner.
    """

    def all_of(x_BD: jax.Array) -> jax.Array:
        return x_BD if axis is None else jax.lax.all_gather(x_BD, axis, tiled=True)

    own_B = jnp.arange(len(left_BD)) + (0 if axis is None else jax.lax.axis_index(axis) * len(left_BD))
    scores_BC = jnp.einsum("bd,cd->bc", left_BD, all_of(right_BD))
    back_BC = scores_BC.T if axis is None else jnp.einsum("bd,cd->bc", right_BD, all_of(left_BD))
    return scores_BC, back_BC, own_B


def contrast(scores_BC: jax.Array, back_BC: jax.Array, own_B: jax.Array) -> Term:
    """Symmetric InfoNCE (arXiv 2103.00020, figure 3): nats of the own partner among all, mean of both directions."""
    return (cross_entropy(scores_BC, own_B) + cross_entropy(back_BC, own_B)) / 2, jnp.ones(len(own_B), jnp.float32)


def retrieval_error(scores_BC: jax.Array, back_BC: jax.Array, own_B: jax.Array) -> Term:
    """Share of examples whose best match is not their partner, mean of both directions: a metric."""
    (there_B, count_B), (back_B, _) = error(scores_BC, own_B), error(back_BC, own_B)
    return (there_B + back_B) / 2, count_B


def another(keys_B: jax.Array, scores_BB: jax.Array, least: float = 0.0) -> jax.Array:
    """A hard negative of each example of a whole batch: another, drawn with weights softmax(scores) + ``least``; its
    index, int32 (B,).

    Raises:
      UserError: there is one example, which has no other beside it (TOO_FEW).
    """
    if (size := len(scores_BB)) < 2:
        raise UserError("batch", size, "must be at least 2: examples are each other's negatives", Code.TOO_FEW)
    # Logarithms, since weights themselves would be 0 where the own example is far the most alike.
    weights_BB = jax.nn.log_softmax(jax.lax.stop_gradient(scores_BB))
    weights_BB = jnp.logaddexp(weights_BB, jnp.log(least)) if least else weights_BB
    weights_BB = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, weights_BB)
    return jax.vmap(jax.random.categorical)(keys_B, weights_BB).astype(jnp.int32)
