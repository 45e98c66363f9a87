"""Fits of the PyPI package ``chinchilla`` for the league; runs in an environment of its own, reads and writes JSON.

Standard input: one table {"C", "N", "D", "loss"} of lists; standard output: the parameters.
"""

import itertools
import json
import sys
import tempfile

import chinchilla.core as core  # pyright: ignore[reportMissingImports]
import numpy as np
from chinchilla._metrics import log_huber  # pyright: ignore[reportMissingImports]

GRID = {
    "e": [0.0, 0.6, 1.2],
    "a": [2.0, 6.0, 10.0],
    "b": [2.0, 6.0, 10.0],
    "alpha": [0.2, 0.4, 0.7],
    "beta": [0.2, 0.4, 0.7],
}


class Quiet:
    def optim(self, *args, **kwargs) -> None:
        """No figures."""


def main() -> None:
    core.Visualizer = lambda *args, **kwargs: Quiet()
    assert len(list(itertools.product(*GRID.values()))) == 243
    table = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        cc = core.Chinchilla(folder, param_grid=GRID, loss_fn=log_huber, log_level=50)
        for row in zip(*(table[key] for key in ("C", "N", "D", "loss"))):
            cc.database.append(**dict(zip(("C", "N", "D", "loss"), map(float, row))))
        cc.fit(parallel=True)
        print(json.dumps({k: float(np.asarray(getattr(cc, k))) for k in ("E", "A", "B", "alpha", "beta")}))


if __name__ == "__main__":
    main()
