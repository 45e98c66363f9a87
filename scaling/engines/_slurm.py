"""What the slurm engine hands to SLURM: the settings of a site, and the script of a job made from them."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from scaling.engines._requeue import FOLDER
from scaling.engines._workers import python_path
from scaling.errors import Code, UserError
from scaling.flags import Value as FlagValue
from scaling.records.files import damaged, read_bytes
from scaling.records.value import Value
from scaling.worker import EXIT_AGAIN, EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER

NOTICE = 120  # seconds before the time limit at which the workers are told
POLL = 30.0  # seconds between two calls of squeue
IDLE = 120.0  # seconds that a worker waits for what others hold: longer than a lease without its holder
PLAIN = re.compile(r"[A-Za-z0-9_.,:@+/-]+")  # of names that SLURM gives: accounts, partitions, sizes of memory
TIMES = re.compile(r"(?:([0-9]{1,9})-)?([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?")
OPTION = re.compile(r"--([a-z][a-z-]*)(?:=(.+))?")
# Options of sbatch that the engine sets itself, because it relies on them.
OWN = {"array", "job-name", "output", "error", "open-mode", "wrap", "parsable", "test-only", "chdir", "requeue"}
OWN |= {"no-requeue", "signal", "wait"}
# Options with which squeue would not see the jobs, or sbatch would submit none.
ELSEWHERE = {"clusters": "squeue must see the jobs: export SLURM_CLUSTERS instead, which all commands read"}
ELSEWHERE |= dict.fromkeys(("help", "usage", "version"), "submits nothing; leave it out")
# The variables of sbatch for what the script always says, and for fields of a site, which it says if they are set. Some
# are other ways to say the same: sbatch refuses two of them, or asks for a node a GPU to satisfy both.
OVERRULED = {
    "job name": ("SBATCH_JOB_NAME",),
    "output": ("SBATCH_OUTPUT", "SBATCH_ERROR"),
    "open mode": ("SBATCH_OPEN_MODE",),
    "requeue": ("SBATCH_NO_REQUEUE",),
    "signal": ("SBATCH_SIGNAL",),
    "array": ("SBATCH_ARRAY_INX",),
    "wait": ("SBATCH_WAIT",),
    "clusters": ("SBATCH_CLUSTERS",),
    "account": ("SBATCH_ACCOUNT",),
    "partition": ("SBATCH_PARTITION",),
    "time": ("SBATCH_TIMELIMIT",),
    "mem": ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU"),
    "gpus": ("SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK", "SBATCH_GPUS", "SBATCH_GRES"),
    "cpus": ("SBATCH_CPUS_PER_GPU",),
}
# Variables of the launcher that workers need where a site does not pass its environment on.
PASSED = ("JAX_PLATFORMS", "SCALING_CACHE", "XLA_FLAGS")
Natural = Annotated[int, Meta(ge=1)]


class Site(Value, kw_only=True):
    """How a site wants its jobs: the fields of a site file (TOML), which flags of the same names overrule.

    Attributes:
      jobs: jobs at once. nodes: that train every run together. tasks_per_node: processes on each of those.
      cpus: of a process or, if a node trains runs of its own, of its workers. gpus, mem: of a node; mem such as 4G.
      account, partition, time: as sbatch takes them.
      container: command that Python runs under. python: the interpreter there.
      setup: lines of shell before the workers start. sbatch: more options of sbatch.
      notice: seconds before the time limit at which workers checkpoint. poll: seconds between two calls of squeue.
      idle: seconds after which a worker ends if all that is left is in the hands of others.
    """

    jobs: Natural | None = None
    nodes: Natural = 1
    tasks_per_node: Natural = 1
    cpus: Natural | None = None
    gpus: Natural | None = None
    mem: str | None = None
    account: str | None = None
    partition: str | None = None
    time: str | None = None
    container: str | None = None
    python: str | None = None
    setup: tuple[str, ...] = ()
    sbatch: tuple[str, ...] = ()
    notice: Annotated[int, Meta(ge=1, le=65535)] = NOTICE  # sbatch takes no more
    poll: Annotated[float, Meta(gt=0, le=3600)] = POLL
    idle: Annotated[float, Meta(gt=0)] = IDLE

    @property
    def processes(self) -> int:
        """Number of processes that train every run together."""
        return self.nodes * self.tasks_per_node


def read_site(path: str | None, given: Mapping[str, FlagValue]) -> Site:
    """The settings of a site file, overruled by flags.

    Args:
      path: of the file; None: there is none.
      given: values of flags, by the name of the field.

    Raises:
      UserError: the file is missing (MISSING) or damaged (DAMAGED), or a value cannot be used (INVALID, CONFLICT).
    """
    site = Site()
    if path is not None:
        try:
            site = msgspec.toml.decode(read_bytes(path), type=Site)
        except FileNotFoundError:
            raise UserError("site", path, "does not exist", Code.MISSING) from None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: an integer of 5,000 digits
            raise damaged(path, str(error).splitlines()[0][:300], "see docs/slurm.md", "site") from error
    own: dict[str, object] = dict(given)
    if "setup" in given:
        own["setup"] = (*site.setup, str(given["setup"]))
    if "sbatch" in given:
        own["sbatch"] = (*site.sbatch, *words("sbatch", str(given["sbatch"])))
    for name in ("jobs", "nodes", "gpus"):
        if name in given and int(given[name]) < 1:
            raise UserError(name, given[name], "must be at least 1")
    site = msgspec.structs.replace(site, **own)
    for name in ("account", "partition", "mem"):
        value = getattr(site, name)
        if value is not None and not PLAIN.fullmatch(value):
            raise UserError(name, value, "may have letters, digits and _.,:@+/- only")
    if site.time is not None:
        seconds(site.time)
    for text in site.sbatch:
        match = OPTION.fullmatch(text)
        if match is None:
            raise UserError("sbatch", text, "write every option as --name=value, or --name")
        for option in sorted(OWN | ELSEWHERE.keys()):
            if option.startswith(match[1]):  # sbatch takes abbreviations
                remedy = ELSEWHERE.get(option, f"the engine sets --{option} itself; leave it out")
                raise UserError("sbatch", text, remedy, Code.CONFLICT)
    for name, texts in (("container", [site.container]), ("python", [site.python]), ("setup", site.setup)):
        for text in texts:
            if text is not None and "\0" in text:
                raise UserError(name, ascii(text), "has a byte of zero, which no script can hold")
    container(site)
    return site


def seconds(text: str) -> int:
    """A time limit in seconds, from what sbatch takes: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S.

    Raises:
      UserError: the text is none of these (INVALID).
    """
    match = TIMES.fullmatch(text)
    if match is None:
        raise UserError("time", text, "must be MINUTES, HOURS:MINUTES:SECONDS or DAYS-HOURS[:MINUTES[:SECONDS]]")
    days, *rest = (None if part is None else int(part) for part in match.groups())
    parts = [part for part in rest if part is not None]
    units = (3600, 60, 1) if days is not None or len(parts) == 3 else (60, 1)
    return (days or 0) * 86400 + sum(part * unit for part, unit in zip(parts, units))


def directive(option: str, value: str) -> str:
    """A line of the script's head. sbatch takes quotes there, and backslashes as escapes.

    Raises:
      UserError: the value has a character that cannot be written there (INVALID).
    """
    if not value:
        return f"#SBATCH {option}"
    if not value.isprintable() or set(value) & set('"\\'):
        remedy = "has a quote, a backslash or a control character, which the head of a SLURM script cannot hold"
        raise UserError(option, ascii(value), remedy)
    return f"#SBATCH {option}={value}" if PLAIN.fullmatch(value) else f'#SBATCH {option}="{value}"'


def job_name(workdir: Path) -> str:
    """The name of the jobs of a work directory, by which SLURM finds them: its own, and the hash of its path."""
    path = workdir.resolve()
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", path.name)[:40].strip("-.")
    return f"{name or 'study'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def script(workdir: Path, site: Site, worker: Sequence[str], workers: int) -> str:
    """The script of a job.

    Args:
      worker: options of a worker.
      workers: worker processes of a node, if each trains runs of its own.

    Raises:
      UserError: a path cannot be written into a script (INVALID).
    """
    workdir = workdir.absolute()
    group = site.processes > 1
    python = shlex.join(
        [*container(site), site.python or ("python3" if site.container else sys.executable), "-P", "-m"]
    )
    place = shlex.quote(f"--workdir={workdir}")
    report = shlex.quote(f"{workdir / FOLDER}/slurm-") + '"$task".error.json'
    if group:
        command = [f"{python} scaling.worker", place, f"--report={report}", '--label="$task"']
    else:
        command = [f"{python} scaling.engines._pool", place, f"--report={report}", f"--workers={workers}"]
    cpus = site.cpus or (None if group else workers)
    return TEMPLATE.format(
        head="\n".join(_head(workdir, site, cpus)),
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in _environment(site).items()),
        setup="\n".join(site.setup),
        begin=f'{python} scaling.engines._requeue {place} --task="$task"',
        nodes=site.nodes if group else '"$SLURM_JOB_NUM_NODES"',
        tasks=site.processes if group else '"$SLURM_JOB_NUM_NODES"',
        each=site.tasks_per_node if group else 1,
        cpus=f" --cpus-per-task={cpus}" if cpus else "",
        command=" ".join([*command, *map(shlex.quote, worker)]),
        report=report,
        done=EXIT_DONE,
        user=EXIT_USER,
        interrupted=EXIT_INTERRUPTED,
        again=EXIT_AGAIN,
    )


def container(site: Site) -> list[str]:
    """The words of the command that Python runs under.

    Raises:
      UserError: it has a quote without its pair (INVALID).
    """
    return words("container", site.container or "")


def words(name: str, text: str) -> list[str]:
    """The words of a command line, as a shell would split it.

    Raises:
      UserError: it has a quote without its pair (INVALID).
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(name, text, f"{str(error).lower()}; write it as for a shell") from None


def _head(workdir: Path, site: Site, cpus: int | None) -> Iterator[str]:
    output = f"{workdir / 'logs'}/slurm-".replace("%", "%%")  # sbatch's own placeholders begin with a percent sign
    notice = site.notice if site.time is None else min(site.notice, max(1, seconds(site.time) // 4))
    options: dict[str, object] = {
        "job-name": job_name(workdir),
        "output": f"{output}%A_%a.log",
        "open-mode": "append",  # a requeued job would empty it
        "requeue": "",
        "chdir": _here(),
        "signal": f"B:USR2@{notice}",
        "nodes": site.nodes,
        "ntasks-per-node": site.tasks_per_node,
        "cpus-per-task": cpus,
        "gpus-per-node": site.gpus,
        "mem": site.mem,
        "account": site.account,
        "partition": site.partition,
        "time": site.time,
    }
    for name, value in options.items():
        if value is not None:
            yield directive(f"--{name}", str(value))
    for text in site.sbatch:  # last, since the last of two counts
        name, _, value = text.partition("=")
        yield directive(name, value)


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise UserError("directory", ".", "is gone; change to another, where jobs can start", Code.MISSING) from None


def submitting(site: Site) -> dict[str, str]:
    """The environment of sbatch: without the variables by which it would overrule what the script says."""
    said = {name for name in OVERRULED if getattr(site, name, True) is not None}
    if site.processes == 1:  # see ``script``
        said.add("cpus")
    overruled = {variable for name in said for variable in OVERRULED[name]}
    return {name: value for name, value in os.environ.items() if name not in overruled}


def _environment(site: Site) -> dict[str, str]:
    """Variables that workers need, also where a site does not pass on those of the launcher."""
    environment = {name: os.environ[name] for name in PASSED if name in os.environ}
    return environment if site.container else {"PYTHONPATH": python_path(), **environment}


TEMPLATE = r"""#!/bin/bash
{head}
# Made by `scaling run --engine=slurm`. On SIGTERM and SIGUSR2 workers checkpoint, and the job is requeued.
stopped= step= code=
unset ${{!SQUEUE_@}} # the user's filters
stop() {{
  stopped=1
  if [ -n "$step" ]; then kill -USR2 "$step" 2>/dev/null; fi # srun passes it on; SIGTERM would make it kill
}}
trap stop TERM USR2

again() {{
  # Not a job that somebody cancels, or that SLURM itself puts back; and not an allocation that others use. By the name
  # of the task: the last one of an array has the number of the array, by which SLURM would take all of them.
  for _ in 1 2 3 4 5; do # where many jobs are told to stop, the controller is busy
    if [ -n "${{SCALING_JOINED:-}}" ]; then break; fi
    if state="$(squeue --noheader --jobs="$task" --format=%T)"; then
      if [ "$state" != RUNNING ] || scontrol requeue "$task"; then break; fi
    fi
    sleep 2
  done
  exit {interrupted}
}}

task="${{SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}}${{SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}}"
if [ -n "${{SCALING_JOINED:-}}" ]; then task="$SLURM_JOB_ID-$$"; fi
{exports}
{setup}

while [ -z "$stopped" ]; do
  if [ "$code" != {again} ] && ! {begin}; then
    if [ -n "$stopped" ]; then break; fi
    exit {user}
  fi
  if [ -n "$stopped" ]; then break; fi
  srun --quiet --mpi=none --export=ALL ${{SCALING_JOINED:+--overlap}} --nodes={nodes} --ntasks={tasks} \
    --ntasks-per-node={each}{cpus} {command} & step=$!
  if [ -n "$stopped" ]; then kill -USR2 "$step"; fi
  while :; do # a signal ends `wait`, not srun
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
  done
  case "$code" in
    {done} | {user}) exit "$code" ;;
    {interrupted} | 140 | 143) break ;; # the last two: before a worker could listen
  esac
  if [ -e {report} ]; then exit {user}; fi # of a group: srun has the largest of its codes
done
again
"""
