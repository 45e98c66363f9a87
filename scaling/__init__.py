"""scaling: trains the runs of a study and writes their records.

Suffixes of array names are axis letters: ``x_BTD`` has shape (batch, time, width).

    B  batch, sequences           T  time, positions in a sequence   S  time of the keys and values
    D  width of the residual      H  heads                           K  width of one head
    F  width of the MLP           V  vocabulary                      L  layers
    C  steps in a chunk           M  members of an ensemble

In text and tables, N is parameters, D is training tokens and C is training FLOPs, as in the literature.
"""

__version__ = "0.2.0.dev0"
