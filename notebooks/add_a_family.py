# %% [markdown]
# # Add a family
#
# A family of models is one file: its shape, its parameters, its loss, and what each part of it costs. Nothing lists
# it. Recipes, meshes, engines, laws and the report take it as it is. Here a net that sees only the last few tokens
# (Bengio et al. 2003) is written, counted exactly, priced, and trained for a moment. `scaling/families/README.md`
# adds an LSTM and runs the whole battery of tests over it.

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from scaling import count, families, plan, study

# %% [markdown]
# `loss` returns a sum and a count by example, never a mean. `components` says what is counted: parameters, and the
# weights that multiply each token. `axes` names the axes, from which learning rates by width and the split over a
# mesh follow.

# %%
CODE = '''
"""The last few tokens, side by side, through one hidden layer (Bengio, Ducharme, Vincent and Jauvin 2003)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from scaling import objectives
from scaling.blocks import head, stack
from scaling.count import Component
from scaling.families.gpt import batch_spec as batch_spec
from scaling.settings import check, setting


@dataclass(frozen=True)
class Config:
    width: int = setting(16, least=1)
    window: int = setting(4, least=1)
    vocab: int = setting(256, least=1)
    context: int = setting(64, least=1)
    dtype: str = setting("float32", choices=("float32", "bfloat16"))

    def __post_init__(self):
        check(self, "model")


def ladder(size):
    return {"width": 16 + 8 * size}


def init(key, config):
    table, window = jax.random.split(key)
    width = config.width
    return {
        "embedding": jax.random.normal(table, (config.vocab, width)) * width**-0.5,
        "window": jax.random.normal(window, (config.window, width, width)) * (config.window * width) ** -0.5,
        "head": jnp.zeros((width, config.vocab)),
    }


def loss(parameters, batch, key, config):
    tokens_BT, targets_BT = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    x_BTD = parameters["embedding"][tokens_BT]
    past = [jnp.pad(x_BTD, ((0, 0), (back, 0), (0, 0)))[:, : x_BTD.shape[1]] for back in range(config.window)]
    hidden_BTE = jnp.tanh(jnp.einsum("btwd,wde->bte", jnp.stack(past, 2), parameters["window"]))
    nats_BT = head.vocabulary(stack.rms_norm(hidden_BTE), parameters["head"], targets_BT, tied=False)
    return {"loss": objectives.clm(nats_BT, batch.get("mask"))}


def components(config):
    table, mixed = config.vocab * config.width, config.window * config.width**2
    return [
        Component("embedding", "embedding", table),
        Component("window", "mlp", mixed, mixed, config.context),
        Component("head", "head", table, table, config.context),
    ]


def axes(config):
    return {"embedding": ("vocab", "embed"), "window": ("taps", "embed", "mlp"), "head": ("embed", "vocab")}
'''
folder = Path(tempfile.mkdtemp())
(folder / "window.py").write_text(CODE)
families.__path__.append(str(folder))  # to try it; to keep it, save it as scaling/families/window.py
print(families.names())

# %% [markdown]
# The count is held against the program: every matrix product of the traced loss, forward and backward.

# %%
family = families.load("window")
config = families.configure(family, 1)
parameters = family.init(jax.random.key(0), config)
batch = {"tokens": np.zeros((2, config.context + 1), np.int32)}


def mean_loss(parameters, batch):
    total, examples = family.loss(parameters, batch, jax.random.key(1), config)["loss"]
    return total.sum() / examples.sum()


stated = 2 * sum(count.executed_flops(family.components(config)).values())
traced = count.jaxpr_flops(jax.grad(mean_loss), parameters, batch)
print("N by group:", count.parameters(family.components(config))["groups"])
print(f"FLOPs of a step of two examples: stated {stated:,}, traced {traced:,}")
assert stated == traced
assert sum(x.size for x in jax.tree.leaves(parameters)) == count.parameters(family.components(config))["total"]

# %% [markdown]
# A study of it is planned like any other: sizes from its own ladder, N and C by its own count.

# %%
asked = study.base("window")
asked.family = "window"
asked.data.stdlib = {"source": "stdlib"}
asked.cells.grid = study.block("grid", "stdlib", (0, 1, 2), tokens=(65_536, 131_072))
for row in plan.make(study.resolve(asked)).rows():
    print(f"size {row.size}: N {row.N:,}, D {row.D:,}, C {row.flops:.3g} FLOPs")

# %% [markdown]
# Does it learn? The loss starts at ln 256 = 5.545, since the head starts at zero, and falls. `scaling run` trains it
# with recipes, branches and checkpoints once the file is in its folder.

# %%
text = np.frombuffer(Path(study.__file__).read_bytes(), np.uint8)
starts = np.random.default_rng(0).integers(0, len(text) - config.context - 1, (200, 8))
step = jax.jit(jax.value_and_grad(mean_loss))
for number, start_B in enumerate(starts):
    tokens = np.stack([text[start : start + config.context + 1] for start in start_B]).astype(np.int32)
    value, gradient = step(parameters, {"tokens": tokens})
    parameters = jax.tree.map(lambda w, g: w - 1.0 * g, parameters, gradient)
    if number in (0, 10, 50, 199):
        print(f"step {number:3}: {float(value):.3f} nats/token")
assert jnp.isfinite(value) and value < 4
