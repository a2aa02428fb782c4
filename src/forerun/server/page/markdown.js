// A little Markdown as DOM nodes. Text reaches the page through `emit(parent, start, end)` only, which names a range of the
// source: nothing of an answer is ever read as HTML.
const INLINE = /`([^`\n]+)`|\*\*([^*\n]+)\*\*/g;

export function markdown(parent, text, emit) {
  let at = 0, list = null, paragraph = null, fence = null;
  for (const line of text.split("\n")) {
    const start = at, end = at + line.length;
    at = end + 1;
    if (line.trimStart().startsWith("```")) {
      fence = fence ? null : add(add(parent, "pre"), "code");
      list = paragraph = null;
    } else if (fence) {
      emit(fence, start, Math.min(at, text.length));
    } else if (!line.trim()) {
      list = paragraph = null;
    } else {
      const mark = /^\s*(?:(#{1,6}) +|([-*]) +|(\d{1,9})[.)] +)/.exec(line);
      let target;
      if (mark?.[1]) {
        target = add(parent, "h4");
        list = paragraph = null;
      } else if (mark) {
        const kind = mark[2] ? "UL" : "OL";
        if (list?.tagName !== kind) {
          list = add(parent, kind.toLowerCase());
          if (mark[3]) list.start = Number(mark[3]);
        }
        target = add(list, "li");
        paragraph = null;
      } else if (paragraph) {
        add(paragraph, "br");
        target = paragraph;
      } else {
        target = paragraph = add(parent, "p");
        list = null;
      }
      inline(target, text, start + (mark ? mark[0].length : 0), end, emit);
    }
  }
}

function inline(parent, text, start, end, emit) {
  let at = start;
  for (const found of text.slice(start, end).matchAll(INLINE)) {
    const from = start + found.index, mark = found[1] === undefined ? 2 : 1;
    emit(parent, at, from);
    at = from + found[0].length;
    emit(add(parent, mark === 1 ? "code" : "strong"), from + mark, at - mark);
  }
  emit(parent, at, end);
}

function add(parent, tag) {
  return parent.appendChild(document.createElement(tag));
}
