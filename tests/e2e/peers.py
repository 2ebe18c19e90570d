"""Other people's clients for tests: from PyPI and npm into folders of the build, kept there. Where an index does not
answer, the test is skipped, loudly."""

import os
import pathlib
import shutil
import subprocess
import sys
import unittest

FOLDER = pathlib.Path(os.environ.get("KVASIR_BIN", "build/release/bin")).resolve().parent / "peers"
INSTALL_SECONDS = 540


def skip(reason):
    print(f"*** {reason}: this test is skipped", file=sys.stderr)
    raise unittest.SkipTest(reason)


def _run(command, **more):
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=INSTALL_SECONDS, check=False, **more)
    if result.returncode != 0:
        raise OSError(result.stdout[-2000:])


def python(name, *packages, interpreter=sys.executable):
    """The interpreter of a virtual environment that holds the packages; named, so that tests can share one."""
    folder = FOLDER / f"python-{name}"
    done = folder / ("have-" + "-".join(packages).replace("/", "_").replace(" ", "")[:200])
    if not done.exists():
        try:
            if not (folder / "bin" / "python").exists():
                _run([interpreter, "-m", "venv", folder])
            _run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
        except (OSError, subprocess.SubprocessError) as error:
            skip(f"{', '.join(map(str, packages))} could not be installed from PyPI ({error})")
        done.touch()
    return folder / "bin" / "python"


def node(name, *packages):
    """A folder whose node_modules holds the packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip("node and npm are not installed (apt-get install nodejs npm)")
    folder = FOLDER / f"node-{name}"
    done = folder / "done"
    if not done.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, *packages], cwd=folder)
        except (OSError, subprocess.SubprocessError) as error:
            skip(f"{', '.join(packages)} could not be installed from npm ({error})")
        done.touch()
    return folder


def environment():
    """This process's, without proxies: peers talk to a daemon on this machine."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def run(command, timeout, **more):
    """Output of a peer; AssertionError with it when the peer failed."""
    result = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=timeout, env={**environment(), **more.pop("variables", {})}, check=False, **more)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))} ended with {result.returncode}\n{result.stdout}")
    return result.stdout


def go(name, package):
    """The program that Go makes of package@version."""
    if shutil.which("go") is None:
        skip("go is not installed")
    program = FOLDER / "go" / name
    if not program.exists():
        try:
            program.parent.mkdir(parents=True, exist_ok=True)
            _run(["go", "install", package], env={**os.environ, "GOBIN": str(program.parent)}, cwd=program.parent)
        except (OSError, subprocess.SubprocessError) as error:
            skip(f"{package} could not be built ({error})")
    return program
