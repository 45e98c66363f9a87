"""DiT: a bidirectional Transformer over patches that removes Gaussian noise (arXiv 2212.09748).

The input is x_t = a_t x_0 + s_t eps with a_t^2 + s_t^2 = 1, at one of the 1000 times of DDPM's linear schedule (arXiv
2006.11239), drawn for each example. The target is the noise (``eps``), ``v`` = a eps - s x_0 (arXiv 2202.00512), or the
data (``x0``). The three losses weight the times differently, so they have different units and are never compared; none
is a likelihood.

Blocks are modulated by adaLN-zero: the time, and the class if there is one, shift, scale and gate every branch, once
for each example. Some labels are hidden, in training and in evaluation, as guidance needs it. Positions are fixed.

``condition`` = ``text`` (Imagen, arXiv 2205.11487): captions in place of classes, as a run of t5 encodes them, whose
encoder nothing trains (``blocks.captions``). Every block attends to its vectors, between its attention and its MLP, and
their mean is added to the time's embedding. What attends has no gate and ends at zero, as in PixArt-alpha (arXiv
2310.00426): of a gate and a projection that are both zero, none would ever move. A caption that is dropped is empty,
its end alone. ``another`` is the loss of an evaluation in which each example has its neighbour's caption.

Evaluation is on a fixed grid: an example's time, noise and hidden condition depend on its number in the evaluation set
alone, and times are stratified over consecutive examples. The loss is also measured in ``BINS`` equal bins of the time.

What differs from the paper's code: RMSNorm for LayerNorm, QK-norm, the house's activation, no biases; what embeds time
and label starts at fan-in, not at 0.02; times are stratified in training too; no learnt variance; pixels, not latents;
no EMA of the weights; from Imagen's, no U-Net, no super-resolution. D counts patches; a step sees each at one time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np

from scaling import objectives
from scaling.blocks import captions, head, patches, stack, tower
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Origin, Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

TARGETS = ("eps", "v", "x0")
TIMES, BETAS = 1000, (1e-4, 0.02)
BINS = 4
SINUSOIDS = 256


@dataclass(frozen=True)
class Config(patches.ImageShape, captions.Shape):
    """Shape, data and target, in addition to the fields of ``patches.ImageShape`` and ``captions.Shape``.

    Attributes:
      predicts: the noise, v, or the data.
      field: side of the arrays of real numbers that it reads in place of pictures; 0: pictures, as numbers of [-1, 1].
      condition: ``class`` or ``text``, whose caption is then read in place of a label.
      classes: number of labels that condition the prediction; 0: no condition.
      drop: share of the examples whose label or caption is hidden.
    """

    predicts: str = setting("eps", choices=TARGETS)
    field: int = setting(0, least=0)
    classes: int = setting(32, least=0)
    drop: float = setting(0.1, least=0, most=1)
    condition: str = setting("class", choices=("class", "text"), later=True)

    def __post_init__(self):
        super().__post_init__()
        tower.require_pairs("text", self.text_width, self.text_heads)
        if self.reads_text and self.field:
            raise UserError("model.condition", self.condition, "fields have no captions", Code.CONFLICT)
        if self.width % 4:
            raise UserError("model.width", self.width, "must be a multiple of 4, for two coordinates", Code.CONFLICT)
        if self.field % self.patch:
            raise UserError("model.patch", self.patch, f"must divide the field's side, {self.field}", Code.CONFLICT)

    @property
    def reads_text(self) -> bool:
        """Whether captions are the condition."""
        return self.condition == "text"

    @property
    def labels(self) -> int:
        """Number of labels that are the condition."""
        return 0 if self.reads_text else self.classes

    @property
    def side(self) -> int:
        """Patches along a side."""
        return (self.field or self.image) // self.patch

    @property
    def patches(self) -> int:
        """Patches of a picture or field."""
        return self.side**2


ladder = gpt.ladder


def inherits(config: Config) -> dict[str, Origin]:
    """The text encoder, which a run of t5 gives."""
    parts = captions.PARTS.items() if config.reads_text else ()
    return {part: Origin(("t5",), captions.FIELDS, source) for part, source in parts}


def frozen(config: Config) -> tuple[str, ...]:
    """The text encoder."""
    return tuple(inherits(config))


exact = beside = frozen  # nor is it rounded, by the dtype or by an evaluation in few bits


def weight_bits(config: Config) -> dict[str, int]:
    """Those that the text encoder was trained with."""
    return dict.fromkeys(frozen(config), config.text_weight_bits)


def partners(config: Config) -> tuple[str, ...]:
    """Another's caption, to be told from one's own."""
    return ("tokens",) if config.reads_text else ()


def noise_levels() -> tuple[np.ndarray, np.ndarray]:
    """(a, s) of each time, (1000,) float64: x_t = a_t x_0 + s_t eps."""
    kept = np.cumprod(1 - np.linspace(*BETAS, TIMES))
    return np.sqrt(kept), np.sqrt(1 - kept)


def times(key: jax.Array, index_B: jax.Array) -> jax.Array:
    """The time of each example, int32 (B,): uniform over ``key``, stratified over consecutive indices."""
    return jnp.minimum((objectives.levels(key, index_B) * TIMES).astype(jnp.int32), TIMES - 1)


def sinusoids(value_: jax.Array, count: int) -> jax.Array:
    """Cosines and sines of a number at ``count`` / 2 frequencies from 1 down to 1e-4, (..., count) float32."""
    frequency = 10000.0 ** (-jnp.arange(count // 2, dtype=jnp.float32) / (count // 2))
    angle_ = value_.astype(jnp.float32)[..., None] * frequency
    return jnp.concatenate([jnp.cos(angle_), jnp.sin(angle_)], axis=-1)


def positions(side: int, width: int) -> jax.Array:
    """Fixed embedding of the patches of a square, row by row, (side^2, width) float32: half for each coordinate."""
    row, column = jnp.divmod(jnp.arange(side * side), side)
    return jnp.concatenate([sinusoids(column, width // 2), sinusoids(row, width // 2)], axis=-1)


class Model(nn.Module):
    """Maps noised patches_BPX, times_B and a condition to predictions_BPX: labels_B (the last one: none), or vectors of
    captions (B, S, W) and which of them are kept (B, S)."""

    config: Config

    @nn.compact
    def __call__(self, noised_BPX: jax.Array, time_B: jax.Array, given: Any = None) -> jax.Array:
        c, normal, zeros = self.config, nn.initializers.normal, nn.initializers.zeros
        patch_XD = self.param("patch", normal(c.pixels**-0.5), (c.pixels, c.width))
        inner_SD = self.param("time_in", normal(SINUSOIDS**-0.5), (SINUSOIDS, c.width))
        outer_DD = self.param("time_out", normal(c.width**-0.5), (c.width, c.width))
        dtype = patch_XD.dtype
        h_BD = jax.nn.silu(jnp.einsum("bs,sd->bd", sinusoids(time_B, SINUSOIDS).astype(dtype), inner_SD))
        condition_BD = jnp.einsum("bd,de->be", h_BD, outer_DD)
        memory_BSD = keep_BS = None
        if isinstance(given, tuple):
            memory_BSD, pooled_BD = captions.Read(c.width, name="read")(*given)
            keep_BS, condition_BD = given[1], condition_BD + pooled_BD
        elif given is not None:
            table_CD = self.param("labels", normal(c.width**-0.5), (c.classes + 1, c.width))
            condition_BD += head.look_up(table_CD, given[:, None])[:, 0]
        condition_BD = constrain(condition_BD, "batch", "embed")
        x_BPD = jnp.einsum("bpx,xd->bpd", noised_BPX.astype(dtype), patch_XD)
        x_BPD += positions(c.side, c.width).astype(dtype)
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation, "bidirectional")
        blocks = stack.Stack(*shape, rotary=False, cross=c.reads_text, adaptive=True, name="stack")
        x_BPD = blocks(x_BPD, memory_BSD, keep_BS=keep_BS, condition_BD=condition_BD)
        last_D2D = self.param("final_modulation", zeros, (c.width, 2, c.width))
        shift_BD, scale_BD = stack.modulations(condition_BD, last_D2D).swapaxes(0, 1)
        x_BPD = stack.modulate(stack.rms_norm(x_BPD), shift_BD, scale_BD)
        return jnp.einsum("bpd,dx->bpx", x_BPD, self.param("head", zeros, (c.width, c.pixels)))


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``; a study puts the parent's in the place of the text encoder's."""
    c = config
    given: Any = jnp.zeros(1, jnp.int32) if c.labels else None
    if c.reads_text:
        given = jnp.zeros((1, c.text, c.text_width)), jnp.ones((1, c.text), bool)
    own = dict(Model(c).init(key, jnp.zeros((1, c.patches, c.pixels)), jnp.zeros(1, jnp.int32), given)["params"])
    return {**own, **captions.init(jax.random.fold_in(key, 1), c)} if c.reads_text else own


def outputs(parameters: Parameters, noised_BPX: jax.Array, time_B: jax.Array, config: Config, given=None) -> Any:
    """Predictions of the target, (B, P, X), in the dtype of the parameters; ``given`` as ``Model`` has it."""
    own = {name: value for name, value in parameters.items() if name not in captions.PARTS}
    return Model(config).apply({"params": own}, noised_BPX, time_B, given)


def _given(parameters: Parameters, batch: dict[str, jax.Array], keys_B: jax.Array, config: Config) -> Any:
    """The condition of each example, some hidden."""
    dropped_B = objectives.uniform(jax.vmap(jax.random.fold_in, (0, None))(keys_B, 1), 1)[:, 0] < config.drop
    if config.reads_text:
        return captions.encoded(parameters, captions.emptied(batch["tokens"][:, 1:], dropped_B), config)
    return jnp.where(dropped_B, config.classes, batch["label"]) if config.labels else None


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{``predicts``: mean squared error, "from_0", "from_250" ...: the same, of the times of a bin}; counts patches."""
    x_BHWC = batch["field"] if config.field else patches.scaled(batch["image"])
    clean_BPX, keys_B = patches.cut(x_BHWC, config.patch), objectives.keys(key, batch)
    time_B = times(key, objectives.index(batch))
    a_B11, s_B11 = (jnp.asarray(each, jnp.float32)[time_B][:, None, None] for each in noise_levels())
    noise_BPX = objectives.normal(keys_B, clean_BPX.shape[1:])
    given = _given(parameters, batch, keys_B, config)
    predicted_BPX = outputs(parameters, a_B11 * clean_BPX + s_B11 * noise_BPX, time_B, config, given)
    target_BPX = {"eps": noise_BPX, "v": a_B11 * noise_BPX - s_B11 * clean_BPX, "x0": clean_BPX}[config.predicts]
    error_B, count_B = objectives.squared_error(predicted_BPX, target_BPX)
    return {config.predicts: (error_B, count_B), **by_time(error_B, count_B, time_B)}


def metrics(parameters: Parameters, batch: dict[str, jax.Array], config: Config):
    """{"another": the loss with the caption of another example}."""
    if not config.reads_text:
        return {}
    others, key = {**batch, "tokens": batch["other_tokens"]}, jax.random.key(0)  # the key of the evaluation's own loss
    return {"another": loss(parameters, others, key, config)[config.predicts]}


def bins() -> tuple[str, ...]:
    """Names of the bins of the time."""
    return tuple(f"from_{number * TIMES // BINS}" for number in range(BINS))


def by_time(error_B: jax.Array, count_B: jax.Array, time_B: jax.Array) -> dict[str, objectives.Term]:
    """An error and its count, in the bin of its time and 0 in the others."""
    inside = {name: time_B * BINS // TIMES == number for number, name in enumerate(bins())}
    return {name: (error_B * inside_B, count_B * inside_B) for name, inside_B in inside.items()}


def unit(config: Config, first: int = 0, count: int = TIMES) -> Unit:
    """Of the error over ``count`` times from ``first`` on: its target and its weighting, whatever the condition."""
    (low, high), of = BETAS, {"eps": "noise", "v": "v", "x0": "data"}[config.predicts]
    given = f"t uniform in {first} to {first + count - 1} of {TIMES}, betas linear from {low:g} to {high:g}"
    return Unit(quantity="squared error", per=f"{of} value", given=given)


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss`` and ``metrics``, the headline first."""
    width, whole = TIMES // BINS, unit(config)
    parts = {
        name: Term(unit(config, number * width, width), weight=0.0, count=config.patches / BINS, uneven=True)
        for number, name in enumerate(bins())
    }
    if config.reads_text:
        others = msgspec.structs.replace(whole, given=f"another's caption, {whole.given}")
        parts["another"] = Term(others, weight=0.0, count=config.patches)
    return {config.predicts: Term(whole, count=config.patches), **parts}


def counted(config: Config) -> str:
    """What D counts."""
    return f"patches of {'fields' if config.field else 'images'}, {config.patches} each, at one time"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per example, its side, and the number of labels, or positions of a caption and size of the vocabulary."""
    c = config
    seen = {"field": c.field} if c.field else {"image": c.image}
    labels = {"classes": c.classes} if c.labels else {}
    return {"context": c.patches, **seen, **({"text": c.text, "vocab": c.text_vocab} if c.reads_text else labels)}


def components(config: Config) -> list[Component]:
    """Patches and stack; what depends on time and class, once for each example; a caption, at its positions."""
    c, table = config, config.pixels * config.width
    time, vectors = SINUSOIDS * c.width, 2 * c.width**2
    shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width)
    given = [Component("labels", "embedding", (c.classes + 1) * c.width)] if c.labels else []
    given, memory = (captions.components(c, c.width), c.text) if c.reads_text else (given, 0)
    return [
        Component("patch", "patch", table, table, c.patches, first=True),
        Component("time_in", "time", time, time, 1, first=True),
        Component("time_out", "time", c.width**2, c.width**2, 1),
        *given,
        *stack.stack_components(*shape, c.patches, memory=memory, adaptive=True),
        Component("final_modulation", "modulation", vectors, vectors, 1),
        Component("head", "head", table, table, c.patches),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The numbers of pixels and sinusoids do not grow with the width."""
    time: Axes = {"time_in": ("pixels", "mlp"), "time_out": ("mlp", "embed")}
    ends: Axes = {"patch": ("pixels", "embed"), "head": ("embed", "pixels")}
    labels: Axes = {"labels": ("vocab", "embed")} if config.labels else {}
    given = captions.axes() if config.reads_text else labels
    blocks: Axes = {"stack": stack.axes(cross=config.reads_text, adaptive=True)}
    return {**ends, **time, **given, **blocks, "final_modulation": stack.MODULATION_AXES[1:]}
