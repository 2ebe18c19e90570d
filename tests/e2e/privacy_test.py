"""What people write stays between them and the model: no log line, list or metric holds text, at any log level."""

import json
import unittest

from harness import BUNDLED, PATIENCE_SECONDS, Daemon, greedy, long_request, wait_until
from tenant_client import KEYS, TenantClient, config, refusal
from attacks_test import digest

from kvasir.v1 import generation_pb2 as pb

CANARY = "xylophone"
PROMPT = f"The secret word is {CANARY}, said the king, and nobody else may ever hear of it."


class PrivacyTest(unittest.TestCase):
    def daemon(self, level, form):
        fields = json.loads(config({"team-a": {"key_sha256": [digest(KEYS["team-a"])], "admin": True}}))
        return Daemon(config=json.dumps({**fields, "logging": {"level": level, "format": form}}))

    def use(self, a):
        """Every way of text in and out, refused and cancelled calls too. Returns what was generated."""
        request = greedy(text=PROMPT, max_tokens=64, session_id="turns")
        request.output.logprobs = 3
        request.output.prompt_logprobs = 1
        request.stopping.stop.append(f"never {CANARY}")
        generated = a.generate(request).text[0]
        ids = a.generation.Tokenize(pb.TokenizeRequest(text=PROMPT)).token_ids
        self.assertIn(CANARY, a.generation.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text)
        for spoil in (lambda r: setattr(r.stopping, "max_tokens", -1), lambda r: setattr(r.sampling, "temperature", -1),
                      lambda r: setattr(r, "text", PROMPT * 2000), lambda r: r.stopping.stop.extend([CANARY] * 100)):
            request = greedy(text=PROMPT)
            spoil(request)
            refusal(a.generate, request)
        refusal(a.generate, long_request(text=PROMPT), timeout=0.05)
        stream = a.generation.Generate(long_request(n=1, text=PROMPT, session_id="cancelled"), timeout=PATIENCE_SECONDS)
        next(stream)
        listed = str(a.requests()) + str(a.stats()) + str(a.list_sessions()) + str(a.get_session("turns"))
        stream.cancel()
        wait_until(lambda: a.requests().total == 0, "the cancelled request has ended")
        return generated, listed

    def test_neither_prompt_nor_output_is_logged_or_listed(self):
        for level in ("debug", "info", "warning", "error"):
            for form in ("text", "json")[:2 if level == "debug" else 1]:
                with self.subTest(level=level, form=form), self.daemon(level, form) as daemon:
                    with TenantClient(daemon, KEYS["team-a"]) as a:
                        generated, listed = self.use(a)
                    metrics = daemon.metrics_text()
                    self.assertEqual(daemon.stop(), 0)
                    wait_until(lambda: not daemon._reader.is_alive(), "the log has ended")
                    log = "".join(daemon.log_lines)
                    if level in ("debug", "info"):
                        self.assertIn("request finished", log)
                    self.assertGreater(len(generated), 40)
                    for told in (log, listed, metrics):
                        for text in (CANARY, "said the king", generated[5:20]):
                            self.assertNotIn(text, told)


if __name__ == "__main__":
    unittest.main()
