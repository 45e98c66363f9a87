"""README.md and docs/: every block of code is run or parsed, figures are those that were measured, the site builds."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from docs_blocks import PAGES, ROOT, Block, blocks, commands, place, pruned
from report_study import analyse, build

import analysis
from scaling import cli, verbs
from scaling.verbs.show import pairs

BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [block for block in BLOCKS if block.kind in ("shell", "bash")]
COMMANDS = [(block.page, command) for block in SHELL for command in commands(block)]
PAIRS = {("compare", "margin"), ("fit", "columns"), ("fit", "fixed"), ("gate", "columns"), ("import", "columns")}
INTO = re.compile(r" > (\S+)$")  # a file that the shell writes
OWN_TESTS = {
    "docs/slurm.md": "test_slurm.py parses its commands, test_slurm_cluster.py runs them on a SLURM",
    "docs/kubernetes.md": "test_kubernetes_docs.py parses its commands and runs its shell on stand-ins",
    "docs/tutorials/tonight.md": "test_demo.py runs its commands on the smoke study that it has trained",
}
# What a test does not run, by the beginning of the command, and why.
PARSED = {
    "scaling run --evaluate": "needs a study that is trained; test_evaluations.py runs it on one",
    "scaling run": "trains; test_demo.py and test_slurm_cluster.py do",
    "scaling plan --config=mine.py": "the page's is of a text of 114 MB; test_init.py plans what `init` writes",
    "scaling next runs/demo": "needs a study of a family; test_cli.py runs it on one that is trained",
    "scaling fit curves.csv": "takes 8 CPU-seconds; test_fit_options.py fits such curves",
    "pip install": "installs into the environment of the suite; that the extras exist is tested",
    "make demo": "test_demo.py runs it",
    "srun": "test_multiprocess.py and test_slurm_cluster.py start such groups",
}


def parsed_only(command: str) -> bool:
    return any(command.startswith(start) for start in PARSED)


def test_every_block_is_of_a_kind_that_is_tested():
    assert len(BLOCKS) > 30 and {block.kind for block in BLOCKS} == {"shell", "bash", "python", "toml", "yaml", "text"}
    for page, command in COMMANDS:
        if page not in OWN_TESTS:
            assert command.startswith("scaling ") or parsed_only(command), (page, command)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind in ("toml", "yaml")], ids=lambda b: b.page)
def test_files_are_read(block: Block):
    assert tomllib.loads(block.text) if block.kind == "toml" else yaml.safe_load(block.text)


def experiment(folder: Path) -> None:
    """Puts the experiment file of the page on own data where commands look for it."""
    (code,) = [block.text for block in BLOCKS if block.page == "docs/how-to/data.md" and block.kind == "python"]
    (folder / "mine.py").write_text(code)


def test_every_command_has_flags_that_the_verb_takes(tmp_path, monkeypatch):
    experiment(tmp_path)
    (tmp_path / "large.py").write_text((tmp_path / "mine.py").read_text())
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    seen = set()
    for page, command in COMMANDS:
        for part in command.split(" && "):
            words = shlex.split(INTO.sub("", part))
            if "scaling" in words and words[words.index("scaling") + 1 :]:
                verb, *arguments = words[words.index("scaling") + 1 :]
                options = cli.parse(verb, arguments)
                for flag in verbs.load(verb).flags:
                    value = getattr(options, flag.name)
                    if (verb, flag.name) in PAIRS and value is not None:
                        assert pairs(flag.name, value, str), (page, command)
                seen.add(verb)
            elif words[:2] == ["pip", "install"]:
                extras = re.findall(r"\[(\w+)\]", words[-1])
                known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
                assert set(extras) <= set(known), (page, command)
            elif words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            elif words[0] == "python" and words[1] != "-m":
                assert (tmp_path / words[1]).is_file(), (page, command)
    assert len(seen) >= 17  # the help of every verb, also of a new one, is on reference/verbs.md


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every file that the pages name, cards of runs.csv and other.csv, and a finished study."""
    made = tmp_path_factory.mktemp("docs")
    place(made)
    for name, card in (("runs", "fit"), ("other", "other")):
        analysis.fit(made / f"{name}.csv").save(made / f"{card}.json")
    pruned(made / "runs" / "pruned")
    build(made / "runs" / "demo")
    analyse(made / "runs" / "demo", laws=("chinchilla",), names=("nonembedding",))
    return made


MINE = {command: page for page, command in reversed(COMMANDS) if page not in OWN_TESTS}
RUN = [(page, command) for command, page in reversed(MINE.items()) if command.startswith("scaling ")]
RUN = [(page, command) for page, command in RUN if not parsed_only(command)]


@pytest.mark.system
@pytest.mark.parametrize(("page", "command"), RUN)
def test_a_command_runs_as_it_stands(page, command, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = cli.main(shlex.split(INTO.sub("", command))[1:])
    said = capsys.readouterr()
    assert code == 0, (page, said)
    for out in INTO.findall(command):
        (folder / out).write_text(said.out)


@pytest.mark.system
@pytest.mark.parametrize("block", [b for b in BLOCKS if b.kind == "python"], ids=lambda b: b.page)
def test_a_block_of_python_runs_as_it_stands(block: Block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(compile(block.text, block.page, "exec"), names)
    assert len(names) > 1


# --- links and figures


def test_links_lead_somewhere():
    """Each relative link to a file that exists, each anchor to a heading of it, as GitHub and mkdocs write anchors."""
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "scaling" / "families" / "README.md"]:
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
            path = (page.parent / link) if link else page
            assert path.exists(), (page, link)
            if anchor:
                headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in slugs, (page, link, anchor)


README = " ".join((ROOT / "README.md").read_text().split())


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_the_figures_of_the_demo_are_those_of_its_picture():
    found = json.loads((ROOT / "experiments" / "figures" / "demo.json").read_text())
    errors = [f"{row[-1]:.1f}" for row in sorted(found["rows"], key=lambda row: row[-1])]
    a, floor = found["intervals"]["a"], found["intervals"]["E"]
    inside = [row[2] <= row[4] <= row[3] for row in found["rows"]]
    for words in (
        f"fitted to {found['runs']} runs of",
        f"missed by {', '.join(errors[:-1])} and {errors[-1]} %",
        f"at {min(found['compute_ratios']):.1f} to {max(found['compute_ratios']):.1f} times the largest fitted compute",
        f"C^{a[0]:.2f} ({a[1]:.2f} to {a[2]:.2f})",
        f"floor is {floor[0]:.2f} nats per byte ({floor[1]:.2f} to {floor[2]:.2f})",
    ):
        assert words in README, words
    known = found["known"]
    floor, entropy = known["floor"], known["entropy"]
    words = f"at {floor[0]:.3f} nats ({floor[1]:.3f} to {floor[2]:.3f}), where {entropy:.3f} is exact"
    assert words in " ".join((ROOT / "docs" / "tutorials" / "tonight.md").read_text().split())
    assert "all three are inside" in README and len(inside) == 3 and all(inside) and found["law"] == "chinchilla"


def test_the_table_says_how_much_there_is():
    from analysis.table import importers

    assert len(analysis.laws.REGISTRY) > 30 and "more than 30 forms" in README
    assert f"[{len(importers.importers())} kinds]" in README


def test_the_studies_of_the_systems_exist():
    """A table is no block that is run; each study that it names can be made."""
    page = (ROOT / "docs" / "concepts" / "systems.md").read_text()
    named = re.findall(r"`scaling run --config=(\w+):?(\w*)`", page)
    assert len(set(named)) > 10
    for name, argument in set(named):
        assert importlib.import_module(f"experiments.{name}").get_config(argument).cells


# --- the site


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return hooks


def test_a_link_of_the_site_leads_into_it(hooks):
    """Each page and each target is in the site, or the build stops."""
    for page in PAGES:
        source = str(page.relative_to(ROOT))
        for link in hooks.LINK.findall(page.read_text()):
            assert hooks.target(link, source, hooks.ELSEWHERE.get(source, source.removeprefix("docs/")))


def test_the_verbs_of_the_site_are_those_of_the_program(hooks):
    text = hooks.verbs()
    for name in verbs.names():
        assert cli.usage(name) in text
    assert set(analysis.laws.REGISTRY) == set(re.findall(r"^\| `([\w]+)` \|", hooks.laws(), re.MULTILINE))


@pytest.mark.system
def test_the_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--config-file={ROOT / 'mkdocs.yml'}"]
    done = subprocess.run([*command, f"--site-dir={tmp_path}"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING -" not in done.stderr  # of mkdocs; the theme's own note on its successor is none
    home = (tmp_path / "index.html").read_text()
    assert "demo.png" in home and (tmp_path / "demo.png").exists()
    api = (tmp_path / "reference" / "python" / "index.html").read_text()
    assert "likelihood-t" in api and "NOT_IDENTIFIED" in api  # options and errors, from the docstrings
    assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!github\.com|squidfunk\.github\.io)', home)  # no request
