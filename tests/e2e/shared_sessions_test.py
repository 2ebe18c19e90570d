"""Sessions in a spill directory that replicas share: they go from one to another token-exactly, and what dies with a
replica is told. KVASIR_KILLS says how often the load test kills its daemon (default 5).

Needs Debian's haproxy for one test; without it that one is skipped, loudly.
"""

import os
import random
import tempfile
import threading
import time
import unittest

import harness
from harness import BUNDLED_FOLDER, Daemon, greedy, wait_until
from replicas_test import Proxy, find_haproxy, home_of

import grpc
from kvasir.v1 import session_pb2

KILLS = int(os.environ.get("KVASIR_KILLS", "5"))


def config(folder=None):
    """Sessions leave the pool at once, so that turns begin with a restore. Without a folder nothing is kept."""
    kept = f"{{spill_directory: {folder}, share_spill_directory: true, max_idle_bytes: 1}}"
    return f"""
models:
  - name: {harness.BUNDLED}
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 64Mi, prefix_cache: false}}
    sessions: {kept if folder else "{}"}
"""


def patiently(call):
    """Repeats what another replica, or the write of the turn before, is still in the way of."""
    deadline = time.monotonic() + harness.PATIENCE_SECONDS
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ABORTED or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def get(daemon, name):
    return daemon.sessions.GetSession(session_pb2.GetSessionRequest(session_id=name), timeout=harness.PATIENCE_SECONDS)


class Chat:
    """One session, with the tokens that its history must consist of."""

    def __init__(self, name, seed):
        self.name, self.random = name, random.Random(seed)
        self.history, self.pending, self.max_tokens = [], None, 6

    def turn(self, daemon):
        self.pending = self.pending or [self.random.randrange(10, 2000) for _ in range(20)]
        reply = patiently(lambda: daemon.generate(greedy(self.pending, max_tokens=self.max_tokens,
                                                         session_id=self.name)))
        assert reply.usage.prompt_tokens == len(self.history) + len(self.pending), (
            self.name, reply.usage.prompt_tokens, len(self.history))
        self.history += self.pending + reply.token_ids[0]
        self.pending = None
        return reply

    def expected(self, reference):
        """What the next turn's history must be if the one under way has ended: by a daemon that keeps nothing."""
        reply = reference.generate(greedy(self.history + self.pending, max_tokens=self.max_tokens))
        return self.history + self.pending + reply.token_ids[0]


class SharedSessionsTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self):
        daemon = Daemon(config=config(self.folder))
        self.addCleanup(daemon.kill)
        return daemon

    def reference(self):
        daemon = Daemon(config=config())
        self.addCleanup(daemon.kill)
        return daemon

    def check_turn(self, chat, daemon, reference):
        """A turn whose output is that of the whole history; returns its reply."""
        chat.pending = [chat.random.randrange(10, 2000) for _ in range(20)]
        expected = chat.expected(reference)
        reply = chat.turn(daemon)
        self.assertEqual(chat.history, expected)
        return reply

    def test_a_session_goes_back_and_forth(self):
        reference, replicas, chat = self.reference(), [self.start(), self.start()], Chat("s", 1)
        for number in range(6):
            before = len(chat.history)
            reply = self.check_turn(chat, replicas[number % 2], reference)
            if before:
                self.assertGreaterEqual(reply.usage.cached_tokens, before - 1)
        patiently(lambda: replicas[0].sessions.ForkSession(
            session_pb2.ForkSessionRequest(session_id="s", new_session_id="t")))
        fork = Chat("t", 2)
        fork.history = list(chat.history)
        self.check_turn(fork, replicas[1], reference)
        self.check_turn(chat, replicas[1], reference)
        patiently(lambda: replicas[0].sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id="s")))
        for replica in replicas:
            with self.assertRaises(grpc.RpcError) as caught:
                patiently(lambda replica=replica: get(replica, "s"))
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_turn_at_one_replica_keeps_the_other_out(self):
        one, other = self.start(), self.start()
        Chat("s", 1).turn(one)
        patiently(lambda: get(other, "s"))
        call = one.generation.Generate(harness.long_request(n=1, session_id="s"))
        next(call)
        with self.assertRaises(grpc.RpcError) as caught:
            other.generate(greedy([10, 11], session_id="s"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.ABORTED)
        call.cancel()
        self.assertEqual(patiently(lambda: get(other, "s")).turns, 1)

    def test_killed_behind_haproxy(self):
        find_haproxy()
        reference, replicas = self.reference(), [self.start(), self.start()]
        with Proxy(replicas) as proxy:
            chat = Chat("s", 1)

            class Door:
                generate = staticmethod(lambda request: proxy_generate(request))

            def proxy_generate(request):
                reply = harness.Reply()
                for response in proxy.generation.Generate(request, timeout=harness.PATIENCE_SECONDS,
                                                          metadata=[("x-session-id", chat.name)]):
                    reply.take(response)
                return reply

            chat.turn(Door)
            self.check_turn(chat, Door, reference)
            home = home_of(replicas, "s")
            wait_until(lambda: get(replicas[home], "s").spilled_bytes > 0 and
                       replicas[home].metrics()[f'kvasir_spill_bytes{{model="{harness.BUNDLED}"}}'] > 0, "the turn is written")
            patiently(lambda: get(replicas[1 - home], "s"))  # nobody holds it
            replicas[home].process.kill()
            wait_until(lambda: any(f"replica-{home + 1} is DOWN" in line for line in proxy.lines), "haproxy noticed")
            reply = self.check_turn(chat, Door, reference)
            self.assertGreaterEqual(reply.usage.cached_tokens, len(chat.history) - 20 - 6 - 1)

    def test_kills_at_random_moments_under_load(self):
        """Every fourth chat rests in a round and must go on: it was on disk when its daemon died. Of those that talk a
        third have one turn only, so that they may have been written when the daemon dies."""
        reference = self.reference()
        chats = [Chat(f"chat-{number}", number) for number in range(12)]
        moments = random.Random(20)
        lost = continued = 0
        for kill in range(KILLS):
            resting = chats[kill % 4::4]
            talking = [chat for chat in chats if chat not in resting]
            daemon = Daemon(config=config(self.folder))
            failures = []

            def converse(own, daemon=daemon, failures=failures):
                try:
                    own[0].turn(daemon)
                    while True:
                        for chat in own[1:]:
                            chat.turn(daemon)
                except grpc.RpcError as error:
                    if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED,
                                            grpc.StatusCode.UNKNOWN):
                        failures.append(error)
                except Exception as error:  # of the checks, told by the main thread
                    failures.append(error)

            threads = [threading.Thread(target=converse, args=(talking[first::3],)) for first in range(3)]
            for thread in threads:
                thread.start()
            time.sleep(moments.uniform(0.02, 0.8))  # the moment is what is tried, not waited for
            daemon.process.kill()
            for thread in threads:
                thread.join()
            daemon.kill()
            self.assertEqual(failures, [])

            with Daemon(config=config(self.folder)) as daemon:
                for chat in chats:
                    try:
                        tokens = patiently(lambda chat=chat: get(daemon, chat.name)).tokens
                    except grpc.RpcError as error:
                        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                            lost += 1
                            daemon.sessions.DeleteSession(session_pb2.DeleteSessionRequest(session_id=chat.name))
                        else:
                            self.assertEqual(error.code(), grpc.StatusCode.NOT_FOUND)
                            self.assertEqual(chat.history, [], f"{chat.name} vanished in silence")
                        self.assertTrue(chat in talking or chat.history == [], f"{chat.name} rested on disk")
                        chat.history, chat.pending = [], None
                        self.check_turn(chat, daemon, reference)  # so that it may rest in the next round
                        continue
                    if tokens != len(chat.history):  # the turn under way had ended, unheard
                        self.assertIsNotNone(chat.pending)
                        chat.history = chat.expected(reference)
                        self.assertEqual(tokens, len(chat.history))
                    self.check_turn(chat, daemon, reference)
                    continued += 1
                    if len(chat.history) > 1000:
                        patiently(lambda chat=chat: daemon.sessions.DeleteSession(
                            session_pb2.DeleteSessionRequest(session_id=chat.name)))
                        chat.history = []
                        self.check_turn(chat, daemon, reference)
                self.assertEqual(daemon.stop(), 0)
        print(f"{KILLS} kills: {continued} sessions went on, {lost} were told lost, none wrong")
        self.assertGreaterEqual(continued, 3 * (KILLS - 1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
