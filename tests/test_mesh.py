"""Meshes by configuration: in a process of its own, since the number of devices is set before JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from refusals import refuses

from scaling import families, mesh
from scaling.errors import Code

ROOT = Path(__file__).parents[1]
FAMILIES = families.names()
DEVICES = "--xla_force_host_platform_device_count=8"
# Half of the time of a compilation, and then two thirds of the rest; neither has a say in what is sent where.
QUICK = " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-3}


def battery(folder: Path, *arguments: str) -> dict[str, Any]:
    """What tests/mesh_battery.py prints, and what it says on its way."""
    command = [sys.executable, "-W", "error", "tests/mesh_battery.py", str(folder), *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    for flags in (DEVICES + QUICK, DEVICES):  # a flag that another XLA does not know ends the process
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env={**environment, "XLA_FLAGS": flags}
        )
        if "Unknown flag" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return battery(tmp_path_factory.mktemp("checkpoints"), "--few")


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    return battery(tmp_path_factory.mktemp("checkpoints"))


def test_gpt_trains_alike_on_a_mesh_of_all_axes(few):
    alone, split = (few["cases"]["gpt float32"][shape]["losses"] for shape in ("1x1x1", "2x2x2"))
    assert max(alone) - min(alone) > 1e-3 * alone[0]
    assert split == pytest.approx(alone, rel=TOLERANCE["float32"])


@pytest.mark.system
def test_every_family_trains_alike_on_every_mesh(meshes):
    """Every family on all four meshes, and in bfloat16, as every further objective or switch, on that of all axes."""
    for case, runs in meshes["cases"].items():
        alone = runs["1x1x1"]["losses"]
        assert max(alone) - min(alone) > 1e-3 * alone[0], case  # parameters have moved
        for shape, run in runs.items():
            assert run["losses"] == pytest.approx(alone, rel=TOLERANCE[case.split()[-1]]), (case, shape)
            if case.endswith("float32") and "queues" in run:  # they have the order of the batch
                assert run["queues"] == pytest.approx(runs["1x1x1"]["queues"], rel=1e-3, abs=1e-3), (case, shape)
        if case.endswith("bfloat16"):
            exact = meshes["cases"][case.replace("bfloat16", "float32")]["1x1x1"]["losses"]
            assert alone == pytest.approx(exact, rel=0.05) and alone != exact, case
    shapes = {"1x1x1", "8x1x1", "1x8x1", "2x2x2"}
    assert sum(set(runs) == shapes for runs in meshes["cases"].values()) == len(FAMILIES)
    assert {case.split()[0] for case in meshes["cases"] if case.endswith("bfloat16")} == set(FAMILIES)


@pytest.mark.system
def test_what_changes_after_the_step_is_alike_on_a_mesh_and_a_queue_has_the_order_of_the_batch(meshes):
    alone, split = (meshes["after"][shape] for shape in ("1x1x1", "2x2x2"))
    assert split["losses"] == pytest.approx(alone["losses"], rel=TOLERANCE["float32"])
    assert [x for row in split["queue"] for x in row] == pytest.approx(
        [x for row in alone["queue"] for x in row], rel=1e-4, abs=1e-5
    )


@pytest.mark.system
def test_the_same_weights_are_pruned_on_a_mesh(meshes):
    alone, split = (meshes["pruned"][shape] for shape in ("1x1x1", "2x2x2"))
    assert split["losses"] == pytest.approx(alone["losses"], rel=TOLERANCE["float32"])
    assert split["mask"] == alone["mask"] and sum(alone["mask"]) == len(alone["mask"]) / 2


@pytest.mark.system
def test_no_more_is_sent_than_the_table_says(meshes):
    table = json.loads((Path(__file__).parent / "collectives.json").read_text())
    slack = 1.05 if table["jax"] == meshes["jax"] else 1.5  # another compiler may cut the work otherwise
    assert set(table["cases"]) <= set(meshes["cases"])
    for case, promised in table["cases"].items():  # a family that is new has promised nothing yet
        for shape, run in meshes["cases"][case].items():
            allowed = promised[shape]
            for kind, (count, size) in run["collectives"].items():
                assert kind in allowed, f"{case} on {shape} has {count} {kind}"
                assert count <= slack * allowed[kind][0] and size <= slack * allowed[kind][1], (case, shape, kind)
            assert shape != "1x1x1" or not run["collectives"], case
    # What XLA says where it finds no way between two splits but to copy the whole to every device.
    assert table["jax"] != meshes["jax"] or "full rematerialization" not in meshes["stderr"], meshes["stderr"][:500]


def test_what_is_sent_follows_from_the_parameters(few):
    """Data parallel: gradients are summed once. Fully sharded: weights are gathered once, gradients summed once."""
    close, size = few["close"], few["bytes"]
    assert set(close["8x1x1"]) == {"all-reduce"} and close["8x1x1"]["all-reduce"][1] <= 1.05 * size
    assert set(close["1x8x1"]) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert close["1x8x1"]["all-gather"][1] <= 1.05 * size and close["1x8x1"]["all-reduce"][1] <= 1.05 * size
    assert "all-to-all" not in close["2x2x2"]


def test_weights_and_moments_are_split_by_their_path(few):
    assert few["spec"]["up"] == few["moment"] == [None, "fsdp", "tensor"]
    assert few["spec"]["q"] == [None, "fsdp", "tensor", None]
    assert few["spec"]["down"] == [None, "tensor", "fsdp"]
    assert few["members"] == ["ensemble", "fsdp", "tensor"]


def test_a_checkpoint_is_restored_onto_another_mesh(few):
    assert few["moved"] and few["devices"] == 1


def test_negatives_of_all_devices_are_those_of_the_whole_batch(few):
    assert few["contrasted"]


def test_a_mesh_that_cannot_be_is_named():
    with refuses(Code.CONFLICT, "recipe.batch", 6):
        mesh.check_batch({"data": 2, "fsdp": 2, "tensor": 2}, 6)
    with refuses(Code.UNKNOWN, "mesh.model", 2) as caught:
        mesh.make({"model": 2})
    assert "ensemble, data, fsdp, tensor" in caught.value.remedy
    wrong: tuple[Any, ...] = (0, 1.5, True)
    for size in wrong:
        with refuses(Code.INVALID, "mesh.data", size):
            mesh.make({"data": size})
    with refuses(Code.ENVIRONMENT, "mesh", "data 64 x tensor 2") as caught:
        mesh.make({"data": 64, "tensor": 2})
    assert "128" in caught.value.remedy
