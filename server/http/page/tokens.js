// The tokens of an answer as elements: shaded by probability, explained on hover and by keyboard.

import { $, element } from "./dom.js";

const encoder = new TextEncoder();

// The bytes of a token as the completions API writes it: a piece of a character is "bytes:\xe2\x82".
function bytesOf(text) {
  if (!/^bytes:(\\x[0-9a-f]{2})+$/.test(text)) return encoder.encode(text);
  return Uint8Array.from(text.slice("bytes:\\x".length).split("\\x"), (hex) => parseInt(hex, 16));
}

// From the two shapes of logprobs to [{text, bytes, logprob, alternatives: [[text, logprob]]}].
export function tokensOf(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map((token) => ({
      text: token.token,
      bytes: Uint8Array.from(token.bytes ?? encoder.encode(token.token)),
      logprob: token.logprob,
      alternatives: token.top_logprobs.map((each) => [each.token, each.logprob]),
    }));
  }
  return (logprobs.tokens ?? []).map((text, i) => ({
    text,
    bytes: bytesOf(text),
    logprob: logprobs.token_logprobs[i],
    alternatives: Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
  }));
}

const probability = (logprob) => {
  const percent = 100 * Math.exp(logprob);
  return `${percent < 1 ? percent.toFixed(2) : percent.toFixed(1)} %`;
};
const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "␣");

function explain(token) {
  $("token").replaceChildren(
    element("b", {}, `“${visible(token.text)}” ${probability(token.logprob)}`),
    ...token.alternatives.map(([text, logprob]) => element("span", {}, `${visible(text)} ${probability(logprob)}`)),
  );
}

// A growing line of tokens. One of them is in the tab order; the arrow keys go to the others.
export class TokenLine {
  #decoder = new TextDecoder();
  #parent;

  constructor(parent) {
    this.#parent = parent;
  }

  add(token) {
    // A character that comes in pieces shows with its last.
    const text = this.#decoder.decode(token.bytes, { stream: true });
    const shade = Math.exp(token.logprob) < 0.1 ? "p0" : Math.exp(token.logprob) < 0.4 ? "p1" :
      Math.exp(token.logprob) < 0.7 ? "p2" : "p3";
    const span = element("span", { class: `tok ${shade}`, tabindex: this.#parent.querySelector(".tok") ? "-1" : "0" }, text);
    const show = () => explain(token);
    span.addEventListener("mouseenter", show);
    span.addEventListener("focus", show);
    span.addEventListener("keydown", (event) => {
      const next = { ArrowRight: span.nextElementSibling, ArrowLeft: span.previousElementSibling }[event.key];
      if (!next?.classList.contains("tok")) return;
      event.preventDefault();
      span.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    this.#parent.append(span);
  }

  // What came after the text's end (a stop token) is not part of the answer.
  trim(text) {
    while (this.#parent.textContent.length > text.length && this.#parent.lastElementChild) {
      this.#parent.lastElementChild.remove();
    }
  }
}
