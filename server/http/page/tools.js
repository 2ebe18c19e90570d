// Tools of a conversation: the field with their JSON, and forms for what came of the model's calls.

import { $, element } from "./dom.js";

// Why the text is no list of tools; "" when it is one.
function fault(text) {
  let list;
  try {
    list = JSON.parse(text);
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
  if (!Array.isArray(list)) return "This is no list: put [ and ] around the tools.";
  const nameless = list.findIndex((tool) => typeof (tool?.function ?? tool)?.name !== "string");
  return nameless < 0 ? "" : `Tool ${nameless + 1} has no function with a name.`;
}

function check() {
  const text = $("tools").value.trim();
  const why = text === "" ? "" : fault(text);
  $("tools").setAttribute("aria-invalid", why ? "true" : "false");
  $("tools-error").textContent = why;
  return why === "";
}

// The fields of a request; null when the text is no list of tools, and the page says so.
export function toolFields() {
  const text = $("tools").value.trim();
  if (!check()) {
    $("tools-box").open = true;
    $("tools").focus();
    return null;
  }
  const tools = text === "" ? [] : JSON.parse(text);
  if (tools.length === 0) return {};
  return { tools, tool_choice: $("tool_choice").value };
}

// Asks what came of each call, {id, name}; `send` gets the messages of the tools and the form. Returns the form.
export function resultsForm(calls, send) {
  const fields = calls.map((call) => {
    const text = element("textarea", { rows: "2", spellcheck: "false" });
    return { call, text, label: element("label", {}, `Result of ${call.name}`, text) };
  });
  const form = element("form", { class: "results", "aria-label": "Results of the tool calls" },
    ...fields.map((field) => field.label), element("button", {}, "Send results"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const results = fields.map(({ call, text }) => ({ role: "tool", tool_call_id: call.id, name: call.name, content: text.value }));
    send(results, form);
  });
  return form;
}

export function startTools() {
  $("tools").addEventListener("change", check);
}
