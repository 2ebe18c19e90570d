"""Prefix blocks on disk, over the wire: more prompts than the pool holds come back with cached tokens and the same text,
after a restart too, from a shared folder on another replica, and never to another tenant's; what is damaged is told."""

import pathlib
import random
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum, wait_until

PROMPT_TOKENS = 320
PROMPTS = 12


def config(folder, limit="64Mi", shared=False):
    return f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 2Mi}}
    sessions: {{spill_directory: {folder}/spill, max_prefix_spill_bytes: {limit},
               share_spill_directory: {str(shared).lower()}}}
"""


def prompt(number):
    return [random.Random(number).randrange(10, 2000) for _ in range(PROMPT_TOKENS)]


class PrefixSpillTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name

    def files(self):
        return list(pathlib.Path(self.folder, "spill").rglob("*.kvp"))

    def ask(self, daemon, number):
        return daemon.generate(greedy(prompt(number), max_tokens=8))

    def count(self, daemon, event):
        return sample_sum(daemon.metrics(), "kvasir_prefix_spill_blocks_total", event=event)

    def await_exact_account(self, daemon):
        def same():
            on_disk = [path.stat().st_size for path in self.files()]
            samples = daemon.metrics()
            return (sum(on_disk) == sample_sum(samples, "kvasir_prefix_spill_bytes")
                    and len(on_disk) == sample_sum(samples, "kvasir_prefix_spill_files"))
        wait_until(same, "the account is that of the disk")

    def expect_all(self, daemon, expected):
        for number, tokens in enumerate(expected):
            reply = self.ask(daemon, number)
            self.assertEqual(reply.token_ids[0], tokens)
            self.assertGreaterEqual(reply.usage.cached_tokens, PROMPT_TOKENS - 64, number)

    def test_prompts_come_back_and_after_a_restart_again(self):
        with Daemon(config=config(self.folder)) as daemon:
            expected = [self.ask(daemon, number).token_ids[0] for number in range(PROMPTS)]
            # The pool cannot hold all of them.
            pool = sample_sum(daemon.metrics(), "kvasir_kv_pool_capacity_bytes")
            wait_until(lambda: self.count(daemon, "written") > 0, "evicted blocks are written")
            self.expect_all(daemon, expected)
            self.assertGreater(self.count(daemon, "read"), 0)
            self.await_exact_account(daemon)
            self.assertEqual(daemon.stop(), 0)
        self.assertGreater(sum(path.stat().st_size for path in self.files()), pool)
        with Daemon(config=config(self.folder)) as daemon:
            self.await_exact_account(daemon)
            self.expect_all(daemon, expected)
            samples = daemon.metrics()
            self.assertEqual(sample_sum(samples, "kvasir_prefix_spill_failures_total"), 0)
            self.assertEqual(sample_sum(samples, "kvasir_kv_pool_bytes", state="live"), 0)
            self.assertNotIn("prefix blocks on disk", daemon.log())

        # Half of the files lose a byte: told and counted each, and the text is the same.
        damaged = self.files()[::2]
        for path in damaged:
            path.write_bytes(path.read_bytes()[:-1])
        with Daemon(config=config(self.folder)) as daemon:
            for number, tokens in enumerate(expected):
                self.assertEqual(self.ask(daemon, number).token_ids[0], tokens)
            self.await_exact_account(daemon)
            failures = sample_sum(daemon.metrics(), "kvasir_prefix_spill_failures_total")
            self.assertGreater(failures, 0)
            wait_until(lambda: daemon.log().count("prefix blocks on disk") == failures, "each is told")

        # Switched off: the files go.
        with Daemon(config=config(self.folder, limit="0")) as daemon:
            self.assertEqual(self.ask(daemon, 0).token_ids[0], expected[0])
        self.assertEqual(self.files(), [])

    def test_a_replica_finds_what_another_wrote(self):
        with Daemon(config=config(self.folder, shared=True)) as first, \
             Daemon(config=config(self.folder, shared=True)) as second:
            expected = [self.ask(first, number).token_ids[0] for number in range(PROMPTS)]
            wait_until(lambda: self.count(first, "written") > 0 and sample_sum(
                second.metrics(), "kvasir_prefix_spill_files") > 20, "the other replica has looked")
            reply = self.ask(second, 0)
            self.assertEqual(reply.token_ids[0], expected[0])
            self.assertGreaterEqual(reply.usage.cached_tokens, PROMPT_TOKENS - 64)
            # It dies: its files are whole, and the other goes on with them.
            first.kill()
            for number in range(PROMPTS):
                self.assertEqual(self.ask(second, number).token_ids[0], expected[number])
            self.assertEqual(sample_sum(second.metrics(), "kvasir_prefix_spill_failures_total"), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
