"""The command ``python -m scaling.worker.measure CORE``: times a training step of two widths, in the place of a worker.

The step is one block of a byte-level transformer with tied embeddings and Adam, written as ``families.gpt`` computes
it but without its layers of Python, so that it compiles in a quarter of the time: its seconds per FLOP and per
attention score are those of a real step, its compilation takes a known share of a shape's.

It prints JSON: FLOPs, attention scores and seconds of a step for each width, and the seconds of a compilation. On a CPU
seconds are of CPU time, so that what else the machine does at the moment does not count.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from scaling.worker.environment import bind

VOCAB = 256
# Width, size of a head, sequences and tokens of each. An accelerator is only busy at widths that a CPU never trains.
SHAPES = {"cpu": ((32, 8, 16, 64), (128, 16, 16, 64)), "accelerator": ((256, 64, 32, 512), (2048, 128, 32, 512))}
STEPS, ROUNDS = 4, 4


def main(core: str) -> None:
    """Measures, and prints what it found."""
    bind(core)
    import jax

    kind = "cpu" if jax.default_backend() == "cpu" else "accelerator"
    clock = time.process_time if kind == "cpu" else time.perf_counter
    measured = [_shape(*shape, clock) for shape in SHAPES[kind]]
    compiled = [each.pop() for each in measured]
    print(json.dumps({"steps": measured, "compile": sum(compiled) / len(compiled)}))


def _shape(width: int, head: int, batch: int, length: int, clock: Any) -> list[float]:
    """FLOPs, attention scores and seconds of a step, and seconds of its compilation."""
    import jax
    import numpy as np

    sizes = {"embedding": VOCAB, **dict.fromkeys("qkvo", width), "up": 4 * width, "down": 4 * width}
    random = np.random.default_rng(0)
    weights = {name: random.normal(0, 0.02, (size, width)).astype(np.float32) for name, size in sizes.items()}
    zeros = jax.tree.map(np.zeros_like, weights)
    tokens = random.integers(0, VOCAB, (batch, length + 1)).astype(np.int32)
    arguments = jax.device_put((weights, zeros, zeros, tokens))
    begun = clock()
    steps = jax.jit(_steps, static_argnums=5).lower(*arguments, 1, head).compile()
    compiled = clock() - begun
    jax.block_until_ready(steps(*arguments, 1))  # the first one waits for memory
    best = float("inf")
    for _ in range(ROUNDS):
        begun = clock()
        jax.block_until_ready(steps(*arguments, STEPS))
        best = min(best, (clock() - begun) / STEPS)
    flops = 6 * batch * length * (12 * width**2 + width * VOCAB) + 12 * batch * length**2 * width
    return [flops, batch * (width // head) * length**2, best, compiled]


def _steps(weights: Any, first: Any, second: Any, tokens: Any, count: Any, head: int) -> Any:
    """``count`` steps of Adam."""
    import jax
    import jax.numpy as jnp

    def body(_: Any, carry: Any) -> Any:
        weights, first, second = carry
        gradient = jax.grad(_loss)(weights, tokens, head)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.98 * v + 0.02 * g * g, second, gradient)
        moved = jax.tree.map(lambda w, m, v: w - 1e-3 * m / (jnp.sqrt(v) + 1e-8), weights, first, second)
        return moved, first, second

    return jax.lax.fori_loop(0, count, body, (weights, first, second))


def _loss(weights: Any, tokens: Any, head: int) -> Any:
    import jax
    import jax.numpy as jnp

    from scaling.blocks.attention import attend
    from scaling.blocks.dense import product

    def normed(x: Any) -> Any:
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)

    x = weights["embedding"][tokens[:, :-1]]
    batch, length, width = x.shape
    y = normed(x)
    q, k, v = (
        jnp.einsum("btd,ed->bte", y, weights[name]).reshape(batch, length, -1, head).transpose(0, 2, 1, 3)
        for name in "qkv"
    )
    mixed = attend(q, k, v).transpose(0, 2, 1, 3).reshape(batch, length, width)
    x = x + jnp.einsum("bte,de->btd", mixed, weights["o"].T)
    hidden = jnp.square(jax.nn.relu(jnp.einsum("btd,fd->btf", normed(x), weights["up"])))
    x = x + product(hidden, weights["down"])
    logits = jnp.einsum("btd,vd->btv", normed(x), weights["embedding"])
    target = jnp.take_along_axis(logits, tokens[:, 1:, None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - target).mean()


if __name__ == "__main__":
    main(sys.argv[1])
