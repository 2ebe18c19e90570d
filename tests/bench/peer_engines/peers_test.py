"""The parts of peers.py that need no engine: what runs in which order, how outputs are read, the formats of the
checkpoints, the table."""

import json
import pathlib
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "peer_engines")]

import step_rates
from peer_engines import parts, results


def line(engine, weights, measure, rate, bits="int8", number=1):
    return {"engine": engine, "weights": weights, "format": bits, "measure": measure, "round": number,
            "tokens_per_second": rate}


class ResultsTest(unittest.TestCase):
    def test_rounds_go_forwards_and_backwards(self):
        self.assertEqual(list(results.order(["a", "b"], 3)),
                         [(1, "a"), (1, "b"), (2, "b"), (2, "a"), (3, "a"), (3, "b")])

    def test_a_cut_run_goes_on_where_it_stopped(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "results.jsonl"
            kept = results.Results(path)
            kept.add({"part": "a", "round": 1, "measure": "decode 1", "tokens_per_second": 5})
            kept.add({"part": "a", "round": 1, "ended": "now"})
            kept.add({"part": "b", "round": 1, "measure": "decode 1", "tokens_per_second": 5})
            kept.add({"part": "c", "round": 1, "failed": "c: no"})
            with open(path, "a") as file:
                file.write('{"part": "b", "rou')
            again = results.Results(path)
            self.assertTrue(again.is_done("a", 1))
            self.assertFalse(again.is_done("a", 2))
            self.assertFalse(again.is_done("b", 1))
            # What failed is not tried in every round.
            self.assertTrue(again.is_done("c", 2))
            self.assertFalse(again.is_done("c", 1, retry=True))

    def test_a_broken_line_in_the_middle_is_a_fault(self):
        with self.assertRaises(ValueError):
            results.read('{"a": 1}\n{"b"\n{"c": 2}\n')

    def test_table(self):
        lines = [line("Kvasir", "W8A8", "decode 1", rate, number=number) for number, rate in enumerate([21, 19, 20])]
        lines += [line("vLLM", "W8A8", "decode 1", 25.04), line("vLLM", "W8A8", "prefill 512", 700.4),
                  line("Kvasir", "bf16", "decode 1", 9.5, bits="bf16"), {"failed": "llama.cpp: no compiler"}]
        self.assertEqual(results.table(lines), """\
| | prefill 512 | decode 1 |
|---|---:|---:|
| Kvasir bf16 |  | **9.5** |
| Kvasir W8A8 |  | 20.0 (19.0–21.0) |
| vLLM W8A8 | **700** | **25.0** |
""")

    def test_report(self):
        lines = [line("Kvasir", "W8A8", "decode 8", 150), line("Kvasir", "Q8_0", "decode 8", 120),
                 line("vLLM", "W8A8", "decode 8", 100), line("llama.cpp", "Q8_0", "decode 8", 50),
                 {**line("vLLM", "W8A8", "server 16", 100), "first_token_seconds": 1.124},
                 {"measure": "limits", "read_gigabytes_per_second": 20.2, "bf16_gigaops_per_second": 900},
                 {"measure": "limits", "read_gigabytes_per_second": 27.4, "int8_gigaops_per_second": 2000},
                 {"failed": "OpenVINO GenAI: no wheel"}]
        text = results.report(lines, {"vLLM": "0.32.0"})
        self.assertIn("| int8 |  |  |  | 1.50 |  |  |  |", text)
        self.assertIn("vLLM W8A8 1124", text)
        self.assertIn("reads, GB/s 20 to 27, bf16 product, GFLOP/s 900 to 900, int8 product, GOP/s 2000 to 2000", text)
        self.assertIn("Versions: vLLM 0.32.0", text)
        self.assertIn("Not measured: OpenVINO GenAI: no wheel", text)

    def test_report_of_nothing(self):
        self.assertNotIn("Kvasir bf16", results.report([], {}))


class PartsTest(unittest.TestCase):
    def test_chosen(self):
        some = parts.chosen(["Kvasir", "OpenVINO GenAI"], ["int8"])
        self.assertEqual([part.name for part in some], ["Kvasir W8A8", "Kvasir Q8_0", "OpenVINO GenAI Q8_0",
                                                        "Kvasir W8A8 server", "Kvasir Q8_0 server"])
        self.assertFalse(any(part.server for part in parts.chosen(["vLLM"], ["bf16"], servers=False)))
        names = [part.name for part in parts.chosen([part.engine for part in parts.ENGINES], results.FORMATS)]
        self.assertEqual(len(names), len(set(names)))

    def test_kvasir_output(self):
        output = json.dumps({"weights": "int8", "read_bandwidth_bytes_per_second": 25e9,
                             "large_product_operations_per_second": 2e12, "lines": [
                                 {"what": "prefill 512", "tokens_per_second": 700.0, "spread": 0},
                                 {"what": "decode 1", "tokens_per_second": 20.0, "spread": 0}]})
        self.assertEqual(parts.read_kvasir(output, 512), [
            {"measure": "prefill 512", "tokens_per_second": 700.0}, {"measure": "decode 1", "tokens_per_second": 20.0},
            {"measure": "limits", "read_gigabytes_per_second": 25.0, "int8_gigaops_per_second": 2000.0}])
        longer = parts.read_kvasir(output.replace("prefill 512", "prefill 2048").replace("25000000000.0", "0"), 2048)
        self.assertEqual(longer, [{"measure": "prefill 2048", "tokens_per_second": 700.0}])

    def test_llama_output(self):
        output = ('build: 11434\n{"pp": 512, "tg": 1, "pl": 1, "speed_pp": 226.5, "speed_tg": 18.0}\n'
                  '{"pp": 64, "tg": 24, "pl": 16, "speed_pp": 200.0, "speed_tg": 132.5}\n')
        self.assertEqual(parts.read_llama(output), [{"measure": "prefill 512", "tokens_per_second": 226.5},
                                                    {"measure": "decode 16", "tokens_per_second": 132.5}])

    def test_worker_output(self):
        self.assertEqual(parts.read_worker('INFO hello\n{"measure": "decode 1", "tokens_per_second": 7.5}\n{"x": 1}\n'),
                         [{"measure": "decode 1", "tokens_per_second": 7.5}])

    def test_every_measure_of_a_run_is_a_column(self):
        for command in parts.kvasir_commands("kvasir-bench", parts.ENGINES[0], "model"):
            for flag, name in (("--prompt", "prefill"), ("--batch", "decode")):
                for number in command[command.index(flag) + 1].split(","):
                    self.assertIn(f"{name} {number}", results.MEASURES)


class StepRatesTest(unittest.TestCase):
    class Engine:
        """Each step takes `seconds`; the first one of a stream's makes no token."""

        def __init__(self, clock):
            self.clock, self.requests = clock, []

        def add(self, prompt, max_tokens):
            if all(made >= most for made, most in self.requests):
                self.requests = []
            self.requests.append([-1, max_tokens])

        def step(self):
            self.clock[0] += 0.5
            for request in self.requests:
                request[0] = min(request[0] + 1, request[1])
            return [max(made, 0) for made, _ in self.requests]

    def test_rates(self):
        clock = [0.0]
        real, step_rates.time.perf_counter = step_rates.time.perf_counter, lambda: clock[0]
        try:
            engine = self.Engine(clock)
            self.assertEqual(step_rates.prefill_rate(engine, 512, 100, seed=1), 512 / 1.0)
            self.assertEqual(step_rates.decode_rate(engine, 4, 16, 8, 100), 8.0)
        finally:
            step_rates.time.perf_counter = real

    def test_streams_that_begin_later_are_waited_for(self):
        self.assertEqual(step_rates.rate([(1.0, 10), (2.0, 14), (3.0, 18), (9.0, 19)], 8), 4.0)


class CheckpointsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            global numpy, checkpoints
            import numpy

            from peer_engines import checkpoints
        except ImportError as error:
            raise unittest.SkipTest(f"SKIPPED, python3-numpy is not installed: {error}")

    def weights(self):
        return numpy.random.default_rng(1).standard_normal((32, 256)).astype(numpy.float32)

    def test_int8_rows(self):
        weights = self.weights()
        codes, scales = checkpoints.int8_rows(weights)
        self.assertEqual(numpy.abs(codes).max(axis=1).tolist(), [127] * 32)
        self.assertLessEqual(numpy.abs(codes * scales - weights).max(), scales.max() / 2 + 1e-6)

    def test_gptq_codes(self):
        weights = self.weights()
        packed, scales = checkpoints.gptq_codes(weights)
        self.assertEqual((packed.shape, scales.shape), ((32, 32), (2, 32)))
        codes = numpy.stack([packed >> (4 * nibble) & 15 for nibble in range(8)], axis=1).reshape(256, 32)
        values = (codes.astype(numpy.float32) - 8) * numpy.repeat(scales, 128, axis=0)
        self.assertLessEqual(numpy.abs(values.T - weights).max(), scales.max() / 2 + 1e-6)

    def test_gguf_blocks(self):
        weights = self.weights()
        for make, size, steps in ((checkpoints.q8_0_blocks, 34, 127), (checkpoints.q4_0_blocks, 18, 8)):
            blocks = make(weights)
            self.assertEqual(blocks.shape, (256, size))
            scales = blocks[:, :2].copy().view(numpy.float16).astype(numpy.float32)
            if size == 34:
                values = blocks[:, 2:].view(numpy.int8) * scales
            else:
                values = (numpy.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1).astype(numpy.float32) - 8) * scales
            largest = numpy.abs(weights.reshape(-1, 32)).max(axis=1)
            # The value at the far end of Q4_0's codes is cut by one step.
            self.assertLessEqual((numpy.abs(values.reshape(-1, 32) - weights.reshape(-1, 32)).max(axis=1) / largest).max(),
                                 1.01 / steps)

    def test_every_format_of_a_small_model(self):
        shape = {**json.loads((HERE / "shapes" / "llama-1b.json").read_text()), "hidden_size": 128,
                 "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
                 "head_dim": 32, "vocab_size": 4100}
        like = HERE.parents[1] / "deploy" / "models" / "tale-7m-gqa2"
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            checkpoints.make(folder, like, shape, sorted(checkpoints.MAKERS))
            self.assertEqual({path.name for path in folder.iterdir()}, {"plain", *checkpoints.MAKERS})
            tokenizer = json.loads((folder / "plain" / "tokenizer.json").read_text())
            self.assertEqual(len(tokenizer["model"]["vocab"]), 4100)
            plain = checkpoints.Tensors(folder / "plain")
            for name in ("w8a8", "gptq"):
                made = checkpoints.Tensors(folder / name)
                self.assertTrue({n for n in plain.names if not checkpoints.is_linear(n)} <= set(made.names))
                end = max(entry["data_offsets"][1] for entry in made.header.values())
                size = (folder / name / "model.safetensors").stat().st_size
                self.assertEqual(size - made._base, end)
            before = (folder / "bf16.gguf").read_bytes()
            self.assertEqual(before[:4], b"GGUF")
            self.assertIn(plain.raw("model.layers.0.mlp.down_proj.weight").tobytes(), before)
            checkpoints.make(folder, like, shape, ["bf16.gguf"])  # is there


if __name__ == "__main__":
    unittest.main()
