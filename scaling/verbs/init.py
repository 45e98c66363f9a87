"""init: writes an experiment file for the user's own data, whose plan fits the hours that are given."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from scaling.errors import Code, UserError
from scaling.flags import Flag
from scaling.records.types import JSON as Json
from scaling.records.value import Value
from scaling.settings import require_choice
from scaling.verbs._declare import JSON, Verb
from scaling.verbs.show import count, print_json

if TYPE_CHECKING:
    from analysis.decide.design import ExpectedPrecision
    from scaling.data import Source
    from scaling.plan import Plan
    from scaling.speed import Speed

FAMILY, DATASET = "gpt", "mine"
KINDS = ("auto", "text")
Fields = dict[str, Json]  # of a source
CONTEXT, SHORT, SMALL = 128, 64, 10**7  # tokens of context, and those where the data has fewer tokens than SMALL
RESERVE = 0.85  # share of the hours that the price may take: it is within a fifth on an idle machine
BOUND = 0.4  # share of the hours below which a larger study would have been chosen, were there data for it
# Tokens per parameter of the largest size's largest cell; the first ones as the hours allow, the others in need.
RATIOS, FEWER = (40.0, 28.0, 20.0), (14.0, 10.0, 7.0, 5.0, 3.5, 2.5)
# Sequences, and the steps that the shortest run must have for them: larger batches only where runs are long, and below
# 200 steps the noise of seeds is above 1 % (experiments/demo.py).
BATCHES = ((64, 1000), (32, 1000), (16, 200), (8, 200))
NOTES = {
    "small": "# All D of a size, in tokens, branch from one training run. Small sizes train for longer.",
    "large": "# The larger sizes.",
    "seeds": "# A second seed measures the noise, by which a law can be refuted.",
    "test": "# Predicted first and read afterwards: a larger D, a larger N, and both.",
}


@dataclass(frozen=True)
class Template:
    """A shape of study: ``sizes`` sizes over a factor ``span`` of N, with D of 1, 2, 4 ... up to a multiple.

    Attributes:
      small, large: largest multiple of the smallest D at the smaller half of the sizes, and at the others.
    """

    sizes: int
    span: float
    small: int
    large: int
    seeds: bool = True
    test: bool = True


# The most precise first: expected half-widths of a of .08, .11 and .14; then what identifies nothing, for a look.
TEMPLATES = (Template(6, 64, 16, 8), Template(6, 32, 8, 8), Template(5, 16, 16, 4))
SMALLER = (Template(4, 8, 4, 4), Template(3, 4, 4, 4, seeds=False, test=False))


@dataclass(frozen=True)
class Design:
    """The blocks of a study: sizes of the ladder, the smallest D, and the largest multiples."""

    template: Template
    sizes: tuple[int, ...]
    smallest: int
    batch: int
    context: int

    @property
    def half(self) -> int:
        """Number of sizes that are trained on the longer D."""
        return len(self.sizes) // 2

    def amounts(self, largest: int) -> tuple[int, ...]:
        """The smallest D, doubled up to ``largest`` times itself."""
        return tuple(self.smallest << power for power in range(largest.bit_length()))

    @property
    def longest(self) -> int:
        """The largest D."""
        return max(self.test[1] if self.template.test else (), default=self.amounts(self.template.small)[-1])

    @property
    def test(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Sizes and D of the held-out cells: a larger D, a larger N, and both."""
        top, own = self.sizes[-1], self.smallest
        longer = own * self.template.small * 3 // 2
        return (self.sizes[1], top + 2, top + 1), (longer, own * self.template.large // 2, own * self.template.large)


class Written(Value, kw_only=True):
    """What ``init --json`` prints.

    Attributes:
      unique: training tokens of the data. longest: largest D. seconds: until all is trained on this machine.
      hours_needed: for a study that identifies a; None if this one does, or the data is too small for any.
    """

    out: str
    source: str
    unique: int
    sizes: tuple[int, ...]
    longest: int
    seconds: float
    expected: dict[str, float | None]
    identified: bool
    hours_needed: float | None


def init(options: SimpleNamespace) -> int:
    """Writes the experiment file. Nothing is written unless its plan has been made."""
    from scaling.records.files import publish
    from scaling.records.typed import check_writable

    hours, out = options.hours, Path(options.out)
    if not (math.isfinite(hours) and hours > 0):
        raise UserError("hours", hours, "give the hours that this machine may train, such as 8")
    if out.suffix != ".py" or not out.stem.isidentifier():
        raise UserError("out", out, "give NAME.py, of letters, digits and underscores")
    if os.path.lexists(out):
        raise UserError("out", out, "exists already; give another name", Code.CONFLICT)
    check_writable(out, "out")
    fields, source = _load(options.path, options.vocab, options.kind)
    from scaling.verbs._study import machine_speed

    search = _Search(out.stem, fields, source, machine_speed())
    design, plan = search.within(3600 * hours * RESERVE)
    expected = _precision(plan)
    needed = None if expected.identifies_a else search.hours_needed()
    written = Written(
        out=str(out),
        source=fields["source"],
        unique=source.unique_tokens(design.context),
        sizes=design.sizes,
        longest=design.longest,
        seconds=search.wall(plan),
        expected=expected.half_widths,
        identified=expected.identifies_a,
        hours_needed=needed,
    )
    lines = _lines(hours, written, design, plan, expected)
    if not publish(out, source_text(written, design, fields, lines)):
        raise UserError("out", out, "exists by now; give another name", Code.CONFLICT)
    if options.json:
        print_json(written)
        return 0
    print("\n".join(lines))
    print(f"written: {out}; look at it, then `scaling run --config={shlex.quote(str(out))}`")
    return 0


def _load(path: Path, vocab: int | None, kind: str) -> tuple[Fields, Source]:
    """The source that reads the data, and its configuration."""
    from scaling import data
    from scaling.data._recognise import recognise

    require_choice("kind", kind, KINDS)
    fields: Fields = {**recognise(path)}
    if kind == "text":
        if fields["source"] != "text":
            raise UserError("kind", kind, f"this data is read by the source {fields['source']}", Code.CONFLICT)
        fields["kind"] = kind
    if vocab is not None:
        if fields["source"] != "bin":
            raise UserError("vocab", vocab, f"the source {fields['source']} knows its vocabulary", Code.CONFLICT)
        fields["vocab"] = vocab
    try:
        return fields, data.load(fields)
    except UserError as error:
        if fields["source"] == "text" and error.code is Code.UNSUPPORTED:
            raise UserError("path", error.value, f"{error.remedy} (here: --kind=text)", error.code) from error
        if error.field != "data.dtype" or fields["source"] != "bin":
            raise
        fields["dtype"] = "uint32"  # raw tokens do not say how wide they are; read as half as wide, they are refused
        return fields, data.load(fields)


class _Search:
    """Looks for the largest study of the most precise shape that fits.

    Args:
      name: of the study. fields, source: of its data. speed: of this machine.
    """

    def __init__(self, name: str, fields: Fields, source: Source, speed: Speed):
        from scaling import data, families

        if "vocab" not in data.supplies(source):
            remedy = "holds no text; init writes studies of text (experiments/ has those of pictures)"
            raise UserError("path", fields["path"], remedy, Code.UNSUPPORTED)
        self.name, self.fields, self.source, self.speed = name, fields, source, speed
        context = CONTEXT if source.unique_tokens(CONTEXT) >= SMALL else SHORT
        self.context = min(context, data.supplies(source).get("context", context))
        self.unique = source.unique_tokens(self.context)
        module, counts = families.load(FAMILY), []
        from scaling import count as counted

        for size in range(1000):
            try:
                config = families.configure(module, size, vocab=source.vocab, context=self.context)
            except UserError:
                break
            counts.append(counted.parameters(module.components(config))["nonembedding"])
        self.counts = counts

    def within(self, seconds: float) -> tuple[Design, Plan]:
        """The best study whose training takes at most so long.

        Raises:
          UserError: none fits the data (TOO_FEW), or the hours (INVALID).
        """
        shortest = math.inf
        for template in (*TEMPLATES, *SMALLER):
            for ratios in (RATIOS, *((ratio,) for ratio in FEWER)):
                tried = list(self._tried(template, ratios, seconds))
                shortest = min([shortest, *(wall for wall, _, _ in tried)])
                if fitting := [each for each in tried if each[0] <= seconds]:
                    return max(fitting, key=lambda each: each[0])[1:]
        if math.isinf(shortest):
            batch, steps = BATCHES[-1]
            need = steps * batch * self.context * SMALLER[-1].small
            remedy = f"gives {self.unique:,} training tokens; the smallest study wants about {need:,}"
            raise UserError("path", self.fields["path"], remedy, Code.TOO_FEW)
        remedy = f"the smallest study of this data takes {shortest / 3600 / RESERVE:.2g} hours here"
        raise UserError("hours", f"{seconds / 3600 / RESERVE:g}", remedy)

    def _tried(
        self, template: Template, ratios: Sequence[float], seconds: float
    ) -> Iterator[tuple[float, Design, Plan]]:
        """Designs with their plans and seconds, for each ratio up to the first that takes too long."""
        for ratio in ratios:
            for design in self._designs(template, ratio):
                plan = self.plan(design)
                wall = self.wall(plan)
                yield wall, design, plan
                if wall > seconds:
                    break

    def hours_needed(self) -> float | None:
        """Hours of the shortest study that identifies a; None if the data is too small for one."""
        walls = [
            self.wall(self.plan(design))
            for template in TEMPLATES
            for ratio in (*RATIOS, *FEWER)
            if (design := next(self._designs(template, ratio), None)) is not None
        ]
        return min(walls) / 3600 / RESERVE if walls else None

    def _designs(self, template: Template, ratio: float) -> Iterator[Design]:
        """Designs of a shape that the data is large enough for, from the smallest sizes on."""
        before = None
        for top in range(template.sizes - 1, len(self.counts) - 2):
            lowest = self.counts[top] / template.span
            if self.counts[0] > 1.3 * lowest:
                continue
            wanted = [lowest * template.span ** (k / (template.sizes - 1)) for k in range(template.sizes)]
            sizes = tuple(dict.fromkeys(self._nearest(n) for n in wanted))
            design = self._design(template, sizes, ratio * self.counts[top] / template.large)
            if len(sizes) == template.sizes and design is not None and design != before:
                before = design
                yield design

    def _nearest(self, n: float) -> int:
        return min(range(len(self.counts)), key=lambda size: abs(math.log(self.counts[size] / n)))

    def _design(self, template: Template, sizes: tuple[int, ...], smallest: float) -> Design | None:
        """The design with about this smallest D, in whole steps; None if a run would be too short, or the data is."""
        for batch, least in BATCHES:
            step = batch * self.context
            steps = _round(smallest / step)
            if steps >= least:
                design = Design(template, sizes, steps * step, batch, self.context)
                return design if design.longest <= self.unique else None
        return None

    def plan(self, design: Design) -> Plan:
        """The plan of a design, priced for this machine."""
        from scaling import plan, study

        config = study.base(self.name)
        config.data[DATASET] = self.fields
        config.model.context = design.context
        config.recipe.batch = design.batch
        for name, block in blocks(design).items():
            config.cells[name] = study.block(dataset=DATASET, **dataclasses.asdict(block))
        return plan.make(study.resolve(config, {DATASET: self.source}), speed=self.speed)

    def wall(self, plan: Plan) -> float:
        """Seconds until all is trained, by one worker a core."""
        machine = self.speed.machine
        return plan.wall(1 if machine is not None and machine.accelerated else workers())


def _round(steps: float) -> int:
    """Steps, down to two digits."""
    digit = 10 ** max(0, math.floor(math.log10(max(steps, 1.0))) - 1)
    return int(steps // digit) * digit


def workers() -> int:
    """Number of workers that the local engine would start on a CPU."""
    from scaling.engines.local import cores

    return len(cores())


@dataclass(frozen=True)
class Block:
    """Cells of one kind, as ``study.block`` takes them."""

    sizes: tuple[int, ...]
    tokens: tuple[int, ...]
    kind: str = "grid"
    seeds: tuple[int, ...] = (0,)
    role: str = "fit"


def blocks(design: Design) -> dict[str, Block]:
    """The blocks of a design, by name."""
    template, sizes, half = design.template, design.sizes, design.half
    found = {
        "small": Block(sizes[:half], design.amounts(template.small)),
        "large": Block(sizes[half:], design.amounts(template.large)),
    }
    if template.seeds:
        found["seeds"] = Block((sizes[1], sizes[3]), design.amounts(4), seeds=(1,), role="seed")
    if template.test:
        found["test"] = Block(*design.test, kind="pairs", seeds=(100,), role="holdout")
    return found


def _precision(plan: Plan) -> ExpectedPrecision:
    from scaling.verbs.plan import expected_precision

    return expected_precision(plan)[DATASET]


def _lines(hours: float, written: Written, design: Design, plan: Plan, expected: ExpectedPrecision) -> list[str]:
    """What the user should know of the study: its size, its time, its precision, and what nobody knows yet."""
    from analysis.show.answers import sentence
    from scaling.status import duration

    parameters = sorted(row.N for row in plan.rows() if row.role != "holdout")
    sizes = f"{len(design.sizes)} sizes of {count(parameters[0])} to {count(parameters[-1])} non-embedding parameters"
    amounts = f"D of {count(design.smallest)} to {count(design.longest)} of {count(written.unique)} training tokens"
    bound = "; the data, not the hours, bounds its size" if written.seconds < BOUND * 3600 * hours else ""
    lines = [
        f"{len(plan.rows())} cells: {sizes}, {amounts}, read by the source {written.source}",
        f"about {duration(written.seconds)} on this machine if nothing else runs on it{bound}",
        f"expected 95 % half-widths: {sentence(expected)}",
    ]
    if not written.identified and written.hours_needed is None:
        lines.append("the data is too small for a study that identifies a; more text would do, more hours would not")
    elif not written.identified:
        lines.append(f"a study that identifies a takes {_up(written.hours_needed or 0.0)} hours: --hours sets them")
    lines += [
        "not known: the best learning rate for this data (the rate here is the demo's): `scaling tune` finds it first",
        "not known: whether documents repeat within the data; copies count as unique tokens, and flatter every loss",
    ]
    return lines


def _up(hours: float) -> str:
    """Hours, rounded up to two digits."""
    step = 10.0 ** (math.floor(math.log10(hours)) - 1)
    return f"{math.ceil(hours / step) * step:.2g}"


def source_text(written: Written, design: Design, fields: Fields, lines: list[str]) -> str:
    """The experiment file."""
    name, out = Path(written.out).stem, _quoted(shlex.quote(written.out))
    head = [f'"""A scaling law for {_quoted(fields["path"])}, by `scaling init`.', ""]
    for line in lines:
        head += textwrap.wrap(f"- {line}", 100, subsequent_indent="  ", break_on_hyphens=False)
    head += [
        "",
        f"    scaling plan --config={out}    # every cell, its price and the expected precision",
        f"    scaling run --config={out}     # trains; after an interruption the same command goes on",
        f"    scaling fit runs/{name}; scaling predict runs/{name}; scaling report runs/{name}",
        '"""',
    ]
    body = [
        f"config = study.base({json.dumps(name)})",
        f"config.data.{DATASET} = {{{', '.join(f'{json.dumps(k)}: {json.dumps(v)}' for k, v in fields.items())}}}",
        f"config.model.context = {design.context}",
        f"config.recipe.batch = {design.batch}  # sequences a step",
    ]
    for name, block in blocks(design).items():
        tokens = ", ".join(f"{amount:_}" for amount in block.tokens)
        rest = "" if block.role == "fit" else f', seeds={block.seeds}, role="{block.role}"'
        arguments = f'"{block.kind}", "{DATASET}", {block.sizes}, tokens=({tokens}){rest}'
        body += [NOTES[name], f"config.cells.{name} = study.block(", f"    {arguments}", ")"]
    body = [f"    {line}" for line in [*body, "return config"]]
    return "\n".join([*head, "", "from scaling import study", "", "", 'def get_config(argument=""):', *body, ""])


def _quoted(text: str) -> str:
    """A path as it may stand in a docstring."""
    return text.encode("unicode_escape").decode().replace('"', "'")


VERB = Verb(
    summary="write an experiment file for your own text or tokens that fits the hours you give",
    positional=("DATA",),
    flags=(
        Flag("hours", float, "hours that this machine may train, of which the plan takes at most 85 %", 8.0),
        Flag("out", str, "the experiment file to write; its name is the study's", "mine.py"),
        Flag(
            "kind",
            str,
            "text: read text files as they are written, also those that hold JSON or tables",
            "auto",
            offers=lambda: KINDS,
        ),
        Flag("vocab", int, "vocabulary of the tokens in a .bin file (default: GPT-2's 50257)"),
        JSON,
    ),
    example="scaling init texts --hours=8 --out=mine.py",
    call=init,
)
