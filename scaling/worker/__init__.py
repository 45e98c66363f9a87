"""The worker: a long-lived process that leases programs of a study, largest first, and trains them until all are final.

    python -m scaling.worker --workdir=runs/demo --core=0

It is the same under every engine. On SIGTERM, SIGINT or SIGUSR2 it checkpoints and exits with 75. A program that raises
is recorded and retried by a fresh process (exit 76), at most ``max_attempts`` times without progress; then its
unfinished runs are ``failed``. If it raises ``UserError`` they are ``rejected`` at once. A problem of the machine (a
full disk) ends the worker with exit 2 and one line on standard output, and marks no run as failed.

With ``--ensemble`` it trains several programs of one shape as one compiled program. Each keeps its own lease, records
and attempts; when one ends, the next takes its place.

Several processes may be one worker, on a mesh that spans their devices:

    python -m scaling.worker --workdir=runs/big --processes=2 --process=0 --coordinator=host:port

and likewise for process 1, or by the environment of SLURM (``srun``) and Kubernetes, see ``scaling.distributed``.
Process 0 takes the leases, writes the records and decides what to train; each process builds its own rows of every
batch. When one dies the others exit too, and the launcher restarts them all.

Affinity and threads are set before JAX is imported: JAX sizes its thread pool by the affinity, and the bits of a run
depend on the number of threads.

``main`` is the command, ``loop`` the main loop, ``attempt`` records attempts at a program, ``ensembles`` and
``compile_ahead`` are for speed, and ``lease`` and ``watch`` decide who may work on what.
"""

# Exit codes of a worker. Schedulers are configured to restart on 75 (EX_TEMPFAIL).
EXIT_DONE = 0
EXIT_USER = 2  # needs a person first: a full disk, a damaged study.json
EXIT_INTERRUPTED = 75  # asked to stop; all state is in checkpoints
EXIT_AGAIN = 76  # a program raised, which was recorded; a fresh process should continue
