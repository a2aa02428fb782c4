// The engine at work, read twice a second while the page is seen.
import { ask } from "./api.js";

const part = (id) => document.getElementById(id);
const PERIOD = 500, KEPT = 120, MOST_CELLS = 512;
const speeds = [], rows = [];
let before = null;

export function watchEngine(onError) {
  const look = async () => {
    if (!document.hidden) await ask("engine").then(async (found) => show(await found.json())).catch(onError);
    setTimeout(look, PERIOD);
  };
  look();
}

function show(now) {
  const seconds = before ? now.seconds - before.seconds : 0;
  const since = (name) => (before ? Math.max(0, now[name] - before[name]) : 0);
  const steps = since("steps");
  push(speeds, seconds ? since("generation_tokens") / seconds : 0);
  push(rows, steps ? since("step_rows") / steps : 0);
  before = now;
  curve("speed", speeds);
  curve("rows", rows);
  figures([
    ["running", now.running],
    ["waiting", now.waiting],
    ["tokens/s", speeds.at(-1).toFixed(1)],
    ["rows per step", rows.at(-1).toFixed(1)],
    ["prefix hits", share(now.prefix_hits, now.prefix_queries, "prompt tokens")],
    ["accepted drafts", share(now.accepted_draft_tokens, now.draft_tokens, "tokens")],
  ]);
  pool(now);
}

function push(list, value) {
  list.push(value);
  if (list.length > KEPT) list.shift();
}

function share(some, all, what) {
  return all ? `${(100 * some / all).toFixed(0)} % of ${all} ${what}` : "–";
}

function curve(id, values) {
  const most = Math.max(1, ...values);
  const points = values.map((value, i) => `${(240 * (KEPT - values.length + i)) / (KEPT - 1)},${46 - (44 * value) / most}`);
  part(id).firstElementChild.setAttribute("points", points.join(" "));
}

function figures(list) {
  part("figures").replaceChildren(...list.flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
}

function text(tag, value) {
  const element = document.createElement(tag);
  element.textContent = value;
  return element;
}

function pool(now) {
  const [held, kept] = part("pool").children;
  held.style.width = `${(100 * now.blocks_held) / now.blocks}%`;
  kept.style.width = `${(100 * now.blocks_kept) / now.blocks}%`;
  const said = `${now.blocks_held} held, ${now.blocks_kept} kept prefixes, of ${now.blocks} blocks of ${now.block_size} tokens`;
  part("pool-text").textContent = said;
  part("pool").setAttribute("aria-label", said);
  const holders = new Map();
  for (const answer of now.answers) {
    for (const block of answer.blocks) holders.set(block, (holders.get(block) ?? 0) + 1);
  }
  part("owners").replaceChildren(...now.answers.map((answer) => owner(answer, holders)));
}

function owner(answer, holders) {
  const element = text("div", `${answer.tokens} tokens, ${answer.cached} of ${answer.prompt} in the prompt from the cache`);
  element.className = "owner";
  const cells = element.appendChild(document.createElement("div"));
  cells.className = "cells";
  for (const block of answer.blocks.slice(0, MOST_CELLS)) {
    const cell = cells.appendChild(document.createElement("i"));
    cell.className = holders.get(block) > 1 ? "cell shared" : "cell";
  }
  return element;
}
