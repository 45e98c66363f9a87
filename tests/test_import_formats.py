"""What other trainers write beyond the fixtures: epochs, restarts, names of steps, and what a user says of them."""

import gzip
import json
import struct
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from refusals import refuses

from analysis.table import importers
from analysis.table.importers import Told
from scaling.errors import Code

LOGS = Path(__file__).parent / "fixtures" / "logs"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def left(made: importers.Imported) -> dict[str, int]:
    return {one.why: one.count for one in made.left}


# --- which name is the step


@pytest.mark.parametrize("name", ["trainer/global_step", "train/global_step", "global_step", "step", "iter"])
def test_the_trainers_step_comes_before_the_log_calls_of_wandb(name: str, tmp_path: Path):
    path = write(tmp_path / "h.csv", f"_step,{name},loss\n0,100,5\n1,200,4\n2,,3\n")
    made = importers.read([path], Told(facts={"tokens_per_step": 10}))
    assert (made.table["step"].iloc[0], made.table["D"].iloc[0], made.table["loss"].iloc[0]) == (200, 2000, 4)
    assert made.columns["step"] == name and left(made) == {"no_step": 1}
    told = importers.read([path], Told(columns={"step": "_step"}))
    assert (told.table["step"].iloc[0], told.columns["step"]) == (2, "_step")


def wandb_file(path: Path, rows: list[dict[str, float]], run: str = "abc", name: str = "mine") -> Path:
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    begun = records.Record()
    begun.run.run_id, begun.run.display_name = run, name
    made = [begun]
    for number, row in enumerate(rows):
        record = records.Record()
        record.history.step.num = number
        for key, value in row.items():
            record.history.item.add(nested_key=key.split("|"), value_json=json.dumps(value))
        made.append(record)
    data = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
    for record in made:
        text = record.SerializeToString()
        data += struct.pack("<IHB", 0, len(text), 1) + text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_file_of_wandb_counts_log_calls_too(tmp_path: Path):
    rows = [{"trainer/global_step": 50 * i, "_step": i, "val/loss": 5 - i / 10} for i in range(4)]
    path = wandb_file(tmp_path / "run.wandb", [*rows, {"_step": 4, "val/loss": 1.0}])
    made = importers.read([path], Told())
    assert (made.table["step"].iloc[0], made.table["loss"].iloc[0], left(made)) == (150, 4.7, {"no_step": 1})
    assert importers.read([path], Told(columns={"step": "_step"})).table["step"].iloc[0] == 4
    plain = wandb_file(tmp_path / "plain.wandb", [{"val/loss": 5.0}, {"val/loss": 4.0}])
    assert importers.read([plain], Told()).table["step"].iloc[0] == 1


def test_runs_of_one_display_name_are_told_apart(tmp_path: Path):
    for run, last in (("aa", 4.0), ("bb", 3.0)):
        wandb_file(tmp_path / f"run-{run}/run-{run}.wandb", [{"_step": 1, "loss": 5}, {"_step": 2, "loss": last}], run)
    made = importers.read([tmp_path], Told())
    assert dict(zip(made.table["run"], made.table["loss"])) == {"mine (aa)": 4.0, "mine (bb)": 3.0}


def test_nested_values_of_wandb_are_read_by_their_path(tmp_path: Path):
    path = wandb_file(tmp_path / "run.wandb", [{"_step": 1, "val|loss": 5}, {"_step": 2, "val|loss": 4}])
    assert importers.read([path], Told()).columns["loss"] == "val/loss"


def lines(loss: str, epoch: bool = False) -> str:
    rows = [{"step": i, "mine": 10 * i, loss: 5 - i, **({"epoch": 1} if epoch else {})} for i in (1, 2)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def levanter(name: str) -> str:
    rows = [{"mine": 10 * i, name: 5 - i} for i in (1, 2)]
    events = [{"tracker": "j", "event": "log", "step": i, "metrics": row} for i, row in enumerate(rows)]
    return "".join(json.dumps(event) + "\n" for event in events)


STEPS = {
    "steps.csv": ("step,mine,val_loss\n1,10,4\n2,20,3\n", "steps"),
    "lightning.csv": ("epoch,step,mine,val_loss\n0,1,10,4\n0,2,20,3\n", "lightning"),
    "keras.csv": ("epoch,mine,val_loss\n0,10,4\n1,20,3\n", "steps"),
    "history.csv": ("_step,mine,val_loss\n1,10,4\n2,20,3\n", "wandb_history"),
    "chart.csv": ("mine,a - val_loss\n10,4\n20,3\n", "wandb_chart"),
    "olmo.csv": ("throughput/total_tokens,mine,val_loss\n100,10,4\n200,20,3\n", "olmo"),
    "trainer_log.jsonl": (lines("eval_loss", epoch=True), "huggingface"),
    "maxtext.jsonl": (lines("eval/avg_loss"), "maxtext"),
    "levanter.log": (levanter("eval/loss"), "levanter"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_that_the_user_names_wins(name: str, tmp_path: Path):
    text, kind = STEPS[name]
    path = write(tmp_path / name, text)
    made = importers.read([path], Told(columns={"step": "mine"}))
    assert made.kind == kind and made.columns["step"] == "mine"
    assert (made.table["step"].iloc[0], made.table["loss"].iloc[0]) == (20, 3)
    with refuses(Code.MISSING, "columns", "step=other"):
        importers.read([path], Told(columns={"step": "other"}), kind)


TEXTS = (
    "nanogpt/train.log",
    "megatron/megatron.log",
    "nanodo",
    "maxtext/maxtext.log",
    "olmo/olmo_core.log",
    "llm_foundry",
    "nanochat",
)


@pytest.mark.parametrize("name", [*TEXTS, "tensorboard/simple"])
@pytest.mark.parametrize("columns", [{"step": "mine"}, {"run": "mine"}])
def test_a_column_that_a_kind_does_not_have_is_refused(name: str, columns: dict[str, str]):
    more = {"N": "params_total"} if name == "nanochat" else {}
    with refuses(Code.MISSING, "columns"):
        importers.read([LOGS / name], Told(columns={**columns, **more}))


@pytest.mark.parametrize("what", ["N", "D", "C", "loss", "learning_rate", "run", "step", "seed", "dataset", "batch"])
@pytest.mark.parametrize("text", ["step,loss\n1,4\n2,3\n", "params,tokens,final_loss\n1M,1B,3\n"])
def test_no_column_that_is_named_is_ignored(what: str, text: str, tmp_path: Path):
    path = write(tmp_path / "t.csv", text)
    with refuses(Code.MISSING, "columns", f"{what}=nothing"):
        importers.read([path], Told(columns={what: "nothing"}))


@pytest.mark.parametrize(
    ("told", "code", "field"),
    [
        (lambda: Told(points="all"), Code.UNSUPPORTED, "points"),
        (lambda: Told(average=20), Code.UNSUPPORTED, "average"),
        (lambda: Told(restarted=True), Code.UNSUPPORTED, "restarted"),
        (lambda: Told(facts={"tokens_per_step": "512*1024"}), Code.UNSUPPORTED, "set"),
        (lambda: Told(facts={"loss": "3"}), Code.UNSUPPORTED, "set"),
        (lambda: Told(columns={"N": "params"}, facts={"N": "3M"}), Code.CONFLICT, "set"),
    ],
)
def test_what_tables_of_finished_runs_have_no_use_for_is_refused(told, code: Code, field: str):
    with refuses(code, field):
        importers.read([LOGS / "wandb/runs.csv"], told())


def test_what_logs_of_steps_have_no_use_for_is_refused(tmp_path: Path):
    path = write(tmp_path / "mine.csv", "step,loss,lr,tokens\n1,4,0.1,100\n2,3,0.05,200\n")
    for told, field in (
        (Told(facts={"D": "200"}, points="all"), "set"),
        (Told(facts={"learning_rate": "0.1"}, points="curves"), "set"),
        (Told(runs={"mine": {"loss": 3.0}}), "runs"),
    ):
        with refuses(Code.UNSUPPORTED, field):
            importers.read([path], told)
    with refuses(Code.MISSING, "n", "total"):
        importers.read([path], Told(n="total"))
    with refuses(Code.CONFLICT, "D"):
        importers.read([path], Told(facts={"D": "400"}))
    with refuses(Code.TOO_FEW, "loss"):
        importers.read([path], Told(average=3))
    assert importers.read([path], Told(facts={"learning_rate": 0.2})).table["learning_rate"].iloc[0] == 0.2


def test_a_short_run_is_left_out_of_a_mean_and_counted(tmp_path: Path):
    path = write(tmp_path / "log.csv", "run,step,loss\na,1,4\na,2,3\nb,1,4\n")
    made = importers.read([path], Told(average=2))
    assert list(made.table["run"]) == ["a"] and left(made) == {"short": 1}


def test_n_may_be_logged_with_every_step(tmp_path: Path):
    path = write(tmp_path / "log.csv", "step,loss,size\n1,4,31\n2,3,31\n")
    made = importers.read([path], Told(columns={"N": "size"}, units={"N": "M"}))
    assert made.table["N"].iloc[0] == 31e6 and made.columns["N"] == "size"
    with refuses(Code.CONFLICT, "columns", "N=size"):
        importers.read([write(tmp_path / "two.csv", "step,loss,size\n1,4,31\n2,3,32\n")], Told(columns={"N": "size"}))


def test_tokens_of_a_batch_are_no_tokens_seen(tmp_path: Path):
    path = write(
        tmp_path / "log.csv", "step,loss,data/tokens,total_tokens\n1,4,512,512\n2,3,512,1024\n3,2.5,500,1524\n"
    )
    made = importers.read([path], Told())
    assert (made.table["D"].iloc[0], made.columns["D"]) == (1524, "total_tokens")
    lone = write(tmp_path / "lone.csv", "step,loss,data/tokens\n1,4,512\n2,3,512\n")
    assert importers.read([lone], Told()).lacking == ("N", "D")
    with refuses(Code.CONFLICT, "columns", "D=data/tokens"):
        importers.read([lone], Told(columns={"D": "data/tokens"}))


def test_a_rate_that_warms_up_has_not_decayed(tmp_path: Path):
    rates = [0.0, 0.05, 1.0, 1.0, 0.5, 0.1]
    path = write(
        tmp_path / "log.csv", "step,loss,lr\n" + "".join(f"{i + 1},{4 - i / 9},{r}\n" for i, r in enumerate(rates))
    )
    made = importers.read([path], Told(points="all"))
    assert list(made.table["decayed"]) == [False] * 5 + [True]
    early = write(tmp_path / "early.csv", "step,loss,lr\n1,4,0.0\n2,3.9,0.01\n3,,1.0\n")
    assert list(importers.read([early], Told()).table["decayed"]) == [False]


def test_tokens_do_not_make_a_finished_run_of_each_step(tmp_path: Path):
    steps = write(tmp_path / "steps.csv", "step,lr,tokens,loss\n1,0.1,512,4\n2,0.01,1024,3\n")
    made = importers.read([steps], Told())
    assert made.kind == "steps" and len(made.table) == 1 and made.table["D"].iloc[0] == 1024
    flops = write(tmp_path / "flops.csv", "global_step,flops,loss\n1,1e9,4\n2,2e9,3\n")
    assert importers.read([flops], Told()).kind == "steps"
    for text in ("batch,tokens,loss\n32,1e9,4\n64,1e9,3\n", "N,step,D,loss\n1e6,9,1e9,4\n2e6,9,1e9,3\n"):
        assert len(importers.read([write(tmp_path / "runs.csv", text)], Told()).table) == 2


def test_the_test_loss_of_lightning_does_not_hide_the_validation_loss(tmp_path: Path):
    path = write(tmp_path / "m.csv", "epoch,step,test_loss,val_loss\n0,99,,3.9\n1,100,3.7,\n")
    made = importers.read([path], Told())
    assert (made.columns["loss"], made.aside, made.table["step"].iloc[0]) == ("val_loss", ("test_loss",), 100)


# --- printed logs


def composer(heads: list[str], batches: bool) -> str:
    text = ""
    for i, head in enumerate(heads):
        text += f"{head}:\n" + (f"\t Train time/batch: {i}\n\t Train time/token: {i * 100}\n" if batches else "")
        text += f"\t Train metrics/train/LanguageCrossEntropy: {4 - i / 10:.4f}\n"
    return text + "[Eval batch=3/3] Eval on eval data:\n\t Eval metrics/eval/LanguageCrossEntropy: 3.3000\n"


@pytest.mark.parametrize("of", ["", "/2"])
def test_composer_counts_the_batches_of_an_epoch(of: str, tmp_path: Path):
    heads = [f"[epoch={e}{of}][batch={b}/3]" for e in (1, 2) for b in (1, 2, 3)]
    path = write(tmp_path / "mpt.log", composer(heads, batches=False))
    made = importers.read([path], Told(facts={"tokens_per_step": 100}))
    assert (made.table["step"].iloc[0], made.table["D"].iloc[0], made.table["loss"].iloc[0]) == (6, 600, 3.3)
    told = Told(columns={"loss": "metrics/train/LanguageCrossEntropy"}, points="all")
    assert list(importers.read([path], told).table["step"]) == [1, 2, 3, 4, 5, 6]


def test_composer_where_the_batches_of_an_epoch_are_not_known(tmp_path: Path):
    heads = [f"[epoch={e}][batch={b}]" for e in (1, 2) for b in (1, 2)]
    made = importers.read([write(tmp_path / "mpt.log", composer(heads, batches=True))], Told())
    assert (made.table["step"].iloc[0], made.table["D"].iloc[0]) == (4, 400)
    without = importers.read([write(tmp_path / "bare.log", composer(heads, batches=False))], Told())
    assert left(without)["no_step"] == 3 and without.table["step"].iloc[0] == 2
    tokens = [f"[token={100 * i}/400]" for i in (1, 2, 3, 4)]
    made = importers.read([write(tmp_path / "tokens.log", composer(tokens, batches=True))], Told())
    assert (made.table["step"].iloc[0], made.table["D"].iloc[0], made.table["loss"].iloc[0]) == (4, 400, 3.3)


def test_olmo_of_an_open_end(tmp_path: Path):
    text = (LOGS / "olmo/olmo_core.log").read_text().replace("/200,epoch", "/???,epoch")
    row = importers.read([write(tmp_path / "o.log", text)], Told()).table.iloc[0]
    assert (row["step"], row["D"]) == (200, 200 * 8192)


def test_levanter_counts_from_zero():
    made = importers.read([LOGS / "levanter/levanter.log"], Told(facts={"tokens_per_step": 8192.0}))
    assert (made.table["step"].iloc[0], made.table["D"].iloc[0]) == (200, 200 * 8192)


def test_nanochat_prints_a_factor_of_its_rates_and_a_smoothed_loss(tmp_path: Path):
    n = {"N": "params_total"}
    made = importers.read([LOGS / "nanochat"], Told(columns=n))
    assert "learning_rate" not in made.table and list(made.table["decayed"]) == [True]
    assert made.columns["schedule"] == "lrm" and left(made) == {"smoothed": 1}
    told = importers.read([LOGS / "nanochat"], Told(columns={**n, "learning_rate": "lrm"}))
    assert told.table["learning_rate"].iloc[0] == pytest.approx(1.0, abs=0.02)
    text = (LOGS / "nanochat/d8.log").read_text()
    bare = write(tmp_path / "d8.log", "".join(line for line in text.splitlines(True) if not line.startswith("Step ")))
    with refuses(Code.MISSING, "loss"):
        importers.read([bare], Told(columns=n))
    records = text.replace("Step 00200 | Validation bpb: ", "eval step=200 val_bpb=")
    assert "eval step=200" in records
    row = importers.read([write(tmp_path / "new.log", records)], Told(columns=n)).table.iloc[0]
    assert row["loss"] == pytest.approx(made.table["loss"].iloc[0]) and row["step"] == 200


def test_millions_to_two_places_say_too_little_of_a_small_model(tmp_path: Path):
    text = (LOGS / "nanogpt/train.log").read_text()
    made = importers.read([write(tmp_path / "small.log", text.replace("123.59M", "0.03M"))], Told())
    assert made.lacking == ("N",)
    made = importers.read([write(tmp_path / "half.log", text.replace("123.59M", "0.80M"))], Told())
    assert made.table["N"].iloc[0] == 8e5


# --- TensorBoard


def events(path: Path, rows: list[tuple[int, str, float]], start: int | None = None, half: bool = False) -> Path:
    names = ("event_pb2", "summary_pb2", "tensor_pb2")
    event_pb2, summary_pb2, tensor_pb2 = (pytest.importorskip(f"tensorboard.compat.proto.{name}") for name in names)
    made = [event_pb2.Event(file_version="brain.Event:2")]
    if start is not None:
        made.append(event_pb2.Event(step=start, session_log=event_pb2.SessionLog(status=1)))
    for step, tag, value in rows:
        entry = summary_pb2.Summary.Value(tag=tag, simple_value=value)
        if half:
            bits = struct.unpack("<H", struct.pack("<e", value))[0]
            entry = summary_pb2.Summary.Value(tag=tag, tensor=tensor_pb2.TensorProto(dtype=19, half_val=[bits]))
        made.append(event_pb2.Event(step=step, summary=summary_pb2.Summary(value=[entry])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for event in made:
            data = event.SerializeToString()
            file.write(struct.pack("<QI", len(data), 0) + data + struct.pack("<I", 0))
    return path


def test_a_session_that_starts_again_takes_back_later_steps(tmp_path: Path):
    first = [(s, tag, 5 - s / 100) for s in (10, 20, 30, 40) for tag in ("train/loss", "eval/loss")]
    events(tmp_path / "events.out.tfevents.1.a", first)
    events(tmp_path / "events.out.tfevents.2.a", [(s, "train/loss", 4.0) for s in (30, 50)], start=25)
    made = importers.read([tmp_path], Told(points="all"))
    assert list(made.table["step"]) == [10, 20] and left(made) == {"superseded": 4}


def test_folders_of_one_run_of_keras(tmp_path: Path):
    for folder, shift in (("train", 0.1), ("validation", 0.0)):
        rows = [(e, "epoch_loss", 4 - e + shift) for e in range(3)]
        rate = [(e, "epoch_learning_rate", 0.1 - e / 20) for e in range(3)] if folder == "train" else []
        events(tmp_path / f"logs/{folder}/events.out.tfevents.1.v2", rows + rate)
    made = importers.read([tmp_path / "logs"], Told())
    assert list(made.table["run"]) == ["logs"] and made.columns["loss"] == "validation/epoch_loss"
    assert (made.table["step"].iloc[0], made.table["loss"].iloc[0], made.table["decayed"].iloc[0]) == (3, 2.0, True)


def test_tensors_of_half_precision_are_scalars(tmp_path: Path):
    path = events(tmp_path / "events.out.tfevents.1.a", [(1, "eval/loss", 4.0), (2, "eval/loss", 3.5)], half=True)
    assert importers.read([path], Told()).table["loss"].iloc[0] == 3.5


# --- files


def test_packed_binary_logs(tmp_path: Path):
    (path,) = (LOGS / "tensorboard/simple").iterdir()
    for source in (path, LOGS / "wandb/run-abc12345.wandb"):
        packed = tmp_path / f"{source.name}.gz"
        packed.write_bytes(gzip.compress(source.read_bytes()))
        one, two = (importers.read([file], Told(facts={"tokens_per_step": 8192})) for file in (source, packed))
        assert list(one.table["loss"]) == list(two.table["loss"]) and one.kind == two.kind


def test_a_title_twice_is_refused_whatever_the_file(tmp_path: Path):
    frame = pd.DataFrame([[1, 3.0, 4.0], [2, 2.5, 3.5]], columns=["step", "loss", "loss"])
    frame.to_excel(tmp_path / "t.xlsx", index=False)
    frame.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.xlsx", "t.csv"):
        with refuses(Code.CONFLICT, "column", "loss"):
            importers.read([tmp_path / name], Told(), "steps")


def test_tables_that_are_damaged_within_are_refused(tmp_path: Path):
    frame = pd.DataFrame({"step": range(2000), "loss": [4 - 1 / (step + 2) for step in range(2000)]})
    pages, book = tmp_path / "t.parquet", tmp_path / "t.xlsx"
    frame.to_parquet(pages)
    data = bytearray(pages.read_bytes())
    data[200:2000] = bytes(1800)
    pages.write_bytes(data)
    frame[:50].to_excel(book, index=False)
    with zipfile.ZipFile(book) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(book, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part[: len(part) // 2] if name.endswith("sheet1.xml") else part)
    for path in (pages, book):
        with refuses(Code.DAMAGED, "path", str(path)):
            importers.read([path], Told(), "steps")


def test_nan_in_what_python_wrote_damages_no_row(tmp_path: Path):
    rows = "\n".join(
        f"{i},\"{{'val_loss': {loss}, 'tokens': 5}}\",{{}},r{i}" for i, loss in enumerate(("nan", "-inf", "3.5"))
    )
    made = importers.read([write(tmp_path / "p.csv", f",summary,config,name\n{rows}\n")], Told())
    assert left(made) == {"no_loss": 1, "diverged": 1} and list(made.table["loss"]) == [3.5]


def test_the_beginnings_of_files_are_not_kept(tmp_path: Path):
    """Of 20 files of 28 kB: their bytes, texts and lines would be over 1 MB."""
    import tracemalloc

    rows = "".join(f"{s},{5 - s / 200:.4f}{' ' * 270}\n" for s in range(1, 101))
    for i in range(20):
        write(tmp_path / f"r{i}.csv", "step,val_loss\n" + rows)
    importers.read([tmp_path / "r0.csv"], Told())  # what is imported here is not counted
    sources, _ = importers._sources([tmp_path], None, None)
    tracemalloc.start()
    for source in sources:
        found = importers.recognise(source)
        assert found is not None and sum(1 for _ in found.read(source)) == 100
        source.forget()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 5e5
    assert len(importers.read([tmp_path], Told()).table) == 20


# --- other languages, notebooks, folders with other files


def test_logs_with_decimal_commas_and_what_is_left_of_a_folder(tmp_path: Path):
    rows = "epoch;loss;val_loss\n0;3,52;3,61\n1;3,12;3,31\n2;2,92;3,20\n"
    write(tmp_path / "runs" / "log.csv", rows)
    write(tmp_path / "runs" / "params.yaml", "width: 8\n")
    made = importers.read([tmp_path / "runs"], Told(facts={"N": 31e6, "tokens_per_step": 1000}))
    assert (made.table["loss"].iloc[0], made.table["D"].iloc[0]) == (3.2, 3000)
    assert [(one.why, one.count, Path(one.first).name) for one in made.left] == [("other", 1, "params.yaml")]


def test_a_notebooks_index_is_no_column_of_the_table(tmp_path: Path):
    frame = pd.DataFrame({"model": ["a", "b"], "N": [2e7, 5e7], "D": [4e8, 1e9], "loss": [4.1, 3.6]})
    frame.to_csv(tmp_path / "notebook.csv")
    made = importers.read([tmp_path / "notebook.csv"], Told())
    assert list(made.table.columns) == ["N", "D", "loss", "model"]  # fit refuses a column without a title
    assert made.table["loss"].tolist() == [4.1, 3.6]


def test_maxtext_prints_its_parameters(tmp_path: Path):
    steps = "".join(f"completed step: {i}, seconds: 2.3, total_weights: 65536, loss: {9 - i:.3f}\n" for i in range(3))
    for printed, n in (("7.018", 7.018e9), ("0.004", None)):  # one digit is no count
        path = write(tmp_path / f"{printed}.log", f"number parameters: {printed} billion\n{steps}")
        table = importers.read([path], Told(facts={"tokens_per_step": 65536})).table
        assert table["D"].iloc[0] == 3 * 65536 and (table["N"].iloc[0] if "N" in table else None) == n


def test_megatron_prints_what_each_rank_holds(tmp_path: Path):
    log = (LOGS / "megatron/megatron.log").read_text()
    experts = f"  expert_model_parallel_size {'.' * 22} 8\n{log}"
    for several in (log.replace(" 1\n", " 2\n", 1), experts):  # the first is pipeline_model_parallel_size
        table = importers.read([write(tmp_path / "ranks.log", several)], Told()).table
        assert "N" not in table and table["D"].iloc[0] == 200 * 8192
    tests = "validation loss at iteration 200 on test set | lm loss value: 9.0E+00 | lm loss PPL: 9.0E+00 |\n"
    assert importers.read([write(tmp_path / "test.log", log + tests)], Told()).table["loss"].iloc[0] < 3


def test_losses_that_the_trainer_prints_beside_epochs_need_a_step(tmp_path: Path):
    rows = ("{'loss': nan, 'epoch': 0.5}", "{'loss': 3.5, 'epoch': 1.0}", "{'loss': 3, 'epoch': }")
    path = write(tmp_path / "out.log", "".join(f"{row}\n" for row in rows))
    with refuses(Code.MISSING, "path"):
        importers.read([path], Told())
    made = importers.read([path], Told(columns={"step": "epoch"}))
    assert made.table["loss"].iloc[0] == 3.5 and {one.why for one in made.left} == {"not_a_number", "damaged"}
