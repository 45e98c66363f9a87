"""Writes NAME.ipynb of every NAME.py here, executed: ``python notebooks/_execute.py [NAME ...]``.

Needs ``pip install 'scaling-lab[notebooks]'``. What a cell prints to stderr (progress, which no two runs share) is left
out, and so are the names and times that Jupyter gives. The price of a plan stays that of the machine it ran on.
"""

import base64
import io
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent
COLOURS = 96  # of a picture, which takes a third of its bytes away


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook of a script in jupytext's percent format, with its outputs."""
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=1800, kernel_name="python3").execute()
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [smaller(each) for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def smaller(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output whose picture has few colours."""
    if "image/png" in output.get("data", {}):
        picture, buffer = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))), io.BytesIO()
        picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(buffer, "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
    return output


def main(names: list[str]) -> None:
    for path in sorted(HERE.glob("[!_]*.py")):
        if not names or path.stem in names:
            nbformat.write(executed(path), path.with_suffix(".ipynb"))
            print(path.with_suffix(".ipynb").name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
