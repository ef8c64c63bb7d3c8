// The few things that every panel does with the document. Text is only ever set as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

/** Shows a panel's state; `tone` is one of good, wait, bad or nothing. */
export function setState(node, text, tone = "") {
  node.textContent = text;
  node.dataset.tone = tone;
}

/** Appends to a list that keeps at most `limit` items and stays scrolled to its end if it was there. */
export function appendTo(list, item, limit = 200) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  while (list.childElementCount > limit) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

/** A payload as people read it: the text of a chat message, or JSON. */
export function textOf(payload) {
  if (payload instanceof ArrayBuffer) return `${payload.byteLength} bytes`;
  if (typeof payload === "string") return payload;
  if (payload && typeof payload === "object" && typeof payload.text === "string") return payload.text;
  return JSON.stringify(payload) ?? "";
}
