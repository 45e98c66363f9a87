"""DALL-E's second stage (arXiv 2102.12092; CogView, arXiv 2105.13290): a causal stack over [text; codes of a picture].

A run of ``vq`` gives the tokenizer, its ``encoder`` and its ``codebook``: ``init_from`` names it, and nothing trains it
here. A patch's code is the nearest row of the codebook, without noise. Codes are computed at every step, forward only:
2 FLOPs per weight of the encoder and patch. The tokenizer is in N_total and in C but no part of N: it makes the data.

One table embeds all: words, then codes, whose ids are offset by the vocabulary, then one id for each place of padding.
Text positions predict words alone and picture positions codes alone: as logits masked by position, with each head
computed only where it is read. The last token of the text predicts the first code. Codes also have learned places, the
sum of a row and a column.

The loss is 1/8 of the nats per word plus 7/8 of the nats per code, each over its own count (7 is ``loss_img_weight`` of
the public DALLE-pytorch; the counts are the paper's). The two are terms of their own. That of the picture is a
likelihood of the codes of one tokenizer, not of pixels: another tokenizer has codes of another entropy, so the unit
names the run that gave it, and losses in two units are never compared.

What differs from the paper: RMSNorm, QK-norm and rotary positions (of [text; codes] as one line) beside the places;
full attention, not sparse; a VQ-VAE of patches, not a convolutional dVAE with Gumbel noise; the source's words, not
BPE. The tokenizer computes in float32 whatever the ``dtype``, since some codes would differ in bfloat16, and the unit
would not say so. D counts positions of the stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import execution, head, patches, stack
from scaling.blocks.logical import Axes, Parameters
from scaling.count import TOKENIZER, Component
from scaling.errors import Code, UserError
from scaling.families import Origin, Term, gpt, vq
from scaling.records.types import MOST_BITS
from scaling.records.unit import Unit
from scaling.settings import setting

IMAGE = 7 / 8  # weight of the codes in the loss; the text has the rest
PARTS = ("encoder", "codebook")  # of a run of vq
REPEATED = ("width", "layers", "heads", "mlp_ratio", "activation", "weight_bits")  # here with "vq_" before the name
SHARED = ("image", "patch", "codes", "code_width")
ORIGIN = Origin(("vq",), (*((f"vq_{name}", name) for name in REPEATED), *((name, name) for name in SHARED)))


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape of the stack and of the tokenizer, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      text: positions of a caption with its end token.
      codes, code_width: rows of the codebook and their length.
      vq_width, vq_layers, vq_heads, vq_mlp_ratio, vq_activation, vq_weight_bits: of the tokenizer's encoder, as the run
        that gives it has them without ``vq_``: by default those of vq's size 1.
    """

    vocab: int = setting(19, least=1)
    text: int = setting(6, least=1)
    tied: bool = True
    codes: int = setting(64, least=1)
    code_width: int = setting(8, least=1)
    vq_width: int = setting(24, least=1)
    vq_layers: int = setting(2, least=1)
    vq_heads: int = setting(3, least=1)
    vq_mlp_ratio: int = setting(4, least=1)
    vq_activation: str = setting("relu2", choices=stack.ACTIVATIONS)
    vq_weight_bits: int = setting(0, least=0, most=MOST_BITS)

    def __post_init__(self):
        super().__post_init__()
        if self.vq_width % (2 * self.vq_heads):
            remedy = f"must be a multiple of 2 x vq_heads = {2 * self.vq_heads}"
            raise UserError("model.vq_width", self.vq_width, remedy, Code.CONFLICT)

    @property
    def rows(self) -> int:
        """Ids of words, codes and places of padding."""
        return self.vocab + self.codes + self.text

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.image // self.patch

    @property
    def tokenizer(self) -> vq.Config:
        """The configuration of the tokenizer, as far as its encoder and codebook depend on it."""
        return vq.Config(**{there: getattr(self, here) for here, there in ORIGIN.fields})


ladder = gpt.ladder


def inherits(config: Config) -> dict[str, Origin]:
    """The tokenizer, which a run of vq gives."""
    del config
    return dict.fromkeys(PARTS, ORIGIN)


class Model(nn.Module):
    """Maps ids of the text, (B, T + 1), and codes_BP to logits_BTV of the words and logits_BPK of the codes; with
    ``targets``, words (B, T) and codes (B, P), to their nats."""

    config: Config

    @nn.compact
    def __call__(
        self, text_BS: jax.Array, codes_BP: jax.Array, targets: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, jax.Array]:
        c, small = self.config, nn.initializers.normal(self.config.width**-0.5 / 16)  # as in gpt
        table_VD = self.param("embedding", small, (c.rows, c.width))
        row_RD, column_RD = (self.param(name, small, (c.side, c.width)) for name in ("row", "column"))
        place_PD = (row_RD[:, None] + column_RD).reshape(-1, c.width)[:-1]  # nothing follows the last code
        image_BPD = head.look_up(table_VD, c.vocab + codes_BP[:, :-1]) + place_PD
        x_BSD = jnp.concatenate([head.look_up(table_VD, text_BS), image_BPD], axis=1)
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        x_BSD = stack.Stack(*shape, name="stack")(stack.rms_norm(x_BSD))
        x_BSD = stack.rms_norm(x_BSD, self.param("norm", nn.initializers.ones, (c.width,)))
        if c.tied:
            words, codes, _ = jnp.split(table_VD, (c.vocab, c.vocab + c.codes))
        else:
            head_DV = self.param("head", nn.initializers.zeros, (c.width, c.vocab + c.codes))
            words, codes = jnp.split(head_DV, (c.vocab,), axis=1)
        word_targets, code_targets = targets or (None, None)
        return (
            head.vocabulary(x_BSD[:, : c.text], words, word_targets, tied=c.tied),
            head.vocabulary(x_BSD[:, c.text :], codes, code_targets, tied=c.tied),
        )


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; a study puts the parent's in the place of the tokenizer's."""
    first, second = jax.random.split(key)
    text_BS, codes_BP = (jnp.zeros((1, n), jnp.int32) for n in (config.text + 1, config.patches))
    drawn = vq.init(second, config.tokenizer)
    return {**Model(config).init(first, text_BS, codes_BP)["params"], **{part: drawn[part] for part in PARTS}}


def frozen(config: Config) -> tuple[str, ...]:
    """The tokenizer."""
    del config
    return PARTS


def beside(config: Config) -> tuple[str, ...]:
    """The tokenizer: an evaluation in few bits rounds the model, and predicts the same codes."""
    return frozen(config)


def exact(config: Config) -> tuple[str, ...]:
    """The tokenizer, so that its codes are those of float32."""
    return frozen(config)


def weight_bits(config: Config) -> dict[str, int]:
    """Those that the tokenizer was trained with."""
    return {"encoder": config.vq_weight_bits, "codebook": 0}


def tokenize(parameters: Parameters, image_BHWC: jax.Array, config: Config) -> jax.Array:
    """The codes of pictures of bytes, (B, P) int32, row by row, whatever attention the model runs with."""
    # Gradients are stopped at the weights, so that no product of the encoder is differentiated.
    parts: Any = {part: jax.lax.stop_gradient(parameters[part]) for part in PARTS}
    patches_BPX = patches.patchify(image_BHWC, config.patch)
    with execution.using(replace(execution.current(), attention="own")):
        z_BPC: Any = vq.Encoder(config.tokenizer).apply({"params": parts["encoder"]}, patches_BPX)
    return vq.nearest(z_BPC, parts["codebook"])


def padded(batch: dict[str, jax.Array], config: Config) -> jax.Array:
    """Ids of the text, (B, T + 1), in which padding has an id for each of its places."""
    text_BS = batch["tokens"]
    if "mask" not in batch:
        return text_BS
    places_T = config.vocab + config.codes + jnp.arange(config.text, dtype=text_BS.dtype)
    return text_BS.at[:, 1:].set(jnp.where(objectives.before_padding(batch["mask"]), text_BS[:, 1:], places_T))


def outputs(parameters: Parameters, text_BS: jax.Array, codes_BP: jax.Array, config: Config, targets=None) -> Any:
    """What ``Model`` gives."""
    own = {name: value for name, value in parameters.items() if name not in PARTS}
    return Model(config).apply({"params": own}, text_BS, codes_BP, targets)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{"image": nats per code, given the text; "text": nats per token of the caption and its end}."""
    del key  # nothing here is random
    codes_BP, targets_BT = tokenize(parameters, batch["image"], config), batch["tokens"][:, 1:]
    nats_BT, nats_BP = outputs(parameters, padded(batch, config), codes_BP, config, (targets_BT, codes_BP))
    count_B = jnp.full(len(codes_BP), config.patches, jnp.float32)
    return {"image": (nats_BP.sum(axis=1), count_B), "text": objectives.clm(nats_BT, batch.get("mask"))}


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    codes = Unit(per="code", given="the text")
    image = Term(codes, weight=IMAGE, start=math.log(config.codes), count=config.patches, made_by="encoder")
    text = Term(likelihood=True, causal=True, weight=1 - IMAGE, start=math.log(config.vocab))
    return {"image": image, "text": text}


def counted(config: Config) -> str:
    """What D counts."""
    return f"positions of the stack: {config.text} of text, then {config.patches} codes"


def batch_spec(config: Config) -> dict[str, int]:
    """Positions of the stack, of which text, size of the vocabulary, and side of the image."""
    c = config
    return {"context": c.text + c.patches, "text": c.text, "vocab": c.vocab, "image": c.image}


def reading(config: Config, pictures: int = 1) -> list[Component]:
    """The tokenizer's encoder and the distances to all rows, forward only, on so many pictures of an example."""
    kept = (*PARTS, "distances")
    parts = [each.times(pictures) for each in vq.components(config.tokenizer) if {each.part, each.name} & {*kept}]
    return [replace(each, group=TOKENIZER, k=2, first=False, part=each.part or "codebook") for each in parts]


def components(config: Config) -> list[Component]:
    """Stack on all positions, each head where it is read, and the tokenizer."""
    c = config
    shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width)
    words, codes = c.vocab * c.width, c.codes * c.width
    part, owned = ("embedding", 0) if c.tied else ("head", words + codes)
    return [
        Component("embedding", "embedding", c.rows * c.width),
        Component("row", "position", c.side * c.width),
        Component("column", "position", c.side * c.width),
        *stack.stack_components(*shape, c.text + c.patches),
        Component("final_norm", "norm", c.width),
        Component("text_head", "head", 0, words, c.text, part=part),
        Component("image_head", "head", owned, codes, c.patches, part=part),
        *reading(c),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter."""
    places: Axes = {"row": ("vocab", "embed"), "column": ("vocab", "embed")}
    made = vq.axes(config.tokenizer)
    tree: Axes = {"embedding": ("vocab", "embed"), **places, "norm": ("embed",), "stack": stack.axes()}
    tree = {**tree, **{part: made[part] for part in PARTS}}
    return tree if config.tied else {**tree, "head": ("embed", "vocab")}
