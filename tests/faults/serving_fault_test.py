"""A daemon that serves, and the system that says no in the middle of what an operator asks of it: reloads of the configuration,
of key files and of TLS files, and scrapes (loads and unloads of models: model_fault_test.py). Every open, read, stat, write and
allocation of 64 KiB and more that these make fails in turn (fault_shim.cc). After each: the daemon serves, the streams beside
keep their tokens, the old set is kept, and one log line and one counter tell."""

import errno
import http.client
import pathlib
import signal
import ssl
import sys
import tempfile
import urllib.error

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, sample_sum, wait_until
from serving_faults import FILES, MEMORY, PADDING, ServingFaultTest, main
from tenant_client import KEYS, TenantClient
from tls_test import Authority

import grpc
from kvasir.v1 import generation_pb2


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
                client.generation.ListModels(generation_pb2.ListModelsRequest(), timeout=PATIENCE_SECONDS)
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
            return ssl.get_server_certificate((host, int(port)), timeout=PATIENCE_SECONDS).strip()
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
                    wait_until(lambda: self.shown(what) == fresh, f"{what} shows the new certificate")
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
    main()
