"""The command line: fast help, one line for every mistake, exit codes, and a study that survives a Ctrl-C."""

import contextlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import handmade
import pytest
from chain_study import ROOT, Study, ending, program, wait_for
from chain_study import chain_study as chain_study
from refusals import refuses

from analysis import laws
from analysis.decide.spending import measured
from scaling import cli, verbs
from scaling.errors import Code, UserError
from scaling.records import read_json, write_json
from scaling.verbs import _config
from scaling.verbs._study import default_workdir
from scaling.verbs.show import table

EXPERIMENT = """
from conftest import tiny_config
from scaling import study

def get_config(argument=""):
    if argument not in ("", "tiny", "two words"):
        raise ValueError(f"no argument {argument}")
    config = tiny_config(grid=study.block("grid", "known", (0,), tokens=(48 * 20, 48 * 40)))
    config.name = "cli"
    return config
"""
VERBS = {name: verbs.load(name) for name in verbs.names()}
LOSSES = [f"{n},{d},{1.7 + 400 / n**0.34 + 2000 / d**0.36}" for n in (1e6, 3e6, 1e7, 3e7) for d in (1e8, 3e8, 1e9)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with an experiment and a table in it."""
    (tmp_path / "exp.py").write_text(EXPERIMENT)
    (tmp_path / "broken.py").write_text("def get_config():\n    return undefined_name\n")
    (tmp_path / "syntax.py").write_text("def get_config(:\n")
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *LOSSES]))
    (tmp_path / "lossless.csv").write_text("N,D\n1,2\n")
    (tmp_path / "text.csv").write_text("N,D,loss\n1e6,1e8,3.0\n1e7,many,2.5\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "text.csv.py").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("not a directory")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def scaling(*arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of one command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_help_fits_a_screen_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom scaling import cli\n"
        "assert cli.main([]) == cli.main(['--help']) == 0\n"
        "assert all(cli.main([verb, '--help']) == 0 for verb in cli.verbs.names())\n"
        "heavy = {'jax', 'numpy', 'absl', 'ml_collections', 'rich', 'pandas', 'analysis'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, overview := cli.overview().splitlines())) <= 100
    for name, verb in VERBS.items():
        assert any(line.split() == [name, *verb.summary.split()] for line in overview)
        for engine in {"", *(flag.engine for flag in verb.flags)}:
            text = cli.usage(name, engine)
            lines = text.splitlines()
            assert len(lines) <= 40 and max(map(len, lines)) <= 100, (name, engine)
            assert all(f"\n  --{each.name}" in text for each in verb.flags if each.engine == engine)
            assert engine or all(f"--engine={each.engine} --help" in text for each in verb.flags if each.engine)
            assert lines[-1] == f"example: {verb.example}" and verb.example.startswith(f"scaling {name}")


def trained(workdir: Path, arguments: list[str]) -> None:
    """The study of a configuration, with losses by hand: its plan, its records, nothing trained."""
    from scaling import plan, study

    planned = plan.make(study.resolve(cli.parse("plan", arguments).config))
    plan.write(planned, workdir)
    for spec in (spec for each in planned.programs for spec in each.runs):
        n, d = spec.manifest.parameters.nonembedding, spec.manifest.tokens.D
        loss = (1.0 + 30 / n**0.4 + 60 / d**0.4) * (1 + 0.002 * spec.manifest.seed)
        handmade.write(workdir, spec.manifest, handmade.result(loss, steps=spec.manifest.steps, tokens=d))


def test_every_example_works(place):
    other = [",".join([*row.split(",")[:2], str(float(row.split(",")[2]) * 1.02)]) for row in LOSSES]
    (place / "other.csv").write_text("\n".join(["N,D,loss", *other]))
    for table_name, card in (("runs.csv", "fit.json"), ("runs.csv", "one.json"), ("other.csv", "two.json")):
        assert scaling("fit", table_name, f"--out={card}")[0] == 0
    (place / "log.txt").write_text("step 0: train loss 10.9, val loss 10.9\nstep 9: train loss 4.1, val loss 4.2\n")
    (place / "texts").mkdir()
    for name in "abcdefgh":
        (place / "texts" / f"{name}.txt").write_text(f"{name} word " * 12_000)
    trained(place / "runs/demo-smoke", ["--config=demo:smoke"])
    for name, verb in VERBS.items():
        code, out, err = scaling(*shlex.split(verb.example)[1:])
        assert code == 0 and out, (name, err)


@pytest.mark.parametrize(
    ("arguments", "head"),
    [
        ("jump", "verb = jump"),
        ("plan", "config = nothing"),
        ("plan --config", "config = nothing"),
        ("plan --config=missing.py", "config = missing.py"),
        ("plan --config=nothing", "config = nothing"),
        ("plan --config=folder", "config = folder"),
        ("plan --config=exp.py:wrong", "config = exp.py:wrong"),
        ("plan --config=broken.py", "config = broken.py"),
        ("plan --config=syntax.py", "config = syntax.py"),
        ("plan --config=empty.py", "config = empty.py"),
        ("plan --config=leaves.py", "config = leaves.py"),
        ("plan --config=text.csv.py", "config = text.csv.py"),
        ("plan --config=exp.py --config.nothing=3", "config.nothing = 3"),
        ("plan --config=exp.py --config.name.nothing=3", "config.name.nothing = 3"),
        ("plan --config=exp.py --config.mesh.nothing=3", "config.mesh.nothing = 3"),
        ("plan --config=exp.py --config.mesh=3", "config.mesh = 3"),
        ("plan --config=exp.py --config.cells.none.seeds=3", "config.cells.none = 3"),
        ("plan --config=exp.py --config.cells.grid.seeds=one", "config.cells.grid.seeds = one"),
        ("plan --config=exp.py --config.model.nothing=3", "model.nothing = 3"),
        ("plan --config=exp.py --config.recipe.lr=3", "recipe.lr = 3"),
        ("plan --config=exp.py --config.chunk=many", "config.chunk = many"),
        ("plan --config=exp.py --config.chunk", "config.chunk = nothing"),
        ("plan --config=exp.py --config.repeats=perhaps", "config.repeats = perhaps"),
        ("plan --config=exp.py --config.chunk=0", "config.chunk = 0"),
        ("plan --config.chunk=3", "config.chunk = 3"),
        ("plan --config=exp.py --wrkdir=a", "flag = --wrkdir"),
        ("plan --config=exp.py --json=perhaps", "json = perhaps"),
        ("plan --config=exp.py --workdir", "workdir = nothing"),
        ("plan --config=exp.py --workdir --json", "workdir = nothing"),
        ("plan exp.py", "plan = exp.py"),
        ("plan --config=exp.py --config.cells.grid.sizes=(-1,)", "size = -1"),
        ("status folder --config=exp.py", "flag = --config"),
        ("run", "config = nothing"),
        ("run --workdir=folder", "workdir = folder"),
        ("run --workdir=nowhere", "workdir = nowhere"),
        ("run --config=exp.py --engine=cloud", "engine = cloud"),
        ("run --config=exp.py --workers=0", "workers = 0"),
        ("run --config=exp.py --workers=a", "workers = a"),
        ("run --config=exp.py --workers=1.5", "workers = 1.5"),
        ("run --config=exp.py --max_attempts=0", "max_attempts = 0"),
        ("run --config=exp.py --ensemble=0", "ensemble = 0"),
        ("run --config=exp.py --ensemble=all", "ensemble = all"),
        ("tune --config=exp.py --ensemble=-2", "ensemble = -2"),
        ("tune --config=exp.py --sizes=0.5", "sizes = 0.5"),
        ("tune --config=exp.py --batches=inf", "batches = inf"),
        ("tune --config=exp.py --rates=0.1,nan", "rates = 0.1,nan"),
        ("tune --config=exp.py --level=95", "level = 95.0"),
        ("plan --config=exp.py --config.cells.grid.tokens=(1e999,)", "cells.grid.tokens = inf"),
        ("plan --config=exp.py --noise=-1", "noise = -1.0"),
        ("plan --config=exp.py --simulate=-1", "simulate = -1"),
        ("plan --config=exp.py --noise=nan", "noise = nan"),
        ("run --config=exp.py --workdir=file", "path = file/study.json"),
        ("run --config=exp.py --config.data.known.source=dream", "source = dream"),
        ("status", "status = nothing"),
        ("status folder", "workdir = folder"),
        ("verify", "verify = nothing"),
        ("verify folder", "workdir = folder"),
        ("verify nowhere", "workdir = nowhere"),
        ("run --config=exp.py --config.name=../../up", "config.name = ../../up"),
        ("fit", "fit = nothing"),
        ("fit runs.csv more.csv", "fit = runs.csv more.csv"),
        ("fit nowhere.csv", "path = nowhere.csv"),
        ("fit lossless.csv", "table = no column loss"),
        ("fit text.csv", "line 3, column D = many"),
        ("fit runs.csv --law=guess", "law = guess"),
        ("fit runs.csv --fixed=E", "fixed = E"),
        ("fit runs.csv --fixed=E=low", "fixed = E=low"),
        ("fit runs.csv --objective=best", "objective = best"),
        ("fit runs.csv --where=N>1e30", "where = N>1e30"),
        ("fit folder --law=chinchilla", "workdir = folder"),
        ("fit folder", "workdir = folder"),
        ("fit loop.csv", "path = loop.csv"),
        ("predict nothing.json --flops=1e18", "fit = nothing.json"),
        ("predict runs.csv --flops=1e18", "fit = runs.csv"),
        ("predict folder", "workdir = folder"),
        ("predict loop.csv --flops=1e18", "file = loop.csv"),
        ("predict nothing.json --device_hours=2", "fit = nothing.json"),
        ("next", "next = nothing"),
        ("next nothing.json --target=a", "budget = nothing"),
        ("next nothing.json --budget=1e18", "target = nothing"),
        ("next nothing.json --target=a --budget=1e18", "fit = nothing.json"),
        ("next nothing.json --target=a --budget=1e18 --out=next.txt", "out = next.txt"),
        ("next nothing.json --target=a --budget=1e18 --out=next.py", "out = next.py"),
        ("next folder --target=a --budget=1e18", "workdir = folder"),
        ("compare", "compare = nothing"),
        ("compare nothing.json", "fit = nothing.json"),
        ("compare folder file.json", "workdir = folder"),
        ("compare nothing.json other.json --margin=a", "margin = a"),
        ("data improve text.csv --out=t", "data = improve"),
        ("data prepare text.csv", "out = nothing"),
        ("report file", "path = file"),
        ("plot nowhere.json", "fit = nowhere.json"),
        ("report nowhere.json", "fit = nowhere.json"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(place, arguments, head):
    before = sorted(path.relative_to(place) for path in place.rglob("*") if "__pycache__" not in path.parts)
    code, out, err = scaling(*arguments.split())
    assert code == 2, (out, err)
    assert err.startswith(f"scaling: error: {head}") and err.count("\n") == 1, err
    after = sorted(path.relative_to(place) for path in place.rglob("*") if "__pycache__" not in path.parts)
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ("statsu", "status"),
        ("plan --config=dmo", "demo"),
        ("plan --config=exp.py --wrkdir=a", "--workdir"),
        ("plan --config=exp.py --config.chunks=3", "chunk"),
        ("plan --config=exp.py --config.cells.grid.seed=3", "seeds"),
        ("plan --config=exp.py --config.model.widht=3", "width"),
        ("plan --config=exp.py --config.family=gtp", "gpt"),
        ("run --config=exp.py --engine=locla", "local"),
        ("fit runs.csv --law=chinchila", "chinchilla"),
    ],
)
def test_what_is_mistyped_is_answered_with_the_nearest_name(place, arguments, nearest):
    code, _, err = scaling(*arguments.split())
    assert code == 2 and f"did you mean {nearest}?" in err, err


def test_codes_say_what_kind_of_mistake_it_is(place):
    for arguments, code, field in (
        (["plan", "--wrkdir=a"], Code.UNKNOWN, "flag"),
        (["plan", "--workdir"], Code.MISSING, "workdir"),
        (["plan", "--config=broken.py"], Code.DAMAGED, "config"),
        (["plan", "--config=empty.py"], Code.MISSING, "config"),
        (["plan", "--config=exp.py", "--config.chunks=3"], Code.UNKNOWN, "config.chunks"),
        (["plan", "--config=exp.py", "--config.chunk=x"], Code.INVALID, "config.chunk"),
        (["plan", "--config.chunk=3"], Code.MISSING, "config.chunk"),
        (["plan", "--noise=low"], Code.INVALID, "noise"),
        (["status"], Code.MISSING, "status"),
        (["jump"], Code.UNKNOWN, "verb"),
    ):
        with refuses(code, field):
            cli.parse(arguments[0], arguments[1:])


def test_the_argument_names_its_own_workdir():
    assert default_workdir("demo", None) == Path("runs/demo")
    assert default_workdir("demo-smoke", "smoke") == Path("runs/demo-smoke")
    assert default_workdir("demo", "smoke") == Path("runs/demo-smoke")
    assert default_workdir("demo", "sizes=1, 2") == Path("runs/demo-sizes-1-2")


def test_a_config_is_found_by_name_by_file_and_with_a_space(place):
    by_name = cli.parse("plan", ["--config=demo:smoke"])
    assert by_name.config.name == "demo-smoke" and by_name.argument == "smoke"
    for arguments in (["--config", "exp.py:two words"], ["-config=exp.py:two words"], [f"--config={place}/exp.py"]):
        options = cli.parse("plan", [*arguments, "--config.cells.grid.seeds=(1, 2)", "--config.chunk=5"])
        assert options.config.cells.grid.seeds == (1, 2) and options.config.chunk == 5
        assert options.argument == ("two words" if "two" in arguments[-1] else None)


def test_experiments_are_found_in_the_package_and_nowhere_else(place, monkeypatch):
    """In a wheel they lie inside the package; beside it only in its repository; never in the current directory."""
    (place / "experiments").mkdir()
    (place / "experiments" / "mine.py").write_text(EXPERIMENT)
    assert "mine" not in _config.installed() and "demo" in _config.installed()
    package = place / "site" / "scaling"
    (package / "_experiments").mkdir(parents=True)
    (package / "_experiments" / "inside.py").touch()
    (package.parent / "experiments").mkdir()
    (package.parent / "experiments" / "foreign.py").touch()
    monkeypatch.setattr("scaling.__file__", str(package / "__init__.py"))
    assert set(_config.installed()) == {"inside"}
    (package / "_experiments" / "inside.py").unlink()
    (package / "_experiments").rmdir()
    assert not _config.installed()


def test_overrides_take_the_kind_of_the_field(place):
    """Of a field that is there its type; of one that the experiment leaves at its default what the text says."""
    given = ["chunk=1e2", "checkpoint_seconds=5", "repeats=yes", "name=3", "cells.grid.seeds=7", "model.width=16"]
    config = cli.parse("plan", ["--config=exp.py", *(f"--config.{each}" for each in given)]).config
    found = [config.chunk, config.checkpoint_seconds, config.repeats, config.name, config.cells.grid.seeds]
    assert found == [100, 5.0, True, "3", (7,)] and config.model.width == 16
    assert [type(each) for each in found] == [int, float, bool, str, tuple] and config.is_locked
    (place / "plain.py").write_text(
        "from scaling import study\n\ndef get_config():\n    config = study.base('plain')\n"
        "    config.recipe = {'batch': 8}\n    config.data.known = {'source': 'zipf'}\n"
        "    config.cells.grid = study.block('grid', 'known', (0,), tokens=(2**16,))\n    return config\n"
    )
    code, out, err = scaling("plan", "--config=plain.py", "--json")
    assert code == 0 and json.loads(out)["cells"][0]["batch"] == 8, err
    for section in ("recipe", "model", "data", "mesh", "evaluation", "execution", "cells"):
        (place / "number.py").write_text(
            (place / "plain.py").read_text().replace("    return", f"    config.{section} = 5\n    return")
        )
        code, _, err = scaling("plan", "--config=number.py")
        assert code == 2 and err.startswith("scaling: error: ") and err.count("\n") == 1, (section, err)


def test_plan_prints_the_cells_and_writes_nothing(place):
    code, out, _ = scaling("plan", "--config=exp.py")
    assert code == 0 and "2 cells in 1 programs" in out and "parameters by group" in out
    assert "expected half-widths of the 95 % intervals from a fit to these cells (prior: " in out
    assert "too few runs to fit the law" in out
    code, out, _ = scaling("plan", "--config=exp.py", "--json")
    made = json.loads(out)
    assert code == 0 and [cell["D"] for cell in made["cells"]] == [48 * 20, 48 * 40]
    assert made["workdir"] == "runs/cli" and made["warnings"]
    assert not (place / "runs").exists()


def test_fit_predict_and_plot_of_a_table(place):
    code, out, _ = scaling("fit", "runs.csv", "--out=cards/fit.json", "--where", "N > 0", "--fixed=E=1.7")
    assert code == 0 and "written: cards/fit.json" in out
    card = read_json(place / "cards/fit.json")
    assert card["params"]["E"]["value"] == 1.7 and card["params"]["alpha"]["value"] == pytest.approx(0.34, abs=1e-3)
    code, out, _ = scaling("fit", "runs.csv", "--json")
    assert code == 0 and json.loads(out)["law"] == "chinchilla"
    code, out, _ = scaling("predict", "cards/fit.json", "--flops=1e17")
    assert code == 0 and all(name in out for name in ("N  ", "D  ", "D/N", "loss"))
    answer = json.loads(scaling("predict", "cards/fit.json", "--flops=1e17", "--json")[1])
    assert answer["N"]["lo"] <= answer["N"]["value"] <= answer["N"]["hi"]
    code, _, err = scaling("predict", "cards/fit.json", "--flops=1e26")
    assert code == 2 and "times the largest fitted compute" in err and err.count("\n") == 1
    assert scaling("predict", "cards/fit.json", "--flops=1e26", "--force")[0] == 0
    several = ["product", "chinchilla", "kaplan"]  # what --law=all means is tested in test_tables_of_others
    code, out, _ = scaling("fit", "runs.csv", f"--law={','.join(several)}", "--out=all")
    assert "approaches 1, 2, 3 on runs.csv (N column N of the table): " in out
    compared = read_json(place / "all" / "runs-approaches-nonembedding.json")
    assert compared["conventions"]["n"] is None  # nothing says what N counts
    names = [*several, "approaches"]
    assert code == 0
    assert {path.name for path in (place / "all").glob("*.json")} == {f"runs-{n}-nonembedding.json" for n in names}
    (place / "named.csv").write_text((place / "runs.csv").read_text().replace("loss", "val_loss"))
    renamed = json.loads(scaling("fit", "named.csv", "--columns=loss=val_loss", "--json")[1])
    assert renamed["params"] == json.loads(out := scaling("fit", "runs.csv", "--json")[1])["params"], out


@pytest.mark.system
def test_predict_under_a_condition_and_next_of_a_table(place):
    assert scaling("fit", "runs.csv", "--out=fit.json")[0] == 0
    plain = json.loads(scaling("predict", "fit.json", "--flops=1e17", "--json")[1])
    for flag, words in (
        ("max_params=3e6", "the cap binds"),
        ("tokens_per_parameter=200", "follow from the budget and D/N"),
        ("unique_tokens=1e8", "this law does not model repeats"),
        ("inference_tokens=1e11", "of the lifetime compute"),
    ):
        answer = json.loads(scaling("predict", "fit.json", "--flops=1e17", f"--{flag}", "--json")[1])
        assert answer["condition"]["mode"] == flag.partition("=")[0] and answer["N"]["value"] != plain["N"]["value"]
        assert answer["recipe"] is None  # a table has no recipe
        assert words in scaling("predict", "fit.json", "--flops=1e17", f"--{flag}")[1]
    for options, signs in (((), "++"), (("--max_params=3e6",), "+-")):  # a cap that binds: twice N would be better
        out = scaling("predict", "fit.json", "--flops=1e17", *options)[1]
        found = re.search(r"at this compute half of N changes the loss by (.)[\d.]+%, twice N by (.)[\d.]+%", out)
        assert found and "".join(found.groups()) == signs
    for wrong, words in (
        ("--flops=1e17 --max_params=3e6 --unique_tokens=1e9", "one condition at a time"),
        ("--params=1e6 --max_params=3e6", "params = 1000000.0: cannot be given with --max_params"),
        ("--device_hours=1", "a study's own runs or a column tokens_per_second"),
    ):
        code, _, err = scaling("predict", "fit.json", *wrong.split())
        assert code == 2 and words in err and err.count("\n") == 1
    found = ["next", "fit.json", "--target=log_N_opt@1e18", "--budget=1e17"]
    made = json.loads(scaling(*found, "--json", "--out=next.json")[1])
    assert made == read_json(place / "next.json") and made["spent"] <= 1e17 and made["cells"]
    code, out, _ = scaling(*found, "--ratios=5,500", "--share=0.5", "--drift=0.01")
    assert code == 0 and "half-width" in out and "D/N within 5 to 500" in out
    assert "ratios = 5: must be" in scaling(*found, "--ratios=5")[2]
    assert "seeds = one" in scaling(*found, "--seeds=one")[2]


def test_compare_two_tables(place):
    other = [",".join([*row.split(",")[:2], str(float(row.split(",")[2]) * 1.02)]) for row in LOSSES]
    (place / "other.csv").write_text("\n".join(["N,D,loss", *other]))
    assert scaling("fit", "runs.csv", "--out=one.json")[0] == scaling("fit", "other.csv", "--out=two.json")[0] == 0
    code, out, _ = scaling("compare", "one.json", "two.json", "--margin=a=0.1")
    assert code == 0 and "a: one - two = " in out and "equal within the margin (margin 0.1)" in out
    assert "refused: a table does not say what its loss was measured on" in out
    found = json.loads(scaling("compare", "one.json", "two.json", "--json")[1])
    assert found["kind"] == "comparison" and found["equal_loss"][0]["status"] == "refused"
    code, _, err = scaling("compare", "one.json", "one.json")
    assert code == 2 and "of the same runs" in err
    assert "needs two fits or more" in scaling("compare", "one.json")[2]


def test_laws_lists_every_law():
    names = [law["name"] for law in json.loads(scaling("laws", "--json")[1])]
    out = scaling("laws")[1]
    assert {law.name for law in laws.standard()} <= set(names) and all(name in out for name in names)


def test_a_tables_numbers_are_aligned():
    lines = table([{"a": "x", "b": 5}, {"a": "long", "b": 1234}], {"a": lambda r: r["a"], "b": lambda r: r["b"]})
    assert lines == ["a        b", "x        5", "long  1234"]
    assert table([], {"a": str}) == ["a"]


# --- run


def command(study: Study, *arguments: str) -> subprocess.Popen[str]:
    run = [sys.executable, "-m", "scaling.cli", "run", f"--workdir={study.workdir}", "--execute=chains:execute"]
    pipe, arguments = subprocess.PIPE, (*run, *arguments)
    return subprocess.Popen(arguments, cwd=ROOT, env=study.environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_run_continues_and_a_third_does_nothing(study, number, code):
    study.plan(program("one", steps=60), program("two", steps=60))
    with ending(command(study, "--workers=2")) as process:
        wait_for(lambda: len(study.trace()) > 6)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code and "interrupted; the same command continues" in err, err
    assert 6 < len(study.trace()) < 120 and not list(study.workdir.glob("runs/*/lease.json"))
    if number != signal.SIGINT:
        return
    with ending(command(study, "--json")) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and json.loads(out)["counts"]["done"] == 2, err
    study.assert_finished()
    assert len(study.trace()) == 120
    with ending(command(study)) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "nothing to do: all 2 runs" in out and err == ""
    assert len(study.trace()) == 120


def test_failures_are_told_and_retried_on_request(study):
    study.plan(program("bad", raise_at=1), program("wrong", reject=True), program("fine"))
    with ending(command(study, "--max_attempts=1")) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "failed: bad: 1 attempts without progress; the last: ValueError: cannot go on" in err
    assert "rejected: wrong: data = nan: holds NaN; mend the data" in err and "--retry_failed" in err
    code, out, _ = scaling("status", study.workdir)
    assert code == 0 and "1 rejected, 1 failed" in out and "--retry_failed" in out
    study.plan(program("bad"), program("wrong"), program("fine"))
    with ending(command(study, "--retry_failed")) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    study.assert_finished()


def test_a_full_disk_is_one_line(study):
    study.plan(program("one", full_disk=True))
    with ending(command(study)) as process:
        _, err = process.communicate(timeout=60)
    last = err.splitlines()[-1]
    assert process.returncode == 2 and last.startswith("scaling: error: workdir = ") and "No space left" in last


def test_a_reader_that_leaves_is_no_error(study):
    study.plan(*(program(f"p{index}") for index in range(2000)))
    read, write = os.pipe()
    os.close(read)
    try:
        command = [sys.executable, "-m", "scaling.cli", "status", str(study.workdir)]
        process = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(write)
    assert process.stderr == "" and process.returncode == cli.EXIT_PIPE


def test_a_real_study_trains_and_shows_its_state(place, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code, out, err = scaling("run", "--config=exp.py:tiny", "--workers=1")
    assert code == 0 and "cli: 100 %, runs 3/3, programs 1/1" in out, err
    workdir = place / "runs" / "cli-tiny"
    results = {path.parent.name: path.read_bytes() for path in workdir.glob("runs/*/result.json")}
    code, out, err = scaling("run", "--config=exp.py:tiny", "--workers=1")
    assert code == 0 and out == "nothing to do: all 3 runs of runs/cli-tiny are final\n" and err == ""
    assert results == {path.parent.name: path.read_bytes() for path in workdir.glob("runs/*/result.json")}
    code, out, _ = scaling("status", "runs/cli-tiny", "--json")
    status = json.loads(out)
    assert status["counts"]["done"] == 3 and all(row["loss"] > 0 for row in status["runs"])
    code, _, err = scaling("run", "--config=exp.py", "--config.name=other", "--workdir=runs/cli-tiny")
    assert code == 2 and "holds the study cli" in err


NEXT = """
from conftest import tiny_config
from scaling import study

def get_config(argument=""):
    tokens = (960, 1920, 3840)
    config = tiny_config(
        grid=study.block("grid", "known", (0, 1), tokens=tokens),
        seeds=study.block("grid", "known", (0,), tokens=tokens, seeds=(1,), role="seed"),
        hold=study.block("pairs", "known", (1,), tokens=(1920,), seeds=(100,), role="holdout"),
    )
    config.name, config.model = "grown", {"context": 12}
    return config
"""


@pytest.mark.system
def test_next_of_a_study_is_a_configuration_that_run_takes(place, monkeypatch):
    """Trained, fitted, designed, and trained again: the new cells only, on the stems that were there."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (place / "grown.py").write_text(NEXT)
    assert scaling("run", "--config=grown.py", "--workdir=w", "--workers=1")[0] == 0
    assert scaling("fit", "w", "--law=chinchilla")[0] == 0
    before = {path.parent.name: path.read_bytes() for path in (place / "w").glob("runs/*/result.json")}
    # the seeds and the fit card must be there, and nothing of the held-out cell's stem may be offered
    code, out, err = scaling("next", "w", "--target=alpha", "--budget=6e8", "--out=next.py", "--json")
    assert code == 0, err
    made = json.loads(out)
    assert made["cells"] and all(cell["seed"] != 100 for cell in made["cells"])
    branches = [cell for cell in made["cells"] if not cell["new_stem"]]
    assert branches and all(cell["price"] < cell["C"] for cell in branches)
    code, _, err = scaling("run", "--config=next.py", "--workdir=w", "--workers=1")
    assert code == 0, err
    after = {path.parent.name: path.read_bytes() for path in (place / "w").glob("runs/*/result.json")}
    stems = {name for name in before if "stem" in name}
    assert {name: after[name] for name in before if name not in stems} == {
        name: text for name, text in before.items() if name not in stems
    }
    trained = [read_json(place / "w/runs" / name / "manifest.json") for name in set(after) - set(before)]
    cells = {(m["size"], m["tokens"]["D"], m["seed"]) for m in trained if m["kind"] != "stem"}
    assert cells == {(cell["size"], int(cell["D"]), cell["seed"]) for cell in made["cells"]}
    planned = {spec["run"] for p in read_json(place / "w/study.json")["programs"] for spec in p["runs"]}
    assert planned == set(after)
    code, out, _ = scaling("predict", "w/fits/known-chinchilla-nonembedding.json", "--params=6e3", "--tokens=4e3")
    assert code == 0 and "a rule, not fitted" in out
    assert len(measured(place / "w", "known").N) == len({m["size"] for m in trained} | {0, 1})


def test_an_unexpected_error_keeps_its_traceback(place, monkeypatch):
    write_json(place / "study" / "study.json", {"name": "x", "programs": []})
    monkeypatch.setattr("scaling.status.study_status", lambda path, prices: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        scaling("status", "study")
    monkeypatch.setattr("scaling.status.study_status", lambda at, _: os.open(at, os.O_RDONLY | os.O_CREAT | os.O_EXCL))
    with pytest.raises(FileExistsError):
        scaling("status", "study")
    monkeypatch.setattr("scaling.status.study_status", lambda path, prices: os.mkdir("/proc/nothing"))
    with pytest.raises(FileNotFoundError):
        scaling("status", "study")
    monkeypatch.setattr("scaling.status.study_status", lambda path, prices: os.unlink("/proc/version"))
    code, _, err = scaling("status", "study")
    assert code == 2 and err.startswith("scaling: error: path = /proc/version: ") and err.count("\n") == 1
    with pytest.raises(UserError):
        cli.parse("status", [])


def test_fields_at_their_default_are_overridden_too():
    config = cli.parse("plan", ["--config=demo", "--config.recipe.batch=64", "--config.model.dtype", "bfloat16"]).config
    assert config.recipe.batch == 64 and config.model.dtype == "bfloat16"
    config = cli.parse("plan", ["--config=demo", "--config.cells.known_grid.recipe.schedule=cosine"]).config
    assert config.cells.known_grid.recipe.schedule == "cosine"
