#!/usr/bin/python3
"""A plain Python client of kvasird: streams one generation. An example for other languages to follow.

    apt-get install python3-grpcio python3-protobuf protobuf-compiler protobuf-compiler-grpc
    python3 client/python/generate.py --server 127.0.0.1:50051 --max_tokens 60 "Once upon a time"

The whole protocol is in the loop of stream_generation(): one Accepted message, deltas, one Final message, status OK.
Cancelling the call (Ctrl-C here) frees the request's KV cache within one step of the engine. As a library:

    import grpc, kvasir_stubs; kvasir_stubs.load()
    from kvasir.v1 import generation_pb2 as pb, generation_pb2_grpc as rpc
    stub = rpc.GenerationServiceStub(grpc.insecure_channel("127.0.0.1:50051"))
    request = pb.GenerateRequest(text="Once upon a time",
                                 sampling=pb.Sampling(temperature=0), stopping=pb.Stopping(max_tokens=60))
    for response in stub.Generate(request, timeout=60):
        if response.HasField("delta"):
            print(response.delta.text, end="", flush=True)
"""

import argparse
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import grpc
import kvasir_stubs

kvasir_stubs.load()

from google.rpc import error_details_pb2, status_pb2
from kvasir.v1 import generation_pb2 as pb
from kvasir.v1 import generation_pb2_grpc as rpc


def connect(server, tls_ca=None):
    """A channel with keepalive pings every 30 s, so that idle connections survive middle boxes. None to this machine goes to
    a proxy that http_proxy names.

    tls_ca: file of the certificates to trust; None = plain text."""
    options = [
        ("grpc.keepalive_time_ms", 30000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if server.removeprefix("dns:///").startswith(("127.", "[::1]", "localhost", "unix:")):
        options.append(("grpc.enable_http_proxy", 0))
    if tls_ca is None:
        return grpc.insecure_channel(server, options=options)
    return grpc.secure_channel(server, grpc.ssl_channel_credentials(pathlib.Path(tls_ca).read_bytes()), options=options)


def stream_generation(stub, request, timeout_seconds=None, on_text=lambda text: None, key=None):
    """Runs one request; calls on_text for each piece of text; returns (accepted, final). Raises grpc.RpcError.

    key: who calls, where the daemon tells tenants apart."""
    accepted = final = None
    metadata = [("authorization", f"Bearer {key}")] if key else []
    for response in stub.Generate(request, timeout=timeout_seconds, metadata=metadata):
        event = response.WhichOneof("event")
        if event == "accepted":
            accepted = response.accepted
        elif event == "delta":
            on_text(response.delta.text)
        elif event == "final":
            final = response.final
    return accepted, final


def describe_error(error):
    """Code, message and the details of a failed call: which fields were wrong, which quota is full, when to try again."""
    lines = [f"{error.code().name}: {error.details()}"]
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            bad_request = error_details_pb2.BadRequest()
            quota = error_details_pb2.QuotaFailure()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(bad_request):
                lines += [f"  {v.field}: {v.description}" for v in bad_request.field_violations]
            elif detail.Unpack(quota):
                lines += [f"  {v.subject}: {v.description}" for v in quota.violations
                          if v.description not in error.details()]
            elif detail.Unpack(retry):
                lines.append(f"  retry after {retry.retry_delay.ToMilliseconds()} ms")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description="Streams one generation from kvasird.")
    parser.add_argument("prompt")
    # The variables of the command line, too.
    parser.add_argument("--server", default=os.environ.get("KVASIR_SERVER") or "127.0.0.1:50051")
    parser.add_argument("--tls_ca", default=os.environ.get("KVASIR_TLS_CA") or None,
                        help="speak TLS, and trust the certificates in this file")
    parser.add_argument("--api_key_file", default=os.environ.get("KVASIR_API_KEY_FILE") or None,
                        help="holds the key that this caller is known by")
    parser.add_argument("--model", default="", help="may be absent when the daemon serves one model")
    parser.add_argument("--max_tokens", type=int, default=60)
    parser.add_argument("--temperature", type=float, help="0 = greedy; absent = the model's default")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--timeout", type=float, help="seconds; the server obeys it too")
    args = parser.parse_args()

    request = pb.GenerateRequest(model=args.model, text=args.prompt, stopping=pb.Stopping(max_tokens=args.max_tokens))
    # Every sampling field is optional: what is not set takes the model's default, so set only what was asked for.
    if args.temperature is not None:
        request.sampling.temperature = args.temperature
    if args.seed is not None:
        request.sampling.seed = args.seed

    key = pathlib.Path(args.api_key_file).read_text().strip() if args.api_key_file else None
    with connect(args.server, args.tls_ca) as channel:
        stub = rpc.GenerationServiceStub(channel)
        try:
            _, final = stream_generation(stub, request, args.timeout,
                                         lambda text: print(text, end="", flush=True), key)
        except grpc.RpcError as error:
            print(describe_error(error), file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    usage = final.usage
    print()
    print(f"[{usage.prompt_tokens} prompt tokens, {usage.cached_tokens} from cache, {usage.completion_tokens} generated; "
          f"KV cache peak {usage.kv_bytes_peak} bytes; first token {usage.time_to_first_token_seconds * 1e3:.0f} ms]",
          file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
