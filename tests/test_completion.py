"""Completion in a shell, bash itself among them; and names of every kind that are mistyped."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from debian import program

from scaling import cli, verbs
from scaling.verbs.completion import SCRIPTS, candidates


def found(line: str) -> list[str]:
    return list(candidates(line))


def test_verbs_flags_and_names_are_completed():
    assert {*verbs.names(), "--help"} <= set(found("scaling "))
    assert found("scaling stat") == ["status"]
    assert found("scaling fit runs.csv --uni") == ["--units="]
    assert found("scaling fit runs.csv --law=chinchilla_a") == found("scaling fit runs.csv --law=nothing") == []
    assert found("scaling fit runs.csv --law=chinchill")[0] == "--law=chinchilla"
    assert "chinchilla" in found("scaling fit runs.csv --law ")
    assert found("scaling plan --config=dem") == ["--config=demo"]
    assert found("scaling run --engine=l") == ["--engine=local"]
    assert "--queue=" in found("scaling run --engine=kubernetes --") and "--queue=" not in found("scaling run --")
    assert found("scaling import log --from=tensorb") == ["--from=tensorboard"]
    assert found("scaling data ") == ["prepare"] and found("scaling completion z") == ["zsh"]
    assert "--workdir=" in found("scaling plan --json ")


def test_where_files_may_stand_nothing_is_offered():
    for line in ("scaling fit ", "scaling fit runs.csv --out=", "scaling plot 'a b", "scaling jump ", "", "scaling"):
        assert found(line) == [], line


@pytest.mark.parametrize("name", verbs.names())
def test_every_flag_is_completed_and_what_is_offered_exists(name: str):
    verb = verbs.load(name)
    assert verb is not None
    words = found(f"scaling {name} --")
    assert {f"--{flag.name}" for flag in verb.flags if not flag.engine} <= {word.rstrip("=") for word in words}
    for flag in verb.flags:
        if flag.offers is not None:
            values = list(flag.offers())
            assert values and len(set(values)) == len(values), flag.name
            assert flag.default is None or flag.default in values, flag.name


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a shell which finds this program as ``scaling``."""
    command = tmp_path / "bin" / "scaling"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m scaling.cli "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}


def test_bash_completes_words_that_it_breaks_at_an_equals_sign(environment: dict[str, str]):
    script = SCRIPTS["bash"] + (
        'ask() { COMP_LINE=$1 COMP_POINT=${#1}; _scaling 2>/dev/null; echo "${COMPREPLY[*]}"; }\n'
        'ask "scaling run --engine=loc"; ask "scaling stat"; ask "scaling fit a --uni"; ask "scaling fit "\n'
    )
    ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["local", "status", "--units=", ""]


def typed_in_zsh(lines: Sequence[str], environment: dict[str, str]) -> list[str]:
    """Each line after a tab, as the line editor of an interactive zsh holds it."""
    main, side = pty.openpty()
    zsh = [program(("zsh",), ("zsh",)), "-f", "-i"]
    shell = subprocess.Popen(zsh, stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True)
    os.close(side)

    def until(pattern: bytes) -> str:
        seen, end = b"", time.monotonic() + 120
        while (match := re.search(pattern, seen)) is None:
            assert time.monotonic() < end, seen
            if select.select([main], [], [], 1.0)[0]:
                seen += os.read(main, 4096).replace(b"\r", b"").replace(b"\n", b"")
        return match[1].decode()

    try:
        tell = 'tell() { print -r -- "<$BUFFER>"; BUFFER=; }; zle -N tell; bindkey "^X" tell'
        os.write(main, f'autoload -Uz compinit; compinit -u -D; {tell}; eval "$(scaling completion zsh)"\n'.encode())
        os.write(main, b"print REA''DY\n")
        until(b"(READY)")
        found = []
        for line in lines:
            os.write(main, f"{line}\t\x18".encode())
            found.append(until(rb"<(scaling[^<>]*)>"))
        return found
    finally:
        shell.kill()
        shell.wait()
        os.close(main)


@pytest.mark.system
def test_zsh_completes_verbs_flags_values_and_files(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "runs.csv").write_text("")
    asked = {
        "scaling stat": "scaling status ",
        "scaling run --engine=loc": "scaling run --engine=local ",
        "scaling fit a --uni": "scaling fit a --units=",
        "scaling fit a --law chinchilla_": "scaling fit a --law chinchilla_outer ",
        f"scaling fit {tmp_path}/ru": f"scaling fit {tmp_path}/runs.csv ",
        f"scaling fit a --out={tmp_path}/ru": f"scaling fit a --out={tmp_path}/runs.csv ",
    }
    assert typed_in_zsh(list(asked), environment) == list(asked.values())


@pytest.mark.system
def test_fish_completes_verbs_flags_values_and_files(environment: dict[str, str], tmp_path: Path):
    (tmp_path / "runs.csv").write_text("")
    lines = ["scaling run --engine=loc", "scaling stat", "scaling fit a --uni", f"scaling fit {tmp_path}/ru"]
    script = "scaling completion fish | source\n" + "".join(f'complete -C "{line}"\n' for line in lines)
    fish = [program(("fish",), ("fish",)), "--no-config", "-c", script]
    ran = subprocess.run(fish, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert ran.stdout.splitlines() == ["--engine=local", "status", "--units=", f"{tmp_path}/runs.csv"]


def test_an_unknown_shell_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["completion", "zhs"]) == 2
    assert "did you mean zsh?" in capsys.readouterr().err
    assert cli.main(["completion", "bash", "zsh"]) == 2
    assert "shell = bash zsh" in capsys.readouterr().err
    for shell in SCRIPTS:
        assert cli.main(["completion", shell]) == 0
        assert capsys.readouterr().out == SCRIPTS[shell]


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        ("fit runs.csv --scheme=botstrap", "bootstrap"),
        ("fit runs.csv --columns=losss=loss", "loss"),
        ("fit runs.csv --columns=loss=lss", "loss"),
        ("fit runs.csv --where=los>1", "loss"),
        ("fit reference:gadree", "gadre"),
        ("plan --config=exp.py --config.data.known.source=zpf", "zipf"),
        ("plan --config=exp.py --config.recipe.name=widht", "width"),
        ("plan --config=exp.py --config.recipe.schedule=cosin", "cosine"),
        ("plan --config=exp.py --config.recipe.optimizer=muonn", "muon"),
        ("plan --config=exp.py --config.cells.grid.kind=gird", "grid"),
        ("plan --config=exp.py --config.cells.grid.role=hodlout", "holdout"),
        ("plan --config=exp.py --config.execution.remat=ful", "full"),
        ("plan --config=exp.py --device=h100-80g", "h100-80gb"),
        ("plan --config=exp.py --config.model.activation=gleu", "gelu"),
        ("import runs.csv --from=nanogtp --out=t.csv", "nanogpt"),
        ("export . --to=cvs", "csv"),
        ("data prepre texts --out=t", "prepare"),
        ("completion bsah", "bash"),
        ("plan --confg=exp.py", "--config"),  # no declared flag, but a flag of a verb that plans
    ],
)
def test_a_mistyped_name_of_any_kind_is_answered_with_the_nearest(
    arguments: str,
    nearest: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp.py").write_text("from conftest import tiny_config as get_config\n")
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + "\n".join(f"{n}e6,{n}e8,{4 - n / 10}" for n in range(1, 9)))
    assert cli.main(arguments.split()) == 2
    said = capsys.readouterr().err
    assert f"did you mean {nearest}?" in said and said.count("\n") == 1, said


def test_a_flag_is_not_answered_with_one_that_shares_its_dashes_only(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["report", "runs.csv", "--budget=3"]) == 2
    assert "did you mean" not in capsys.readouterr().err
