"""Programs of Debian that system tests run: installed if they are not here, else the tests skip and say why."""

import functools
import os
import shutil
import subprocess

import pytest


@functools.cache
def program(names: tuple[str, ...], packages: tuple[str, ...]) -> str:
    """The path of a program, of which any of ``names`` will do; its packages are installed where root may."""
    if path := _found(names):
        return path
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.skip(f"needs {names[0]}, or root and apt-get to install it")
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    said = ""
    for before in ((), ("apt-get", "update", "-q")):
        if before:
            subprocess.run(before, capture_output=True, timeout=300)
        done = subprocess.run(install, capture_output=True, text=True, timeout=600)
        if done.returncode == 0 and (path := _found(names)):
            return path
        said = done.stderr.strip()[-200:]
    pytest.skip(f"{names[0]} cannot be installed: {said}")


def _found(names: tuple[str, ...]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)
