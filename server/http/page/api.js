// The daemon's HTTP API: one place that knows of the key, of errors and of event streams.

let key = sessionStorage.getItem("kvasir-key") ?? "";

export const hasKey = () => key !== "";

// Kept for this tab only.
export function setKey(text) {
  key = text.trim();
  if (key) sessionStorage.setItem("kvasir-key", key);
  else sessionStorage.removeItem("kvasir-key");
}

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: no answer
  }
}

async function call(path, options) {
  const headers = { ...(options.headers ?? {}) };
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the daemon does not answer");
  }
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not ours: the status says what there is to say.
  }
  throw new ApiError(response.status, message);
}

export const get = async (path) => (await call(path, {})).json();

// The JSON of each event until the stream's end.
export async function* events(path, body, headers, signal) {
  const response = await call(path, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    const blocks = waiting.split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      for (const line of block.split("\n")) {
        if (!line.startsWith("data: ")) continue; // a comment that keeps the connection
        const data = line.slice("data: ".length);
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(500, event.error.message);
        yield event;
      }
    }
  }
}
