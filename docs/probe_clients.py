#!/usr/bin/env python3
"""Asks a daemon what Open WebUI and LiteLLM ask when they are pointed at it: their requests as recorded, without them.

    python3 docs/probe_clients.py http://127.0.0.1:8080 [KEY]

Prints a line for each probe; exit code 0 = every answer is one that the client can use. Needs nothing but Python.
"""

import json
import sys
import urllib.error
import urllib.request


def models_have_ids(answer):
    return bool(answer["data"]) and all(isinstance(model["id"], str) and model["id"] for model in answer["data"])


def models_have_a_length(answer):
    return models_have_ids(answer) and all(model["max_model_len"] > 0 for model in answer["data"])


def text_came(answer):
    return bool(answer["choices"]) and answer["usage"]["total_tokens"] > 0


def stream_ends_well(events):
    chunks = [json.loads(event) for event in events[:-1]]
    return events[-1] == "[DONE]" and len({chunk["id"] for chunk in chunks}) == 1 and chunks[-1]["usage"]["total_tokens"] > 0


# (client, what it is for, method, path, headers, body, the answer must be)
def probes(model, chat):
    json_type = {"Content-Type": "application/json"}
    said = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    return [
        ("Open WebUI", "connection check and list of models", "GET", "/v1/models",
         {"Content-Type": "application/json", "X-OpenWebUI-User-Name": "admin", "X-OpenWebUI-User-Role": "admin"}, None,
         models_have_ids),
        ("Open WebUI", "a turn, streamed", "POST", path, json_type,
         {"stream": True, "model": model, **said, "stream_options": {"include_usage": True}, "max_tokens": 16}, stream_ends_well),
        ("LiteLLM", "models and their lengths", "GET", "/v1/models", {"User-Agent": "litellm"}, None, models_have_a_length),
        ("LiteLLM", "health check: a small completion", "POST", path,
         {**json_type, "X-Stainless-Lang": "python", "X-Stainless-Retry-Count": "0"},
         {"model": model, **said, "max_tokens": 5, "extra_body": {}, "user": "litellm-health-check"}, text_came),
        ("OpenAI SDK", "one model", "GET", f"/v1/models/{model}", {"X-Stainless-Lang": "js"}, None,
         lambda answer: answer["id"] == model),
    ]


def ask(base, key, method, path, headers, body):
    """(status, answer): the JSON, or the list of a stream's events."""
    headers = {**headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base.rstrip("/") + path, data, headers, method=method)
    # Not through a proxy: the daemon is near.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=120) as response:
            text = response.read().decode()
            if response.headers.get_content_type() != "text/event-stream":
                return response.status, json.loads(text)
            return response.status, [block[len("data: "):] for block in text.split("\n\n") if block.startswith("data: ")]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    base, key = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else None
    status, answer = ask(base, key, "GET", "/kvasir/v1/memory", {}, None)
    if status != 200 or not answer["models"]:
        print(f"{base} does not serve: {status} {answer}", file=sys.stderr)
        return 1
    failed = False
    for client, purpose, method, path, headers, body, good in probes(answer["models"][0]["model"], answer["models"][0]["chat"]):
        status, said = ask(base, key, method, path, headers, body)
        fine = False
        try:
            fine = status == 200 and good(said)
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        failed |= not fine
        print(f"{'ok  ' if fine else 'FAIL'} {client}: {purpose} ({method} {path})" + ("" if fine else f"\n     {status} {said}"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
