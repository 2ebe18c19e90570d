// What the KV pools hold, as GET /kvasir/v1/memory tells it: a map by group of layers and state, requests, sessions, tenants.

import { $, bytesText, element, percentText, secondsText } from "./dom.js";

const CELLS = 320;

// The parts of the pool in the order of the map: [{name, kind, bytes}].
function partsOf(model) {
  const parts = [];
  for (const state of ["live", "cached"]) {
    model.groups.forEach((group, i) => {
      const what = group.kind === "state" ? "states" : group.kind === "window" ? `window of ${group.window_tokens}` : "full";
      const kind = group.kind === "state" && state === "live" ? "state" : `${state}${i % 2 ? " alt" : ""}`;
      parts.push({ name: `${state}, ${what} (${group.layers} layers)`, kind, bytes: group[`${state}_bytes`] });
    });
  }
  parts.push({ name: "free", kind: "free", bytes: model.pool.free_bytes });
  return parts;
}

// How many of the cells each part gets: what is not zero has one while there is room.
function share(parts, total) {
  let left = CELLS;
  return parts.map((part, i) => {
    const exact = (part.bytes / total) * CELLS;
    const cells = i === parts.length - 1 ? left : Math.min(left, part.bytes === 0 ? 0 : Math.max(1, Math.round(exact)));
    left -= cells;
    return cells;
  });
}

function map(model) {
  const parts = partsOf(model);
  const summary = parts.map((part) => `${part.name} ${bytesText(part.bytes)}`).join("; ");
  const grid = element("div", { class: "map", role: "img", "aria-label": `The pool: ${summary}` });
  share(parts, model.pool.capacity_bytes).forEach((cells, i) => {
    for (let cell = 0; cell < cells; ++cell) grid.append(element("div", { class: `cell ${parts[i].kind}` }));
  });
  const legend = element("ul", { class: "legend" }, ...parts.map((part) => element("li", {},
    element("span", { class: `cell ${part.kind}` }), `${part.name} ${bytesText(part.bytes)}`)));
  return [grid, legend];
}

function table(caption, columns, rows) {
  if (rows.length === 0) return [];
  return [element("div", { class: "scroll" }, element("table", {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...columns.map((column) => element("th", { scope: "col" }, column)))),
    element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, String(cell))))))))];
}

function figures(pairs) {
  return element("dl", { class: "figures" }, ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name),
    element("dd", {}, value))));
}

const saving = (read, dense) => (dense > read ? percentText(1 - read / dense) : "–");

// Rates are differences to the look before; an operator sees the daemon's, others those of their own requests.
function rates(model, before, seconds) {
  if (!before || !(seconds > 0)) return [["tokens/s", "–"]];
  if (model.totals && before.totals) {
    const rate = (name) => Math.max(0, model.totals[name] - before.totals[name]) / seconds;
    const read = rate("kv_bytes_read");
    return [
      ["tokens/s", rate("generated_tokens").toFixed(1)],
      ["prompt tokens/s", rate("prompt_tokens").toFixed(1)],
      ["KV read/s", bytesText(read)],
      ["SparQ saves now", saving(read, rate("kv_bytes_read_if_dense"))],
    ];
  }
  const earlier = new Map(before.requests.map((request) => [request.request_id, request.generated_tokens]));
  const made = model.requests.reduce((sum, request) =>
    sum + request.generated_tokens - (earlier.get(request.request_id) ?? request.generated_tokens), 0);
  return [["tokens/s", (made / seconds).toFixed(1)]];
}

function show(model, before, seconds) {
  const held = `${bytesText(model.kv_bytes_per_token_resident)} held, ${bytesText(model.kv_bytes_per_token_read)} read`;
  const list = [
    ["requests", `${model.running} running, ${model.waiting} waiting`],
    ["sessions", `${model.sessions.length}`],
    ...rates(model, before, seconds),
  ];
  if (model.totals) {
    list.push(["SparQ saved so far", saving(model.totals.kv_bytes_read, model.totals.kv_bytes_read_if_dense)],
      ["preemptions", String(model.totals.preemptions)]);
  }
  return element("div", { class: "model", "data-model": model.model },
    element("h3", {}, model.model),
    element("p", { class: "hint" }, `K/V sharing ${model.sharing}; one token: ${held}`),
    ...(model.pool ? map(model) : []),
    figures(list),
    ...table("Tenants", ["tenant", "requests", "sessions", "KV held", "KV share"], model.tenants.map((tenant) => [
      tenant.tenant || "(anonymous)", tenant.requests, tenant.sessions, bytesText(tenant.kv_bytes_physical),
      bytesText(tenant.kv_bytes_proportional)])),
    ...table("Requests", ["request", "state", "prompt", "cached", "made", "KV held", "KV share", "KV read", "saved", "age"],
      model.requests.map((request) => [
        request.tenant ? `${request.tenant}: ${request.request_id}` : request.request_id, request.state,
        request.prompt_tokens, request.cached_tokens, request.generated_tokens, bytesText(request.kv_bytes_physical),
        bytesText(request.kv_bytes_proportional), bytesText(request.kv_bytes_read),
        saving(request.kv_bytes_read, request.kv_bytes_read_if_dense), secondsText(request.age_seconds)])),
    ...table("Sessions", ["session", "state", "tokens", "turns", "KV held", "KV share", "on disk", "idle"],
      model.sessions.map((session) => [
        session.tenant ? `${session.tenant}: ${session.session_id}` : session.session_id, session.state, session.tokens,
        session.turns, bytesText(session.kv_bytes_physical), bytesText(session.kv_bytes_proportional),
        bytesText(session.spilled_bytes), secondsText(session.idle_seconds)])));
}

let before = null;

export function showMemory(memory) {
  // A daemon that was restarted began to count anew.
  if (before && memory.uptime_seconds < before.uptime_seconds) before = null;
  const seconds = before ? memory.uptime_seconds - before.uptime_seconds : 0;
  const earlier = (name) => before?.models.find((model) => model.model === name);
  $("models").replaceChildren(...memory.models.map((model) => show(model, earlier(model.model), seconds)));
  before = memory;
}

export function hideMemory() {
  before = null;
  $("models").replaceChildren();
}
