"""One accelerator, eight minutes: where the training step stands against the machine's ceilings.

    python benchmarks/gpu.py [--torch=PYTHON] [--out=benchmarks/gpu.json] [--only=ceilings,gpt2] [--minutes=8]
    python benchmarks/gpu.py --small                # the same path on any machine, tiny shapes

Needs jax, flax, optax and numpy. Sections, in order: ceilings (matrix product, copy), gpt2 (124M at 1024 positions and
50,304 tokens, against nanoGPT's recipe in torch by --torch, see gpu_torch.py), attention (backends by length and head),
loss (logits whole or in chunks, with memory), little (1M and 10M: dispatch, many steps in a call, packed models), depth
(scanned or unrolled layers and remat at 350M and 1.3B, 131k tokens a step), compile (cold and from the cache). Each has
its share of the time; what no time was left for is said, and the JSON is written after every section.

MFU is by 6N + 12 L D T (N with the tied head, scores in full) and, ``causal``, by 6N + 6 L D T; against the data
sheet's peak where it is known, and against the matrix product measured here.

RESULT: not run on a GPU yet; none was at hand when this was written. `--small` is a test (tests/test_benchmarks.py).
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from scaling import count, device, families, recipe
from scaling.blocks import attention, head
from scaling.blocks.execution import Execution, using
from scaling.families import gpt
from scaling.records import finite, write_json
from scaling.step import Ensemble, Trainer

ROOT = Path(__file__).resolve().parents[1]
# Layers, width, heads; positions and tokens of the vocabulary; sequences in a step.
SHAPES = {
    "1M": (4, 144, 4, 256, 256, 128),
    "10M": (6, 384, 6, 256, 256, 128),
    "124M": (12, 768, 12, 1024, 50304, 32),
    "350M": (24, 1024, 16, 1024, 50304, 16),
    "1.3B": (24, 2048, 16, 1024, 50304, 8),
}
SMALL = dict.fromkeys(SHAPES, (1, 16, 2, 32, 64, 4))
Row = dict[str, Any]


class Bench:
    """What the sections share: sizes, the clock, the peak."""

    def __init__(self, small: bool, minutes: float):
        self.small, self.shapes = small, SMALL if small else SHAPES
        self.begun, self.seconds = time.perf_counter(), 60 * minutes
        self.kind = jax.devices()[0].device_kind
        self.sheet = device.peak(self.kind)
        self.ceiling: float | None = None
        self.dtype = "float32" if small else "bfloat16"

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    def timed(self, function: Callable[..., Any], *arguments: Any) -> float:
        """Seconds of a call: the fastest of several, after one that compiles."""
        jax.block_until_ready(function(*arguments))
        best, spent = float("inf"), 0.0
        for _ in range(2 if self.small else 20):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            best, spent = min(best, time.perf_counter() - start), spent + time.perf_counter() - start
            if spent > 2.0:
                break
        return best

    def config(self, name: str, **fields: Any) -> gpt.Config:
        """The configuration of a named shape."""
        layers, width, heads, context, vocab, _ = self.shapes[name]
        shape = {"layers": layers, "width": width, "heads": heads, "context": context, "vocab": vocab}
        return families.configure(gpt, 0, **{**shape, "dtype": self.dtype, **fields})

    def train(self, name: str, how: Execution, *, batch: int = 0, steps: int = 10, members: int = 0) -> Row:
        """Speed of a shape's training step: ``steps`` of them in a call, ``members`` models at once."""
        config, batch = self.config(name), batch or self.shapes[name][5]
        steps = 2 if self.small else steps
        trainer = Trainer(gpt, config, recipe.named("width", batch=batch), {}, steps, how)
        lead = (members,) if members else ()
        tokens = np.random.default_rng(0).integers(0, config.vocab, (*lead, steps, batch, config.context + 1))
        rates = np.full((*lead, steps), 1e-3, np.float32)
        hyper = {"learning_rate": rates, "weight_decay": 0 * rates, "steps": np.int32(steps)}
        runner = Ensemble(trainer, members) if members else trainer
        state = runner.init(np.arange(members)) if isinstance(runner, Ensemble) else runner.init(0)
        data = {"tokens": tokens.astype(np.int32)}

        def call() -> np.ndarray:
            nonlocal state
            state, metrics = runner.chunk(state, hyper, data)
            return np.asarray(metrics["loss"])  # what the loop reads: waits for the device

        losses = call()
        calls, start = 0, time.perf_counter()
        while calls < 2 or (time.perf_counter() - start < (0.1 if self.small else 3.0) and calls < 200):
            losses, calls = call(), calls + 1
        seconds = (time.perf_counter() - start) / (calls * steps)
        found = {
            "batch": batch,
            "steps_a_call": steps,
            "members": members or 1,
            "ms_a_step": seconds * 1e3,
            "tokens_a_second": batch * config.context * max(1, members) / seconds,
            "compile_seconds": trainer.compile_seconds,
            "attention": sorted(trainer.attention),
            "loss": finite(float(losses.ravel()[-1])),
        }
        return {**found, **self.mfu(config, found["tokens_a_second"])}

    def mfu(self, config: gpt.Config, speed: float) -> Row:
        """Shares of the peaks, in both conventions; exact is ``scaling.count``'s."""
        parts = gpt.components(config)
        parameters = count.parameters(parts)["total"]
        scores = 12 * config.layers * config.width * config.context
        flops = {"mfu": 6 * parameters + scores, "mfu_causal": 6 * parameters + scores / 2}
        flops["mfu_exact"] = sum(count.training_flops(parts).values()) / config.context
        found: Row = {"parameters": parameters}
        for name, each in flops.items():
            found[name] = None if self.sheet is None else each * speed / self.sheet
            found[f"{name}_of_measured"] = None if self.ceiling is None else each * speed / self.ceiling
        return found


def ceilings(bench: Bench) -> Iterator[Row]:
    """The largest rates that this device shows: a square matrix product in bf16, a copy of memory."""
    size = 256 if bench.small else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    seconds = bench.timed(jax.jit(lambda a: a @ a), a)
    bench.ceiling = 2 * size**3 / seconds
    yield {"what": f"product {size}", "TFLOP/s": bench.ceiling / 1e12}
    x = jnp.zeros((2**20 if bench.small else 2**30,), jnp.bfloat16)
    seconds = bench.timed(jax.jit(lambda x: x + 1), x)
    yield {"what": f"copy of {x.nbytes / 1e9:.3g} GB", "GB/s": 2 * x.nbytes / seconds / 1e9}


def gpt2(bench: Bench) -> Iterator[Row]:
    """GPT-2 124M: the step as it is, then with choices that may be faster."""
    layers, batch = bench.shapes["124M"][0], bench.shapes["124M"][5]
    plain = Execution(unroll=layers, loss_chunk=bench.shapes["124M"][3] // 4)
    tries: list[tuple[str, Execution, int]] = [
        ("unrolled, loss in 4 chunks", plain, batch),
        ("unrolled, whole loss", Execution(unroll=layers), batch),
        ("scanned layers", Execution(unroll=0, loss_chunk=plain.loss_chunk), batch),
        ("twice the batch", plain, 2 * batch),
        ("attention of our own", Execution(unroll=layers, loss_chunk=plain.loss_chunk, attention="own"), batch),
    ]
    for name, how, size in tries[1:2] if bench.small else tries:
        yield {"what": name, **_tried(functools.partial(bench.train, "124M", how, batch=size))}


def backends(bench: Bench) -> Iterator[Row]:
    """Attention forward and backward, by backend, length and head, 16 k tokens of 768 wide."""
    lengths, heads = ((32,), (16,)) if bench.small else ((512, 1024, 2048), (64, 128))
    for time_, size in ((t, h) for t in lengths for h in heads):
        tokens, width = (64, 32) if bench.small else (16384, 768)
        shape = (tokens // time_, width // size, time_, size)
        q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.dtype(bench.dtype)) for i in range(3))
        for name in ("own", "xla", "cudnn"):

            def loss(q, k, v, name=name):
                with using(Execution(attention=name)):
                    return attention.attend(q, k, v).astype(jnp.float32).sum()

            run = functools.partial(bench.timed, jax.jit(jax.grad(loss, (0, 1, 2))), q, k, v)
            found = _tried(lambda run=run: {"ms": run() * 1e3})
            if "ms" in found:
                # Three products in the causal half of the forward pass have four more in the backward pass.
                found["TFLOP/s causal"] = 3 * 2 * tokens * time_ * width / (found["ms"] / 1e3) / 1e12
            yield {"what": f"T {time_}, head {size}, {name}", **found}


def losses(bench: Bench) -> Iterator[Row]:
    """The vocabulary head with its cross-entropy, forward and backward, with the temporary memory."""
    ways = (("float32, whole", "float32", 1), ("whole", bench.dtype, 1), ("4 chunks", bench.dtype, 4))
    for vocab in (256,) if bench.small else (256, 50304):
        for name, dtype, chunks in ways if bench.small else (*ways, ("16 chunks", bench.dtype, 16)):
            yield {"what": f"V {vocab}, {name}", **_tried(functools.partial(_head, bench, vocab, dtype, chunks))}


def _head(bench: Bench, vocab: int, dtype: str, chunks: int) -> Row:
    size, time_, width = (4, 32, 16) if bench.small else (16, 1024, 768)
    x = jax.random.normal(jax.random.key(0), (size, time_, width), jnp.dtype(dtype))
    weight = jax.random.normal(jax.random.key(1), (vocab, width)) / width**0.5
    targets = jax.random.randint(jax.random.key(2), (size, time_), 0, vocab)

    def loss(x: jax.Array, weight: jax.Array) -> jax.Array:
        with using(Execution(loss_chunk=0 if chunks == 1 else time_ // chunks)):
            return head.vocabulary(x, weight, targets, tied=True).mean()

    made = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(x, weight).compile()
    memory = made.memory_analysis()
    megabytes = None if memory is None else memory.temp_size_in_bytes / 1e6
    return {"ms": bench.timed(made, x, weight) * 1e3, "MB": megabytes}


def little(bench: Bench) -> Iterator[Row]:
    """Small models: one step a call, many steps a call, and several models in one program."""
    how = Execution(unroll=8)
    for name in ("1M",) if bench.small else ("1M", "10M"):
        base = bench.shapes[name][5]
        for batch in (base,) if bench.small else (base, 2 * base):
            for steps in (2,) if bench.small else (1, 50):
                run = functools.partial(bench.train, name, how, batch=batch, steps=steps)
                yield {"what": f"{name}, {steps} steps a call", **_tried(run)}
    for members in (2,) if bench.small else (2, 4, 8, 16):
        run = functools.partial(bench.train, "1M", how, steps=50, members=members)
        yield {"what": f"1M x {members} packed", **_tried(run)}


def depth(bench: Bench) -> Iterator[Row]:
    """Scanned or unrolled, and what is kept for the gradient, at the sizes where memory counts."""
    for name in ("350M",) if bench.small else ("350M", "1.3B"):
        layers, chunk = bench.shapes[name][0], bench.shapes[name][3] // 4
        ways = [("none", layers), ("none", 0), ("dots", 0), ("full", 0), ("dots", layers)]
        for remat, unroll in ways[3:4] if bench.small else ways:
            run = functools.partial(bench.train, name, Execution(remat=remat, unroll=unroll, loss_chunk=chunk), steps=4)
            label = f"{name}, remat {remat}, {'unrolled' if unroll else 'scanned'}"
            yield {"what": label, **_tried(run)}


def compiling(bench: Bench) -> Iterator[Row]:
    """Five shapes compiled in a fresh process, and again with its persistent cache."""
    with tempfile.TemporaryDirectory() as folder:
        for what in ("cold", "from the cache"):
            environment = {
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": folder,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
                "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            }
            shapes = 1 if bench.small else 5
            start = time.perf_counter()
            command = [sys.executable, __file__, f"--compile_shapes={shapes}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            wall = time.perf_counter() - start
            last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
            found = {"error": last} if done.returncode else {"seconds": float(last)}
            yield {"what": f"{shapes} shapes, {what}", **found, "process_seconds": wall}


def _compile_shapes(number: int) -> float:
    """Seconds to compile the chunks of the first ``number`` sizes of the ladder."""
    total = 0.0
    for size in range(number):
        config = families.configure(gpt, size, vocab=256, context=64)
        trainer = Trainer(gpt, config, recipe.named("width", batch=16), {}, 50)
        start = time.perf_counter()
        trainer.memory({"tokens": np.zeros((1, 65), np.int32)})
        total += time.perf_counter() - start
    return total


def _tried(run: Callable[[], Row]) -> Row:
    """What ``run`` returns, or why it could not: a backend that is not there, memory that does not suffice."""
    try:
        return run()
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {text[0][:160]}"}


# Each section with the share of the time by whose end it starts nothing new.
SECTIONS: dict[str, tuple[Callable[[Bench], Iterator[Row]], float]] = {
    "ceilings": (ceilings, 0.06),
    "gpt2": (gpt2, 0.30),
    "attention": (backends, 0.42),
    "loss": (losses, 0.50),
    "little": (little, 0.72),
    "depth": (depth, 0.92),
    "compile": (compiling, 1.0),
}


def table(section: str, rows: list[Row]) -> list[str]:
    """Lines of one section, numbers to three digits."""
    lines = [f"\n{section}"]
    for row in rows:
        shown = [f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, (int, float))]
        lines.append(f"  {row.get('what', ''):34} " + (row["error"] if "error" in row else ", ".join(shown)))
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections, prints a table and writes the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny shapes: shows that the path works")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--torch", default="", help="interpreter with torch, for gpu_torch.py in the same run")
    parser.add_argument("--out", default="")
    parser.add_argument("--compile_shapes", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.compile_shapes:
        print(_compile_shapes(options.compile_shapes))
        return 0
    # First, while the device's memory is free: JAX keeps what it has once taken.
    peer = _torch(options.torch, options.small) if options.torch else {}
    bench = Bench(options.small, options.minutes)
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "small": options.small,
        "device": bench.kind,
        "platform": jax.default_backend(),
        "jax": jax.__version__,
        "peak_flops": bench.sheet,
        "sections": {},
    }
    for name in options.only.split(","):
        section, share = SECTIONS[name]
        rows: list[Row] = []
        for row in section(bench):
            rows.append(row)
            if bench.elapsed > share * bench.seconds:
                rows.append({"what": "no time left", "error": f"stopped at {bench.elapsed:.0f} s"})
                break
        if name == "gpt2" and peer:
            rows.append({"what": "torch (gpu_torch.py)", **peer})
        result["sections"][name] = rows
        result["seconds"] = bench.elapsed
        print("\n".join(table(name, rows)), flush=True)
        if options.out:
            write_json(options.out, result)
    return 0


def _torch(python: str, small: bool) -> Row:
    """The peer's result, by its own interpreter."""
    command = [python, str(Path(__file__).with_name("gpu_torch.py")), *(["--small"] if small else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    return {"error": done.stderr.strip()[-160:]} if done.returncode or not lines else json.loads(lines[-1])


if __name__ == "__main__":
    sys.exit(main())
