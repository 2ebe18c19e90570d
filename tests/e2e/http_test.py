"""The HTTP port of a real daemon: OpenAI's API as its clients meet it, beside gRPC over the same engine."""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from harness import BUNDLED, Daemon, PATIENCE_SECONDS, greedy, parse_metrics, wait_until

PROMPT = "Once upon a time"
KEY_A, KEY_B = "a-key-of-tenant-a-0123", "a-key-of-tenant-b-0123"


def host_and_port(daemon):
    host, port = daemon.http_address.rsplit(":", 1)
    return host, int(port)


def call(daemon, method, path, body=None, headers=None):
    """(status, headers, body) of one exchange; a body that is no string is sent as JSON."""
    connection = http.client.HTTPConnection(*host_and_port(daemon), timeout=PATIENCE_SECONDS)
    try:
        data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def post(daemon, path, headers=None, **body):
    status, _, data = call(daemon, "POST", path, body, headers)
    return status, json.loads(data)


def completion(daemon, **fields):
    """The body of a greedy completion that no end-of-sequence cuts."""
    status, body = post(daemon, "/v1/completions",
                        **{"prompt": PROMPT, "temperature": 0, "ignore_eos": True, "max_tokens": 12, **fields})
    assert status == 200, body
    return body


def read_events(response):
    """The data of each server-sent event, in order; comments are left out."""
    events = []
    for line in response:
        line = line.decode().rstrip("\n")
        if line.startswith("data: "):
            events.append(line[len("data: "):])
        else:
            assert line == "" or line.startswith(":") or line.startswith("event: "), line
    return events


def stream(daemon, path="/v1/completions", headers=None, **body):
    connection = http.client.HTTPConnection(*host_and_port(daemon), timeout=PATIENCE_SECONDS)
    connection.request("POST", path, json.dumps({**body, "stream": True}), headers or {})
    response = connection.getresponse()
    try:
        return response, read_events(response)
    finally:
        connection.close()


class CompletionsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def test_the_text_is_that_of_grpc(self):
        wanted = self.daemon.generate(greedy(text=PROMPT, max_tokens=24))
        for path in ("/v1/completions", "/completions"):
            status, headers, data = call(self.daemon, "POST", path, {
                "model": BUNDLED, "prompt": PROMPT, "temperature": 0, "ignore_eos": True, "max_tokens": 24})
            self.assertEqual(status, 200, data)
            body = json.loads(data)
            self.assertEqual(body["choices"][0]["text"], wanted.text[0])
            self.assertEqual(body["choices"][0]["finish_reason"], "length")
            self.assertEqual(body["object"], "text_completion")
            self.assertEqual(body["model"], BUNDLED)
            self.assertEqual(body["usage"]["completion_tokens"], 24)
            self.assertEqual(body["usage"]["prompt_tokens"], wanted.usage.prompt_tokens)
            account = body["usage"]["kvasir"]
            self.assertGreater(account["kv_bytes_peak"], 0)
            self.assertGreater(account["kv_bytes_read"], 0)
            self.assertGreater(account["total_ms"], 0)
            self.assertLessEqual(account["ttft_ms"], account["total_ms"])
            self.assertEqual(headers["kvasir-kv-bytes-peak"], str(account["kv_bytes_peak"]))
            self.assertTrue(headers["x-request-id"])

    def test_a_stream_says_the_same_and_ends_with_done(self):
        whole = completion(self.daemon, max_tokens=20)
        response, events = stream(self.daemon, prompt=PROMPT, temperature=0, ignore_eos=True, max_tokens=20,
                                  stream_options={"include_usage": True})
        self.assertEqual(response.status, 200)
        self.assertEqual(response.getheader("content-type"), "text/event-stream; charset=utf-8")
        self.assertEqual(response.getheader("cache-control"), "no-cache")
        self.assertEqual(events[-1], "[DONE]")
        chunks = [json.loads(event) for event in events[:-1]]
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks[:-1]), whole["choices"][0]["text"])
        self.assertEqual(len({(c["id"], c["created"], c["model"]) for c in chunks}), 1)
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[:-1]], [None] * (len(chunks) - 2) + ["length"])
        self.assertEqual([c["usage"] for c in chunks[:-1]], [None] * (len(chunks) - 1))
        self.assertEqual(chunks[-1]["choices"], [])
        self.assertEqual(chunks[-1]["usage"]["completion_tokens"], 20)

    def test_usage_in_every_chunk_counts_up(self):
        _, events = stream(self.daemon, prompt=PROMPT, ignore_eos=True, max_tokens=5, n=2,
                           stream_options={"include_usage": True, "continuous_usage_stats": True})
        usages = [json.loads(event)["usage"] for event in events[:-1]]
        last = usages[-1]
        self.assertEqual({usage["prompt_tokens"] for usage in usages}, {last["prompt_tokens"]})
        counts = [usage["completion_tokens"] for usage in usages]
        self.assertEqual((counts, counts[-1], counts[-2]), (sorted(counts), 10, 10))
        self.assertLess(counts[0], 10)

    def test_lists_of_prompts_token_ids_and_n(self):
        one = completion(self.daemon)["choices"][0]["text"]
        ids = json.loads(call(self.daemon, "POST", "/tokenize", {"prompt": PROMPT})[2])
        self.assertEqual(ids["count"], len(ids["tokens"]))
        text = json.loads(call(self.daemon, "POST", "/v1/detokenize", {"tokens": ids["tokens"]})[2])["prompt"]
        self.assertIn(PROMPT, text)
        body = completion(self.daemon, prompt=[PROMPT, "The king", PROMPT], n=2)
        self.assertEqual([choice["index"] for choice in body["choices"]], list(range(6)))
        self.assertEqual({body["choices"][i]["text"] for i in (0, 1, 4, 5)}, {one})
        self.assertNotEqual(body["choices"][2]["text"], one)
        self.assertEqual(completion(self.daemon, prompt=ids["tokens"])["choices"][0]["text"], one)
        self.assertEqual(completion(self.daemon, prompt=[ids["tokens"]])["choices"][0]["text"], one)
        _, events = stream(self.daemon, prompt=[PROMPT, "The king"], n=2, temperature=0, ignore_eos=True, max_tokens=12)
        texts = ["", "", "", ""]
        for chunk in map(json.loads, events[:-1]):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        self.assertEqual(texts, [body["choices"][i]["text"] for i in range(4)])

    def test_stop_strings_and_seed(self):
        text = completion(self.daemon, max_tokens=30)["choices"][0]["text"]
        stop = text[len(text) // 2:len(text) // 2 + 3]
        choice = completion(self.daemon, max_tokens=30, stop=stop)["choices"][0]
        self.assertEqual(choice["text"], text[:text.index(stop)])
        self.assertEqual((choice["finish_reason"], choice["stop_reason"]), ("stop", stop))
        kept = completion(self.daemon, max_tokens=30, stop=[stop], include_stop_str_in_output=True)["choices"][0]["text"]
        self.assertEqual(kept, text[:text.index(stop)] + stop)
        sampled = {completion(self.daemon, temperature=1, seed=5)["choices"][0]["text"] for _ in range(3)}
        self.assertEqual(len(sampled), 1)

    def test_logprobs_and_echo(self):
        choice = completion(self.daemon, logprobs=2)["choices"][0]
        logprobs = choice["logprobs"]
        self.assertEqual("".join(logprobs["tokens"]), choice["text"])
        self.assertEqual(len(logprobs["token_logprobs"]), 12)
        self.assertEqual(logprobs["text_offset"][0], 0)
        for token, chosen, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
            self.assertEqual(top[token], chosen)
            self.assertEqual(max(top.values()), chosen)  # greedy
        echoed = completion(self.daemon, echo=True, logprobs=0, max_tokens=0)["choices"][0]
        self.assertEqual(echoed["text"], PROMPT)
        self.assertIsNone(echoed["logprobs"]["token_logprobs"][0])
        self.assertTrue(all(value < 0 for value in echoed["logprobs"]["token_logprobs"][1:]))
        both = completion(self.daemon, echo=True)["choices"][0]["text"]
        self.assertEqual(both, PROMPT + choice["text"])
        response, events = stream(self.daemon, prompt=PROMPT, temperature=0, ignore_eos=True, max_tokens=12, echo=True)
        self.assertEqual("".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]), both)

    def test_a_session_by_its_header(self):
        headers = {"x-session-id": "http-session"}
        _, first = post(self.daemon, "/v1/completions", headers, prompt=PROMPT, temperature=0, ignore_eos=True,
                        max_tokens=40)
        _, second = post(self.daemon, "/v1/completions", headers, prompt=" and then", temperature=0, ignore_eos=True,
                         max_tokens=8)
        self.assertGreater(second["usage"]["prompt_tokens_details"]["cached_tokens"],
                           first["usage"]["prompt_tokens"] + 30)

    def test_a_salt_hides_a_prompt_from_all_but_those_who_know_it(self):
        prompt = "A prompt that no other test has asked for, and that is longer than one block of the cache. " * 3

        def cached(**fields):
            return completion(self.daemon, prompt=prompt, max_tokens=1, **fields)["usage"]["prompt_tokens_details"][
                "cached_tokens"]

        self.assertEqual([cached(cache_salt="ours"), cached(), cached(cache_salt="theirs")], [0, 0, 0])
        again = {cached(cache_salt="ours"), cached(), cached(cache_salt="theirs"), cached(cache_salt="")}
        self.assertEqual(len(again), 1)
        self.assertGreater(again.pop(), 0)
        status, body = post(self.daemon, "/v1/completions", prompt=prompt, cache_salt="x" * 257)
        self.assertEqual((status, body["error"]["param"]), (400, "cache_salt"))

    def test_what_clients_probe(self):
        for path in ("/v1/models", "/models"):
            body = json.loads(call(self.daemon, "GET", path)[2])
            self.assertEqual([model["id"] for model in body["data"]], [BUNDLED])
            self.assertGreater(body["data"][0]["max_model_len"], 0)
            self.assertLess(abs(time.time() - body["data"][0]["created"]), 3600)  # when it was loaded
        self.assertEqual(json.loads(call(self.daemon, "GET", f"/v1/models/{BUNDLED}")[2])["id"], BUNDLED)
        self.assertEqual(call(self.daemon, "GET", "/v1/models/none")[0], 404)
        self.assertEqual(call(self.daemon, "GET", "/health")[0], 200)
        self.assertRegex(json.loads(call(self.daemon, "GET", "/version")[2])["version"], r"^\d+\.\d+")
        status, headers, data = call(self.daemon, "GET", "/metrics")
        self.assertEqual((status, headers["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"))
        self.assertIn("kvasir_requests_total", " ".join(parse_metrics(data.decode())))

    def test_errors_have_openais_form(self):
        def error(path, body, status, method="POST"):
            got, headers, data = call(self.daemon, method, path, body)
            self.assertEqual(got, status, data)
            return json.loads(data)["error"]

        self.assertEqual(error("/v1/completions", {"prompt": "a", "temperature": -1}, 400)["param"], "temperature")
        self.assertEqual(error("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400)["param"], "max_tokens")
        self.assertEqual(error("/v1/completions", {"prompt": "a", "n": 1000}, 400)["param"], "n")
        self.assertEqual(error("/v1/completions", {"prompt": "a", "guided_json": 7}, 400)["param"], "guided_json")
        self.assertEqual(error("/v1/completions", {"prompt": ["a", ""]}, 400)["type"], "invalid_request_error")
        self.assertEqual(error("/v1/completions", {"prompt": "a", "model": "gpt-4"}, 404)["code"], "model_not_found")
        self.assertIn("byte", error("/v1/completions", "{nonsense", 400)["message"])
        self.assertIn("tokens", error("/v1/completions", {"prompt": [1] * 100000}, 400)["message"])
        error("/v1/nonsense", {}, 404)
        error("/v1/completions", None, 405, "GET")
        self.assertEqual(error("/v1/embeddings", {"input": "a"}, 400)["code"], "unsupported")
        self.assertEqual(error("/v1/completions", b"x" * (9 << 20), 413)["type"], "invalid_request_error")
        self.wait_idle()

    def test_what_the_page_calls_refused_is_refused_by_name(self):
        page = (pathlib.Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text()
        listed = page.partition("*Refused by name, with 400*")[2].partition("`modalities`")[0]
        names = listed.partition("`")[2].rpartition("`")[0].split()
        self.assertGreater(len(names), 10, listed)
        for name in names:
            of_responses = name in ("previous_response_id", "conversation", "background")
            path = "/v1/responses" if of_responses else "/v1/chat/completions"
            prompt = {"input": "a"} if of_responses else {"messages": [{"role": "user", "content": "a"}]}
            for value in (True, "x", {"a": 1}):  # whatever its type
                status, body = post(self.daemon, path, **prompt, **{name: value})
                self.assertEqual((status, body["error"]["param"]), (400, name), body)

    def test_what_would_be_ignored_is_refused_by_its_name(self):
        for fields, param in (({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
                              ({"guided_of_tomorrow": 1}, "guided_of_tomorrow"),
                              ({"guided_decoding_backend": 1}, "guided_decoding_backend"),
                              ({"structured_outputs": {"foo": 1}}, "structured_outputs.foo"),
                              ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
                              ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace"),
                              ({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids"),
                              ({"best_of": 2}, "best_of")):
            for path, prompt in (("/v1/completions", {"prompt": "a"}),
                                 ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})):
                status, body = post(self.daemon, path, **prompt, **fields)
                self.assertEqual((status, body["error"]["param"]), (400, param), body)
        for name in ("echo", "add_special_tokens"):
            status, body = post(self.daemon, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}], **{name: True})
            self.assertEqual((status, body["error"]["param"]), (400, name), body)
        # What asks for nothing, as clients write defaults out.
        completion(self.daemon, ignore_eos=False, guided_decoding_backend="xgrammar", guided_whitespace_pattern=None, best_of=1,
                   structured_outputs={"regex": "a+", "disable_any_whitespace": False, "whitespace_pattern": None,
                                       "disable_fallback": True}, return_tokens_as_token_ids=False)
        for prompt in ([999999], ["a", [999999]]):
            status, body = post(self.daemon, "/v1/completions", prompt=prompt)
            self.assertEqual((status, body["error"]["param"]), (400, "prompt"), body)

    def test_a_compressed_body_is_415(self):
        body = json.dumps({"prompt": PROMPT, "max_tokens": 1})
        status, headers, data = call(self.daemon, "POST", "/v1/completions", json.loads(body), {"Content-Encoding": "gzip"})
        self.assertEqual((status, json.loads(data)["error"]["type"]), (415, "invalid_request_error"))
        self.assertEqual(headers["accept-encoding"], "identity")
        for encoding in ("identity", ""):
            self.assertEqual(call(self.daemon, "POST", "/v1/completions", json.loads(body), {"Content-Encoding": encoding})[0], 200)

    def test_fields_that_change_nothing_are_taken(self):
        completion(self.daemon, user="u", store=False, metadata={"a": "b"}, service_tier="auto", no_such_field=1)

    def test_a_client_that_leaves_is_noticed_within_a_step(self):
        for streamed in (True, False):
            with socket.create_connection(host_and_port(self.daemon), timeout=PATIENCE_SECONDS) as client:
                body = json.dumps({"prompt": PROMPT, "max_tokens": 1900, "ignore_eos": True, "stream": streamed, "n": 8,
                                   "seed": 1})
                client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                               .encode())
                wait_until(lambda: self.daemon.stats().running > 0, "the request runs")
            began = time.monotonic()
            self.wait_idle()
            self.assertLess(time.monotonic() - began, 10)

    def test_an_abort_ends_the_stream_with_an_error_event(self):
        done = []
        thread = threading.Thread(target=lambda: done.append(
            stream(self.daemon, headers={"x-request-id": "to-abort"}, prompt=PROMPT, max_tokens=1900, ignore_eos=True,
                   n=8, seed=1)))
        thread.start()
        wait_until(lambda: any(request.request_id == "to-abort" for request in self.daemon.requests()), "it runs")
        self.abort("to-abort")
        thread.join(PATIENCE_SECONDS)
        response, events = done[0]
        if response.status == 200:
            self.assertIn("error", json.loads(events[-1]))
        else:
            self.assertEqual(response.status, 503)
        self.wait_idle()

    def wait_idle(self):
        """Until nothing runs; sessions may keep what is theirs."""
        wait_until(lambda: self.daemon.stats().running + self.daemon.stats().waiting == 0, "no request is left")

    def abort(self, request_id):
        from kvasir.v1 import generation_pb2
        self.daemon.generation.Abort(generation_pb2.AbortRequest(request_id=request_id), timeout=PATIENCE_SECONDS)

    def test_curl(self):
        if shutil.which("curl") is None:
            print("*** curl is not installed: this test is skipped", file=sys.stderr)
            self.skipTest("no curl")
        url = f"http://{self.daemon.http_address}/v1/completions"
        result = subprocess.run(["curl", "-sS", "--noproxy", "*", "-N", url, "-H", "Content-Type: application/json", "-d",
                                 json.dumps({"prompt": PROMPT, "max_tokens": 5, "stream": True})],
                                stdout=subprocess.PIPE, check=True, timeout=PATIENCE_SECONDS)
        self.assertTrue(result.stdout.decode().endswith("data: [DONE]\n\n"))
        # More than a megabyte: curl waits for 100 Continue.
        big = subprocess.run(["curl", "-sS", "--noproxy", "*", url, "-d", "@-"], check=True, stdout=subprocess.PIPE,
                             input=json.dumps({"prompt": "a " * (1 << 20)}).encode(), timeout=PATIENCE_SECONDS)
        self.assertIn(b"invalid_request_error", big.stdout)


class TenantsTest(unittest.TestCase):
    CONFIG = f"""
models: [{{name: tale, path: {pathlib.Path(__file__).resolve().parents[2]}/deploy/models/{BUNDLED},
          kv_cache: {{capacity_bytes: 64MiB}}}}]
tenants:
  - {{id: a, key_file: KEYS_A}}
  - {{id: b, key_file: KEYS_B, admin: true, limits: {{max_requests: 0}}}}
http: {{cors_origins: ["https://chat.example"]}}
"""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        config = cls.CONFIG
        for name, key in (("KEYS_A", KEY_A), ("KEYS_B", KEY_B)):
            path = pathlib.Path(cls.folder.name, name)
            path.write_text(key + "\n")
            config = config.replace(name, str(path))
        cls.daemon = Daemon(config=config)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.folder.cleanup()

    def test_keys(self):
        body = {"prompt": PROMPT, "max_tokens": 2}
        for headers in ({"Authorization": f"Bearer {KEY_A}"}, {"x-api-key": KEY_A}):
            self.assertEqual(call(self.daemon, "POST", "/v1/completions", body, headers)[0], 200)
        for headers in ({}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}, {"x-api-key": "wrong-wrong-wrong-wrong"}):
            status, answer_headers, data = call(self.daemon, "POST", "/v1/completions", body, headers)
            self.assertEqual(status, 401)
            self.assertEqual(json.loads(data)["error"]["code"], "invalid_api_key")
            self.assertEqual(answer_headers["www-authenticate"], "Bearer")
            self.assertNotIn(b"wrong-wrong", data)
        self.assertEqual(call(self.daemon, "GET", "/v1/models")[0], 401)
        self.assertEqual(call(self.daemon, "GET", "/health")[0], 200)

    def test_a_body_without_a_key_is_not_read(self):
        with socket.create_connection(host_and_port(self.daemon), timeout=PATIENCE_SECONDS) as client:
            client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
            self.assertTrue(client.recv(4096).startswith(b"HTTP/1.1 401 "))

    def test_quotas_and_metrics(self):
        status, _, data = call(self.daemon, "POST", "/v1/completions", {"prompt": "a"}, {"x-api-key": KEY_B})
        # Its quota of requests is none at all: no retry helps, so this is no 429.
        self.assertEqual((status, json.loads(data)["error"]["code"]), (400, "quota_exceeded"), data)
        self.assertEqual(call(self.daemon, "GET", "/metrics", None, {"x-api-key": KEY_A})[0], 403)
        self.assertEqual(call(self.daemon, "GET", "/metrics", None, {"x-api-key": KEY_B})[0], 200)

    def test_web_pages_of_known_origins_may_read(self):
        origin = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST",
                  "Access-Control-Request-Headers": "authorization,x-stainless-os"}
        status, headers, _ = call(self.daemon, "OPTIONS", "/v1/completions", None, origin)
        self.assertEqual((status, headers["access-control-allow-origin"]), (204, "https://chat.example"))
        self.assertEqual(headers["access-control-allow-headers"], "authorization,x-stainless-os")
        _, headers, _ = call(self.daemon, "GET", "/v1/models", None, {**origin, "x-api-key": KEY_A})
        self.assertEqual(headers["access-control-allow-origin"], "https://chat.example")
        self.assertIn("kvasir-kv-bytes-peak", headers["access-control-expose-headers"])
        for others in ({"Origin": "https://evil.example"}, {}):
            _, headers, _ = call(self.daemon, "GET", "/v1/models", None, {**others, "x-api-key": KEY_A})
            self.assertEqual(headers["vary"], "Origin", "a cache may mix the answers of two origins")
        status, headers, _ = call(self.daemon, "PUT", "/v1/models", None, {"x-api-key": KEY_A})
        self.assertEqual((status, headers["allow"]), (405, "GET, HEAD, OPTIONS"))
        status, headers, _ = call(self.daemon, "GET", "/v1/completions", None, {"x-api-key": KEY_A})
        self.assertEqual((status, headers["allow"]), (405, "POST, OPTIONS"))
        _, headers, _ = call(self.daemon, "GET", "/v1/models", None, {"Origin": "https://evil.example", "x-api-key": KEY_A})
        self.assertNotIn("access-control-allow-origin", headers)


class DrainTest(unittest.TestCase):
    def test_streams_end_and_new_requests_are_refused(self):
        with Daemon("--drain_timeout_seconds", "60") as daemon:
            connection = http.client.HTTPConnection(*host_and_port(daemon), timeout=PATIENCE_SECONDS)
            connection.request("POST", "/v1/completions", json.dumps(
                {"prompt": PROMPT, "max_tokens": 600, "ignore_eos": True, "stream": True, "seed": 1}))
            response = connection.getresponse()
            daemon.signal()
            wait_until(lambda: call(daemon, "GET", "/health")[0] == 503, "health says draining")
            status, headers, _ = call(daemon, "POST", "/v1/completions", {"prompt": "a"})
            self.assertEqual(status, 503)
            self.assertEqual(headers["retry-after"], "1")
            self.assertEqual(read_events(response)[-1], "[DONE]")
            connection.close()
            self.assertEqual(daemon.wait(), 0)


RETRIES = """
import sys, openai
try:
    import httpx2 as httpx
except ImportError:
    import httpx  # of older clients
url, key = sys.argv[1:]
seen = []
class Watching(httpx.HTTPTransport):
    def handle_request(self, request):
        response = super().handle_request(request)
        seen.append((response.status_code, response.headers.get("retry-after")))
        return response
client = openai.OpenAI(base_url=url, api_key=key, max_retries=30, http_client=httpx.Client(transport=Watching()))
fields = dict(model="tale", prompt="Once upon a time", temperature=0, extra_body={"ignore_eos": True})
first = client.completions.create(max_tokens=1500, stream=True, **fields)
next(iter(first))
answer = client.completions.create(max_tokens=3, **fields)
assert answer.usage.completion_tokens == 3, answer
assert seen[0][0] == 200 and seen[-1][0] == 200 and len(seen) > 2, seen
assert all(status == 429 and int(after) >= 1 for status, after in seen[1:-1]), seen
first.close()
client.close()
print("all good")
"""


class OpenAiSdkTest(unittest.TestCase):
    """OpenAI's own Python client, from PyPI, in a virtual environment of the build folder."""

    def run_client(self, *command):
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        result = subprocess.run([self.python, *command], timeout=5 * PATIENCE_SECONDS, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, env=environment, check=False)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("all good", result.stdout)

    def setUp(self):
        folder = pathlib.Path(os.environ.get("KVASIR_BIN", "build/release/bin")).resolve().parent / "python"
        self.python = folder / "bin" / "python"
        if not (folder / "openai.ok").exists():
            try:
                subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=PATIENCE_SECONDS,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                subprocess.run([folder / "bin" / "pip", "install", "--quiet", "openai"], check=True,
                               timeout=PATIENCE_SECONDS,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                (folder / "openai.ok").touch()
            except (subprocess.SubprocessError, OSError) as error:
                print(f"*** openai could not be installed from PyPI ({error}): this test is skipped", file=sys.stderr)
                self.skipTest("no openai")

    def test_the_client(self):
        with Daemon() as daemon:
            self.run_client(pathlib.Path(__file__).parent / "clients" / "openai_client.py",
                            f"http://{daemon.http_address}/v1", BUNDLED)
            daemon.wait_kv_idle()

    def test_it_comes_again_when_it_is_told_to(self):
        """One request at a time: the second is refused with Retry-After until the first has ended."""
        with tempfile.TemporaryDirectory() as folder:
            key = pathlib.Path(folder, "key")
            key.write_text(KEY_A + "\n")
            models = TenantsTest.CONFIG.partition("tenants:")[0]
            with Daemon(config=f"{models}tenants: [{{id: a, key_file: {key}, limits: {{max_requests: 1}}}}]") as daemon:
                self.run_client("-c", RETRIES, f"http://{daemon.http_address}/v1", KEY_A)


if __name__ == "__main__":
    unittest.main(verbosity=2)
