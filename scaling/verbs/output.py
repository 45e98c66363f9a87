"""report, plot and laws."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from scaling.errors import UserError
from scaling.verbs.show import print_json


def report(options: SimpleNamespace) -> int:
    """Writes the report and prints its short form: the law, what it predicts, how the sealed forecasts came out."""
    workdir = _study(options.path)
    from analysis.decide import forecast
    from analysis.show.report import summary, write
    from analysis.table import seal as sealed

    path = write(workdir, Path(options.out) if options.out else None)
    if options.json:
        verdict = forecast.score(workdir)["verdict"] if sealed.read(workdir) else None
        print_json({"schema": 1, "kind": "report", "path": str(path), "forecasts": verdict})
        return 0
    print(summary(workdir))
    return 0


def plot(options: SimpleNamespace) -> int:
    """Writes the figures of a study or of one fit card."""
    from analysis.show.plots import save_all, save_fit

    path = options.path
    out = Path(options.out) if options.out else (path if path.is_dir() else path.parent) / "figures"
    paths = save_all(path, out) if path.is_dir() else save_fit(path, out)
    if options.json:
        print_json({"schema": 1, "kind": "plots", "paths": [str(each) for each in paths]})
        return 0
    print("\n".join(map(str, paths)))
    return 0


def _study(path: Path) -> Path:
    if not path.is_dir():
        raise UserError("workdir", path, "is no directory; give that of a study")
    return path


def laws(options: SimpleNamespace) -> int:
    """The functional forms and the published coefficients, with their sources."""
    from analysis.laws import REGISTRY, published

    if options.json:
        print_json([
            {"name": law.name, "formula": law.formula, "columns": list(law.columns), "source": law.source,
             "no_optimum": law.no_optimum, "response": law.response,
             "published": [entry.as_json() for entry in published.of(law.name)],
             "params": [{"name": p.name, "unit": p.unit, "meaning": p.meaning} for p in law.params]}
            for law in REGISTRY.values()
        ])  # fmt: skip
        return 0
    for law in REGISTRY.values():
        print(f"{law.name:14} {law.formula}\n{'':14} {law.source}")
        for parameter in law.params:
            print(f"{'':16} {parameter.name:8} {parameter.meaning}, {parameter.unit}")
        for entry in published.of(law.name):
            values = ", ".join(f"{name} {value:.4g}" for name, value in entry.params.items())
            print(f"{'':14} {entry.name}: {values}")
            note = f"; {entry.note}" if entry.note else ""
            print(f"{'':16} {entry.source}, arXiv {entry.arxiv}; {entry.where}; {entry.mark}{note}")
    print("a law of x is fitted in any column (power:C); parameters are tied by name (chinchilla[beta=alpha])")
    return 0
