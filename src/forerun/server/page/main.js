import { ask, useKey } from "./api.js";
import { beginChat } from "./chat.js";
import { watchEngine } from "./engine.js";

const part = (id) => document.getElementById(id);
let told = "";

function onError(error) {
  if (error.status === 401) part("key-part").hidden = false;
  told = part("state").textContent = error.status === undefined && error.name === "TypeError" ? "the server does not answer" : error.message;
}

// What the engine's view could not read is taken back once it can be read again.
function ready() {
  return ask("v1/models").then(async (found) => {
    part("model").textContent = (await found.json()).data[0].id;
    if (part("state").textContent === told) part("state").textContent = "";
  }).catch(onError);
}

part("key-part").addEventListener("submit", (event) => event.preventDefault());
part("key").addEventListener("change", () => {
  useKey(part("key").value);
  ready();
});
beginChat(onError);
watchEngine((error) => {
  if (part("state").textContent === "") onError(error);
});
ready();
part("question").focus();
