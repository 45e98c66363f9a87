"""Tokens per CPU-second of one training step on one core: ours against plain torch and Hugging Face `transformers`.

    python benchmarks/cpu.py --peer=PYTHON [--sizes=30k,300k,3M] [--rounds=3] [--seconds=8] [--compile]

PYTHON is the interpreter of another environment with torch and transformers (`pip install torch transformers`); nothing
of it is needed here. Every measurement is a process of its own, bound to one core with one thread; the candidates take
turns (A B C A B C ...), each reports the median of its rounds, and a ratio is the median of the ratios within a round.
Ours has the environment that the launcher gives a CPU worker (transparent huge pages for malloc).

Same for all: 32 sequences of 128 byte tokens a step, float32, tied head, no dropout, gradients clipped at norm 1,
AdamW; width x layers x heads = 32x3x4, 96x3x6, 256x4x4; random tokens made beforehand. `nanodo` is a plain Flax module
in the shape that NanoDO publishes (LayerNorm without biases, q, k, v by DenseGeneral, GELU, learned positions, tied
head), its layers unrolled, trained by optax under a `lax.scan` over steps. The peers are a plain torch GPT in nanoGPT's
shape, written here (`torch`: no biases, SDPA, exact GELU), and of transformers `GPT2LMHeadModel` and `LlamaForCausalLM`
(MLP of 8/3 widths, gated, as many parameters as four widths without) with `attn_implementation` sdpa, torch's fused
AdamW, their own loss; eager, and with --compile also through torch.compile (default mode). Ours is
`scaling.step.Trainer` on family gpt, as a worker runs it: many steps in one call.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BATCH, CONTEXT, VOCAB = 32, 128, 256
SIZES = {"30k": (32, 3, 4), "300k": (96, 3, 6), "3M": (256, 4, 4)}
PEERS = ("torch", "gpt2", "llama")
OURS = ("ours", "nanodo")  # need nothing but this environment


def measure(steps: Callable[[int], float], seconds: float) -> dict[str, float]:
    """Tokens per CPU-second of ``steps(n)``, which trains n steps and returns the last loss, after a first one."""
    steps(1)
    used, taken, loss, count = 0.0, 0, 0.0, 1
    while used < seconds:
        before = resource.getrusage(resource.RUSAGE_SELF)
        loss = steps(count)
        after = resource.getrusage(resource.RUSAGE_SELF)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        used, taken = used + spent, taken + count
        count = max(1, min(50, round(count * seconds / 2 / max(spent, 0.02))))
    return {"tokens_per_cpu_second": taken * BATCH * CONTEXT / used, "steps": taken, "loss": loss}


def ours(size: str, seconds: float) -> dict[str, Any]:
    """Our step at a size."""
    import jax
    import numpy as np

    from scaling import families, recipe
    from scaling.step import Trainer

    width, layers, heads = SIZES[size]
    module, chunk = families.load("gpt"), 50
    config = families.configure(module, 0, width=width, layers=layers, heads=heads, vocab=VOCAB, context=CONTEXT)
    trainer = Trainer(module, config, recipe.named("width", batch=BATCH), {}, chunk)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (chunk, BATCH, CONTEXT + 1)).astype(np.int32)
    rates = np.full(chunk, 1e-3, np.float32)
    state = trainer.init(0)

    def steps(count: int) -> float:
        nonlocal state
        hyper = {"learning_rate": rates, "weight_decay": 0.1 * rates, "steps": np.int32(count)}
        state, metrics = trainer.chunk(state, hyper, {"tokens": tokens})
        return float(np.asarray(metrics["loss"])[count - 1])

    found = measure(steps, seconds)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state["params"]))
    return {**found, "parameters": parameters, "versions": {"jax": jax.__version__}}


def nanodo(size: str, seconds: float) -> dict[str, Any]:
    """A plain Flax module in NanoDO's shape at a size."""
    import flax
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    width, layers, heads = SIZES[size]
    normal = nn.initializers.normal(0.02)

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x_BTD: jax.Array) -> jax.Array:
            def heads_of(name: str, y_BTD: jax.Array) -> jax.Array:
                return nn.DenseGeneral((heads, width // heads), use_bias=False, name=name, kernel_init=normal)(y_BTD)

            y_BTD = nn.LayerNorm(use_bias=False)(x_BTD)
            q_BTHK, k_BTHK, v_BTHK = (heads_of(name, y_BTD) for name in "qkv")
            scores_BHTS = jnp.einsum("bthk,bshk->bhts", q_BTHK * (width // heads) ** -0.5, k_BTHK)
            causal_TS = jnp.tril(jnp.ones(scores_BHTS.shape[-2:], bool))
            share_BHTS = jax.nn.softmax(jnp.where(causal_TS, scores_BHTS, jnp.finfo(scores_BHTS.dtype).min))
            mixed_BTHK = jnp.einsum("bhts,bshk->bthk", share_BHTS, v_BTHK)
            x_BTD += nn.DenseGeneral(width, (-2, -1), use_bias=False, name="o", kernel_init=normal)(mixed_BTHK)
            h_BTF = nn.Dense(4 * width, use_bias=False, kernel_init=normal)(nn.LayerNorm(use_bias=False)(x_BTD))
            return x_BTD + nn.Dense(width, use_bias=False, kernel_init=normal)(jax.nn.gelu(h_BTF))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, tokens_BT: jax.Array) -> jax.Array:
            embedding = nn.Embed(VOCAB, width, embedding_init=normal)
            x_BTD = embedding(tokens_BT) + self.param("places", normal, (CONTEXT, width))
            for _ in range(layers):
                x_BTD = Block()(x_BTD)
            return embedding.attend(nn.LayerNorm(use_bias=False)(x_BTD))

    model, chunk = Model(), 50
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, 0.9, 0.98, weight_decay=0.1))
    params = model.init(jax.random.key(0), jnp.zeros((1, CONTEXT), jnp.int32))
    state = params, optimizer.init(params)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (chunk, BATCH, CONTEXT + 1)).astype(np.int32)

    def loss_of(params: Any, batch: jax.Array) -> jax.Array:
        logits: Any = model.apply(params, batch[:, :-1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    def step(state: Any, batch: jax.Array) -> Any:
        params, moments = state
        loss, gradient = jax.value_and_grad(loss_of)(params, batch)
        updates, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, updates), moments), loss

    train = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches), donate_argnums=0)
    short = train.lower(state, tokens[:1]).compile()
    whole = train.lower(state, tokens).compile()

    def steps(count: int) -> float:
        nonlocal state
        loss = np.zeros(1)
        for _ in range(count // chunk):
            state, loss = whole(state, tokens)
        for index in range(count % chunk):
            state, loss = short(state, tokens[index : index + 1])
        return float(np.asarray(loss)[-1])

    found = measure(steps, seconds)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state[0]))
    return {**found, "parameters": parameters, "versions": {"jax": jax.__version__, "flax": flax.__version__}}


def plain(width: int, layers: int, heads: int) -> Any:
    """A GPT of torch's own modules in nanoGPT's shape: pre-norm, learned positions, no biases, tied head."""
    import torch  # type: ignore[import-not-found]

    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
            self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
            self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            batch, time, _ = x.shape
            split = self.qkv(self.norms[0](x)).view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            mixed = functional.scaled_dot_product_attention(*split.unbind(0), is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, width))
            return x + self.down(functional.gelu(self.up(self.norms[1](x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT, width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.LayerNorm(width, bias=False)
            for weight in self.parameters():
                if weight.dim() == 2:
                    nn.init.normal_(weight, std=0.02)

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens[:, :-1]) + self.places.weight
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.norm(x), self.tokens.weight)
            return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    torch.manual_seed(0)
    return Model()


def of_transformers(name: str, width: int, layers: int, heads: int) -> Any:
    """A class of transformers at a size."""
    import transformers  # type: ignore[import-not-found]

    if name == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=VOCAB,
            n_positions=CONTEXT,
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            attn_implementation="sdpa",
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return transformers.LlamaForCausalLM(config)


def peer(name: str, size: str, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """A peer at a size."""
    import torch  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = plain(*SIZES[size]) if name == "torch" else of_transformers(name, *SIZES[size])
    model.train()
    parameters = sum(weight.numel() for weight in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, VOCAB, (50, BATCH, CONTEXT + 1))
    run = torch.compile(model) if compiled else model

    def steps(count: int) -> float:
        loss = torch.zeros(())
        for index in range(count):
            batch = tokens[index % 50]
            # Those of transformers shift the labels themselves.
            loss = run(batch) if name == "torch" else run(input_ids=batch[:, :-1], labels=batch[:, :-1]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    found = measure(steps, seconds)
    versions = {"torch": torch.__version__}
    if name != "torch":
        versions["transformers"] = sys.modules["transformers"].__version__
    return {**found, "parameters": parameters, "versions": versions}


def child(python: str, candidate: str, size: str, seconds: float, core: int) -> dict[str, Any]:
    """One measurement in a process of its own on one core."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment |= {"JAX_PLATFORMS": "cpu", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    command = [python, __file__, f"--child={candidate}", f"--sizes={size}", f"--seconds={seconds}", f"--core={core}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else "ended"}
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """All candidates at all sizes, in turns."""
    candidates = [*OURS]
    if options.peer:
        candidates += [*PEERS, *(f"{name}-compile" for name in PEERS if options.compile)]
    core = options.core if options.core >= 0 else min(os.sched_getaffinity(0))
    table: dict[str, Any] = {}
    for size in options.sizes.split(","):
        rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in candidates}
        for _ in range(options.rounds):
            for name in candidates:
                python = sys.executable if name in OURS else options.peer
                rounds[name].append(child(python, name, size, options.seconds, core))
                print(size, name, rounds[name][-1], file=sys.stderr, flush=True)
        table[size] = {}
        for name, found in rounds.items():
            good = [(row, own) for row, own in zip(found, rounds["ours"]) if "error" not in row and "error" not in own]
            if not good:
                table[size][name] = found[0]
                continue
            speeds = [row["tokens_per_cpu_second"] for row, _ in good]
            ratios = [own["tokens_per_cpu_second"] / row["tokens_per_cpu_second"] for row, own in good]
            table[size][name] = {
                "tokens_per_cpu_second": round(statistics.median(speeds)),
                "all": [round(speed) for speed in speeds],
                "ours_over_this": round(statistics.median(ratios), 3),
                "parameters": good[0][0]["parameters"],
                "versions": good[0][0]["versions"],
            }
    return {
        "benchmark": "cpu",
        "machine": {"cpu": cpu_name(), "python": sys.version.split()[0], "load_at_end": os.getloadavg()[0]},
        "step": {"batch": BATCH, "context": CONTEXT, "vocab": VOCAB, "dtype": "float32"},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "sizes": table,
    }


def cpu_name() -> str:
    """The model of the CPU, and its vector extension."""
    from scaling.speed import cpu  # not above: the peers' interpreter runs this file, too

    return cpu()


def main(arguments: list[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", default="", help="interpreter of an environment with torch and transformers")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="CPU-seconds of one measurement")
    parser.add_argument("--compile", action="store_true", help="the peers also through torch.compile")
    parser.add_argument("--core", type=int, default=-1)
    parser.add_argument("--out", default="", help="where to write the JSON")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        os.sched_setaffinity(0, {options.core})
        name, _, compiled = options.child.partition("-")
        own = {"ours": ours, "nanodo": nanodo}.get(name)
        found = (own or functools.partial(peer, name, compiled=bool(compiled)))(options.sizes, options.seconds)
        print(json.dumps(found))
        return 0
    found = compare(options)
    if options.out:
        from scaling.records import write_json  # not above, as in ``cpu_name``

        write_json(options.out, found)
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
