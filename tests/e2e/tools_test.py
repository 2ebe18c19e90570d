"""Reasoning and tool calls end to end, over gRPC, HTTP and the command line: a real model whose vocabulary has tokens
that spell whole answers, and biases that make it write them."""

import http.client
import json
import pathlib
import shutil
import tempfile
import unittest

import grpc

import peers
from harness import BUNDLED, BUNDLED_FOLDER, Daemon, PATIENCE_SECONDS, generation_pb2 as pb

END, MARKER, BROKEN, ANSWER = 0, 3, 4094, 4095
ARGUMENTS = '{"city":"Oslo"}'
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
SPELLED = {ANSWER: f"<think>Ask.</think>\n\nWell.\n{CALL}",
           BROKEN: '<tool_call>{"name": weather}</tool_call>'}
TEMPLATE = ("{# answers: </think> <tool_call> #}{% if tools %}{{ tools | tojson }}\n{% endif %}"
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
            "[{{ c.function.name }} {{ c.function.arguments.city }}]{% endfor %}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}")
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather.",
                                           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]
STRICT_TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {
        "type": "object", "required": ["city", "days"], "additionalProperties": False,
        "properties": {"city": {"type": "string", "pattern": "^[a-z]{1,8}$"},
                       "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {
        "type": "object", "properties": {}, "additionalProperties": False}}}]
MESSAGES = [{"role": "user", "content": "How is the weather in Oslo?"}]


def make_model(folder):
    """The bundled model with other names for a few tokens: the last ones, which nothing else is made of."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(BUNDLED_FOLDER / name, folder)
    tokenizer = json.loads((BUNDLED_FOLDER / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    names = {token_id: name for name, token_id in vocabulary.items()}
    for token_id, text in SPELLED.items():
        del vocabulary[names[token_id]]
        vocabulary[text.replace(" ", "Ġ").replace("\n", "Ċ")] = token_id
    del tokenizer["model"]["merges"][-len(SPELLED):]
    for added in tokenizer["added_tokens"]:
        if added["id"] == MARKER:
            del vocabulary[added["content"]]
            added["content"] = "<tool_call>"
            vocabulary["<tool_call>"] = MARKER
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((BUNDLED_FOLDER / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def biases(token):
    """Makes the model write `token` and end its turn: the end is banned before min_tokens."""
    return {token: 50, END: 100}


class Tools(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.directory.name)
        make_model(cls.folder)
        cls.daemon = Daemon(models={BUNDLED: cls.folder})

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.directory.cleanup()

    # --- gRPC ---

    def request(self, token=ANSWER, tools=True, **output):
        request = pb.GenerateRequest(
            sampling=pb.Sampling(temperature=0, logit_bias=biases(token)),
            stopping=pb.Stopping(max_tokens=8, min_tokens=1), output=pb.Output(**output))
        for message in MESSAGES:
            request.messages.messages.add(**message)
        if tools:
            request.messages.tools_json = json.dumps(TOOLS)
        return request

    def ask(self, request, daemon=None):
        """(text, reasoning, calls, finish reason, prompt tokens)."""
        text, reasoning, calls, accepted = "", "", [], None
        for response in (daemon or self.daemon).generation.Generate(request, timeout=PATIENCE_SECONDS):
            text += response.delta.text
            reasoning += response.delta.reasoning
            calls += response.delta.tool_calls
            if response.HasField("accepted"):
                accepted = response.accepted
            if response.HasField("final"):
                reason = pb.FinishReason.Name(response.final.completions[0].finish_reason)
        return text, reasoning, calls, reason, accepted.prompt_tokens

    def refused(self, request, code, *words):
        with self.assertRaises(grpc.RpcError) as caught:
            self.ask(request)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        for word in words:
            self.assertIn(word, caught.exception.details())

    def test_typed_deltas(self):
        text, reasoning, calls, reason, _ = self.ask(self.request())
        self.assertEqual((text, reasoning, reason), ("Well.", "Ask.", "FINISH_REASON_TOOL_CALLS"))
        self.assertEqual([(c.index, c.name, c.arguments) for c in calls], [(0, "weather", ARGUMENTS)])
        self.assertRegex(calls[0].id, "^call_[A-Za-z0-9]{24}$")
        model = self.daemon.generation.GetModel(pb.GetModelRequest(name=BUNDLED), timeout=PATIENCE_SECONDS)
        self.assertEqual(model.tool_format, "hermes")

    def test_reasoning_tokens(self):
        # One token spells reasoning, answer and call; with the biases of a word only, there is no reasoning.
        def usage(request):
            return [r.final.usage for r in self.daemon.generation.Generate(request, timeout=PATIENCE_SECONDS)
                    if r.HasField("final")][0]

        counted = usage(self.request())
        self.assertEqual((counted.reasoning_tokens, counted.completion_tokens), (1, 2))
        self.assertEqual(usage(self.request(BROKEN)).reasoning_tokens, 0)
        self.assertEqual(usage(self.request(parse_response=False)).reasoning_tokens, 0)

    def test_without_tools_a_call_is_text(self):
        text, reasoning, calls, reason, _ = self.ask(self.request(tools=False))
        self.assertEqual((text, reasoning, calls, reason), ("Well.\n" + CALL, "Ask.", [], "FINISH_REASON_EOS"))

    def test_broken_call_is_text(self):
        text, _, calls, reason, _ = self.ask(self.request(BROKEN))
        self.assertEqual((text, calls, reason), (SPELLED[BROKEN], [], "FINISH_REASON_EOS"))

    def test_not_parsed_when_not_wanted(self):
        text, reasoning, calls, _, _ = self.ask(self.request(parse_response=False))
        self.assertEqual((text, reasoning, calls), (SPELLED[ANSWER], "", []))
        request = self.request(parse_response=True)
        request.text = "x"
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "parse_response")

    def test_special_tokens_reach_the_parser_alone(self):
        # No call follows the marker, so it is text; without the parser it is a special token like others.
        self.assertEqual(self.ask(self.request(MARKER))[0], "<tool_call>")
        self.assertEqual(self.ask(self.request(MARKER, parse_response=False))[0], "")

    def test_tool_choice(self):
        request = self.request()
        with_tools = self.ask(request)[4]
        request.messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_NONE
        text, _, calls, _, prompt_tokens = self.ask(request)
        self.assertEqual((text, calls), ("Well.\n" + CALL, []))
        self.assertLess(prompt_tokens, with_tools)
        request.messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_NAMED
        request.messages.tool_choice.name = "nobody"
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "nobody")
        request.messages.tools_json = '[{"function": {}}]'
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "name")
        request.messages.tools_json = ""
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "no tools")

    def test_some_of_the_tools(self):
        request = self.request()
        with_all = self.ask(request)[4]
        choice = request.messages.tool_choice
        choice.allowed_tools.append("weather")
        self.assertEqual(([call.name for call in self.ask(request)[2]], self.ask(request)[4]), (["weather"], with_all))
        # A call of another is left out, with auto; its text is not the answer's.
        request.messages.tools_json = json.dumps(TOOLS + STRICT_TOOLS[1:])
        choice.allowed_tools[:] = ["now"]
        self.assertEqual(self.ask(request)[:4], ("Well.", "Ask.", [], "FINISH_REASON_EOS"))
        for names, mode, word in ((["now", "nobody"], pb.TOOL_CHOICE_MODE_AUTO, "nobody"),
                                  (["now"], pb.TOOL_CHOICE_MODE_NONE, "allowed_tools"),
                                  (["now"], pb.TOOL_CHOICE_MODE_NAMED, "allowed_tools"),
                                  (["now"] * 2000, pb.TOOL_CHOICE_MODE_REQUIRED, "2000 names")):
            choice.allowed_tools[:] = names
            choice.mode = mode
            self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, word)
        choice.allowed_tools[:] = ["now"]
        choice.mode = pb.TOOL_CHOICE_MODE_AUTO
        request.messages.tools_json = ""
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "no tools")
        request.messages.tools_json = json.dumps(STRICT_TOOLS)
        request.output.parse_response = False  # nobody would see whose calls they are
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "parse_response")

    def test_required_calls_are_of_the_schema(self):
        finished = 0
        for seed in range(8):
            request = self.request()
            request.messages.tools_json = json.dumps(STRICT_TOOLS)
            request.messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_REQUIRED
            request.messages.tool_choice.at_most_one = seed % 2 == 0
            request.sampling.CopyFrom(pb.Sampling(temperature=1, seed=seed))
            request.stopping.CopyFrom(pb.Stopping(max_tokens=250))
            text, _, calls, reason, _ = self.ask(request)
            if reason == "FINISH_REASON_LENGTH":
                continue
            finished += 1
            self.assertEqual((text, reason), ("", "FINISH_REASON_TOOL_CALLS"), seed)
            self.assertGreaterEqual(len(calls), 1)
            if seed % 2 == 0:
                self.assertEqual(len(calls), 1)
            for call in calls:
                self.check_call(call.name, call.arguments)
        self.assertGreater(finished, 2)

        request = self.request()
        request.messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_NAMED
        request.messages.tool_choice.name = "weather"
        request.sampling.constraint.regex = "a"
        self.refused(request, grpc.StatusCode.INVALID_ARGUMENT, "sampling.constraint")
        with Daemon("--tool_format", f"{BUNDLED}=think", models={BUNDLED: self.folder}) as daemon:
            request.sampling.ClearField("constraint")
            with self.assertRaises(grpc.RpcError) as caught:
                self.ask(request, daemon)
            self.assertIn("calls no tools", caught.exception.details())

    def test_required_calls_of_every_notation(self):
        formats = ("qwen3_coder", "glm", "pythonic", "gemma4", "lfm2", "mistral")
        arguments = [word for name in formats for word in ("--tool_format", f"{name}={name}")]
        with Daemon(*arguments, models={name: self.folder for name in formats}) as daemon:
            for name in formats:
                finished = 0
                for seed in range(6):
                    request = self.request()
                    request.model = name
                    request.messages.tools_json = json.dumps(STRICT_TOOLS)
                    request.messages.tool_choice.mode = pb.TOOL_CHOICE_MODE_REQUIRED
                    request.messages.tool_choice.at_most_one = True
                    request.sampling.CopyFrom(pb.Sampling(temperature=1, seed=seed))
                    request.stopping.CopyFrom(pb.Stopping(max_tokens=250))
                    text, _, calls, reason, _ = self.ask(request, daemon)
                    if reason == "FINISH_REASON_LENGTH":
                        continue
                    finished += 1
                    self.assertEqual((text, reason, len(calls)), ("", "FINISH_REASON_TOOL_CALLS", 1), (name, seed))
                    self.check_call(calls[0].name, calls[0].arguments)
                self.assertGreater(finished, 2, name)

    def check_call(self, name, arguments):
        values = json.loads(arguments)
        if name == "now":
            self.assertEqual(values, {})
            return
        self.assertEqual((name, set(values)), ("weather", {"city", "days"}))
        self.assertRegex(values["city"], "^[a-z]{1,8}$")
        self.assertIn(values["days"], range(1, 10))

    def test_format_by_flag(self):
        with Daemon("--tool_format", f"{BUNDLED}=none", models={BUNDLED: self.folder}) as daemon:
            self.assertEqual(self.ask(self.request(), daemon)[0], SPELLED[ANSWER])

    # --- HTTP ---

    def post(self, path, **body):
        """The response, to be read by the caller."""
        host, port = self.daemon.http_address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        bias = {str(token): value for token, value in biases(ANSWER).items()}
        body = {"temperature": 0, "logit_bias": bias, "min_tokens": 1, **body}
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        if response.status != 200:
            self.fail(response.read())
        return response

    def events(self, path, **body):
        lines = self.post(path, stream=True, **body).read().decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]

    def test_chat_completions(self):
        answer = json.load(self.post("/v1/chat/completions", messages=MESSAGES, tools=TOOLS))
        self.assertEqual(answer["usage"]["completion_tokens_details"], {"reasoning_tokens": 1})
        choice = answer["choices"][0]
        self.assertEqual(choice["finish_reason"], "tool_calls")
        message = choice["message"]
        self.assertEqual((message["content"], message["reasoning_content"], message["reasoning"]),
                         ("Well.", "Ask.", "Ask."))
        [call] = message["tool_calls"]
        self.assertEqual((call["type"], call["function"]), ("function", {"name": "weather", "arguments": ARGUMENTS}))

        # The next turn, with the call and its result.
        turns = MESSAGES + [message, {"role": "tool", "tool_call_id": call["id"], "content": "Rain."}]
        again = json.load(self.post("/v1/chat/completions", messages=turns, tools=TOOLS))
        self.assertEqual(again["choices"][0]["finish_reason"], "tool_calls")

    def test_chat_completions_with_a_tool_choice(self):
        for choice in ("required", {"type": "function", "function": {"name": "now"}}):
            answer = json.load(self.post("/v1/chat/completions", messages=MESSAGES, tools=STRICT_TOOLS, temperature=1,
                                         logit_bias={str(MARKER): 100}, max_tokens=100, min_tokens=0, seed=3,
                                         tool_choice=choice, parallel_tool_calls=False))["choices"][0]
            self.assertEqual(answer["finish_reason"], "tool_calls", answer)
            [call] = answer["message"]["tool_calls"]
            self.check_call(call["function"]["name"], call["function"]["arguments"])
            if choice != "required":
                self.assertEqual(call["function"]["name"], "now")

    def test_chat_completions_streamed(self):
        chunks = self.events("/v1/chat/completions", messages=MESSAGES, tools=TOOLS)
        deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
        self.assertEqual("".join(delta.get("content") or "" for delta in deltas), "Well.")
        self.assertEqual("".join(delta.get("reasoning_content", "") for delta in deltas), "Ask.")
        [call] = [call for delta in deltas for call in delta.get("tool_calls", [])]
        self.assertEqual((call["index"], call["function"]), (0, {"name": "weather", "arguments": ARGUMENTS}))
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "tool_calls")

    def test_tokenize_messages(self):
        """vLLM's /tokenize with messages: the ids that the chat would compute."""
        def ids(**body):
            return json.load(self.post("/tokenize", messages=MESSAGES, **body))

        def prompt_tokens(**body):
            return json.load(self.post("/v1/chat/completions", messages=MESSAGES, max_tokens=1, **body))["usage"]["prompt_tokens"]

        plain = ids(return_token_strs=True)
        self.assertEqual(plain["count"], len(plain["tokens"]))
        self.assertEqual(len(plain["token_strs"]), plain["count"])
        self.assertGreater(plain["max_model_len"], plain["count"])
        text = json.load(self.post("/detokenize", tokens=plain["tokens"]))["prompt"]
        self.assertEqual(text, f"user: {MESSAGES[0]['content']}assistant:")
        self.assertEqual("".join(plain["token_strs"]).replace("Ġ", " ").replace("Ċ", "\n"), text)
        counts = {}
        for name, body in (("plain", {}), ("tools", {"tools": TOOLS}), ("none", {"tools": TOOLS, "tool_choice": "none"})):
            counts[name] = ids(**body)["count"]
            self.assertEqual(counts[name], prompt_tokens(**body), name)
        self.assertEqual(counts["none"], counts["plain"])
        self.assertGreater(counts["tools"], counts["plain"])
        self.assertLess(ids(add_generation_prompt=False)["count"], counts["plain"])
        self.assertNotIn("token_strs", ids())
        self.assertEqual(json.load(self.post("/tokenize", prompt="a b", return_token_strs=True))["token_strs"],
                         ["<|endoftext|>", "a", "Ġb"])
        self.assertEqual(self.daemon.generation.RenderChat(pb.RenderChatRequest(messages=pb.ChatMessages(
            messages=[pb.ChatMessage(**MESSAGES[0])], tools_json=json.dumps(TOOLS),
            tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)))).token_ids, plain["tokens"])
        for body, word in (({"prompt": "x"}, "prompt"), ({"add_special_tokens": True}, "add_special_tokens"),
                           ({"chat_template": "x"}, "chat_template"), ({"messages": "x"}, "messages"),
                           ({"tools": [{}]}, "tools"), ({"return_token_strs": 1}, "return_token_strs")):
            self.assertIn(word, self.refusal("/tokenize", **{"messages": MESSAGES, **body}))

    def refusal(self, path, **body):
        host, port = self.daemon.http_address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        self.assertEqual(response.status, 400, body)
        return json.load(response)["error"]["message"]

    def test_openai_client(self):
        python = peers.python("openai", "openai")
        given = json.dumps({"tools": TOOLS, "strict_tools": STRICT_TOOLS, "marker": MARKER, "answer": biases(ANSWER)})
        script = pathlib.Path(__file__).parent / "clients" / "openai_tools_client.py"
        output = peers.run([python, script, f"http://{self.daemon.http_address}/v1", BUNDLED, given], 5 * PATIENCE_SECONDS)
        self.assertIn("all good", output)

    def test_responses(self):
        tools = [{"type": "function", **TOOLS[0]["function"]}]
        answer = json.load(self.post("/v1/responses", input="Oslo?", tools=tools))
        self.assertEqual(answer["usage"]["output_tokens_details"], {"reasoning_tokens": 1})
        output = answer["output"]
        self.assertEqual([item["type"] for item in output], ["reasoning", "message", "function_call"])
        self.assertEqual(output[0]["content"][0]["text"], "Ask.")
        self.assertEqual(output[1]["content"][0]["text"], "Well.")
        self.assertEqual((output[2]["name"], output[2]["arguments"]), ("weather", ARGUMENTS))
        turns = [{"role": "user", "content": "Oslo?"}, *output,
                 {"type": "function_call_output", "call_id": output[2]["call_id"], "output": "Rain."}]
        self.assertEqual(len(json.load(self.post("/v1/responses", input=turns, tools=tools))["output"]), 3)

        events = self.events("/v1/responses", input="Oslo?", tools=tools)
        self.assertEqual([event["sequence_number"] for event in events], list(range(len(events))))
        types = [event["type"] for event in events]
        for name in ("reasoning_text.delta", "output_text.delta", "function_call_arguments.delta", "completed"):
            self.assertIn(f"response.{name}", types)
        last = [{**item, "id": "", "call_id": ""} for item in events[-1]["response"]["output"]]
        self.assertEqual([item["type"] for item in last], [item["type"] for item in output])

    def test_refusals(self):
        for body, word in (({"tool_choice": "sometimes", "tools": TOOLS}, "tool_choice"),
                           ({"tool_choice": "required"}, "tool_choice"),
                           ({"tools": [{"type": "web_search"}]}, "web_search"),
                           ({"tools": [{"type": "function", "function": {}}]}, "name"),
                           ({"tools": [{"type": "function", "function": {"name": "get weather"}}]}, "white space"),
                           ({"tools": [{"type": "function", "function": {"name": "n" * 129}}]}, "129 bytes"),
                           ({"tools": [], "tool_choice": "required"}, "tools"),
                           ({"functions": [{"name": "f"}]}, "functions")):
            self.assertIn(word, self.refusal("/v1/chat/completions", messages=MESSAGES, **body))

    # --- the command line ---

    def test_generate(self):
        messages, tools = self.folder / "messages.json", self.folder / "tools.json"
        messages.write_text(json.dumps(MESSAGES))
        tools.write_text(json.dumps(TOOLS))
        arguments = ("generate", "--messages", messages, "--tools", tools, "--temperature", "0", "--min_tokens", "1",
                     "--logit_bias", f"{ANSWER}:50,{END}:100")
        answer = json.loads(self.daemon.cli(*arguments, "--json").stdout)
        self.assertEqual((answer["text"], answer["reasoning"], answer["finish_reason"]), ("Well.", "Ask.", "tool_calls"))
        self.assertEqual([(c["name"], c["arguments"]) for c in answer["tool_calls"]], [("weather", ARGUMENTS)])
        self.assertEqual(answer["usage"]["reasoning_tokens"], 1)
        self.assertEqual(self.daemon.cli(*arguments).stdout, f"(thinking)\nAsk.\n(answer)\nWell.\n-> weather {ARGUMENTS}\n")

    def test_generate_refuses_what_no_call_can_be_of(self):
        messages, tools = self.folder / "messages.json", self.folder / "odd.json"
        messages.write_text(json.dumps(MESSAGES))
        required = ("--tool_choice", "required")
        for text, flags, word in (("[]", required, "no tools to choose from"),
                                  ('[{"name": "get weather"}]', (), "white space"),
                                  ("[" * 100000 + "]" * 100000, (), "levels deep, the limit is 128"),
                                  ("[1", (), "is not JSON")):
            tools.write_text(text)
            refused = self.daemon.cli("generate", "--messages", messages, "--tools", tools, *flags, check=False)
            self.assertIn(refused.returncode, (1, 2), refused)
            self.assertIn(word, refused.stderr)

    def test_generate_with_a_tool_choice(self):
        messages, tools = self.folder / "messages.json", self.folder / "strict.json"
        messages.write_text(json.dumps(MESSAGES))
        tools.write_text(json.dumps(STRICT_TOOLS))
        arguments = ("generate", "--messages", messages, "--tools", tools, "--seed", "3", "--max_tokens", "100",
                     "--logit_bias", f"{MARKER}:100", "--json")
        for choice in ("required", "now"):
            answer = json.loads(self.daemon.cli(*arguments, "--tool_choice", choice, "--at_most_one_call").stdout)
            self.assertEqual(answer["finish_reason"], "tool_calls", answer)
            [call] = answer["tool_calls"]
            self.check_call(call["name"], call["arguments"])
            self.assertIn(choice, ("required", call["name"]))
        answer = json.loads(self.daemon.cli(*arguments, "--tool_choice", "none").stdout)
        self.assertNotIn("tool_calls", answer)
        for wrong, word in ((("--tool_choice", "nobody"), "nobody"), (("--tool_choice", "auto", "x"), "prompts")):
            refused = self.daemon.cli(*arguments, *wrong, check=False)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(word, refused.stdout + refused.stderr)  # with --json a refusal is an event on stdout


if __name__ == "__main__":
    unittest.main(verbosity=2)
