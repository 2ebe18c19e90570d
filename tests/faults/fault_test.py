"""Every call of spill and restore fails in turn, of sessions and of prefix blocks: the N-th openat, write, ... on a file of
the spill directory, for all N until a run makes no more such calls (fault_shim.cc). After each: the daemon lives and drains,
no token differs from the undisturbed run, the account is that of the disk, and what was lost is told by a log line and a
counter. And every thread, map and allocation from 64 KiB on of the start.

KVASIR_FAULT_STRIDE: every so many calls, 1 tries all of them. KVASIR_FAULT_FIRST: from this one on. KVASIR_FAULT_FUNCTIONS:
only these."""

import errno
import mmap
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest
import urllib.error

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, greedy, sample_sum, wait_until
from serving_faults import FIRST, MOST_CALLS, ONLY, SHIM

import grpc

# Every so many calls: 1 tries all of them, which takes some ten minutes.
STRIDE = int(os.environ.get("KVASIR_FAULT_STRIDE", "48"))


class Script:
    """The same turns each time: two sessions that push each other out of the pool, a drain, and a second life."""

    COUNTER, LINE, FILES, BYTES = "kvasir_spill_damaged_total", "spill", "*.kvs", "kvasir_spill_bytes"
    TURNS = 8

    def __init__(self, function="", call=0, error=errno.EIO):
        self.function, self.call, self.error = function, call, error
        self.turns = []  # (life, session, history tokens, cached tokens, output)
        self.calls = 0
        self.told = []   # per life: (log lines, counts) of losses
        self.accounts = []

    def run(self, shared):
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as counted:
            counted.write(bytes(64))
            counted.flush()
            environment = {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": f"{folder}/spill", "FAULT_FUNCTION": self.function,
                           "FAULT_CALL": str(self.call), "FAULT_ERRNO": str(self.error), "FAULT_COUNT": counted.name,
                           "FAULT_ARMED": f"{folder}/armed"}
            config = f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    compute_type: f32
{self.options(folder, str(shared).lower())}
"""
            for life in range(2):
                try:
                    daemon = Daemon("--report_lost_sessions", config=config, environment=environment)
                except AssertionError as refused:  # a start that says why is an answer
                    if not re.search("spill|thread", str(refused)):
                        raise
                    daemon = Daemon("--report_lost_sessions", config=config, environment=environment)
                with daemon:
                    pathlib.Path(folder, "armed").touch()
                    self.live(daemon, life)
                    self.account(daemon, pathlib.Path(folder, "spill"))
                    told = self.lines(daemon)
                    samples = wait_until(lambda: self.scrape(daemon), "a scrape is answered")
                    lost = sample_sum(samples, self.COUNTER) + sum(
                        value for name, value in samples.items() if 'reason="spill_refused"' in name)
                    code = daemon.stop()
                    pathlib.Path(folder, "armed").unlink()
                    assert code in (0, 6), f"the drain ended with {code}"
                    lines = self.lines(daemon)
                    self.told.append((lines, lost + self.lost_in_drain(code, lines - told)))
            self.calls = int.from_bytes(pathlib.Path(counted.name).read_bytes()[:8], sys.byteorder)
        return self

    def options(self, folder, shared):
        return f"""
    kv_cache: {{capacity_bytes: 64Mi, prefix_cache: false}}
    sessions: {{spill_directory: {folder}/spill, max_idle_bytes: 128Ki, share_spill_directory: {shared}}}"""

    def live(self, daemon, life):
        for turn in range(2):
            for number, name in enumerate("ab"):
                self.take(daemon, life, turn, number, name)

    def scrape(self, daemon):
        """None where the fault was the scrape's own memory, which is told by the answer."""
        try:
            return daemon.metrics()
        except urllib.error.HTTPError as error:
            error.close()
            assert error.code == 503 and self.function == "new", error
            return None

    def lines(self, daemon):
        return sum(self.LINE in line for line in daemon.log_lines)

    # What the drain lost: nobody scrapes afterwards.
    def lost_in_drain(self, code, lines):
        return 1 if code == 6 else 0

    def take(self, daemon, life, turn, number, name):
        ids = [100 + 7 * (i + 31 * (life * 2 + turn) + 17 * number) % 1500 for i in range(60)]

        def ask():
            try:
                return daemon.generate(greedy(ids, max_tokens=4, session_id=name))
            except grpc.RpcError as error:
                return error
        reply = wait_until(lambda: (lambda r: None if isinstance(r, grpc.RpcError)
                                    and r.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE) else r)(ask()),
                           "the session is not held")
        if isinstance(reply, grpc.RpcError):
            assert reply.code() == grpc.StatusCode.FAILED_PRECONDITION, reply
            self.turns.append((life, name, None, 0, None))
            return
        self.turns.append((life, name, reply.usage.prompt_tokens, reply.usage.cached_tokens, reply.token_ids[0]))

    def account(self, daemon, folder):
        def same():
            samples = self.scrape(daemon)
            if samples is None:
                return False
            files = list(folder.rglob(self.FILES))
            return (sum(path.stat().st_size for path in files) == sample_sum(samples, self.BYTES)
                    and len(files) == self.files(samples) and not list(folder.rglob("*.tmp")))
        wait_until(same, "the account is that of the disk")

    # Of sessions, those that say they are on the disk: so nothing waits to be written, and no failure to be noticed.
    def files(self, samples):
        return sample_sum(samples, "kvasir_sessions", state="spilled")


class PrefixScript(Script):
    """Prompts that push each other's prefix blocks out of the pool, come back, and again in a second life."""

    COUNTER, LINE, FILES = "kvasir_prefix_spill_failures_total", "prefix blocks on disk", "*.kvp"
    BYTES = "kvasir_prefix_spill_bytes"
    PROMPTS = 3
    TURNS = 2 * 2 * PROMPTS

    def options(self, folder, shared):
        return f"""
    kv_cache: {{capacity_bytes: 1Mi}}
    sessions: {{spill_directory: {folder}/spill, max_prefix_spill_bytes: 16Mi, share_spill_directory: {shared}}}"""

    def lost_in_drain(self, code, lines):
        return lines

    def files(self, samples):
        return sample_sum(samples, "kvasir_prefix_spill_files")

    def live(self, daemon, life):
        for _ in range(2):
            for number in range(self.PROMPTS):
                ids = [100 + 7 * (i + 17 * number) % 1500 for i in range(100)]
                reply = daemon.generate(greedy(ids, max_tokens=4))
                self.turns.append((life, number, 0, reply.usage.cached_tokens, reply.token_ids[0]))


class FaultTest(unittest.TestCase):
    def check(self, shared, functions, script=Script):
        undisturbed = script().run(shared)
        self.assertEqual(len(undisturbed.turns), script.TURNS)
        total = 0
        for function, errors in functions:
            if ONLY and function not in ONLY:
                continue
            call, most = FIRST - STRIDE, 0
            while True:
                call += STRIDE
                error = errors[call // STRIDE % len(errors)]
                self.assertLess(call, MOST_CALLS, function)
                with self.subTest(function=function, call=call, error=errno.errorcode[error]):
                    run = script(function, call, error).run(shared)
                    most = max(most, run.calls)
                    if run.calls < call:
                        if call > most:
                            break
                        continue  # the clock decides whether a session is written once more
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
        print(f"{script.__name__}, {'shared' if shared else 'alone'}: {total} faults")

    # Each call fails with one of the errors, in turn.
    FUNCTIONS = [("openat", [errno.EMFILE, errno.EDQUOT, errno.ENOSPC, errno.EACCES]),
                 ("write", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO]), ("pread", [errno.EIO]),
                 ("fsync", [errno.EIO, errno.ENOSPC, errno.EDQUOT]), ("renameat", [errno.EIO, errno.ENOSPC, errno.EDQUOT]),
                 ("unlinkat", [errno.EIO, errno.EROFS]), ("futimens", [errno.EPERM]), ("mkdir", [errno.ENOSPC, errno.EDQUOT]),
                 ("flock", [errno.ENOLCK]), ("fcntl", [errno.ENOLCK]), ("fdopendir", [errno.ENOMEM]), ("readdir", [errno.EIO]),
                 ("linkat", [errno.EIO, errno.EDQUOT]), ("utimensat", [errno.EPERM]), ("fstat", [errno.EIO]),
                 ("pthread_create", [errno.EAGAIN]), ("new", [errno.ENOMEM])]

    def test_alone(self):
        self.check(False, self.FUNCTIONS)

    def test_shared(self):
        self.check(True, self.FUNCTIONS)

    def test_prefix_blocks_alone(self):
        self.check(False, self.FUNCTIONS, PrefixScript)

    def test_prefix_blocks_shared(self):
        self.check(True, self.FUNCTIONS, PrefixScript)


class StartTest(unittest.TestCase):
    """Threads, maps and files of the start: each that the system refuses ends the start with a reason, or is not needed."""

    def start(self, function, call, error):
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as counted:
            counted.write(bytes(64))
            counted.flush()
            environment = {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": folder, "FAULT_FUNCTION": function,
                           "FAULT_CALL": str(call), "FAULT_ERRNO": str(error), "FAULT_COUNT": counted.name,
                           "FAULT_ARMED": counted.name}
            config = f"""
models:
  - name: {BUNDLED}
    path: {BUNDLED_FOLDER}
    kv_cache: {{capacity_bytes: 8Mi}}
    sessions: {{spill_directory: {folder}/spill, max_prefix_spill_bytes: 16Mi}}
"""
            count = lambda: int.from_bytes(pathlib.Path(counted.name).read_bytes()[:8], sys.byteorder)
            try:
                with Daemon(config=config, environment=environment) as daemon:
                    reply = daemon.generate(greedy([5, 6, 7], max_tokens=4))
                    self.assertEqual(len(reply.token_ids[0]), 4)
                    reached = count() >= call
                    self.assertEqual(daemon.stop(), 0)
                return reached, "served"
            except AssertionError as refused:
                text = str(refused)
                self.assertRegex(text, r"ended with [1-9]\d* before listening", (function, call))
                self.assertRegex(text, r"thread|memory|map|resource|Resource|spill", (function, call))
                return True, f"refused: {text}"

    def check(self, function, error, stride=1):
        outcomes = {}
        call = 1
        while True:
            self.assertLess(call, MOST_CALLS)
            with self.subTest(function=function, call=call):
                reached, outcome = self.start(function, call, error)
                if not reached:
                    break
                tried = re.search(r"cannot start thread (\d+) of (\d+)", outcome)
                outcome = outcome.partition(":")[0]
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                if tried:  # of a trial before anything starts: the first stands for all
                    call += int(tried.group(2)) - int(tried.group(1))
            call += stride
        self.assertGreater(outcomes.get("refused", 0), 0)
        print(f"{function}: {outcomes}")

    def test_threads(self):
        self.check("pthread_create", errno.EAGAIN)

    def test_maps(self):
        self.check("mmap", errno.ENOMEM)

    def test_memory(self):
        for function in ("new", "memalign"):
            self.check(function, errno.ENOMEM, max(1, STRIDE // 3))

    def test_descriptors(self):
        """As many descriptors as the process may open, from next to none on: it serves, or ends with a reason."""
        outcomes = {}
        for limit in [*range(4, 24), 40, 63, 64, 65, 80]:
            with self.subTest(limit=limit):
                process = subprocess.Popen(
                    ["sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', str(harness.BIN / "kvasird"), "--model",
                     f"{BUNDLED}={BUNDLED_FOLDER}", "--kv_capacity_bytes", "8MiB", "--listen", "127.0.0.1:0",
                     "--metrics_listen", "127.0.0.1:0", "--http_listen", "127.0.0.1:0"],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                lines = []
                for line in process.stdout:
                    lines.append(line)
                    if line.startswith("listening"):
                        process.send_signal(signal.SIGTERM)
                code, text = process.wait(60), "".join(lines)
                process.stdout.close()
                served = any(line.startswith("listening") for line in lines)
                outcomes["served" if served else "refused"] = outcomes.get("served" if served else "refused", 0) + 1
                if served:
                    self.assertEqual(code, 0, text)
                else:
                    self.assertIn(code, (2, 3, 4, 5, 127), text)  # 127: not even its libraries
                    self.assertRegex(text, "open files|descriptor|shared librar|error while loading")
        self.assertGreater(outcomes["served"], 0)
        print(f"descriptors: {outcomes}")

    def test_address_space(self):
        """As much address space, or data, as the process may have: it serves a load, or ends with a reason."""
        for limit in ("as", "data"):
            outcomes = []
            for size in [*range(100, 2000, 200), 2500, 8000]:
                with self.subTest(limit=limit, mib=size):
                    try:
                        with Daemon(kv_capacity="8MiB", wrapper=["prlimit", f"--{limit}={size << 20}", "--"]) as daemon:
                            streams = [daemon.stream(greedy([5, 6, number], max_tokens=40)) for number in range(8)]
                            for stream in streams:
                                self.assertIsNone(stream.join().error)
                            self.assertEqual(daemon.stop(), 0)
                        outcomes.append("served")
                    except AssertionError as refused:
                        self.assertRegex(str(refused), r"ended with [1-9]\d* before listening", size)
                        self.assertRegex(str(refused), r"ulimit -[vd]|memory|shared librar")
                        outcomes.append("refused")
            self.assertEqual((outcomes[0], outcomes[-1]), ("refused", "served"))
            self.assertEqual(outcomes, sorted(outcomes))  # never less with more
            print(f"{limit}: {outcomes}")

    def test_processes(self):
        """As many threads as the user may have, from one on: it serves, or ends with a reason."""
        outcomes = {}
        for limit in [*range(1, 30), 40, 80]:
            with self.subTest(limit=limit):
                try:
                    with Daemon(kv_capacity="8MiB", wrapper=harness.as_nobody(f"--nproc={limit}")) as daemon:
                        self.assertEqual(len(daemon.generate(greedy([5, 6, 7], max_tokens=4)).token_ids[0]), 4)
                        self.assertEqual(daemon.stop(), 0)
                    outcome = "served"
                except AssertionError as refused:
                    text = str(refused)
                    self.assertRegex(text, r"ended with [1-9]\d* before listening", limit)
                    self.assertRegex(text, "limit of processes")
                    outcome = "refused"
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.assertEqual(set(outcomes), {"served", "refused"})
        print(f"processes: {outcomes}")


if __name__ == "__main__":
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
