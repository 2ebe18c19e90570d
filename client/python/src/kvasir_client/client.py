"""The client that blocks. Thread safe."""

import types
from typing import Any, Dict, Iterator, List, Optional, Sequence, Type, Union

import grpc

from kvasir_client._calls import ADMIN, GENERATION, HEALTH, SERVING, SESSIONS, HealthRequest, method
from kvasir_client.errors import KvasirError, error_from_call
from kvasir_client.options import Connection, PathLike
from kvasir_client.requests import Message, Prompt, Result, make_request
from kvasir_client.v1 import admin_pb2, generation_pb2, session_pb2


class Stream(Iterator[generation_pb2.Delta]):
    """One generation under way: iterate over its deltas, then look at `result`. Closing it cancels the request, which frees
    its KV cache within a step."""

    def __init__(self, call: Any):
        self._call = call
        self.result = Result()
        """What has arrived so far, put together."""

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> generation_pb2.Delta:
        try:
            for response in self._call:
                delta = self.result.add(response)
                if delta is not None:
                    return delta
        except grpc.RpcError as error:
            raise error_from_call(error) from error
        raise StopIteration

    def close(self) -> None:
        self._call.cancel()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[types.TracebackType]) -> None:
        self.close()


class Client:
    """A connection to kvasird, made by the first call and kept. A context manager.

    server, api_key, tls_ca: None takes $KVASIR_SERVER (else 127.0.0.1:50051), the key in the file $KVASIR_API_KEY_FILE, and
    the certificates in $KVASIR_TLS_CA. With tls_ca the connection is TLS; tls_certificate and tls_private_key are this
    client's own. Nothing is retried: a KvasirError says whether a retry makes sense.
    """

    def __init__(self, server: Optional[str] = None, *, api_key: Optional[str] = None,
                 api_key_file: Optional[PathLike] = None, tls_ca: Optional[PathLike] = None,
                 tls_certificate: Optional[PathLike] = None, tls_private_key: Optional[PathLike] = None):
        self._connection = Connection.resolve(server, api_key, api_key_file, tls_ca, tls_certificate, tls_private_key)
        credentials = self._connection.credentials()
        options = self._connection.channel_options()
        self._channel = (grpc.insecure_channel(self._connection.server, options) if credentials is None else
                         grpc.secure_channel(self._connection.server, credentials, options))
        self._methods: Dict[str, Any] = {}

    @property
    def server(self) -> str:
        return self._connection.server

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[types.TracebackType]) -> None:
        self.close()

    # --- generation ---

    def stream(self, prompt: Union[Prompt, generation_pb2.GenerateRequest], *, model: str = "",
               timeout: Optional[float] = None, **fields: Any) -> Stream:
        """Starts a generation. fields: those of Sampling, Stopping and Output in the API, session_id, priority,
        request_id, attention; json_schema (a dict or its text), regex, lark, choice; with messages tools (a list of
        dicts), tool_choice ("auto", "none", "required" or a tool's name), allowed_tools (names), parallel_tool_calls, documents,
        template_kwargs, template_name. timeout: seconds, which the daemon obeys too."""
        request = (prompt if isinstance(prompt, generation_pb2.GenerateRequest) else make_request(prompt, model, fields))
        metadata = self._connection.metadata(session_id=request.session_id)
        return Stream(self._method(GENERATION, "Generate")(request, timeout=timeout, metadata=metadata))

    def generate(self, prompt: Union[Prompt, generation_pb2.GenerateRequest], *, model: str = "",
                 timeout: Optional[float] = None, **fields: Any) -> Result:
        """As stream(), to its end."""
        stream = self.stream(prompt, model=model, timeout=timeout, **fields)
        for _ in stream:
            pass
        return stream.result

    # --- calls with one answer ---

    def _method(self, service: str, name: str) -> Any:
        key = f"{service}/{name}"
        if key not in self._methods:
            self._methods[key] = method(self._channel, service, name)
        return self._methods[key]

    def _call(self, service: str, name: str, request: Any, timeout: Optional[float], session_id: str = "") -> Any:
        try:
            return self._method(service, name)(request, timeout=timeout,
                                               metadata=self._connection.metadata(session_id=session_id))
        except grpc.RpcError as error:
            raise error_from_call(error) from error

    def models(self, *, timeout: Optional[float] = None) -> List[generation_pb2.Model]:
        """What is served, and how each model shares K/V."""
        return list((self._call(GENERATION, "ListModels", generation_pb2.ListModelsRequest(), timeout)).models)

    def tokenize(self, text: str, *, model: str = "", add_special_tokens: Optional[bool] = None,
                 parse_special_tokens: Optional[bool] = None, timeout: Optional[float] = None) -> List[int]:
        request = generation_pb2.TokenizeRequest(model=model, text=text)
        if add_special_tokens is not None:
            request.add_special_tokens = add_special_tokens
        if parse_special_tokens is not None:
            request.parse_special_tokens = parse_special_tokens
        return list((self._call(GENERATION, "Tokenize", request, timeout)).token_ids)

    def detokenize(self, token_ids: Sequence[int], *, model: str = "", skip_special_tokens: bool = False,
                   timeout: Optional[float] = None) -> str:
        request = generation_pb2.DetokenizeRequest(model=model, token_ids=token_ids,
                                                   skip_special_tokens=skip_special_tokens)
        text: str = (self._call(GENERATION, "Detokenize", request, timeout)).text
        return text

    def render_chat(self, messages: Sequence[Message], *, model: str = "",
                    timeout: Optional[float] = None) -> generation_pb2.RenderChatResponse:
        """What the model's chat template makes of a conversation."""
        conversation = make_request(messages, model, {}).messages
        request = generation_pb2.RenderChatRequest(model=model, messages=conversation)
        reply: generation_pb2.RenderChatResponse = self._call(GENERATION, "RenderChat", request, timeout)
        return reply

    def abort(self, request_id: str, *, timeout: Optional[float] = None) -> None:
        """Ends a request of this caller."""
        self._call(GENERATION, "Abort", generation_pb2.AbortRequest(request_id=request_id), timeout)

    def sessions(self, *, model: str = "", limit: int = 0, timeout: Optional[float] = None) -> List[session_pb2.Session]:
        request = session_pb2.ListSessionsRequest(model=model, limit=limit)
        return list((self._call(SESSIONS, "ListSessions", request, timeout)).sessions)

    def session(self, session_id: str, *, model: str = "", timeout: Optional[float] = None) -> session_pb2.Session:
        request = session_pb2.GetSessionRequest(session_id=session_id, model=model)
        reply: session_pb2.Session = self._call(SESSIONS, "GetSession", request, timeout, session_id)
        return reply

    def fork_session(self, session_id: str, new_session_id: str, *, model: str = "",
                     timeout: Optional[float] = None) -> session_pb2.Session:
        request = session_pb2.ForkSessionRequest(session_id=session_id, new_session_id=new_session_id, model=model)
        reply: session_pb2.Session = self._call(SESSIONS, "ForkSession", request, timeout, session_id)
        return reply

    def delete_session(self, session_id: str, *, model: str = "", timeout: Optional[float] = None) -> None:
        request = session_pb2.DeleteSessionRequest(session_id=session_id, model=model)
        self._call(SESSIONS, "DeleteSession", request, timeout, session_id)

    def stats(self, *, timeout: Optional[float] = None) -> admin_pb2.GetStatsResponse:
        """The KV pools, and who holds them, as far as this caller may see."""
        reply: admin_pb2.GetStatsResponse = self._call(ADMIN, "GetStats", admin_pb2.GetStatsRequest(), timeout)
        return reply

    def requests(self, *, model: str = "", limit: int = 0, timeout: Optional[float] = None) -> List[admin_pb2.RequestInfo]:
        """Those that wait or run, the largest holders of KV first."""
        request = admin_pb2.ListRequestsRequest(model=model, limit=limit)
        return list((self._call(ADMIN, "ListRequests", request, timeout)).requests)

    def load_model(self, name: str, path: str, *, options: str = "", wait: bool = True,
                   timeout: Optional[float] = None) -> int:
        """Loads one more model; its ModelState then. `options`: other fields of its configuration, as YAML or JSON."""
        request = admin_pb2.LoadModelRequest(name=name, path=path, options=options, wait=wait)
        reply: admin_pb2.LoadModelResponse = self._call(ADMIN, "LoadModel", request, timeout)
        return reply.state

    def unload_model(self, name: str, *, drain_seconds: Optional[float] = None,
                     timeout: Optional[float] = None) -> admin_pb2.UnloadModelResponse:
        """Takes a model out of service; back when its memory is given back."""
        request = admin_pb2.UnloadModelRequest(name=name, timeout_seconds=drain_seconds)
        reply: admin_pb2.UnloadModelResponse = self._call(ADMIN, "UnloadModel", request, timeout)
        return reply

    def is_serving(self, service: str = GENERATION, *, timeout: float = 3) -> bool:
        """Whether the daemon says that it serves; False also when it cannot be reached."""
        try:
            reply = self._call(HEALTH, "Check", HealthRequest(service=service), timeout)
        except KvasirError as error:
            if error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return False
            raise
        return bool(reply.status == SERVING)
