"""The daemon as a process: several models, drain, signals, ports, exit codes, metrics, limits, slow readers."""

import fcntl
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import unittest

import harness
from harness import BIN, BUNDLED, BUNDLED_FOLDER, Daemon, greedy, long_request, sample_sum, wait_until

import grpc
from kvasir.v1 import generation_pb2 as pb
from kvasir.v1 import generation_pb2_grpc


def config_with(extra):
    """A YAML config that serves the bundled model in a small pool."""
    return f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    kv_cache:
      capacity_bytes: 64MiB
{extra}"""


class DrainTest(unittest.TestCase):
    def test_first_sigterm_finishes_running_streams(self):
        with Daemon("--drain_timeout_seconds", "60") as daemon:
            stream = daemon.stream(long_request(n=2))
            stream.wait_streaming()
            daemon.signal(signal.SIGTERM)

            def refused():
                try:
                    daemon.generate(greedy(max_tokens=1))
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), grpc.StatusCode.UNAVAILABLE)
                    return True
                return False

            wait_until(refused, "new requests are refused with UNAVAILABLE")
            self.assertFalse(daemon.serving())
            self.assertIsNone(daemon.process.poll(), "it ended before its stream did")
            stream.join()
            self.assertIsNone(stream.error)
            self.assertEqual(stream.reply.usage.completion_tokens, 2 * 1900)
            self.assertEqual(daemon.wait(), 0)

    def test_second_sigterm_stops_at_once(self):
        with Daemon("--drain_timeout_seconds", "600") as daemon:
            stream = daemon.stream(long_request(n=64))
            stream.wait_streaming()
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: not daemon.serving(), "draining")
            daemon.signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(15), 0)
            stream.join()
            self.assertIn(stream.error.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))

    def test_the_drain_limit_cancels_what_is_left(self):
        with Daemon("--drain_timeout_seconds", "0.3") as daemon:
            stream = daemon.stream(long_request(n=64))
            stream.wait_streaming()
            daemon.signal(signal.SIGTERM)
            self.assertEqual(daemon.wait(15), 0)
            stream.join()
            self.assertIn(stream.error.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))

    def test_idle_daemon_ends_at_once_on_sigint_or_drain_rpc(self):
        with Daemon() as daemon:
            daemon.signal(signal.SIGINT)
            self.assertEqual(daemon.wait(15), 0)
        with Daemon() as daemon:
            daemon.cli("drain")
            self.assertEqual(daemon.wait(15), 0)


class ModelsTest(unittest.TestCase):
    def test_two_models_at_once(self):
        folder = harness.model_folder("tale-7m-mlkv1")
        models = {"gqa": BUNDLED_FOLDER, "mlkv": folder}
        with Daemon(models=models, compute_type="f32") as daemon:
            streams = {}
            goldens = {}
            for name, model in models.items():
                goldens[name] = harness.golden(model)["prompts"][1]
                streams[name] = daemon.stream(greedy(goldens[name]["ids"], max_tokens=48, model=name))
            for name, stream in streams.items():
                stream.join()
                self.assertIsNone(stream.error)
                self.assertEqual(stream.reply.token_ids[0], goldens[name]["greedy_ids"], name)
                self.assertEqual(stream.reply.accepted.model, name)
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(greedy())  # which of the two?
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(greedy(model="other"))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
            self.assertIn("gqa", caught.exception.details())


class MetricsTest(unittest.TestCase):
    def test_a_scrape_counts_what_happened(self):
        with Daemon() as daemon:
            daemon.metrics()  # a scrape before any request parses too
            for _ in range(3):
                reply = daemon.generate(greedy(max_tokens=10))
            call = daemon.generation.Generate(long_request(n=1))
            next(call)
            next(call)
            running = daemon.metrics()
            self.assertEqual(sample_sum(running, "kvasir_requests_running", model=BUNDLED), 1)
            self.assertGreater(sample_sum(running, "kvasir_kv_pool_bytes", model=BUNDLED, state="live"), 0)
            call.cancel()
            daemon.wait_kv_idle()

            wait_until(lambda: sample_sum(daemon.metrics(), "kvasir_requests_total", model=BUNDLED) == 4,
                       "four requests counted")
            metrics = daemon.metrics()
            self.assertEqual(sample_sum(metrics, "kvasir_requests_total", model=BUNDLED, code="OK"), 3)
            self.assertEqual(sample_sum(metrics, "kvasir_requests_running", model=BUNDLED), 0)
            prompt_tokens = sample_sum(metrics, "kvasir_prompt_tokens_total", model=BUNDLED)
            self.assertGreaterEqual(prompt_tokens, 3 * reply.usage.prompt_tokens)
            self.assertGreaterEqual(sample_sum(metrics, "kvasir_generation_tokens_total", model=BUNDLED), 30)
            self.assertGreaterEqual(sample_sum(metrics, "kvasir_time_to_first_token_seconds_count", model=BUNDLED), 3)
            self.assertGreaterEqual(sample_sum(metrics, "kvasir_inter_token_latency_seconds_count", model=BUNDLED), 27)
            pool = {state: sample_sum(metrics, "kvasir_kv_pool_bytes", model=BUNDLED, state=state)
                    for state in ("live", "cached", "free")}
            self.assertEqual(pool["live"], 0)
            self.assertEqual(sum(pool.values()), sample_sum(metrics, "kvasir_kv_pool_capacity_bytes", model=BUNDLED))
            self.assertGreater(sample_sum(metrics, "process_resident_memory_bytes"), 0)

            if shutil.which("promtool"):
                check = subprocess.run(["promtool", "check", "metrics"], input=daemon.metrics_text(), text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
                self.assertEqual(check.returncode, 0, check.stdout)


class LimitsTest(unittest.TestCase):
    def test_a_full_queue_refuses_with_a_time_to_retry(self):
        config = config_with("    scheduler: {max_running: 1, max_waiting: 1}\n")
        with Daemon(config=config) as daemon:
            running = daemon.stream(long_request(n=1, max_tokens=1900))
            running.wait_streaming()
            waiting = daemon.stream(greedy(max_tokens=5))
            wait_until(lambda: daemon.stats().waiting == 1 or not running.thread.is_alive(), "one request waits")
            self.assertTrue(running.thread.is_alive(), "the long request ended too early for this test")
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(greedy(max_tokens=5))
            error = caught.exception
            self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            retry = harness.error_details(error, harness.error_details_pb2.RetryInfo)
            self.assertIsNotNone(retry)
            self.assertGreater(retry.retry_delay.ToMilliseconds(), 0)
            running.call.cancel()
            running.join()
            waiting.join()
            self.assertIsNone(waiting.error)
            self.assertEqual(waiting.reply.usage.completion_tokens, 5)
            self.assertEqual(daemon.generate(greedy(max_tokens=5)).usage.completion_tokens, 5)

    def test_a_log_that_nobody_reads_holds_up_neither_streams_nor_the_end(self):
        for signals in (1, 3):
            reader, writer = os.pipe()
            self.addCleanup(os.close, reader)
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
            process = subprocess.Popen(
                [str(harness.BIN / "kvasird"), "--listen", "127.0.0.1:0", "--http_listen", "127.0.0.1:0", "--metrics_listen",
                 "127.0.0.1:0", "--kv_capacity_bytes", "8MiB", "--model", f"{harness.BUNDLED}={harness.BUNDLED_FOLDER}"],
                stdout=subprocess.PIPE, stderr=writer, text=True)
            self.addCleanup(process.kill)
            os.close(writer)
            address = re.search(r"grpc=(\S+)", process.stdout.readline()).group(1)
            with grpc.insecure_channel(address) as channel:
                for number in range(100):
                    reply = harness.Reply()
                    for event in generation_pb2_grpc.GenerationServiceStub(channel).Generate(
                            greedy([5, 6, number], max_tokens=2), timeout=harness.PATIENCE_SECONDS):
                        reply.take(event)
                    self.assertEqual(reply.usage.completion_tokens, 2)
            for _ in range(signals):
                process.terminate()
            self.assertIn(process.wait(harness.PATIENCE_SECONDS), (0, 143))
            process.stdout.close()

    def test_a_deadline_passes_while_waiting(self):
        config = config_with("    scheduler: {max_running: 1}\n")
        with Daemon(config=config) as daemon:
            def deadline_passes():
                """False where the first ended before the second came."""
                running = daemon.stream(long_request(n=1, max_tokens=1900))
                running.wait_streaming()
                try:
                    daemon.generate(greedy(max_tokens=5), timeout=0.1)
                    return False
                except grpc.RpcError as error:
                    self.assertEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
                    return True
                finally:
                    wait_until(lambda: daemon.stats().waiting == 0, "the late request left the queue")
                    running.call.cancel()
                    running.join()
                    daemon.wait_kv_idle()

            wait_until(deadline_passes, "a deadline passes")

    def test_a_slow_reader_is_paused_then_aborted_and_slows_nobody(self):
        config = config_with("    scheduler: {stream_outbox: 4, stall_limit_seconds: 1}\n")
        with Daemon(config=config) as daemon:
            # A reader with the smallest windows that never reads again after its first delta.
            channel = daemon.new_channel(grpc__http2__lookahead_bytes=1024, grpc__http2__bdp_probe=0)
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            request = long_request(n=16, request_id="slow")
            request.output.logprobs = 20  # fat messages fill the connection's buffers
            slow = stub.Generate(request, timeout=2 * harness.PATIENCE_SECONDS)
            next(slow)
            next(slow)
            wait_until(lambda: [r for r in daemon.requests() if r.request_id == "slow" and r.state == "paused"],
                       "the slow reader's request is paused")
            # Others go on meanwhile.
            self.assertEqual(daemon.generate(greedy(max_tokens=50)).usage.completion_tokens, 50)
            wait_until(lambda: not [r for r in daemon.requests() if r.request_id == "slow"],
                       "the stalled request was aborted")
            daemon.wait_kv_idle()
            with self.assertRaises(grpc.RpcError) as caught:
                for _ in slow:
                    pass
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            self.assertGreater(sample_sum(daemon.metrics(), "kvasir_slow_reader_pauses_total", model=BUNDLED), 0)
            channel.close()


    def test_connections_over_the_limit_are_closed_and_others_go_on(self):
        with Daemon(config=config_with("server:\n  max_connections: 8\n")) as daemon:
            connections = lambda: daemon.metrics()["kvasir_connections"]
            daemon.generate(greedy(max_tokens=1))
            address = daemon.grpc_address.rsplit(":", 1)
            idle = [socket.create_connection(address, timeout=harness.PATIENCE_SECONDS) for _ in range(20)]
            wait_until(lambda: daemon.metrics()["kvasir_connections_refused_total"] == 13, "13 refused of 21")
            self.assertEqual(connections(), 8)
            # A server of HTTP/2 speaks first; those refused read the end only.
            self.assertEqual([bool(one.recv(1)) for one in idle].count(True), 7)
            self.assertIn("connection refused open=8 max_connections=8", daemon.log())
            daemon.generate(greedy(max_tokens=4))  # on the connection that it had
            for one in idle:
                one.close()
            wait_until(lambda: connections() == 1, "idle connections are forgotten")
            with daemon.new_channel() as channel:
                generation_pb2_grpc.GenerationServiceStub(channel).ListModels(pb.ListModelsRequest())


class StartTest(unittest.TestCase):
    """What ends before it listens: exit code and message."""

    def run_daemon(self, *flags):
        return subprocess.run([str(BIN / "kvasird"), *map(str, flags)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=harness.PATIENCE_SECONDS, check=False)

    def expect(self, exit_code, words, *flags):
        result = self.run_daemon(*flags)
        self.assertEqual(result.returncode, exit_code, result.stdout)
        for word in words:
            self.assertIn(word, result.stdout)

    def in_file(self, text):
        file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
        file.write(text)
        file.close()
        self.addCleanup(pathlib.Path(file.name).unlink)
        return file.name

    def test_bad_flags_and_files_exit_with_2(self):
        self.expect(2, ["lisen", "listen"], "--lisen", "127.0.0.1:0")
        self.expect(2, ["3", "contxt"], "--config", self.in_file(f"models:\n- path: {BUNDLED_FOLDER}\n  contxt: 5\n"))
        self.expect(2, ["threads"], "--model", BUNDLED_FOLDER, "--threads", "many")
        self.expect(2, ["/no/such/file"], "--config", "/no/such/file")
        self.expect(2, ["f31"], "--model", BUNDLED_FOLDER, "--compute_type", "f31")

    def test_check_config_and_print_config(self):
        good = self.in_file(config_with(""))
        self.expect(0, [], "--config", good, "--check_config")
        printed = self.run_daemon("--config", good, "--print_config")
        self.assertEqual(printed.returncode, 0, printed.stdout)
        self.expect(0, [], "--config", self.in_file(printed.stdout), "--check_config")

    def test_check_config_opens_what_it_names(self):
        self.expect(3, ["give hf:Qwen/Qwen3-0.6B"], "--model", "q=Qwen/Qwen3-0.6B", "--check_config")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.expect(4, ["server.listen", "in use"], "--model", BUNDLED_FOLDER, "--check_config",
                        "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        self.expect(5, ["KV pool", "GiB"], "--model", BUNDLED_FOLDER, "--kv_capacity_bytes", "900Ti", "--check_config",
                    "--listen", "127.0.0.1:0")
        self.expect(2, ["8G", "Gi"], "--model", BUNDLED_FOLDER, "--kv_capacity_bytes", "8G", "--check_config")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "tokenizer.json", "model.safetensors"):
                shutil.copy(os.path.join(BUNDLED_FOLDER, name), folder)
            at = ("--model", f"m={folder}", "--listen", "127.0.0.1:0", "--check_config")
            self.expect(0, [], *at)
            os.truncate(os.path.join(folder, "tokenizer.json"), 1000)
            self.expect(3, ["model 'm'", "tokenizer.json"], *at)

    def test_models_that_do_not_load_exit_with_3(self):
        self.expect(3, ["/no/such/model"], "--model", "m=/no/such/model", "--listen", "127.0.0.1:0")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                shutil.copy(BUNDLED_FOLDER / name, folder)
            data = (BUNDLED_FOLDER / "model.safetensors").read_bytes()
            weights = pathlib.Path(folder, "model.safetensors")
            for damage in (data[:100], data[:-1000], b"\xff" * 8 + data[8:]):
                weights.write_bytes(damage)
                self.expect(3, ["model.safetensors"], "--model", f"m={folder}", "--listen", "127.0.0.1:0")
            weights.write_bytes(data)
            config = pathlib.Path(folder, "config.json")
            config.write_text(config.read_text().replace("LlamaForCausalLM", "OtherModel").replace('"llama"', '"other"'))
            self.expect(3, ["OtherModel", "LlamaForCausalLM"], "--model", f"m={folder}", "--listen", "127.0.0.1:0")
            config.write_text("{")
            self.expect(3, ["config.json"], "--model", f"m={folder}", "--listen", "127.0.0.1:0")

    def test_a_port_in_use_exits_with_4(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            self.expect(4, [str(port)], "--model", BUNDLED_FOLDER, "--listen", f"127.0.0.1:{port}",
                        "--metrics_listen", "off", "--http_listen", "off", "--kv_capacity_bytes", "64MiB")

    def test_a_pool_beyond_memory_exits_with_5(self):
        self.expect(5, [], "--model", BUNDLED_FOLDER, "--listen", "127.0.0.1:0", "--metrics_listen", "off",
                    "--kv_capacity_bytes", "900TiB")

    def test_port_zero_gives_a_free_port_and_says_which(self):
        with Daemon() as first, Daemon() as second:
            addresses = {first.grpc_address, second.grpc_address, first.metrics_address, second.metrics_address}
            self.assertEqual(len(addresses), 4)
            for address in addresses:
                self.assertRegex(address, r"^127\.0\.0\.1:[1-9][0-9]*$")
            self.assertTrue(first.serving() and second.serving())


class BadInputTest(unittest.TestCase):
    """Every bad request gets its status code and a message with value and limit, and the daemon keeps serving."""

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(kv_capacity="4MiB")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def refused(self, request, code, *words):
        with self.assertRaises(grpc.RpcError) as caught:
            self.daemon.generate(request)
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        details = harness.error_details(error, harness.error_details_pb2.BadRequest)
        text = error.details() + " ".join(f"{v.field} {v.description}" for v in details.field_violations) if details \
            else error.details()
        for word in words:
            self.assertIn(word, text)
        return error

    def test_bad_fields(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        cases = {
            "temperature below 0": (lambda r: setattr(r.sampling, "temperature", -1), "temperature", "-1"),
            "temperature NaN": (lambda r: setattr(r.sampling, "temperature", float("nan")), "temperature", "nan"),
            "top_p 0": (lambda r: setattr(r.sampling, "top_p", 0), "top_p", "0"),
            "top_p infinite": (lambda r: setattr(r.sampling, "top_p", float("inf")), "top_p", "inf"),
            "n too large": (lambda r: setattr(r.sampling, "n", 65), "n", "65", "64"),
            "max_tokens 0": (lambda r: setattr(r.stopping, "max_tokens", 0), "max_tokens", "0", "1"),
            "min above max": (lambda r: setattr(r.stopping, "min_tokens", 17), "min_tokens", "17", "16"),
            "stop list too long": (lambda r: r.stopping.stop.extend(["x"] * 17), "stop", "17", "16"),
            "empty stop": (lambda r: r.stopping.stop.append(""), "stop"),
            "logprobs too many": (lambda r: setattr(r.output, "logprobs", 21), "logprobs", "21", "20"),
            "empty prompt": (lambda r: (r.ClearField("prompt"), r.token_ids.SetInParent()), "prompt"),
            "no prompt": (lambda r: r.ClearField("text"), "prompt"),
            "unknown token id": (lambda r: r.token_ids.ids.extend([1, 4096]), "4096"),
            "negative token id": (lambda r: r.token_ids.ids.extend([-1]), "-1"),
            "unknown bias id": (lambda r: r.sampling.logit_bias.update({5000: 1.0}), "logit_bias", "5000"),
            "prompt beyond the context": (lambda r: r.token_ids.ids.extend([5] * 3000), "3000", "2048"),
            "priority": (lambda r: setattr(r, "priority", 101), "priority", "101", "100"),
            "request id": (lambda r: setattr(r, "request_id", "x" * 129), "request_id", "128"),
        }
        for name, (spoil, *words) in cases.items():
            with self.subTest(name):
                request = greedy(max_tokens=16)
                spoil(request)
                error = self.refused(request, invalid, *words)
                details = harness.error_details(error, harness.error_details_pb2.BadRequest)
                self.assertIsNotNone(details, "BadRequest details")
        self.assertEqual(self.daemon.generate(greedy(max_tokens=3)).usage.completion_tokens, 3)

    def test_every_violation_is_listed(self):
        request = greedy(max_tokens=0)
        request.sampling.temperature = -1
        request.sampling.n = 1000
        error = self.refused(request, grpc.StatusCode.INVALID_ARGUMENT)
        details = harness.error_details(error, harness.error_details_pb2.BadRequest)
        self.assertGreaterEqual(len({v.field for v in details.field_violations}), 3)

    def test_a_request_that_could_never_fit_names_bytes(self):
        # 2000 tokens of 2048 bytes each need twice the pool.
        with Daemon(kv_capacity="2MiB") as daemon:
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generate(greedy([5] * 1000, max_tokens=1000))
            self.assertIn(caught.exception.code(),
                          (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT))
            self.assertRegex(caught.exception.details(), r"bytes|MiB|KiB")
            self.assertEqual(daemon.generate(greedy(max_tokens=3)).usage.completion_tokens, 3)

    def test_requests_beyond_the_pool_together_all_finish(self):
        # Eight sequences of 1 MiB in a pool of 4 MiB: some are preempted and computed again.
        reply = self.daemon.generate(long_request(n=8, max_tokens=500))
        self.assertEqual(reply.usage.completion_tokens, 8 * 500)
        self.assertLessEqual(reply.usage.kv_bytes_peak, 4 << 20)

    def test_unknown_model_and_chat_without_template(self):
        self.refused(greedy(model="nobody"), grpc.StatusCode.NOT_FOUND, "nobody", BUNDLED)
        request = greedy()
        request.messages.messages.add(role="user", content="hello")
        self.refused(request, grpc.StatusCode.UNIMPLEMENTED, "template")

    def test_invalid_utf8_on_the_wire(self):
        generate = self.daemon.channel.unary_stream("/kvasir.v1.GenerationService/Generate",
                                                    request_serializer=lambda data: data,
                                                    response_deserializer=pb.GenerateResponse.FromString)
        with self.assertRaises(grpc.RpcError) as caught:
            list(generate(b"\x12\x04ab\xff\xfe", timeout=harness.PATIENCE_SECONDS))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT, caught.exception.details())

    def test_garbage_bytes_unknown_methods_and_huge_messages(self):
        def code_of(method, data):
            call = self.daemon.channel.unary_stream(method, request_serializer=lambda raw: raw,
                                                    response_deserializer=lambda raw: raw)
            with self.assertRaises(grpc.RpcError) as caught:
                list(call(data, timeout=harness.PATIENCE_SECONDS))
            return caught.exception.code()

        self.assertEqual(code_of("/kvasir.v1.GenerationService/NoSuch", b""), grpc.StatusCode.UNIMPLEMENTED)
        self.assertIn(code_of("/kvasir.v1.GenerationService/Generate", b"\xff" * 50),
                      (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL))
        self.assertEqual(code_of("/kvasir.v1.GenerationService/Generate", b"\x12" + b"\x80\x80\x80\x04" + b"a" * (8 << 20)),
                         grpc.StatusCode.RESOURCE_EXHAUSTED)
        host, port = self.daemon.grpc_address.split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\x00" * 1000)
        self.assertEqual(self.daemon.generate(greedy(max_tokens=3)).usage.completion_tokens, 3)

    def test_after_all_that_nothing_is_held(self):
        self.assertEqual(self.daemon.generate(greedy(max_tokens=3)).usage.completion_tokens, 3)
        self.daemon.wait_kv_idle()


if __name__ == "__main__":
    unittest.main(verbosity=2)
