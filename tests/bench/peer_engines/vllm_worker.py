"""Times vLLM inside its own environment: vllm_worker.py '{"model": FOLDER, ...}'. Its engine runs in this process, so that
steps can be seen."""

import json
import os
import sys

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import step_rates
from vllm import EngineArgs, LLMEngine, SamplingParams


class Engine:
    def __init__(self, task):
        longest = max(task["prefills"]) + 64
        self._engine = LLMEngine.from_engine_args(EngineArgs(
            model=task["model"], dtype="bfloat16", max_model_len=longest, max_num_seqs=max(task["streams"]),
            max_num_batched_tokens=longest, enable_prefix_caching=False, skip_tokenizer_init=True,
            enforce_eager=task["eager"], disable_log_stats=True))
        self._order, self._counts, self._next = [], {}, 0

    def add(self, prompt, max_tokens):
        if not self._engine.has_unfinished_requests():
            self._order, self._counts = [], {}
        name = str(self._next)
        self._next += 1
        self._engine.add_request(name, {"prompt_token_ids": prompt}, SamplingParams(
            temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False))
        self._order.append(name)
        self._counts[name] = 0

    def step(self):
        for output in self._engine.step():
            self._counts[output.request_id] = len(output.outputs[0].token_ids)
        return [self._counts[name] for name in self._order]


def main():
    task = json.loads(sys.argv[1])
    step_rates.measure(Engine(task), task["prefills"], task["streams"], task["context"], task["generate"],
                       task["vocabulary"])


if __name__ == "__main__":
    main()
