"""DiT: a bidirectional Transformer over patches that removes Gaussian noise (arXiv 2212.09748).

The input is x_t = a_t x_0 + s_t eps with a_t^2 + s_t^2 = 1, at one of the 1000 times of DDPM's linear schedule (arXiv
2006.11239), drawn for each example. The target is the noise (``eps``), ``v`` = a eps - s x_0 (arXiv 2202.00512), or the
data (``x0``). The three losses weight the times differently, so they have different units and are never compared; none
is a likelihood.

Blocks are modulated by adaLN-zero: the time, and the class if there is one, shift, scale and gate every branch, once
for each example. Some labels are hidden, in training and in evaluation, as guidance needs it. Positions are fixed.

Evaluation is on a fixed grid: an example's time, noise and hidden label depend on its number in the evaluation set
alone, and times are stratified over consecutive examples. The loss is also measured in ``BINS`` equal bins of the time.

What differs from the paper's code: RMSNorm for LayerNorm, QK-norm, the house's activation, no biases; what embeds time
and label starts at fan-in, not at 0.02; times are stratified in training too; no learnt variance; pixels, not latents;
no EMA of the weights. Text is no condition yet. D counts patches; a step sees each example at one time, not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from scaling import objectives
from scaling.blocks import head, patches, stack
from scaling.blocks.logical import Axes, Parameters, constrain
from scaling.count import Component
from scaling.errors import Code, UserError
from scaling.families import Term, gpt
from scaling.records.unit import Unit
from scaling.settings import setting

TARGETS = ("eps", "v", "x0")
TIMES, BETAS = 1000, (1e-4, 0.02)
BINS = 4
SINUSOIDS = 256


@dataclass(frozen=True)
class Config(patches.ImageShape):
    """Shape, data and target, in addition to the fields of ``patches.ImageShape``.

    Attributes:
      predicts: the noise, v, or the data.
      field: side of the arrays of real numbers that it reads in place of pictures; 0: pictures, as numbers of [-1, 1].
      classes: number of labels that condition the prediction; 0: no condition.
      drop: share of the examples whose label is hidden.
    """

    predicts: str = setting("eps", choices=TARGETS)
    field: int = setting(0, least=0)
    classes: int = setting(32, least=0)
    drop: float = setting(0.1, least=0, most=1)

    def __post_init__(self):
        super().__post_init__()
        if self.width % 4:
            remedy = "must be a multiple of 4: sines and cosines of two coordinates"
            raise UserError("model.width", self.width, remedy, Code.CONFLICT)
        if self.field % self.patch:
            raise UserError("model.patch", self.patch, f"must divide the field's side, {self.field}", Code.CONFLICT)

    @property
    def side(self) -> int:
        """Patches along a side."""
        return (self.field or self.image) // self.patch

    @property
    def patches(self) -> int:
        """Patches of a picture or field."""
        return self.side**2


ladder = gpt.ladder


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
    """Maps noised patches_BPX, times_B and labels_B (the last one: none) to predictions_BPX."""

    config: Config

    @nn.compact
    def __call__(self, noised_BPX: jax.Array, time_B: jax.Array, label_B: jax.Array | None = None) -> jax.Array:
        c, normal, zeros = self.config, nn.initializers.normal, nn.initializers.zeros
        patch_XD = self.param("patch", normal(c.pixels**-0.5), (c.pixels, c.width))
        inner_SD = self.param("time_in", normal(SINUSOIDS**-0.5), (SINUSOIDS, c.width))
        outer_DD = self.param("time_out", normal(c.width**-0.5), (c.width, c.width))
        dtype = patch_XD.dtype
        h_BD = jax.nn.silu(jnp.einsum("bs,sd->bd", sinusoids(time_B, SINUSOIDS).astype(dtype), inner_SD))
        condition_BD = jnp.einsum("bd,de->be", h_BD, outer_DD)
        if label_B is not None:
            table_CD = self.param("labels", normal(c.width**-0.5), (c.classes + 1, c.width))
            condition_BD += head.look_up(table_CD, label_B[:, None])[:, 0]
        condition_BD = constrain(condition_BD, "batch", "embed")
        x_BPD = jnp.einsum("bpx,xd->bpd", noised_BPX.astype(dtype), patch_XD)
        x_BPD += positions(c.side, c.width).astype(dtype)
        shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width, c.activation)
        blocks = stack.Stack(*shape, mask="bidirectional", rotary=False, adaptive=True, name="stack")
        x_BPD = blocks(x_BPD, condition_BD=condition_BD)
        last_D2D = self.param("final_modulation", zeros, (c.width, 2, c.width))
        shift_BD, scale_BD = stack.modulations(condition_BD, last_D2D).swapaxes(0, 1)
        x_BPD = stack.modulate(stack.rms_norm(x_BPD), shift_BD, scale_BD)
        return jnp.einsum("bpd,dx->bpx", x_BPD, self.param("head", zeros, (c.width, c.pixels)))


def init(key: jax.Array, config: Config) -> Parameters:
    """Parameters in float32, drawn from ``key``."""
    label = jnp.zeros(1, jnp.int32) if config.classes else None
    empty = jnp.zeros((1, config.patches, config.pixels)), jnp.zeros(1, jnp.int32), label
    return dict(Model(config).init(key, *empty)["params"])


def outputs(parameters: Parameters, noised_BPX: jax.Array, time_B: jax.Array, config: Config, label_B=None) -> Any:
    """Predictions of the target, (B, P, X), in the dtype of the parameters; label ``classes`` is none."""
    return Model(config).apply({"params": parameters}, noised_BPX, time_B, label_B)


def loss(parameters: Parameters, batch: dict[str, jax.Array], key: jax.Array, config: Config):
    """{``predicts``: mean squared error, "from_0", "from_250" ...: the same, of the times of a bin}; counts patches."""
    x_BHWC = batch["field"] if config.field else patches.scaled(batch["image"])
    clean_BPX, keys_B = patches.cut(x_BHWC, config.patch), objectives.keys(key, batch)
    time_B = times(key, objectives.index(batch))
    a_B11, s_B11 = (jnp.asarray(each, jnp.float32)[time_B][:, None, None] for each in noise_levels())
    noise_BPX = objectives.normal(keys_B, clean_BPX.shape[1:])
    label_B = None
    if config.classes:
        dropped_B = objectives.uniform(jax.vmap(jax.random.fold_in, (0, None))(keys_B, 1), 1)[:, 0] < config.drop
        label_B = jnp.where(dropped_B, config.classes, batch["label"])
    predicted_BPX = outputs(parameters, a_B11 * clean_BPX + s_B11 * noise_BPX, time_B, config, label_B)
    target_BPX = {"eps": noise_BPX, "v": a_B11 * noise_BPX - s_B11 * clean_BPX, "x0": clean_BPX}[config.predicts]
    error_B, count_B = objectives.squared_error(predicted_BPX, target_BPX)
    return {config.predicts: (error_B, count_B), **by_time(error_B, count_B, time_B)}


def bins() -> tuple[str, ...]:
    """Names of the bins of the time."""
    return tuple(f"from_{number * TIMES // BINS}" for number in range(BINS))


def by_time(error_B: jax.Array, count_B: jax.Array, time_B: jax.Array) -> dict[str, objectives.Term]:
    """An error and its count, in the bin of its time and 0 in the others."""
    inside = {name: time_B * BINS // TIMES == number for number, name in enumerate(bins())}
    return {name: (error_B * inside_B, count_B * inside_B) for name, inside_B in inside.items()}


def unit(config: Config, first: int = 0, count: int = TIMES) -> Unit:
    """Of the error over ``count`` times from ``first`` on: its target and its weighting."""
    (low, high), of = BETAS, {"eps": "noise", "v": "v", "x0": "data"}[config.predicts]
    given = f"t uniform in {first} to {first + count - 1} of {TIMES}, betas linear from {low:g} to {high:g}"
    return Unit(quantity="squared error", per=f"{of} value", given=given)


def terms(config: Config) -> dict[str, Term]:
    """The terms of ``loss``, the headline first."""
    width = TIMES // BINS
    parts = {
        name: Term(unit(config, number * width, width), weight=0.0, share=1 / BINS, uneven=True)
        for number, name in enumerate(bins())
    }
    return {config.predicts: Term(unit(config), count=config.patches), **parts}


def counted(config: Config) -> str:
    """What D counts."""
    return f"patches of {'fields' if config.field else 'images'}, {config.patches} each, at one time"


def batch_spec(config: Config) -> dict[str, int]:
    """Patches per example, its side, and the number of labels."""
    spec = {"context": config.patches}
    spec |= {"field": config.field} if config.field else {"image": config.image}
    return {**spec, "classes": config.classes} if config.classes else spec


def components(config: Config) -> list[Component]:
    """Patches and stack; what depends on time and class, once for each example."""
    c, table = config, config.pixels * config.width
    time, vectors = SINUSOIDS * c.width, 2 * c.width**2
    shape = (c.layers, c.width, c.heads, c.mlp_ratio * c.width)
    labels = [Component("labels", "embedding", (c.classes + 1) * c.width)] if c.classes else []
    return [
        Component("patch", "patch", table, table, c.patches, first=True),
        Component("time_in", "time", time, time, 1, first=True),
        Component("time_out", "time", c.width**2, c.width**2, 1),
        *labels,
        *stack.stack_components(*shape, c.patches, adaptive=True),
        Component("final_modulation", "modulation", vectors, vectors, 1),
        Component("head", "head", table, table, c.patches),
    ]


def axes(config: Config) -> Axes:
    """Logical axes of every parameter. The numbers of pixels and sinusoids do not grow with the width."""
    time: Axes = {"time_in": ("pixels", "mlp"), "time_out": ("mlp", "embed")}
    ends: Axes = {"patch": ("pixels", "embed"), "head": ("embed", "pixels")}
    labels: Axes = {"labels": ("vocab", "embed")} if config.classes else {}
    last = stack.MODULATION_AXES[1:]
    return {**ends, **time, **labels, "stack": stack.axes(adaptive=True), "final_modulation": last}
