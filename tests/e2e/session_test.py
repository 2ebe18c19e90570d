"""Sessions over the wire: later turns compute only what is new; busy, fork, list, delete; spill across a restart."""

import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import harness
from harness import BUNDLED_FOLDER, Daemon, greedy, long_request

import grpc
from kvasir.v1 import generation_pb2 as pb
from kvasir.v1 import session_pb2


class SessionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(compute_type="f32")
        cls.ids = next(p for p in harness.golden()["prompts"] if p["name"] == "tokens600")["ids"]

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()

    def code_of(self, call):
        with self.assertRaises(grpc.RpcError) as caught:
            call()
        return caught.exception.code()

    def delete(self, name):
        self.daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id=name))

    def test_a_continuation_computes_only_what_is_new(self):
        first = self.daemon.generate(greedy(self.ids[:300], max_tokens=20, session_id="turns"))
        self.assertEqual(first.usage.cached_tokens, 0)
        second = self.daemon.generate(greedy(self.ids[300:340], max_tokens=20, session_id="turns"))
        # The history (all but, at most, the last generated token) came from the session.
        self.assertGreaterEqual(second.usage.cached_tokens, 300 + 20 - 1)
        whole = self.daemon.generate(greedy(self.ids[:300] + first.token_ids[0] + self.ids[300:340], max_tokens=20))
        self.assertEqual(second.token_ids, whole.token_ids)

        session = self.daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id="turns"))
        self.assertEqual(session.turns, 2)
        self.assertEqual(session.tokens, 300 + 20 + 40 + 20)
        self.assertEqual(session.state, session_pb2.SESSION_STATE_IDLE)
        self.assertGreater(session.kv_bytes_physical, 0)
        self.delete("turns")
        self.assertEqual(self.code_of(lambda: self.delete("turns")), grpc.StatusCode.NOT_FOUND)
        self.daemon.wait_kv_idle()

    def test_full_history_takes_the_common_prefix(self):
        first = self.daemon.generate(greedy(self.ids[:200], max_tokens=10, session_id="full"))
        history = self.ids[:200] + first.token_ids[0] + self.ids[200:230]
        second = self.daemon.generate(greedy(history, max_tokens=10, session_id="full",
                                             session_input=pb.SESSION_INPUT_FULL_HISTORY))
        self.assertEqual(second.usage.prompt_tokens, len(history))
        self.assertGreaterEqual(second.usage.cached_tokens, 200 + 10 - 1)
        self.delete("full")

    def test_a_text_turn_adds_no_second_bos(self):
        self.daemon.generate(greedy(text="Once upon a time", max_tokens=5, session_id="text"))
        before = self.daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id="text")).tokens
        text = " there was a fox"
        bare = self.daemon.generation.Tokenize(pb.TokenizeRequest(text=text, add_special_tokens=False)).token_ids
        self.daemon.generate(greedy(text=text, max_tokens=5, session_id="text"))
        after = self.daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id="text")).tokens
        self.assertEqual(after, before + len(bare) + 5)
        self.delete("text")

    def test_a_second_turn_on_a_busy_session_is_refused(self):
        call = self.daemon.generation.Generate(long_request(n=1, session_id="busy"))
        next(call)
        next(call)
        code = self.code_of(lambda: self.daemon.generate(greedy(session_id="busy")))
        self.assertEqual(code, grpc.StatusCode.ABORTED)
        self.assertEqual(self.code_of(lambda: self.delete("busy")), grpc.StatusCode.ABORTED)
        call.cancel()
        harness.wait_until(lambda: self.daemon.stats().running == 0, "the turn ended")

    def test_fork_goes_its_own_way(self):
        self.daemon.generate(greedy(self.ids[:256], max_tokens=4, session_id="trunk"))
        fork = self.daemon.sessions.ForkSession(
            session_pb2.ForkSessionRequest(session_id="trunk", new_session_id="branch"))
        self.assertGreater(fork.kv_bytes_physical, fork.kv_bytes_exclusive)
        self.assertEqual(
            self.code_of(lambda: self.daemon.sessions.ForkSession(
                session_pb2.ForkSessionRequest(session_id="trunk", new_session_id="branch"))),
            grpc.StatusCode.ALREADY_EXISTS)
        trunk = self.daemon.generate(greedy(self.ids[256:280], max_tokens=8, session_id="trunk"))
        branch = self.daemon.generate(greedy(self.ids[256:280], max_tokens=8, session_id="branch"))
        self.assertEqual(trunk.token_ids, branch.token_ids)
        self.assertGreaterEqual(branch.usage.cached_tokens, 256)
        listed = self.daemon.sessions.ListSessions(session_pb2.ListSessionsRequest())
        self.assertLessEqual({"trunk", "branch"}, {s.session_id for s in listed.sessions})
        self.delete("trunk")
        self.delete("branch")

    def test_bad_names_are_refused(self):
        for name in ("", "with space", "a" * 129, "ümlaut"):
            with self.subTest(name):
                self.assertEqual(self.code_of(lambda: self.daemon.generate(greedy(session_id=name))),
                                 grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(
            self.code_of(lambda: self.daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id="unknown"))),
            grpc.StatusCode.NOT_FOUND)


class RestartTest(unittest.TestCase):
    def test_a_session_survives_a_restart_on_disk(self):
        ids = next(p for p in harness.golden()["prompts"] if p["name"] == "tokens600")["ids"]
        with tempfile.TemporaryDirectory() as folder:
            config = f"""
models:
  - name: tale
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 64MiB}}
    sessions: {{spill_directory: {folder}}}
"""
            with Daemon(config=config) as daemon:
                first = daemon.generate(greedy(ids[:500], max_tokens=20, session_id="kept"))
                self.assertEqual(daemon.stop(), 0)
            with Daemon(config=config) as daemon:
                second = daemon.generate(greedy(ids[500:520], max_tokens=20, session_id="kept"))
                # The cached count proves that the K/V came from disk.
                self.assertGreaterEqual(second.usage.cached_tokens, 500 + 20 - 1)
                whole = daemon.generate(greedy(ids[:500] + first.token_ids[0] + ids[500:520], max_tokens=20))
                self.assertEqual(second.token_ids, whole.token_ids)

    def test_a_spill_directory_that_is_removed_costs_its_files_and_is_told(self):
        ids = next(p for p in harness.golden()["prompts"] if p["name"] == "tokens600")["ids"]
        for shared in (False, True):
            with self.subTest(shared=shared), tempfile.TemporaryDirectory() as folder:
                config = f"""
models:
  - name: tale
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 64Mi}}
    sessions: {{spill_directory: {folder}/spill, max_idle_bytes: 1, share_spill_directory: {str(shared).lower()}}}
"""
                with Daemon(config=config) as daemon:
                    first = daemon.generate(greedy(ids[:300], max_tokens=8, session_id="a")).token_ids[0]
                    harness.wait_until(lambda: list(pathlib.Path(folder, "spill").rglob("*.kvs"))
                                       and harness.sample_sum(daemon.metrics(), "kvasir_spill_bytes") > 0,
                                       "the session is on the disk")
                    shutil.rmtree(pathlib.Path(folder, "spill"))
                    turn = greedy(ids[300:340], max_tokens=8, session_id="a")
                    if shared:  # nothing says whether the session is another replica's by now
                        with self.assertRaises(grpc.RpcError) as caught:
                            daemon.generate(turn)
                        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                        self.assertIn("its directory was removed while it was in use", caught.exception.details())
                    else:
                        tokens = daemon.generate(turn).token_ids[0]
                        whole = daemon.generate(greedy(ids[:300] + first + ids[300:340], max_tokens=8)).token_ids[0]
                        self.assertEqual(tokens, whole)
                        harness.wait_until(lambda: "cannot create" in daemon.log(), "the write fails")
                        self.assertGreater(harness.sample_sum(daemon.metrics(), "kvasir_spill_damaged_total"), 0)
                        self.assertIn("removed while it was in use; restart the daemon", daemon.log())
                        self.assertEqual(harness.sample_sum(daemon.metrics(), "kvasir_spill_bytes"), 0)
                    self.assertEqual(daemon.generate(greedy(ids[:8], max_tokens=4)).usage.completion_tokens, 4)
                    self.assertEqual(daemon.stop(), 0)

    def test_a_full_disk_is_told_and_the_end_says_so(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(os.rmdir, folder)
        if os.geteuid() != 0 or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False).returncode != 0:
            self.skipTest("a full disk needs a tmpfs, and this user may not mount one")
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=False)
        config = f"""
models:
  - name: tale
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 64Mi}}
    sessions: {{spill_directory: {folder}/spill}}
"""
        with Daemon("--report_lost_sessions", config=config) as daemon:
            for number in range(5):
                daemon.generate(greedy(list(range(10 + number, 410 + number)), max_tokens=2, session_id=f"s{number}"))
            self.assertEqual(daemon.stop(), 6)
            log = daemon.log()
        kept = len(list(pathlib.Path(folder, "spill").glob("*.kvs")))
        self.assertLess(kept, 5)
        self.assertEqual(log.count("spilled session is lost"), 5 - kept)
        self.assertIn("No space left on device", log)
        self.assertIn(f"sessions={5 - kept}", log)


if __name__ == "__main__":
    unittest.main(verbosity=2)
