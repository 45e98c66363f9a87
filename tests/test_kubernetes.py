"""The kubernetes engine: manifests that fit the published schemas, for any study; and what it asks of kubectl."""

import json
import os
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import handmade
import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from scaling import cli, distributed
from scaling.engines import _pool, engine, engines, flags
from scaling.engines.kubernetes import PATIENCE, Kubernetes, Submitted, dns_name, to_yaml
from scaling.errors import Code
from scaling.flags import read
from scaling.records import read_typed, write_json
from scaling.worker.main import _parser

VERSIONS = ("1.31", "1.34", kubernetes_validate.latest_version())
DNS = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
NAMES = [
    "demo",
    "Demo",
    "demo_2",
    "...",
    "no",
    "0x1f",
    "7",
    "ü",
    "a" * 100,
    "a b",
    "-x-",
    "$(HOME)",
    "{{x}}",
    'q"\\',
    "é%:#",
]


def program(study: str = "demo", devices: int = 1) -> Any:
    mesh = {"ensemble": 1, "data": devices, "fsdp": 1, "tensor": 1}
    return handmade.program(handmade.manifest("run", study=study), options=handmade.options(mesh=mesh))


def made(workdir: Path = Path("/data/runs/demo"), study: str = "demo", **options: Any) -> dict[str, Any]:
    """The manifest that ``--dry_run`` prints, parsed."""
    chosen = Kubernetes(workdir, **{"image": "lab/scaling:1", "claim": "lab", **options})
    return yaml.safe_load(chosen.preview([program(study, options.get("hosts", 1))]))


def check(manifest: dict[str, Any]) -> dict[str, Any]:
    """Validates a Job, or the Jobs of a JobSet, strictly; its pod's spec. All its names are DNS labels."""
    name = manifest["metadata"]["name"]
    job = manifest
    if manifest["kind"] == "JobSet":
        # Of the JobSet itself there is no schema in the package: its fields are those of jobset.x-k8s.io/v1alpha2.
        assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and set(manifest) == set(KIND)
        assert set(manifest["spec"]) <= {"suspend", "network", "failurePolicy", "replicatedJobs"}
        (replicated,) = manifest["spec"]["replicatedJobs"]
        assert set(replicated) == {"name", "replicas", "template"}
        longest = f"{name}-{replicated['name']}-9999-9999"
        assert DNS.fullmatch(longest) and len(longest) <= 63
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, **replicated["template"]}
    for version in VERSIONS:
        kubernetes_validate.validate(job, version, strict=True)
    assert DNS.fullmatch(name) and len(name) <= 63
    for key, value in manifest["metadata"]["labels"].items():
        assert re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value) and len(value) <= 63, key
    return job["spec"]["template"]["spec"]


KIND = ("apiVersion", "kind", "metadata", "spec")


def test_a_job_of_pods_that_run_the_workers_of_a_machine():
    manifest = made(pods=4, gpus=8, cpus="16", memory="64Gi", namespace="lab", queue="research", max_attempts=5)
    pod = check(manifest)
    spec, (container,) = manifest["spec"], pod["containers"]
    assert manifest["kind"] == "Job" and spec["completionMode"] == "Indexed" and spec["suspend"] is True
    assert spec["completions"] == spec["parallelism"] == 4 and spec["backoffLimitPerIndex"] == 3
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert manifest["metadata"]["namespace"] == "lab" and pod["restartPolicy"] == "Never"
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "8"}
    assert container["command"] == ["python", "-P", "-m", "scaling.engines._pool"]
    flags = read(_pool.FLAGS, container["args"]).flags
    assert flags["workdir"] == "/mnt/scaling/demo" and flags["max_attempts"] == 5
    assert str(flags["label"]).endswith("$(JOB_COMPLETION_INDEX)")
    assert pod["volumes"] == [{"name": "workdir", "persistentVolumeClaim": {"claimName": "lab"}}]
    actions = {
        tuple(rule.get("onExitCodes", {}).get("values", ())): rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
    }
    assert actions == {(): "Ignore", (75, 76): "Ignore", (2,): "FailJob"}
    assert "suspend" not in made()["spec"] and "namespace" not in made()["metadata"]


def test_a_jobset_of_groups_whose_pods_find_each_other():
    manifest = made(pods=3, hosts=4, tpu="tpu-v5-lite-podslice", topology="4x4")
    pod = check(manifest)
    (replicated,), (container,) = manifest["spec"]["replicatedJobs"], pod["containers"]
    assert manifest["spec"]["failurePolicy"]["rules"][0]["action"] == "FailJobSet"  # where a person is needed
    assert replicated["replicas"] == 3 and replicated["template"]["spec"]["completions"] == 4
    assert container["resources"]["limits"] == {"google.com/tpu": "4"}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert "alpha.jobset.sigs.k8s.io/exclusive-topology" in manifest["metadata"]["annotations"]
    assert container["command"] == ["python", "-P", "-m", "scaling.worker"]
    # What the second pod of the third group makes of its environment, with references expanded as the kubelet does.
    known = {"JOB_INDEX": "2", "JOB_COMPLETION_INDEX": "1"}
    environ = dict(known)
    for variable in container["env"]:
        if "value" in variable:
            environ[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], variable["value"])
    name = manifest["metadata"]["name"]
    group = distributed.detect(environ)
    assert group is not None and (group.processes, group.process) == (4, 1)
    assert group.coordinator == f"{name}-workers-2-0.{name}:{distributed.PORT}"
    options = _parser().parse_args([re.sub(r"\$\((\w+)\)", lambda m: known[m[1]], text) for text in container["args"]])
    assert str(options.workdir) == "/mnt/scaling/demo" and options.label == f"{name}-2-1"


@pytest.mark.parametrize("study", NAMES)
@pytest.mark.parametrize("hosts", [1, 2])
def test_names_of_any_study(study, hosts):
    manifest = made(Path("/data") / study.replace("/", "_"), study, hosts=hosts)
    check(manifest)
    assert manifest["metadata"]["annotations"]["scaling/study"] == study


def test_other_studies_and_other_folders_have_other_names():
    assert len({dns_name(study, "/w") for study in NAMES}) == len(NAMES)
    assert dns_name("demo", "/w/a") != dns_name("demo", "/w/b") and dns_name("demo", "/w") == dns_name("demo", "/w")


@pytest.mark.system
@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=("C", "Zl", "Zp", "Zs")), min_size=1, max_size=60))
def test_every_string_is_read_as_it_was_written(text):
    value = {"a": text, "b": [text, {"c": text, "d": 1}, ["x", text]], "e": True}
    assert yaml.safe_load(to_yaml(value)) == value
    check(made(study=text, execute=text))


def test_nothing_of_this_machine_is_in_a_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SECRET_THING", "hidden")
    workdir = tmp_path / "demo"
    text = Kubernetes(workdir, image="i", claim="c").preview([program()])
    for own in (str(tmp_path), os.uname().nodename, sys.prefix, str(Path.home()), "hidden"):
        assert own not in text or own == "/"
    assert text == Kubernetes(Path("/elsewhere/demo"), image="i", claim="c").preview([program()])


def test_a_reference_to_a_variable_in_a_value_is_none():
    """Kubernetes would replace $(NAME); $$(NAME) is how it is written."""
    (container,) = check(made(claim_path="runs/$(HOME)", cache="/x/$(HOME)"))["containers"]
    assert "--workdir=/mnt/scaling/runs/$$(HOME)" in container["args"] and "--cache=/x/$$(HOME)" in container["args"]


@pytest.mark.parametrize(
    ("options", "code", "field"),
    [
        ({"image": None}, Code.MISSING, "image"),
        ({"claim": None}, Code.MISSING, "claim"),
        ({"image": "a b"}, Code.INVALID, "image"),
        ({"image": "Lab/scaling"}, Code.INVALID, "image"),
        ({"image": "-x"}, Code.INVALID, "image"),
        ({"image": "lab/scaling:1;id"}, Code.INVALID, "image"),
        ({"claim": "Lab"}, Code.INVALID, "claim"),
        ({"claim": "a..b"}, Code.INVALID, "claim"),
        ({"namespace": "a.b"}, Code.INVALID, "namespace"),
        ({"queue": "x" * 64}, Code.INVALID, "queue"),
        ({"cpus": "many"}, Code.INVALID, "cpus"),
        ({"cpus": "0"}, Code.INVALID, "cpus"),
        ({"memory": "-1"}, Code.INVALID, "memory"),
        ({"memory": "500m"}, Code.INVALID, "memory"),
        ({"pods": 0}, Code.INVALID, "pods"),
        ({"hosts": 10000}, Code.INVALID, "hosts"),
        ({"workers": 0}, Code.INVALID, "workers"),
        ({"max_attempts": 0}, Code.INVALID, "max_attempts"),
        ({"ensemble": "many"}, Code.INVALID, "ensemble"),
        ({"hosts": 2, "workers": 3}, Code.CONFLICT, "workers"),
        ({"hosts": 2, "ensemble": "4"}, Code.CONFLICT, "ensemble"),
        ({"gpus": -1}, Code.INVALID, "gpus"),
        ({"mount": "relative"}, Code.INVALID, "mount"),
        ({"mount": "/a/../b"}, Code.INVALID, "mount"),
        ({"mount": "/"}, Code.INVALID, "mount"),
        ({"claim_path": "../other"}, Code.INVALID, "claim_path"),
        ({"claim_path": "/abs"}, Code.INVALID, "claim_path"),
        ({"tpu": "tpu-v5p-slice"}, Code.MISSING, "topology"),
        ({"topology": "2x4"}, Code.MISSING, "tpu"),
        ({"tpu": "tpu-v9", "topology": "2x4"}, Code.UNKNOWN, "tpu"),
        ({"tpu": "tpu-v5p-slice", "topology": "2x"}, Code.INVALID, "topology"),
        ({"tpu": "tpu-v5p-slice", "topology": "2x4", "gpus": 1}, Code.CONFLICT, "gpus"),
        ({"tpu": "tpu-v5p-slice", "topology": "2x4", "hosts": 3}, Code.CONFLICT, "hosts"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_before(options, code, field):
    with refuses(code, field):
        made(**options)


def test_the_command_prints_the_manifest_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["run", "--config=demo:smoke", "--workdir=runs/x", "--engine=kubernetes", "--dry_run"]
    assert cli.main([*command, "--image=lab/scaling", "--claim=lab"]) == 0
    check(yaml.safe_load(capsys.readouterr().out))
    assert list(tmp_path.iterdir()) == []


KUBECTL = """#!{python}
import json, os, sys
from pathlib import Path
place, given = Path(__file__).parent, "" if "create" not in sys.argv else sys.stdin.read()
with (place / "asked.jsonl").open("a") as file:
    file.write(json.dumps([sys.argv[1:], given]) + "\\n")
if (place / "refuses").exists():
    sys.exit("error: the server is away")
job = place / "job.json"
if "create" in sys.argv:
    job.write_text(json.dumps({{"status": {{"active": 2}}}}))
elif "delete" in sys.argv and job.exists():
    job.unlink()
    print("deleted")
elif "get" in sys.argv and job.exists():
    print(job.read_text())
"""


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a stand-in for kubectl, which is on the PATH: it keeps one job, and notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
    (folder / "kubectl").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("scaling.engines.kubernetes.LOOK", 0.0)
    return folder


def asked(folder: Path) -> list[list[str]]:
    return [json.loads(line)[0] for line in (folder / "asked.jsonl").read_text().splitlines()]


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[[], Kubernetes]:
    workdir = tmp_path / "demo"
    write_json(workdir / "study.json", handmade.study(program()))
    return lambda: Kubernetes(workdir, image="i", claim="c", namespace="lab", pods=2)


def test_a_job_is_created_followed_and_withdrawn(kubectl, chosen):
    first = chosen()
    first.submit([program()])
    given = json.loads((kubectl / "asked.jsonl").read_text().splitlines()[-1])[1]
    check(yaml.safe_load(given))
    job = read_typed(first.workdir / "kubernetes.json", Submitted)
    assert job == Submitted("job", yaml.safe_load(given)["metadata"]["name"], "lab")
    assert first.poll().workers == 2 and not first.poll().finished
    before = len(asked(kubectl))
    chosen().submit([program()])  # another launcher: the job is there, and is followed
    assert [words[1] for words in asked(kubectl)[before:]] == ["get"]
    (kubectl / "job.json").write_text('{"status": {"conditions": [{"type": "Complete", "status": "True"}]}}')
    assert first.poll().finished and first.poll().problem is None
    chosen().submit([program()])  # one that has ended is replaced
    assert [words[1] for words in asked(kubectl)[-3:]] == ["get", "delete", "create"]
    assert engine("kubernetes").withdraw(first.workdir) == [job.name]
    assert engine("kubernetes").withdraw(first.workdir) == [] and all(
        "--namespace=lab" in words for words in asked(kubectl)
    )


@pytest.mark.parametrize(
    "image", ["i", "lab/scaling:1.2_a", "Registry.lab:5000/a/b__c@sha256:" + "0f" * 32, "localhost/a-b.c"]
)
def test_names_that_a_cluster_has_are_taken(image):
    about = check(made(image=image, claim="team.data", queue="team.gpus"))
    assert about["volumes"][0]["persistentVolumeClaim"]["claimName"] == "team.data"


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "namespaces", "name": "prod", "namespace": None},
        {"kind": "job", "name": "--all", "namespace": "lab"},
        {"kind": "job", "name": "billing", "namespace": "lab"},
        {"kind": "job", "name": "scaling-a\n", "namespace": None},
        {"kind": "job", "name": "scaling-a", "namespace": "--context=prod"},
        [],
    ],
)
def test_cancel_deletes_nothing_but_jobs_of_ours(kubectl, chosen, record, monkeypatch):
    """The record lies in a folder that others may write to. It keeps no other engine from ending its jobs."""
    workdir = chosen().workdir
    (workdir / "kubernetes.json").write_text(json.dumps(record))
    withdrawn: list[Path] = []
    monkeypatch.setattr(engine("slurm"), "withdraw", lambda workdir, force: withdrawn.append(workdir) or ["7"])
    assert cli.main(["cancel", str(workdir)]) == 2
    assert not (kubectl / "asked.jsonl").exists() and withdrawn == [workdir]


def test_a_job_that_is_gone_is_not_followed(kubectl, chosen):
    first = chosen()
    first.submit([program()])
    engine("kubernetes").withdraw(first.workdir)
    pool = first.poll()
    assert pool.finished and pool.problem is not None and pool.problem.field == "job"


def test_the_mesh_must_have_a_part_in_every_host(tmp_path):
    group = Kubernetes(tmp_path, image="i", claim="c", hosts=4, pods=3)
    with refuses(Code.ENVIRONMENT, "mesh"):
        group.check([program()])
    group.check([program(devices=16)])
    assert group.size == 3 and Kubernetes(tmp_path, image="i", claim="c", pods=3, workers=8).size == 24


def test_a_job_that_failed_is_told(kubectl, chosen):
    first = chosen()
    first.submit([program()])
    failed = {"type": "Failed", "status": "True", "message": "PodFailurePolicy"}
    (kubectl / "job.json").write_text(json.dumps({"status": {"conditions": [failed]}}))
    pool = first.poll()
    assert pool.finished and pool.problem is not None and pool.problem.code is Code.ENVIRONMENT


def test_a_server_that_does_not_answer_for_a_while_ends_nothing(kubectl, chosen):
    first = chosen()
    first.submit([program()])
    assert first.poll().workers == 2
    (kubectl / "refuses").touch()
    seen = [first.poll() for _ in range(PATIENCE)]
    assert all(pool.workers == 2 and not pool.finished for pool in seen[:-1])
    assert seen[-1].finished and seen[-1].problem is not None and seen[-1].problem.field == "kubectl"


def test_without_kubectl_the_manifest_is_the_way(chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with refuses(Code.ENVIRONMENT, "kubectl"):
        chosen().submit([program()])
    assert chosen().preview([program()])


@pytest.mark.parametrize(
    "text", ["no program", "#!/no/such/interpreter\n", "#!/bin/sh\nprintf '\\377 no' >&2\nexit 1\n"]
)
def test_a_kubectl_that_cannot_run_or_speaks_oddly_is_one_line(kubectl, chosen, text):
    (kubectl / "kubectl").write_text(text)
    with refuses(Code.ENVIRONMENT, "kubectl"):
        chosen().submit([program("one")])


def test_one_question_a_while(kubectl, chosen, monkeypatch):
    first = chosen()
    first.submit([program()])
    monkeypatch.setattr("scaling.engines.kubernetes.LOOK", 60.0)
    before = len(asked(kubectl))
    assert [first.poll().workers for _ in range(5)] == [2] * 5 and len(asked(kubectl)) == before + 1


def test_a_flag_that_engines_share_means_the_same_to_all():
    """The command line lists it once, so another default of one engine would reach the others."""
    meanings: dict[str, set[tuple[Any, ...]]] = {}
    for name in engines():
        for flag in flags(name):
            meanings.setdefault(flag.name, set()).add((flag.kind, flag.help, flag.default))
    assert all(len(each) == 1 for each in meanings.values()), meanings
