// Live numbers from /metrics (Prometheus text), once a second, with the rate since the last look.
import { $, el } from "/page/dom.js";

const PERIOD_MS = 1000;

/** [test id, label, the metrics whose samples are added up (with a label that they must have), whether a rate makes sense] */
const COUNTERS = [
  ["connections", "connections", [["websocket_active_connections", 'status="connected"']], false],
  ["rooms", "rooms", [["websocket_active_rooms"]], false],
  ["received", "messages in", [["websocket_messages_received_total"]], true],
  ["sent", "messages out", [["websocket_messages_sent_total"]], true],
  ["requests", "requests", [["tidegate_http_requests_total"]], true],
  ["tunnels", "tunnels", [["tidegate_tunnels_open"]], false],
  ["streams", "SSE streams", [["tidegate_sse_streams_open"], ["websocket_active_connections", 'status="listening"']], false],
];

/** All samples as [name, labels, value]. */
function samples(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : /^([A-Za-z_:][\w:]*)(\{.*\})? ([0-9.eE+-]+)/.exec(line);
    if (match) found.push([match[1], match[2] ?? "", Number(match[3])]);
  }
  return found;
}

function total(found, wanted) {
  const fits = ([name, labels]) => wanted.some(([metric, label]) => metric === name && (!label || labels.includes(label)));
  return found.filter(fits).reduce((sum, [, , value]) => sum + value, 0);
}

export function startCounters() {
  const nodes = COUNTERS.map(([id, label]) => {
    const value = el("span", { class: "value", "data-testid": `counter-${id}` }, "–");
    const rate = el("span", { class: "rate", "data-testid": `rate-${id}` }, "");
    $("counters").append(el("div", {}, el("dt", {}, label), el("dd", {}, value, rate)));
    return { value, rate };
  });
  let last = null;
  let lastAt = 0;

  async function look() {
    if (document.hidden) return;
    const response = await fetch("/metrics", { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    const now = samples(await response.text());
    const at = performance.now();
    COUNTERS.forEach(([, , wanted, rated], index) => {
      const value = total(now, wanted);
      nodes[index].value.textContent = value.toLocaleString("en");
      if (!rated || !last) return;
      const rate = Math.max(0, (value - total(last, wanted)) * 1000 / (at - lastAt));
      nodes[index].rate.textContent = `${rate >= 10 ? Math.round(rate) : rate.toFixed(1)}/s`;
    });
    last = now;
    lastAt = at;
  }

  async function loop() {
    try { await look(); } catch { for (const node of nodes) node.rate.textContent = ""; }
    setTimeout(loop, PERIOD_MS);
  }
  void loop();
}
