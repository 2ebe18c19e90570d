"""The files that watch a daemon, against real programs: prometheus scrapes it, and every expression of the dashboards
and rules is evaluated; promtool runs the rules' unit tests; the daemon notifies a service manager.

Needs Debian's prometheus (its server and promtool); without it those tests are skipped, loudly.
"""

import hashlib
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import yaml

import harness
from harness import BUNDLED, BUNDLED_FOLDER, ROOT, Daemon, greedy, long_request, wait_until
from prometheus_server import DEPLOY, RULES, PrometheusServer, need
from tenant_client import KEYS, TenantClient

import grpc
from kvasir.v1 import generation_pb2 as pb

# The families that dashboards, alerts and bills elsewhere are built on, and their labels ("le" aside): neither may change.
CONTRACT = {
    "kvasir_requests_total": "model tenant code",
    "kvasir_requests_finished_total": "model tenant reason",
    "kvasir_requests_rejected_total": "model tenant reason",
    "kvasir_requests_running": "model",
    "kvasir_requests_waiting": "model",
    "kvasir_prompt_tokens_total": "model tenant",
    "kvasir_prompt_tokens_cached_total": "model tenant",
    "kvasir_generation_tokens_total": "model tenant",
    "kvasir_time_to_first_token_seconds_bucket": "model",
    "kvasir_inter_token_latency_seconds_bucket": "model",
    "kvasir_request_duration_seconds_bucket": "model",
    "kvasir_queue_time_seconds_bucket": "model",
    "kvasir_prefill_time_seconds_bucket": "model",
    "kvasir_decode_time_seconds_bucket": "model",
    "kvasir_request_prompt_tokens_bucket": "model",
    "kvasir_request_generation_tokens_bucket": "model",
    "kvasir_step_batch_tokens_bucket": "model",
    "kvasir_step_duration_seconds_bucket": "model phase",
    "kvasir_steps_total": "model",
    "kvasir_preemptions_total": "model reason",
    "kvasir_cancellations_total": "model cause",
    "kvasir_slow_reader_pauses_total": "model",
    "kvasir_kv_pool_bytes": "model state",
    "kvasir_kv_pool_capacity_bytes": "model",
    "kvasir_kv_blocks": "model state",
    "kvasir_kv_utilization_ratio": "model",
    "kvasir_kv_request_peak_bytes_bucket": "model sharing",
    "kvasir_kv_session_bytes_bucket": "model sharing",
    "kvasir_kv_tenant_bytes": "model tenant",
    "kvasir_tenant_quota": "tenant quota",
    "kvasir_tenant_requests": "model tenant state",
    "kvasir_tenant_sessions": "model tenant",
    "kvasir_tenant_session_bytes": "model tenant",
    "kvasir_tenant_spill_bytes": "model tenant",
    "kvasir_kv_byte_seconds_total": "model tenant",
    "kvasir_kv_bytes_per_token": "model sharing kind",
    "kvasir_kv_evictions_total": "model reason",
    "kvasir_sessions": "model state",
    "kvasir_session_evictions_total": "model reason",
    "kvasir_spill_bytes": "model",
    "kvasir_prefix_spill_bytes": "model",
    "kvasir_prefix_spill_blocks_total": "model event",
    "kvasir_prefix_spill_failures_total": "model",
    "kvasir_reloads_total": "what result",
    "kvasir_model_loads_total": "result",
    "kvasir_process_figures_unread_total": "",
    "kvasir_scrapes_unanswered_total": "",
    "kvasir_attention_kv_bytes_read_total": "model path",
    "kvasir_attention_kv_bytes_read_if_dense_total": "model",
    "kvasir_speculation_drafted_tokens_total": "model",
    "kvasir_speculation_accepted_tokens_total": "model",
    "kvasir_model_info": "model architecture sharing compute_type parameters context_tokens",
    "kvasir_kv_config_info": "model block_size num_blocks dtype sharing",
    "kvasir_build_info": "version compiler",
    "process_resident_memory_bytes": "",
    "process_cpu_seconds_total": "",
    "process_open_fds": "",
    "process_start_time_seconds": "",
}

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard_expressions():
    """(dashboard, panel, expression) of each target of each panel."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield path.stem, panel["title"], target["expr"]


def without_limits(expression):
    """The vectors that an alert compares, each an expression with data: "a > 3 and b == 0" gives a and b."""
    parts, depth, start = [], 0, 0
    text = re.sub(r"\s+", " ", expression).strip()
    separator = re.compile(r" (?:[<>!=]=?|and(?: on ?\([^)]*\))?) ")
    position = 0
    while position < len(text):
        character = text[position]
        depth += {"(": 1, "{": 1, "[": 1, ")": -1, "}": -1, "]": -1}.get(character, 0)
        match = separator.match(text, position) if depth == 0 else None
        if match:
            parts.append(text[start:position])
            position = start = match.end()
        else:
            position += 1
    parts.append(text[start:])
    return [part for part in parts if not re.fullmatch(r"[0-9.]+", part)]


class FilesTest(unittest.TestCase):
    def test_rules_pass_promtool(self):
        promtool = need("promtool")
        for command in (["check", "rules", RULES], ["test", "rules", DEPLOY / "prometheus" / "kvasir.rules_test.yml"],
                        ["check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml"]):
            result = subprocess.run([promtool, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                    text=True, check=False)
            self.assertEqual(result.returncode, 0, f"{command}\n{result.stdout}")

    def test_every_alert_is_explained(self):
        alerts = [rule for rule in rules() if "alert" in rule]
        self.assertGreater(len(alerts), 5)
        for alert in alerts:
            self.assertIn(alert["labels"]["severity"], ("critical", "warning"))
            self.assertTrue(alert["annotations"]["summary"] and alert["annotations"]["description"], alert["alert"])

    def test_dashboards_are_whole(self):
        self.assertEqual(len(DASHBOARDS), 5)
        uids = set()
        for path in DASHBOARDS:
            board = json.loads(path.read_text())
            self.assertEqual(board["uid"], path.stem)
            uids.add(board["uid"])
            variables = {variable["name"] for variable in board["templating"]["list"]}
            self.assertLessEqual({"datasource", "job", "namespace", "pod", "instance", "model"}, variables)
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)))
            taken = set()
            for panel in board["panels"]:
                self.assertEqual(panel["datasource"]["uid"], "${datasource}", "a board must not name one data source")
                place = panel["gridPos"]
                cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                         for y in range(place["y"], place["y"] + place["h"])}
                self.assertLessEqual(place["x"] + place["w"], 24, panel["title"])
                self.assertFalse(cells & taken, f"{path.stem}: {panel['title']} covers another panel")
                taken |= cells
                for target in panel["targets"]:
                    for name in re.findall(r"\$(?:\{)?([a-z_]+)", target["expr"]):
                        self.assertIn(name, variables | {"__rate_interval"})
        self.assertEqual(len(uids), len(DASHBOARDS))

    def test_alert_expressions_are_split_well(self):
        self.assertEqual(without_limits('rate(a{b!="c"}[2m]) == 0 and on (x, y) d > 0.5'), ['rate(a{b!="c"}[2m])', "d"])


class PrometheusTest(unittest.TestCase):
    def test_every_expression_has_data(self):
        need("prometheus")
        config = f"""
models:
  - {{name: {BUNDLED}, path: {BUNDLED_FOLDER}, kv_cache: {{capacity_bytes: 8MiB}}, scheduler: {{max_running: 24, max_waiting: 8}}}}
tenants:
  - {{id: team-a, key_sha256: [{hashlib.sha256(KEYS["team-a"].encode()).hexdigest()}]}}
  - id: team-b
    key_sha256: [{hashlib.sha256(KEYS["team-b"].encode()).hexdigest()}]
    limits: {{max_kv_bytes: 1MiB}}
  - {{id: operator, key_sha256: [{hashlib.sha256(KEYS["operator"].encode()).hexdigest()}], admin: true}}
"""
        with Daemon(config=config) as daemon, PrometheusServer([daemon.metrics_address]) as prometheus:
            stop = threading.Event()
            failures = []
            team_a, team_b = (TenantClient(daemon, KEYS[name]) for name in ("team-a", "team-b"))

            def load(number):
                # Sessions, repeated prompts, refusals (a queue of 8; more than team-b's quota could ever hold) and
                # preemptions (a pool of 8 MiB).
                turn = 0
                while not stop.is_set():
                    turn += 1
                    session = {"session_id": f"s{number}-{turn}"} if number % 2 else {}
                    try:
                        # On a busy machine, preempted over and over, one takes long.
                        if number == 0:
                            team_b.generate(greedy(max_tokens=20))
                            team_b.generate(greedy(max_tokens=1900))
                        else:
                            request = greedy(text="Once upon a time there was a king. " * 12, max_tokens=200, **session)
                            team_a.generate(request, timeout=5 * harness.PATIENCE_SECONDS)
                    except grpc.RpcError as error:
                        if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION):
                            failures.append(error)
                            return
                        stop.wait(0.05)

            threads = [threading.Thread(target=load, args=(number,)) for number in range(48)]
            for thread in threads:
                thread.start()
            try:
                wait_until(lambda: prometheus.query("min(rate(kvasir_generation_tokens_total[10s])) >= 0")
                           and prometheus.query("sum(rate(kvasir_requests_rejected_total[10s])) > 0")
                           and prometheus.query("kvasir:errors:ratio_rate5m"), "rates and recorded series exist")
                self.check_names(daemon)
                self.check_dashboards(prometheus)
                self.check_rules(prometheus)
                self.check_targets(prometheus)
                self.check_pictures(prometheus)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            self.assertFalse(failures)

            def sessions_hold_what_is_live():
                samples = daemon.metrics()
                return (harness.sample_sum(samples, "kvasir_tenant_requests") == 0
                        and harness.sample_sum(samples, "kvasir_kv_tenant_bytes")
                        == harness.sample_sum(samples, "kvasir_kv_pool_bytes", state="live"))

            wait_until(sessions_hold_what_is_live, "the tenants' bytes are the pool's live ones")

    def check_names(self, daemon):
        """Some families begin with their first event: an evicted session, a refusal."""
        deadline = time.monotonic() + harness.PATIENCE_SECONDS
        while missing := self.missing_names(daemon):
            self.assertLess(time.monotonic(), deadline, f"absent, or with other labels: {missing}")
            time.sleep(0.05)

    def missing_names(self, daemon):
        found = {}
        for sample in daemon.metrics():
            name, _, labels = sample.partition("{")
            found[name] = " ".join(sorted(set(re.findall(r'(\w+)="', labels)) - {"le"}))
        return [name for name, labels in CONTRACT.items() if found.get(name) != " ".join(sorted(labels.split()))]

    def check_dashboards(self, prometheus):
        missing = []
        for board, panel, expression in dashboard_expressions():
            expression = expression.replace("$__rate_interval", "10s")
            expression = re.sub(r"\$(job|namespace|pod|instance|model|tenant)\b", ".*", expression)
            self.assertNotIn("$", expression)
            missing.append((f"{board} / {panel}", expression))
        self.assertGreater(len(missing), 50)

        def has_data(expression):
            # A range query, as a panel asks it.
            now = time.time()
            series = prometheus.get("/api/v1/query_range", query=expression, start=now - 2, end=now, step=1)["result"]
            return any(value not in ("NaN", "+Inf") for one in series for _, value in one["values"])

        # The load goes on meanwhile: a rate is NaN for as long as nothing ended between two scrapes.
        for panel, expression in missing:
            wait_until(lambda: has_data(expression), f"{panel}: data, and not only NaN, for {expression}")

    def check_rules(self, prometheus):
        for rule in rules():
            prometheus.query(rule["expr"])  # without error; an alert that is silent has no data
            for part in without_limits(rule["expr"]):
                # Rates need two scrapes since the first event.
                wait_until(lambda: prometheus.query(part), f"data for {part} of {rule}")
        for group in prometheus.get("/api/v1/rules")["groups"]:
            for rule in group["rules"]:
                self.assertFalse(rule.get("lastError"), rule)
                self.assertIn(rule["health"], ("ok", "unknown"), rule)

    def check_pictures(self, prometheus):
        """Each dashboard becomes a picture; the renderer's exit code says that every panel had data."""
        try:
            import matplotlib  # pylint: disable=unused-import
        except ImportError:
            print("*** python3-matplotlib is not installed: the dashboards are not drawn", file=sys.stderr)
            return
        with tempfile.TemporaryDirectory() as folder:
            # Over a minute: a panel whose newest seconds are NaN still has data.
            drawn = subprocess.run(
                [sys.executable, "-B", str(DEPLOY / "grafana" / "render_panels.py"), "--minutes", "1", "--rate_interval",
                 "10s", "--prometheus", f"http://{prometheus.address}", "--output", folder],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            self.assertEqual(drawn.returncode, 0, drawn.stdout)
            for board in DASHBOARDS:
                picture = (pathlib.Path(folder) / f"{board.stem}.png").read_bytes()
                self.assertTrue(picture.startswith(b"\x89PNG"), board.stem)
                self.assertGreater(len(picture), 20_000, f"{board.stem}: nothing is drawn")

    def check_targets(self, prometheus):
        """25 scrapes in a row succeed within 200 ms each although the engine is busy; their own time is far below."""
        wait_until(lambda: prometheus.query('min_over_time(up{job="kvasir"}[5s]) == 1'),
                   "five seconds of scrapes without a failure")


class NotifyTest(unittest.TestCase):
    def test_a_service_manager_hears_of_ready_progress_and_stopping(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(f"{folder}/notify")
            manager.settimeout(harness.PATIENCE_SECONDS)
            environment = {"NOTIFY_SOCKET": f"{folder}/notify", "WATCHDOG_USEC": "300000"}
            with Daemon(environment=environment) as daemon:
                self.assertEqual(manager.recv(512), b"READY=1\nSTATUS=serving")
                daemon.generate(greedy(max_tokens=4))
                for _ in range(3):
                    self.assertEqual(manager.recv(512), b"WATCHDOG=1")
                call = daemon.generation.Generate(long_request(n=2))
                next(call)
                daemon.signal(signal.SIGTERM)
                heard = []
                while b"STOPPING=1\nSTATUS=draining" not in heard:
                    heard.append(manager.recv(512))
                # Draining is progress too.
                self.assertEqual(manager.recv(512), b"WATCHDOG=1")
                call.cancel()
                self.assertEqual(daemon.wait(), 0)


if __name__ == "__main__":
    unittest.main()
