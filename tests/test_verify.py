"""``scaling verify``: what is damaged is named, with the command that makes it again; what is whole is not."""

import contextlib
import io
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import handmade
import pytest
from refusals import refuses

from scaling.cli import main
from scaling.errors import Code
from scaling.records import HASH, Record, read_json, write_json
from scaling.verbs import verify

RUNS = ("a", "b", "c", "d")


def audit(workdir: Path) -> tuple[int, dict[str, Any]]:
    """Exit status and JSON of the verb."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["verify", str(workdir), "--json"])
    return code, json.loads(out.getvalue())


class Moments(NamedTuple):
    """As an optimiser's state, a named tuple in a tuple."""

    mu: Any


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs, one with checkpoints, a card and a seal."""
    import jax.numpy as jnp

    from scaling.checkpoint import Checkpoints

    workdir = tmp_path_factory.mktemp("whole") / "w"
    manifests = [handmade.manifest(run, n=1000 * 4**i, d=2**14 * 4**i) for i, run in enumerate(RUNS)]
    for i, about in enumerate(manifests):
        handmade.write(workdir, about, handmade.result(3.0 - 0.3 * i))
    write_json(workdir / "study.json", handmade.study(*(handmade.program(about) for about in manifests)))
    checkpoints = Checkpoints(workdir / "runs" / "a" / "checkpoints")
    for step in (4, 8):
        checkpoints.save(step, {"params": {"w": jnp.arange(512.0) + step}, "opt": (Moments(jnp.ones(3)),)})
    return workdir


@pytest.fixture
def workdir(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "w")
    return tmp_path / "w"


def test_nothing_is_said_of_what_is_whole(workdir: Path):
    code, found = audit(workdir)
    assert code == 0 and found["findings"] == [] and found["unhashed"] == 0
    counts = {"study": 1, "manifests": 4, "results": 4, "metrics": 0, "checkpoints": 2, "fits": 0, "seal": 0}
    assert found["read"] == counts
    assert main(["verify", str(workdir)]) == 0


def flip(path: Path) -> None:
    """Another digit in the file: valid JSON of the right shape."""
    text = path.read_text()
    at = text.index('"value": 2.7') + len('"value": 2.')
    path.write_text(text[:at] + "8" + text[at + 1 :])


def test_a_result_that_differs_from_its_hash_is_found_and_trained_again_by_the_command(workdir: Path):
    path = workdir / "runs" / "b" / "result.json"
    flip(path)
    assert handmade.ended(Record(path.parent)).evaluation["loss"].value == 2.8  # nothing else could tell
    code, found = audit(workdir)
    (finding,) = found["findings"]
    assert code == 1 and finding["file"] == str(path)
    first, second = finding["command"].split(" && ")
    assert shlex.split(first)[:2] == ["mv", str(path)] and second == f"scaling run --workdir={workdir}"


def test_each_damage_has_its_command(workdir: Path):
    runs, run = workdir / "runs", f"scaling run --workdir={workdir}"
    manifest = json.loads((runs / "a" / "manifest.json").read_text())
    write_json(runs / "a" / "manifest.json", {**manifest, "steps": manifest["steps"] + 1})
    (runs / "b" / "manifest.json").write_text("{}")
    (runs / "c" / "manifest.json").unlink()
    (runs / "d" / "result.json").write_text("[")
    (runs / "d" / "metrics.jsonl").write_text('{"event": "step", "step": "two"}\n')
    (workdir / "prediction.json").write_text("{}")
    (workdir / "fits").mkdir()
    (workdir / "fits" / "text-product-nonembedding.json").write_text("{}")
    (runs / "e").symlink_to(runs / "a")
    code, found = audit(workdir)
    commands = {finding["file"].removeprefix(f"{workdir}/"): finding["command"] for finding in found["findings"]}
    assert code == 1 and commands == {
        "runs/a/manifest.json": f"rm {runs / 'a' / 'manifest.json'} && {run}",
        "runs/b/manifest.json": run,
        "runs/c/manifest.json": run,
        "runs/d/result.json": f"{run} --retry_failed",
        "runs/d/metrics.jsonl": None,
        "runs/e": f"rm {runs / 'e'}",
        "fits/text-product-nonembedding.json": f"scaling fit {workdir}",
        "prediction.json": None,
    }
    (workdir / "study.json").write_text("{")
    commands = {Path(f["file"]).name: f["command"] for f in audit(workdir)[1]["findings"]}
    assert commands["study.json"] == f"scaling run --config=FILE.py --workdir={workdir}"
    assert commands["manifest.json"] is None and commands["result.json"] is None  # nothing names them any more


@pytest.mark.parametrize("damage", ["bit", "sidecar", "gone"])
def test_a_checkpoint_is_read_against_its_hashes(workdir: Path, damage: str):
    root = workdir / "runs" / "a" / "checkpoints"
    if damage == "bit":
        path = max((root / "8").rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "sidecar":
        hashes = read_json(root / "8.json")
        write_json(root / "8.json", {**hashes, "leaves": dict.fromkeys(hashes["leaves"], "0" * 64)})
    else:
        shutil.rmtree(root / "8")
    code, found = audit(workdir)
    assert code == 1 and [finding["file"] for finding in found["findings"]] == [str(root / "8")]


def test_results_of_an_older_version_have_no_hash(workdir: Path):
    (workdir / "runs" / "a" / HASH).unlink()
    code, found = audit(workdir)
    assert code == 0 and found["unhashed"] == 1


def test_what_is_no_study_is_a_mistake_and_not_a_finding(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none"):
        with refuses(Code.MISSING, "workdir", path):
            verify.verify(SimpleNamespace(path=path, json=False))
