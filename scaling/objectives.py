"""Objectives: corruption of inputs, and loss terms from a model's outputs.

A term is a pair (sum, count) in float32: the summed loss and number of predictions of each example (B,), or of each of
its positions (B, T). The trainer takes sum / count over the batch; evaluation sums by document and by position.
Functions that need the examples of other devices take the name of the mesh axis, or None if the batch is whole.

Which positions an objective hides is random, but how many positions and spans is fixed by the shape. So counts of loss
tokens are exact, and every array has a static shape.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

Term = tuple[jax.Array, jax.Array]

UNITS = ("token", "span", "word")


def cross_entropy(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """-log p(target) in nats, (B, T) float32. Log-sum-exp minus a gather: no (B, T, V) log-probabilities are kept."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    chosen_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - chosen_BT


def clm(nats_BT: jax.Array, mask_BT: jax.Array | None = None) -> Term:
    """Language modelling: nats of each position where the mask is 1; of all positions without a mask."""
    if mask_BT is None:
        return nats_BT, jnp.ones(nats_BT.shape, jnp.float32)
    mask_BT = mask_BT.astype(jnp.float32)
    return nats_BT * mask_BT, mask_BT


def classify(logits_BC: jax.Array, labels_B: jax.Array) -> Term:
    """Classification: nats per example, over C classes."""
    return cross_entropy(logits_BC, labels_B), jnp.ones(len(labels_B), jnp.float32)


def error(logits_BC: jax.Array, labels_B: jax.Array) -> Term:
    """Share of examples whose most probable class is wrong: a metric, without a gradient."""
    return (logits_BC.argmax(axis=-1) != labels_B).astype(jnp.float32), jnp.ones(len(labels_B), jnp.float32)


def before_padding(mask_BT: jax.Array) -> jax.Array:
    """True up to the last position with mask 1; later positions are padding."""
    return jnp.flip(jnp.cumsum(jnp.flip(mask_BT, axis=1), axis=1), axis=1) > 0


def ranks(scores_BT: jax.Array) -> jax.Array:
    """Rank of each entry in its row, ascending, ties in the order of T: int32 (B, T)."""
    return jnp.argsort(jnp.argsort(scores_BT, axis=1, stable=True), axis=1).astype(jnp.int32)


def word_starts(tokens_BT: jax.Array) -> jax.Array:
    """True where a word of bytes begins: a letter, digit, underscore or non-ASCII byte after something else, and every
    byte that is none of these."""
    table = np.zeros(256, bool)
    table[[*b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz", *range(128, 256)]] = True
    inside_BT = jnp.asarray(table)[jnp.clip(tokens_BT, 0, 255)]
    before_BT = jnp.pad(inside_BT[:, :-1], ((0, 0), (1, 0)))
    return ~(inside_BT & before_BT)


def choose(
    key: jax.Array, tokens_BT: jax.Array, count_B: jax.Array, keep_BT: jax.Array, unit: str = "token", span: float = 3.0
) -> jax.Array:
    """Chooses ``count_B`` positions of each example at random, among those of ``keep_BT``; bool (B, T).

    Args:
      unit: ``token``: independent positions; ``span``: runs whose lengths are geometric with mean ``span`` (SpanBERT,
        arXiv 1907.10529, without its cut at 10); ``word``: whole words of a byte text (see ``word_starts``). Units are
        taken in random order, and the last one is cut so that the count is exact.
    """
    draw, cut = jax.random.split(key)
    scores_BT = jax.random.uniform(draw, tokens_BT.shape)
    if unit != "token":
        starts_BT = word_starts(tokens_BT) if unit == "word" else jax.random.uniform(cut, tokens_BT.shape) < 1 / span
        unit_BT = jnp.cumsum(starts_BT.at[:, 0].set(False), axis=1)
        scores_BT = jnp.take_along_axis(scores_BT, unit_BT, axis=1)
    return (ranks(jnp.where(keep_BT, scores_BT, 2.0)) < count_B[:, None]) & keep_BT


def mlm_count(keep_BT: jax.Array, rate: float) -> jax.Array:
    """Number of positions that mlm hides, (B,): the share ``rate`` of those in ``keep_BT``, at least one."""
    total_B = keep_BT.sum(axis=1)
    return jnp.minimum(jnp.maximum(jnp.round(rate * total_B), 1), total_B).astype(jnp.int32)


def corrupt(key: jax.Array, tokens_BT: jax.Array, chosen_BT: jax.Array, vocab: int, blank: int) -> jax.Array:
    """BERT's inputs: 80 % of the chosen become ``blank``, 10 % a random token, 10 % stay (arXiv 1810.04805)."""
    fate, other = jax.random.split(key)
    fate_BT = jax.random.uniform(fate, tokens_BT.shape)
    random_BT = jax.random.randint(other, tokens_BT.shape, 0, vocab)
    replaced_BT = jnp.where(fate_BT < 0.8, blank, jnp.where(fate_BT < 0.9, random_BT, tokens_BT))
    return jnp.where(chosen_BT, replaced_BT, tokens_BT)


def diffusion_count(key: jax.Array, keep_BT: jax.Array) -> jax.Array:
    """Number of positions that masked diffusion hides, (B,): uniform from 1 to T, stratified over the batch."""
    size = len(keep_BT)
    total_B = keep_BT.sum(axis=1)
    offset, order = jax.random.split(key)
    level_B = (jax.random.uniform(offset) + jax.random.permutation(order, size) / size) % 1.0
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


def pair(key: jax.Array, tokens_BT: jax.Array, split: int) -> tuple[jax.Array, jax.Array]:
    """Next-sentence prediction: (tokens_BT, is_other_B). In half of the examples the tokens from ``split`` on are
    replaced by those of another example of the batch."""
    other_B = jax.random.bernoulli(key, 0.5, (len(tokens_BT),))
    swapped_BT = jnp.concatenate([tokens_BT[:, :split], jnp.roll(tokens_BT, 1, axis=0)[:, split:]], axis=1)
    return jnp.where(other_B[:, None], swapped_BT, tokens_BT), other_B.astype(jnp.int32)


def span_shape(time: int, rate: float, span: float) -> tuple[int, int]:
    """(noise tokens, spans) of span corruption on ``time`` tokens."""
    noise = min(max(round(rate * time), 1), time - 1)
    return noise, min(max(round(noise / span), 1), noise, time - noise)


def _pieces(key: jax.Array, size: int, total: int, count: int) -> jax.Array:
    """Cuts ``total`` items at random into ``count`` nonempty pieces; the piece of each item, int32 (B, total)."""
    if total == 1:
        return jnp.zeros((size, 1), jnp.int32)
    cuts = ranks(jax.random.uniform(key, (size, total - 1))) < count - 1
    return jnp.pad(jnp.cumsum(cuts, axis=1), ((0, 0), (1, 0)))


def span_noise(key: jax.Array, size: int, time: int, rate: float, span: float) -> jax.Array:
    """Noise mask of T5 (arXiv 1910.10683), bool (B, T): random spans of text and noise alternate, text first."""
    noise, count = span_shape(time, rate, span)
    first, second = jax.random.split(key)
    # Sorting by this key interleaves the pieces of the two streams: text 0, noise 0, text 1, noise 1 ...
    clean_BN = _pieces(first, size, time - noise, count)
    noisy_BN = _pieces(second, size, noise, count)
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


def turn(key: jax.Array, image_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotation prediction (arXiv 1803.07728): square images turned by 0 to 3 quarters, and by how many (B,)."""
    quarters_B = jax.random.randint(key, (len(image_BHWC),), 0, 4)
    turned_4BHWC = jnp.stack([jnp.rot90(image_BHWC, quarters, (1, 2)) for quarters in range(4)])
    return turned_4BHWC[quarters_B, jnp.arange(len(image_BHWC))], quarters_B


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
