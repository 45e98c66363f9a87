"""VQ-VAE (arXiv 1711.00937): a picture as one of K codes for each patch, and the picture again from these.

A bidirectional Transformer maps patches to vectors of ``code_width`` numbers, each is replaced by the nearest row of a
codebook, and a second Transformer predicts the pixels of all patches. The gradient goes straight through: that of the
chosen row is handed to the encoder's vector. A commitment, ``beta`` times the squared distance to a chosen row that is
held still, keeps the encoder near the codebook. The codebook follows the encoder, either by

``ema``: moving averages, after each step, of how often each row was chosen and of the sum of the vectors that chose it;
a row is their ratio, with the counts smoothed (appendix A.1 of the paper; Sonnet's ``nets/vqvae.py``). Both averages
start at one choice of the row itself, so that a row that is never chosen stays where it was drawn for a thousand steps.
``codebook``: the same squared distance with the encoder held still, of weight 1. (An implementation that is much copied
has ``beta`` on this term instead of the commitment.)

Codes may collapse, and a law fitted over sizes whose codes do is a law of that. With ``restart``, a row of ``ema`` that
is hardly chosen becomes a vector of the step's batch (Jukebox, arXiv 2005.00341; SoundStream, arXiv 2107.03312, whose
thresholds are numbers of choices; here they are shares of an even use). The metric ``perplexity`` is exp(entropy) of
the codes that a batch uses, from 1 (one code for all) to K. D counts patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import average, head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import STATE, Component
from scaling.errors import Code, UserError
from scaling.families import Aux, Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

OBJECTIVES = ("ema", "codebook")
SMOOTHING = 1e-5  # choices that are added to each row's (Laplace)


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape of encoder and decoder each, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      objective: what moves the codebook: the averages of ``ema``, or the term ``codebook`` of the loss.
      codes: rows of the codebook.
      code_width: numbers of a row.
      beta: weight of the commitment.
      decay: share of the moving averages that a step keeps.
      restart: of ``ema``: rows that are chosen less often than this share of an even use are restarted; 0: none is.
    """

    objective: str = setting("ema", choices=OBJECTIVES)
    codes: int = setting(64, least=1)
    code_width: int = setting(8, least=1)
    beta: float = setting(0.25, least=0)
    decay: float = setting(0.99, least=0, most=1)
    restart: float = setting(0.0, least=0, most=1, later=True)

    def __post_init__(self):
        super().__post_init__()
        if self.restart and self.objective != "ema":
            raise UserError("model.restart", self.restart, "goes with objective ema", Code.CONFLICT)


ladder = gpt.ladder


class Encoder(nn.Module):
    """Maps patches_BPX to vectors z_BPC, C being ``code_width``."""

    config: Config

    @nn.compact
    def __call__(self, patches_BPX: jax.Array) -> jax.Array:
        c = self.config
        x_BPD = patches.Embed(c.patches, c.width, name="patches")(patches_BPX)
        x_BPD = _blocks(c)(x_BPD)
        x_BPD = stack.rms_norm(x_BPD, self.param("norm", nn.initializers.ones, (c.width,)))
        project_DC = self.param("projection", nn.initializers.normal(c.width**-0.5), (c.width, c.code_width))
        return jnp.einsum("bpd,dc->bpc", x_BPD, project_DC)


class Decoder(nn.Module):
    """Maps rows of the codebook, q_BPC, to the pixels of the patches, (B, P, X); at first to zeros."""

    config: Config

    @nn.compact
    def __call__(self, q_BPC: jax.Array) -> jax.Array:
        c = self.config
        code_CD = self.param("code", nn.initializers.normal(c.code_width**-0.5), (c.code_width, c.width))
        place_PD = self.param("position", nn.initializers.normal(0.5), (c.patches, c.width))
        x_BPD = _blocks(c)(stack.rms_norm(jnp.einsum("bpc,cd->bpd", q_BPC, code_CD) + place_PD))
        x_BPD = stack.rms_norm(x_BPD, self.param("norm", nn.initializers.ones, (c.width,)))
        head_DX = self.param("head", nn.initializers.zeros, (c.width, c.pixels))
        return jnp.einsum("bpd,dx->bpx", x_BPD, head_DX)


def _blocks(config: Config) -> stack.Stack:
    shape = (config.layers, config.width, config.heads, config.mlp_ratio * config.width, config.activation)
    return stack.Stack(*shape, mask="bidirectional", rotary=False, name="stack")


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; the averages of ``ema`` are those of one choice of each row."""
    first, second, third = jax.random.split(key, 3)
    book_KC = jax.random.normal(third, (config.codes, config.code_width))
    parameters = {
        "encoder": Encoder(config).init(first, jnp.zeros((1, config.patches, config.pixels)))["params"],
        "decoder": Decoder(config).init(second, jnp.zeros((1, config.patches, config.code_width)))["params"],
        "codebook": book_KC,
    }
    if config.objective == "codebook":
        return parameters
    return {**parameters, "counts": jnp.ones(config.codes), "sums": book_KC + 0.0}


def frozen(config: Config) -> tuple[str, ...]:
    """What ``after`` changes, and no gradient."""
    return ("codebook", "counts", "sums") if config.objective == "ema" else ()


def nearest(z_BPC: jax.Array, book_KC: jax.Array) -> jax.Array:
    """Index of the nearest row of the codebook, (B, P) int32, by distances in float32; of equal ones the first."""
    z_BPC, book_KC = (jax.lax.stop_gradient(x_.astype(jnp.float32)) for x_ in (z_BPC, book_KC))
    products_BPK = jnp.einsum("bpc,kc->bpk", z_BPC, book_KC)
    return (jnp.square(book_KC).sum(axis=1) - 2 * products_BPK).argmin(axis=-1).astype(jnp.int32)


def straight_through(z_BPC: jax.Array, chosen_BPC: jax.Array) -> jax.Array:
    """The chosen rows, whose gradient is handed to z."""
    return z_BPC + jax.lax.stop_gradient(chosen_BPC - z_BPC)


def perplexity(codes_BP: jax.Array, count: int) -> jax.Array:
    """exp(entropy) of the codes in use, (): from 1, if all are the same, to ``count``, if all are as frequent."""
    share_K = jnp.zeros(count, jnp.float32).at[codes_BP.ravel()].add(1.0) / codes_BP.size
    return jnp.exp(-jax.scipy.special.xlogy(share_K, share_K).sum())


def loss_and_aux(
    parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config
) -> tuple[dict[str, objectives.Term], Aux]:
    """{"reconstruction": squared error of a patch, "commitment", perhaps "codebook": squared distance of its vector to
    the row, "perplexity": of the batch's codes}, and each patch's vector and code."""
    del key  # nothing here is random
    still = jax.lax.stop_gradient
    patches_BPX = patches.patchify(batch["image"], config.patch)
    parts: Any = parameters
    book_KC = still(parts["codebook"]) if config.objective == "ema" else parts["codebook"]
    z_BPC: Any = Encoder(config).apply({"params": parts["encoder"]}, patches_BPX)
    codes_BP = nearest(z_BPC, book_KC)
    chosen_BPC = head.look_up(book_KC, codes_BP)
    predicted_BPX: Any = Decoder(config).apply({"params": parts["decoder"]}, straight_through(z_BPC, chosen_BPC))
    terms = {
        "reconstruction": objectives.squared_error(predicted_BPX, patches_BPX),
        "commitment": objectives.squared_error(z_BPC, still(chosen_BPC).astype(jnp.float32)),
    }
    if config.objective == "codebook":
        terms["codebook"] = objectives.squared_error(chosen_BPC, still(z_BPC).astype(jnp.float32))
    ones_B = jnp.ones(len(codes_BP), jnp.float32)
    terms["perplexity"] = perplexity(codes_BP, config.codes) * ones_B, ones_B
    return terms, {"vectors": still(z_BPC), "codes": codes_BP}


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """The terms of ``loss_and_aux``."""
    return loss_and_aux(parameters, batch, key, config)[0]


def after(parameters: Parameters, aux: Aux, key: jax.Array, config: Config) -> Parameters:
    """For ``ema``: the moving averages of a batch's choices, and the codebook as their ratio; rows that are restarted
    become vectors of the batch, drawn by ``key``, with the counts of an even use."""
    if config.objective == "codebook":
        return parameters
    codes_N, z_NC = aux["codes"].ravel(), aux["vectors"].astype(jnp.float32).reshape(-1, config.code_width)
    counts_K = jnp.zeros(config.codes).at[codes_N].add(1.0)
    sums_KC = jnp.zeros((config.codes, config.code_width)).at[codes_N].add(z_NC)
    past: Any = parameters["counts"], parameters["sums"]
    counts_K, sums_KC = average.moving(past, (counts_K, sums_KC), config.decay)
    if config.restart:
        even = len(codes_N) / config.codes
        dead_K = counts_K < config.restart * even
        drawn_KC = z_NC[jax.random.randint(key, (config.codes,), 0, len(z_NC))]
        counts_K = jnp.where(dead_K, even, counts_K)
        sums_KC = jnp.where(dead_K[:, None], even * drawn_KC, sums_KC)
    total = counts_K.sum()
    smooth_K = (counts_K + SMOOTHING) / (total + config.codes * SMOOTHING) * total
    return {**parameters, "counts": counts_K, "sums": sums_KC, "codebook": sums_KC / smooth_K[:, None]}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    distance = Unit(quantity="squared error", per="number of a code")
    terms = {
        "reconstruction": Term(patches.SQUARED_ERROR, count=config.patches),
        "commitment": Term(distance, weight=config.beta, count=config.patches),
    }
    if config.objective == "codebook":
        terms["codebook"] = Term(distance, count=config.patches)
    used = Term(Unit(quantity="number", per=None), weight=0.0, count=1, batchwise=True)
    return {**terms, "perplexity": used}


def counted(config: Config) -> str:
    """What D counts."""
    return f"patches of images, each one of {config.codes} codes"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per image, and its side."""
    return {"context": config.patches, "image": config.image}


def components(config: Config) -> list[Component]:
    """Encoder and decoder on all patches, and the products of each vector with all rows, which have no gradient."""
    c = config
    shape, narrow = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.patches), c.width * c.code_width
    k, rows, pixels = 2 if c.objective == "ema" else 6, c.codes * c.code_width, c.width * c.pixels
    decoder = [
        Component("code", "projection", narrow, narrow, c.patches),
        Component("decoder_position", "position", c.patches * c.width),
        *stack.stack_components(*shape, "decoder_"),
        Component("decoder_final_norm", "decoder_norm", c.width),
        Component("head", "head", pixels, pixels, c.patches),
    ]
    parts = [
        *patches.components(c.pixels, c.patches, c.width, c.patches, "encoder_"),
        *stack.stack_components(*shape, "encoder_"),
        Component("encoder_final_norm", "encoder_norm", c.width, part="encoder"),
        Component("projection", "projection", narrow, narrow, c.patches, part="encoder"),
        Component("codebook", "embedding", rows, k=k),
        Component("distances", "embedding", 0, rows, c.patches, k=2),
        *(replace(part, part="decoder") for part in decoder),
    ]
    if c.objective == "codebook":
        return parts
    return [*parts, Component("counts", STATE, c.codes, k=2), Component("sums", STATE, rows, k=2)]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The numbers of pixels and of a code do not grow with the width."""
    blocks: Axes = {"stack": stack.axes(), "norm": ("embed",)}
    encoder: Axes = {**blocks, "patches": patches.axes(), "projection": ("embed", "pixels")}
    outside: Axes = {"code": ("pixels", "embed"), "position": ("vocab", "embed"), "head": ("embed", "pixels")}
    tree: Axes = {"encoder": encoder, "decoder": {**blocks, **outside}, "codebook": ("vocab", "pixels")}
    return tree if config.objective == "codebook" else {**tree, "counts": ("vocab",), "sums": ("vocab", "pixels")}
