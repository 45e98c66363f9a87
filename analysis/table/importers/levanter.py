"""Levanter and Marin: events of the JSON logger, alone or behind a log's prefix, and tracker_metrics.jsonl of a run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from analysis.table.importers.contract import Entry, Facts, Importer, Logged, Names, Skipped, number
from analysis.table.importers.source import Source, flat

EVENT = re.compile(r'\{"(?:tracker|event|config)":')
COPY = {"config", "summary"}  # what Marin keeps of a run of W&B


def recognise(source: Source) -> float | None:
    if '"tracker"' in source.text and '"event"' in source.text and EVENT.search(source.text):
        return 0.95
    return 0.9 if source.kind in ("json", "jsonl") and set(source.columns) >= COPY else None


def read(source: Source) -> Iterator[Entry]:
    """Events of steps; configuration and summary are facts, under config/ and summary/.

    Levanter counts the steps from 0: what it logs at step 0 is after one.
    """
    for line_number, line in source.lines():
        where = f"line {line_number}"
        if (start := EVENT.search(line)) is None:
            continue
        try:
            event = json.loads(line[start.start() :], parse_int=float)
        except (ValueError, RecursionError):
            yield Skipped("damaged", where)
            continue
        run = str(event.get("run_id") or "")
        match event:
            case {"event": "log", "metrics": dict(metrics)}:
                values = flat(metrics)
                step = number(event.get("step") if source.step is None else values.get(source.step))
                if step is None:
                    yield Skipped("no_step", where)
                    continue
                source.axis = source.step
                yield Logged(run, step + (source.step is None), values, where)
            case {"event": "hparams", "hparams": dict(hparams)}:
                yield Facts(run, flat(hparams, "config/"), where)
            case {"summary": dict(summary), "config": dict(config)}:
                yield Facts(run, {**flat(config, "config/"), **flat(summary, "summary/")}, where)
            case {"event": "summary", "metrics": dict(summary)} | {"event": "finish", "summary": dict(summary)}:
                yield Facts(run, flat(summary, "summary/"), where)


LOSS = r"eval/(.*/)?loss"
IMPORTER = Importer(
    "levanter",
    "events of Levanter's JSON logger, and tracker_metrics.jsonl of Marin",
    recognise,
    read,
    Names(
        loss=(r"(summary/)?eval/loss", rf"(summary/)?{LOSS}", r"(summary/)?train/loss"),
        learning_rate=(r"optim/learning_rate",),
        tokens=(r"(summary/)?throughput/total_tokens",),
        N=(r"(summary/)?parameter_count",),
    ),
)
