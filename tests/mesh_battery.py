"""Every family on every mesh, in a process with eight devices: what test_mesh.py runs, since JAX counts them once.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/mesh_battery.py FOLDER [--write] [--family=NAME]

prints JSON: losses of ten steps and the collectives of a step, by case, precision and mesh. ``--write`` makes the table
of collectives, collectives.json, anew: commit it when a change is meant. ``--family=NAME`` runs one family's cases, and
writes their rows alone.
"""

import collections
import dataclasses
import functools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import queue_family
from test_families import CASES, FAMILIES, batch_of, small

from scaling import adapt, mesh, objectives, prune, recipe
from scaling.blocks import experts
from scaling.checkpoint import Checkpoints
from scaling.families import vq
from scaling.step import Trainer

TABLE = Path(__file__).parent / "collectives.json"
STEPS, BATCH = 10, 8
RATE = 0.005  # at 0.01 the loss of hidden tokens in bfloat16 climbs, and any rounding grows
# Where it grows at that rate too: through draws of wrong pairs, from one time of a recurrence to the next, in bfloat16.
SLOWER = {"blip2": 0.002, "tacotron": 0.0025, "videobert": 0.0025}
SHAPES = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2))
LINE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1}


def pinned(scores_BTE: jax.Array, moe: experts.Experts) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Routing by position in place of by score: a rounding would send a token to another expert.

    Unevenly, since an even load has a balance gradient of zero, whose rounding Adam makes a step of.
    """
    size, time, count = scores_BTE.shape
    chosen_TC = (jnp.arange(time)[:, None] // 3 + jnp.arange(moe.top)) % count
    chosen_BTC = jnp.broadcast_to(chosen_TC, (size, time, moe.top))
    taken_BTE = jax.nn.one_hot(chosen_BTC, count, dtype=jnp.int32).sum(axis=-2)
    before_BTE = jnp.cumsum(taken_BTE, axis=1) - taken_BTE
    gate_BTC = jnp.take_along_axis(jax.nn.softmax(scores_BTE, axis=-1), chosen_BTC, axis=-1)
    return chosen_BTC, jnp.take_along_axis(before_BTE, chosen_BTC, axis=-1), gate_BTC


NEAREST = vq.nearest


def by_position(z_BPC: jax.Array, book_KC: jax.Array) -> jax.Array:
    """Codes by position in place of the nearest, whose products are still computed: a rounding would choose another."""
    return jnp.minimum(NEAREST(z_BPC, book_KC), 0) + jnp.arange(z_BPC.shape[1]) % len(book_KC)


def collectives(text: str) -> dict[str, list[int]]:
    """{kind: [how many, bytes that they give on each device]} of a compiled program's loop body, once."""
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for shapes, kind in LINE.findall(text):
        sizes = re.findall(r"(\w+)\[([\d,]*)\]", shapes)
        found[kind][0] += 1
        found[kind][1] += sum(BYTES[name] * math.prod(int(n) for n in dims.split(",") if n) for name, dims in sizes)
    return dict(found)


def name_of(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


ADAPTED = {
    "lora": adapt.Lora(rank=2, weights=("q", "k", "v", "o", "up", "down")),
    "adapter": adapt.Adapter(rank=4),
    "prompt": adapt.Prompt(length=3),
}


def name_in(module: Any) -> str:
    """The name of a family."""
    return module.__name__.rpartition(".")[2]


@functools.cache
def start(module: Any, config: Any, freeze: tuple[str, ...] = ()) -> Any:
    """The state before the first step, on the host: one compilation for all meshes and precisions."""
    rules = recipe.named("width", batch=BATCH, warmup_steps=2)
    state = jax.device_get(Trainer(module, config, rules, {"data": 1}, STEPS, freeze=freeze).init(0))
    # Nothing that is frozen may be zero, or what is added before it would not move; nor a projection whose unit vectors
    # are compared, since rounding decides where the first vectors behind it point.
    if freeze or name_in(module) == "blip2":
        rng = np.random.default_rng(0)
        state["params"] = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), state["params"])
    return state


def train(
    module: Any, config: Any, shape: tuple[int, ...], freeze: tuple[str, ...] = ()
) -> tuple[Trainer, Any, dict[str, Any]]:
    rules = recipe.named("width", batch=BATCH, warmup_steps=2)
    trainer = Trainer(module, config, rules, dict(zip(("data", "fsdp", "tensor"), shape)), STEPS, freeze=freeze)
    exact = dataclasses.replace(config, dtype="float32")  # parameters are, whatever it computes in
    each = [batch_of(module, config, BATCH, seed) for seed in range(STEPS)]
    batches = {name: np.stack([batch[name] for batch in each]) for name in each[0]}
    rates = np.full(STEPS, SLOWER.get(name_in(module), RATE), np.float32)
    hyper = {"learning_rate": rates, "weight_decay": rates, "steps": np.int32(STEPS)}
    if trainer.paced:
        hyper["progress"] = np.arange(STEPS, dtype=np.float32) / STEPS
    begun = start(module, exact, freeze)
    state = jax.tree.map(lambda leaf, as_: jax.device_put(leaf, as_.sharding), begun, trainer.abstract)
    state, metrics = trainer.chunk(state, hyper, batches)
    found: dict[str, Any] = {"losses": np.asarray(metrics["loss"]).tolist()}
    if queues := [np.asarray(state["params"][name], np.float64).ravel() for name in getattr(module, "QUEUES", ())]:
        found["queues"] = np.concatenate(queues).tolist()
    (compiled,) = (each for (name, _), each in trainer._compiled.items() if name == "chunk")
    return trainer, state, {**found, "collectives": collectives(compiled.as_text())}


def by_axis() -> bool:
    """Whether a contrast inside shard_map, its negatives gathered by axis name, is that of the whole batch, and its
    gradient too."""
    left, right = (jax.random.normal(jax.random.key(seed), (16, 4)) for seed in range(2))

    def nats(left, right, axis=None):
        return objectives.contrast(*objectives.matches(left, right, axis))[0].sum()

    whole = jax.jit(jax.value_and_grad(nats, (0, 1)))(left, right)
    axes = ("data", "fsdp")
    split = jax.sharding.PartitionSpec(axes)
    mapped = jax.shard_map(
        lambda left, right: jax.lax.psum(nats(left, right, axes), axes),
        mesh=mesh.make({"data": 4, "fsdp": 2}),
        in_specs=split,
        out_specs=jax.sharding.PartitionSpec(),
    )
    parts = jax.jit(jax.value_and_grad(mapped, (0, 1)))(left, right)
    return all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)))


def every_case(family: str, *, few: bool) -> dict[str, Any]:
    """What the cases of a family gave ("": of all), by case, precision and mesh; see ``main`` for ``few``."""
    out: dict[str, Any] = {}
    first = {name: next(case for family, case in CASES if family == name) for name in FAMILIES}
    for name, case in (each for each in CASES if family in ("", each[0])):
        # A family on every mesh; in bfloat16, as its further objectives and switches, on that with every axis.
        shapes = {"float32": SHAPES if case == first[name] else SHAPES[::3]}
        if case == first[name]:
            shapes["bfloat16"] = SHAPES[::3]
        if few:
            shapes = {"float32": SHAPES[::3]} if (name, case) == ("gpt", first["gpt"]) else {}
        for dtype, meshes in shapes.items():
            further: dict[str, Any] = {} if case == first[name] else {"temperature": 0.07}  # clip's own, in float32
            module, config = small(name, case, layers=1, dtype=dtype, **further)
            vq.nearest = by_position if case == first[name] else NEAREST
            runs = {name_of(shape): train(module, config, shape)[2] for shape in meshes}
            out[" ".join(filter(None, (name, case, dtype)))] = runs
    return out


def adapted() -> dict[str, Any]:
    """What ``every_case`` gives, of gpt with each kind of adaptation, in float32 and on the mesh with every axis."""
    module, config = small("gpt", layers=1)
    found = {}
    for name, how in ADAPTED.items():
        family, freeze = adapt.applied(module, how), adapt.frozen(module, config, how)
        runs = {name_of(shape): train(family, config, shape, freeze)[2] for shape in SHAPES[::3]}
        found[f"gpt {name} float32"] = runs
    return found


def after() -> dict[str, Any]:
    """Losses of the tests' own family with a teacher and a queue, and its last queue, by mesh."""
    found = {}
    for shape in SHAPES[::3]:
        _, state, run = train(queue_family, queue_family.Config(), shape)
        found[name_of(shape)] = {"losses": run["losses"], "queue": np.asarray(state["params"]["queue"]).tolist()}
    return found


def pruned() -> dict[str, Any]:
    """Losses of a gpt that is pruned by movement, and the last mask of one weight, by mesh."""
    module, config = small("gpt", layers=1)
    family, found = prune.applied(module, prune.Prune(kind="movement")), {}
    for shape in SHAPES[::3]:
        _, state, run = train(family, config, shape)
        mask = np.asarray(state["params"][prune.MASK]["stack"]["up"]).ravel()
        found[name_of(shape)] = {"losses": run["losses"], "mask": mask.tolist()}
    return found


def write_table(cases: dict[str, Any], *, whole: bool) -> None:
    """Writes the collectives of the cases; unless they are the whole table, in the place of their own rows alone."""
    table = {} if whole else json.loads(TABLE.read_text())["cases"]
    table |= {case: {shape: run["collectives"] for shape, run in runs.items()} for case, runs in cases.items()}
    text = ",\n".join(f"  {json.dumps(case)}: {json.dumps(runs)}" for case, runs in table.items())
    TABLE.write_text(f'{{\n "jax": {json.dumps(jax.__version__)},\n "cases": {{\n{text}\n }}\n}}\n')


def main(folder: str, *, write: bool, few: bool, family: str) -> None:
    """Prints what every case gave; ``few``: gpt in float32 alone, on one device and on the mesh with every axis."""
    experts.route = pinned
    out: dict[str, Any] = {"cases": every_case(family, few=few), "jax": jax.__version__}
    if not few and family in ("", "gpt"):
        out["cases"] |= adapted()
    if write:
        write_table(out["cases"], whole=not family)
    if not family:
        out |= closely(folder) | ({} if few else {"after": after(), "pruned": pruned()})
    print(json.dumps(out))


def closely(folder: str) -> dict[str, Any]:
    """One case more closely: bytes against parameters, where they lie, and a checkpoint that moves to another mesh."""
    out: dict[str, Any] = {}
    module, config = small("gpt", size=4, vocab=64)
    parts = {shape: train(module, config, shape) for shape in (*SHAPES[1:], (1, 1, 1))}
    params = parts[1, 1, 1][1]["params"]
    out["bytes"] = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    out["close"] = {name_of(shape): each[2]["collectives"] for shape, each in parts.items()}
    state = parts[2, 2, 2][1]
    out["spec"] = {name: list(leaf.sharding.spec) for name, leaf in state["params"]["stack"].items()}
    moments = jax.tree_util.tree_leaves_with_path(state["opt"])
    out["moment"] = next(list(leaf.sharding.spec) for path, leaf in moments if "'up'" in str(path))
    store = Checkpoints(folder)
    store.save(STEPS, state)
    found = store.load(parts[1, 1, 1][0].abstract)
    assert found is not None
    out["moved"] = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(state)))
    out["devices"] = len(jax.tree.leaves(found[1])[0].sharding.device_set)
    stacked, axes = {"w": np.zeros((4, 6, 8))}, {"w": ("embed", "mlp")}
    members = mesh.state_shardings(mesh.make({"ensemble": 2, "fsdp": 2}), stacked, axes, ensemble=True)
    out["members"] = list(members["w"].spec)
    out["contrasted"] = by_axis()
    return out


if __name__ == "__main__":
    chosen = next((each.partition("=")[2] for each in sys.argv if each.startswith("--family=")), "")
    main(sys.argv[1], write="--write" in sys.argv, few="--few" in sys.argv, family=chosen)
