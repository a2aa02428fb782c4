// The conversation: questions, answers that stream, and what may be done with them.
import { Answer } from "./answer.js";
import { ask, events } from "./api.js";

const part = (id) => document.getElementById(id);
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
const TOP = 5;
const turns = [];
let running = null;

export function beginChat(onError) {
  part("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = part("question").value.trim();
    if (!text || running) return;
    part("question").value = "";
    turns.push({ role: "user", content: text });
    bubble("user").textContent = text;
    answer(onError);
  });
  part("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      part("ask").requestSubmit();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") running?.abort();
  });
  part("stop").addEventListener("click", () => running?.abort());
  part("again").addEventListener("click", () => {
    if (running) return;
    if (turns.at(-1)?.role === "assistant") {
      turns.pop();
      part("messages").lastElementChild.remove();
    }
    if (turns.length) answer(onError);
  });
  part("clear").addEventListener("click", () => {
    if (running) return;
    turns.length = 0;
    part("messages").replaceChildren();
    buttons();
    part("question").focus();
  });
}

function bubble(role) {
  const element = document.createElement("div");
  element.className = `message ${role}`;
  return part("messages").appendChild(element);
}

function buttons() {
  part("send").disabled = running !== null;
  part("stop").disabled = running === null;
  part("again").disabled = part("clear").disabled = running !== null || !turns.length;
}

function body() {
  const system = part("system").value.trim();
  const messages = system ? [{ role: "system", content: system }, ...turns] : turns;
  const found = { messages, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) {
    if (part(name).value !== "") found[name] = Number(part(name).value);
  }
  if (part("logprobs").checked) Object.assign(found, { logprobs: true, top_logprobs: TOP });
  return found;
}

async function answer(onError) {
  running = new AbortController();
  buttons();
  part("state").textContent = "";
  const outside = bubble("assistant"), shown = new Answer(outside.appendChild(document.createElement("div")));
  const started = performance.now();
  let first = null, usage = null, thoughts = null;
  try {
    const response = await ask("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body()),
      signal: running.signal,
    });
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      const choice = event.choices[0];
      if (!choice) continue;
      const text = choice.delta.content ?? "", thought = choice.delta.reasoning_content ?? "";
      if (text || thought) first ??= performance.now();
      if (thought) (thoughts ??= thoughtsIn(outside)).append(thought);
      else shown.add(text, choice.logprobs?.content);
    }
  } catch (error) {
    if (error.name !== "AbortError") onError(error);
  }
  running = null;
  if (shown.text || thoughts) {
    turns.push({ role: "assistant", content: shown.text });
    outside.appendChild(figures(usage, first - started, performance.now() - first));
  } else {
    outside.remove();
  }
  buttons();
}

// Where the thoughts of an answer are written, above it.
function thoughtsIn(outside) {
  const element = document.createElement("details"), name = document.createElement("summary");
  element.className = "thoughts";
  name.textContent = "Thoughts";
  element.append(name);
  outside.prepend(element);
  return element.appendChild(document.createElement("div"));
}

function figures(usage, wait, rest) {
  const element = document.createElement("div"), cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  element.className = "figures";
  const said = [`first token after ${wait.toFixed(0)} ms`];
  if (!usage) said.push("stopped");
  if (cached) said.push(`${cached} of ${usage.prompt_tokens} prompt tokens from the cache`);
  if (usage?.completion_tokens > 1) said.push(`${((usage.completion_tokens - 1) / rest * 1000).toFixed(1)} tokens/s`);
  element.textContent = said.join(" · ");
  return element;
}
