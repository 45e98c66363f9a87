"""The figure and the numbers of README, from a finished demo: `python experiments/figures/demo.py runs/demo`.

Writes demo.png and demo.json beside this file, or into a folder that is given as the second argument. The JSON holds
the intervals of the best law as the report shows them, its forecasts of the held-out runs, their outcomes, and the hash
of the seal; tests/test_docs.py holds README to it.
"""

import sys
from pathlib import Path

from analysis.show import plots, workdir_summary
from analysis.show.report.headline import exponents
from scaling.records import write_atomic, write_json

DATASET, KNOWN = "stdlib", "known"


def main(workdir: Path, folder: Path) -> None:
    """Draws the sealed forecasts of the law that described the fitted runs best, and writes its numbers."""
    summary = workdir_summary.collect(workdir)
    (part,) = (part for part in summary.datasets if part.name == DATASET)
    fit, sealed, score = part.best(), summary.prediction, summary.score
    assert fit is not None and sealed is not None and score is not None, "run `scaling report` on it first"
    cells = [cell for entry in sealed.entries for cell in entry.cells]
    figure = plots.outcomes(fit, score.rows, cells, words=True)
    write_atomic(folder / "demo.png", plots.render(figure, "png"))
    own = [row for row in score.rows if (row.forecaster.law, row.forecaster.n) == (fit.law.name, fit.conventions.n)]
    numbers = {
        "law": fit.law.name,
        "runs": len(fit.columns["loss"]),
        "intervals": {name: [cell.value, cell.lo, cell.hi] for name, cell in exponents(part, fit).items()},
        "sealed": sealed.entries[-1].sha256,
        "rows": [[row.run, row.value, *row.interval95, row.outcome, row.error_percent] for row in own],
        "compute_ratios": [cell.compute_ratio for entry in sealed.entries for cell in entry.cells],
    }
    (known,) = (part for part in summary.datasets if part.name == KNOWN)
    best = known.best()
    assert best is not None and best.law.floor is not None
    floor = best.intervals[best.law.floor]
    numbers["known"] = {"entropy": known.entropy, "law": best.law.name, "floor": [floor.value, floor.lo, floor.hi]}
    write_json(folder / "demo.json", numbers)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
