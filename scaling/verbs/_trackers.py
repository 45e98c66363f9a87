"""Writers of other people's trackers, for ``export``: event files of TensorBoard, runs of Weights & Biases."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from scaling.errors import Code, UserError, library
from scaling.records import Manifest, identity
from scaling.records.typed import plain


class Tracker(Protocol):
    """Takes the new steps of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name at a step; steps come in order."""
        ...

    def close(self) -> None:
        """Writes what is left to disk."""
        ...


class TensorBoard:
    """Appends an event file to the folder of a run.

    Args:
      out: the log directory.
      begin: the first new step.
    """

    def __init__(self, out: Path, manifest: Manifest, begin: int):
        names = "compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.event_file_writer"
        modules = (library(f"tensorboard.{name}", "trackers", "to", "tensorboard") for name in names)
        self._event, self._summary, writer = modules
        self._writer = writer.EventFileWriter(str(out / manifest.run), filename_suffix=f".from-{begin}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._summary.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._writer.add_event(
            self._event.Event(wall_time=time.time(), step=step, summary=self._summary.Summary(value=scalars))
        )

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Continues the run of W&B that has the identity of ours; offline where WANDB_MODE says so.

    Args:
      out: directory of its local files, in a folder of their own for each pass: W&B names them by the second.
      begin: the first new step.
    """

    def __init__(self, out: Path, manifest: Manifest, begin: int):
        folder = out / manifest.run / f"from-{begin}"
        folder.mkdir(parents=True, exist_ok=True)
        wandb = library("wandb", "trackers", "to", "wandb")
        config = {
            "N": manifest.parameters.nonembedding,
            "D": manifest.tokens.D,
            "C": manifest.flops.training,
            **{name: plain(getattr(manifest, name)) for name in ("dataset", "family", "seed", "role", "recipe")},
        }
        try:
            self._run = wandb.init(
                project=manifest.study,
                id=identity([manifest.study, manifest.run]),
                name=manifest.run,
                config=config,
                resume="allow",
                dir=str(folder),
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
            )
        except wandb.Error as error:
            remedy = f"refused ({str(error)[:100]}); `wandb login`, or WANDB_MODE=offline and `wandb sync` later"
            raise UserError("to", "wandb", remedy, Code.ENVIRONMENT) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[TensorBoard] | type[Wandb]] = {"tensorboard": TensorBoard, "wandb": Wandb}
