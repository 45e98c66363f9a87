"""What mkdocs builds beside the files of this folder: pages that live elsewhere, and tables made from the code.

A link between pages is written as it works in the repository, and rewritten here for the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# file of the repository -> its place in the site
ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "experiments/LOG.md": "lab-log.md",
    "scaling/families/README.md": "how-to/own-family.md",
    "experiments/figures/demo.png": "demo.png",
}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that live outside docs/."""
    for source, place in ELSEWHERE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites the links of a page, and puts in the tables that are made from the code."""
    place = page.file.src_uri
    source = next((here for here, there in ELSEWHERE.items() if there == place), f"docs/{place}")
    text = LINK.sub(lambda found: f"]({target(found[1], source, place)}", text)
    for name, make in TABLES.items():
        if f"<!-- {name} -->" in text:
            text = text.replace(f"<!-- {name} -->", make())
    return text


def target(link: str, source: str, place: str) -> str:
    """A link of the repository's file ``source`` as the page ``place`` of the site has it.

    Raises:
      PluginError: it leads to a file that is not in the site, or to none.
    """
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if path not in ELSEWHERE and not path.startswith("docs/"):
        raise PluginError(f"{source}: the link to {link} leads to {path}, which is not in the site")
    there = ELSEWHERE.get(path, path.removeprefix("docs/"))
    return posixpath.relpath(there, posixpath.dirname(place) or ".")


def verbs() -> str:
    """The help of every verb, as `scaling VERB --help` prints it, and of the engines' own flags."""
    from scaling import cli
    from scaling import verbs as declared

    parts = [f"```text\n{cli.overview()}\n```"]
    for name in declared.names():
        parts.append(f"## {name}\n\n```text\n{cli.usage(name)}\n```")
    for engine in ("slurm", "kubernetes"):
        parts.append(f"### run --engine={engine}\n\n```text\n{cli.usage('run', engine)}\n```")
    return "\n\n".join(parts)


def laws() -> str:
    """Every law with its formula, the columns that it wants, and its source."""
    from analysis import laws as declared

    rows = ["| law | formula | columns | source |", "|---|---|---|---|"]
    for law in declared.REGISTRY.values():
        columns = ", ".join(f"`{name}`" for name in law.columns)
        rows.append(f"| `{law.name}` | `{law.formula}` | {columns} | {law.source} |")
    return "\n".join(rows)


TABLES = {"verbs": verbs, "laws": laws}
