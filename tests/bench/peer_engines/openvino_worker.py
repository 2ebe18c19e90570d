"""Times OpenVINO GenAI inside its own environment: openvino_worker.py '{"model": FILE, "threads": N, ...}'."""

import json
import sys

import numpy
import openvino
import openvino_genai

import step_rates


class Engine:
    def __init__(self, task):
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 2  # GB
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = 64
        scheduler.enable_prefix_caching = False
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            task["model"], scheduler, "CPU", {"INFERENCE_NUM_THREADS": task["threads"]}, {})
        self._handles, self._counts, self._next = [], [], 0

    def add(self, prompt, max_tokens):
        if not self._pipeline.has_non_finished_requests():
            self._handles, self._counts = [], []
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        config.do_sample = False
        ids = openvino.Tensor(numpy.array([prompt], dtype=numpy.int64))
        self._handles.append(self._pipeline.add_request(self._next, ids, config))
        self._counts.append(0)
        self._next += 1

    def step(self):
        self._pipeline.step()
        for index, handle in enumerate(self._handles):
            while handle.can_read():
                for output in handle.read().values():
                    self._counts[index] += len(output.generated_ids)
        return list(self._counts)


def main():
    task = json.loads(sys.argv[1])
    step_rates.measure(Engine(task), task["prefills"], task["streams"], task["context"], task["generate"],
                       task["vocabulary"])


if __name__ == "__main__":
    main()
