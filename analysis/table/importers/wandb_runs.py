"""The table of runs of Weights & Biases: exported as CSV, or written by the API with columns name, summary, config."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

from analysis.table.importers.contract import Cell, Entry, Facts, Importer, Names, Skipped
from analysis.table.importers.source import Source, flat

COLUMNS = {"Name": "run", "State": "status"}
OBJECTS = ("summary", "config")  # cells that hold an object, as JSON or as Python writes it


def recognise(source: Source) -> float | None:
    columns = set(source.columns)
    if {"summary", "config", "name"} <= columns:
        return 0.95
    marks = {"Created", "Runtime", "Sweep", "User", "Tags", "ID"} & columns
    return 0.9 if set(COLUMNS) <= columns else 0.8 if "Name" in columns and len(marks) > 1 else None


def read(source: Source) -> Iterator[Entry]:
    taken: set[str] = set()
    for item in source.rows():
        if isinstance(item, Skipped):
            yield item
            continue
        where, cells = item
        values: dict[str, Cell] = {}
        for name, cell in cells.items():
            if name in OBJECTS and isinstance(cell, str):
                inner = _object(cell)
                if inner is None:
                    yield Skipped("damaged", where)
                    break
                values |= {f"{name}/{key}": value for key, value in inner.items()}
            elif name:
                values[COLUMNS.get(name, name)] = cell
        else:
            run = str(values.get("run") or values.get("name") or values.get("Name") or where)
            run = f"{run}, {where}" if run in taken else run  # each row is a run, though names may repeat
            taken.add(run)
            yield Facts(f"{source.path}, {where}", {**values, "run": run}, where, row=True)


def _object(text: str) -> dict[str, Cell] | None:
    """The cells of an object; None if the text is none."""
    for parse in (json.loads, _literal):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict):
            return flat({str(key): inner for key, inner in value.items()})
    return None


class _Numbers(ast.NodeTransformer):
    """Replaces nan and inf, which Python writes and ``literal_eval`` does not know."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("nan", "inf") else node


def _literal(text: str) -> object:
    return ast.literal_eval(_Numbers().visit(ast.parse(text.strip(), mode="eval")))


IMPORTER = Importer(
    "wandb_runs",
    "the table of runs of W&B as CSV or Parquet",
    recognise,
    read,
    Names(
        loss=(
            r"(summary/)?(val|valid|validation|eval|test)[/_](loss|ce_loss|cross_entropy)",
            r"(summary/)?(train[/_])?loss",
        ),
        tokens=(r"(summary/)?(throughput/total_tokens|tokens_seen|total_tokens|tokens)",),
        N=(r"(config|summary)/(n_params|num_params|parameters|params|n_parameters|num_parameters)",),
    ),
)
