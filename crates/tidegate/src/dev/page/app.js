// Starts the panels. A name and a room may come with the address: /?name=ada&room=lobby (or #name=ada&room=lobby).
import { $ } from "/page/dom.js";
import { startRoom } from "/page/room.js";
import { startEvents } from "/page/events.js";
import { startReport } from "/page/report.js";
import { startEcho } from "/page/echo.js";
import { startCounters } from "/page/counters.js";

const wanted = new URLSearchParams(location.search);
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) wanted.set(key, value);

async function session(name) {
  const response = await fetch(`/dev/session?name=${encodeURIComponent(name)}`, { headers: { accept: "application/json" } });
  if (!response.ok) throw new Error(`no session: ${response.status}`);
  const found = await response.json();
  // EventSource can set no header. The cookie goes to the realtime paths only, never to a backend behind the proxy.
  document.cookie = `tidegate_token=${found.token}; Path=/realtime; SameSite=Strict`;
  $("session").textContent = `${found.name ?? found.user} · tenant ${found.tenant}`;
  return found;
}

function remember(name, room) {
  const query = new URLSearchParams({ name, room });
  history.replaceState(null, "", `/?${query}`);
  const other = name === "grace" ? "ada" : "grace";
  $("second").href = `/?${new URLSearchParams({ name: other, room })}`;
}

const events = startEvents();
const room = startRoom({ session, onJoined: (found, name) => events.open(found, name) });
startReport();
startEcho();
startCounters();

$("name").value = wanted.get("name") ?? "";
$("room").value = wanted.get("room") ?? "lobby";

$("join-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  const wantedRoom = $("room").value.trim();
  if (!name || !wantedRoom) return;
  remember(name, wantedRoom);
  void room.join(name, wantedRoom);
});

if (wanted.get("name")) $("join-form").requestSubmit();
else $("name").focus();
