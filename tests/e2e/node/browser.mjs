// The page in a real Chromium, as two people would use it.
import { chromium } from "playwright-core";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { assert, atEnd, PATIENCE_MS, settings } from "./lib.mjs";

/** A browser takes its time on a busy machine. Reached only when a test fails. */
const BROWSER_PATIENCE_MS = 2 * PATIENCE_MS;
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"];

async function browser({ colorScheme = "light", viewport = { width: 1280, height: 900 } } = {}) {
  const profile = mkdtempSync(join(tmpdir(), "tidegate-chromium-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: flags, colorScheme, viewport, timeout: BROWSER_PATIENCE_MS,
  });
  atEnd(async () => { await context.close(); rmSync(profile, { recursive: true, force: true }); });
  context.setDefaultTimeout(BROWSER_PATIENCE_MS);
  const problems = [];
  const open = async (query) => {
    const page = await context.newPage();
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
    page.on("request", (request) => { if (!request.url().startsWith(settings.url.replace("http", "")) && !request.url().includes(new URL(settings.url).host) && !request.url().startsWith("data:")) problems.push(`foreign request ${request.url()}`); });
    page.id = (name) => page.locator(`[data-testid="${name}"]`);
    // By the clock, not by animation frames: a tab in the background may have none.
    page.until = (condition, value) => page.waitForFunction(condition, value, { polling: 20 });
    page.says = (name, pattern) => page.until(([id, source]) => new RegExp(source).test(document.querySelector(`[data-testid="${id}"]`)?.textContent ?? ""), [name, pattern.source]);
    await page.goto(`${settings.url}/?${new URLSearchParams(query)}`);
    return page;
  };
  return { context, open, problems };
}

async function say(page, text, persistent = true) {
  await page.id("persistent").setChecked(persistent);
  await page.id("text").fill(text);
  await page.id("send").click();
  await page.says("messages", new RegExp(text));
}

export async function twoTabsChat() {
  const { open, problems } = await browser();
  const ada = await open({ name: "ada", room: "lobby" });
  await ada.says("room-state", /^connected/);
  const grace = await open({ name: "grace", room: "lobby" });
  await grace.says("room-state", /^connected/);
  for (const page of [ada, grace]) {
    await page.says("people", /ada[^]*grace/);
    await page.says("people-count", /^2$/);
    await page.says("events-state", /live/);
  }
  await say(ada, "high water at noon");
  await say(grace, "two boats are waiting");
  await ada.says("messages", /two boats are waiting/);
  await grace.says("messages", /high water at noon/);
  await say(ada, "this one is not kept", false);
  await grace.says("messages", /this one is not kept/);
  // The third panel hears the same room over EventSource, each event with its position.
  for (const page of [ada, grace]) {
    await page.says("events", /high water at noon[^]*two boats are waiting[^]*this one is not kept/);
    const ids = await page.id("events").locator("li[data-id]").evaluateAll((items) => items.map((item) => item.dataset.id));
    assert.equal(ids.length, 3);
    assert.ok(ids.every((id) => /-\d+$/.test(id)), ids.join());
  }
  // Presence follows a status and a departure.
  await grace.id("status").selectOption("busy");
  await ada.says("people", /grace\s*busy/);
  // A reload replays what is stored, and what is still in memory.
  await grace.reload();
  await grace.says("messages", /high water at noon[^]*two boats are waiting[^]*this one is not kept/);
  assert.equal(await grace.id("messages").locator("[data-replayed=true]").count(), 3);
  await say(grace, "back again");
  await ada.says("messages", /back again/);
  assert.equal(await ada.id("messages").locator(".message").count(), 4, "nothing twice");
  await grace.close();
  await ada.says("people-count", /^1$/);
  // A cut line comes back with its session; without its WebSocket there would be no line to cut.
  await ada.says("room-state", /websocket/);
  await ada.id("cut").click();
  await ada.says("room-state", /^recovered/);
  await say(ada, "alone now");
  assert.equal(await ada.id("messages").locator(".message").count(), 5);
  await ada.id("ticket").click();
  await ada.says("ticket-out", /ticket=/);
  assert.deepEqual(problems, []);
}

export async function proxyPanels() {
  const { open, problems } = await browser({ colorScheme: "dark" });
  const page = await open({ name: "ada", room: "harbour" });
  await page.says("room-state", /^connected/);
  // Everything that the page shows is noted: what it shows for a moment only could be missed.
  await page.evaluate(() => {
    const percent = document.getElementById("percent");
    window.shown = [];
    new MutationObserver(() => window.shown.push(percent.textContent)).observe(percent, { childList: true, characterData: true, subtree: true });
  });
  const first = async () => Number.parseInt(await page.id("report-log").locator("li").first().textContent(), 10);
  do {
    // The click empties the list.
    await page.id("report").click();
    await page.says("report-log", /100 %/);
    // A page that was held up opens its stream when the run is over; then there was nothing to see.
  } while (await first() > 60);
  assert.ok((await page.evaluate(() => window.shown)).some((text) => /^(4|8|12|[2-8]\d) %$/.test(text)), "progress was shown");
  await page.says("report-state", /completed/);
  assert.equal(await page.id("progress").evaluate((bar) => bar.value), 100);
  assert.ok(await page.id("report-log").locator("li").count() >= 5, "progress came in steps");
  await page.id("echo").click();
  await page.says("rtt", /^\d/);
  await page.id("echo-burst").click();
  await page.until(() => document.getElementById("rtt-count").textContent === "101");
  assert.ok((await page.id("echo-log").textContent()).includes("is the tide in? #100"));
  await page.says("counter-connections", /^1$/);
  await page.says("counter-rooms", /^1$/);
  await page.says("counter-tunnels", /^1$/);
  await page.says("counter-streams", /^1$/);
  await page.says("counter-requests", /^[1-9]/);
  const received = Number((await page.id("counter-received").textContent()).replace(/,/g, ""));
  await say(page, "count this");
  await page.until((before) => Number(document.querySelector('[data-testid="counter-received"]').textContent.replace(/,/g, "")) > before, received);
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const dark = await background();
  await page.id("theme").click();
  assert.notEqual(await background(), dark, "the toggle goes to light");
  await page.id("theme").click();
  assert.equal(await background(), dark, "and to dark");
  assert.deepEqual(problems, []);
}

export async function smallScreen() {
  const { open, problems } = await browser({ viewport: { width: 360, height: 740 } });
  const page = await open({ name: "ada", room: "lobby" });
  await page.says("room-state", /^connected/);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= 360, `scrolls sideways: ${wide}`);
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("input, select, button")]
    .filter((node) => !node.labels?.length && !node.getAttribute("aria-label") && !node.textContent.trim()).map((node) => node.id));
  assert.deepEqual(unnamed, [], "every control has a name");
  assert.deepEqual(problems, []);
}

/** What a page may do with the gateway, which is another origin for it. */
async function reach(context, origin) {
  const page = await context.newPage();
  await page.goto(`${origin}/`);
  return page.evaluate(async ([url, patience]) => {
    const asked = async (method) => {
      try {
        const answer = await fetch(`${url}/api/x`, { method, credentials: "include", headers: { authorization: "Bearer x", "x-own": "1" } });
        return { status: answer.status, length: (await answer.text()).length, id: answer.headers.has("x-request-id"), hidden: answer.headers.has("server") };
      } catch (error) {
        return error.name;
      }
    };
    const events = () => new Promise((resolve) => {
      const source = new EventSource(`${url}/events`, { withCredentials: true });
      const ids = [];
      const end = (why) => { source.close(); resolve(why); };
      source.onmessage = (event) => { if (ids.push(Number(event.lastEventId)) === 3) end(ids); };
      source.onerror = () => { if (source.readyState === EventSource.CLOSED) end("closed"); };
      setTimeout(() => end("nothing came"), patience);
    });
    return { get: await asked("GET"), put: await asked("PUT"), patch: await asked("PATCH"), events: await events() };
  }, [settings.url, BROWSER_PATIENCE_MS]);
}

export async function otherOrigins() {
  const { context } = await browser();
  const { events, ...answers } = await reach(context, process.env.ALLOWED_ORIGIN);
  const good = { status: 200, length: 16, id: true, hidden: false };
  assert.deepEqual(answers, { get: good, put: good, patch: "TypeError" });
  assert.deepEqual(events, [events[0], events[0] + 1, events[0] + 2]);
  const nothing = await reach(context, process.env.OTHER_ORIGIN);
  assert.deepEqual(nothing, { get: "TypeError", put: "TypeError", patch: "TypeError", events: "closed" });
}

export async function screenshot() {
  const { open } = await browser({ viewport: { width: 1280, height: 1056 } });
  const ada = await open({ name: "ada", room: "lobby" });
  await ada.says("room-state", /^connected/);
  const grace = await open({ name: "grace", room: "lobby" });
  await grace.says("room-state", /^connected/);
  await say(ada, "High water at noon. Who takes the north gate?");
  await say(grace, "I do. Two boats are waiting outside.");
  await grace.id("status").selectOption("busy");
  await ada.bringToFront();
  await ada.id("report").click();
  await ada.id("echo").click();
  await ada.id("echo-burst").click();
  await say(ada, "Then we open at ten to twelve.");
  await ada.id("cut").click();
  await ada.says("room-state", /^recovered/);
  await say(ada, "(my line was cut, and nothing is missing)");
  await ada.says("percent", /^[4-6]\d %$/);
  await ada.says("rate-received", /\d/);
  await ada.screenshot({ path: process.env.XTASK_SCREENSHOT });
}
