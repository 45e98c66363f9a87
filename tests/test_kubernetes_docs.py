"""docs/kubernetes.md: its files are YAML, its commands are those of the command line, its shell says who is who."""

import os
import re
import shlex
import stat
import subprocess
from pathlib import Path

import handmade
import pytest
import yaml
from test_kubernetes import check

from scaling import cli, distributed
from scaling.engines.kubernetes import Kubernetes
from scaling.verbs._training import engine_options

PAGE = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TASKS = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
SHELL = [text for kind, text in BLOCKS if kind == "bash"] + [task["run"] for task in TASKS]
COMMANDS = re.findall(r"^ *(scaling .*)$", PAGE.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command):
    verb, *arguments = shlex.split(command)[1:]
    options = cli.parse(verb, arguments)
    if verb == "run" and options.engine == "kubernetes":
        made = Kubernetes(Path(options.workdir), **engine_options(options))
        mesh = {} if options.config is None else options.config.mesh.to_dict()
        one = handmade.program(handmade.manifest("run"), options=handmade.options(mesh=mesh))
        check(yaml.safe_load(made.preview([one])))


def test_the_page_has_what_it_promises():
    assert {task["name"] for task in TASKS} == {"scaling-demo", "scaling-large"} and len(SHELL) == 3
    assert sum("--engine=kubernetes" in command for command in COMMANDS) == 3
    known = {"name", "num_nodes", "resources", "volumes", "setup", "run"}  # of SkyPilot's specification of a task
    assert all(set(task) <= known and task["num_nodes"] == 2 for task in TASKS)


CURL = """#!/bin/sh
case "$*" in
  *agent-worker-number) echo 2;;
  *worker-network-endpoints) echo unset:unset:10.0.0.5,unset:unset:10.0.0.6;;
esac
"""


@pytest.mark.parametrize("script", SHELL)
def test_the_shell_tells_each_process_its_group(tmp_path, script):
    (tmp_path / "curl").write_text(CURL)
    (tmp_path / "scaling").write_text("#!/bin/sh\nenv\n")
    for name in ("curl", "scaling"):
        (tmp_path / name).chmod(stat.S_IRWXU)
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8"}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **nodes}
    done = subprocess.run(["bash", "-euc", script], env=environment, capture_output=True, text=True, check=True)
    environ = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    group = distributed.detect(environ)
    if "SCALING_PROCESSES" not in script:
        assert group is None
    elif "metadata" in script:
        assert group == distributed.Group("10.0.0.5:55527", 4, 2)
    else:
        assert group == distributed.Group("10.0.0.7:55527", 2, 1)
