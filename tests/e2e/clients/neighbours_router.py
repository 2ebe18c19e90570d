"""What neighbours_test.py runs with the router's own package: the daemon at argv[1], what to expect as JSON in argv[2].
Prints "all good" at the end; any surprise is an exception."""

import os
import json
import sys
import time

import grpc
from smg_grpc_proto.generated import common_pb2, vllm_engine_pb2 as pb, vllm_engine_pb2_grpc as rpc

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

expected = json.loads(sys.argv[2])
stub = rpc.VllmEngineStub(grpc.insecure_channel(sys.argv[1]))


def request(**fields):
    sampling = {"temperature": 0, "top_p": 1, "top_k": 0, "repetition_penalty": 1, "n": 1, "max_tokens": 24,
                "ignore_eos": True, "skip_special_tokens": True, **fields.pop("sampling", {})}
    return pb.GenerateRequest(**{"request_id": "of-the-router", "sampling_params": sampling, "stream": True,
                                 "tokenized": {"original_text": "x", "input_ids": expected["ids"]}, **fields})


assert stub.HealthCheck(pb.HealthCheckRequest(), timeout=PATIENCE_SECONDS).healthy
model = stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=PATIENCE_SECONDS)
assert model.served_model_name == expected["model"] and model.is_generation and model.max_context_length == 2048, model
server = stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=PATIENCE_SECONDS)
assert server.server_type == "vllm-grpc" and server.data_parallel_size == 1 and server.block_size > 0, server

ids, complete = [], None
for message in stub.Generate(request(sampling={"logprobs": 2, "prompt_logprobs": 1}), timeout=PATIENCE_SECONDS):
    if message.HasField("chunk"):
        ids += message.chunk.token_ids
        assert message.chunk.prompt_tokens == len(expected["ids"])
        assert len(message.chunk.output_logprobs.token_logprobs) == len(message.chunk.token_ids)
        assert len(message.chunk.output_logprobs.top_logprobs[0].token_ids) == 2
    else:
        complete = message.complete
assert ids == expected["expected"] == list(complete.output_ids), ids
assert complete.finish_reason == "length" and complete.completion_tokens == 24
assert list(complete.input_logprobs.token_ids) == expected["ids"]
assert not complete.input_logprobs.token_logprobs[0].HasField("value")

messages = list(stub.Generate(request(stream=False, sampling={"n": 2, "temperature": 1, "seed": 3}),
                              timeout=PATIENCE_SECONDS))
assert sorted(message.complete.index for message in messages) == [0, 1], messages
stopped, = stub.Generate(request(stream=False, sampling={"stop_token_ids": [expected["expected"][4]]}),
                         timeout=PATIENCE_SECONDS)
assert stopped.complete.finish_reason == "stop" and stopped.complete.matched_token_id == expected["expected"][4]
# Without a limit it goes to the end of the context.
full = request(stream=False)
full.sampling_params.ClearField("max_tokens")
full, = stub.Generate(full, timeout=PATIENCE_SECONDS)
assert full.complete.prompt_tokens + full.complete.completion_tokens >= 2048 - 1, full.complete.completion_tokens
assert full.complete.finish_reason == "length"

for fields, name in (({"sampling": {"regex": "a"}}, "constraint"), ({"kv_transfer_params_json": "{}"}, "kv_transfer"),
                     ({"data_parallel_rank": 1}, "data_parallel_rank")):
    try:
        list(stub.Generate(request(**fields), timeout=PATIENCE_SECONDS))
        raise AssertionError(f"{fields} was taken")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and name in error.details(), error

running = stub.Generate(request(sampling={"n": 4, "max_tokens": 1900, "temperature": 1}))
next(running)
deadline, load = time.monotonic() + 30, pb.SchedulerLoad()
while load.num_running_reqs == 0 and time.monotonic() < deadline:  # counted at the step's end, after its tokens have left
    load, = stub.GetLoads(pb.GetLoadsRequest(), timeout=PATIENCE_SECONDS).loads
assert load.num_running_reqs >= 1 and 0 < load.token_usage < 1 and load.max_total_num_tokens == 32768, load
stub.Abort(pb.AbortRequest(request_ids=["of-the-router"]), timeout=PATIENCE_SECONDS)
try:
    list(running)
    raise AssertionError("it was not aborted")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.CANCELLED, error
batch = next(stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest(), timeout=PATIENCE_SECONDS))
assert batch.events and batch.sequence_number == batch.events[-1].event_id
print("all good")
