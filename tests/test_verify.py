"""``scaling verify``: what is damaged is named, with the command that makes it again; what is whole is not."""

import contextlib
import errno
import io
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import handmade
import pytest
from refusals import refuses

from analysis.decide.forecast import fit_cards
from analysis.table.workdir import load_workdir
from scaling.cli import main
from scaling.errors import Code
from scaling.records import HASH, RESTORED, Record, read_json, write_json
from scaling.records.types import FinishRow, RetryRow, StepRow
from scaling.status import study_status
from scaling.verbs import verify

MINE = """
from analysis.laws import E, Law, Term, amplitude, exponent
terms = (Term("A", (("N", "s"),)), Term("B", (("D", "s"),)))
parameters = (E, amplitude("A", "a"), amplitude("B", "b"), exponent("s", "one slope for both"))
law = Law("equal", "L = E + A N^-s + B D^-s", parameters, terms, "this test")
"""
RUNS = ("a", "b", "c", "d")  # of a data set of their own, which is not fitted
SIZES, TOKENS = (4000, 16_000, 64_000, 256_000), (2**18, 2**20, 2**22)


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
    """Finished runs, one with checkpoints; cards, one of them of a law in a file; approaches, and a seal."""
    import jax.numpy as jnp
    import numpy as np

    from scaling.checkpoint import Checkpoints

    workdir = tmp_path_factory.mktemp("whole") / "w"
    manifests = [handmade.manifest(run, n=1000 * 4**i, d=2**14 * 4**i, dataset="other") for i, run in enumerate(RUNS)]
    for i, about in enumerate(manifests):
        handmade.write(workdir, about, handmade.result(3.0 - 0.3 * i))
    rng = np.random.default_rng(0)
    cells = [(n, d, "fit") for n in SIZES for d in TOKENS] + [(4 * SIZES[-1], 2 * TOKENS[-1], "holdout")]
    for n, d, role in cells:
        about = handmade.manifest(f"gpt-{n}-{d}", n=n, d=d, role=role, size=SIZES.index(min(n, SIZES[-1])))
        loss = (1.5 + 20 / n**0.35 + 60 / d**0.3) * float(np.exp(0.003 * rng.standard_normal()))
        handmade.write(workdir, about, handmade.result(loss))
        manifests.append(about)
    write_json(workdir / "study.json", handmade.study(*(handmade.program(about) for about in manifests)))
    checkpoints = Checkpoints(workdir / "runs" / "a" / "checkpoints")
    for step in (4, 8):
        checkpoints.save(step, {"params": {"w": jnp.arange(512.0) + step}, "opt": (Moments(jnp.ones(3)),)})
    mine = tmp_path_factory.mktemp("laws") / "mine.py"
    mine.write_text(MINE)
    quick = ["--dataset=text", "--n=nonembedding", "--scheme=delta-t"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(["fit", str(workdir), "--law=chinchilla,product", *quick]) == main(["predict", str(workdir)]) == 0
        assert main(["fit", str(workdir), f"--law={mine}:law", *quick]) == 0
    mine.unlink()  # a card is whole without the file of its law
    return workdir


@pytest.fixture
def workdir(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "w")
    return tmp_path / "w"


def test_nothing_is_said_of_what_is_whole(workdir: Path):
    code, found = audit(workdir)
    assert code == 0 and found["findings"] == [] and found["unhashed"] == 0
    counts = {"study": 1, "manifests": 17, "results": 17, "metrics": 0, "checkpoints": 2}
    counts |= {"evaluations": 0, "fits": 4, "seal": 1}
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


def test_a_digit_in_the_metrics_of_a_finished_run_is_found(tmp_path: Path):
    about = handmade.manifest("a")
    write_json(tmp_path / "study.json", handmade.study(handmade.program(about)))
    record = handmade.write(tmp_path, about)
    rows = [StepRow(step=i, loss=4.5 - i, norm=1.0, learning_rate=0.1, tokens=i, seconds=1.0) for i in (1, 2)]
    record.append(*rows)
    record.finish(handmade.result(2.5))
    record.append(FinishRow(time="now"))  # what comes after the result may come
    code, found = audit(tmp_path)
    assert code == 0 and found["read"]["metrics"] == 1 and record.grown()
    path = record.path / "metrics.jsonl"
    whole = path.read_text()
    for text in (whole.replace("2.5", "2.4"), whole[:-70], None):  # also rows lost, or the file
        path.unlink() if text is None else path.write_text(text)
        code, found = audit(tmp_path)
        assert code == 1 and [(each["file"], each["command"]) for each in found["findings"]] == [(str(path), None)]
        assert record.intact() and handmade.ended(record).metrics is not None
    write_json(record.path / "result.json", handmade.result(2.5))  # of an older version
    (record.path / HASH).unlink()
    assert record.grown() is None and audit(tmp_path)[0] == 0


def test_each_damage_has_its_command(workdir: Path):
    runs, run = workdir / "runs", f"scaling run --workdir={workdir}"
    manifest = json.loads((runs / "a" / "manifest.json").read_text())
    write_json(runs / "a" / "manifest.json", {**manifest, "steps": manifest["steps"] + 1})
    (runs / "b" / "manifest.json").write_text("{}")
    (runs / "c" / "manifest.json").unlink()
    (runs / "d" / "result.json").write_text("[")
    Record(runs / "d").append(RetryRow(time="now"))  # a good row before the damaged one
    with open(runs / "d" / "metrics.jsonl", "a") as file:
        file.write('{"event": "step", "step": "two"}\n')
    (workdir / "prediction.json").write_text("{}")
    kinds = {read_json(path)["kind"]: path for path in (workdir / "fits").glob("*.json")}
    write_json(kinds["approaches"], {**read_json(kinds["approaches"]), "C_min": "little"})
    (draws,) = (workdir / "fits").glob("*chinchilla*.npz")
    draws.write_bytes(draws.read_bytes()[:-1] + b"x")
    (chinchilla,) = [path for path in (workdir / "fits").glob("*chinchilla*.json") if "approaches" not in path.name]
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
        f"fits/{chinchilla.name}": f"scaling fit {workdir}",
        f"fits/{kinds['approaches'].name}": f"scaling fit {workdir}",
        "prediction.json": None,
    }
    (workdir / "study.json").write_text("{")
    commands = {Path(f["file"]).name: f["command"] for f in audit(workdir)[1]["findings"]}
    assert commands["study.json"] == f"scaling run --config=FILE.py --workdir={workdir}"
    assert commands["manifest.json"] is None and commands["result.json"] is None  # nothing names them any more


@pytest.mark.parametrize("damage", ["bit", "sidecar", "fifo", "gone"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_is_read_against_its_hashes(workdir: Path, damage: str, finished: bool):
    root = workdir / "runs" / "a" / "checkpoints"
    if not finished:
        for name in ("result.json", HASH):
            (workdir / "runs" / "a" / name).unlink()
    if damage == "bit":
        path = max((root / "8").rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "sidecar":
        hashes = read_json(root / "8.json")
        write_json(root / "8.json", {**hashes, "leaves": dict.fromkeys(hashes["leaves"], "0" * 64)})
    elif damage == "fifo":
        (root / "8.json").unlink()
        os.mkfifo(root / "8.json")
    else:
        shutil.rmtree(root / "8")
    code, found = audit(workdir)
    (finding,) = found["findings"]
    assert code == 1 and finding["file"] == str(root / "8")
    assert finding["command"] == (None if finished else f"scaling run --workdir={workdir}")  # which would do nothing


@pytest.mark.parametrize("plant", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.with_name("nothing"))])
def test_metrics_that_are_no_file_are_in_the_way_of_training(workdir: Path, plant: Callable[[Path], object]):
    path = workdir / "runs" / "a" / "metrics.jsonl"
    plant(path)
    (finding,) = audit(workdir)[1]["findings"]
    assert finding["file"] == str(path) and shlex.split(finding["command"]) == ["mv", str(path), f"{path}.damaged"]
    (path.parent / "result.json").unlink()
    (finding,) = audit(workdir)[1]["findings"]
    assert finding["command"].endswith(f" && scaling run --workdir={workdir}")


@pytest.mark.parametrize(
    "pattern", ["study.json", "runs/b/manifest.json", "runs/b/result.json", "runs/a/checkpoints/8.json", "fits/*.json"]
)
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_what_the_machine_lets_not_be_read_is_not_called_damaged(workdir: Path, pattern: str, number: int, monkeypatch):
    path, opened = sorted(workdir.glob(pattern))[0], os.open

    def refused(name: Any, *rest: Any, **more: Any) -> int:
        if str(name) == str(path):
            raise OSError(number, os.strerror(number), str(name))
        return opened(name, *rest, **more)

    monkeypatch.setattr(os, "open", refused)
    with refuses(Code.ENVIRONMENT, value=path):
        verify.verify(SimpleNamespace(path=workdir, json=True))


@pytest.mark.parametrize("place", ["runs", "runs/b", "fits", "runs/a/checkpoints"])
def test_a_folder_that_is_closed_to_this_user_is_said(workdir: Path, place: str, monkeypatch):
    """Of another user whose umask is 077, for example: what it holds must be missed by nobody in silence."""
    closed = f"{workdir / place}"

    def refusing(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any = ".", *rest: Any, **more: Any) -> Any:
            inside = name in ("listdir", "scandir") and str(path) == closed
            if inside or str(path).startswith(f"{closed}/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *rest, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("open", "stat", "lstat", "listdir", "scandir"):
        refusing(name)
    with refuses(Code.ENVIRONMENT):
        verify.verify(SimpleNamespace(path=workdir, json=True))
    if place.endswith(("runs", "b")):
        with refuses(Code.ENVIRONMENT):
            study_status(workdir)
        with refuses(Code.ENVIRONMENT):
            load_workdir(workdir, None, "text", "nonembedding", None)
    if place == "fits":
        with refuses(Code.ENVIRONMENT):
            fit_cards(workdir)


def test_what_is_wrong_is_said_without_the_advice_of_another_command(workdir: Path):
    path = workdir / "runs" / "b" / "manifest.json"
    path.write_text('{"run": "a; b"}')
    (finding,) = audit(workdir)[1]["findings"]
    with refuses(Code.DAMAGED, "file", path) as caught:
        _ = Record(path.parent).manifest
    assert finding["what"] == caught.value.problem and caught.value.remedy == f"{finding['what']}; {RESTORED}"


def test_results_of_an_older_version_have_no_hash(workdir: Path):
    (workdir / "runs" / "a" / HASH).unlink()
    code, found = audit(workdir)
    assert code == 0 and found["unhashed"] == 1


def test_what_is_no_study_is_a_mistake_and_not_a_finding(tmp_path: Path):
    for path in (tmp_path, tmp_path / "none"):
        with refuses(Code.MISSING, "workdir", path):
            verify.verify(SimpleNamespace(path=path, json=False))
