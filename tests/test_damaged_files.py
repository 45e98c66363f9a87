"""Every file of a work directory, damaged: a verb answers, or says in one line which file cannot be read."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handmade
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selection import mostly_system

from scaling.cli import main
from scaling.records import write_json
from scaling.records.typed import to_json
from scaling.records.types import FinishRow, Marks, StartRow, StepRow
from scaling.worker.lease_file import LeaseRecord

SIZES, TOKENS = (4000, 16_000, 64_000, 256_000), (2**18, 2**20, 2**22)


def made(root: Path) -> Path:
    """A study that was trained, fitted and forecast: losses of an additive law with 0.3 % noise."""
    rng, manifests = np.random.default_rng(0), []
    cells = [(n, d, 0, "fit") for n in SIZES for d in TOKENS]
    cells += [(n, TOKENS[1], 1, "seed") for n in SIZES[:2]] + [(4 * SIZES[-1], 2**23, 9, "holdout")]
    for n, d, seed, role in cells:
        about = handmade.manifest(
            f"gpt-{n}-{d}-{seed}", n=n, d=d, seed=seed, role=role, size=SIZES.index(min(n, 256_000))
        )
        manifests.append(about)
        loss = (1.5 + 20 / n**0.35 + 60 / d**0.3) * float(np.exp(0.003 * rng.standard_normal()))
        record = handmade.write(root, about, handmade.result(loss))
        start = StartRow(time="now", marks=Marks(settled=0, rows=0), host="here", pid=1, core="all")
        steps = [
            StepRow(step=i, loss=loss + 3 / i, norm=1.0, learning_rate=0.01, tokens=i * d // 4, seconds=0.1)
            for i in range(1, 5)
        ]
        record.append(start, *steps, FinishRow(time="now"))
    write_json(root / "study.json", handmade.study(*(handmade.program(about) for about in manifests)))
    lease = LeaseRecord(owner="x", host="elsewhere", machine="elsewhere", pid=1, born="1", started="now")
    write_json(root / "runs" / manifests[0].run / "lease.json", lease)
    for command in (["fit", str(root), "--law=chinchilla", "--n=nonembedding"], ["predict", str(root)]):
        assert run(command)[0] == 0
    return root


def run(command: list[str]) -> tuple[int, str]:
    """Exit status and standard error of a verb. Whatever it raises is a traceback that a user would see."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the fitter, on what is left of the runs
        return main(command), err.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("whole") / "w")


DEEP, HUGE = b"[" * 100_000 + b"]" * 100_000, int("9" * 4000)
Damage = Callable[[Path, random.Random], None]


def rewritten(change: Callable[[Any, random.Random], Any]) -> Damage:
    """Rewrites the JSON of a file, or of one line of it."""

    def damage(path: Path, rng: random.Random) -> None:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(change(json.loads(lines[at]), rng))
        path.write_text("\n".join(lines) + "\n")

    return damage


def somewhere(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """A container in the value and one of its keys, at a random depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    inside = value[key]
    return somewhere(inside, rng) if isinstance(inside, dict | list) and inside and rng.random() < 0.7 else (value, key)


def without_a_key(value: Any, rng: random.Random) -> Any:
    holder, key = somewhere(value, rng)
    del holder[key]
    return value


def with_another_value(value: Any, rng: random.Random) -> Any:
    holder, key = somewhere(value, rng)
    holder[key] = rng.choice([None, True, -1, 1.5, 1e308, "x" * 9, "../up", [], {}, [[1]], {"a": {}}, HUGE])
    return value


def with_one_key_more(value: Any, rng: random.Random) -> Any:
    holder, _ = somewhere(value, rng)
    if isinstance(holder, dict):
        holder["colour"] = "red"
    else:
        holder.append({"colour": "red"})
    return value


def a_directory(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def a_loop_of_links(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path)


def a_link_to_nothing(path: Path, _: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def content(value: bytes) -> Damage:
    def damage(path: Path, _: random.Random) -> None:
        path.write_bytes(value)

    return damage


def truncated(path: Path, rng: random.Random) -> None:
    held = path.read_bytes()
    path.write_bytes(held[: rng.randrange(len(held))])


def a_fifo(path: Path, _: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Damage] = {
    "truncated": truncated,
    "empty": content(b""),
    "a list": content(b"[]"),
    "null": content(b"null"),
    "no UTF-8": content(b'{"run": "\xff"}'),
    "nested": content(DEEP),
    "a huge integer": content(b'{"schema": ' + b"9" * 5000 + b"}"),
    "a nested field": content(b'{"config": ' + DEEP + b"}"),
    "a directory": a_directory,
    "a loop of links": a_loop_of_links,
    "a link to nothing": a_link_to_nothing,
    "a FIFO": a_fifo,
    "a key less": rewritten(without_a_key),
    "a key more": rewritten(with_one_key_more),
    "another value": rewritten(with_another_value),
}
REWRITES = [DAMAGES[kind] for kind in ("a key less", "a key more", "another value")]  # of JSON
FILES = ("study.json", "prediction.json", "fits/*.json", "runs/*/manifest.json", "runs/*/result.json")
FILES += ("runs/*/metrics.jsonl", "runs/*/lease.json")
CARD, DRAWS = "fits/*.json", "fits/*.npz"


@dataclass(frozen=True)
class Case:
    """A verb that reads: on which path of the work directory, with which flags, and how many examples.

    ``damaged``: the files of which one is damaged. ``without``: a file that is not there, so that the verb writes it.
    """

    verb: str
    examples: int
    flags: tuple[str, ...] = ()
    place: str = "."
    damaged: tuple[str, ...] = FILES
    without: str = ""


CASES = {
    "status": Case("status", 60),
    "verify": Case("verify", 25),
    "fit": Case("fit", 25, ("--law=chinchilla", "--n=nonembedding", "--scheme=delta-t", "--objective=squares")),
    "seal": Case("predict", 20, without="prediction.json"),
    "predict": Case("predict", 20, ("--flops=1e12",), CARD),
    "predict of a card": Case("predict", 40, ("--flops=1e12",), CARD, damaged=(CARD, CARD, CARD, DRAWS)),
    "compare of a card": Case("compare", 12, ("{other}",), CARD, damaged=(CARD,)),
    "plot of a card": Case("plot", 4, ("--out={out}",), CARD, damaged=(CARD,)),
    "next of a card": Case("next", 12, ("--target=a", "--budget=1e12"), CARD, damaged=(CARD,)),
    "next": Case("next", 25, ("--target=a", "--budget=1e12")),
    "report": Case("report", 8),
    "plot": Case("plot", 4),
}


def damaged(workdir: Path, pattern: str, kind: str, rng: random.Random) -> Path:
    """Damages one of the files of a work directory; which."""
    path = rng.choice(sorted(workdir.glob(pattern)))
    DAMAGES[kind](path, rng)
    return path


@pytest.mark.parametrize(
    "name", mostly_system(list(CASES), *(name for name in CASES if name not in ("report", "plot")))
)
def test_a_damaged_file_is_one_line_or_no_matter(name: str, whole: Path, tmp_path: Path):
    case, workdir = CASES[name], tmp_path / "w"
    (card,) = whole.glob(CARD)
    flags = [flag.format(out=tmp_path / "figures", other=card) for flag in case.flags]
    files = [pattern for pattern in case.damaged if pattern != case.without]

    @settings(max_examples=case.examples, deadline=None, database=None, derandomize=True)
    @given(pattern=st.sampled_from(files), kind=st.sampled_from(sorted(DAMAGES)), seed=st.integers(0, 2**31))
    def check(pattern: str, kind: str, seed: int) -> None:
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(whole, workdir)
        if case.without:
            (workdir / case.without).unlink()
        (place,) = workdir.glob(case.place) if case.place != "." else [workdir]
        if pattern == DRAWS and DAMAGES[kind] in REWRITES:
            kind = "truncated"
        path = damaged(workdir, pattern, kind, random.Random(seed))
        code, said = run([case.verb, str(place), *flags])
        assert code in (0, 1, 2), (path, kind, code)
        if code == 2:
            assert said.count("\n") == 1 and said.startswith("scaling: error: "), (path, kind, said)
            assert len(said) < 2000

    check()


@pytest.mark.parametrize("digits", [41, 400])  # more than an integer of 64 bits, and more than a float, may hold
def test_a_number_that_nothing_can_have_is_one_line(digits: int, tmp_path: Path):
    text = to_json(handmade.study(handmade.program(handmade.manifest("one"))))
    places = [match for match in re.finditer(r'"(\w+)": (\d+)(?=[,\n])', text)]
    refused = []
    for match in places:
        (tmp_path / "study.json").write_text(text[: match.start(2)] + "9" * digits + text[match.end(2) :])
        code, said = run(["status", str(tmp_path)])
        assert (code, said.count("\n")) in ((0, 0), (2, 1)), (match[1], code, said)
        refused += [match[1]] if code else []
    assert {"flops", "training", "total", "D", "steps", "parent_flops", "size", "mlp"} <= set(refused) and len(
        places
    ) > 50


@pytest.mark.parametrize(("flags", "dataset"), [([], "text"), (["--dataset=other"], "other")])
def test_a_fit_of_what_is_not_trained_yet_is_one_line(flags: list[str], dataset: str, tmp_path: Path):
    first, other = handmade.manifest("one"), handmade.manifest("two", dataset="other")
    write_json(tmp_path / "study.json", handmade.study(handmade.program(first), handmade.program(other)))
    code, said = run(["fit", str(tmp_path), *flags])
    assert code == 2 and said.count("\n") == 1 and f"no finished run of {dataset}" in said


def test_nothing_is_written_through_a_link(whole: Path, tmp_path: Path):
    """What a verb writes without being told where, it writes below the work directory."""
    workdir, outside = tmp_path / "w", tmp_path / "outside"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "fits")
    outside.mkdir()
    for name, command in (("fits", ["fit", str(workdir), "--law=power_floor"]), ("figures", ["plot", str(workdir)])):
        (workdir / name).symlink_to(outside)
        code, said = run(command)
        assert code == 2 and said.count("\n") == 1 and name in said
        (workdir / name).unlink()
    assert not list(outside.iterdir())
