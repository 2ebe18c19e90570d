// Ties the views to the daemon: who we are, what it serves, and a look at its memory every second.

import { get, hasKey, setKey } from "./api.js";
import { showModels, startChat } from "./chat.js";
import { $, say } from "./dom.js";
import { hideMemory, showMemory } from "./memory.js";

const LOOK_MS = 1000;
const RETRY_MS = 3000;

let timer = 0;
let failed = false;

async function look() {
  clearTimeout(timer);
  let pause = LOOK_MS;
  try {
    const memory = await get("/kvasir/v1/memory");
    const who = memory.tenant ? `${memory.tenant}, ` : "";
    $("server").textContent = `${who}version ${memory.version}${memory.draining ? ", draining" : ""}`;
    showModels(memory.models);
    showMemory(memory);
    if (failed) say("");
    failed = false;
  } catch (error) {
    // What was seen with another key, or before the daemon went, is not shown any longer.
    hideMemory();
    showModels([]);
    $("server").textContent = "";
    const refused = error.status === 401 || error.status === 403;
    say(refused && !hasKey() ? "This daemon wants an API key." : error.message, true);
    failed = true;
    pause = RETRY_MS;
    if (refused) return; // until there is another key
  }
  if ($("live").checked && !document.hidden) timer = setTimeout(look, pause);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey($("key").value);
  $("key").value = "";
  $("key").placeholder = hasKey() ? "in use" : "none";
  look();
});
$("live").addEventListener("change", look);
document.addEventListener("visibilitychange", look);
$("key").placeholder = hasKey() ? "in use" : "none";
startChat();
look();
