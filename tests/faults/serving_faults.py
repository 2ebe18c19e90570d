"""What serving_fault_test.py and model_fault_test.py share: a daemon that serves, orders to its shim (fault_shim.cc), and streams
beside whose tokens are known.

KVASIR_FAULT_STRIDE, KVASIR_FAULT_FIRST and KVASIR_FAULT_FUNCTIONS as in fault_test.py."""

import collections
import contextlib
import errno
import mmap
import os
import pathlib
import re
import struct
import sys
import tempfile
import threading
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
from harness import BUNDLED, Daemon, greedy, sample_sum, wait_until

import grpc

SHIM = pathlib.Path(os.environ.get("KVASIR_FAULT_SHIM", harness.ROOT / "build" / "release" / "lib" / "libfault_shim.so"))
STRIDE = int(os.environ.get("KVASIR_FAULT_STRIDE", "12"))
FIRST = int(os.environ.get("KVASIR_FAULT_FIRST", "1"))
ONLY = set(filter(None, os.environ.get("KVASIR_FAULT_FUNCTIONS", "").split(",")))
MOST_CALLS = 1000  # of one function in one attempt; one that makes more has grown, and this with it

OPENING = [errno.EMFILE, errno.EIO, errno.ENFILE, errno.ENOMEM]
FILES = [("open", OPENING), ("fopen", OPENING), ("fstat", [errno.EIO]), ("stat", [errno.EIO, errno.ENOMEM]),
         ("read", [errno.EIO]), ("opendir", OPENING), ("readdir", [errno.EIO]), ("mmap_file", [errno.ENOMEM, errno.ENODEV])]
SPILLED = [("openat", [errno.EMFILE, errno.ENOSPC, errno.EACCES]), ("mkdir", [errno.ENOSPC]), ("flock", [errno.ENOLCK]),
           ("fcntl", [errno.ENOLCK]), ("fdopendir", [errno.ENOMEM]), ("write", [errno.ENOSPC, errno.EIO]), ("pread", [errno.EIO]),
           ("fsync", [errno.EIO]), ("renameat", [errno.EIO]), ("unlinkat", [errno.EROFS]), ("futimens", [errno.EPERM])]
MEMORY = [("new", [errno.ENOMEM]), ("memalign", [errno.ENOMEM])]
# Copies of a text as large as this are allocations that count.
PADDING = "".join(f"# {line:06} of what people write into such files\n" for line in range(2000))


class Faults:
    """The shim's orders, and its count of the calls."""

    def __init__(self, file):
        file.write(bytes(64))
        file.flush()
        self.memory = mmap.mmap(file.fileno(), 64)

    def arm(self, function, call, error):
        self.disarm()
        self.memory[:24] = struct.pack("=qqq", 0, call, error)
        self.memory[24:64] = function.encode().ljust(40, b"\0")

    def disarm(self):
        """How many such calls there were."""
        self.memory[24:64] = bytes(40)
        return struct.unpack("=q", self.memory[:8])[0]


class Beside:
    """Greedy streams, one after the other, whose tokens are known."""

    def __init__(self, generate):
        self.generate = generate
        self.usual = self.tokens()
        self.done, self.wrong = 0, []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def tokens(self):
        reply = self.generate(greedy([100 + 7 * i % 1500 for i in range(40)], max_tokens=48, model=BUNDLED))
        return list(reply.token_ids[0])

    def run(self):
        while not self.ending.is_set():
            try:
                tokens = self.tokens()
                if tokens != self.usual:
                    self.wrong.append(f"{tokens} for {self.usual}")
            except grpc.RpcError as error:
                self.wrong.append(f"{error.code()} {error.details()}")
                if len(self.wrong) > 20:
                    return
            self.done += 1

    def stop(self):
        self.ending.set()
        self.thread.join()


class ServingFaultTest(unittest.TestCase):
    @contextlib.contextmanager
    def serving(self, config, directory=None):
        """self.daemon in self.folder, which holds its configuration too; config(folder) gives the text."""
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile() as orders:
            self.folder, self.faults = pathlib.Path(folder), Faults(orders)
            environment = {"LD_PRELOAD": str(SHIM), "FAULT_DIRECTORY": directory or folder, "FAULT_FUNCTION": "*",
                           "FAULT_COUNT": orders.name, "FAULT_ARMED": orders.name}
            text = config(self.folder)
            with mock.patch.object(tempfile, "tempdir", folder):
                self.daemon = Daemon(config=text, environment=environment)
            self.config_file = pathlib.Path(self.daemon.command[self.daemon.command.index("--config") + 1])
            with self.daemon:
                yield
                self.assertEqual(self.daemon.stop(), 0)

    @contextlib.contextmanager
    def beside(self, generate):
        beside = Beside(generate)
        try:
            yield beside
        finally:
            beside.stop()

    def sweep(self, what, functions, attempt, beside=None):
        """attempt(function, call, error) does what is tried, with the fault, checks it, and gives the calls and the outcome."""
        outcomes = collections.Counter()
        for function, errors in functions:
            if ONLY and function not in ONLY:
                continue
            for number in range(MOST_CALLS):
                call, error = FIRST + number * STRIDE, errors[number % len(errors)]
                self.assertLess(call, MOST_CALLS, function)
                done = beside.done if beside else 0
                reached = False
                with self.subTest(function=function, call=call, error=errno.errorcode[error]):
                    try:
                        calls, outcome = attempt(function, call, error)
                    except BaseException:
                        self.recover()
                        raise
                    self.assertIsNone(self.daemon.process.poll(), "the daemon ended")
                    if beside:
                        wait_until(lambda: beside.done > done + 1, "the streams beside go on")
                        self.assertEqual(beside.wrong, [])
                    reached = calls >= call
                    if reached:
                        outcomes[f"{function} {outcome}"] += 1
                if not reached:
                    break
        print(f"{what}: {sum(outcomes.values())} faults, {dict(outcomes)}")
        if not ONLY:
            self.assertGreater(sum(outcomes.values()), 0)

    def recover(self):
        """So that what is tried next begins as this did."""
        self.faults.disarm()

    def lines(self, pattern):
        return sum(re.search(pattern, line) is not None for line in self.daemon.log_lines[self.mark:])

    def check_lines(self, pattern, expected):
        """The log is read by another thread, a moment later."""
        wait_until(lambda: self.lines(pattern) >= expected, f"{expected} lines with '{pattern}'")
        self.assertEqual(self.lines(pattern), expected, self.daemon.log())

    def count(self, name, **labels):
        return sample_sum(self.daemon.metrics(), name, **labels)

    def replace(self, path, text):
        """As a rotation does it: whole, or not at all."""
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        os.replace(fresh, path)


def main():
    if not SHIM.exists():
        print(f"*** {SHIM} is not built: this test is skipped", file=sys.stderr)
        sys.exit(0)
    unittest.main(verbosity=2)
