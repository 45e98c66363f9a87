"""nanochat: what base_train prints, and results.csv of its scaling laws. Its validation loss is in bits per byte."""

from __future__ import annotations

import re
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Facts, Importer, Logged, Names
from analysis.table.importers.runs import facts
from analysis.table.importers.source import Source

STEP = re.compile(r"step (\d+)/\d+ \([\d.]+%\) \| loss: ([-+.\w]+) \| lrm: ([-+.\w]+)")
BITS = re.compile(r"(?:Step (?=\d+ \|)|eval step=)(\d+) (?:\| Validation bpb: |val_bpb=)([-+.\w]+)")
COUNT = re.compile(r"(params_\w+|wte|value_embeds|lm_head|transformer_matrices|scalars|total)\s*: ([\d,]+)$")
BATCH = re.compile(r"(?:Auto-computed optimal batch size: |Total batch size )([\d,]+)")
FLOPS = re.compile(r"Estimated FLOPs per token: ([-+.\w]+)")
COLUMNS = {"flops_budget", "depth", "num_iterations"}


def recognise(source: Source) -> float | None:
    if set(source.columns) >= COLUMNS:
        return 0.95
    if "lrm: " not in source.text and "bpb" not in source.text:
        return None
    return 0.95 if any(STEP.match(line) or BITS.match(line) for line in source.beginning) else None


def read(source: Source) -> Iterator[Entry]:
    """Counts of parameters are facts ``params_...``: which of them is N is the user's to say.

    The training loss is a moving average, and ``lrm`` a factor of the learning rates of several groups.
    """
    if set(source.columns) >= COLUMNS:
        yield from facts(source)
        return
    for number, line in source.lines():
        where = f"line {number}"
        if match := STEP.match(line):
            yield Logged("", float(match[1]), {"train_loss_smoothed": match[2], "lrm": match[3]}, where)
        elif match := BITS.match(line):
            yield Logged("", float(match[1]), {"val_bpb": match[2]}, where)
        elif match := COUNT.match(line.strip()):
            name = match[1] if match[1].startswith("params_") else f"params_{match[1]}"
            yield Facts("", {name: float(match[2].replace(",", ""))}, where)
        elif match := BATCH.match(line):
            yield Facts("", {"tokens_per_step": float(match[1].replace(",", ""))}, where)
        elif match := FLOPS.match(line):
            flops: dict[str, Cell] = {"flops_per_token": match[1]}
            yield Facts("", flops, where)


IMPORTER = Importer(
    "nanochat",
    "the log of nanochat's base_train, and its results.csv (bits per byte; N is a sum of params_...)",
    recognise,
    read,
    Names(
        loss=(r"val_bpb|val_loss", r"train_loss_smoothed"),
        schedule=(r"lrm",),
        N=(r"params_.*|num_(scaling_)?params",),
        tokens=(r"tokens_trained",),
        units={"val_bpb": "bits"},
    ),
)
