"""A real SLURM of two nodes on this machine, on loopback, from Debian's packages: munged, slurmctld and two slurmd."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
NODES = ("n1", "n2")
CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket,cred_expire=5
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool/%n
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.%n.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=30
MaxArraySize=4
SlurmdTimeout=10
TaskProlog={place}/prolog.sh
GresTypes=gpu
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=2 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=INFINITE State=UP
"""  # the files of the GPUs only have to be there


class Unavailable(Exception):
    """SLURM cannot run on this machine, and why."""


def install() -> None:
    """Installs Debian's packages if they are missing. Raises Unavailable if that is not possible."""
    if os.geteuid() != 0:
        raise Unavailable("needs root")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if all(shutil.which(name, path=path) for name in PROGRAMS):
        return
    if shutil.which("apt-get") is None:
        raise Unavailable("needs apt-get, to install SLURM")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    for before in ((), ("apt-get", "update", "-q")):  # its lists may be missing or old
        if before:
            subprocess.run(before, env=quiet, capture_output=True)
        done = subprocess.run(command, env=quiet, capture_output=True, text=True)
        if done.returncode == 0:
            return
    raise Unavailable(f"SLURM cannot be installed: {done.stderr.strip().splitlines()[-1:]}")


class Cluster:
    """The daemons, and a client's view of them.

    Args:
      place: an empty folder for their files, with a short path: a socket is among them.
    """

    def __init__(self, place: Path):
        self.place = place
        first = _free_ports(4)
        host = socket.gethostname().partition(".")[0]
        place.chmod(0o755)
        for folder in ("state", *(f"spool/{node}" for node in NODES)):
            (place / folder).mkdir(parents=True)
        ports = [first, first + 1, first + 2]
        text = CONFIGURATION.format(host=host, place=place, ports=ports)
        (place / "slurm.conf").write_text(text.lstrip())
        (place / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        # The names of these nodes cannot be looked up.
        prolog = place / "prolog.sh"
        prolog.write_text(f"#!/bin/sh\necho export SCALING_COORDINATOR=127.0.0.1:{first + 3}\n")
        prolog.chmod(0o755)
        path = f"{os.environ.get('PATH', '')}:/usr/sbin"
        self.environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Starts all daemons. Raises Unavailable if the nodes do not become idle."""
        key = self.place / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = {"key-file": key, "socket": self.place / "munge.socket", "pid-file": self.place / "munged.pid"}
        files |= {"log-file": self.place / "munged.log", "seed-file": self.place / "munge.seed"}
        self._daemon("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
        self._daemon("slurmctld", "-c")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.command("sinfo", "-h", "-o", "%T").split() == ["idle"], 60, self.report)

    def start_node(self, node: str) -> None:
        """Starts the daemon of a node."""
        self._daemon("slurmd", "-N", node)

    def kill_node(self, node: str, *, jobs: bool) -> None:
        """Kills the daemon of a node with SIGKILL, and all that runs in its jobs if ``jobs``, as a power cut would."""
        pids = [self._pid(f"slurmd.{node}"), *(self._steps(node) if jobs else [])]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _steps(self, node: str) -> list[int]:
        """What runs in jobs of a node: its slurmstepd, which are nobody's children, and all that they have started."""
        log, roots = str(self.place / f"slurmd.{node}.log"), []
        for pid in processes("slurmstepd: ["):
            with contextlib.suppress(OSError):
                if any(os.readlink(path) == log for path in Path(f"/proc/{pid}/fd").iterdir()):
                    roots.append(pid)
        return [*roots, *descendants(roots)]

    def command(self, *words: str, check: bool = True) -> str:
        """Standard output of a client's command."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise AssertionError(f"{words}: {done.stderr}")
        return done.stdout

    def report(self) -> str:
        """The ends of the logs, for a message."""
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.place.glob("*.log")))

    def stop(self) -> None:
        """Ends all jobs and daemons, whatever state they are in."""
        with contextlib.suppress(OSError, AssertionError, subprocess.SubprocessError):
            subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=self.environment, timeout=20)
            wait_until(lambda: not self.command("squeue", "-h", check=False), 10)
        for name in (*(f"slurmd.{node}" for node in NODES), "slurmctld", "munged"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(self._pid(name), signal.SIGKILL)
        mine = f"SLURM_CONF={self.place}/slurm.conf".encode()  # what daemons and scripts left that were killed before
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mine in path.read_bytes().split(b"\0"):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def _pid(self, name: str) -> int:
        return int((self.place / f"{name}.pid").read_text())

    def _daemon(self, *words: str) -> None:
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise Unavailable(f"{words[0]} does not start: {done.stderr.strip()[-300:]}")


def processes(*parts: str) -> list[int]:
    """Numbers of the processes whose command line contains all of these parts."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(part in line for part in parts):
                found.append(int(path.parent.name))
    return found


def descendants(roots: Sequence[int]) -> list[int]:
    """Numbers of the processes that these have started, and those in turn."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = list(roots)
    for root in found:  # grows meanwhile
        found += [pid for pid, parent in parents.items() if parent == root]
    return found[len(roots) :]


def _free_ports(count: int) -> int:
    """The first of ``count`` adjacent ports that are free."""
    for first in range(17000 + os.getpid() % 1000, 32000, count):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise Unavailable("no free ports")


def wait_until(condition: Callable[[], bool], seconds: float, report: Callable[[], str] = str) -> None:
    """Waits until the condition holds. Raises AssertionError with the report if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s; {report()}")
        time.sleep(0.2)
