"""The main job as a newcomer does it: plan, run, fit, predict, report, on real data with real training."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from docs_blocks import blocks, commands, corpus

from scaling.records import read_json, records

pytestmark = pytest.mark.system  # three minutes of training and fitting
ROOT = Path(__file__).parents[1]
VERBS = ("status", "fit", "predict", "report")
SCALING = Path(sys.executable).with_name("scaling")


def scaling(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCALING), *arguments], capture_output=True, text=True, cwd=cwd)


def shows(text: str, loss: float) -> bool:
    """Whether a number in the text is the loss, to four decimals or more; a forecast may share the first four."""
    return any(f"{loss:.{len(found[2])}f}" == found[0] for found in re.finditer(r"\b(\d+)\.(\d{4,})", text))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> Path:
    """A folder with the smoke study, trained."""
    folder = tmp_path_factory.mktemp("newcomer")
    done = scaling("run", "--config=demo:smoke", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_everything_is_trained_once(smoke: Path):
    found = records(smoke / "runs" / "demo-smoke")
    assert found and all(record.status == "done" for record in found)
    losses = [record.result.evaluation["loss"] for record in found if record.result and record.result.evaluation]
    entropy = {record.manifest.dataset: record.manifest.data.entropy for record in found}["known"]
    known = [r.result for r in found if r.manifest.dataset == "known" and r.manifest.kind == "branch"]
    assert len(losses) == 33 and len(known) == 15
    for result in known:
        assert result is not None and entropy is not None
        term = result.evaluation["loss"]
        assert term.sample is not None
        assert term.value > entropy and abs(term.sample - term.value) < 0.2
    again = scaling("run", "--config=demo:smoke", cwd=smoke)
    assert again.returncode == 0 and "nothing to do: all" in again.stdout


def test_holdouts_stay_sealed_until_they_are_forecast(smoke: Path):
    """In one test, because the order is the point."""
    workdir = smoke / "runs" / "demo-smoke"
    held = [record for record in records(workdir) if record.manifest.role == "holdout"]
    losses = [record.result.evaluation["loss"].value for record in held if record.result]
    assert len(losses) == 3
    fitted = scaling("fit", "runs/demo-smoke", cwd=smoke)
    assert fitted.returncode == 0, fitted.stderr
    assert "chinchilla" in fitted.stdout and "approaches 1, 2, 3 on stdlib" in fitted.stdout
    status = scaling("status", "runs/demo-smoke", cwd=smoke)
    assert "held-out losses stay sealed" in status.stdout
    early = scaling("report", "runs/demo-smoke", f"--out={smoke / 'early.html'}", cwd=smoke)
    assert early.returncode == 0, early.stderr
    shown = fitted.stdout + status.stdout + early.stdout + (smoke / "early.html").read_text()
    assert not any(shows(shown, loss) for loss in losses)

    sealed = scaling("predict", "runs/demo-smoke", cwd=smoke)
    assert sealed.returncode == 0, sealed.stderr
    assert sealed.stdout.index("expected power") < sealed.stdout.index("95 % interval")
    assert not any(shows(sealed.stdout, loss) for loss in losses)
    report = scaling("report", "runs/demo-smoke", cwd=smoke)
    assert report.returncode == 0, report.stderr
    assert "Sealed forecasts" in report.stdout and "exact entropy" in report.stdout
    page = (workdir / "report.html").read_text()
    assert all(f"{loss:.4f}"[:-1] in page or shows(page, loss) for loss in losses)

    before = {path.name: path.read_bytes() for path in (workdir / "fits").iterdir()}
    again = scaling("fit", "runs/demo-smoke", cwd=smoke)
    assert "up to date: 16 of 16" in again.stdout
    assert before == {path.name: path.read_bytes() for path in (workdir / "fits").iterdir()}
    assert "nothing changed" in scaling("predict", "runs/demo-smoke", cwd=smoke).stdout


def test_a_card_answers_for_a_budget(smoke: Path):
    workdir = smoke / "runs" / "demo-smoke"
    card = workdir / "fits" / "known-chinchilla-total.json"
    if not card.exists():
        assert scaling("fit", "runs/demo-smoke", cwd=smoke).returncode == 0
    largest = read_json(card)["scope"]["C_max"]
    answer = scaling("predict", str(card), f"--flops={3 * largest}", "--force", "--json", cwd=smoke)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["extrapolation_ratio"] == pytest.approx(3, rel=1e-4) and found["N"]["value"] > 0
    refused = scaling("predict", str(card), f"--flops={1000 * largest}", cwd=smoke)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "--force" in refused.stderr


def test_the_commands_of_the_tutorial(smoke: Path):
    """docs/tutorials/tonight.md: those that the tests above do not give word by word, on the study that they leave."""
    page = ROOT / "docs" / "tutorials" / "tonight.md"
    said = [command for block in blocks(page) if block.kind == "shell" for command in commands(block)]
    above = {f"scaling {words}" for words in ("run --config=demo:smoke", *(f"{v} runs/demo-smoke" for v in VERBS))}
    assert above <= set(said)
    corpus(smoke)
    for command in said:
        if command not in above:
            done = scaling(*shlex.split(command)[1:], cwd=smoke)
            assert done.returncode == 0, (command, done.stderr)


def test_the_script_of_the_readme_draws_the_outcomes(smoke: Path):
    """On the study that the tests above leave, whose forecasts are opened."""
    script, workdir = ROOT / "experiments" / "figures" / "demo.py", smoke / "runs" / "demo-smoke"
    done = subprocess.run([sys.executable, str(script), str(workdir), str(smoke)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(read_json(smoke / "demo.json")["rows"]) == 3 and (smoke / "demo.png").stat().st_size > 10_000


def test_make_demo_is_interrupted_continued_and_then_has_nothing_to_do(tmp_path: Path):
    files = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    # Into an environment of its own: the installation of this one must stay what it is.
    command = ["make", "demo", "CONFIG=experiments/demo.py:smoke"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    first = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
    deadline = time.monotonic() + 1800  # a limit, not a measurement: two busy cores install and train slowly
    while not any(record.status == "done" for record in records(tmp_path / "runs" / "demo")):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(1)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(timeout=120) != 0
    done = [record.path.name for record in records(tmp_path / "runs" / "demo") if record.status == "done"]
    finished = {name: (tmp_path / "runs/demo/runs" / name / "result.json").stat().st_mtime_ns for name in done}

    second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr[-3000:]
    for name, written in finished.items():
        assert (tmp_path / "runs/demo/runs" / name / "result.json").stat().st_mtime_ns == written
    for text in ("Sealed forecasts", "exact entropy", "report.html", "[", "FLOPs"):
        assert text in second.stdout[-4000:], text
    third = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert third.returncode == 0
    for text in ("nothing to do: all", "up to date: 16 of 16", "nothing changed"):
        assert text in third.stdout, text
