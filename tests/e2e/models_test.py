"""Models that come and go while the daemon serves: LoadModel, UnloadModel, SIGHUP, and what each gives back."""

import collections
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import tempfile
import threading
import time
import unittest
import urllib.request

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, greedy, long_request, wait_until

import grpc
from grpc.health.v1 import health_pb2
from kvasir.v1 import admin_pb2, generation_pb2 as pb, session_pb2

SMALL_POOL = "kv_cache: {capacity_bytes: 16MiB}"
LOADING, READY, UNLOADING, FAILED = (pb.MODEL_STATE_LOADING, pb.MODEL_STATE_READY, pb.MODEL_STATE_UNLOADING,
                                     pb.MODEL_STATE_FAILED)


def load(daemon, name, path=BUNDLED_FOLDER, options=SMALL_POOL, wait=True):
    return daemon.admin.LoadModel(admin_pb2.LoadModelRequest(name=name, path=str(path), options=options, wait=wait),
                                  timeout=PATIENCE_SECONDS)


def unload(daemon, name, timeout_seconds=None):
    request = admin_pb2.UnloadModelRequest(name=name)
    if timeout_seconds is not None:
        request.timeout_seconds = timeout_seconds
    return daemon.admin.UnloadModel(request, timeout=PATIENCE_SECONDS)


def states(daemon):
    models = daemon.generation.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_SECONDS).models
    return {model.name: model.state for model in models}


def model_of(daemon, name):
    return daemon.generation.GetModel(pb.GetModelRequest(name=name), timeout=PATIENCE_SECONDS)


def health(daemon, name):
    try:
        request = health_pb2.HealthCheckRequest(service=f"models/{name}")
        return health_pb2.HealthCheckResponse.ServingStatus.Name(daemon.health.Check(request,
                                                                                     timeout=PATIENCE_SECONDS).status)
    except grpc.RpcError as error:
        return error.code().name


def http_models(daemon):
    with urllib.request.urlopen(f"http://{daemon.http_address}/v1/models", timeout=PATIENCE_SECONDS) as response:
        return [model["id"] for model in json.loads(response.read())["data"]]


class ModelsTestCase(unittest.TestCase):
    def refused(self, code, call, *arguments, **named):
        with self.assertRaises(grpc.RpcError) as caught:
            call(*arguments, **named)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        return caught.exception


class LoadTest(ModelsTestCase):
    def test_a_model_comes_and_goes_beside_a_stream_that_does_not_notice(self):
        other = harness.model_folder("tale-7m-mha")
        request = greedy(text="Once upon a time there was", max_tokens=1500, model=BUNDLED)
        with Daemon() as daemon:
            alone = daemon.generate(request)
            stream = daemon.stream(request)
            stream.wait_streaming()
            self.assertEqual(health(daemon, BUNDLED), "SERVING")
            self.assertEqual(load(daemon, "other", other).state, READY)
            self.assertEqual(states(daemon), {BUNDLED: READY, "other": READY})
            self.assertEqual(sorted(http_models(daemon)), sorted([BUNDLED, "other"]))
            self.assertEqual(health(daemon, "other"), "SERVING")
            self.assertIn('kvasir_model_info{', daemon.metrics_text())
            reply = daemon.generate(greedy(max_tokens=8, model="other"))
            self.assertEqual(reply.usage.completion_tokens, 8)
            self.refused(grpc.StatusCode.INVALID_ARGUMENT, daemon.generate, greedy(max_tokens=1))  # which one?
            report = unload(daemon, "other")
            self.assertEqual((report.requests_aborted, report.sessions_lost), (0, 0))
            self.assertEqual(states(daemon), {BUNDLED: READY})
            self.assertEqual(http_models(daemon), [BUNDLED])
            self.assertEqual(health(daemon, "other"), "NOT_SERVING")
            self.assertNotIn('model="other"', daemon.metrics_text())
            self.refused(grpc.StatusCode.NOT_FOUND, daemon.generate, greedy(max_tokens=1, model="other"))
            stream.join()
            self.assertIsNone(stream.error)
            self.assertEqual(stream.reply.token_ids, alone.token_ids)

    def test_files_that_change_while_they_are_read_end_that_load_alone(self):
        """Whatever moment of the load they change at: it is refused, or had read all."""
        def shorter(file):
            os.truncate(file, file.stat().st_size // 2)

        def others(file):
            file.write_bytes(b"{}")

        outcomes = collections.Counter()
        with Daemon(compute_type="f32") as daemon, tempfile.TemporaryDirectory() as folder:
            usual = daemon.generate(greedy(max_tokens=8)).token_ids
            for number in range(24):
                copy = pathlib.Path(folder, str(number))
                shutil.copytree(BUNDLED_FOLDER, copy)
                change = (shorter, pathlib.Path.unlink, others)[number % 3]
                loading = daemon.admin.LoadModel.future(admin_pb2.LoadModelRequest(
                    name="guest", path=str(copy), wait=True, options="{compute_type: f32, kv_cache: {capacity_bytes: 8Mi}}"))
                time.sleep(number * 0.005)  # no condition: each moment is as good
                change(copy / "model.safetensors")
                try:
                    loading.result(PATIENCE_SECONDS)
                except grpc.RpcError as error:
                    self.assertIn(error.code(), (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND,
                                                 grpc.StatusCode.FAILED_PRECONDITION), error)
                    outcomes[error.code().name] += 1
                else:
                    self.assertEqual(daemon.generate(greedy(max_tokens=8, model="guest")).token_ids, usual)
                    unload(daemon, "guest")
                    outcomes["loaded"] += 1
                self.assertEqual(daemon.generate(greedy(max_tokens=8, model=BUNDLED)).token_ids, usual)
            self.assertEqual(daemon.stop(), 0)
        print(f"files that change: {dict(outcomes)}")

    def test_what_cannot_be_loaded_says_why_and_changes_nothing(self):
        with Daemon() as daemon, tempfile.TemporaryDirectory() as folder:
            before = daemon.generate(greedy(max_tokens=8)).token_ids
            error = self.refused(grpc.StatusCode.NOT_FOUND, load, daemon, "gone", folder + "/nothing")
            self.assertIn("give the folder that holds config.json", error.details())
            self.assertEqual(model_of(daemon, "gone").state, FAILED)
            self.assertIn("nothing", model_of(daemon, "gone").error)
            self.refused(grpc.StatusCode.NOT_FOUND, daemon.generate, greedy(max_tokens=1, model="gone"))
            self.assertEqual(http_models(daemon), [BUNDLED])
            error = self.refused(grpc.StatusCode.INVALID_ARGUMENT, load, daemon, "empty", folder)
            self.assertIn("config.json", error.details())
            self.refused(grpc.StatusCode.NOT_FOUND, load, daemon, "hub", "org/repo")
            error = self.refused(grpc.StatusCode.RESOURCE_EXHAUSTED, load, daemon, "big",
                                 options="kv_cache: {capacity_bytes: 900TiB}")
            self.assertIn("big", error.details())
            for name, path, options in (("", BUNDLED_FOLDER, ""), ("a b", BUNDLED_FOLDER, ""), ("x" * 129, BUNDLED_FOLDER, ""),
                                        ("ok", "", ""), ("ok", BUNDLED_FOLDER, "kv_cash: {}"),
                                        ("ok", BUNDLED_FOLDER, "name: other"), ("ok", BUNDLED_FOLDER, "- list"),
                                        ("ok", BUNDLED_FOLDER, "compute_type: f64"), ("ok", BUNDLED_FOLDER, "{"),
                                        ("ok", "hf:", ""), ("../é", BUNDLED_FOLDER, "")):
                self.refused(grpc.StatusCode.INVALID_ARGUMENT, load, daemon, name, path, options)
            error = self.refused(grpc.StatusCode.INVALID_ARGUMENT, load, daemon, "ok",
                                 options="compute_type: f32\nkv_cache:\n  block_tokens: 7\n")
            self.assertIn("options:3", error.details())
            self.refused(grpc.StatusCode.ALREADY_EXISTS, load, daemon, BUNDLED)
            # A failed one can be tried again, and forgotten.
            self.assertEqual(load(daemon, "gone").state, READY)
            unload(daemon, "empty")
            self.assertEqual(states(daemon), {BUNDLED: READY, "gone": READY, "hub": FAILED, "big": FAILED})
            self.assertEqual(daemon.generate(greedy(max_tokens=8, model=BUNDLED)).token_ids, before)

    def test_a_hub_that_cannot_be_reached_is_an_error_of_the_load(self):
        with tempfile.TemporaryDirectory() as cache:
            with Daemon(environment={"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}) as daemon:
                self.refused(grpc.StatusCode.NOT_FOUND, load, daemon, "hub", "hf:org/repo")
            with Daemon(environment={"HF_HOME": cache, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": ""}) as daemon:
                load(daemon, "hub", "hf:org/repo", wait=False)  # it tries for a while
                wait_until(lambda: states(daemon).get("hub") == LOADING, "it is being loaded")
                error = self.refused(grpc.StatusCode.UNAVAILABLE, daemon.generate, greedy(max_tokens=1, model="hub"))
                self.assertIn("is being loaded", error.details())
                self.refused(grpc.StatusCode.ALREADY_EXISTS, load, daemon, "hub")
                load(daemon, "next", wait=False)  # waits for its turn
                self.assertEqual(daemon.generate(greedy(max_tokens=4, model=BUNDLED)).usage.completion_tokens, 4)
                unload(daemon, "hub")
                wait_until(lambda: states(daemon) == {BUNDLED: READY, "next": READY}, "the next one's turn")

    def test_a_limit_of_the_process_is_an_error_of_the_load(self):
        def size(daemon):
            status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
            return int(re.search(r"VmSize:\s+(\d+)", status)[1]) << 10

        def limits(daemon):
            open_files = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
            for more in range(4):
                yield resource.RLIMIT_NOFILE, open_files + more
            if "ASAN_OPTIONS" not in os.environ:
                # Less than the file has: beyond it libgomp, which ends the process, may be who meets the limit.
                for more_mib in (1, 4):
                    yield resource.RLIMIT_AS, size(daemon) + (more_mib << 20)

        with Daemon() as daemon:
            request = greedy(max_tokens=16, model=BUNDLED)
            before = daemon.generate(request).token_ids
            for limit, value in limits(daemon):
                old = resource.prlimit(daemon.process.pid, limit)
                resource.prlimit(daemon.process.pid, limit, (value, old[1]))
                try:
                    load(daemon, "other", options="kv_cache: {capacity_bytes: 128MiB}")
                except grpc.RpcError as error:
                    self.assertIn(error.code(), (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT,
                                                 grpc.StatusCode.UNAVAILABLE), error.details())
                    self.assertIn("other", error.details())
                finally:
                    resource.prlimit(daemon.process.pid, limit, old)
                unload(daemon, "other")
                self.assertEqual(daemon.generate(request).token_ids, before)
            self.assertEqual(load(daemon, "other").state, READY)

    def test_orders_from_many_at_once(self):
        with Daemon() as daemon:
            results = []

            def work(order):
                try:
                    order(daemon, "same")
                    results.append("OK")
                except grpc.RpcError as error:
                    results.append(error.code().name)

            for orders in ([load] * 4, [unload] * 4, [load, unload] * 4):
                results.clear()
                threads = [threading.Thread(target=work, args=(order,)) for order in orders]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(PATIENCE_SECONDS)
                    self.assertFalse(thread.is_alive())
                self.assertLessEqual(set(results), {"OK", "ALREADY_EXISTS", "FAILED_PRECONDITION", "NOT_FOUND", "CANCELLED"})
                if orders == [load] * 4:
                    self.assertEqual(sorted(results), ["ALREADY_EXISTS"] * 3 + ["OK"])
                elif orders == [unload] * 4:
                    self.assertEqual(results.count("OK"), 1, results)
            if "same" in states(daemon):
                unload(daemon, "same")
            self.assertEqual(states(daemon), {BUNDLED: READY})
            self.assertEqual(daemon.generate(greedy(max_tokens=4)).usage.completion_tokens, 4)

    def test_only_operators_may(self):
        keys = pathlib.Path(tempfile.mkdtemp())
        (keys / "user").write_text("k-user-0123456789abcdef0123456789\n")
        (keys / "boss").write_text("k-boss-0123456789abcdef0123456789\n")
        config = f"""
models: [{{name: {BUNDLED}, path: {BUNDLED_FOLDER}, kv_cache: {{capacity_bytes: 32MiB}}}}]
tenants:
  - {{id: user, key_file: {keys}/user}}
  - {{id: boss, key_file: {keys}/boss, admin: true}}
"""
        with Daemon(config=config) as daemon:
            user = (("authorization", "Bearer k-user-0123456789abcdef0123456789"),)
            boss = (("authorization", "Bearer k-boss-0123456789abcdef0123456789"),)
            order = admin_pb2.LoadModelRequest(name="x", path="/nothing", wait=True)
            self.refused(grpc.StatusCode.PERMISSION_DENIED, daemon.admin.LoadModel, order, metadata=user,
                         timeout=PATIENCE_SECONDS)
            self.refused(grpc.StatusCode.PERMISSION_DENIED, daemon.admin.UnloadModel,
                         admin_pb2.UnloadModelRequest(name=BUNDLED), metadata=user, timeout=PATIENCE_SECONDS)
            self.refused(grpc.StatusCode.NOT_FOUND, daemon.admin.LoadModel, order, metadata=boss, timeout=PATIENCE_SECONDS)
            seen = {}
            for metadata in (user, boss):
                models = daemon.generation.ListModels(pb.ListModelsRequest(), metadata=metadata,
                                                      timeout=PATIENCE_SECONDS).models
                seen[metadata] = [model.name for model in models]
            self.assertEqual(seen, {user: [BUNDLED], boss: [BUNDLED, "x"]})  # paths are the operator's
            self.refused(grpc.StatusCode.NOT_FOUND, daemon.generation.GetModel, pb.GetModelRequest(name="x"),
                         metadata=user, timeout=PATIENCE_SECONDS)


class CommandTest(ModelsTestCase):
    def test_kvasir_admin(self):
        with Daemon() as daemon:
            loaded = daemon.cli_json("admin", "load", f"other={BUNDLED_FOLDER}", "--wait", "--options", SMALL_POOL)
            self.assertEqual(loaded, {"name": "other", "state": "ready"})
            failed = daemon.cli("admin", "load", "bad=/nothing", "--wait", check=False)
            self.assertEqual(failed.returncode, 1)
            self.assertIn("NOT_FOUND", failed.stderr)
            self.assertRegex(daemon.cli("models").stdout, r"bad +FAILED: .*'/nothing' cannot be opened")
            self.assertEqual({model["name"]: model["state"] for model in daemon.cli_json("models")},
                             {BUNDLED: "ready", "other": "ready", "bad": "failed"})
            unloaded = daemon.cli_json("admin", "unload", "other", "--drain_seconds", "5")
            self.assertEqual((unloaded["requests_aborted"], unloaded["sessions_lost"]), (0, 0))
            for words in (("load", "x"), ("unload",), ("load", f"a={BUNDLED_FOLDER}", "--drain_seconds", "1"), ()):
                self.assertEqual(daemon.cli("admin", *words, check=False).returncode, 2)


class UnloadTest(ModelsTestCase):
    def test_running_requests_finish_and_new_ones_are_refused(self):
        with Daemon() as daemon:
            load(daemon, "other")
            stream = daemon.stream(long_request(n=2, model="other"))
            stream.wait_streaming()
            reports = []
            thread = threading.Thread(target=lambda: reports.append(unload(daemon, "other", 60)))
            thread.start()
            wait_until(lambda: states(daemon).get("other") == UNLOADING, "unloading")
            error = self.refused(grpc.StatusCode.UNAVAILABLE, daemon.generate, greedy(max_tokens=1, model="other"))
            self.assertIn("is being unloaded", error.details())
            self.assertEqual(health(daemon, "other"), "NOT_SERVING")
            self.refused(grpc.StatusCode.FAILED_PRECONDITION, unload, daemon, "other")
            self.refused(grpc.StatusCode.FAILED_PRECONDITION, load, daemon, "other")
            self.assertEqual(http_models(daemon), [BUNDLED])
            self.assertEqual(len(daemon.requests()), 1)  # operators still see what runs
            stream.join()
            thread.join(PATIENCE_SECONDS)
            self.assertIsNone(stream.error)
            self.assertEqual(stream.reply.usage.completion_tokens, 2 * 1900)
            self.assertEqual(reports[0].requests_aborted, 0)
            self.refused(grpc.StatusCode.NOT_FOUND, unload, daemon, "other")

    def test_what_runs_at_the_end_of_the_time_is_ended(self):
        with Daemon() as daemon:
            load(daemon, "other")
            stream = daemon.stream(long_request(n=8, model="other"))
            own = daemon.stream(greedy(max_tokens=400, model=BUNDLED))
            stream.wait_streaming()
            report = unload(daemon, "other", 0.05)
            stream.join()
            own.join()
            self.assertEqual(stream.error.code(), grpc.StatusCode.CANCELLED)
            self.assertIn("'other' is being unloaded", stream.error.details())
            self.assertEqual(report.requests_aborted, 1)
            self.assertIsNone(own.error)
            self.assertEqual(own.reply.usage.completion_tokens, 400)
            self.refused(grpc.StatusCode.INVALID_ARGUMENT, unload, daemon, BUNDLED, -1)
            self.refused(grpc.StatusCode.INVALID_ARGUMENT, unload, daemon, BUNDLED, float("nan"))

    def test_the_last_model_may_go_and_come_back(self):
        with Daemon() as daemon:
            before = daemon.generate(greedy(max_tokens=16)).token_ids
            unload(daemon, BUNDLED, 0)
            self.assertEqual((states(daemon), http_models(daemon)), ({}, []))
            self.refused(grpc.StatusCode.NOT_FOUND, daemon.generate, greedy(max_tokens=1))
            self.refused(grpc.StatusCode.NOT_FOUND, unload, daemon, BUNDLED)
            daemon.metrics()
            daemon.cli("stats")
            load(daemon, BUNDLED)
            self.assertEqual(daemon.generate(greedy(max_tokens=16)).token_ids, before)

    def test_sessions_come_back_from_the_disk_or_are_reported_lost(self):
        with Daemon() as daemon, tempfile.TemporaryDirectory() as spill:
            for kept in (True, False):
                options = SMALL_POOL + (f"\nsessions: {{spill_directory: {spill}/s}}" if kept else "")
                os.makedirs(f"{spill}/s", exist_ok=True)
                load(daemon, "other", options=options)
                for session in ("a", "b"):
                    daemon.generate(greedy(max_tokens=8, model="other", session_id=session))
                daemon.sessions.ForkSession(
                    session_pb2.ForkSessionRequest(model="other", session_id="a", new_session_id="c"),
                    timeout=PATIENCE_SECONDS)
                report = unload(daemon, "other")
                self.assertEqual((report.sessions_kept, report.sessions_lost), (3, 0) if kept else (0, 3))
                if kept:
                    load(daemon, "other", options=options)
                    reply = daemon.generate(greedy(text=" and then", max_tokens=8, model="other", session_id="c"))
                    self.assertGreater(reply.usage.cached_tokens, 0)
                    unload(daemon, "other")
            # Two models in one folder would each drop the other's files.
            load(daemon, "one", options=SMALL_POOL + f"\nsessions: {{spill_directory: {spill}/s}}")
            error = self.refused(grpc.StatusCode.INVALID_ARGUMENT, load, daemon, "two",
                                 options=SMALL_POOL + f"\nsessions: {{spill_directory: {spill}/s/}}")
            self.assertIn("which model 'one' uses already", error.details())

    def test_all_is_given_back(self):
        def threads(daemon):
            return len(os.listdir(f"/proc/{daemon.process.pid}/task"))

        def descriptors(daemon):
            return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))

        def resident(daemon):
            status = pathlib.Path(f"/proc/{daemon.process.pid}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) << 10

        def series(daemon):
            return {name for name in daemon.metrics() if not name.startswith(("process_", "kvasir_requests_rejected"))}

        def round_trip(daemon):
            load(daemon, "other", options="kv_cache: {capacity_bytes: 128MiB}")
            # Tokens enough to touch much of the pool.
            for seed in range(4):
                request = long_request(n=8, max_tokens=200, model="other")
                request.sampling.seed = seed
                daemon.generate(request)
            with_model = resident(daemon)
            unload(daemon, "other")
            return with_model

        with Daemon() as daemon:
            daemon.generate(greedy(max_tokens=64))
            round_trip(daemon)  # code, JIT kernels, the allocator's arenas
            base = (threads(daemon), descriptors(daemon), series(daemon), resident(daemon))
            grown = []
            for _ in range(20):
                grown.append(round_trip(daemon) - base[3])
            wait_until(lambda: threads(daemon) <= base[0], "the threads are back")
            self.assertLessEqual(descriptors(daemon), base[1])
            self.assertEqual(series(daemon), base[2])
            left = resident(daemon) - base[3]
            print(f"resident: {base[3] >> 20} MiB before, {min(grown) >> 20} MiB more with the model, "
                  f"{left >> 20} MiB more after 20 loads and unloads", flush=True)
            self.assertLess(left, max(min(grown) / 4, 12 << 20))


class EndTest(ModelsTestCase):
    def test_a_drain_ends_loads_and_refuses_more(self):
        with tempfile.TemporaryDirectory() as cache:
            with Daemon("--drain_timeout_seconds", "60",
                        environment={"HF_HOME": cache, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": ""}) as daemon:
                stream = daemon.stream(long_request(n=2))
                stream.wait_streaming()
                order = admin_pb2.LoadModelRequest(name="hub", path="hf:org/repo", wait=True)
                waiting = daemon.admin.LoadModel.future(order, timeout=PATIENCE_SECONDS)
                wait_until(lambda: states(daemon).get("hub") == LOADING, "loading")
                daemon.signal(signal.SIGTERM)
                self.assertEqual(waiting.exception().code(), grpc.StatusCode.UNAVAILABLE)
                self.refused(grpc.StatusCode.UNAVAILABLE, load, daemon, "other")
                self.refused(grpc.StatusCode.UNAVAILABLE, unload, daemon, BUNDLED)
                stream.join()
                self.assertIsNone(stream.error)
                self.assertEqual(daemon.wait(), 0)

    def test_a_drain_during_an_unload_and_a_kill_during_a_load(self):
        with Daemon("--drain_timeout_seconds", "60") as daemon:
            load(daemon, "other")
            stream = daemon.stream(long_request(n=2, model="other"))
            stream.wait_streaming()
            waiting = daemon.admin.UnloadModel.future(admin_pb2.UnloadModelRequest(name="other", timeout_seconds=60),
                                                      timeout=PATIENCE_SECONDS)
            wait_until(lambda: states(daemon).get("other") == UNLOADING, "unloading")
            daemon.signal(signal.SIGTERM)
            stream.join()
            self.assertIsNone(stream.error)
            self.assertIsNone(waiting.exception())
            self.assertEqual(daemon.wait(), 0)
        with Daemon() as daemon:
            for i in range(8):
                load(daemon, f"m{i}", wait=False)
            daemon.signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(), 0)


class ReloadTest(ModelsTestCase):
    def test_models_follow_the_file(self):
        def entry(name, more=""):
            return f"  - {{name: {name}, path: {BUNDLED_FOLDER}, kv_cache: {{capacity_bytes: 16MiB}}{more}}}\n"

        def reload(daemon, text, until, what):
            pathlib.Path(daemon.command[daemon.command.index("--config") + 1]).write_text(text)
            daemon.signal(signal.SIGHUP)
            wait_until(until, what)

        with Daemon(config="models:\n" + entry("a")) as daemon:
            before = daemon.generate(greedy(max_tokens=8, model="a")).token_ids
            computed_in = model_of(daemon, "a").compute_type
            reload(daemon, "models:\n" + entry("a") + entry("b"), lambda: states(daemon) == {"a": READY, "b": READY},
                   "b is loaded")
            reload(daemon, "models:\n" + entry("b") + entry("a"), lambda: daemon.log().count("reloaded tenants") == 2,
                   "the order is nothing")
            self.assertEqual(states(daemon), {"a": READY, "b": READY})
            # What is wrong as a whole changes nothing.
            reload(daemon, "models: []\n", lambda: "tenants and models stay" in daemon.log(), "refused")
            self.assertEqual(states(daemon), {"a": READY, "b": READY})
            reload(daemon, "models:\n" + entry("a", ", compute_type: int8") + entry("b"),
                   lambda: "models[0].compute_type" in daemon.log(), "the changed field is named")
            self.assertEqual(model_of(daemon, "a").compute_type, computed_in)
            # b goes, c cannot be loaded, and comes when its folder does.
            with tempfile.TemporaryDirectory() as folder:
                missing = f"  - {{name: c, path: {folder}/c, kv_cache: {{capacity_bytes: 16MiB}}}}\n"
                reload(daemon, "models:\n" + entry("a") + missing, lambda: states(daemon) == {"a": READY, "c": FAILED},
                       "b is gone, c is not there")
                os.symlink(BUNDLED_FOLDER, f"{folder}/c")
                reload(daemon, "models:\n" + entry("a") + missing, lambda: states(daemon) == {"a": READY, "c": READY},
                       "c is tried again")
            # What an operator loads is not the file's business, and what is unloaded stays so.
            load(daemon, "mine")
            unload(daemon, "c")
            count = daemon.log().count("reloaded tenants")
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: daemon.log().count("reloaded tenants") == count + 1, "reloaded")
            self.assertEqual(states(daemon), {"a": READY, "mine": READY})
            self.assertEqual(daemon.generate(greedy(max_tokens=8, model="a")).token_ids, before)

    def test_without_a_file_nothing_changes(self):
        with Daemon() as daemon:
            load(daemon, "other")
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "reloaded tenants" in daemon.log(), "reloaded")
            self.assertEqual(states(daemon), {BUNDLED: READY, "other": READY})


if __name__ == "__main__":
    unittest.main()
