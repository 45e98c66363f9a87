"""The report of a study of thousands of runs stays a page that a browser opens."""

import handmade
from matplotlib.figure import Figure

from analysis.show.plots import files
from analysis.show.report import page


def test_a_panel_of_many_points_is_a_picture_and_one_of_few_is_not():
    def drawn(points: int) -> bytes:
        figure = Figure()
        ax = figure.subplots()
        for _ in range(points // 10):
            ax.plot(range(10), range(10))
        ax.scatter(range(10), range(10))
        return files.render(figure, "svg")

    few, many, more = drawn(100), drawn(3000), drawn(30000)
    assert b"data:image/png" not in few and b"data:image/png" in many
    assert len(more) < 1.5 * len(many) < 1e6 and many == drawn(3000)


def test_the_page_of_very_many_cells_lists_the_first_and_says_so(tmp_path, monkeypatch):
    """The cells that it leaves out are counted."""
    for index in range(5):
        about = handmade.manifest(f"run{index}", seed=index)
        handmade.write(tmp_path, about, handmade.result(2.0 + index / 8))
    monkeypatch.setattr(page, "ROWS", 3)
    text = page.write(tmp_path, tmp_path / "report.html").read_text()
    assert "The first 3 of 5 runs" in text and "run2</td>" in text and "run3</td>" not in text
