"""Chat templates on the command line: what kvasir render, generate and chat make of a conversation, and say of a model
without a template."""

import json
import pathlib
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import BUNDLED_FOLDER, Daemon  # noqa: E402  (of the folder above)

TEMPLATE = ("{% for m in messages %}{% if m.role == 'tyrant' %}{{ raise_exception('no tyrants, \"please\"') }}{% endif %}"
            "<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if tools %}{{ tools | length }} tools\n{% endif %}"
            "{{ strftime_now('%d %b %Y, %H:%M') }}{{ mood }}{% if add_generation_prompt %}<assistant>{% endif %}")
TIME = "28 Nov 2026, 09:30"
USER = {"role": "user", "content": "Héllo\n  there "}
GREEDY = ("--temperature", "0", "--max_tokens", "6")


class Render(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.directory.name)
        template = cls.folder / "told.jinja"
        template.write_text(TEMPLATE)
        cls.daemon = Daemon("--chat_template", f"told={template}", "--template_time", "2026-11-28T09:30:00",
                            models={"told": BUNDLED_FOLDER, "plain": BUNDLED_FOLDER})

    @classmethod
    def tearDownClass(cls):
        cls.daemon.kill()
        cls.directory.cleanup()

    def file(self, conversation):
        path = self.folder / "conversation.json"
        path.write_text(json.dumps(conversation))
        return path

    def render(self, conversation, *more, model="told"):
        return self.daemon.cli("render", "--model", model, "--conversation", self.file(conversation), *more, check=False)

    def test_prints_the_prompt_and_nothing_else(self):
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        for conversation, prompt in (
                ({"messages": [USER]}, f"<user>Héllo\n  there \n{TIME}"),
                ({"messages": [USER], "add_generation_prompt": True, "kwargs": {"mood": "!"}, "tools": [tool]},
                 f"<user>Héllo\n  there \n1 tools\n{TIME}!<assistant>")):
            result = self.render(conversation)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (0, prompt, ""))
            self.assertEqual(json.loads(self.render(conversation, "--json").stdout)["text"], prompt)
        piped = self.daemon.cli("render", "--model", "told", "--conversation", "-", stdin=json.dumps({"messages": [USER]}))
        self.assertEqual(piped.stdout, f"<user>Héllo\n  there \n{TIME}")

    def test_errors_go_to_standard_error_with_exit_code_1(self):
        for conversation, model, word in (
                ({"messages": [{"role": "tyrant", "content": ""}]}, "told", 'no tyrants, "please"'),
                ({"messages": []}, "told", "no messages"),
                ({"messages": [USER], "add_generation_prompt": True, "continue_final_message": True}, "told", "exclude"),
                ({"messages": [USER]}, "plain", "no chat template")):
            result = self.render(conversation, model=model)
            self.assertEqual((result.returncode, result.stdout), (1, ""))
            self.assertIn(word, result.stderr)

    def test_generate_shows_the_prompt_on_request(self):
        arguments = ("generate", "--model", "told", "--messages", self.file({"messages": [USER]}), *GREEDY)
        prompt = f"<user>Héllo\n  there \n{TIME}<assistant>"
        silent = self.daemon.cli(*arguments)
        self.assertEqual(silent.stderr, "")
        shown = self.daemon.cli(*arguments, "--show_prompt")
        self.assertEqual((shown.stdout, shown.stderr), (silent.stdout, prompt + "\n"))
        answer = json.loads(self.daemon.cli(*arguments, "--show_prompt", "--json").stdout)
        self.assertEqual(answer["prompt"], prompt)
        refused = self.daemon.cli("generate", "--model", "told", "--show_prompt", "text", check=False)
        self.assertEqual((refused.returncode, refused.stdout), (2, ""))

    def test_a_refused_generate_prints_nothing(self):
        refused = self.daemon.cli("generate", "--model", "plain", "--messages", self.file({"messages": [USER]}), check=False)
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("no chat template", refused.stderr)

    def test_chat_honours_the_system_message(self):
        result = self.daemon.cli("chat", "--model", "told", "--system", "Be brief.", "--show_prompt", "--json", *GREEDY,
                                 stdin="one\ntwo\n")
        first, second = map(json.loads, result.stdout.splitlines())
        self.assertEqual(first["prompt"], f"<system>Be brief.\n<user>one\n{TIME}<assistant>")
        self.assertTrue(second["prompt"].startswith(f"<system>Be brief.\n<user>one\n<assistant>{first['text']}\n<user>two\n"))
        self.assertGreater(second["usage"]["cached_tokens"], 0)

    def test_chat_says_that_a_model_has_no_template(self):
        told = self.daemon.cli("chat", "--model", "plain", *GREEDY, stdin="one\n")
        self.assertIn("no chat template", told.stderr)
        self.assertNotEqual(told.stdout.strip(), "")
        refused = self.daemon.cli("chat", "--model", "plain", "--system", "Be brief.", *GREEDY, stdin="one\n", check=False)
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("no chat template", refused.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
