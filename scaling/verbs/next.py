"""next: the cells that shrink a target most per FLOP, as a table and as a configuration that `run` takes."""

from __future__ import annotations

import pprint
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.flags import Flag
from scaling.records import read_json, write_atomic, write_json
from scaling.verbs._declare import JSON, LEVEL, Verb
from scaling.verbs.show import card_name, print_json, study_of, table

BLOCK = ("dataset", "role", "seed", "model", "recipe")


def next_cells(options: SimpleNamespace) -> int:
    """The next cells of a study or of a table's fit."""
    from analysis.decide.next_cells import next_cells as propose
    from analysis.fitting import load_fit

    card, workdir = _card(options)
    if options.target is None or options.budget is None:
        name = "target" if options.target is None else "budget"
        raise UserError(name, "nothing", "give --target=log_N_opt@FLOPS (or a, E, loss@FLOPS) and --budget=FLOPS")
    if options.out and Path(options.out).suffix not in (".py", ".json"):
        raise UserError("out", options.out, "give NAME.py for a configuration that `run` takes, or NAME.json")
    if options.out and Path(options.out).suffix == ".py" and workdir is None:
        raise UserError("out", options.out, "a table has no study to go on with; give NAME.json")
    fitted = load_fit(card)
    more = {} if options.drift is None else {"drift": options.drift}
    found = propose(
        fitted, target=options.target, budget=options.budget, workdir=workdir, level=options.level,
        seeds=numbers("seeds", options.seeds, int), ratios=_ratios(options.ratios), share=options.share, **more,
    )  # fmt: skip
    found["workdir"] = str(workdir) if workdir else None
    if options.out:
        path = Path(options.out)
        if path.suffix == ".json":
            write_json(path, found)
        else:
            assert workdir is not None
            write_atomic(path, configuration(workdir, found))
    if options.json:
        print_json(found)
        return 0
    print("\n".join(_lines(found)))
    if options.out:
        print(f"written: {options.out}")
        if Path(options.out).suffix == ".py":
            print(f"train them: scaling run --config={shlex.quote(options.out)} --workdir={shlex.quote(str(workdir))}")
    return 0


def numbers(field: str, text: str | None, kind: type) -> tuple[Any, ...]:
    """``1,2,3`` as numbers."""
    try:
        return tuple(kind(item) for item in filter(None, (text or "").split(",")))
    except ValueError:
        raise UserError(field, text, "must be numbers with commas between") from None


def _ratios(text: str | None) -> tuple[float, float] | None:
    found = numbers("ratios", text, float)
    if found and len(found) != 2:
        raise UserError("ratios", text, "must be the smallest and the largest tokens per parameter, such as 2,400")
    return (found[0], found[1]) if found else None


def _card(options: SimpleNamespace) -> tuple[Path, Path | None]:
    """The fit card, and the work directory it is of (the one given, or the one in whose fits/ the card lies)."""
    path = options.path
    if not path.is_dir():
        return path, study_of(path)
    try:
        datasets = list(read_json(path / "study.json")["datasets"])
    except (FileNotFoundError, KeyError):
        raise UserError("workdir", path, "holds no study.json; plan and run a study there first") from None
    dataset = options.dataset or datasets[0]
    if dataset not in datasets:
        raise UserError("dataset", dataset, f"is not in this study; it has {', '.join(datasets)}")
    card = path / "fits" / card_name(dataset, options.law, "nonembedding")
    if not card.exists():
        raise UserError("fit", card, f"there is no such card; make it with `scaling fit {path}`")
    return card, path


def _lines(found: dict[str, Any]) -> list[str]:
    width, level = found["half_width"], found["level"]
    columns: dict[str, Callable[[dict[str, Any]], object]] = {
        "N": lambda row: f"{row['N']:,.0f}",
        "D": lambda row: f"{row['D']:,.0f}",
        "D/N": lambda row: f"{row['tokens_per_parameter']:.3g}",
        "FLOPs": lambda row: f"{row['C']:.3e}",
        "price": lambda row: f"{row['price']:.3e}",
        "± after": lambda row: f"{row['half_width_after']:.3g}",
    }
    if found["cells"] and "size" in found["cells"][0]:
        own: dict[str, Callable[[dict[str, Any]], object]] = {
            "size": lambda row: row["size"],
            "seed": lambda row: row["seed"],
            "stem": lambda row: "new" if row["new_stem"] else "existing",
        }
        columns = {**own, **columns}
    least, bounds = found["top_decade"], found["tokens_per_parameter"]
    return [
        f"{found['target']} under {found['law']}: {level:.0%} half-width {width['before']:.3g} now, "
        f"{width['after']:.3g} expected after {len(found['cells'])} cells for {found['spent']:.3g} of "
        f"{found['budget']:.3g} FLOPs",
        *table(found["cells"], columns),
        f"{least['share']:.0%} of the spend in the top decade (from {least['from']:.2g} FLOPs; "
        f"at least {least['least']:.0%}); D/N within {bounds[0]:.3g} to {bounds[1]:.3g}",
        f"{found['method']}; price: {found['price']}; noise {found['noise']['run']:.2%} a run, "
        f"{found['noise']['stem']:.2%} a stem, {found['noise']['drift_per_e_fold']:.2%} per e-fold from the target",
        *(f"warning {w['name']}: {w['message']}" for w in found["warnings"]),
    ]  # fmt: skip


def configuration(workdir: Path, found: dict[str, Any]) -> str:
    """Python text of an experiment file: every cell of the study as it was planned, and the new ones.

    Old cells keep their identity, so that `run` trains the new ones only, and the study's file still lists all.
    """
    study = read_json(workdir / "study.json")
    cells = [_cell(s["manifest"]) for p in study["programs"] for s in p["runs"] if s["kind"] != "stem"]
    fitted = [c for c in cells if c["dataset"] == found["dataset"] and c["role"] in ("fit", "seed")]
    usual, main = fitted[0], min(c["seed"] for c in fitted)
    if any((c["model"], c["recipe"]) != (usual["model"], usual["recipe"]) for c in fitted):
        raise UserError(
            "workdir", workdir,
            "its cells have several models or recipes, or the family's ladder has changed since; take --out=NAME.json",
        )  # fmt: skip
    new = [
        {**usual, "size": cell["size"], "tokens": int(cell["D"]), "seed": cell["seed"],
         "role": "fit" if cell["seed"] == main else "seed"}
        for cell in found["cells"]
    ]  # fmt: skip
    manifest = study["programs"][0]["runs"][0]["manifest"]
    repeats = any(s["manifest"]["tokens"]["epochs"] > 1 for p in study["programs"] for s in p["runs"])
    fields = {"family": manifest["family"], "repeats": repeats, **study["options"]}
    lines = [
        f'"""The study {study["name"]} with {len(new)} cells more, for {found["target"]}.',
        "",
        f"Made by `scaling next`; expected half-width {found['half_width']['before']:.3g} -> "
        f"{found['half_width']['after']:.3g} for {found['spent']:.3g} FLOPs. Old cells are not trained again.",
        '"""',
        "",
        "from scaling import study",
        "",
        "",
        'def get_config(argument=""):',
        f"    config = study.base({study['name']!r})",
        f"    config.update({_literal(fields)})",
        *(f"    config.data[{name!r}] = {_literal(source)}" for name, source in study["datasets"].items()),
    ]
    for name, group in (("planned", cells), ("next", new)):
        for index, block in enumerate(_blocks(group)):
            lines.append(f"    config.cells[{f'{name}_{index}'!r}] = study.block(**{_literal(block)})")
    return "\n".join([*lines, "    return config", ""])


def _cell(manifest: dict[str, Any]) -> dict[str, Any]:
    from scaling import families
    from scaling import recipe as recipes

    grown = families.load(manifest["family"]).ladder(manifest["size"])
    model = {k: v for k, v in manifest["config"].items() if k not in grown or grown[k] != v}
    recipe = {k: v for k, v in manifest["recipe"].items() if k != "decay_steps"}
    recipe = {k: v for k, v in recipe.items() if k not in recipes.decided(recipes.Recipe(**recipe))}
    tokens = manifest["tokens"]["D"]
    seen = {k: manifest[k] for k in ("dataset", "role", "seed", "size")}
    return {**seen, "tokens": tokens, "model": model, "recipe": recipe}


def _blocks(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Cells that share all but size and D, as blocks of pairs."""
    groups: dict[str, dict[str, Any]] = {}
    for cell in cells:
        key = repr([cell[k] for k in BLOCK])
        block = groups.setdefault(
            key,
            {"kind": "pairs", "dataset": cell["dataset"], "sizes": (), "tokens": (), "seeds": (cell["seed"],),
             "role": cell["role"], "model": cell["model"], "recipe": cell["recipe"]},
        )  # fmt: skip
        block["sizes"] += (cell["size"],)
        block["tokens"] += (cell["tokens"],)
    return list(groups.values())


def _literal(value: Any) -> str:
    """Python text, indented as the body of a function is."""
    return pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n    ")


VERB = Verb(
    summary="choose the next cells to train: those that narrow the interval of a target most per FLOP",
    positional=("FIT.json|WORKDIR",),
    flags=(
        Flag("target", str, "what to know better: log_N_opt@FLOPS, loss@FLOPS, a, E, alpha or another parameter"),
        Flag("budget", float, "FLOPs that may be spent"),
        Flag("out", str, "write NAME.py, an experiment file with the study and the new cells, or NAME.json"),
        Flag("seeds", str, "seeds that may be trained besides those of the study, such as '1,2'"),
        Flag("ratios", str, "smallest and largest D/N, such as '2,400' (default: those of the fitted runs)"),
        Flag("share", float, "spend at least this share in the top decade of compute", 0.3),
        Flag("drift", float, "assumed model error, sd of log loss per e-fold of compute (default: the card's)"),
        Flag("dataset", str, "data set of a study (default: its first)"),
        Flag("law", str, "which card of a study", "chinchilla"),
        LEVEL,
        JSON,
    ),
    example="scaling next fit.json --target=log_N_opt@1e18 --budget=1e17",
    call=next_cells,
)
