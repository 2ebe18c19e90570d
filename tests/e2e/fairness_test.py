"""Two tenants on one daemon, over gRPC: what a flood of one leaves to the other. tests/bench/noisy_neighbour.py has the figures."""

import sys
import tempfile
import unittest

import harness
import two_tenants
from harness import BUNDLED_FOLDER, Daemon

sys.path.insert(0, str(harness.ROOT / "tests" / "bench"))

import random_checkpoint

# Other programs on the machine spoil a measurement, never improve it: it may be repeated.
MEASUREMENTS = 5


class FairnessTest(unittest.TestCase):
    def best_of(self, measure, good_enough):
        tries = []
        while len(tries) < MEASUREMENTS:
            tries.append(measure())
            if good_enough(tries[-1]):
                return
        self.fail(f"in {MEASUREMENTS} measurements: {tries}")

    def test_a_flood_leaves_the_neighbour_its_share(self):
        with tempfile.TemporaryDirectory() as folder:
            # Large enough that the model is what takes the time, not the flood's 64 readers on the same cores.
            random_checkpoint.write(folder, BUNDLED_FOLDER)
            with Daemon(config=two_tenants.config(folder)) as daemon:

                def over_fair_share():
                    alone, beside = two_tenants.neighbour_round(
                        daemon, requests=20, prompt_tokens=256, streams=64, flood_prompt_tokens=256,
                        flood_max_tokens=64)
                    return beside / (2 * alone)  # of two tenants of one weight each has half of the machine

                self.best_of(over_fair_share, lambda ratio: ratio <= two_tenants.TTFT_AT_MOST)

    def served(self, weight):
        with Daemon(config=two_tenants.config(BUNDLED_FOLDER, {"b": weight})) as daemon:
            return two_tenants.backlogged(daemon, streams=128, seconds=4, prompt_tokens=64, max_tokens=64)

    def test_backlogged_tenants_get_the_same(self):
        self.best_of(lambda: self.served(1), lambda served: two_tenants.jain(served.values()) >= two_tenants.JAIN_AT_LEAST)

    def test_backlogged_tenants_get_what_their_weights_say(self):
        self.best_of(lambda: self.served(3),
                     lambda served: abs(served["b"] / served["a"] / 3 - 1) <= two_tenants.WEIGHTS_WITHIN)


if __name__ == "__main__":
    unittest.main()
