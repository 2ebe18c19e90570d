"""Who calls, and what each may see: keys, a trusted proxy's header, reload, and the walls between tenants."""

import hashlib
import json
import os
import pathlib
import signal
import tempfile
import unittest

import harness
from harness import BUNDLED, BUNDLED_FOLDER, PATIENCE_SECONDS, Daemon, greedy, long_request, sample_sum, wait_until
from tenant_client import KEYS, TenantClient, config, refusal

import grpc
from kvasir.v1 import admin_pb2, generation_pb2 as pb, session_pb2

SECRET = "The secret word of team a is xylophone, and nobody else may ever hear of it."


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


def session_of(request, session_id):
    request.session_id = session_id
    return request


class ThreeTenantsTest(unittest.TestCase):
    """team-a may use both models, team-b one of them, the operator is admin."""

    @classmethod
    def setUpClass(cls):
        cls.key_file = tempfile.NamedTemporaryFile("w", suffix=".keys")
        cls.key_file.write(f"# operators\n{KEYS['operator']}\n")
        cls.key_file.flush()
        cls.daemon = Daemon(config=config(
            {"team-a": {"key_sha256": [digest(KEYS["team-a"])]},
             "team-b": {"key_sha256": [digest(KEYS["team-b"])], "models": [BUNDLED]},
             "operator": {"key_file": cls.key_file.name, "admin": True}},
            models={BUNDLED: BUNDLED_FOLDER, "other-model": BUNDLED_FOLDER}))
        cls.a, cls.b, cls.operator = (TenantClient(cls.daemon, KEYS[name]) for name in KEYS)
        cls.nobody = TenantClient(cls.daemon)

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.key_file.close()

    def assert_refused(self, error, code, *texts):
        self.assertEqual(error.code(), code, error.details())
        for text in texts:
            self.assertIn(text, error.details())

    def test_every_method_needs_a_credential_and_health_and_reflection_do_not(self):
        requests = [
            (self.nobody.generation.Generate, greedy(), True),
            (self.nobody.generation.Abort, pb.AbortRequest(request_id="x"), False),
            (self.nobody.generation.Tokenize, pb.TokenizeRequest(text="x"), False),
            (self.nobody.generation.Detokenize, pb.DetokenizeRequest(token_ids=[1]), False),
            (self.nobody.generation.RenderChat, pb.RenderChatRequest(model=BUNDLED), False),
            (self.nobody.generation.ListModels, pb.ListModelsRequest(), False),
            (self.nobody.generation.GetModel, pb.GetModelRequest(name=BUNDLED), False),
            (self.nobody.sessions.GetSession, session_pb2.GetSessionRequest(session_id="x"), False),
            (self.nobody.sessions.ListSessions, session_pb2.ListSessionsRequest(), False),
            (self.nobody.sessions.ForkSession, session_pb2.ForkSessionRequest(session_id="x", new_session_id="y"), False),
            (self.nobody.sessions.DeleteSession, session_pb2.DeleteSessionRequest(session_id="x"), False),
            (self.nobody.admin.GetStats, admin_pb2.GetStatsRequest(), False),
            (self.nobody.admin.ListRequests, admin_pb2.ListRequestsRequest(), False),
            (self.nobody.admin.LoadModel, admin_pb2.LoadModelRequest(name="x", path="/x"), False),
            (self.nobody.admin.UnloadModel, admin_pb2.UnloadModelRequest(name=BUNDLED), False),
            (self.nobody.admin.Drain, admin_pb2.DrainRequest(), False)]
        methods = sum(len(file.services_by_name[service].methods) for file, service in (
            (pb.DESCRIPTOR, "GenerationService"), (session_pb2.DESCRIPTOR, "SessionService"),
            (admin_pb2.DESCRIPTOR, "AdminService")))
        self.assertEqual(len(requests), methods, "a new method needs its line here")
        for method, request, streams in requests:
            with self.subTest(request=type(request).__name__):
                def call(r):
                    answer = method(r, timeout=PATIENCE_SECONDS)
                    return list(answer) if streams else answer
                self.assert_refused(refusal(call, request), grpc.StatusCode.UNAUTHENTICATED, "authorization: Bearer KEY")
        self.assertTrue(self.daemon.serving())
        self.assertTrue(self.daemon.serving(""))
        self.assertTrue(self.daemon.process.poll() is None)

    def test_a_wrong_key_is_refused_without_an_echo(self):
        for key in (KEYS["team-a"][:-1], KEYS["team-a"] + "x", digest(KEYS["team-a"]), "sha256:" + digest(KEYS["team-a"])):
            with self.subTest(key=key), TenantClient(self.daemon, key) as client:
                error = refusal(client.generate, greedy())
                self.assert_refused(error, grpc.StatusCode.UNAUTHENTICATED, "not known")
                self.assertNotIn(key, error.details())
                self.assertNotIn(key, self.daemon.log())

    def test_a_model_that_a_tenant_may_not_use_does_not_exist_for_it(self):
        hidden = refusal(self.b.generate, greedy(model="other-model"))
        missing = refusal(self.b.generate, greedy(model="never-model"))
        self.assert_refused(hidden, grpc.StatusCode.NOT_FOUND)
        self.assertEqual(hidden.details().replace("other", "never"), missing.details())
        self.assertEqual([model.name for model in self.b.generation.ListModels(pb.ListModelsRequest()).models], [BUNDLED])
        self.assertEqual(len(self.a.generation.ListModels(pb.ListModelsRequest()).models), 2)
        self.assertTrue(self.b.generate(greedy(max_tokens=1)).final, "its only model needs no name")
        self.assert_refused(refusal(self.a.generate, greedy()), grpc.StatusCode.INVALID_ARGUMENT, "other-model")

    def test_sessions_are_the_tenants_own(self):
        for client in (self.a, self.b):
            client.generate(session_of(greedy(text="Hello", max_tokens=2, model=BUNDLED), "shared-name"))
        self.a.generate(session_of(greedy(text=SECRET, max_tokens=2, model=BUNDLED), "only-a"))
        request = session_pb2.GetSessionRequest(model=BUNDLED, session_id="only-a")
        self.assertEqual(self.a.sessions.GetSession(request).session_id, "only-a")
        # Word for word what is said of a session that nobody has.
        for client in (self.b, self.operator):
            for method, fields in (("GetSession", {}), ("DeleteSession", {}), ("ForkSession", {"new_session_id": "fork"})):
                message = getattr(session_pb2, method + "Request")
                foreign, missing = (
                    refusal(getattr(client.sessions, method), message(model=BUNDLED, session_id=name, **fields))
                    for name in ("only-a", "none-a"))
                self.assert_refused(foreign, grpc.StatusCode.NOT_FOUND)
                self.assertEqual(foreign.details().replace("only-a", "none-a"), missing.details())
        self.assertEqual({session.session_id for session in self.b.list_sessions().sessions}, {"shared-name"})
        self.assertEqual({session.session_id for session in self.a.list_sessions().sessions}, {"shared-name", "only-a"})
        # A foreign turn under the same name starts a session of its own.
        turn = self.b.generate(session_of(greedy(text=SECRET, max_tokens=2, model=BUNDLED), "only-a"))
        self.assertEqual(turn.usage.cached_tokens, 0)
        self.a.sessions.DeleteSession(session_pb2.DeleteSessionRequest(model=BUNDLED, session_id="only-a"))
        self.assertIn("only-a", {session.session_id for session in self.b.list_sessions().sessions})

    def test_a_prefix_hit_does_not_cross_tenants(self):
        prompt = list(range(100, 1100))
        self.assertEqual(self.a.generate(greedy(prompt, max_tokens=1, model=BUNDLED)).usage.cached_tokens, 0)
        self.assertGreater(self.a.generate(greedy(prompt, max_tokens=1, model=BUNDLED)).usage.cached_tokens, 900)
        first = self.b.generate(greedy(prompt, max_tokens=1, model=BUNDLED))
        self.assertEqual(first.accepted.cached_tokens, 0)
        self.assertEqual(first.usage.cached_tokens, 0)
        # No metadata or field of the client changes the scope.
        with TenantClient(self.daemon, KEYS["operator"], [("x-tenant", "team-a"), ("x-kvasir-tenant", "team-a")]) as client:
            self.assertEqual(client.generate(greedy(prompt, max_tokens=1, model=BUNDLED)).usage.cached_tokens, 0)

    def test_request_ids_and_admin_views_are_the_tenants_own(self):
        request = long_request(n=1, model=BUNDLED, text=SECRET)
        request.request_id = "same-id"
        streams = [client.generation.Generate(request, timeout=PATIENCE_SECONDS) for client in (self.a, self.b)]
        for stream in streams:
            next(stream)
        try:
            self.assertEqual([row.tenant for row in self.a.requests().requests], ["team-a"])
            self.assertEqual(self.b.requests().total, 1)
            rows = self.operator.requests().requests
            self.assertEqual(sorted(row.tenant for row in rows), ["team-a", "team-b"])
            # Sizes, never text.
            self.assertNotIn("xylophone", str(rows) + str(self.operator.stats()))

            own = next(model for model in self.a.stats().models if model.model == BUNDLED)
            self.assertEqual((own.running, [row.tenant for row in own.tenants]), (1, ["team-a"]))
            self.assertEqual((own.kv_live_bytes, own.kv_capacity_bytes, own.generated_tokens_total, own.steps_total),
                             (0, 0, 0, 0))
            everything = next(model for model in self.operator.stats().models if model.model == BUNDLED)
            self.assertEqual(everything.running, 2)
            self.assertGreater(everything.kv_live_bytes, 0)
            self.assertEqual([model.model for model in self.b.stats().models], [BUNDLED])

            # Abort ends the caller's request of that id, and leaves the other tenant's.
            self.b.generation.Abort(pb.AbortRequest(request_id="same-id"))
            self.assertEqual(refusal(list, streams[1]).code(), grpc.StatusCode.CANCELLED)
            self.assertEqual(self.a.requests().total, 1)
            self.assert_refused(refusal(self.b.generation.Abort, pb.AbortRequest(request_id="same-id")),
                                grpc.StatusCode.NOT_FOUND)
            next(streams[0])
        finally:
            for stream in streams:
                stream.cancel()
        wait_until(lambda: self.operator.requests().total == 0, "all requests ended")
        self.assertNotIn("xylophone", self.daemon.log())

    def test_only_admins_drain(self):
        self.assert_refused(refusal(self.a.admin.Drain, admin_pb2.DrainRequest()), grpc.StatusCode.PERMISSION_DENIED, "admin")
        self.assertTrue(self.daemon.serving())

    def test_metrics_name_the_tenants(self):
        self.a.generate(greedy(max_tokens=3, model=BUNDLED))
        refusal(self.nobody.generate, greedy())
        samples = self.daemon.metrics()
        self.assertGreaterEqual(sample_sum(samples, "kvasir_generation_tokens_total", tenant="team-a"), 3)
        self.assertGreaterEqual(
            sample_sum(samples, "kvasir_requests_rejected_total", tenant="other", reason="unauthenticated"), 1)
        self.assertEqual(sum(value for name, value in samples.items()
                             if name.startswith("kvasir_requests_") and 'tenant="anonymous"' in name), 0)


class ReloadTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.config_file = pathlib.Path(folder.name) / "kvasird.json"
        self.key_file = pathlib.Path(folder.name) / "a.keys"

    def write(self, *tenants, keys=(KEYS["team-a"],)):
        self.key_file.write_text("\n".join(keys) + "\n")
        self.config_file.write_text(config({name: {"key_file": str(self.key_file)} if name == "team-a" else
                                            {"key_sha256": [digest(KEYS[name])]} for name in tenants}))

    def reload(self, daemon, line):
        seen = daemon.log().count(line)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: daemon.log().count(line) > seen, f"the log says {line!r}")

    def works(self, daemon, key):
        with TenantClient(daemon, key) as client:
            try:
                client.generation.ListModels(pb.ListModelsRequest(), timeout=PATIENCE_SECONDS)
                return True
            except grpc.RpcError as error:
                self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
                return False

    def daemon(self):
        return Daemon("--config", self.config_file, models={BUNDLED: BUNDLED_FOLDER})

    def test_keys_and_tenants_change_and_streams_go_on(self):
        self.write("team-a")
        with self.daemon() as daemon, TenantClient(daemon, KEYS["team-a"]) as a:
            self.assertTrue(self.works(daemon, KEYS["team-a"]))
            self.assertFalse(self.works(daemon, KEYS["team-b"]))
            stream = a.generation.Generate(long_request(n=1), timeout=PATIENCE_SECONDS)
            next(stream)

            # The key is revoked while its stream runs, and a tenant comes.
            self.write("team-a", "team-b", keys=["a-new-key-of-team-a-0123"])
            self.reload(daemon, "reloaded tenants")
            self.assertFalse(self.works(daemon, KEYS["team-a"]))
            self.assertTrue(self.works(daemon, "a-new-key-of-team-a-0123"))
            with TenantClient(daemon, KEYS["team-b"]) as b:
                b.generate(greedy(max_tokens=2))
            self.assertEqual(sample_sum(daemon.metrics(), "kvasir_generation_tokens_total", tenant="team-b"), 2)
            reply = harness.Reply()
            for response in stream:
                reply.take(response)
            self.assertEqual(reply.usage.completion_tokens, 1900)

    def test_a_broken_file_keeps_the_old_set(self):
        self.write("team-a")
        with self.daemon() as daemon:
            for breakage in (lambda: self.config_file.write_text("tenants: [{id: A}"),
                             lambda: self.write("team-a", keys=["short"]),
                             self.key_file.unlink,
                             self.write):  # no tenants: the daemon would be open to everyone
                breakage()
                self.reload(daemon, "reload failed")
                self.assertTrue(self.works(daemon, KEYS["team-a"]))
                self.assertFalse(self.works(daemon, None))
            self.assertNotIn("short", daemon.log())

            # Whatever stands under the name, reading it ends, and nobody's key is gone.
            def stands(make):
                self.key_file.unlink(missing_ok=True)
                make(self.key_file)

            for make in (pathlib.Path.touch, os.mkfifo, lambda path: path.symlink_to("/dev/zero"),
                         lambda path: path.symlink_to("nowhere"), lambda path: path.write_bytes(b"x" * (9 << 20))):
                self.key_file.unlink(missing_ok=True)  # writing into a pipe would wait for a reader
                self.write("team-a")
                stands(make)
                self.reload(daemon, "reload failed")
                self.assertTrue(self.works(daemon, KEYS["team-a"]))
            self.key_file.unlink()
            self.write("team-a", keys=["a-new-key-of-team-a-0123"])
            self.reload(daemon, "reloaded tenants")
            self.assertTrue(self.works(daemon, "a-new-key-of-team-a-0123"))

    def test_fields_that_need_a_restart_are_named(self):
        self.write("team-a")
        with self.daemon() as daemon:
            written = json.loads(self.config_file.read_text())
            written.setdefault("server", {})["drain_timeout_seconds"] = "7s"
            self.config_file.write_text(json.dumps(written))
            self.reload(daemon, "restart for them")
            wait_until(lambda: "reloaded tenants" in daemon.log(), "the tenants are taken")
            self.assertIn("server.drain_timeout_seconds", daemon.log())


class AnonymousTest(unittest.TestCase):
    def test_without_tenants_loopback_is_open_and_the_network_is_not(self):
        with Daemon() as daemon:
            self.assertTrue(daemon.generate(greedy(max_tokens=1)).final)
            wait_until(lambda: "request finished" in daemon.log(), "the log tells of the request")
            self.assertNotIn("without a credential", daemon.log())
        with self.assertRaises(AssertionError) as caught:
            Daemon(listen="0.0.0.0:0")
        self.assertIn("ended with 2", str(caught.exception))
        self.assertIn("--anonymous allow", str(caught.exception))

    def test_allowed_on_the_network_it_warns(self):
        with Daemon("--anonymous", "allow", listen="0.0.0.0:0") as daemon:
            wait_until(lambda: "calls without a credential are accepted" in daemon.log(), "the log warns")
            self.assertTrue(daemon.generate(greedy(max_tokens=1)).final)

    def test_beside_tenants_it_is_a_tenant_of_its_own_and_no_admin(self):
        with Daemon("--anonymous", "allow", config=config({"team-a": {"key_sha256": [digest(KEYS["team-a"])]}})) as daemon:
            with TenantClient(daemon, KEYS["team-a"]) as a, TenantClient(daemon) as nobody:
                a.generate(session_of(greedy(max_tokens=2), "s"))
                nobody.generate(greedy(max_tokens=2))
                self.assertEqual(nobody.list_sessions().total, 0)
                self.assertEqual(refusal(nobody.get_session, "s").code(), grpc.StatusCode.NOT_FOUND)
                self.assertEqual(refusal(nobody.admin.Drain, admin_pb2.DrainRequest()).code(),
                                 grpc.StatusCode.PERMISSION_DENIED)


class TrustedProxyTest(unittest.TestCase):
    def daemon(self, addresses):
        return Daemon(config=config({"team-a": {}, "team-b": {"key_sha256": [digest(KEYS["team-b"])]}}, server={
            "authentication": {"trusted_header": "x-kvasir-tenant", "trusted_addresses": addresses}}))

    def test_the_header_names_the_tenant(self):
        with self.daemon(["127.0.0.0/8"]) as daemon:
            with TenantClient(daemon, metadata=[("x-kvasir-tenant", "team-a")]) as client:
                client.generate(session_of(greedy(max_tokens=2), "s"))
                self.assertEqual(client.list_sessions().total, 1)
            with TenantClient(daemon, metadata=[("x-kvasir-tenant", "nobody")]) as client:
                self.assertEqual(refusal(client.list_sessions).code(), grpc.StatusCode.UNAUTHENTICATED)
            with TenantClient(daemon, KEYS["team-b"]) as client:
                self.assertEqual(client.list_sessions().total, 0)

    def test_from_any_other_peer_it_is_refused(self):
        with self.daemon(["192.0.2.1"]) as daemon:
            with TenantClient(daemon, metadata=[("x-kvasir-tenant", "team-a")]) as client:
                error = refusal(client.list_sessions)
                self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
                self.assertIn("trusted proxies only", error.details())


if __name__ == "__main__":
    unittest.main()
