// One answer on the page: its text as Markdown, and the log-probabilities of its tokens under the mouse, or where the arrow keys are.
import { markdown } from "./markdown.js";

const tip = document.getElementById("tip");

export class Answer {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.tokens = [];
    this.decoder = new TextDecoder();
    this.ends = 0;
    this.waiting = false;
    this.current = null; // the token where the arrow keys are
    element.addEventListener("mouseover", (event) => this.show(event.target));
    element.addEventListener("mouseleave", () => { tip.hidden = true; });
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("blur", () => this.choose(null));
  }

  add(text, scores) {
    this.text += text;
    for (const score of scores ?? []) {
      const start = this.ends;
      this.ends += this.decoder.decode(new Uint8Array(score.bytes ?? []), { stream: true }).length;
      this.tokens.push({ start, end: this.ends, score });
    }
    if (this.tokens.length && this.element.tabIndex < 0) {
      this.element.tabIndex = 0;
      this.element.setAttribute("role", "group");
      this.element.setAttribute("aria-label", "Answer: the arrow keys go through its tokens and their probabilities");
    }
    if (!this.waiting) {
      this.waiting = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  draw() {
    this.waiting = false;
    this.element.replaceChildren();
    let next = 0;
    markdown(this.element, this.text, (parent, start, end) => {
      let at = start;
      while (next < this.tokens.length && this.tokens[next].end <= at) next++;
      for (let place = next; at < end; place++) {
        const token = this.tokens[place];
        const until = token ? Math.min(end, Math.max(at, token.end)) : end;
        if (until > at) parent.append(token ? this.piece(place, at, until) : this.text.slice(at, until));
        at = until;
      }
    });
  }

  piece(place, start, end) {
    const span = document.createElement("span");
    const chance = Math.exp(this.tokens[place].score.logprob);
    span.className = chance < 0.1 ? "token weaker" : chance < 0.5 ? "token weak" : "token";
    if (place === this.current) span.classList.add("current");
    span.dataset.place = place;
    span.textContent = this.text.slice(start, end);
    return span;
  }

  key(event) {
    if (event.key === "Escape") this.choose(null);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.shiftKey || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const pieces = [...this.element.querySelectorAll(".token")];
    let at = pieces.findIndex((piece) => Number(piece.dataset.place) === this.current);
    if (at < 0) at = by > 0 ? -1 : pieces.length;
    do at += by; while (Number(pieces[at]?.dataset.place) === this.current); // one token on several lines
    if (pieces[at]) this.choose(pieces[at]);
  }

  // Go to the token of a piece, or away from all.
  choose(piece) {
    this.element.querySelectorAll(".current").forEach((one) => one.classList.remove("current"));
    this.current = piece && Number(piece.dataset.place);
    tip.hidden = true;
    if (!piece) return;
    piece.classList.add("current");
    piece.scrollIntoView({ block: "nearest" });
    this.show(piece);
  }

  show(target) {
    const place = target.dataset?.place;
    tip.hidden = place === undefined;
    if (tip.hidden) return;
    const { score } = this.tokens[place];
    tip.textContent = [line("chosen", score), ...score.top_logprobs.map((other, i) => line(`${i + 1}.`, other))].join("\n");
    const box = target.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 4))}px`;
    const below = box.bottom + 4;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? box.top - tip.offsetHeight - 4 : below}px`;
  }
}

function line(name, score) {
  const percent = (100 * Math.exp(score.logprob)).toFixed(1).padStart(5);
  return `${name.padEnd(6)} ${percent} %  ${score.logprob.toFixed(3).padStart(8)}  ${JSON.stringify(score.token)}`;
}
