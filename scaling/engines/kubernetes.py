"""kubernetes: an Indexed Job of pods that each run the workers of one machine, or a JobSet of groups of pods.

    scaling run --config=demo --workdir=/mnt/lab/demo --engine=kubernetes --dry_run --image=lab/scaling --claim=lab

A pod is a machine: it runs ``scaling.engines._pool``, the local engine without a terminal, on a volume that all pods
and this launcher share. With ``--hosts`` above 1, that many pods train every run together (``scaling.distributed``);
then the manifest is a JobSet, which gives pods the names by which they find each other. Pods that are preempted or
evicted, and workers that were interrupted, are replaced without counting; one that needs a person (exit 2) ends the
job; others are retried ``--backoff`` times. With ``--queue``, the job waits for Kueue to admit it.

Jobs, alone and inside a JobSet, are tested against the published schemas, the fields of the JobSet itself against none,
and ``kubectl`` is a stand-in; no cluster has run it yet.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from scaling import distributed
from scaling.distributed import PORT
from scaling.engines import Engine, Pool, _workers
from scaling.errors import Code, UserError, choose
from scaling.flags import Flag
from scaling.records import read_typed, write_json
from scaling.records.types import JSON, ProgramSpec
from scaling.records.value import Value
from scaling.worker import EXIT_AGAIN, EXIT_INTERRUPTED, EXIT_USER

SUBMITTED = "kubernetes.json"  # in the work directory: what was submitted for it
LOOK = 10.0  # seconds between two questions to the API server, one each
PATIENCE = 30  # unanswered questions in a row before the launcher gives up; the pods go on
LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # a DNS label, which namespaces are
NAME = rf"{LABEL}(\.{LABEL})*"  # a DNS subdomain, which claims and queues are
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
PART = r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*"  # of the name of an image, which has no capitals; its registry may
REGISTRY = r"(?=[^/]*[.:]|localhost/)[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/"
IMAGE = rf"({REGISTRY})?{PART}(/{PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@[a-z0-9]+:[0-9a-f]{{32,}})?"
TPUS = ("tpu-v4-podslice", "tpu-v5-lite-podslice", "tpu-v5p-slice", "tpu-v6e-slice")  # as GKE labels its nodes

FLAGS = (
    Flag("image", str, "container image with this package installed"),
    Flag("claim", str, "persistent volume claim, for many pods to write, that holds the work directory"),
    Flag("claim_path", str, "path of the work directory inside the claim (default: its own name)"),
    Flag("mount", str, "where pods mount the claim", "/mnt/scaling"),
    Flag("namespace", str, "namespace (default: that of the present context)"),
    Flag("pods", int, "machines that train at once, or groups of --hosts machines", 1),
    Flag("hosts", int, "pods that train every run together; above 1 the manifest is a JobSet", 1),
    Flag("gpus", int, "GPUs of a node"),
    Flag("tpu", str, f"TPU nodes of GKE: {', '.join(TPUS)}"),
    Flag("topology", str, "of the TPU slice, such as 2x4; its chips are divided among --hosts"),
    Flag("cpus", str, "CPUs of each pod, such as 8 or 500m"),
    Flag("memory", str, "memory of each pod, such as 32Gi"),
    Flag("backoff", int, "times that a pod which fails is retried", 3),
    Flag("queue", str, "LocalQueue of Kueue that admits the job"),
    Flag("grace", int, "seconds that a pod has to checkpoint when it must end", 120),
    *_workers.FLAGS,
)


@dataclass(frozen=True)
class Asked:
    """Values of the engine's own flags."""

    image: str = ""
    claim: str = ""
    claim_path: str = ""
    mount: str = "/mnt/scaling"
    namespace: str | None = None
    pods: int = 1
    hosts: int = 1
    gpus: int = 0
    tpu: str | None = None
    topology: str = ""
    cpus: str | None = None
    memory: str | None = None
    backoff: int = 3
    queue: str | None = None
    grace: int = 120


class Submitted(Value):
    """What was submitted for a work directory: its kind, name and namespace.

    It says what ``scaling cancel`` deletes, in a folder that others may write to: it can name nothing but jobs of ours.
    """

    kind: Literal["job", "jobset"]
    name: Annotated[str, Meta(pattern=rf"^scaling-{LABEL}(?!\n)$", max_length=63)]
    namespace: Annotated[str, Meta(pattern=rf"^{LABEL}(?!\n)$")] | None


class _Condition(msgspec.Struct):
    type: str
    status: str
    message: str = ""


class _Replicated(msgspec.Struct):
    active: int = 0


class _Status(msgspec.Struct, rename="camel"):
    """Of a Job (``active``) or a JobSet."""

    active: int = 0
    conditions: list[_Condition] = []
    replicated_jobs_status: list[_Replicated] = []


class _Seen(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


class Kubernetes(Engine):
    """The engine.

    Args:
      workdir: the directory with study.json, on the claim's volume.
      options: values of ``FLAGS``.

    Raises:
      UserError: a value is missing, or not one that Kubernetes takes.
    """

    detached = True

    def __init__(self, workdir: Path, **options: Any):
        own = {field.name for field in dataclasses.fields(Asked)}
        self.workdir = workdir
        self._asked = Asked(**{name: each for name, each in options.items() if name in own and each is not None})
        self._worker = {flag.name: options.get(flag.name, flag.default) for flag in _workers.FLAGS}
        self._check()
        self._submitted: Submitted | None = None
        self._looked, self._unanswered, self._last = -math.inf, 0, Pool(0, False)

    @property
    def size(self) -> int:
        """Number of workers: of all pods, or one a group; a pod counts as one unless ``workers`` says more."""
        return self._asked.pods * (1 if self._asked.hosts > 1 else int(self._worker["workers"] or 1))

    def check(self, programs: Sequence[ProgramSpec]) -> None:
        """Checks the mesh of runs that several hosts train together.

        Raises:
          UserError: it does not divide into as many parts (ENVIRONMENT).
        """
        if self._asked.hosts > 1 and programs:
            distributed.check_mesh(distributed.Group("n1:1", self._asked.hosts, 0), programs[0].options.mesh)

    def preview(self, programs: Sequence[ProgramSpec]) -> str:
        """The manifest as YAML. UserError as ``check``."""
        self.check(programs)
        return to_yaml(self.manifest(_study(programs)))

    def submit(self, programs: Sequence[ProgramSpec]) -> None:
        """Creates the job with ``kubectl``, unless it is there and has not ended. One that has ended is replaced."""
        made = self.manifest(_study(programs))
        self._submitted = job = Submitted(made["kind"].lower(), made["metadata"]["name"], self._asked.namespace)
        write_json(self.workdir / SUBMITTED, job)
        found = _kubectl(job.namespace, "get", job.kind, job.name, "--ignore-not-found", "-o", "json")
        if found.strip() and not _ended(_decode(found)):
            return
        if found.strip():
            _kubectl(job.namespace, "delete", job.kind, job.name, "--wait=true")
        _kubectl(job.namespace, "create", "-f", "-", given=to_yaml(made))

    def poll(self) -> Pool:
        """Asks for the job's status, at most every ``LOOK`` seconds; its controller replaces pods."""
        if self._submitted is None or time.monotonic() - self._looked < LOOK:
            return self._last
        self._looked, job = time.monotonic(), self._submitted
        try:
            found = _kubectl(job.namespace, "get", job.kind, job.name, "--ignore-not-found", "-o", "json")
            if not found.strip():
                remedy = "is gone: it was cancelled or deleted; the same command creates it again"
                self._last = Pool(0, True, UserError(job.kind, job.name, remedy, Code.ENVIRONMENT))
                return self._last
            seen = _decode(found)
            self._unanswered = 0
        except UserError as error:
            self._unanswered += 1
            if self._unanswered >= PATIENCE:
                self._last = Pool(0, True, error)
            return self._last
        active = seen.active + sum(each.active for each in seen.replicated_jobs_status)
        problem = None
        if (failed := _condition(seen, "Failed")) is not None:
            remedy = f"failed ({failed.message or 'no message'}); see `kubectl logs` of its pods"
            problem = UserError(job.kind, job.name, remedy, Code.ENVIRONMENT)
        self._last = Pool(active, _ended(seen), problem)
        return self._last

    def cancel(self, *, force: bool = False) -> None:
        """Deletes the job; its pods checkpoint within ``--grace`` seconds, or have none with ``force``."""
        self.withdraw(self.workdir, force=force)

    @classmethod
    def withdraw(cls, workdir: Path, *, force: bool = False) -> list[str]:
        """Deletes the job that was last submitted for a work directory."""
        try:
            job = read_typed(workdir / SUBMITTED, Submitted)
        except FileNotFoundError:
            return []
        now = ["--grace-period=0", "--force"] if force else []
        said = _kubectl(job.namespace, "delete", job.kind, job.name, "--ignore-not-found", "--wait=false", *now)
        return [job.name] if said.strip() else []

    def manifest(self, study: str) -> dict[str, JSON]:
        """The Job or JobSet for a study of this name. Nothing in it is of this machine."""
        name = dns_name(study, self._inside)
        labels = {"app.kubernetes.io/name": "scaling", "app.kubernetes.io/instance": name}
        metadata = {"name": name, "labels": dict(labels), "annotations": {"scaling/study": study}}
        if self._asked.namespace:
            metadata["namespace"] = self._asked.namespace
        if self._asked.tpu and self._asked.hosts > 1:  # a group on one slice, never astride two
            metadata["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
        suspended = {}
        if self._asked.queue:
            metadata["labels"]["kueue.x-k8s.io/queue-name"] = self._asked.queue
            suspended = {"suspend": True}
        if self._asked.hosts == 1:
            job = self._job(labels, self._pod(name), self._asked.pods)
            return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {**suspended, **job}}
        job = self._job(labels, self._pod(name), self._asked.hosts)
        workers = {"name": "workers", "replicas": self._asked.pods, "template": {"spec": job}}
        spec = {
            **suspended,
            "network": {"enableDNSHostnames": True, "subdomain": name},
            "failurePolicy": {
                "maxRestarts": self._asked.backoff,
                # without this rule a group that needs a person would be made again, as one that failed is
                "rules": [{"name": "person", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [workers],
        }
        return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}

    @property
    def _inside(self) -> str:
        """The work directory as pods see it."""
        path = self._asked.claim_path or self.workdir.absolute().name
        return f"{self._asked.mount.rstrip('/')}/{path.strip('/')}"

    def _job(self, labels: dict[str, str], pod: dict[str, JSON], pods: int) -> dict[str, JSON]:
        rules = [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": _codes(EXIT_INTERRUPTED, EXIT_AGAIN)},  # records count these attempts
            {"action": "FailJob", "onExitCodes": _codes(EXIT_USER)},
        ]
        return {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimitPerIndex": self._asked.backoff,
            "podFailurePolicy": {"rules": rules},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        }

    def _pod(self, name: str) -> dict[str, JSON]:
        asked, group = self._asked, self._asked.hosts > 1
        module = "scaling.worker" if group else "scaling.engines._pool"
        flags = {"workdir": self._inside, **self._worker}
        if group:
            del flags["workers"]  # one process each
        given = [f"--{key}={_literal(value)}" for key, value in flags.items() if value is not None]
        index = "$(JOB_INDEX)-$(JOB_COMPLETION_INDEX)" if group else "$(JOB_COMPLETION_INDEX)"
        container = {
            "name": "worker",
            "image": asked.image,
            "command": ["python", "-P", "-m", module],
            "args": [*given, f"--label={name}-{index}"],
            "volumeMounts": [{"name": "workdir", "mountPath": asked.mount}],
        }
        environment = [] if self._worker["cache"] else [_variable("SCALING_CACHE", f"{asked.mount.rstrip('/')}/.xla")]
        if group:
            job_index = {"fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/job-index']"}}
            environment += [
                {"name": "JOB_INDEX", "valueFrom": job_index},
                _variable("SCALING_PROCESSES", str(asked.hosts)),
                {"name": "SCALING_COORDINATOR", "value": f"{name}-workers-$(JOB_INDEX)-0.{name}:{PORT}"},
            ]
        if environment:
            container["env"] = environment
        if resources := self._resources():
            container["resources"] = {"requests": resources, "limits": resources}
        pod: dict[str, JSON] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": asked.grace}
        if asked.tpu:
            pod["nodeSelector"] = {
                "cloud.google.com/gke-tpu-accelerator": asked.tpu,
                "cloud.google.com/gke-tpu-topology": asked.topology,
            }
        if asked.gpus:
            pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        volume = {"name": "workdir", "persistentVolumeClaim": {"claimName": asked.claim}}
        return {**pod, "containers": [container], "volumes": [volume]}

    def _resources(self) -> dict[str, str]:
        asked, chips = self._asked, self._chips
        wanted = {"cpu": asked.cpus, "memory": asked.memory}
        wanted |= {"nvidia.com/gpu": asked.gpus, "google.com/tpu": chips and chips // asked.hosts}
        return {name: str(amount) for name, amount in wanted.items() if amount}

    @property
    def _chips(self) -> int:
        return math.prod(map(int, self._asked.topology.split("x"))) if self._asked.tpu else 0

    def _check(self) -> None:
        asked = self._asked
        for name in ("image", "claim"):
            if not getattr(asked, name):
                raise UserError(name, "nothing", f"this engine needs it: give --{name}", Code.MISSING)
        if not re.fullmatch(IMAGE, asked.image):
            raise UserError("image", asked.image, "must be the name of a container image, in lower case")
        for name, text in {"mount": asked.mount, "claim_path": asked.claim_path, **self._worker}.items():
            if not str(text).isprintable():
                raise UserError(name, text, "must be printable characters")
        if asked.namespace and not re.fullmatch(LABEL, asked.namespace):
            raise UserError("namespace", asked.namespace, "must be lower-case letters, digits and hyphens, 63 at most")
        for name, text, most in (("claim", asked.claim, 253), ("queue", asked.queue, 63)):  # the queue is a label too
            if text and not (re.fullmatch(NAME, text) and len(text) <= most):
                raise UserError(name, text, f"must be lower-case letters, digits, hyphens and dots, {most} at most")
        for name, text in (("cpus", asked.cpus), ("memory", asked.memory)):
            if text and not (QUANTITY.fullmatch(text) and float(text.rstrip("mkKMGTPi")) > 0):
                raise UserError(name, text, "must be a quantity above 0, such as 8, 500m or 32Gi")
        if (asked.memory or "").endswith("m"):
            raise UserError("memory", asked.memory, "is in thousandths of a byte; write 500Mi for mebibytes")
        counts = {"pods": (asked.pods, 1), "hosts": (asked.hosts, 1), "gpus": (asked.gpus, 0)}
        counts |= {"backoff": (asked.backoff, 0), "grace": (asked.grace, 0)}
        for name, (count, least) in counts.items():
            if not least <= count <= 9999:
                raise UserError(name, count, f"must be from {least} to 9999")
        self._check_paths()
        self._check_slice()
        self._check_workers()

    def _check_workers(self) -> None:
        _workers.check(self._worker)
        if self._asked.hosts == 1:
            return
        remedy = "the pods of a group train every run together, one worker each; leave it out"
        if int(self._worker["workers"] or 1) > 1:
            raise UserError("workers", self._worker["workers"], remedy, Code.CONFLICT)
        if self._worker["ensemble"] not in (None, "auto", "1"):
            raise UserError("ensemble", self._worker["ensemble"], remedy, Code.CONFLICT)

    def _check_paths(self) -> None:
        mount, path = self._asked.mount, self._asked.claim_path
        if not mount.startswith("/") or ":" in mount or ".." in mount.split("/") or not mount.strip("/"):
            raise UserError("mount", mount, "must be an absolute path without .. and colons, below the root")
        if path.startswith("/") or ".." in path.split("/"):
            raise UserError("claim_path", path, "must be a path inside the claim")
        if not path and not self.workdir.absolute().name.isprintable():
            raise UserError("workdir", self.workdir, "must be printable characters; or give --claim_path")

    def _check_slice(self) -> None:
        tpu, topology, hosts = self._asked.tpu, self._asked.topology, self._asked.hosts
        if bool(tpu) != bool(topology):
            name = "topology" if tpu else "tpu"
            raise UserError(name, "nothing", "TPUs need --tpu and --topology", Code.MISSING)
        if not tpu:
            return
        if tpu not in TPUS:
            raise UserError("tpu", tpu, choose(tpu, TPUS), Code.UNKNOWN)
        if not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", topology):
            raise UserError("topology", topology, "must be like 2x4 or 2x2x1")
        if self._asked.gpus:
            raise UserError("gpus", self._asked.gpus, "a pod has GPUs or TPUs", Code.CONFLICT)
        if self._chips % hosts:
            remedy = f"the {self._chips} chips of {topology} cannot be divided among them"
            raise UserError("hosts", hosts, remedy, Code.CONFLICT)


def dns_name(study: str, path: str) -> str:
    """A name for a study in a directory: a DNS label of at most 41 characters, another for every study and directory.

    It begins with a letter, as names of services must, and leaves room for the suffixes that a JobSet appends to it.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", study.lower()).strip("-")[:24].strip("-")
    digest = hashlib.sha256(f"{study}\0{path}".encode()).hexdigest()[:8]
    return "-".join(filter(None, ("scaling", plain, digest)))


def to_yaml(value: JSON) -> str:
    """A manifest as YAML. All strings are in double quotes: ``no`` and ``1e3`` are strings in every version of YAML."""
    return "\n".join(_lines(value)) + "\n"


def _lines(value: JSON) -> Iterator[str]:
    """The lines of a dictionary or list that is not empty."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        head = f"{key}:" if isinstance(value, dict) else "-"
        if not isinstance(each, dict | list):
            yield f"{head} {_scalar(each)}"
        elif isinstance(value, dict):
            yield head
            yield from (f"  {line}" for line in _lines(each))
        else:
            first, *rest = _lines(each)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)


def _scalar(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False)  # all that is written here is printable, see ``_check``


def _literal(value: JSON) -> str:
    """The value as an argument in which Kubernetes finds no reference to a variable."""
    return str(value).replace("$", "$$")


def _variable(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": _literal(value)}


def _codes(*codes: int) -> dict[str, JSON]:
    return {"containerName": "worker", "operator": "In", "values": sorted(codes)}


def _study(programs: Sequence[ProgramSpec]) -> str:
    if not programs:
        raise UserError("programs", 0, "nothing is left to train", Code.MISSING)
    return programs[0].runs[0].manifest.study


def _kubectl(namespace: str | None, *arguments: str, given: str = "") -> str:
    """What kubectl prints.

    Raises:
      UserError: it is not installed, does not answer, or refuses (ENVIRONMENT).
    """
    command = ["kubectl", *([f"--namespace={namespace}"] if namespace else []), *arguments]
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, errors="replace", timeout=120)
    except FileNotFoundError:
        remedy = "is not on the PATH; --dry_run prints the manifest, for `kubectl create -f -` where it is"
        raise UserError("kubectl", "nothing", remedy, Code.ENVIRONMENT) from None
    except OSError as error:
        remedy = f"cannot be started ({error.strerror})"
        raise UserError("kubectl", arguments[0], remedy, Code.ENVIRONMENT) from error
    except subprocess.TimeoutExpired:
        raise UserError("kubectl", arguments[0], "does not answer; try again", Code.ENVIRONMENT) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:400]
        raise UserError("kubectl", " ".join(arguments[:3]), said, Code.ENVIRONMENT)
    return done.stdout


def _decode(text: str) -> _Status:
    try:
        return msgspec.json.decode(text, type=_Seen).status
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError("kubectl", "get", f"answers what is no status ({error})", Code.ENVIRONMENT) from error


def _condition(status: _Status, *kinds: str) -> _Condition | None:
    return next((each for each in status.conditions if each.type in kinds and each.status == "True"), None)


def _ended(status: _Status) -> bool:
    return _condition(status, "Complete", "Completed", "Failed") is not None


ENGINE = Kubernetes
