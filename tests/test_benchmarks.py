"""The benchmark scripts that need another machine run here at tiny shapes, and say what they cannot do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import roofline

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT / "benchmarks")


@pytest.mark.system
def test_the_gpu_benchmark_runs_small_on_a_cpu(tmp_path):
    """All sections but remat at depth and cold compilation, which compile for long and use the same function."""
    done = run(
        "gpu.py",
        "--small",
        "--minutes=60",
        "--only=ceilings,gpt2,attention,loss,little",
        f"--out={tmp_path / 'gpu.json'}",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    sections = found["sections"]
    assert found["platform"] == "cpu" and list(sections) == ["ceilings", "gpt2", "attention", "loss", "little"]
    wrong = [row["what"] for rows in sections.values() for row in rows if "error" in row]
    assert len(wrong) == 1 and wrong[0].endswith("cudnn")  # which needs a GPU, and says so
    single, packed = sections["little"]
    assert packed["members"] == 2 and single["members"] == 1 and packed["parameters"] == single["parameters"]
    for row in (*sections["gpt2"], single, packed):
        assert row["tokens_a_second"] > 0 and 0 < row["mfu_causal_of_measured"] < row["mfu_of_measured"]
        assert row["attention"] == ["own"] and row["mfu"] is None  # nobody knows this CPU's peak
    whole, chunked = (next(row for row in sections["loss"] if row["what"].endswith(w)) for w in ("32, whole", "chunks"))
    assert chunked["MB"] < whole["MB"]
    assert "tokens_a_second" in done.stdout


@pytest.mark.system
def test_the_cpu_benchmark_runs_small_and_its_result_is_of_these_candidates(tmp_path):
    done = run("cpu.py", "--sizes=30k", "--rounds=1", "--seconds=0.1", f"--out={tmp_path / 'cpu.json'}")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "cpu.json").read_text())["sizes"]["30k"]
    row = found["ours"]
    assert found.keys() == {"ours", "nanodo"} and found["nanodo"]["tokens_per_cpu_second"] > 0
    held = json.loads((ROOT / "benchmarks" / "cpu.json").read_text())["sizes"]
    assert row["tokens_per_cpu_second"] > 0 and row["parameters"] == held["30k"]["ours"]["parameters"]
    for size in held.values():
        ours = size.pop("ours")["parameters"]
        assert size.keys() == {"nanodo", "torch", "gpt2", "llama"} and size["nanodo"]["ours_over_this"] >= 1.2
        assert all(abs(peer["parameters"] / ours - 1) < 0.12 for peer in size.values())


@pytest.mark.system
def test_the_sweep_benchmark_runs_small_and_its_result_holds_the_goal(tmp_path):
    done = run("sweep.py", "--argument=smoke", "--cells=2", f"--out={tmp_path / 'sweep.json'}")
    assert done.returncode == 0, done.stderr[-2000:]
    small, held = (json.loads(path.read_text()) for path in (tmp_path / "sweep.json", ROOT / "benchmarks/sweep.json"))
    assert small["cells"] == 2 and small["largest_difference_of_loss"] < 1e-4
    assert held["ratio"] >= 3 and held["largest_difference_of_loss"] < 0.02


def test_the_torch_peer_is_skipped_where_it_cannot_run():
    done = run("gpu_torch.py")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert "skipped" in found or found["tokens_a_second"] > 0


class TestRoofline:
    def test_the_committed_document_is_what_the_script_writes(self):
        assert (ROOT / "benchmarks" / "roofline.md").read_text() == roofline.document()

    def test_memory_falls_with_fsdp_and_time_with_devices(self):
        chip = roofline.CHIPS["H200"]
        small, large = (roofline.estimate("7B", chip, 1, fsdp, 1) for fsdp in (8, 256))
        assert isinstance(small, roofline.Estimate) and isinstance(large, roofline.Estimate)
        assert large.memory < small.memory < chip.memory and large.compute == pytest.approx(small.compute / 32)
        assert small.best <= small.worst and small.hidden > 0 and small.exposed == 0
        # 16 bytes a parameter of 7.3e9 do not fit one device; a step of 1024 sequences does not divide over 4096 x 2.
        assert "does not fit" in str(roofline.estimate("7B", roofline.CHIPS["H100"], 8, 1, 1))
        assert "do not divide over 384" in str(roofline.estimate("7B", chip, 3, 128, 1))

    def test_one_device_is_bound_by_products_and_by_memory_less_as_it_grows(self):
        found = {model: roofline.alone(model, roofline.CHIPS["H200"]) for model in roofline.ALONE}
        small, large = found["124M"], found["1.3B"]
        assert 6 * 1.3e9 * 2**17 < large.flops < 1.4 * 6 * 1.3e9 * 2**17  # with attention's scores
        assert small.logits == large.logits == pytest.approx(6 * 2 * 50304 * 2**17 / 4.8e12)
        assert small.again / small.compute > large.again / large.compute
        assert small.activations / small.compute > large.activations / large.compute

    def test_an_axis_across_nodes_has_as_many_adapters_as_devices_in_a_node(self):
        chip = roofline.CHIPS["H100"]
        assert roofline.bandwidth(chip, 8, 1) == chip.near
        assert roofline.bandwidth(chip, 64, 1) == 8 * chip.far and roofline.bandwidth(chip, 8, 8) == chip.far
        assert roofline.bandwidth(chip, 64, 2) == 4 * chip.far
        assert roofline.bandwidth(roofline.CHIPS["v5p"], 64, 8) == roofline.TORUS
