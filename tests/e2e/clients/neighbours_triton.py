"""What neighbours_test.py runs with tritonclient: the daemon at argv[1], what to expect as JSON in argv[2]. Prints "all good"
at the end; any surprise is an exception."""

import os
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

PATIENCE_SECONDS = float(os.environ.get("KVASIR_PATIENCE_SECONDS", 180))

expected = json.loads(sys.argv[2])
MODEL = expected["model"]
client = triton.InferenceServerClient(sys.argv[1])


def tensor(name, kind, values):
    made = triton.InferInput(name, [1], kind)
    made.set_data_from_numpy(np.array(values, dtype=object if kind == "BYTES" else bool))
    return made


def inputs(stream=None, **sampling):
    made = [tensor("text_input", "BYTES", [expected["prompt"].encode()]),
            # As its LLM clients do: numbers as text.
            tensor("sampling_parameters", "BYTES", [json.dumps({"temperature": "0", "max_tokens": "24", "ignore_eos": True,
                                                                **sampling}).encode()])]
    return made if stream is None else made + [tensor("stream", "BOOL", [stream])]


assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
assert client.get_server_metadata().name == "kvasird"
metadata = client.get_model_metadata(MODEL)
assert [output.name for output in metadata.outputs] == ["text_output"], metadata
assert "text_input" in [each.name for each in metadata.inputs]

result = client.infer(MODEL, inputs(), request_id="one", outputs=[triton.InferRequestedOutput("text_output")])
assert result.as_numpy("text_output")[0].decode() == expected["expected"], result.as_numpy("text_output")
assert result.get_response().id == "one"
echoed = client.infer(MODEL, inputs() + [tensor("exclude_input_in_output", "BOOL", [False])])
assert echoed.as_numpy("text_output")[0].decode() == expected["prompt"] + expected["expected"]
client.infer(MODEL, inputs(), sequence_id=77, sequence_start=True, sequence_end=False)

answers = queue.Queue()
client.start_stream(callback=lambda result, error: answers.put((result, error)))
# Two requests on one stream: answered in turn.
for request_id in ("first", "second"):
    client.async_stream_infer(MODEL, inputs(stream=True), request_id=request_id, enable_empty_final_response=True)
for request_id in ("first", "second"):
    text, last = "", False
    pieces = 0
    while not last:
        result, error = answers.get(timeout=PATIENCE_SECONDS)
        assert error is None, error
        response = result.get_response()
        assert response.id == request_id, response.id
        last = response.parameters["triton_final_response"].bool_param
        text += result.as_numpy("text_output")[0].decode()
        pieces += 1
    assert text == expected["expected"], text
    assert pieces > 2
# A request that fails leaves the stream open.
client.async_stream_infer(MODEL, inputs(stream=True, temperature="-1"), request_id="bad")
result, error = answers.get(timeout=PATIENCE_SECONDS)
assert error is not None and "temperature" in str(error), (result, error)
client.async_stream_infer(MODEL, inputs(), request_id="whole")
result, error = answers.get(timeout=PATIENCE_SECONDS)
assert error is None and result.as_numpy("text_output")[0].decode() == expected["expected"]
# A stream that is cut is cancelled.
client.async_stream_infer(MODEL, inputs(stream=True, max_tokens=1900, temperature=1), request_id="cut")
answers.get(timeout=PATIENCE_SECONDS)
client.stop_stream(cancel_requests=True)

for bad, word in (([tensor("prompt", "BYTES", [b"x"])], "prompt"), ([tensor("text_input", "BYTES", [b"x\xff"])], "UTF-8 at byte 1"), (inputs(beam_width=4), "beam_width"),
                  (inputs(stream=True), "ModelStreamInfer"), (inputs()[1:], "text_input"), (inputs(n=2), "n")):
    try:
        client.infer(MODEL, bad)
        raise AssertionError(f"{word} was taken")
    except InferenceServerException as error:
        assert "INVALID_ARGUMENT" in error.status() and word in error.message(), error
try:
    client.get_model_metadata("none")
    raise AssertionError("a model that is none was described")
except InferenceServerException as error:
    assert "NOT_FOUND" in error.status()
print("all good")
