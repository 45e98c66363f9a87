"""One fit of the PyPI package ``chinchilla`` as its README runs it; in an environment of its own, on one core.

Standard input: {"C", "N", "D", "loss"} of lists; standard output: CPU seconds of ``fit`` (imports and reading left
out), the parameters, the package's version. Grid (5 values of each parameter) and loss are its README's.
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version

import chinchilla.core as core  # pyright: ignore[reportMissingImports]
import numpy as np


class Quiet:
    def optim(self, *args, **kwargs) -> None:
        """No figures."""


def main() -> None:
    core.Visualizer = lambda *args, **kwargs: Quiet()
    table = json.load(sys.stdin)
    grid = {"E": np.linspace(1, 2, 5)} | {k: np.linspace(1, 10, 5) for k in ("a", "b")}
    grid |= {k: np.linspace(0.1, 0.7, 5) for k in ("alpha", "beta")}
    with tempfile.TemporaryDirectory() as folder:
        cc = core.Chinchilla(folder, param_grid=grid, log_level=50)
        for row in zip(*(table[key] for key in ("C", "N", "D", "loss"))):
            cc.database.append(**dict(zip(("C", "N", "D", "loss"), map(float, row))))
        start = time.process_time()
        cc.fit(parallel=False)
        seconds = time.process_time() - start
        found = {k: float(np.asarray(getattr(cc, k))) for k in ("E", "A", "B", "alpha", "beta")}
    print(json.dumps({"cpu": seconds, "params": found, "version": version("chinchilla")}))


if __name__ == "__main__":
    main()
