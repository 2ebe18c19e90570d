#!/usr/bin/env python3
"""Renders the templates of tests/golden/template_vectors.json anew, by the reference implementation.

Needs `pip install transformers jinja2` (5.24 and 3.1 were used). Only whoever changes the vectors runs this; the tests
need nothing but its output. The file holds a conversation, special tokens, and a list of cases: a template, and what it
renders or the error it ends in. To add cases, append ["template"] to the list and run this.

    make_template_vectors.py tests/golden/template_vectors.json
"""
import datetime
import json
import sys

import transformers.utils.chat_template_utils as reference


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 28, 9, 30)


def rendered(template, conversation, special_tokens):
    """[template, text], or [template, null, message]: of an error that the template raised itself, else empty."""
    try:
        texts, _ = reference.render_jinja_template(
            [conversation["messages"]], tools=conversation["tools"], chat_template=template,
            add_generation_prompt=conversation["add_generation_prompt"], **special_tokens, **conversation["kwargs"])
        return [template, texts[0]]
    except Exception as error:
        raised = type(error).__name__ == "TemplateError"
        return [template, None, str(error) if raised else ""]


def main():
    reference.datetime = FixedTime
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        golden = json.load(file)
    golden["cases"] = [rendered(case[0], golden["conversation"], golden["special_tokens"]) for case in golden["cases"]]
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"conversation": %s,\n "special_tokens": %s,\n "cases": [\n' %
                   (json.dumps(golden["conversation"], ensure_ascii=False), json.dumps(golden["special_tokens"])))
        file.write(",\n".join(json.dumps(case, ensure_ascii=False) for case in golden["cases"]))
        file.write("\n]}\n")


if __name__ == "__main__":
    main()
