"""The web page in a real browser, Debian's chromium without a screen: a chat streams and stops, the map of KV memory
changes, a wrong key sees nothing, the keyboard reaches everything. KVASIR_WRITE_PAGES=1 writes docs/screenshots anew."""

import http.client
import json
import os
import pathlib
import shutil
import sys
import tempfile
import unittest

import harness
import peers
import tools_test
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS, wait_until
from http_test import host_and_port
from tenant_client import KEYS, TenantClient, config

SCREENSHOTS = harness.ROOT / "docs" / "screenshots"
PROMPT = "Once upon a time"


def selenium():
    """The package, whose modules are plain Python: those of a virtual environment serve here too."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        peers.skip("chromium and chromium-driver are not installed (apt-get install chromium chromium-driver)")
    python = peers.python("browser", "selenium")
    sys.path += [str(path) for path in python.parent.parent.glob("lib/python3*/site-packages")]
    from selenium import webdriver
    return webdriver


def get(daemon, path, key=None, method="GET"):
    connection = http.client.HTTPConnection(*host_and_port(daemon), timeout=PATIENCE_SECONDS)
    connection.request(method, path, headers={"authorization": f"Bearer {key}"} if key else {})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


class MemoryTest(unittest.TestCase):
    """GET /kvasir/v1/memory and the page's files, without a browser."""

    def test_the_figures_are_those_of_the_admin_service(self):
        with Daemon() as daemon:
            call = daemon.generation.Generate(harness.long_request(n=2))
            next(call)

            def agree():
                """Both looks at a moment between two steps in which nothing changed, or None."""
                before = daemon.stats()
                memory = json.loads(get(daemon, "/kvasir/v1/memory")[1])
                model, = memory["models"]
                pool = model["pool"]
                self.assertEqual(pool["live_bytes"] + pool["cached_bytes"] + pool["free_bytes"], pool["capacity_bytes"])
                for kind in ("live", "cached"):
                    self.assertEqual(sum(group[f"{kind}_bytes"] for group in model["groups"]), pool[f"{kind}_bytes"])
                request, = model["requests"]
                self.assertEqual(request["kv_bytes_proportional"], pool["live_bytes"])
                self.assertEqual(model["running"], 1 if request["state"] != "waiting" else 0)
                return before.kv_live_bytes == pool["live_bytes"] and memory

            memory = wait_until(agree, "two looks at the same memory")
            self.assertTrue(memory["admin"])
            self.assertFalse(memory["models"][0]["chat"])
            self.assertGreater(memory["models"][0]["requests"][0]["kv_bytes_read"], 0)
            call.cancel()
            daemon.wait_kv_idle()

    def test_names_are_a_contract(self):
        """Scripts read these; a row may get more."""
        bytes_held = {"kv_bytes_physical", "kv_bytes_exclusive", "kv_bytes_proportional"}
        names = {
            "requests": bytes_held | {"request_id", "tenant", "session_id", "state", "prompt_tokens", "cached_tokens",
                                      "computed_tokens", "generated_tokens", "state_bytes", "kv_bytes_read",
                                      "kv_bytes_read_if_dense", "age_seconds", "model", "priority"},
            "sessions": bytes_held | {"session_id", "tenant", "state", "tokens", "turns", "state_bytes", "spilled_bytes",
                                      "idle_seconds", "expires_in_seconds", "model"},
            "tenants": bytes_held | {"tenant", "requests", "sessions"},
            "groups": {"kind", "layers", "window_tokens", "block_bytes", "live_bytes", "cached_bytes"}}
        with Daemon() as daemon:
            daemon.generate(harness.greedy(max_tokens=2, session_id="kept"))
            call = daemon.generation.Generate(harness.long_request(n=1, priority=3, request_id="mine"))
            next(call)
            memory = json.loads(get(daemon, "/kvasir/v1/memory")[1])
            self.assertLessEqual({"version", "uptime_seconds", "draining", "tenant", "admin", "models"}, set(memory))
            model, = memory["models"]
            self.assertLessEqual({"model", "chat", "sharing", "block_tokens", "kv_bytes_per_token_resident",
                                  "kv_bytes_per_token_read", "running", "waiting", "pool", "totals"}, set(model))
            self.assertEqual(set(model["pool"]), {"capacity_bytes", "live_bytes", "cached_bytes", "free_bytes"})
            self.assertLessEqual({"prompt_tokens", "cached_tokens", "generated_tokens", "steps", "preemptions", "evictions",
                                  "kv_bytes_read", "kv_bytes_read_if_dense"}, set(model["totals"]))
            for table, columns in names.items():
                self.assertTrue(model[table], table)
                for row in model[table]:
                    self.assertLessEqual(columns, set(row), table)
                    words = {"request_id", "session_id", "tenant", "state", "model", "kind"}
                    for name, value in row.items():
                        self.assertIsInstance(value, str if name in words else (int, float), name)
            request, = model["requests"]
            self.assertEqual((request["request_id"], request["priority"], request["model"]), ("mine", 3, BUNDLED))
            session, = model["sessions"]
            self.assertEqual((session["session_id"], session["state"], session["turns"]), ("kept", "idle", 1))
            # The same figures over gRPC.
            told, = [each for each in daemon.requests() if each.request_id == "mine"]
            self.assertGreater(told.kv_bytes_read, 0)
            call.cancel()

    def test_files_methods_and_headers(self):
        with Daemon() as daemon:
            for path, kind in (("/", "text/html"), ("/page/main.js", "text/javascript"), ("/page/style.css", "text/css")):
                answer, body = get(daemon, path)
                self.assertEqual(answer.status, 200)
                self.assertIn(kind, answer.headers["content-type"])
                self.assertIn("default-src 'none'", answer.headers["content-security-policy"])
                self.assertNotIn("unsafe", answer.headers["content-security-policy"])
                self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
                self.assertTrue(body)
                self.assertEqual(get(daemon, path, method="HEAD")[1], b"")
                self.assertEqual(get(daemon, path, method="POST")[0].status, 405)
            for path in ("/page/", "/page/none.js", "/page/../index.html", "/kvasir", "/kvasir/v1/memory/x"):
                self.assertEqual(get(daemon, path)[0].status, 404, path)

    def test_a_tenant_sees_its_own(self):
        with Daemon(config=tenants_config()) as daemon:
            for key in (None, "wrong-key-0123456789"):
                answer, body = get(daemon, "/kvasir/v1/memory", key)
                self.assertEqual(answer.status, 401)
                self.assertNotIn(BUNDLED.encode(), body)
            with TenantClient(daemon, KEYS["team-a"]) as a:
                call = a.generation.Generate(harness.long_request(n=1, session_id="mine"))
                next(call)
                own = json.loads(get(daemon, "/kvasir/v1/memory", KEYS["team-a"])[1])["models"][0]
                self.assertEqual([each["tenant"] for each in own["requests"]], ["team-a"])
                other = json.loads(get(daemon, "/kvasir/v1/memory", KEYS["team-b"])[1])["models"][0]
                self.assertEqual((other["requests"], other["sessions"], other["tenants"], other["running"]), ([], [], [], 0))
                for seen in (own, other):
                    self.assertFalse({"pool", "groups", "totals"} & set(seen), seen)
                operator = json.loads(get(daemon, "/kvasir/v1/memory", KEYS["operator"])[1])["models"][0]
                self.assertEqual([each["tenant"] for each in operator["tenants"]], ["team-a"])
                self.assertGreater(operator["pool"]["live_bytes"], 0)
                call.cancel()


def tenants_config():
    folder = peers.FOLDER / "page-keys"
    folder.mkdir(parents=True, exist_ok=True)
    tenants = {}
    for name, key in KEYS.items():
        file = folder / name
        file.write_text(key + "\n")
        tenants[name] = {"key_file": str(file), **({"admin": True} if name == "operator" else {})}
    return config(tenants)


def sparq_config():
    return json.dumps({"models": [{"name": BUNDLED, "path": str(BUNDLED_FOLDER),
                                   "kv_cache": {"capacity_bytes": "64MiB", "sparq_keys": "same"}}]})


class BrowserTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        webdriver = selenium()
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900",
                         "--no-proxy-server", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Its own driver, so that nothing is looked for in the network.
        cls.browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        cls.browser.set_script_timeout(PATIENCE_SECONDS)

    @classmethod
    def tearDownClass(cls):
        if hasattr(cls, "browser"):
            cls.browser.quit()

    def open(self, daemon):
        self.browser.get("about:blank")
        self.browser.get_log("browser")  # what the page said of daemons that are gone
        self.browser.get(f"http://{daemon.http_address}/")

    def script(self, text, *arguments):
        return self.browser.execute_script(text, *arguments)

    def text(self, selector):
        return self.script("return Array.from(document.querySelectorAll(arguments[0]), e => e.textContent).join('\\n')", selector)

    def count(self, selector):
        return self.script("return document.querySelectorAll(arguments[0]).length", selector)

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def set(self, **fields):
        for name, value in fields.items():
            self.script("const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                        "e.dispatchEvent(new Event('change'))", name, str(value))

    def wait_model(self):
        wait_until(lambda: self.count("#model option") == 1, "the model is offered")

    def ask(self, prompt=PROMPT):
        self.find("#prompt").send_keys(prompt + "\n")

    def wait_answer(self):
        wait_until(lambda: self.count(".turn.assistant[aria-busy=false] .account"), "the answer is complete")

    def complaints(self, *expected):
        return [entry["message"] for entry in self.browser.get_log("browser")
                if entry["level"] == "SEVERE" and not any(word in entry["message"] for word in expected)]

    def use_key(self, key):
        self.find("#key").send_keys(key)
        self.find("#key-form button").click()

    def shot(self, name):
        if os.environ.get("KVASIR_WRITE_PAGES"):
            SCREENSHOTS.mkdir(exist_ok=True)
            self.browser.save_screenshot(str(SCREENSHOTS / name))

    # ---

    def test_a_chat_streams_and_the_map_changes(self):
        with Daemon() as daemon:
            self.open(daemon)
            self.wait_model()
            self.assertEqual(self.count(".cell.live"), self.count(".legend .cell.live"))
            self.set(temperature=0, max_tokens=160)
            # The page itself looks: it is nearer than this test.
            self.script("""
                window.lengths = new Set();
                const look = () => lengths.add(document.querySelector('.turn.assistant .text')?.textContent.length);
                new MutationObserver(look).observe(document.getElementById('log'), {childList: true, subtree: true});""")
            self.ask()
            self.wait_answer()
            self.assertGreater(self.script("return window.lengths.size"), 5, "the answer did not grow, it came at once")
            wait_until(lambda: self.count(".map .cell.live") > 0, "live cells in the map")
            wait_until(lambda: self.count("tbody tr") > 0, "who holds them in a table")
            reply = daemon.generate(harness.generation_pb2.GenerateRequest(
                text=PROMPT, sampling=harness.generation_pb2.Sampling(temperature=0),
                stopping=harness.generation_pb2.Stopping(max_tokens=160)))
            self.assertEqual(self.text(".turn.assistant .text"), reply.text[0])
            self.assertRegex(self.text(".turn.assistant .account"), r"\d+ tokens in .* KV peak .* KV read")
            wait_until(lambda: self.count(".map .cell.live") > 0, "the session holds its K/V")
            self.assertIn("page-", self.text("table"))
            # A second turn finds the first in the session.
            self.ask(" and then")
            wait_until(lambda: self.count(".turn.assistant[aria-busy=false]") == 2, "the second answer")
            self.assertRegex(self.text(".turn.assistant:last-child .account"), r"prompt \d+, [1-9]\d* cached")
            self.assertEqual(self.complaints(), [])

    def test_tokens_tell_their_probability_to_pointer_and_keyboard(self):
        with Daemon(config=sparq_config()) as daemon:
            self.open(daemon)
            self.wait_model()
            self.set(temperature=0, max_tokens=12, attention="sparq", compression=4)
            self.ask()
            self.wait_answer()
            self.assertGreater(self.count(".tok"), 5)
            self.assertEqual(self.count(".tok[tabindex='0']"), 1)
            self.script("document.querySelector('.tok').focus()")
            first = self.text("#token")
            self.assertRegex(first, r"“.*” [\d.]+ %")
            self.assertGreaterEqual(self.count("#token span"), 5)
            from selenium.webdriver.common.keys import Keys
            self.browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            self.assertNotEqual(self.text("#token"), first)
            from selenium.webdriver import ActionChains
            ActionChains(self.browser).move_to_element(self.find(".tok")).perform()
            self.assertEqual(self.text("#token"), first)

    def test_thoughts_and_tool_calls_are_folded(self):
        with tempfile.TemporaryDirectory() as folder:
            tools_test.make_model(pathlib.Path(folder))
            with Daemon(models={BUNDLED: folder}) as daemon:
                self.open(daemon)
                self.wait_model()
                self.set(temperature=0, max_tokens=8)
                # What makes this little model call one.
                self.script("""
                    const real = window.fetch, more = arguments[0];
                    window.bodies = [];
                    window.fetch = (url, options) => {
                        if (!options?.body) return real(url, options);
                        window.bodies.push(JSON.parse(options.body));
                        return real(url, {...options, body: JSON.stringify({...JSON.parse(options.body), ...more})});
                    };""", {"logit_bias": tools_test.biases(tools_test.ANSWER), "min_tokens": 1})
                self.give_tools(json.dumps(tools_test.TOOLS))
                self.ask("How is the weather in Oslo?")
                self.wait_answer()
                self.assertEqual(self.text(".turn.assistant details summary"), "Thinking\nTool call: weather")
                self.assertEqual(self.text(".turn.assistant details pre"), "Ask.\n" + tools_test.ARGUMENTS)
                self.assertEqual(self.count(".turn.assistant details[open]"), 0)
                self.assertEqual(self.text(".turn.assistant .text"), "Well.")
                self.find(".turn.assistant details:nth-of-type(2) summary").click()
                self.assertEqual(self.count(".turn.assistant details[open]"), 1)
                # The call's result goes with the next turn.
                self.assertEqual(self.text(".results label"), "Result of weather")
                self.find(".results textarea").send_keys("Rain.")
                self.find(".results button").click()
                wait_until(lambda: self.count(".turn.assistant[aria-busy=false]") == 2, "the second answer")
                self.assertEqual(self.count(".turn.assistant:nth-of-type(2) .results"), 0)
                said = self.script("return window.bodies[1].messages")
                self.assertEqual([each["role"] for each in said], ["user", "assistant", "tool"])
                call, = said[1]["tool_calls"]
                self.assertEqual((call["function"]["name"], call["function"]["arguments"]), ("weather", tools_test.ARGUMENTS))
                self.assertEqual((said[2]["content"], said[2]["tool_call_id"]), ("Rain.", call["id"]))
                # A new message goes on without the second call's result.
                self.ask("And tomorrow?")
                wait_until(lambda: self.count(".turn.assistant[aria-busy=false]") == 3, "the third answer")
                self.assertEqual(self.count(".results"), 1)
                self.assertEqual(self.complaints(), [])

    def give_tools(self, text):
        if not self.script("return document.getElementById('tools-box').open"):
            self.find("#tools-box summary").send_keys("\n")  # by keyboard, as everything
        self.set(tools=text)

    def test_what_is_no_list_of_tools_is_said_and_not_sent(self):
        with tempfile.TemporaryDirectory() as folder:
            tools_test.make_model(pathlib.Path(folder))
            with Daemon(models={BUNDLED: folder}) as daemon:
                self.open(daemon)
                self.wait_model()
                for text, why in (("[{", "no JSON"), ("{}", "no list"), ('[{"type": "function"}]', "Tool 1"),
                                  ('[{"name": "f"}, 7]', "Tool 2")):
                    self.give_tools(text)
                    self.assertIn(why, self.text("#tools-error"))
                    self.assertEqual(self.find("#tools").get_attribute("aria-invalid"), "true")
                self.set(prompt="x")
                self.find("#send").click()
                self.assertEqual((self.count(".turn"), self.script("return document.activeElement.id")), (0, "tools"))
                self.assertEqual(self.script("return document.getElementById('prompt').value"), "x")
                self.give_tools("")
                self.assertEqual((self.text("#tools-error"), self.find("#tools").get_attribute("aria-invalid")), ("", "false"))
                # Every field has a name, the folded ones too; the fault is said aloud.
                nameless = self.script("return Array.from(document.querySelectorAll('#tools-box textarea, #tools-box select'))"
                                       ".filter(e => !e.labels?.length).length")
                self.assertEqual((nameless, self.find("#tools-error").get_attribute("role")), (0, "alert"))
        with Daemon() as daemon:  # a text that is continued has no calls
            self.open(daemon)
            self.wait_model()
            self.assertFalse(self.find("#tools-box").is_displayed())

    def test_stop(self):
        with Daemon(kv_capacity="512MiB") as daemon:
            # Company, so that an answer takes longer than a click.
            company = daemon.generation.Generate(harness.long_request(n=32, request_id="company"))
            next(company)
            self.open(daemon)
            self.wait_model()
            for how in ("button", "escape"):
                self.set(temperature=2, max_tokens=1900, seed=7)  # so hot that it does not find an end
                self.ask()
                wait_until(lambda: self.count(".turn.assistant[aria-busy=true] .tok") > 3, "some tokens")
                if how == "button":
                    self.find("#stop").click()
                else:
                    from selenium.webdriver.common.keys import Keys
                    self.find("#prompt").send_keys(Keys.ESCAPE)
                wait_until(lambda: self.text("#status") == "Stopped.", "the page says so")
                wait_until(lambda: all(each.request_id == "company" for each in daemon.requests()), "it ended")
                self.find("#new").click()
            self.assertEqual(self.count(".turn"), 0)
            company.cancel()
            self.assertEqual(self.complaints(), [])

    def test_a_wrong_key_sees_nothing_and_an_operator_everything(self):
        with Daemon(config=tenants_config()) as daemon, TenantClient(daemon, KEYS["team-a"]) as a:
            running = a.generation.Generate(harness.long_request(n=2, request_id="of-team-a"))
            next(running)
            self.open(daemon)
            wait_until(lambda: "wants an API key" in self.text("#status"), "it asks for a key")
            self.use_key("wrong-key-0123456789")
            wait_until(lambda: self.text("#status") and "wants" not in self.text("#status"), "it says that the key is wrong")
            self.assertEqual((self.count("#model option"), self.count(".model"), self.count("table")), (0, 0, 0))
            self.use_key(KEYS["team-b"])
            wait_until(lambda: self.count(".model") == 1, "team-b sees the model")
            self.assertEqual((self.count(".map"), self.count("table")), (0, 0))
            self.assertNotIn("of-team-a", self.browser.page_source)
            self.use_key(KEYS["operator"])
            wait_until(lambda: "of-team-a" in self.text("table"), "the operator sees the request of team-a")
            self.assertIn("Tenants", self.text("caption"))
            self.assertEqual(self.count(".map"), 1)
            # A key is kept for the tab, and shown nowhere.
            self.browser.refresh()
            wait_until(lambda: self.count(".map") == 1, "the key is still in use")
            self.assertNotIn(KEYS["operator"], self.browser.page_source)
            self.assertEqual(self.complaints("401"), [])
            running.cancel()
            self.script("sessionStorage.clear()")

    def test_light_dark_offline_and_names(self):
        with Daemon() as daemon:
            self.open(daemon)
            self.wait_model()
            self.set(temperature=0.7, max_tokens=120, seed=3)
            self.ask("Once upon a time there was a little fox who")
            self.wait_answer()
            wait_until(lambda: self.count(".map .cell.live") > 0, "the session in the map")
            grounds = []
            for scheme in ("light", "dark"):
                self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                             {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
                grounds.append(self.script("return getComputedStyle(document.body).backgroundColor"))
                self.shot(f"page-{scheme}.png")
            self.assertNotEqual(*grounds)
            self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            # Nothing is asked of anybody else.
            origin = f"http://{daemon.http_address}/"
            for url in self.script("return performance.getEntriesByType('resource').map(e => e.name)"):
                self.assertTrue(url.startswith((origin, "data:")), url)
            # Every field and button has a name that a screen reader can say.
            nameless = self.script("""
                return Array.from(document.querySelectorAll('input, select, textarea, button'))
                  .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')))
                  .map(e => e.outerHTML)""")
            self.assertEqual(nameless, [])
            # Text of strangers stays text.
            self.ask("<img src=x onerror=document.title='hurt'><b>bold</b>")
            wait_until(lambda: self.count(".turn.assistant[aria-busy=false]") == 2, "the second answer")
            self.assertEqual((self.count(".turn img"), self.count(".turn b"), self.browser.title), (0, 0, "Kvasir"))

    def test_the_daemon_goes_and_comes_back(self):
        with Daemon() as daemon:
            self.open(daemon)
            self.wait_model()
            port = daemon.http_address.rpartition(":")[2]
            daemon.stop()
            wait_until(lambda: "does not answer" in self.text("#status"), "the page says that it is gone")
            self.assertEqual(self.count(".model"), 0)
            with Daemon(http_listen=f"127.0.0.1:{port}"):
                wait_until(lambda: self.count(".model") == 1, "the page sees it again")


if __name__ == "__main__":
    unittest.main(verbosity=2)
