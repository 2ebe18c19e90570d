"""A daemon that serves, and the system that says no in the middle of what an operator asks of it: reloads of the configuration,
of key files and of TLS files, loads and unloads of models by calls and by the file, and scrapes. Every open, read, stat, map,
write, thread and allocation of 64 KiB and more that these make fails in turn (fault_shim.cc). After each: the daemon serves, the
streams beside keep their tokens, what was there before is kept, descriptors, threads and maps are given back, and one log line
and one counter tell.

KVASIR_FAULT_STRIDE, KVASIR_FAULT_FIRST and KVASIR_FAULT_FUNCTIONS as in fault_test.py."""

import collections
import contextlib
import errno
import http.client
import mmap
import os
import pathlib
import re
import shutil
import signal
import ssl
import struct
import sys
import tempfile
import threading
import unittest
import urllib.error
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum, wait_until
from models_test import FAILED, READY, health, load, model_of, states, unload
from tenant_client import KEYS, TenantClient
from tls_test import Authority

import grpc
from kvasir.v1 import generation_pb2, session_pb2

SHIM = pathlib.Path(os.environ.get("KVASIR_FAULT_SHIM", harness.ROOT / "build" / "release" / "lib" / "libfault_shim.so"))
STRIDE = int(os.environ.get("KVASIR_FAULT_STRIDE", "12"))
FIRST = int(os.environ.get("KVASIR_FAULT_FIRST", "1"))
ONLY = set(filter(None, os.environ.get("KVASIR_FAULT_FUNCTIONS", "").split(",")))
MOST_CALLS = 1000  # of one function in one attempt; one that makes more has grown, and this with it

OPENING = [errno.EMFILE, errno.EIO, errno.ENFILE, errno.ENOMEM]
FILES = [("open", OPENING), ("fopen", OPENING), ("fstat", [errno.EIO]), ("stat", [errno.EIO, errno.ENOMEM]),
         ("read", [errno.EIO]), ("opendir", OPENING), ("readdir", [errno.EIO]), ("mmap_file", [errno.ENOMEM, errno.ENODEV])]
SPILLED = [("openat", [errno.EMFILE, errno.ENOSPC, errno.EACCES]), ("mkdir", [errno.ENOSPC]), ("flock", [errno.ENOLCK]),
           ("fcntl", [errno.ENOLCK]), ("fdopendir", [errno.ENOMEM]), ("write", [errno.ENOSPC, errno.EIO]), ("pread", [errno.EIO]),
           ("fsync", [errno.EIO]), ("renameat", [errno.EIO]), ("unlinkat", [errno.EROFS]), ("futimens", [errno.EPERM])]
MEMORY = [("new", [errno.ENOMEM]), ("memalign", [errno.ENOMEM])]
# Copies of a text as large as this are allocations that count.
PADDING = "".join(f"# {line:06} of what people write into such files\n" for line in range(2000))


class Faults:
    """The shim's orders, and its count of the calls."""

    def __init__(self, file):
        file.write(bytes(64))
        file.flush()
        self.memory = mmap.mmap(file.fileno(), 64)

    def arm(self, function, call, error):
        self.disarm()
        self.memory[:24] = struct.pack("=qqq", 0, call, error)
        self.memory[24:64] = function.encode().ljust(40, b"\0")

    def disarm(self):
        """How many such calls there were."""
        self.memory[24:64] = bytes(40)
        return struct.unpack("=q", self.memory[:8])[0]


class Beside:
    """Greedy streams, one after the other, whose tokens are known."""

    def __init__(self, generate):
        self.generate = generate
        self.usual = self.tokens()
        self.done, self.wrong = 0, []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def tokens(self):
        reply = self.generate(greedy([100 + 7 * i % 1500 for i in range(40)], max_tokens=48, model=BUNDLED))
        return list(reply.token_ids[0])

    def run(self):
        while not self.ending.is_set():
            try:
                tokens = self.tokens()
                if tokens != self.usual:
                    self.wrong.append(f"{tokens} for {self.usual}")
            except grpc.RpcError as error:
                self.wrong.append(f"{error.code()} {error.details()}")
                if len(self.wrong) > 20:
                    return
            self.done += 1

    def stop(self):
        self.ending.set()
        self.thread.join()


class ServingFaultTest(unittest.TestCase):
    @contextlib.contextmanager
    def serving(self, config, directory=None):
        """self.daemon in self.folder, which holds its configuration too; config(folder) gives the text."""
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as orders:
            self.folder, self.faults = pathlib.Path(folder), Faults(orders)
            environment = {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": directory or folder, "FAULT_FUNCTION": "*",
                           "FAULT_COUNT": orders.name, "FAULT_ARMED": orders.name}
            text = config(self.folder)
            with mock.patch.object(tempfile, "tempdir", folder):
                self.daemon = Daemon(config=text, environment=environment)
            self.config_file = pathlib.Path(self.daemon.command[self.daemon.command.index("--config") + 1])
            with self.daemon:
                yield
                self.assertEqual(self.daemon.stop(), 0)

    @contextlib.contextmanager
    def beside(self, generate):
        beside = Beside(generate)
        try:
            yield beside
        finally:
            beside.stop()

    def sweep(self, what, functions, attempt, beside=None):
        """attempt(function, call, error) does what is tried, with the fault, checks it, and gives the calls and the outcome."""
        outcomes = collections.Counter()
        for function, errors in functions:
            if ONLY and function not in ONLY:
                continue
            for number in range(MOST_CALLS):
                call, error = FIRST + number * STRIDE, errors[number % len(errors)]
                self.assertLess(call, MOST_CALLS, function)
                done = beside.done if beside else 0
                reached = False
                with self.subTest(function=function, call=call, error=errno.errorcode[error]):
                    try:
                        calls, outcome = attempt(function, call, error)
                    except BaseException:
                        self.recover()
                        raise
                    self.assertIsNone(self.daemon.process.poll(), "the daemon ended")
                    if beside:
                        wait_until(lambda: beside.done > done + 1, "the streams beside go on")
                        self.assertEqual(beside.wrong, [])
                    reached = calls >= call
                    if reached:
                        outcomes[f"{function} {outcome}"] += 1
                if not reached:
                    break
        print(f"{what}: {sum(outcomes.values())} faults, {dict(outcomes)}")
        if not ONLY:
            self.assertGreater(sum(outcomes.values()), 0)

    def recover(self):
        """So that what is tried next begins as this did."""
        self.faults.disarm()

    def lines(self, pattern):
        return sum(re.search(pattern, line) is not None for line in self.daemon.log_lines[self.mark:])

    def check_lines(self, pattern, expected):
        """The log is read by another thread, a moment later."""
        wait_until(lambda: self.lines(pattern) >= expected, f"{expected} lines with '{pattern}'", 10)
        self.assertEqual(self.lines(pattern), expected, self.daemon.log())

    def count(self, name, **labels):
        return sample_sum(self.daemon.metrics(), name, **labels)

    def replace(self, path, text):
        """As a rotation does it: whole, or not at all."""
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, path)


def operator(daemon, **options):
    return TenantClient(daemon, KEYS["operator"], **options)


def with_tenants(folder, limit_mib=8, server="", models=""):
    return f"""{PADDING}
models:
  - {{name: {BUNDLED}, path: {BUNDLED_FOLDER}, compute_type: f32, kv_cache: {{capacity_bytes: 16Mi}}}}
{models}
tenants:
  - {{id: operator, key_file: {folder}/operator.key, admin: true}}
  - {{id: team-b, key_file: {folder}/team-b.key, limits: {{max_kv_bytes: {limit_mib}Mi}}}}
{server}
"""


class ReloadTest(ServingFaultTest):
    def key(self, number):
        return f"key-of-team-b-{number:08}"

    def admits(self, number):
        with TenantClient(self.daemon, self.key(number)) as client:
            try:
                client.generation.ListModels(generation_pb2.ListModelsRequest(), timeout=60)
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED, error.details())
                return False
            return True

    def write(self, folder, number):
        self.replace(folder / "team-b.key", f"{PADDING}{self.key(number)}\n")
        return with_tenants(folder, 1 + number % 8)

    def outcome(self):
        self.daemon.signal(signal.SIGHUP)
        wait_until(lambda: self.lines("reloaded tenants|reload failed"), "the reload ends")
        return "taken" if self.lines("reloaded tenants") else "refused"

    def check(self, number, outcome, before):
        """Exactly one line and one count; the new set or the old one in whole."""
        after = {result: self.count("kvasir_reloads_total", what="configuration", result=result) for result in before}
        self.assertEqual(after, {result: value + (result == outcome) for result, value in before.items()})
        self.check_lines("reloaded tenants|reload failed", 1)
        now, old = (number, number - 1) if outcome == "taken" else (number - 1, number)
        self.assertTrue(self.admits(now))
        self.assertFalse(self.admits(old))
        self.assertEqual(self.count("kvasir_tenant_quota", tenant="team-b"), (1 + now % 8) << 20)
        return after

    def test_configuration_and_keys(self):
        self.number = 1

        def config(folder):
            (folder / "operator.key").write_text(KEYS["operator"] + "\n")
            return self.write(folder, self.number)

        def attempt(function, call, error):
            self.number += 1
            before = {result: self.count("kvasir_reloads_total", what="configuration", result=result)
                      for result in ("taken", "refused")}
            self.replace(self.config_file, self.write(self.folder, self.number))
            self.mark = len(self.daemon.log_lines)
            self.faults.arm(function, call, error)
            outcome = self.outcome()
            calls = self.faults.disarm()
            before = self.check(self.number, outcome, before)
            if outcome == "refused":  # the same files, by a system that lets them be read
                self.mark = len(self.daemon.log_lines)
                self.assertEqual(self.outcome(), "taken", self.daemon.log())
                self.check(self.number, "taken", before)
            return calls, outcome

        with self.serving(config), operator(self.daemon) as client, self.beside(client.generate) as beside:
            self.sweep("reload", FILES + MEMORY, attempt, beside)


class TlsReloadTest(ServingFaultTest):
    LINES = {"grpc_tls": "the TLS files cannot be used", "http_tls": "the TLS files for HTTP cannot be used"}

    def shown(self, what):
        address = self.daemon.grpc_address if what == "grpc_tls" else self.daemon.http_address
        host, port = address.rsplit(":", 1)
        try:
            return ssl.get_server_certificate((host, int(port)), timeout=10).strip()
        except OSError:
            return None

    def counts(self):
        samples = self.daemon.metrics()
        return {(what, result): sample_sum(samples, "kvasir_reloads_total", what=what, result=result)
                for what in self.LINES for result in ("taken", "refused")}

    def test_certificates(self):
        with tempfile.TemporaryDirectory() as authority_folder:
            authority = Authority(authority_folder)
            pairs = [[path.read_text() for path in authority.issue(name)] for name in ("one", "two")]
            self.number = 0

            def install(folder):
                certificate, key = pairs[self.number % 2]
                # Between the two renames they do not fit each other, which a look then says.
                self.replace(folder / "tls.key", PADDING + key)
                self.replace(folder / "tls.crt", PADDING + certificate)
                return certificate.strip()

            def config(folder):
                install(folder)
                (folder / "operator.key").write_text(KEYS["operator"] + "\n")
                (folder / "team-b.key").write_text(KEYS["team-b"] + "\n")
                return with_tenants(folder, server=f"""
server:
  tls: {{certificate_file: {folder}/tls.crt, private_key_file: {folder}/tls.key, reload_seconds: 1}}
""")

            def attempt(function, call, error):
                self.number += 1
                before = self.counts()
                self.mark = len(self.daemon.log_lines)
                self.faults.arm(function, call, error)
                fresh = install(self.folder)
                for what in self.LINES:
                    wait_until(lambda: self.shown(what) == fresh, f"{what} shows the new certificate", 30)
                calls = self.faults.disarm()
                refused = 0
                after = self.counts()
                for what, line in self.LINES.items():
                    self.assertEqual(after[what, "taken"], before[what, "taken"] + 1)
                    told = after[what, "refused"] - before[what, "refused"]
                    self.assertLessEqual(told, 2)  # the fault, and the moment between two renames
                    self.check_lines(line, told)
                    refused += told
                return calls, "told" if refused else "not met"

            with self.serving(config):
                channel = grpc.secure_channel(self.daemon.grpc_address, grpc.ssl_channel_credentials(
                    root_certificates=authority.certificate.read_bytes()), options=[("grpc.use_local_subchannel_pool", 1)])
                with operator(self.daemon, channel=channel) as client, self.beside(client.generate) as beside:
                    sockets = [("memfd_create", [errno.EMFILE]), ("dup3", [errno.EBUSY]), ("write", [errno.ENOSPC])]
                    self.sweep("TLS files", FILES + MEMORY + sockets, attempt, beside)


class ModelTest(ServingFaultTest):
    """Of one more model, "guest", whose files are in the folder."""

    CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INVALID_ARGUMENT,
             grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INTERNAL, grpc.StatusCode.PERMISSION_DENIED}

    def config(self, folder, models=""):
        if not (folder / "guest").exists():
            shutil.copytree(BUNDLED_FOLDER, folder / "guest")
            # An optional file that changes what the model says: were it passed over in silence, others would be its ends.
            (folder / "guest" / "generation_config.json").write_text('{"eos_token_id": [0, 5, 6]}')
        return f"""
models:
  - {{name: {BUNDLED}, path: {BUNDLED_FOLDER}, compute_type: f32, kv_cache: {{capacity_bytes: 16Mi}}}}
{models}"""

    def options(self, spill=None):
        sessions = f"sessions: {{spill_directory: {spill}}}" if spill else ""
        return f"""
compute_type: f32
kv_cache: {{capacity_bytes: 16Mi, element_type: f32}}
{sessions}
"""

    def state(self):
        """What a load takes of the process and gives back."""
        process = pathlib.Path(f"/proc/{self.daemon.process.pid}")
        return {"descriptors": len(os.listdir(process / "fd")), "threads": len(os.listdir(process / "task")),
                "maps": sum(f"{self.folder}/guest" in line for line in (process / "maps").read_text().splitlines())}

    def resident_mib(self):
        text = pathlib.Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def back(self):
        wait_until(lambda: all(now <= usual for now, usual in zip(self.state().values(), self.usual.values())),
                   f"what the load took is given back: {self.usual}", 20)
        self.assertEqual(states(self.daemon), {BUNDLED: READY})
        self.assertFalse([name for name in self.daemon.metrics() if 'model="guest"' in name and "kvasir_requests" not in name])

    def recover(self):
        super().recover()
        if "guest" in states(self.daemon):
            unload(self.daemon, "guest")

    def loads(self):
        samples = self.daemon.metrics()
        return {result: sample_sum(samples, "kvasir_model_loads_total", result=result) for result in ("ready", "failed")}

    def check_loaded(self):
        """The model is what it is without a fault: nothing of its files was passed over."""
        model = model_of(self.daemon, "guest")
        model.loaded_unix_seconds = 0
        tokens = list(self.daemon.generate(greedy(text="Once upon a time", max_tokens=12, model="guest")).token_ids[0])
        self.reference = self.reference or (model, tokens)
        self.assertEqual((model, tokens), self.reference)
        self.assertEqual(health(self.daemon, "guest"), "SERVING")

    def check_ended(self, outcome, before):
        self.assertEqual(self.loads(), {result: value + (result == outcome) for result, value in before.items()})
        self.check_lines("model is ready|model could not be loaded", 1)
        if outcome == "ready":
            return self.check_loaded()
        self.assertEqual(states(self.daemon).get("guest"), FAILED)
        self.assertNotEqual(health(self.daemon, "guest"), "SERVING")
        self.assertIn("guest", model_of(self.daemon, "guest").error)

    def begin(self):
        """One load and unload, after which there is what stays."""
        self.reference = None
        load(self.daemon, "guest", self.folder / "guest", self.options(self.folder / "spill"))
        self.check_loaded()
        unload(self.daemon, "guest")
        self.usual = self.state()

    def test_loads(self):
        of_spill = {name for name, _ in SPILLED}

        def attempt(function, call, error):
            before = self.loads()
            self.mark = len(self.daemon.log_lines)
            options = self.options(self.folder / "spill" if function in of_spill else None)
            self.faults.arm(function, call, error)
            try:
                load(self.daemon, "guest", self.folder / "guest", options)
                outcome = "ready"
            except grpc.RpcError as refused:
                self.assertIn(refused.code(), self.CODES, refused.details())
                if function in ("new", "memalign") or error in (errno.EMFILE, errno.ENFILE) and function in ("open", "opendir"):
                    self.assertEqual(refused.code(), grpc.StatusCode.RESOURCE_EXHAUSTED, refused.details())
                self.assertIn("guest", refused.details())
                outcome = "failed"
            calls = self.faults.disarm()
            self.check_ended(outcome, before)
            if calls >= call and function in ("open", "mmap_file"):
                self.assertEqual(outcome, "failed", "a file that could not be opened was passed over")
            unload(self.daemon, "guest")
            self.back()
            return calls, outcome

        functions = FILES + SPILLED + MEMORY + [("mmap", [errno.ENOMEM]), ("pthread_create", [errno.EAGAIN])]
        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.begin()
            resident = self.resident_mib()
            self.sweep("loads", functions, attempt, beside)
            print(f"resident: {resident:.0f} MiB before, {self.resident_mib():.0f} after")
            self.assertLess(self.resident_mib(), resident + 24)

    def test_loads_by_the_file(self):
        model = "  - {name: guest, path: %s/guest, compute_type: f32, kv_cache: {capacity_bytes: 16Mi, element_type: f32}}\n"
        end = "model is ready|model could not be loaded|reload failed|is not loaded"

        def reload(models, pattern):
            self.replace(self.config_file, self.config(self.folder, models))
            self.mark = len(self.daemon.log_lines)
            self.daemon.signal(signal.SIGHUP)
            wait_until(lambda: self.lines(pattern), f"'{pattern}' in the log")

        def attempt(function, call, error):
            named = model % self.folder
            self.faults.arm(function, call, error)
            reload(named, end)
            calls = self.faults.disarm()
            outcome = "ready" if self.lines("model is ready") else "failed"
            self.check_lines(end, 1)
            if outcome == "failed":  # the file is as it was, and is read again
                reload(named, end)
                self.check_lines("model is ready", 1)
            self.check_loaded()
            reload("", "unloaded model")
            self.back()
            return calls, outcome

        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.reference = None
            reload(model % self.folder, end)
            self.check_loaded()
            reload("", "unloaded model")
            self.usual = self.state()
            self.sweep("loads by the file", FILES + MEMORY, attempt, beside)

    def test_unloads(self):
        """Two sessions that are to be kept: each is on the disk and goes on, or is told lost."""
        self.number = 0
        prompts = [[100 + 7 * (i + 31 * number) % 1500 for i in range(60)] for number in range(2)]

        def turn(number):
            request = greedy(prompts[number], max_tokens=8, model="guest", session_id=f"s{number}")
            reply = self.daemon.generate(request)
            return reply.usage.prompt_tokens, list(reply.token_ids[0])

        def both_turns(spill, faulty):
            load(self.daemon, "guest", self.folder / "guest", self.options(spill))
            first = [turn(number) for number in range(2)]
            self.mark = len(self.daemon.log_lines)
            faulty()
            report = unload(self.daemon, "guest")
            calls = self.faults.disarm()
            files = len(list(spill.rglob("*.kvs")))
            self.assertEqual((report.sessions_kept, report.sessions_lost), (files, 2 - files))
            self.assertFalse(list(spill.rglob("*.tmp")))
            self.check_lines("sessions of the model are not on the disk", 1 if report.sessions_lost else 0)
            load(self.daemon, "guest", self.folder / "guest", self.options(spill))
            second = [turn(number) for number in range(2)]
            for number in range(2):
                self.daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(model="guest", session_id=f"s{number}"),
                                                   timeout=60)
            unload(self.daemon, "guest")
            return calls, report.sessions_lost, first, second

        def attempt(function, call, error):
            self.number += 1
            calls, lost, first, second = both_turns(self.folder / f"spill{self.number}",
                                                    lambda: self.faults.arm(function, call, error))
            self.assertEqual(first, self.undisturbed[0])
            # One that was lost begins anew with its second turn, which is then the first one's equal.
            anew = sum(now == begun for now, begun in zip(second, first))
            self.assertEqual(anew, lost)
            self.assertEqual(sum(now == usual for now, usual in zip(second, self.undisturbed[1])), 2 - lost)
            self.back()
            return calls, f"{lost} lost"

        with self.serving(self.config), self.beside(self.daemon.generate) as beside:
            self.begin()
            self.undisturbed = both_turns(self.folder / "spill0", lambda: None)[2:]
            self.assertNotEqual(*self.undisturbed)
            self.sweep("unloads", SPILLED + [("fstat", [errno.EIO]), ("linkat", [errno.EIO]), ("utimensat", [errno.EPERM])]
                       + MEMORY, attempt, beside)


BROKEN = {}  # a scrape whose connection ended


class ScrapeTest(ServingFaultTest):
    FIGURES = ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds")
    LIMITS = ("kvasir_usable_memory_bytes", "kvasir_usable_cpus")

    def config(self, folder):
        return with_tenants(folder).replace("tenants:", "").partition("  - {id: operator")[0]

    def scrape(self):
        try:
            return harness.parse_metrics(self.daemon.metrics_text())
        except urllib.error.HTTPError as error:
            self.assertEqual(error.code, 503)
            error.close()
            return None
        except (OSError, http.client.HTTPException):
            return BROKEN

    def attempt(self, function, call, error):
        before = self.daemon.metrics()
        self.mark = len(self.daemon.log_lines)
        self.faults.arm(function, call, error)
        during = self.scrape()
        calls = self.faults.disarm()
        after = wait_until(lambda: self.scrape() or None, "a scrape is answered again")
        unread = after["kvasir_process_figures_unread_total"] - before["kvasir_process_figures_unread_total"]
        refused = after["kvasir_scrapes_unanswered_total"] - before["kvasir_scrapes_unanswered_total"]
        self.assertEqual(set(before) - set(after), set())
        self.check_lines("figures of the process cannot be read", 1 if unread else 0)
        self.check_lines("a scrape is not answered", refused)
        closed = after["kvasir_connections_refused_total"] - before["kvasir_connections_refused_total"]
        self.assertEqual(closed, 1 if calls >= call and function == "epoll_ctl" else 0)
        self.check_lines("a connection is closed at once", closed)
        if during is BROKEN:
            self.assertIn(function, ("accept", "send", "recv", "epoll_ctl"))
            return calls, "broken off"
        if during is None:
            self.assertIn(function, ("new", "memalign"))
            self.assertEqual(refused, 1)
            return calls, "503"
        self.assertEqual(refused, 0)
        missing = [name for name in self.FIGURES if name not in during]
        self.assertEqual([during[name] for name in self.LIMITS], [before[name] for name in self.LIMITS])
        self.assertGreater(during.get("process_resident_memory_bytes", 1), 0)
        if missing:
            self.assertGreaterEqual(unread, 1)
        if calls >= call and function in ("open", "fopen", "opendir"):
            self.assertGreaterEqual(unread, 1, "what could not be opened was passed over")
        return calls, "told" if unread else "not met"

    def sweep_below(self, directory, functions):
        with self.serving(self.config, directory), self.beside(self.daemon.generate) as beside:
            self.sweep(f"scrapes, {directory}", functions, self.attempt, beside)

    def test_figures(self):
        self.sweep_below("/proc", FILES)

    def test_limits(self):
        if not pathlib.Path("/sys/fs/cgroup").is_dir():
            print("*** there are no control groups: this test is skipped", file=sys.stderr)
            self.skipTest("there are no control groups")
        self.sweep_below("/sys/fs/cgroup", [entry for entry in FILES if entry[0] in ("open", "read")])

    def test_memory_and_sockets(self):
        # gRPC's sockets are not counted: it is a library of its own.
        sockets = [("accept", [errno.EMFILE, errno.ENOMEM, errno.ECONNABORTED]), ("recv", [errno.ECONNRESET, errno.ENOMEM]),
                   ("send", [errno.EPIPE, errno.ENOBUFS]), ("epoll_ctl", [errno.ENOSPC])]
        self.sweep_below("/nowhere", MEMORY + sockets)


if __name__ == "__main__":
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
