"""fit: laws fitted to the runs of a study or of a table, and their cards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from scaling.errors import UserError
from scaling.records import write_json
from scaling.verbs.show import card_name, interval, pairs, print_json, safe, table

STANDARD = ("product", "product_floor", "chinchilla", "kaplan")
CONVENTIONS = ("nonembedding", "total")


def fit(options: SimpleNamespace) -> int:
    """Fits laws and writes their cards."""
    from analysis.laws import get
    from analysis.table import runs as tables

    path, study = options.path, options.path.is_dir()
    wanted = options.law or ("all" if study else "chinchilla")
    named = pairs("columns", options.columns, str)
    several = STANDARD if wanted == "all" else tuple(re.split(r",(?![^\[]*\])", wanted))  # ties may have commas
    if len(several) == 1 and "x" in named and get(wanted).columns == ("x",):
        several = (f"{wanted}:{named.pop('x')}",)  # a law of x in a column of the table goes by that column's name
    laws = tuple(dict.fromkeys(get(name).name for name in several))
    conventions = (options.n,) if options.n else CONVENTIONS if study and wanted == "all" else ("nonembedding",)
    datasets: Iterable[str | None] = (options.dataset,)
    if study and options.dataset is None and wanted == "all":
        datasets = tables.datasets(path)
    batch = _Fits(options, named, many=len(laws) > 1 or len(conventions) > 1)
    for dataset in datasets:
        every = study and wanted == "all" and options.term is None
        for term in (tables.terms(path, dataset) if every else ()) or (options.term,):
            for n in conventions:
                batch.fit(dataset, n, laws, term)
    cards, written, approaches, skipped = batch.cards, batch.written, batch.approaches, batch.skipped
    many = batch.many
    if not cards:
        raise skipped[0]
    if options.json:
        whole = {"schema": 1, "kind": "fits", "fits": cards, "approaches": approaches, "files": written,
                 "ranks": batch.ranks, "skipped": [str(error) for error in skipped]}  # fmt: skip
        print_json(whole if many else cards[0])
        return 0
    if many:
        print("\n".join(table(cards, FIT_COLUMNS)))
        print("* not identified at this scale; the cards hold every number, warning and verdict")
        if batch.ranks:
            print("\n".join(["", *table(batch.ranks, RANK_COLUMNS)]))
            print("rolling: fitted to the cheaper runs and scored on the dearer, of log loss; left out: each in turn")
    else:
        print("\n".join(_card_lines(cards[0])))
    for result in approaches:
        what = f"N {_counted(result['conventions'])}{_of(result['conventions'].get('term'))}"
        print(f"approaches 1, 2, 3 on {result['data']['dataset'] or path} ({what}): {result['verdict']}")
    for error in skipped:
        print(f"not fitted: {error}")
    if written:
        print(f"written: {written[0]}" + (f" and {len(written) - 1} more" if len(written) > 1 else ""))
    if batch.fresh:
        print(f"up to date: {batch.fresh} of {len(cards)} cards are of these runs already")
    return 0


def _short(card: dict[str, Any], name: str) -> str:
    from analysis.check.diagnose import missing

    cell = card["params"].get(name) or card["derived"].get(name)
    if not cell or cell.get("value") is None:
        return "-"
    return interval(cell, 3) + ("*" if name in missing(card["warnings"]) else "")


def _refuted(card: dict[str, Any]) -> str:
    p = ((card["noise"].get("lack_of_fit") or {}).get("p")) if card["noise"] else None
    named = any(w["name"] == "refuted" for w in card["warnings"])
    return "-" if p is None else f"{'yes' if named else 'no'} (p {p:.2g})"


FIT_COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "data": lambda card: card["data"]["dataset"] or card["data"]["source"],
    "loss": lambda card: card["conventions"].get("term", "-"),
    "law": lambda card: card["law"],
    "N": lambda card: card["conventions"].get("n", "-"),
    "runs": lambda card: card["data"]["rows"],
    "residual": lambda card: f"{card['objective']['rms_log_residual']:.2%}",
    "refuted by seed noise": _refuted,
    "floor E": lambda card: _short(card, "E"),
    "a (N_opt ~ C^a)": lambda card: _short(card, "a"),
}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


RANK_COLUMNS: dict[str, Callable[[dict[str, Any]], object]] = {
    "law": lambda row: row["law"],
    "parameters": lambda row: row["parameters"],
    "AICc above the best": lambda row: "-" if row["delta_aicc"] is None else f"{row['delta_aicc']:.1f}",
    "rolling error": lambda row: _share(row["rolling_rms"]),
    "rolling CRPS": lambda row: _share(row["rolling_crps"]),
    "left out": lambda row: _share(row["loo_rms"]),
}


class _Fits:
    """Fits, cards and files of one call. Where several fits were asked for, one that cannot be made is skipped.

    Attributes:
      cards, written, approaches, skipped: what came of it so far.
      ranks: laws on one table compared (``analysis.fitting.rank``).
      fresh: cards that were there already, of the same runs and request.
    """

    def __init__(self, options: SimpleNamespace, columns: dict[str, str], *, many: bool):
        self.options, self.many = options, many
        self.cards: list[dict[str, Any]] = []
        self.written: list[str] = []
        self.approaches: list[dict[str, Any]] = []
        self.ranks: list[dict[str, Any]] = []
        self.skipped: list[UserError] = []
        self.fresh = 0
        self._card = Path(options.out) if options.out and not many else None
        self._folder = Path(options.out) if options.out else options.path / "fits" if options.path.is_dir() else None
        self._asked = {
            "objective": options.objective,
            "level": options.level,
            "fixed": pairs("fixed", options.fixed, float),
            "priors": pairs("prior", options.prior, _normal, "MEAN:SD"),
            "scheme": options.scheme,
            "discrepancy": options.discrepancy,
            "weights": options.weights,
            "seed": options.seed,
        }
        self._columns = columns
        if self._columns and options.path.is_dir():
            raise UserError("columns", options.columns, "is for tables; the columns of a study have their names")

    def fit(self, dataset: str | None, n: str, names: Sequence[str], term: str | None = None) -> None:
        """Fits the laws to one loss term on one data set under one convention, and compares the three approaches."""
        from analysis.check.approaches import compare_approaches
        from analysis.fitting import fit as fit_law
        from analysis.fitting import rank
        from analysis.table import runs as tables

        options, made, chinchilla, fresh = self.options, {}, None, 0
        try:
            more: dict[str, Any] = {"columns": self._columns} if self._columns else {}
            if len(names) == 1:
                more["law"] = names[0]
            if options.warmup is not None:
                more["warmup"] = options.warmup
            found = tables.load(options.path, where=options.where, dataset=dataset, n=n, term=term, **more)
        except UserError as error:
            return self._skip(error)
        label, folder = found.dataset or options.path.stem, self._folder
        if folder and term is not None and term != tables.terms(options.path, found.dataset)[0]:
            folder = folder / safe(term)  # beside the headline's cards, of which forecasts and report are made
        for law in names:
            target = self._card or (folder and folder / card_name(label, law, n))
            if self.many and target and (known := self._known(target, found, law)):
                self.cards.append(known.card())
                made[law], fresh = known, fresh + 1
                continue
            try:
                fitted = fit_law(found, law, **self._asked)
            except UserError as error:
                count = found.conventions.get("n")  # a table does not say
                about = f"{label}, {law}{'' if count is None else f', N {count}'}{_of(term)}"
                self._skip(UserError(error.field, error.value, f"{error.remedy} ({about})"))
                continue
            made[law] = fitted
            chinchilla = fitted if law == "chinchilla" else chinchilla
            if target:
                fitted.save(target)
                self.written.append(str(target))
            self.cards.append(fitted.card())
        self.fresh += fresh
        if len(made) > 1 and not options.path.is_dir():  # of a study the report says it
            self.ranks += rank(list(made.values()))
        if self.many and chinchilla is not None:
            result = {**compare_approaches(found, chinchilla, level=options.level), "n": found.conventions.get("n")}
            self.approaches.append(result)
            if folder:
                write_json(folder / card_name(label, "approaches", n), result)

    def _known(self, target: Path, found: Any, law: str) -> Any:
        """The fit at ``target`` if it is of these runs and this request, and its draws are intact."""
        from analysis.check.discrepancy import term
        from analysis.engine.estimate import objective
        from analysis.fitting import load_fit

        if not target.exists():
            return None
        try:
            known = load_fit(target)
        except UserError:
            return None  # damaged: fit again
        card = known.card()
        ask, made = self._asked, card["interval"]
        same = (
            card["law"] == law,
            card["data"]["sha256"] == found.sha256,
            card["conventions"] == found.conventions,
            card["objective"]["name"] == objective(ask["objective"]).name,
            made["level"] == ask["level"],
            made.get("asked", "auto") == ask["scheme"],
            card["fixed"] == ask["fixed"],
            {k: tuple(v) for k, v in (card.get("priors") or {}).items()} == ask["priors"],
            (card.get("weights") or {"name": "none"})["name"] == ask["weights"],
            card["seed"] == ask["seed"],
            card.get("discrepancy") == term(law, ask["discrepancy"]),
        )
        return known if all(same) else None

    def _skip(self, error: UserError) -> None:
        if not self.many:
            raise error
        self.skipped.append(error)


def _counted(conventions: dict[str, str]) -> str:
    """What N is: of records the name of its count, of a table the column."""
    return conventions.get("n") or conventions.get("N", "not in it")


def _of(term: str | None) -> str:
    return "" if term is None else f", {term}"


def _normal(text: str) -> tuple[float, float]:
    mean, sd = map(float, text.split(":"))
    return mean, sd


def _options(card: dict[str, Any]) -> list[str]:
    """What was asked for beyond the default, and the intervals of the other schemes."""
    lines = []
    if card["priors"]:
        each = ", ".join(f"{name} = {mean:g} +- {sd:g}" for name, (mean, sd) in card["priors"].items())
        lines.append(f"  normal priors (mean +- sd): {each}")
    if weights := card.get("weights"):
        lines.append(f"  rows weighted by {weights['name']}: {weights['note']}")
    if error := card.get("evaluation"):
        lines.append(f"  standard error {error['se']:.2g} {error['note']}")
    if schemes := card.get("schemes"):
        names = list(next(iter(schemes.values()))["intervals"])
        columns: dict[str, Callable[[dict[str, Any]], object]] = {"scheme": lambda row: row["scheme"]}
        columns |= {name: (lambda row, name=name: interval(row["intervals"].get(name), 3)) for name in names}
        chosen = card["interval"]["scheme"]
        rows = [{"scheme": f"{k}{' (chosen)' if k == chosen else ''}", **v} for k, v in schemes.items()]
        lines += ["  every scheme on this fit; its point is the estimate that goes with it"]
        lines += [f"    {line}" for line in table(rows, columns)]
        lines += [f"    {k}: {v['reason']}" for k, v in schemes.items()]
    return lines


def _card_lines(card: dict[str, Any]) -> list[str]:
    """A fit card for people."""
    data, scheme = card["data"], card["interval"]
    title = f"{data['dataset'] or data['source']}: {card['law']}  {card['formula']}"
    counted = f"; N is {card['conventions']['N']}" if "N" in card["conventions"] else ""
    kind = "logged steps" if "learning_rate" in card["conventions"] else "runs"
    lines = [title, f"  {data['rows']} {kind}{counted}"]
    for name, cell in card["params"].items():
        lines.append(f"  {name:8} {interval(cell)}  {cell.get('unit') or ''}".rstrip())
    for name, what in (("a", "N"), ("b", "D")):
        if card["derived"].get(name):
            lines.append(f"  {name:8} {interval(card['derived'][name])}  exponent of C in the optimal {what}")
    for budget, cell in (card["derived"].get("tokens_per_parameter") or {}).items():
        lines.append(f"  D/N at {budget} FLOPs, if the law holds: {interval(cell, 3)}")
    residual = card["objective"].get("rms_log_residual")
    quality = "" if residual is None else f", residual {residual:.2%}"
    how = f"{scheme['level']:.0%} intervals by {scheme['scheme']}, objective {card['objective']['name']}"
    lines.append(f"  {how}{quality}")
    lines += _options(card)
    wrong = card.get("discrepancy")
    if wrong and wrong["k"] > 0:
        lines.append(f"  discrepancy: {wrong['k']:.2%} of the loss per e-fold beyond these runs, {wrong['source']}")
    optima, share = card["optima"], card["optima"][0]["share_of_starts"]
    found = f"{len(optima)} {'optimum' if len(optima) == 1 else 'optima'} within 1 % of the best objective"
    lines.append(f"  {found}, the best reached by {share:.0%} of the starts; {len(data['dropped'])} rows dropped")
    lines += [f"    dropped {row['row']}: {row['reason']}" for row in data["dropped"][:5]]
    lines += [f"  warning {entry['name']}: {entry['message']}" for entry in card["warnings"]]
    known = card.get("published") or []
    if len(known) > 3:
        lines.append(f"  published fits of this form: {', '.join(entry['name'] for entry in known)} (see the card)")
    else:
        lines += [f"  published {entry['name']} ({entry['source']}): {entry['verdict']}" for entry in known]
    return [*lines, f"  {card['verdict']}"]
