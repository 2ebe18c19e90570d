"""Every call of reloads, of loads and unloads of models, and of scrapes fails in turn while one daemon serves: the N-th open,
read, map, allocation, ... for all N until an attempt makes no more such calls (fault_shim.cc). After each: the daemon lives,
the tokens of a probe are the same, what failed is told by one log line and one counter and changed nothing, and the same
attempt undisturbed succeeds.

KVASIR_FAULT_STRIDE: every so many calls, 1 tries all of them. KVASIR_FAULT_FUNCTIONS: only these."""

import errno
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum, wait_until
from tenant_client import KEYS, TenantClient

import grpc
from kvasir.v1 import admin_pb2

SHIM = pathlib.Path(os.environ.get("KVASIR_FAULT_SHIM", harness.ROOT / "build" / "release" / "lib" / "libfault_shim.so"))
STRIDE = min(int(os.environ.get("KVASIR_FAULT_STRIDE", "48")), 8)
ONLY = set(filter(None, os.environ.get("KVASIR_FAULT_FUNCTIONS", "").split(",")))
MOST_CALLS = 2000


class Faults:
    """Which call fails, told to the shim while its daemon runs."""

    def __init__(self, folder, below):
        self.path, self.armed = pathlib.Path(folder, "faults"), pathlib.Path(folder, "armed")
        self.armed.touch()
        self.below = below
        self.path.write_bytes(bytes(64))

    def environment(self):
        return {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": str(self.below), "FAULT_FUNCTION": "*",
                "FAULT_COUNT": str(self.path), "FAULT_ARMED": str(self.armed)}

    def set(self, function="", call=0, error=errno.EIO):
        with open(self.path, "r+b") as file:  # in place, for it is mapped; the name last
            file.seek(24)
            file.write(bytes(40))
            file.flush()
            file.seek(0)
            file.write(struct.pack("=qqq", 0, call, error) + function.encode())

    def count(self):
        return struct.unpack("=q", self.path.read_bytes()[:8])[0]


class ServingTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def each(self, faults, functions, attempt):
        """attempt(disturbed) for each call of each function."""
        total = 0
        for function, error in functions:
            if ONLY and function not in ONLY:
                continue
            for call in range(1, MOST_CALLS, STRIDE):
                with self.subTest(function=function, call=call, error=errno.errorcode[error]):
                    faults.set(function, call, error)
                    attempt(faults)
                    made = faults.count()
                    faults.set()
                    if made < call:
                        break
                    total += 1
                    self.assertLess(call, MOST_CALLS - STRIDE, function)
        print(f"{self._testMethodName}: {total} faults")
        self.assertGreater(total, 0)

    def probe(self, client):
        text = list(client.generate(greedy([5, 6, 7], max_tokens=6)).token_ids[0])
        self.__dict__.setdefault("usual", text)
        self.assertEqual(text, self.usual)


FILES = [("open", errno.EMFILE), ("openat", errno.EMFILE), ("fopen", errno.EMFILE), ("read", errno.EIO), ("pread", errno.EIO),
         ("fstat", errno.EIO), ("stat", errno.EACCES), ("opendir", errno.ENOMEM), ("fdopendir", errno.ENOMEM),
         ("readdir", errno.EIO), ("mmap_file", errno.ENOMEM)]


class ReloadTest(ServingTest):
    """Configuration, keys and TLS files by SIGHUP and by their own clock."""

    def text(self, tenants):
        return json.dumps({
            "models": [{"name": BUNDLED, "path": str(BUNDLED_FOLDER), "kv_cache": {"capacity_bytes": "16MiB"}}],
            "tenants": [{"id": name, "key_file": str(self.folder / f"files/{name}.key"), "admin": name == "operator"}
                        for name in tenants]})

    def test_configuration_and_keys(self):
        files = self.folder / "files"
        files.mkdir()
        for name, key in KEYS.items():
            (files / f"{name}.key").write_text(key + "\n")
        config = files / "kvasird.json"
        faults = Faults(self.folder, files)
        config.write_text(self.text(["operator", "team-a"]))
        with Daemon("--config", config, models={}, environment=faults.environment()) as daemon:
            with TenantClient(daemon, KEYS["operator"]) as operator, TenantClient(daemon, KEYS["team-b"]) as new:
                def refused():
                    return sample_sum(daemon.metrics(), "kvasir_reloads_total", what="configuration", result="refused")

                def lines(what):
                    return sum(what in line for line in daemon.log_lines)

                def reload():
                    before = lines("reloaded tenants") + lines("reload failed")
                    daemon.signal(signal.SIGHUP)
                    wait_until(lambda: lines("reloaded tenants") + lines("reload failed") > before, "it is answered")

                def knows_new():
                    try:
                        self.probe(new)
                    except grpc.RpcError as error:
                        self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
                        return False
                    return True

                def attempt(faults):
                    told, failed = refused(), lines("reload failed")
                    config.write_text(self.text(["operator", "team-a", "team-b"]))
                    reload()
                    was_refused = lines("reload failed") - failed
                    self.assertEqual(refused() - told, was_refused)
                    self.assertEqual(knows_new(), not was_refused)
                    self.probe(operator)
                    made = faults.count()
                    faults.set()
                    reload()
                    self.assertTrue(knows_new())
                    config.write_text(self.text(["operator", "team-a"]))
                    reload()
                    self.assertFalse(knows_new())
                    with open(faults.path, "r+b") as file:  # what the disturbed one made
                        file.write(struct.pack("=q", made))

                self.each(faults, FILES, attempt)
                self.assertEqual(daemon.stop(), 0)

    def test_tls_files(self):
        from tls_test import Authority
        files = self.folder / "files"
        files.mkdir()
        authority = Authority(files)
        pairs = [authority.issue("one"), authority.issue("two")]
        certificate, key = files / "server.crt", files / "server.key"

        def put(pair):
            for source, target in zip(pair, (certificate, key)):
                target.with_suffix(".new").write_bytes(source.read_bytes())
                os.replace(target.with_suffix(".new"), target)
        put(pairs[0])
        faults = Faults(self.folder, files)
        config = f"""
server: {{tls: {{certificate_file: {certificate}, private_key_file: {key}, reload_seconds: 1}}}}
models:
  - {{name: {BUNDLED}, path: {BUNDLED_FOLDER}, kv_cache: {{capacity_bytes: 16MiB}}}}
"""
        with Daemon(config=config, environment=faults.environment()) as daemon:
            def told(what, result):
                return sample_sum(daemon.metrics(), "kvasir_reloads_total", what=what, result=result)

            def lines():
                return sum("those read before stay in use" in line for line in daemon.log_lines)

            def served(address):
                host, port = address.rsplit(":", 1)
                run = subprocess.run(["openssl", "s_client", "-connect", f"{host}:{port}"], input="", capture_output=True,
                                     text=True, check=False)
                match = re.search(r"subject=.*CN ?= ?(\w+)", run.stdout)
                return match and match.group(1)

            turn = [0]

            def attempt(faults):
                turn[0] += 1
                taken = {what: told(what, "taken") for what in ("grpc_tls", "http_tls")}
                refused, logged = sum(told(what, "refused") for what in taken), lines()
                put(pairs[turn[0] % 2])
                wait_until(lambda: all(told(what, "taken") > taken[what] for what in taken), "both take it in the end")
                self.assertEqual(sum(told(what, "refused") for what in taken) - refused, lines() - logged)
                name = ("one", "two")[turn[0] % 2]
                for address in (daemon.grpc_address, daemon.http_address):
                    wait_until(lambda: served(address) == name, f"{address} has the certificate of {name}")

            self.each(faults, [entry for entry in FILES if entry[0] not in ("opendir", "fdopendir", "readdir")], attempt)
            self.assertGreater(lines(), 0)
            self.assertEqual(daemon.stop(), 0)


class LoadTest(ServingTest):
    """A model is loaded and unloaded beside another."""

    def test_load_and_unload(self):
        files = self.folder / "guest"
        files.mkdir()
        for path in BUNDLED_FOLDER.iterdir():
            (files / path.name).write_bytes(path.read_bytes())
        faults = Faults(self.folder, files)
        with Daemon(environment=faults.environment(), kv_capacity="16MiB") as daemon:
            def figures():
                samples = daemon.metrics()
                return [sample_sum(samples, "kvasir_model_loads_total", result=result) for result in ("ready", "failed")]

            def lines():
                return sum("model could not be loaded" in line for line in daemon.log_lines)

            def load():
                daemon.admin.LoadModel(admin_pb2.LoadModelRequest(
                    name="guest", path=str(files), wait=True, options="kv_cache: {capacity_bytes: 8MiB}"), timeout=120)
                reply = daemon.generate(greedy([5, 6, 7], max_tokens=6, model="guest"))
                self.assertEqual(list(reply.token_ids[0]), self.usual)

            def unload():
                daemon.admin.UnloadModel(admin_pb2.UnloadModelRequest(name="guest"), timeout=120)

            def attempt(faults):
                (ready, failed), logged = figures(), lines()
                try:
                    load()
                    expected = (ready + 1, failed)
                except grpc.RpcError as error:
                    self.assertNotIn(error.code(), (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL), error.details())
                    self.assertTrue(error.details())
                    expected = (ready, failed + 1)
                    made = faults.count()
                    faults.set()
                    wait_until(lambda: lines() == logged + 1, "one line says why")
                    load()
                    expected = (ready + 1, failed + 1)
                    with open(faults.path, "r+b") as file:
                        file.write(struct.pack("=q", made))
                self.assertEqual(tuple(figures()), expected)
                self.assertEqual(lines() - logged, expected[1] - failed)
                self.probe(daemon)
                unload()

            self.probe(daemon)
            load()
            unload()
            before = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
            self.each(faults, FILES + [("mmap", errno.ENOMEM), ("pthread_create", errno.EAGAIN), ("new", errno.ENOMEM)], attempt)
            self.assertLessEqual(len(os.listdir(f"/proc/{daemon.process.pid}/fd")), before + 4)
            self.assertEqual(daemon.stop(), 0)


class ScrapeTest(ServingTest):
    def each_scrape(self, below, functions, counted):
        faults = Faults(self.folder, below)
        with Daemon(environment=faults.environment(), kv_capacity="16MiB") as daemon:
            daemon.metrics()

            def unread():
                return sample_sum(daemon.metrics(), "kvasir_process_figures_unread_total")

            def attempt(faults):
                before = unread() if counted else 0
                faults.set(faults.function, faults.call, faults.error)  # what is above made calls too
                usual = None
                try:
                    usual = daemon.metrics()
                except (OSError, urllib.error.URLError):
                    self.assertFalse(counted, "a scrape has what can be read")
                reached = faults.count() >= faults.call
                made = faults.count()
                faults.set()
                after = daemon.metrics()
                if counted and reached:
                    told = sample_sum(after, "kvasir_process_figures_unread_total") - before
                    self.assertIn(told, (0, 1))  # none: it was a read of what looks after the heap
                    # Left out and counted, or as before; never nothing.
                    for name in ("process_open_fds", "process_resident_memory_bytes", "kvasir_usable_memory_bytes"):
                        if name not in usual:
                            self.assertEqual(told, 1, name)
                        else:
                            self.assertGreater(usual[name], after[name] / 2, name)
                            self.assertLess(usual[name], after[name] * 2, name)
                self.probe(daemon)
                with open(faults.path, "r+b") as file:
                    file.write(struct.pack("=q", made))

            plain_set = faults.set

            def remembering(function="", call=0, error=errno.EIO):
                if function:
                    faults.function, faults.call, faults.error = function, call, error
                plain_set(function, call, error)
            faults.set = remembering
            self.each(faults, functions, attempt)
            if counted:
                self.assertGreater(sum("left out of /metrics" in line for line in daemon.log_lines), 0)
            self.assertEqual(daemon.stop(), 0)

    def test_figures_of_the_process(self):
        self.each_scrape("/proc", [("fopen", errno.EMFILE), ("open", errno.EMFILE), ("opendir", errno.EMFILE),
                                   ("openat", errno.EMFILE), ("fdopendir", errno.ENOMEM)], True)

    def test_limits_of_control_groups(self):
        if not pathlib.Path("/sys/fs/cgroup").exists():
            self.skipTest("no control groups")
        self.each_scrape("/sys", [("open", errno.EMFILE), ("read", errno.EIO)], True)

    def test_connections(self):
        self.each_scrape("/nowhere", [("accept", errno.EMFILE), ("accept", errno.ECONNABORTED), ("send", errno.EPIPE),
                                      ("send", errno.ENOBUFS), ("recv", errno.ECONNRESET), ("epoll_ctl", errno.ENOSPC)], False)


if __name__ == "__main__":
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
