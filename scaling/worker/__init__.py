"""The worker: a long-lived process that takes programs of a study under a lease, largest first, until all are final.

    python -m scaling.worker --workdir=runs/demo --core=0

It is the same under every engine. SIGTERM or SIGINT makes it checkpoint and exit 75. A program that raises is recorded
and retried by a fresh process (exit 76), at most ``max_attempts`` times without progress; then its unfinished runs are
``failed``. A ``UserError`` of the program makes them ``rejected`` at once. What must be mended outside (a full disk)
ends the worker with exit 2 and one line on the standard output, and no run is blamed for it.

With ``--ensemble`` it takes several programs of one shape at a time and trains them as one compiled program, each under
its own lease, with its own records, attempts and end; when one ends the next takes its place.

Several processes may be one worker, on a mesh that spans their devices:

    python -m scaling.worker --workdir=runs/big --processes=2 --process=0 --coordinator=host:port

and likewise for process 1, or by the environment of SLURM (``srun``) and Kubernetes, see ``scaling.distributed``.
Process 0 takes the leases, writes the records and says what to train; each builds its own rows of every batch. When one
of them dies the others end too, and the launcher starts them again.

Affinity and threads are set before JAX is imported: JAX sizes its thread pool by the affinity, and the bits of a run
depend on the number of threads.

``main`` is the command, ``loop`` what it does until all is final, ``attempts`` how an attempt at a program is recorded,
``ensembles`` and ``compile_ahead`` what it does to be fast, ``lease`` and ``watch`` who may work on what.
"""

# How a worker ends. 75 (EX_TEMPFAIL) is what schedulers are told to start again.
EXIT_DONE = 0
EXIT_USER = 2  # nothing can be done before somebody mends it: a full disk, a damaged study.json
EXIT_INTERRUPTED = 75  # asked to stop; everything is in checkpoints
EXIT_AGAIN = 76  # a program raised and was recorded; a fresh process should go on
