// The sample backend's report run, started and watched through the proxy.
import { $, appendTo, clock, el, setState } from "/page/dom.js";

export function startReport() {
  const state = $("report-state");
  let source = null;

  function show(event) {
    let status;
    try { status = JSON.parse(event.data); } catch { return; }
    $("progress").value = status.progress;
    $("percent").textContent = `${status.progress} %`;
    setState(state, status.status, status.status === "completed" ? "good" : "wait");
    appendTo($("report-log"), el("li", {}, el("code", {}, `${status.progress} %`), el("span", { class: "what" }, status.step), el("time", {}, clock(Date.now()))));
    if (status.status === "completed") source.close();
  }

  $("report-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    source?.close();
    $("report-log").replaceChildren();
    $("progress").value = 0;
    $("percent").textContent = "0 %";
    const base = `/api/projects/${encodeURIComponent($("project").value.trim())}`;
    let response;
    try { response = await fetch(`${base}/initial-report`, { method: "POST" }); } catch { response = null; }
    if (!response?.ok) return setState(state, `failed: ${response?.status ?? "no answer"}`, "bad");
    setState(state, "started", "wait");
    source = new EventSource(`${base}/initial-report-status/stream`);
    for (const name of ["status", "progress", "complete"]) source.addEventListener(name, show);
    source.onerror = () => setState(state, source.readyState === EventSource.CLOSED ? "stream refused" : "reconnecting", "wait");
  });
}
