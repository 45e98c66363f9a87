"""next: proposes the cells that narrow a target's interval most per FLOP, as a table and as a file for `run`."""

from __future__ import annotations

import pprint
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from scaling.errors import Code, UserError, choose
from scaling.flags import Flag
from scaling.records import Manifest, read_study, write_atomic, write_json
from scaling.records.typed import plain
from scaling.verbs._declare import JSON, LEVEL, Verb, law_names
from scaling.verbs._study import declared
from scaling.verbs.show import card_name, law_name, print_json, study_of, table

if TYPE_CHECKING:
    from analysis.decide.next_cells import NextCell, Proposal


def next_cells(options: SimpleNamespace) -> int:
    """Proposes the next cells for a study, or for the fit of a table."""
    from analysis.decide.next_cells import Safeguards
    from analysis.decide.next_cells import next_cells as propose
    from analysis.fitting import load_fit

    card, workdir = _card(options)
    _check(options, workdir)
    proposal = propose(
        load_fit(card),
        target=options.target,
        budget=options.budget,
        workdir=workdir,
        seeds=numbers("seeds", options.seeds, int),
        safeguards=Safeguards(ratios=_ratios(options.ratios), share=options.share, drift=options.drift),
        level=options.level,
    )
    if options.out:
        path = Path(options.out)
        if path.suffix == ".json":
            write_json(path, proposal)
        else:
            assert workdir is not None
            write_atomic(path, configuration(workdir, proposal))
    if options.json:
        print_json(proposal)
        return 0
    print("\n".join(_lines(proposal)))
    if options.out:
        print(f"written: {options.out}")
        if Path(options.out).suffix == ".py":
            print(f"train them: scaling run --config={shlex.quote(options.out)} --workdir={shlex.quote(str(workdir))}")
    return 0


def _check(options: SimpleNamespace, workdir: Path | None) -> None:
    """UserError if target or budget is missing, or ``--out`` is not a file that can be written."""
    for name in ("target", "budget"):
        if getattr(options, name) is None:
            remedy = "give --target=log_N_opt@FLOPS (or a, E, loss@FLOPS) and --budget=FLOPS"
            raise UserError(name, "nothing", remedy, Code.MISSING)
    suffix = Path(options.out).suffix if options.out else ".json"
    if suffix not in (".py", ".json"):
        raise UserError("out", options.out, "give NAME.py for a configuration that `run` takes, or NAME.json")
    if suffix == ".py" and workdir is None:
        raise UserError(
            "out",
            options.out,
            "a table has no study to continue; give NAME.json",
            Code.UNSUPPORTED,
        )


def numbers(field: str, text: str | None, kind: type) -> tuple[Any, ...]:
    """The numbers of a list such as ``1,2,3``.

    Raises:
      UserError: an item is not a number (INVALID).
    """
    try:
        return tuple(kind(item) for item in filter(None, (text or "").split(",")))
    except ValueError:
        raise UserError(field, text, "must be numbers separated by commas") from None


def _ratios(text: str | None) -> tuple[float, float] | None:
    bounds = numbers("ratios", text, float)
    if bounds and len(bounds) != 2:
        raise UserError("ratios", text, "must be the smallest and the largest tokens per parameter, such as 2,400")
    return (bounds[0], bounds[1]) if bounds else None


def _card(options: SimpleNamespace) -> tuple[Path, Path | None]:
    """The fit card and its work directory: the given one, or the one whose fits/ contains the card."""
    path = options.path
    if not path.is_dir():
        return path, study_of(path)
    datasets = declared(path)
    dataset = options.dataset or datasets[0]
    if dataset not in datasets:
        raise UserError("dataset", dataset, f"is not in this study; {choose(dataset, datasets)}", Code.UNKNOWN)
    card = path / "fits" / card_name(dataset, law_name(options.law), "nonembedding")
    if not card.exists():
        raise UserError("fit", card, f"there is no such card; make it with `scaling fit {path}`", Code.MISSING)
    return card, path


# --- the table

COLUMNS: dict[str, Callable[[NextCell], object]] = {
    "N": lambda row: f"{row.N:,.0f}",
    "D": lambda row: f"{row.D:,.0f}",
    "D/N": lambda row: f"{row.tokens_per_parameter:.3g}",
    "FLOPs": lambda row: f"{row.C:.3e}",
    "price": lambda row: f"{row.price:.3e}",
    "± after": lambda row: f"{row.half_width_after:.3g}",
}
STUDY_COLUMNS: dict[str, Callable[[NextCell], object]] = {
    "size": lambda row: row.size,
    "seed": lambda row: row.seed,
    "stem": lambda row: "new" if row.new_stem else "existing",
}
PRICES = {"stems": "each stem once; a branch of an existing stem costs only its own steps", "whole_runs": "whole runs"}


def _lines(proposal: Proposal) -> list[str]:
    from analysis.show.answers import sentence

    width, top, bounds, noise = proposal.half_width, proposal.top_decade, proposal.tokens_per_parameter, proposal.noise
    of_study = bool(proposal.cells) and proposal.cells[0].size is not None
    columns = {**STUDY_COLUMNS, **COLUMNS} if of_study else COLUMNS
    return [
        f"{proposal.target} under {proposal.law}: {proposal.level:.0%} half-width {width.before:.3g} now, "
        f"{width.after:.3g} expected after {len(proposal.cells)} cells "
        f"for {proposal.spent:.3g} of {proposal.budget:.3g} FLOPs",
        *table(proposal.cells, columns),
        f"{top.share:.0%} of the spend in the top decade (from {top.start:.2g} FLOPs; at least {top.least:.0%}); D/N "
        f"within {bounds[0]:.3g} to {bounds[1]:.3g}",
        f"linearised, mean over {proposal.parameter_sets} parameter sets of the fit; chosen from {proposal.candidates} "
        f"cells; price: {PRICES[proposal.price]}; noise {noise.run:.2%} a run, {noise.stem:.2%} a stem, "
        f"{noise.drift:.2%} per e-fold from the target",
        *(f"warning {w.code}: {sentence(w)}" for w in proposal.warnings),
    ]


# --- the configuration


@dataclass(frozen=True)
class _Cell:
    """A cell as an experiment file states it: recipe and model only where they differ from the defaults."""

    dataset: str
    role: str
    seed: int
    size: int
    tokens: int
    model: dict[str, object]
    recipe: dict[str, object]


def configuration(workdir: Path, proposal: Proposal) -> str:
    """Python source of an experiment file with every planned cell of the study and the new cells.

    Old cells keep their identity, so `run` trains only the new ones, and study.json still lists all of them.

    Raises:
      UserError: the cells differ in family, model or recipe, so it is unclear what a new cell should have; or some
        start from other runs or are frozen in part.
    """
    study = read_study(workdir)
    specs = [spec for program in study.programs for spec in program.runs]
    several = len({spec.manifest.family for spec in specs}) > 1
    if several or any(spec.manifest.parents or spec.manifest.frozen for spec in specs):
        remedy = "some of its runs start from others, are frozen in part, or differ in family; give --out=NAME.json"
        raise UserError("workdir", workdir, remedy, Code.UNSUPPORTED)
    cells = [_cell(spec.manifest) for spec in specs if spec.kind != "stem"]
    new = _new(workdir, cells, proposal)
    fields = {
        "family": specs[0].manifest.family,
        "repeats": any(spec.manifest.tokens.epochs > 1 for spec in specs),
        **plain(study.options),
    }
    width = proposal.half_width
    lines = [
        f'"""The study {study.name} with {len(new)} more cells, for {proposal.target}.',
        "",
        f"Made by `scaling next`; expected half-width {width.before:.3g} -> {width.after:.3g} for {proposal.spent:.3g} "
        "FLOPs. Old cells are not trained again.",
        '"""',
        "",
        "from scaling import study",
        "",
        "",
        'def get_config(argument=""):',
        f"    config = study.base({study.name!r})",
        f"    config.update({_literal(fields)})",
        *(f"    config.data[{name!r}] = {_literal(source)}" for name, source in study.datasets.items()),
    ]
    for name, group in (("planned", cells), ("next", new)):
        for index, block in enumerate(_blocks(group)):
            lines.append(f"    config.cells[{f'{name}_{index}'!r}] = study.block(**{_literal(block)})")
    return "\n".join([*lines, "    return config", ""])


def _new(workdir: Path, cells: Iterable[_Cell], proposal: Proposal) -> list[_Cell]:
    fitted = [cell for cell in cells if cell.dataset == proposal.dataset and cell.role in ("fit", "seed")]
    usual, main = fitted[0], min(cell.seed for cell in fitted)
    if any((cell.model, cell.recipe) != (usual.model, usual.recipe) for cell in fitted):
        remedy = "its cells differ in model or recipe, or the family's ladder has changed since; give --out=NAME.json"
        raise UserError("workdir", workdir, remedy, Code.UNSUPPORTED)
    return [
        replace(
            usual,
            size=cell.size,
            tokens=int(cell.D),
            seed=cell.seed,
            role="fit" if cell.seed == main else "seed",
        )
        for cell in proposal.cells
    ]


def _cell(manifest: Manifest) -> _Cell:
    from scaling import families
    from scaling import recipe as recipes

    grown = families.load(manifest.family).ladder(manifest.size)
    model = {k: v for k, v in manifest.config.items() if k not in grown or grown[k] != v}
    recipe = {k: v for k, v in manifest.recipe.items() if k != "decay_steps"}
    recipe = {k: v for k, v in recipe.items() if k not in recipes.decided(recipes.Recipe(**recipe))}
    m = manifest
    return _Cell(m.dataset, m.role, m.seed, m.size, m.tokens.D, model, recipe)


def _blocks(cells: Iterable[_Cell]) -> list[dict[str, Any]]:
    """Keyword arguments of one ``pairs`` block for each group of cells that differ only in size and D."""
    groups: dict[str, list[_Cell]] = {}
    for cell in cells:
        groups.setdefault(repr((cell.dataset, cell.role, cell.seed, cell.model, cell.recipe)), []).append(cell)
    return [
        {
            "kind": "pairs",
            "dataset": own[0].dataset,
            "sizes": tuple(cell.size for cell in own),
            "tokens": tuple(cell.tokens for cell in own),
            "seeds": (own[0].seed,),
            "role": own[0].role,
            "model": own[0].model,
            "recipe": own[0].recipe,
        }
        for own in groups.values()
    ]


def _literal(value: Any) -> str:
    """Python source of a value, indented for the body of a function."""
    return pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n    ")


VERB = Verb(
    summary="choose the cells to train next: those that most narrow a target's interval, per FLOP",
    positional=("FIT.json|WORKDIR",),
    flags=(
        Flag("target", str, "what to estimate better: log_N_opt@FLOPS, loss@FLOPS, a, E, alpha or another parameter"),
        Flag("budget", float, "FLOPs that may be spent"),
        Flag("out", str, "write NAME.py, an experiment file with the study and the new cells, or NAME.json"),
        Flag("seeds", str, "seeds to allow in addition to those of the study, such as '1,2'"),
        Flag("ratios", str, "smallest and largest D/N, such as '2,400' (default: those of the fitted runs)"),
        Flag("share", float, "spend at least this share of the FLOPs in the top decade of compute", 0.3),
        Flag("drift", float, "assumed model error: sd of log loss per e-fold of compute (default: that of the card)"),
        Flag("dataset", str, "data set of a study (default: the first)"),
        Flag("law", str, "use the card of this law in a study (default: the default law)", offers=law_names),
        LEVEL,
        JSON,
    ),
    example="scaling next fit.json --target=log_N_opt@1e18 --budget=1e17",
    call=next_cells,
)
