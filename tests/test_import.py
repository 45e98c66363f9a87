"""`scaling import`: logs of other trainers (fixtures/logs, by their libraries) become the table that they hold."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from refusals import refuses

import analysis
from analysis.table import importers
from analysis.table.importers import Told
from analysis.table.importers.collect import Collected
from analysis.table.importers.contract import Names
from analysis.table.importers.make import wanted
from analysis.table.importers.source import Source
from scaling import cli
from scaling.errors import Code

LOGS = Path(__file__).parent / "fixtures" / "logs"
STEPS, TOKENS = 200, 8192  # of the runs of fixtures/logs/make.py; tokens a step
VAL, TRAIN = 2 + 8 * 210**-0.5, 2.1 + 8 * 210**-0.5  # their losses after the last step
PER_STEP = {"tokens_per_step": float(TOKENS)}
KINDS = {
    # path: (importer, final loss, whether the rates are logged, N, what must be told)
    "tensorboard/simple": ("tensorboard", VAL, True, None, PER_STEP),
    "tensorboard/tensors": ("tensorboard", VAL, True, None, PER_STEP),
    "wandb/run-abc12345.wandb": ("wandb_file", VAL, True, 31e6, {}),
    "huggingface/trainer_log.jsonl": ("huggingface", VAL, True, None, PER_STEP),
    "huggingface/checkpoint-200": ("huggingface", VAL, True, None, PER_STEP),
    "huggingface/llamafactory": ("huggingface", TRAIN, True, None, PER_STEP),
    "huggingface/printed.log": ("huggingface", VAL, True, None, {"tokens_per_step": float(STEPS * TOKENS)}),
    "megatron/megatron.log": ("megatron", VAL, True, 31e6, {}),
    "megatron/neox.log": ("megatron", VAL, True, None, PER_STEP),
    "keras": ("keras", VAL, True, None, {"tokens_per_step": 50.0 * TOKENS}),
    "lightning": ("lightning", VAL, True, None, PER_STEP),
    "nanogpt/train.log": ("nanogpt", VAL, False, 123.59e6, {}),
    "nanogpt/modded.txt": ("nanogpt", VAL, False, None, PER_STEP),
    "nanogpt/llmc.log": ("nanogpt", VAL, True, None, PER_STEP),
    "nanodo": ("nanodo", VAL, True, None, PER_STEP),
    "maxtext/maxtext.log": ("maxtext", VAL, False, None, PER_STEP),
    "maxtext/metrics.jsonl": ("maxtext", VAL, True, None, PER_STEP),
    "levanter/levanter.log": ("levanter", VAL, True, 31e6, {}),
    "levanter/marin": ("levanter", VAL, False, 31e6, {}),
    "olmo/olmo_core.log": ("olmo", VAL, True, None, {}),
    "olmo/baseline-31M-1xC.csv": ("olmo", VAL, True, None, {}),
    "llm_foundry": ("llm_foundry", VAL, True, None, {}),
}

COLUMNS = {"huggingface/printed.log": {"step": "epoch"}}  # what must be said of its names
RUNS = {  # where neither the log's own name nor its file's nor its folder's is the name of the run
    "wandb/run-abc12345.wandb": "small,lr=1e-3",
    "huggingface/trainer_log.jsonl": "huggingface",
    "huggingface/checkpoint-200": "huggingface",
    "keras": "training",
    "lightning": "version_0",
    "nanogpt/train.log": "nanogpt",
    "maxtext/metrics.jsonl": "base",
    "llm_foundry": "mpt",
}


def shell(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def left(made: importers.Imported) -> dict[str, int]:
    return {one.why: one.count for one in made.left}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_each_log_gives_the_run_that_it_holds(name: str):
    kind, loss, rates, n, facts = KINDS[name]
    made = importers.read([LOGS / name], Told(facts=facts, columns=COLUMNS.get(name, {})))
    assert made.kind == kind and len(made.table) == made.runs == 1
    row = made.table.iloc[0]
    assert row["loss"] == pytest.approx(loss, abs=6e-4) and row["D"] == pytest.approx(STEPS * TOKENS, rel=1e-12)
    assert row["run"] == RUNS.get(name, Path(name).stem)
    assert (row.get("N"), made.lacking) == ((n, ()) if n else (None, ("N",)))
    if rates:
        assert row["decayed"] and made.decayed == "logged"
        assert row["learning_rate"] == pytest.approx(1e-3, rel=0.2)
    else:
        assert "decayed" not in made.table


@pytest.mark.parametrize("name", [name for name in KINDS if name != "levanter/marin"])
def test_every_logged_loss_is_a_point_of_the_curve(name: str):
    _, final, rates, _, facts = KINDS[name]
    made = importers.read([LOGS / name], Told(facts=facts, columns=COLUMNS.get(name, {}), points="all"))
    d, loss = np.asarray(made.table["D"]), np.asarray(made.table["loss"])
    steps = d / TOKENS
    wanted = 2 + 8 * (steps + 10) ** -0.5 + (0.1 if final == TRAIN else 0.0)
    np.testing.assert_allclose(loss, wanted, atol=6e-4)
    assert len(d) >= 4 or "llmc" in name
    if rates and len(d) > 1:
        assert list(made.table["decayed"]) == [step > 178 for step in steps]


def test_the_fixtures_say_who_wrote_them():
    written = json.loads((LOGS / "written_by.json").read_text())
    for path in LOGS.rglob("*"):
        if path.is_file() and path.name not in ("make.py", "written_by.json"):
            assert any(str(path.relative_to(LOGS)).startswith(name) for name in written), path


def test_learning_curves_are_fitted_by_their_law(tmp_path: Path):
    out = tmp_path / "curve.csv"
    assert shell("import", LOGS / "tensorboard", f"--out={out}", "--points=curves", "--columns=loss=train/loss")[0] == 0
    frame = pd.read_csv(out)
    assert set(frame["run"]) == {"simple", "tensors"} and {"step", "learning_rate", "loss"} <= set(frame)
    assert len(analysis.load(out, law="annealing")) > 30


def test_a_folder_of_runs_and_the_names_of_its_runs():
    told = Told(facts=PER_STEP, pattern=r"(?P<family>simple|tensors)")
    made = importers.read([LOGS / "tensorboard"], told)
    assert list(made.table["run"]) == list(made.table["family"]) == ["simple", "tensors"] and made.files == 2
    both = importers.read([LOGS / "tensorboard/simple", LOGS / "tensorboard/tensors"], Told())
    assert list(both.table["run"]) == ["simple", "tensors"]


def test_states_of_several_checkpoints_are_one_run(tmp_path: Path):
    for step in (100, 200):
        shutil.copytree(LOGS / f"huggingface/checkpoint-{step}", tmp_path / f"out/checkpoint-{step}")
    made = importers.read([tmp_path / "out"], Told(facts={**PER_STEP, "N": 1e6}))
    assert list(made.table["run"]) == ["out"] and made.table["step"].iloc[0] == STEPS
    assert left(made) == {"repeated": 22, "summary": 1}


def chart(tmp_path: Path) -> Path:
    shutil.copy(LOGS / "wandb/chart.csv", tmp_path)
    return tmp_path / "chart.csv"


def test_a_chart_whose_names_hold_commas(tmp_path: Path):
    out = tmp_path / "runs.parquet"
    pattern = r"gpt-(?P<N>\d+M),lr=(?P<lr>.*)"
    code, said, _ = shell(
        "import", chart(tmp_path), f"--pattern={pattern}", "--set=tokens_per_step=8*1024", f"--out={out}"
    )
    frame = pd.read_parquet(out)
    assert code == 0 and "wandb_chart" in said
    assert list(frame["run"]) == ["gpt-31M,lr=1e-3", "gpt-74M,lr=1e-3"] and list(frame["N"]) == [31e6, 74e6]
    np.testing.assert_allclose(frame["loss"], [VAL, VAL - 0.3], atol=1e-5)
    assert list(frame["D"]) == [STEPS * TOKENS] * 2 and "decayed" not in frame
    told = importers.read([chart(tmp_path)], Told(decayed=False))
    assert list(told.table["decayed"]) == [False, False] and told.lacking == ("N", "D")


def test_facts_by_run_and_what_n_counts(tmp_path: Path):
    table = write(tmp_path / "facts.csv", 'run,N,tokens_per_step\n"gpt-31M,lr=1e-3",31M,4096\n')
    out = tmp_path / "t.csv"
    code, said, _ = shell("import", chart(tmp_path), f"--runs={table}", "--n=total", f"--out={out}", "--json")
    made = json.loads(said)
    assert code == 0 and {one["why"]: one["count"] for one in made["left_out"]} == {"no_N": 1}
    frame = pd.read_csv(out)
    assert list(frame["N_total"]) == [31e6] and list(frame["D"]) == [STEPS * 4096]
    assert shell("import", chart(tmp_path), f"--runs={LOGS / 'keras/training.log'}", f"--out={out}")[0] == 2


def test_tables_of_runs_keep_their_state():
    made = importers.read([LOGS / "wandb/runs.csv"], Told())
    assert list(made.table["status"]) == ["finished", "crashed"] and list(made.table["N"]) == [31e6, 74e6]
    assert made.columns == {"N": "n_params", "D": "tokens", "loss": "val/loss"} and made.decayed is None
    snippet = importers.read([LOGS / "wandb/project.csv"], Told())
    np.testing.assert_allclose(snippet.table["loss"], made.table["loss"])
    np.testing.assert_allclose(snippet.table["D"], made.table["D"])


def test_excel_and_parquet_hold_the_same_tables(tmp_path: Path):
    frame = pd.read_csv(LOGS / "wandb/runs.csv")
    frame.to_excel(tmp_path / "runs.xlsx", index=False)
    frame.to_parquet(tmp_path / "runs.parquet")
    plain = importers.read([LOGS / "wandb/runs.csv"], Told()).table
    for name in ("runs.xlsx", "runs.parquet"):
        read = importers.read([tmp_path / name], Told()).table
        for column in ("N", "D", "loss"):
            np.testing.assert_allclose(read[column], plain[column])
    with pd.ExcelWriter(tmp_path / "two.xlsx") as book:
        frame.to_excel(book, sheet_name="old", index=False)
        frame.head(1).to_excel(book, sheet_name="new", index=False)
    with refuses(Code.CONFLICT, "path"):
        importers.read([tmp_path / "two.xlsx"], Told())
    assert len(importers.read([tmp_path / "two.xlsx"], Told(), sheet="new").table) == 1
    with refuses(Code.UNKNOWN, "sheet", "other"):
        importers.read([tmp_path / "two.xlsx"], Told(), sheet="other")


def test_a_parquet_of_history(tmp_path: Path):
    steps = np.arange(10, 210, 10)
    frame = pd.DataFrame({"_step": steps, "_runtime": 1.0, "val/loss": 2 + 8 * (steps + 10) ** -0.5, "lr": 1e-3})
    frame.to_parquet(tmp_path / "h.parquet")
    made = importers.read([tmp_path / "h.parquet"], Told())
    assert made.kind == "wandb_history" and made.table["loss"].iloc[0] == pytest.approx(VAL)


N = np.array([1e7, 2e7, 4e7, 8e7])
ISO = [
    {"parameters": int(n), "compute_budget": c, "final_loss": 1.7 + (1e7 / n) + n / c * 1e9}
    for c in (1e18, 1e19)
    for n in N
]


def test_isoflop_profiles_as_an_array_or_by_budget(tmp_path: Path):
    write(tmp_path / "array.json", json.dumps(ISO))
    nested = {
        f"{c:g}": [row | {"compute_budget": None} for row in ISO if row["compute_budget"] == c] for c in (1e18, 1e19)
    }
    write(tmp_path / "nested.json", json.dumps(nested))
    one = importers.read([tmp_path / "array.json"], Told())
    assert (
        one.kind == "isoflop" and one.lacking == () and list(one.table["C"]) == [row["compute_budget"] for row in ISO]
    )
    two = importers.read([tmp_path / "nested.json"], Told(), "isoflop")
    for name in ("N", "C", "loss"):
        assert list(one.table[name]) == list(two.table[name])


def test_nanochat_asks_which_parameters_are_n():
    with refuses(Code.CONFLICT, "column"):
        importers.read([LOGS / "nanochat"], Told())
    made = importers.read([LOGS / "nanochat"], Told(columns={"N": "params_transformer_matrices + params_lm_head"}))
    row = made.table.iloc[0]
    assert (row["N"], row["D"], made.units) == (25_165_824 + 16_777_216, STEPS * TOKENS, {"loss": "bits"})
    assert row["loss"] == pytest.approx(VAL / 3 * np.log(2), abs=1e-6)


def test_of_several_evaluations_one_is_chosen_by_the_user(tmp_path: Path):
    rows = [{"step": s, "eval/c4/loss": 3.0, "eval/pile/loss": 2.5, "train/loss": 3.1} for s in (1, 2)]
    events = [{"tracker": "json_logger", "event": "log", "step": row.pop("step"), "metrics": row} for row in rows]
    path = write(tmp_path / "l.log", "".join(json.dumps(event) + "\n" for event in events))
    with refuses(Code.CONFLICT, "column", "eval/c4/loss, eval/pile/loss"):
        importers.read([path], Told())
    made = importers.read([path], Told(columns={"loss": "eval/pile/loss"}))
    assert made.table["loss"].iloc[0] == 2.5
    with refuses(Code.MISSING, "columns", "loss=eval/other"):
        importers.read([path], Told(columns={"loss": "eval/other"}))


def test_units_and_averages(tmp_path: Path):
    path = write(tmp_path / "log.csv", "step,loss\n" + "".join(f"{s},{4 + s % 2}\n" for s in range(1, 11)))
    assert importers.read([path], Told()).table["loss"].iloc[0] == 4
    assert importers.read([path], Told(average=4)).table["loss"].iloc[0] == 4.5
    assert importers.read([path], Told(units={"loss": "bits"})).table["loss"].iloc[0] == pytest.approx(4 * np.log(2))
    with refuses(Code.UNKNOWN, "units"):
        importers.read([path], Told(units={"loss": "decibel"}))


def test_a_resumed_run_counts_once_and_a_second_run_is_refused(tmp_path: Path):
    steps = [10, 20, 30, 40, 20, 30, 40, 50]
    path = write(
        tmp_path / "log.csv", "step,loss\n" + "".join(f"{s},{5 - s / 100 - i / 1000}\n" for i, s in enumerate(steps))
    )
    made = importers.read([path], Told(points="all"))
    assert left(made) == {"superseded": 3} and list(made.table["step"]) == [10, 20, 30, 40, 50]
    assert list(made.table["loss"]) == [
        5 - s / 100 - i / 1000 for s, i in ((10, 0), (20, 4), (30, 5), (40, 6), (50, 7))
    ]
    again = write(tmp_path / "again.csv", "step,loss\n1,5\n2,4\n1,4.5\n2,4.2\n")
    with refuses(Code.CONFLICT, "step", "1 of run again"):
        importers.read([again], Told())
    assert importers.read([again], Told(restarted=True)).table["loss"].iloc[0] == 4.2
    named = write(tmp_path / "named.csv", "step,loss,which\n1,5,a\n2,4,a\n1,4.5,b\n2,4.2,b\n")
    made = importers.read([named], Told(columns={"run": "which"}))
    assert list(made.table["run"]) == ["a", "b"] and list(made.table["loss"]) == [4, 4.2]


def test_a_run_that_diverged_has_no_final_loss(tmp_path: Path):
    path = write(tmp_path / "log.csv", "run,step,loss\na,1,4\na,2,3\nb,1,4\nb,2,nan\n")
    made = importers.read([path], Told())
    assert list(made.table["run"]) == ["a"] and left(made) == {"not_a_number": 1, "diverged": 1}
    assert len(importers.read([path], Told(points="all")).table) == 3
    with refuses(Code.TOO_FEW, "loss"):
        importers.read([write(tmp_path / "nan.csv", "step,loss\n1,nan\n2,inf\n")], Told())


def test_smoothed_losses_are_taken_only_when_told(tmp_path: Path):
    path = write(tmp_path / "log.csv", "step,val/loss (smoothed)\n1,4\n2,3\n")
    with refuses(Code.MISSING, "loss"):
        importers.read([path], Told(), "steps")
    made = importers.read([path], Told(columns={"loss": "val/loss (smoothed)"}), "steps")
    assert made.table["loss"].iloc[0] == 3
    both = write(tmp_path / "both.csv", "step,val_loss,val_loss_smoothed\n1,4,5\n2,3,4\n")
    made = importers.read([both], Told(), "steps")
    assert made.table["loss"].iloc[0] == 3 and left(made) == {"smoothed": 1}


def test_tokens_that_disagree_with_the_log_are_refused():
    with refuses(Code.CONFLICT, "tokens_per_step"):
        importers.read([LOGS / "olmo/olmo_core.log"], Told(facts={"tokens_per_step": 2.0 * TOKENS}))
    assert len(importers.read([LOGS / "olmo/olmo_core.log"], Told(facts=PER_STEP)).table) == 1


def test_files_of_several_kinds_need_a_choice():
    with refuses(Code.CONFLICT, "path"):
        importers.read([LOGS / "wandb"], Told())
    made = importers.read([LOGS / "wandb"], Told(), "wandb_file")
    assert made.files == 1 and left(made) == {"other": 3}


HOSTILE = {
    "empty.csv": "",
    "spaces.log": " \n\n",
    "words.log": "hello\nworld\n",
    "header.csv": "step,loss\n",
    "twice.csv": "step,loss,loss\n1,2,3\n",
    "text.csv": "step,loss\na,b\n",
    "digits.csv": f"step,loss\n1,{'9' * 5000}\n",
    "digits.jsonl": '{"step": 1, "epoch": 0.1, "loss": %s}\n' % ("9" * 5000) * 2,
    "deep.json": "[" * 100_000,
    "state.json": '{"log_history": 3}',
    "state2.json": '{"log_history": [1, null, {"step": "x"}]}',
    "null.json": "[null, 3]",
    "cut.json": '{"log_history": [{"step": 1, "loss": 3.0}',
    "no_loss.json": '{"log_history": [{"step": 1, "epoch": 1.0}]}',
    "iso.json": '{"6e18": [{"parameters": "many", "final_loss": {}}]}',
    "minus.csv": "step,loss\n-1,3.0\n",
    "time.csv": "Relative Time (Process),a - loss\n1,3.0\n",
    "nested.csv": "name,summary,config\nx,__import__('os'),{}\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_and_writes_nothing(name: str, tmp_path: Path):
    path = write(tmp_path / name, HOSTILE[name])
    code, out, err = shell("import", path, f"--out={tmp_path / 'out.csv'}")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert not (tmp_path / "out.csv").exists() and len(err) < 1000


@pytest.mark.parametrize("kind", importers.importers())
def test_an_importer_that_is_told_to_read_anything_says_that_it_cannot(kind: str, tmp_path: Path):
    for i, data in enumerate(
        (b"\x00\x01\x02" * 100, b"hello\nworld\n", b'[{"a": 1}]', b"a,b\n1,2\n", b"5", b'{"a": 1}')
    ):
        path = tmp_path / f"file{i}"
        path.write_bytes(data)
        code, _, err = shell("import", path, f"--from={kind}", f"--out={tmp_path / 'out.csv'}")
        assert code == 2 and err.count("\n") == 1, (data, err)


def test_places_that_are_no_logs(tmp_path: Path):
    import os

    os.mkfifo(tmp_path / "pipe.log")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "study.json").write_text("{}")
    for name in ("pipe.log", "folder", "missing.csv", "dangling.csv", "work"):
        code, _, err = shell("import", tmp_path / name, f"--out={tmp_path / 'out.csv'}")
        assert code == 2 and err.count("\n") == 1, err
    log = LOGS / "nanogpt/train.log"
    for out in ("out.txt", "pipe.log/out.csv"):
        assert shell("import", log, f"--out={tmp_path / out}")[0] == 2
    made = tmp_path / "new" / "folder" / "out.csv"  # as of every verb, the folder of --out is made
    assert shell("import", log, f"--out={made}")[0] == 0 and made.is_file()
    mine = write(tmp_path / "mine.csv", "step,loss\n1,3\n")
    assert shell("import", mine, f"--out={mine}")[0] == 2 and mine.read_text() == "step,loss\n1,3\n"
    assert shell("import", log)[0] == shell("import", log, "--from=nanoGTP", "--out=x.csv")[0] == 2


@pytest.mark.parametrize(
    "flag",
    [
        "--points=some",
        "--average=0",
        "--pattern=(",
        "--pattern=gpt",
        "--set=N=many",
        "--set=N=-3",
        "--columns=loss",
        "--n",
    ],
)
def test_a_wrong_flag_is_one_line(flag: str, tmp_path: Path):
    code, _, err = shell("import", LOGS / "nanogpt/train.log", flag, f"--out={tmp_path / 'out.csv'}")
    assert code == 2 and err.count("\n") == 1 and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    "name",
    [
        "nanogpt/train.log",
        "lightning/version_0/metrics.csv",
        "huggingface/trainer_log.jsonl",
        "wandb/chart.csv",
        "wandb/run-abc12345.wandb",
        "maxtext/metrics.jsonl",
    ],
)
def test_fit_points_at_import(name: str):
    with refuses(Code.UNSUPPORTED, "path", LOGS / name):
        analysis.load(LOGS / name)


def test_fit_points_at_import_of_a_folder():
    with refuses(Code.UNSUPPORTED, "path", LOGS / "tensorboard"):
        analysis.load(LOGS / "tensorboard")


def test_plain_tables_are_never_called_logs(tmp_path: Path):
    path = write(tmp_path / "t.csv", "N,D,los\n1e6,1e8,3.0\n")
    with refuses(Code.MISSING, "table", "no column loss"):
        analysis.load(path)


def test_an_absent_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.split(".")[0] in ("tensorboard", "wandb", "openpyxl", "pyarrow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return real(name, package)

    pd.DataFrame({"N": [1e6], "D": [1e8], "loss": [3.0]}).to_excel(tmp_path / "t.xlsx", index=False)
    monkeypatch.setattr(importlib, "import_module", without)
    for path, extra in (
        (LOGS / "tensorboard/simple", "trackers"),
        (LOGS / "wandb/run-abc12345.wandb", "trackers"),
        (tmp_path / "t.xlsx", "data"),
    ):
        code, _, err = shell("import", path, f"--out={tmp_path / 'out.csv'}")
        assert code == 2 and err.count("\n") == 1 and f"pip install 'scaling-lab[{extra}]'" in err
    assert shell("import", LOGS / "nanodo", f"--out={tmp_path / 'out.parquet'}")[0] == 2


def test_every_importer_recognises_its_own_alone():
    for name, (kind, *_) in KINDS.items():
        path = LOGS / name
        path = next(path.rglob("*.*")) if path.is_dir() else path
        found = importers.recognise(Source(path))
        assert found is not None and found.name == kind, name


def test_only_what_is_wanted_is_kept(tmp_path: Path):
    """Of a log larger than memory, numbers of the loss alone: rows come one by one, and other columns are not kept."""
    others = [f"x{i}" for i in range(50)]
    rows = [f"{i},3.0,{','.join(['1.5'] * 50)}" for i in range(100)]
    path = write(tmp_path / "wide.csv", "\n".join([f"step,loss,{','.join(others)}", *rows]) + "\n")
    entries = importers.find("steps").read(Source(path))
    assert iter(entries) is entries
    collected = Collected(wanted(Told(), Names()))
    assert collected.add(entries, "wide", "wide.csv") == 100
    assert list(collected.runs["wide"].series) == ["loss"] and set(collected.seen) == {"loss", *others}


def test_the_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import shlex

    shutil.copytree(LOGS / "tensorboard", tmp_path / "tensorboard")
    shutil.copy(LOGS / "nanogpt/train.log", tmp_path / "nanogpt.log")
    chart(tmp_path)
    write(tmp_path / "facts.csv", "run,N,tokens_per_step\nsimple,31M,8192\ntensors,74M,8192\n")
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[1] / "docs" / "how-to" / "logs.md"
    lines = [line.strip() for line in page.read_text().splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("scaling import ")]
    assert len(commands) >= 3
    for command in commands:
        code, out, err = shell(*command)
        assert code == 0 and "written" in out, (command, err)


def test_files_are_named_by_all_of_their_names(tmp_path: Path):
    for size in ("31M", "74M"):
        write(tmp_path / f"gpt2.{size}.csv", "step,loss\n1,4\n2,3\n")
    made = importers.read([tmp_path], Told(pattern=r"\.(?P<N>\d+M)"))
    assert list(made.table["run"]) == ["gpt2.31M", "gpt2.74M"] and list(made.table["N"]) == [31e6, 74e6]
    with refuses(Code.CONFLICT, "set", "run"):
        importers.read([tmp_path], Told(facts={"run": "mine"}))
    with refuses(Code.UNSUPPORTED, "sheet", "one"):
        importers.read([tmp_path], Told(), sheet="one")


def test_what_is_logged_beside_the_loss_may_end_a_little_before_it(tmp_path: Path):
    rows = [f"{s},{4 - s / 1000},,{s * 1000},{(100 - s) / 100}" for s in range(10, 100, 10)] + ["100,,3.5,,"]
    path = write(tmp_path / "log.csv", "step,loss,val_loss,tokens,lr\n" + "\n".join(rows) + "\n")
    row = importers.read([path], Told(), "steps").table.iloc[0]
    assert (row["loss"], row["D"], row["decayed"], row["learning_rate"]) == (3.5, 100_000, True, 0.9)
    late = write(tmp_path / "late.csv", path.read_text().replace("100,,3.5", "200,,3.5"))
    made = importers.read([late], Told(), "steps")
    assert made.lacking == ("N", "D") and made.decayed == "unknown"


def test_cells_in_which_nothing_was_logged_are_no_losses(tmp_path: Path):
    path = write(tmp_path / "log.csv", "epoch,loss,val_loss\n0,4.0,NA\n1,3.0,NA\n")
    made = importers.read([path], Told())
    assert (made.columns["loss"], left(made)) == ("loss", {})
    zero = importers.read([LOGS / "nanogpt/train.log"], Told(points="all"))
    assert left(zero) == {"untrained": 1} and min(zero.table["D"]) > 0


@pytest.mark.parametrize(
    ("logged", "loss"),
    [
        ("Loss/train,Loss/test,Accuracy/test", "Loss/test"),  # as PyTorch's tutorial calls them
        ("lm loss,lm loss validation,learning-rate", "lm loss validation"),  # Megatron-LM
        ("train/loss,eval/loss,train/learning_rate", "eval/loss"),
        ("loss_metrics/global_avg_loss,lr", "loss_metrics/global_avg_loss"),  # torchtitan
        ("reduced_train_loss,val_loss,consumed_samples", "val_loss"),  # NeMo
        ("train/lm_loss,validation/lm_loss", "validation/lm_loss"),  # GPT-NeoX
        ("val_loss,best_val_loss,loss", "val_loss"),
        ("best_val_loss,accuracy", None),
        ("val/a_loss,val/b_loss", None),
        ("dev-loss,test-loss", "several"),
    ],
)
def test_the_loss_by_the_names_of_many_trainers(logged: str, loss: str | None, tmp_path: Path):
    names = logged.split(",")
    path = write(
        tmp_path / "log.csv", f"iteration,{logged}\n1,{',4' * len(names)}\n2{',3' * len(names)}\n".replace("1,,", "1,")
    )
    if loss is None or loss == "several":
        with refuses(Code.CONFLICT if loss else Code.MISSING):
            importers.read([path], Told(), "steps")
    else:
        made = importers.read([path], Told(), "steps")
        assert made.columns["loss"] == loss and made.table["step"].iloc[0] == 2


def test_columns_name_steps_compute_and_settings(tmp_path: Path):
    text = "my_iter,val_loss,gflops,wd\n1,4,10,0.1\n2,3,20,0.1\n"
    path = write(tmp_path / "log.csv", text.replace("val_loss", "\x1b[31mval_loss\x1b[0m"))
    told = Told(columns={"step": "my_iter", "C": "gflops", "D": "step * 512"}, units={"C": "GFLOPs"}, facts={"N": 1e6})
    row = importers.read([path], told, "steps").table.iloc[0]
    assert (row["C"], row["D"], row["loss"], row["step"]) == (20e9, 1024, 3, 2)
    for columns, code in (({"los": "val_loss"}, Code.UNKNOWN), ({"D": "nothing"}, Code.MISSING)):
        with refuses(code, "columns"):
            importers.read([path], Told(columns={"step": "my_iter", **columns}), "steps")
    with refuses(Code.UNKNOWN, "n", "nonembeding"):
        Told(n="nonembeding")
    runs = write(tmp_path / "runs.csv", "params,tokens,final_loss,peak\n1M,1B,3,0.1\n")
    made = importers.read([runs], Told(columns={"learning_rate": "peak"})).table.iloc[0]
    assert (made["learning_rate"], made["D"]) == (0.1, 1e9)


def test_rows_of_one_run_stay_one_run_and_files_are_not_mixed(tmp_path: Path):
    write(tmp_path / "a.csv", "run,N,D,loss\nx,1e6,1e8,3\nx,1e6,2e8,2.9\n")
    write(tmp_path / "b.csv", "N,D,loss\n2e6,1e8,2.8\n2e6,2e8,2.7\n")
    made = importers.read([tmp_path / "a.csv", tmp_path / "b.csv"], Told())
    assert list(made.table["loss"]) == [3, 2.9, 2.8, 2.7]
    assert list(made.table["run"]) == ["x", "x", "b.csv, line 2", "b.csv, line 3"]
    twice = (LOGS / "wandb/runs.csv").read_text().replace("gpt-74M", "gpt-31M")
    made = importers.read([write(tmp_path / "w.csv", twice)], Told())
    assert made.runs == 2 and list(made.table["N"]) == [31e6, 74e6]


def test_what_is_told_of_no_run_is_said():
    told = {"simple": {"N": 1e6}, "other": {"N": 2e6}}
    made = importers.read([LOGS / "tensorboard/simple"], Told(runs=told))
    assert left(made) == {"unmatched": 1} and list(made.table["N"]) == [1e6]
    with refuses(Code.UNKNOWN, "runs", "other"):
        importers.read([LOGS / "tensorboard/simple"], Told(runs={"other": {"N": 2e6}}))
    with refuses(Code.UNKNOWN, "pattern"):
        importers.read([LOGS / "tensorboard/simple"], Told(pattern=r"(?P<N>\d+M)"))


def test_decayed_is_said_of_the_last_loss_alone():
    made = importers.read([LOGS / "nanogpt/train.log"], Told(decayed=True, points="all"))
    assert list(made.table["decayed"]) == [False, False, False, True] and made.decayed == "told"
    assert list(importers.read([LOGS / "wandb/runs.csv"], Told(decayed=False)).table["decayed"]) == [False, False]


def test_a_copy_of_a_row_stays_one(tmp_path: Path):
    path = write(
        tmp_path / "t.csv", "params,tokens,final_loss\n" + "".join(f"{n}e6,1e9,{4 - n / 10}\n" for n in (1, 2, 3, 3))
    )
    out = tmp_path / "out.csv"
    assert shell("import", path, f"--out={out}")[0] == 0
    runs = analysis.load(out)
    assert len(runs) == 3 and [row.why for row in runs.dropped] == ["copy"]
