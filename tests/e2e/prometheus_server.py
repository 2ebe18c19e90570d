"""The real prometheus, from Debian's package, with the repository's scrape configuration and rules."""

import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.parse
import urllib.request

import yaml

import harness
from harness import ROOT, wait_until

DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "kvasir.rules.yml"


def need(program):
    path = shutil.which(program)
    if path is None:
        print(f"*** {program} is not installed: this test is skipped", file=sys.stderr)
        raise unittest.SkipTest(f"{program} is not installed")
    return path


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PrometheusServer:
    """Scrapes the given targets, with the shipped rules; a context manager."""

    def __init__(self, targets, interval="200ms"):
        self.folder = tempfile.TemporaryDirectory()
        folder = pathlib.Path(self.folder.name)
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "500ms"}
        config["rule_files"] = [str(RULES)]
        config["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.address = f"127.0.0.1:{free_port()}"
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [need("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address={self.address}"], stdout=self.log, stderr=subprocess.STDOUT)
        try:
            wait_until(self._ready, "prometheus is ready")
        except AssertionError:
            self.__exit__()
            raise

    def _ready(self):
        assert self.process.poll() is None, "prometheus ended"
        try:
            return urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5).status == 200
        except OSError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self.process.terminate()
        self.process.wait(harness.PATIENCE_SECONDS)
        self.log.close()
        self.folder.cleanup()

    def get(self, path, **parameters):
        url = f"http://{self.address}{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=harness.PATIENCE_SECONDS) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        return self.get("/api/v1/query", query=expression)["result"]
