"""Every call of spill and restore fails in turn: the N-th openat, write, ... on a file of the spill directory, for all N
until a run makes no more such calls (fault_shim.c). After each: the daemon lives and drains, no token differs from the
undisturbed run, the account is that of the disk, and what was lost is told by a log line and a counter."""

import errno
import mmap
import os
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum, wait_until

import grpc

SHIM = pathlib.Path(os.environ.get("KVASIR_FAULT_SHIM", harness.ROOT / "build" / "release" / "lib" / "libfault_shim.so"))
# Every so many calls: 1 tries all of them, which takes some ten minutes.
STRIDE = int(os.environ.get("KVASIR_FAULT_STRIDE", "12"))
# Most calls of one function in a run; a run that makes more has grown, and this with it.
MOST_CALLS = 200


class Script:
    """The same turns each time: two sessions that push each other out of the pool, a drain, and a second life."""

    def __init__(self, function="", call=0, error=errno.EIO):
        self.function, self.call, self.error = function, call, error
        self.turns = []  # (life, session, history tokens, cached tokens, output)
        self.calls = 0
        self.told = []   # per life: (log lines, counts) of losses
        self.accounts = []

    def run(self, shared):
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as counted:
            counted.write(bytes(8))
            counted.flush()
            environment = {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": f"{folder}/spill", "FAULT_FUNCTION": self.function,
                           "FAULT_CALL": str(self.call), "FAULT_ERRNO": str(self.error), "FAULT_COUNT": counted.name}
            config = f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    compute_type: f32
    kv_cache: {{capacity_bytes: 64Mi, prefix_cache: false}}
    sessions: {{spill_directory: {folder}/spill, max_idle_bytes: 512Ki, share_spill_directory: {str(shared).lower()}}}
"""
            for life in range(2):
                try:
                    daemon = Daemon("--report_lost_sessions", config=config, environment=environment)
                except AssertionError as refused:  # a start that says why is an answer
                    if "spill" not in str(refused):
                        raise
                    daemon = Daemon("--report_lost_sessions", config=config, environment=environment)
                with daemon:
                    for turn in range(2):
                        for number, name in enumerate("ab"):
                            self.take(daemon, life, turn, number, name)
                    self.account(daemon, pathlib.Path(folder, "spill"))
                    lost = sample_sum(daemon.metrics(), "kvasir_spill_damaged_total")
                    code = daemon.stop()
                    assert code in (0, 6), f"the drain ended with {code}"
                    self.told.append((daemon.log().count("spill"), lost + (1 if code == 6 else 0)))
            self.calls = int.from_bytes(pathlib.Path(counted.name).read_bytes(), sys.byteorder)
        return self

    def take(self, daemon, life, turn, number, name):
        ids = [100 + 7 * (i + 31 * (life * 2 + turn) + 17 * number) % 1500 for i in range(230)]

        def ask():
            try:
                return daemon.generate(greedy(ids, max_tokens=4, session_id=name))
            except grpc.RpcError as error:
                return error
        reply = wait_until(lambda: (lambda r: None if isinstance(r, grpc.RpcError)
                                    and r.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE) else r)(ask()),
                           "the session is not held", 10)
        if isinstance(reply, grpc.RpcError):
            assert reply.code() == grpc.StatusCode.FAILED_PRECONDITION, reply
            self.turns.append((life, name, None, 0, None))
            return
        self.turns.append((life, name, reply.usage.prompt_tokens, reply.usage.cached_tokens, reply.token_ids[0]))

    def account(self, daemon, folder):
        def same():
            on_disk = sum(path.stat().st_size for path in folder.rglob("*.kvs"))
            claimed = sample_sum(daemon.metrics(), "kvasir_spill_bytes")
            return on_disk == claimed and not list(folder.rglob("*.tmp"))
        wait_until(same, "the account is that of the disk", 15)


class FaultTest(unittest.TestCase):
    def check(self, shared, functions):
        undisturbed = Script().run(shared)
        self.assertEqual(len(undisturbed.turns), 8)
        total = 0
        for function, error in functions:
            call = 1 - STRIDE
            while True:
                call += STRIDE
                self.assertLess(call, MOST_CALLS, function)
                with self.subTest(function=function, call=call, error=errno.errorcode[error]):
                    run = Script(function, call, error).run(shared)
                    if run.calls < call:
                        break
                    total += 1
                    worse = False
                    for turn, usual in zip(run.turns, undisturbed.turns):
                        life, name, history, cached, output = turn
                        if history == usual[2]:
                            self.assertEqual(output, usual[4], turn[:4])
                            worse |= cached < usual[3]
                        else:  # lost, and only what a former life had
                            self.assertEqual(life, 1, turn[:4])
                            worse = True
                    if worse:
                        self.assertGreater(sum(lines for lines, _ in run.told), 0)
                        self.assertGreater(sum(count for _, count in run.told), 0)
        self.assertGreater(total, 0)
        print(f"{'shared' if shared else 'alone'}: {total} faults")

    FUNCTIONS = [("openat", errno.EMFILE), ("write", errno.ENOSPC), ("pread", errno.EIO), ("fsync", errno.EIO),
                 ("renameat", errno.EIO), ("unlinkat", errno.EIO), ("futimens", errno.EPERM)]

    def test_alone(self):
        self.check(False, self.FUNCTIONS)

    def test_shared(self):
        self.check(True, self.FUNCTIONS)


if __name__ == "__main__":
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
