"""What a sweep of learning rate and batch says, in sentences (``decide.tune``, ``decide.critical_batch``)."""

from __future__ import annotations

from analysis.decide import critical_batch, tune
from analysis.show.sentences import sentence


@sentence.register
def _(w: tune.NoBestBatch) -> str:
    why = "the sweep shows no best one"
    if w.why == "outside" and w.best is not None:
        swept = f"{w.swept[0]:.4g} to {w.swept[1]:.4g}"
        why = f"the best is {w.best[0]:.3g} to {w.best[1]:.3g} tokens, outside the sweep's {swept}"
    return f"batch: {why}; the best one swept is kept, and the learning rate is tuned at it"


@sentence.register
def _(w: tune.EdgeOfSweep) -> str:
    return (
        f"N {w.N:.4g}, D {w.D:.4g}, batch {w.batch:.4g}: the best run, learning rate {w.learning_rate:.3g}, is at the "
        "edge of the sweep"
    )


def no_critical_batch(answer: critical_batch.CriticalBatch) -> str:
    """Why a target loss has no critical batch."""
    return {
        None: "",
        "few_batches": "fewer than three batches reach it",
        "no_fit": "the runs are too few for the law",
        "no_knee": "steps fall with the batch without end",
    }[answer.why]
