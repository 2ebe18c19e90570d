"""Structured output through real processes: whatever is drawn at temperature 1, a finished output is what was asked for;
the same seed gives the same tokens, alone, beside others, as a fork and after preemption; what cannot be kept is refused."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.request

import grammar_schemas
from harness import BIN, BUNDLED, PATIENCE_SECONDS, Daemon, generation_pb2, grpc, wait_until

try:
    import jsonschema
    # Of this draft alone: "time" without a zone is one of an old draft's.
    FORMATS = getattr(jsonschema.Draft202012Validator, "FORMAT_CHECKER",
                      getattr(jsonschema, "draft202012_format_checker", None))
except ImportError:
    jsonschema = None

STREAMS = 16


class Reply:
    def __init__(self, events):
        self.texts, self.ids, self.final = {}, {}, None
        for event in events:
            if event.HasField("delta"):
                index = event.delta.index
                self.texts[index] = self.texts.get(index, "") + event.delta.text
                self.ids.setdefault(index, []).extend(event.delta.token_ids)
            elif event.HasField("final"):
                self.final = event.final

    def finished(self):
        """(text, ) of completions that the constraint let end."""
        for end in self.final.completions:
            if end.constraint_satisfied:
                yield self.texts.get(end.index, "")

    def reason(self, index=0):
        return generation_pb2.FinishReason.Name(self.final.completions[index].finish_reason)


def request(max_tokens=300, seed=1, n=1, prompt="Once upon a time", **constraint):
    message = generation_pb2.GenerateRequest(text=prompt)
    message.sampling.temperature = 1
    message.sampling.seed = seed
    message.sampling.n = n
    message.stopping.max_tokens = max_tokens
    message.sampling.constraint.after = constraint.pop("after", "")
    for kind, value in constraint.items():
        if kind == "choice":
            message.sampling.constraint.choice.options.extend(value)
        elif kind == "json":
            message.sampling.constraint.json.only_object = value
        elif kind == "structural_tag":
            message.sampling.constraint.structural_tag.CopyFrom(value)
        else:
            setattr(message.sampling.constraint, kind, value)
    return message


class GrammarTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon()
        cls.pool = concurrent.futures.ThreadPoolExecutor(STREAMS)

    @classmethod
    def tearDownClass(cls):
        cls.pool.shutdown()
        cls.daemon.stop()

    def ask(self, message, daemon=None):
        return Reply((daemon or self.daemon).generation.Generate(message, timeout=PATIENCE_SECONDS))

    def ask_all(self, messages, daemon=None):
        return list(self.pool.map(lambda message: self.ask(message, daemon), messages))

    def refusal(self, message):
        with self.assertRaises(grpc.RpcError) as caught:
            self.ask(message)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT, caught.exception.details())
        return caught.exception.details()

    @unittest.skipIf(jsonschema is None, "python3-jsonschema is not installed")
    def test_every_finished_output_validates(self):
        schemas = list(grammar_schemas.all_schemas())
        self.assertGreaterEqual(len(schemas), 200)
        replies = self.ask_all([request(json_schema=json.dumps(schema), seed=i, n=2)
                                for i, (_, schema) in enumerate(schemas)])
        finished = 0
        for (name, schema), reply in zip(schemas, replies):
            with self.subTest(name):
                for text in reply.finished():
                    finished += 1
                    jsonschema.validate(json.loads(text), schema, format_checker=FORMATS)
        self.assertGreater(finished, 1.8 * len(schemas))

    def test_any_json(self):
        for i, reply in enumerate(self.ask_all([request(json=i % 2 == 0, seed=i, max_tokens=100) for i in range(40)])):
            for text in reply.finished():
                value = json.loads(text)
                self.assertTrue(i % 2 == 1 or isinstance(value, dict), text)

    def test_regular_expressions(self):
        patterns = [r"[0-9]{3}-[a-z]{2,8}", r"^(yes|no|maybe)$", r"(?i:abc{1,3})", r"\d+\.\d{2} (EUR|USD)", r"[^a]{5}",
                    r"a/b\\c\"d", r"(foo|foobar|bar)(x|y){0,3}!", r"[äöü]{1,4}", r"(?s:.{3})z"]
        replies = self.ask_all([request(regex=pattern, seed=seed, max_tokens=100)
                                for pattern in patterns for seed in range(4)])
        for i, reply in enumerate(replies):
            for text in reply.finished():
                self.assertRegex(text, re.compile(rf"\A(?:{patterns[i // 4]})\Z"))
        self.assertGreater(sum(len(list(reply.finished())) for reply in replies), 2 * len(patterns))

    def test_choices(self):
        options = ["yes", "yes please", "no", "a \"quoted\" one", "line\nbreak", "back\\slash /slash/", "日本", "(.*)"]
        seen = set()
        for reply in self.ask_all([request(choice=options, seed=seed) for seed in range(100)]):
            self.assertIn(reply.texts[0], options)
            self.assertTrue(reply.final.completions[0].constraint_satisfied)
            seen.add(reply.texts[0])
        self.assertGreater(len(seen), 1)

    def test_lark(self):
        grammar = 'start: greeting (", " NAME)+ "."\ngreeting: "hello" | "good day"\nNAME: /[A-Z][a-z]{1,5}/\n'
        for reply in self.ask_all([request(lark=grammar, seed=seed, max_tokens=200) for seed in range(20)]):
            for text in reply.finished():
                self.assertRegex(text, r"\A(hello|good day)(, [A-Z][a-z]{1,5})+\.\Z")

    def test_structural_tags(self):
        tag = generation_pb2.StructuralTag(at_once=True, only_one=True)
        tag.tags.add(begin="<call=a>", json_schema='{"type":"boolean"}', end="</call>")
        tag.tags.add(begin="<call=b>", json_schema='{"type":"null"}', end="</call>")
        for reply in self.ask_all([request(structural_tag=tag, seed=seed) for seed in range(10)]):
            self.assertRegex(reply.texts[0], r"\A(<call=a>(true|false)|<call=b>null)</call>\Z")
            self.assertEqual(reply.reason(), "FINISH_REASON_GRAMMAR")
        # Free text about a begin that this model is fond of; each is followed by what the tag says.
        free = generation_pb2.StructuralTag()
        free.tags.add(begin=" the ", json_schema='{"enum":["moon"]}', end=";")
        found = 0
        for reply in self.ask_all([request(structural_tag=free, seed=seed, max_tokens=60) for seed in range(20)]):
            text = reply.texts[0]
            found += text.count(" the \"moon\";")
            self.assertNotRegex(text, r" the (?!$|\"(m(o(on?)?)?)?$|\"moon\"($|;))")
        self.assertGreater(found, 3)

    def test_only_what_follows_is_constrained(self):
        for reply in self.ask_all([request(choice=["YES", "NO"], after=".", seed=seed) for seed in range(10)]):
            for text in reply.finished():
                self.assertRegex(text, r"\A[^.]*\.(YES|NO)\Z")

    def test_same_seed_same_tokens(self):
        schema = json.dumps(grammar_schemas.TOOLS["search"])
        alone = [self.ask(request(json_schema=schema, seed=seed)) for seed in range(STREAMS)]
        together = self.ask_all([request(json_schema=schema, seed=seed) for seed in range(STREAMS)])
        self.assertEqual([reply.ids for reply in alone], [reply.ids for reply in together])

    def test_forced_tokens_are_those_of_passes(self):
        """Where log-probabilities are asked for, every token has a pass of its own."""
        schema = json.dumps(grammar_schemas.TOOLS["search"])
        with Daemon(compute_type="f32") as exact:
            fast = self.ask_all([request(json_schema=schema, seed=seed) for seed in range(20)], exact)
            messages = [request(json_schema=schema, seed=seed) for seed in range(20)]
            for message in messages:
                message.output.logprobs = 0
            self.assertEqual([reply.ids for reply in fast], [reply.ids for reply in self.ask_all(messages, exact)])

    def test_forks_go_ways_of_their_own(self):
        schema = json.dumps(grammar_schemas.TOOLS["get_weather"])
        forked = self.ask(request(json_schema=schema, seed=3, n=8))
        self.assertEqual(forked.ids, self.ask(request(json_schema=schema, seed=3, n=8)).ids)
        self.assertGreater(len({tuple(ids) for ids in forked.ids.values()}), 4)
        self.assertEqual(forked.ids[0], self.ask(request(json_schema=schema, seed=3)).ids[0])
        for text in forked.finished():
            self.assertIn("location", json.loads(text))

    def test_preemption_changes_no_token(self):
        schema = json.dumps({"type": "array", "items": {"type": "string", "minLength": 30, "maxLength": 60},
                             "minItems": 6, "maxItems": 6})
        messages = [request(json_schema=schema, seed=seed, max_tokens=400) for seed in range(STREAMS)]
        usual = [reply.ids for reply in self.ask_all(messages)]
        with Daemon(kv_capacity="3MiB") as small:
            def some_were_preempted():
                pressed = self.ask_all(messages, small)
                self.assertEqual(usual, [reply.ids for reply in pressed])
                return sum(reply.final.usage.preemptions for reply in pressed) > 0

            wait_until(some_were_preempted, "streams that run at once press each other")

    def test_an_output_that_is_cut_says_so(self):
        cut = self.ask(request(json_schema='{"type":"string","minLength":500}', max_tokens=10))
        self.assertEqual(cut.reason(), "FINISH_REASON_LENGTH")
        self.assertFalse(cut.final.completions[0].constraint_satisfied)
        self.assertTrue(cut.final.completions[0].HasField("constraint_satisfied"))
        plain = generation_pb2.GenerateRequest(text="a")
        plain.stopping.max_tokens = 2
        self.assertFalse(self.ask(plain).final.completions[0].HasField("constraint_satisfied"))

    def test_what_cannot_be_kept_is_refused(self):
        for schema, word in grammar_schemas.REFUSED:
            with self.subTest(schema):
                self.assertIn(word, self.refusal(request(json_schema=json.dumps(schema))))
        self.refusal(request(json_schema="{"))
        broken = self.refusal(request(regex="(a\\d"))
        self.assertIn("(a\\d", broken)  # as it was given,
        self.assertNotIn("start:", broken)  # and not the grammar that is made of it
        self.refusal(request(lark="start: missing"))
        self.refusal(request(choice=[""]))
        self.assertIn("limit", self.refusal(request(json_schema=json.dumps({"description": "x" * 200000}))))
        self.assertIn("ignore_eos", self.refusal(self.ignoring_eos()))

    @staticmethod
    def ignoring_eos():
        message = request(regex="a")
        message.stopping.ignore_eos = True
        return message

    def test_command_line(self):
        def run(*flags):
            output = subprocess.run([str(BIN / "kvasir"), "generate", "--server", self.daemon.grpc_address, "--json",
                                     "--temperature", "1", *flags, "Once"], capture_output=True, text=True, check=True)
            return json.loads(output.stdout)

        def file_of(text):
            file = tempfile.NamedTemporaryFile("w", delete=False)
            file.write(text)
            file.close()
            self.addCleanup(os.unlink, file.name)
            return file.name

        self.assertIn(run("--choice", "red", "--choice", "blue")["text"], ("red", "blue"))
        self.assertRegex(run("--regex", "[0-9]{4}")["text"], r"\A[0-9]{4}\Z")
        answer = run("--json_schema", file_of('{"type":"boolean"}'))
        self.assertIn(answer["text"], ("true", "false"))
        self.assertEqual((answer["finish_reason"], answer["constraint_satisfied"]), ("grammar", True))
        self.assertEqual(run("--grammar", file_of('start: "a" "b"'))["text"], "ab")

    def post(self, body):
        wanted = urllib.request.Request(f"http://{self.daemon.http_address}/v1/completions",
                                        json.dumps({"model": BUNDLED, "prompt": "Once", "temperature": 1,
                                                    "max_tokens": 200, **body}).encode(),
                                        {"Content-Type": "application/json"})
        with urllib.request.urlopen(wanted) as answer:
            return json.load(answer)["choices"][0]

    def test_http(self):
        schema = {"type": "object", "properties": {"z": {"type": "boolean"}, "a": {"type": "null"}},
                  "required": ["z", "a"], "additionalProperties": False}
        forms = [{"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True,
                                                                             "schema": schema}}},
                 {"structured_outputs": {"json": schema}}, {"structured_outputs": {"json": json.dumps(schema)}},
                 {"guided_json": schema}]
        for form in forms:
            choice = self.post(form)
            self.assertEqual(list(json.loads(choice["text"])), ["z", "a"], form)  # in the schema's order
            self.assertEqual(choice["finish_reason"], "stop")
        self.assertIn(self.post({"guided_choice": ["a", "b"]})["text"], ("a", "b"))
        self.assertRegex(self.post({"structured_outputs": {"regex": "[ab]{3}"}})["text"], r"\A[ab]{3}\Z")
        self.assertEqual(self.post({"guided_grammar": 'start: "xyz"'})["text"], "xyz")
        self.assertTrue(self.post({"response_format": {"type": "json_object"}})["text"].startswith("{"))


if __name__ == "__main__":
    if jsonschema is None:
        print("*** python3-jsonschema is not installed: NO SCHEMA IS VALIDATED", file=sys.stderr)
    unittest.main(verbosity=2)
