"""Meshes by configuration: in a process of its own, since the number of devices is set before JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CHILD = """
import json, sys
import jax, numpy as np
from jax.sharding import NamedSharding
from scaling import families, mesh, recipe
from scaling.checkpoint import Checkpoints
from scaling.errors import UserError
from scaling.step import Trainer

module = families.load("gpt")
config = families.configure(module, 2, vocab=32, context=16)
rules = recipe.named("width", batch=8, warmup_steps=2)
tokens = np.random.default_rng(0).integers(0, 32, (6, 8, 17)).astype(np.int32)
rates = np.full(6, 0.01, np.float32)
hyper = {"learning_rate": rates, "weight_decay": rates, "steps": np.int32(6)}
out, states = {}, {}
for shape in ((1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2)):
    trainer = Trainer(module, config, rules, dict(zip(mesh.MESH_AXES, shape)), 6)
    state, metrics = trainer.chunk(trainer.init(0), hyper, {"tokens": tokens})
    out["x".join(map(str, shape))] = np.asarray(metrics["loss"]).tolist()
    states[shape] = (trainer, state)
trainer, state = states[2, 2, 2]
out["spec"] = {name: list(leaf.sharding.spec) for name, leaf in state["params"]["stack"].items()}
moments = jax.tree_util.tree_leaves_with_path(state["opt"])
out["moment"] = next(list(leaf.sharding.spec) for path, leaf in moments if "'up'" in str(path))
store = Checkpoints(sys.argv[1])
store.save(6, state)
single = states[1, 1, 1][0]
step, moved = store.load(single.abstract)
out["moved"] = all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(state)))
out["devices"] = len(jax.tree.leaves(moved)[0].sharding.device_set)
try:
    Trainer(module, config, recipe.named("width", batch=6), {"data": 4}, 6)
except UserError as error:
    out["error"] = str(error)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    folder = str(tmp_path_factory.mktemp("checkpoints"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, folder], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_mesh_trains_alike(meshes):
    for shape in ("8x1x1", "1x8x1", "2x2x2"):
        assert meshes[shape] == pytest.approx(meshes["1x1x1"], rel=1e-5)


def test_weights_and_moments_are_split_by_their_path(meshes):
    assert meshes["spec"]["up"] == meshes["moment"] == [None, "fsdp", "tensor"]
    assert meshes["spec"]["q"] == [None, "fsdp", "tensor", None]
    assert meshes["spec"]["down"] == [None, "tensor", "fsdp"]


def test_a_checkpoint_is_restored_onto_another_mesh(meshes):
    assert meshes["moved"] and meshes["devices"] == 1


def test_a_batch_that_the_mesh_does_not_divide_is_named(meshes):
    assert meshes["error"] == "recipe.batch = 6: must be a multiple of data x fsdp = 4"
