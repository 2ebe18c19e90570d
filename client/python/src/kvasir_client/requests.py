"""From Python arguments to GenerateRequest, and from the events of a stream to one result."""

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union, cast

from kvasir_client.v1 import generation_pb2 as pb

Message = Mapping[str, Any]
"""{"role": "user", "content": "Hello"}; more keys go to the chat template as they are."""

Prompt = Union[str, Sequence[int], Sequence[Message]]
"""Text, token ids, or a conversation."""

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
             "n")
_STOPPING = ("max_tokens", "min_tokens", "ignore_eos")
_OUTPUT = ("logprobs", "prompt_logprobs", "skip_special_tokens", "parse_response")
_TOP = ("priority", "request_id", "add_special_tokens", "parse_special_tokens", "session_id",
        "cache_salt")
_MESSAGES = ("add_generation_prompt", "continue_final_message", "template_name")
_MESSAGES_JSON = {"tools": "tools_json", "documents": "documents_json", "template_kwargs": "template_kwargs_json"}
_CONSTRAINTS = ("json_schema", "regex", "lark", "choice")

_TOOL_CHOICE = ("tool_choice", "allowed_tools", "parallel_tool_calls")
_TOOL_CHOICES = {
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


def _set_of_messages(messages: pb.ChatMessages, name: str, value: Any) -> None:
    """What belongs to a conversation: tools and how the template is used."""
    if name == "tool_choice":
        if value in _TOOL_CHOICES:
            messages.tool_choice.mode = _TOOL_CHOICES[value]
        else:
            messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_NAMED
            messages.tool_choice.name = value
    elif name == "allowed_tools":
        messages.tool_choice.allowed_tools.extend(value)
    elif name == "parallel_tool_calls":
        messages.tool_choice.at_most_one = not value
    elif name in _MESSAGES_JSON:
        setattr(messages, _MESSAGES_JSON[name], value if isinstance(value, str) else json.dumps(value))
    else:
        setattr(messages, name, value)


def _set_constraint(constraint: pb.Constraint, name: str, value: Any) -> None:
    if constraint.WhichOneof("kind") is not None:
        raise TypeError(f"{name} beside another constraint")
    if name == "choice":
        constraint.choice.options.extend(value)
    elif name == "json_schema":
        constraint.json_schema = value if isinstance(value, str) else json.dumps(value)
    else:
        setattr(constraint, name, value)


def make_request(prompt: Prompt, model: str, fields: Mapping[str, Any]) -> pb.GenerateRequest:
    """TypeError for a field that there is none of. What is not set takes the model's default."""
    request = pb.GenerateRequest(model=model)
    if isinstance(prompt, str):
        request.text = prompt
    elif len(prompt) > 0 and isinstance(prompt[0], Mapping):
        for message in cast(Sequence[Message], prompt):
            added = request.messages.messages.add()
            if set(message) <= {"role", "content"} and isinstance(message.get("content"), str):
                added.role = message["role"]
                added.content = message["content"]
            else:
                added.json = json.dumps(dict(message))
    else:
        request.token_ids.ids.extend(cast(Sequence[int], prompt))
    for name, value in fields.items():
        if value is None:
            continue
        if name in _SAMPLING:
            setattr(request.sampling, name, value)
        elif name in _STOPPING:
            setattr(request.stopping, name, value)
        elif name in _OUTPUT:
            setattr(request.output, name, value)
        elif name in _TOP:
            setattr(request, name, value)
        elif name in _MESSAGES or name in _MESSAGES_JSON or name in _TOOL_CHOICE:
            if not request.HasField("messages"):
                raise TypeError(f"{name} goes with messages")
            _set_of_messages(request.messages, name, value)
        elif name in _CONSTRAINTS:
            _set_constraint(request.sampling.constraint, name, value)
        elif name == "stop":
            request.stopping.stop.extend([value] if isinstance(value, str) else value)
        elif name == "stop_token_ids":
            request.stopping.stop_token_ids.extend(value)
        elif name == "logit_bias":
            request.sampling.logit_bias.update(value)
        elif name == "attention":
            request.attention.CopyFrom(value)
        elif name == "session_input":
            request.session_input = value
        else:
            raise TypeError(f"generate has no field {name!r}; a whole GenerateRequest may be given as the prompt")
    return request


_FINISH_REASONS = {
    pb.FINISH_REASON_EOS: "eos",
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_CONTEXT_FULL: "context_full",
    pb.FINISH_REASON_CANCELLED: "cancelled",
    pb.FINISH_REASON_GRAMMAR: "grammar",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass
class ToolCall:
    """A tool that the model calls."""

    id: str = ""
    name: str = ""
    arguments_json: str = ""
    """A JSON object, once the call is whole."""

    @property
    def arguments(self) -> Dict[str, Any]:
        parsed: Dict[str, Any] = json.loads(self.arguments_json)
        return parsed

    def message(self) -> Dict[str, Any]:
        """As a message of the assistant has it in tool_calls."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments_json}}


@dataclass
class Completion:
    """One of the n completions of a request."""

    text: str = ""
    reasoning: str = ""
    """What the model thought, apart from its text."""
    tool_calls: List[ToolCall] = field(default_factory=list)
    token_ids: List[int] = field(default_factory=list)
    logprobs: List[pb.TokenLogprob] = field(default_factory=list)
    finish_reason: str = ""
    """eos, stop, length, context_full, cancelled, grammar, tool_calls."""
    stop_string: Optional[str] = None
    stop_token_id: Optional[int] = None


@dataclass
class Result:
    """A whole generation."""

    completions: Dict[int, Completion] = field(default_factory=dict)
    prompt_logprobs: List[pb.TokenLogprob] = field(default_factory=list)
    usage: pb.Usage = field(default_factory=pb.Usage)
    request_id: str = ""
    model: str = ""

    @property
    def text(self) -> str:
        """Of the first completion."""
        return self.completions[0].text if self.completions else ""

    @property
    def reasoning(self) -> str:
        return self.completions[0].reasoning if self.completions else ""

    @property
    def tool_calls(self) -> List[ToolCall]:
        return self.completions[0].tool_calls if self.completions else []

    def message(self) -> Dict[str, Any]:
        """The first completion as the conversation's next message; results of its calls are to follow it, each as
        {"role": "tool", "tool_call_id": call.id, "content": "..."}."""
        message: Dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.message() for call in self.tool_calls]
        return message

    @property
    def token_ids(self) -> List[int]:
        return self.completions[0].token_ids if self.completions else []

    @property
    def finish_reason(self) -> str:
        return self.completions[0].finish_reason if self.completions else ""

    def add(self, response: pb.GenerateResponse) -> Optional[pb.Delta]:
        """Takes one message of a stream; returns its delta, if it is one."""
        event = response.WhichOneof("event")
        if event == "delta":
            delta = response.delta
            completion = self.completions.setdefault(delta.index, Completion())
            completion.text += delta.text
            completion.reasoning += delta.reasoning
            for piece in delta.tool_calls:
                while len(completion.tool_calls) <= piece.index:
                    completion.tool_calls.append(ToolCall())
                call = completion.tool_calls[piece.index]
                call.id += piece.id
                call.name += piece.name
                call.arguments_json += piece.arguments
            completion.token_ids += delta.token_ids
            completion.logprobs += delta.logprobs
            return delta
        if event == "accepted":
            self.request_id = response.accepted.request_id
            self.model = response.accepted.model
        elif event == "prompt_logprobs":
            self.prompt_logprobs += response.prompt_logprobs.tokens
        elif event == "final":
            self.usage = response.final.usage
            for end in response.final.completions:
                completion = self.completions.setdefault(end.index, Completion())
                completion.finish_reason = _FINISH_REASONS.get(end.finish_reason, "")
                matched = end.WhichOneof("matched_stop")
                if matched is not None:
                    setattr(completion, matched, getattr(end, matched))
        return None


