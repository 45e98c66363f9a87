"""What each verb of the command line does: one function a verb, from its options to an exit status.

Heavy modules are imported by the verb that needs them; training happens in workers, never here.
"""

from scaling.verbs.comparisons import compare
from scaling.verbs.datasets import data
from scaling.verbs.designs import next_cells as next
from scaling.verbs.fits import CONVENTIONS, STANDARD, fit
from scaling.verbs.output import laws, plot, report
from scaling.verbs.predictions import predict
from scaling.verbs.show import table
from scaling.verbs.study import default_workdir, plan, run, status
from scaling.verbs.tuning import tune

__all__ = [
    "CONVENTIONS",
    "STANDARD",
    "compare",
    "data",
    "default_workdir",
    "fit",
    "laws",
    "next",
    "plan",
    "plot",
    "predict",
    "report",
    "run",
    "status",
    "table",
    "tune",
]
