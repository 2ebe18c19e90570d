// The conversation: turns, settings, and one stream at a time.

import { events } from "./api.js";
import { $, bytesText, element, percentText, say } from "./dom.js";
import { TokenLine, tokensOf } from "./tokens.js";
import { resultsForm, startTools, toolFields } from "./tools.js";

const ALTERNATIVES = 5;

let turns = []; // {role, content}, with tool_calls or a tool_call_id where there are calls
let session = newSession();
let running = null; // AbortController of the stream under way
let models = [];

function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// A model without a chat template continues text: the conversation is then one text.
const chats = () => models.find((model) => model.model === $("model").value)?.chat ?? true;

export function showModels(list) {
  const names = list.map((model) => model.model);
  if (names.join() !== models.map((model) => model.model).join()) {
    const chosen = $("model").value;
    $("model").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(chosen)) $("model").value = chosen;
  }
  models = list;
  $("prompt-label").textContent = chats() ? "Message" : "Text to continue";
  $("tools-box").hidden = !chats(); // a text that is continued has no calls
  $("send").disabled = running !== null || models.length === 0;
}

function number(id) {
  const text = $(id).value.trim();
  return text === "" ? undefined : Number(text);
}

// `tools`: the fields of tools.js.
function requestBody(tools) {
  const body = {
    model: $("model").value,
    stream: true,
    stream_options: { include_usage: true },
    max_tokens: number("max_tokens"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    top_k: number("top_k"),
    seed: number("seed"),
  };
  if ($("attention").value === "dense") body.attention = { dense: {} };
  if ($("attention").value === "sparq") body.attention = { sparq: { compression: number("compression") ?? 8 } };
  if ($("keep").checked) Object.assign(body, { session_id: session, session_input: "full_history" });
  if (chats()) return { ...body, ...tools, messages: turns, logprobs: true, top_logprobs: ALTERNATIVES };
  return { ...body, prompt: turns.map((turn) => turn.content).join(""), logprobs: ALTERNATIVES };
}

function showTurn(role, who) {
  const text = element("span", { class: "text" });
  const turn = element("article", { class: `turn ${role}`, "aria-label": who }, element("span", { class: "who" }, who), text);
  $("log").append(turn);
  return { turn, text };
}

// Follows the text's end while the reader is there.
function followEnd(change) {
  const log = $("log");
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  change();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// A folded part of an answer: reasoning, or a tool's call.
class Fold {
  constructor(before, title) {
    this.body = element("pre");
    this.summary = element("summary", {}, title);
    before.before(element("details", {}, this.summary, this.body));
  }
}

class Answer {
  constructor(who) {
    Object.assign(this, showTurn("assistant", who));
    this.line = new TokenLine(this.text);
    this.content = "";
    this.tokens = 0;
    this.calls = new Map();
    this.turn.setAttribute("aria-busy", "true");
  }

  take(event) {
    if (event.usage) this.usage = event.usage;
    const choice = event.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? { content: choice.text };
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (thought) {
      this.thinking ??= new Fold(this.text, "Thinking");
      this.thinking.body.append(thought);
    }
    for (const call of delta.tool_calls ?? []) {
      if (!this.calls.has(call.index)) {
        this.calls.set(call.index, { fold: new Fold(this.text, "Tool call"), id: call.id, name: "", arguments: "" });
      }
      const known = this.calls.get(call.index);
      if (call.function?.name) known.fold.summary.append(`: ${call.function.name}`);
      known.fold.body.append(call.function?.arguments ?? "");
      known.name += call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
    }
    const tokens = tokensOf(choice.logprobs);
    this.tokens += tokens.length;
    // Tokens of thoughts and calls are not the answer's.
    if (delta.content) {
      this.content += delta.content;
      // A piece that is a thought or a call as well does not say which tokens are the answer's.
      if (thought || delta.tool_calls) this.hasTokens = false;
      this.hasTokens ??= tokens.length > 0;
    }
    if (this.hasTokens === false) this.text.textContent = this.content;
    else if (!thought && !delta.tool_calls) for (const token of tokens) this.line.add(token);
    if (choice.finish_reason) this.reason = choice.finish_reason;
  }

  finish(seconds) {
    this.turn.setAttribute("aria-busy", "false");
    if (this.hasTokens) this.line.trim(this.content);
    const account = this.usage?.kvasir;
    const parts = [`${this.usage?.completion_tokens ?? this.tokens} tokens in ${seconds.toFixed(1)} s`];
    if (account) {
      const cached = this.usage.prompt_tokens_details?.cached_tokens ?? 0;
      parts.push(`prompt ${this.usage.prompt_tokens}, ${cached} cached`, `KV peak ${bytesText(account.kv_bytes_peak)}`,
        `KV read ${bytesText(account.kv_bytes_read)}`);
      if (account.kv_bytes_read_if_dense > account.kv_bytes_read) {
        parts.push(`SparQ saved ${percentText(1 - account.kv_bytes_read / account.kv_bytes_read_if_dense)}`);
      }
      parts.push(`first token ${Math.round(account.ttft_ms)} ms`);
    }
    if (this.reason === "length") parts.push("cut at the longest answer");
    this.turn.append(element("span", { class: "account" }, parts.join(" · ")));
  }

  // What the next turn repeats of it; nothing when nothing was said.
  message() {
    const message = { role: "assistant", content: this.content };
    const calls = Array.from(this.calls.values(), ({ id, name, arguments: text }) => (
      { id, type: "function", function: { name, arguments: text } }));
    if (calls.length > 0) return { ...message, tool_calls: calls };
    return this.content === "" ? null : message;
  }
}

// Has the model answer the turns, of which the last `added` are new; `undo` runs when nothing came of it.
async function answerTurns(tools, added, undo) {
  const list = turns; // a new conversation has another
  const answer = new Answer($("model").value);
  $("log").scrollTop = $("log").scrollHeight;
  running = new AbortController();
  $("send").disabled = true;
  $("stop").disabled = false;
  say("The model answers.");
  const start = performance.now();
  try {
    const path = chats() ? "/v1/chat/completions" : "/v1/completions";
    for await (const event of events(path, requestBody(tools), {}, running.signal)) followEnd(() => answer.take(event));
    say(`The answer is complete: ${answer.tokens} tokens.`);
  } catch (error) {
    if (error.name === "AbortError") {
      answer.reason = "stopped";
      say("Stopped.");
    } else {
      answer.turn.classList.add("failed");
      answer.turn.append(element("p", {}, error.message));
      say(error.message, true);
      if (answer.message() === null) {
        list.splice(-added); // nothing was said: it may be sent again
        undo();
      }
    }
  }
  followEnd(() => answer.finish((performance.now() - start) / 1000));
  const message = answer.message();
  if (message) list.push(message);
  running = null;
  $("send").disabled = models.length === 0;
  $("stop").disabled = true;
  if (message?.tool_calls) followEnd(() => answer.turn.append(resultsForm(Array.from(answer.calls.values()), sendResults)));
}

async function send() {
  const text = $("prompt").value;
  if (running || text.trim() === "" || models.length === 0) return;
  const tools = toolFields();
  if (tools === null) return;
  $("prompt").value = "";
  for (const form of $("log").querySelectorAll(".results")) form.remove(); // the conversation goes on without
  turns.push({ role: "user", content: text });
  showTurn("user", "You").text.textContent = text;
  await answerTurns(tools, 1, () => { $("prompt").value = text; });
}

// What came of the calls of the last answer.
async function sendResults(results, form) {
  const tools = toolFields();
  if (running || tools === null) return;
  form.hidden = true;
  for (const result of results) showTurn("user", `Result of ${result.name}`).text.textContent = result.content;
  turns.push(...results);
  await answerTurns(tools, results.length, () => { form.hidden = false; });
  if (form.hidden) form.remove();
}

const stop = () => running?.abort();

export function startChat() {
  $("prompt-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
  });
  $("stop").addEventListener("click", stop);
  $("new").addEventListener("click", () => {
    stop();
    turns = [];
    session = newSession();
    $("log").replaceChildren();
    $("token").replaceChildren();
    $("prompt").focus();
  });
  const shade = () => $("log").classList.toggle("shaded", $("shade").checked);
  $("shade").addEventListener("change", shade);
  $("model").addEventListener("change", () => showModels(models));
  startTools();
  shade();
}
