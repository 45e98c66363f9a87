"""`scaling status`: what a study has cost, its page, and its JSON."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import handmade
import msgspec
import pytest
from refusals import refuses

from scaling import cli, device, devices
from scaling.errors import Code
from scaling.records import Record, write_json
from scaling.records.types import Environment, Seconds, StepRow, StudyRecord
from scaling.status import StudyStatus, study_status
from scaling.verbs._watch import PLAIN_BARS, sparkline

ROOT = Path(__file__).parents[1]
H100, CPU = "NVIDIA H100 80GB HBM3", "cpu"


def environment(kind: str, **mesh: int) -> Environment:
    unset = dict.fromkeys(("jax", "flax", "optax", "orbax", "numpy", "commit"))
    shape = {"ensemble": 1, "data": 1, "fsdp": 1, "tensor": 1, **mesh}
    return Environment(
        python="3.11", device="gpu", device_kind=kind, device_count=8, processes=1, threads=1, mesh=shape, **unset
    )


def step(number: int, loss: float, seconds: float) -> StepRow:
    return StepRow(step=number, loss=loss, norm=1.0, learning_rate=0.1, tokens=number, seconds=seconds)


def study(workdir: Path) -> StudyRecord:
    """Two runs on eight H100s each, of which one failed, one on a CPU core, and one that was not begun."""
    seconds = Seconds(train=1800.0, compile=600.0, evaluate=1200.0)
    done = handmade.manifest("done", environment=environment(H100, data=4, tensor=2))
    failed = handmade.manifest("failed", seed=1, environment=environment(H100, data=8))
    small = handmade.manifest("small", seed=2, environment=environment(CPU))
    later = handmade.manifest("later", seed=3)
    handmade.write(workdir, done, handmade.result(2.5, seconds=seconds))
    record = handmade.write(workdir, failed)
    record.append(step(8, 3.0, 1800.0), step(8, 3.0, 1800.0))  # the same step twice: both took their time
    record.finish(handmade.result(status="failed", seconds=Seconds(), reason="3 attempts\x1b[31m; the last: killed"))
    handmade.write(workdir, small, handmade.result(2.75, seconds=Seconds(train=360.0)))
    programs = [handmade.program(each, seconds=100.0) for each in (done, failed, small, later)]
    write_json(workdir / "study.json", handmade.study(*programs))
    return handmade.study(*programs)


def test_what_a_study_has_cost_is_its_device_hours_at_the_price_of_their_kind(tmp_path):
    planned = study(tmp_path)
    status = study_status(tmp_path)
    gpu, cpu = status.spend
    assert (gpu.device_kind, gpu.hours, gpu.per_hour, gpu.origin) == (H100, 16.0, 6.88, "list")
    assert gpu.cost == pytest.approx(110.08) and "2026-11-09" in (gpu.listed or "")
    assert (cpu.device_kind, cpu.hours, cpu.per_hour, cpu.cost) == (CPU, 0.1, None, None)
    assert status.cost_left is None  # since the cores have no price
    status = study_status(tmp_path, {"NVIDIA": 2.0, "NVIDIA H100": 3.0, "": 0.5})
    assert [each.cost for each in status.spend] == [48.0, 0.05] and status.spend[0].origin == "given"
    assert status.cost_left == pytest.approx(48.05 * status.seconds.left / status.seconds.spent)
    write_json(tmp_path / "study.json", handmade.edited(planned, price_per_hour=1.5))
    spend = study_status(tmp_path).spend
    assert [each.cost for each in spend] == pytest.approx([24.0, 0.15]) and {each.origin for each in spend} == {"study"}
    assert study_status(tmp_path, {"cpu": 0.0}).spend[1].cost == 0.0


def test_the_table_of_devices():
    assert len({name for each in devices.DEVICES if (name := each.name)}) == sum(bool(e.name) for e in devices.DEVICES)
    for kind, peak in ((H100, 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA A100-SXM4-80GB", 312e12)):
        assert device.peak(kind) == peak
    for kind, peak in (("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("TPU v6 lite", 918e12), ("TPU v4", 275e12)):
        assert device.peak(kind) == peak
    assert device.peak("cpu") is None and devices.find("NVIDIA GeForce RTX 4090") is None
    for price in (each.price for each in devices.DEVICES if each.price is not None):
        assert 0 < price.per_hour < 20 and price.source and time.strptime(price.read, "%Y-%m-%d")


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "H100", "cpu=", "cpu=x"])
def test_a_price_that_is_none_is_refused(tmp_path, price):
    study(tmp_path)
    with refuses(Code.INVALID, "price"):
        cli._dispatch(["status", str(tmp_path), f"--price={price}"])
    with refuses(Code.CONFLICT, "watch"):
        cli._dispatch(["status", str(tmp_path), "--watch", "--json"])


def test_the_json_is_the_typed_status(tmp_path, capsys):
    study(tmp_path)
    assert cli.main(["status", str(tmp_path), "--json", "--price=cpu=0.05"]) == 0
    out = capsys.readouterr().out
    assert msgspec.json.decode(out.encode(), type=StudyStatus) == study_status(tmp_path, {"cpu": 0.05})
    assert json.loads(out)["spend"][1]["hours"] == 0.1


def test_without_a_terminal_the_page_is_the_status_once(tmp_path, capsys):
    study(tmp_path)
    assert cli.main(["status", str(tmp_path), "--watch"]) == 0
    once = capsys.readouterr().out
    assert cli.main(["status", str(tmp_path)]) == 0
    assert capsys.readouterr().out == once
    assert "16 device hours" in once and "--retry_failed" in once and "\x1b" not in once


def test_a_sparkline():
    assert sparkline([]) == "" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([3.0, 2.0, 1.0]) == "█▅▁" and sparkline([1.0, float("nan"), 3.0]) == "▁██"
    assert sparkline([float("inf")]) == ""
    long = sparkline([float(100 - i) for i in range(100)], 10)
    assert len(long) == 10 and list(long) == sorted(long, reverse=True)
    assert sparkline([3.0, 2.0, 1.0], bars=PLAIN_BARS) == "#=_"


def read_until(terminal: int, word: str, seconds: float = 30.0) -> str:
    """What a process wrote to its terminal until a word came, or it ended."""
    seen, end = b"", time.monotonic() + seconds
    while word.encode() not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the other side is closed
                break
    return seen.decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_shows_losses_and_ends_with_the_terminal_restored(tmp_path, number):
    study(tmp_path)
    record = Record(tmp_path / "runs" / "later")
    record.begin(handmade.manifest("later", seed=3))
    record.append(*(step(number, 4.0 - number / 8, 1.0) for number in range(1, 9)))
    command = [sys.executable, "-m", "scaling.cli", "status", str(tmp_path), "--watch"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=environment) as process:
        os.close(theirs)
        shown = read_until(ours, "not the training")
        process.send_signal(number)
        shown += read_until(ours, "no such word")
        code, errors = process.wait(30), process.communicate()[1]
    os.close(ours)
    assert code == (0 if number == signal.SIGINT else 128 + number) and errors == b""
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1  # the other screen, entered and left
    assert "handmade: " in shown and "2 done" in shown and "▁█" in shown and "1 stopped" in shown
    assert "failed: 3 attempts\\x1b" in shown and "--retry_failed" in shown
