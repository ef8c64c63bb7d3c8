// docs/realtime-api.yaml against the running server: every operation is called, and every answer is held against what is
// described. A status that is not described fails, and so does one that is described and never comes.
import { Ajv2020 } from "ajv/dist/2020.js";
import { parse } from "yaml";
import { assert, joined, request, settings, token } from "./lib.mjs";

const KEYS = { all: "key-all-0123456789", idle: "key-idle-0123456789", slow: "key-slow-0123456789", lobby: "key-lobby-0123456789" };
/** What a healthy server cannot be brought to say, or only after half a minute, or only by luck. */
const NOT_PROVOKED = new Set(["408", "503"]);
const BY_LUCK = new Set(["409"]);
const EXAMPLES = { room: "quay", user: "ada", connection: "nobody" };
const BODIES = {
  publish: { payload: { text: "hello" } },
  broadcast: { rooms: ["quay", "pier"], payload: 1 },
  revoke: { user: "nobody" },
  batch: { operations: [{ publish: { room: "quay", payload: 1 } }] },
};

async function description() {
  const { text, headers, status } = await request("/realtime/openapi.yaml");
  assert.equal(status, 200);
  assert.equal(headers.get("content-type"), "application/yaml");
  const api = parse(text);
  const ajv = new Ajv2020({ strict: false, validateSchema: false, allErrors: true });
  ajv.addSchema(api, "api");
  const resolve = (value) => (value?.$ref ? resolve(value.$ref.slice(2).split("/").reduce((at, key) => at[key], api)) : value);
  const operations = [];
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of ["get", "put", "post", "delete", "patch"]) {
      if (item[method]) operations.push({ path, method: method.toUpperCase(), ...item[method], parameters: [...(item.parameters ?? []), ...(item[method].parameters ?? [])].map(resolve) });
    }
  }
  const check = (schema, value, what) => {
    const valid = ajv.compile({ ...JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"api#/')) });
    assert.ok(valid(value), `${what}: ${JSON.stringify(value)}\n${ajv.errorsText(valid.errors)}`);
  };
  return { api, operations, resolve, check };
}

export async function everyOperationIsAsDescribed() {
  const { api, operations, resolve, check } = await description();
  let ada = await joined("ada", "quay");
  const seen = new Set();

  async function call(operation, { key = KEYS.all, path = {}, query = "", body = BODIES[operation.operationId], headers = {}, raw } = {}) {
    const url = `/realtime${operation.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(path[name] ?? EXAMPLES[name]))}${query}`;
    const what = `${operation.method} ${url}`;
    const shown = key ? { authorization: `Bearer ${key}` } : {};
    const controller = new AbortController();
    const response = await fetch(settings.url + url, {
      method: operation.method,
      headers: { ...shown, ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
      signal: controller.signal,
    });
    const described = resolve(operation.responses[response.status]);
    if (!described) assert.fail(`${what}: ${response.status} is not described: ${await response.text()}`);
    seen.add(`${operation.operationId} ${response.status}`);
    const [type, content] = Object.entries(described.content)[0];
    assert.equal(response.headers.get("content-type"), type, what);
    for (const name of Object.keys(described.headers ?? {}).filter((name) => name !== "Idempotency-Replayed")) {
      assert.ok(response.headers.get(name), `${what}: ${response.status} has ${name}`);
    }
    if (type === "text/event-stream") {
      controller.abort();
      return { status: response.status };
    }
    const text = await response.text();
    const json = type === "application/json" ? JSON.parse(text) : null;
    if (json) check(content.schema, json, `${what}: ${response.status}`);
    if (json?.error) assert.match(json.error.message, /^[A-Z]|: /, what);
    if (response.status === 200 && operation.requestBody && raw === undefined) check(operation.requestBody.content["application/json"].schema, body, `${what}: the body`);
    return { status: response.status, json, headers: response.headers };
  }
  const expect = async (status, operation, options) => {
    const answer = await call(operation, options);
    assert.equal(answer.status, status, `${operation.operationId}: ${JSON.stringify(answer.json)}`);
    return answer;
  };

  for (const operation of operations) {
    const { operationId } = operation;
    if (operationId === "describe") { await expect(200, operation, { key: null }); continue; }
    if (operationId === "giveTicket") {
      await expect(201, operation, { key: token("ada") });
      await expect(401, operation, { key: null });
      continue;
    }
    if (operationId === "streamRoom") {
      await expect(200, operation, { key: token("ada") });
      await expect(401, operation, { key: null });
      await expect(403, operation, { key: token("ada", { permissions: ["room:other:join"] }) });
      await expect(404, operation, { key: token("ada"), query: "?namespace=/none" });
      await expect(400, operation, { key: token("ada"), path: { room: "\u0007" } });
      continue;
    }
    if (operationId === "streamRooms") {
      const query = "?room=quay&room=pier&presence=true";
      await expect(200, operation, { key: token("ada"), query });
      await expect(401, operation, { key: null, query });
      await expect(403, operation, { key: token("ada", { permissions: ["room:quay:join"] }), query });
      await expect(404, operation, { key: token("ada"), query: `${query}&namespace=/none` });
      for (const wrong of ["", "?room=%07", `${query}&colour=red`]) await expect(400, operation, { key: token("ada"), query: wrong });
      continue;
    }
    await expect(401, operation, { key: null });
    await expect(401, operation, { key: "wrong" });
    if (operation.responses[403]) {
      await expect(403, operation, { key: KEYS.idle });
      if (operation.path.includes("{room}")) await expect(403, operation, { key: KEYS.lobby });
    }
    await expect(400, operation, { query: "?colour=red" });
    if (operation.path.includes("{room}")) await expect(400, operation, { path: { room: "x".repeat(257) } });
    if (operation.parameters.some((parameter) => parameter.name === "namespace")) await expect(404, operation, { query: "?namespace=/none" });
    if (operation.requestBody) {
      const huge = { ...BODIES[operationId], padding: "x".repeat(1_100_000) };
      await expect(413, operation, { body: huge });
      await expect(415, operation, { headers: { "content-type": "application/x-www-form-urlencoded" } });
      await expect(415, operation, { headers: { "content-type": "text/plain" } });
      for (const raw of ["", "{", "[]", "null", '{"colour":1}', "[".repeat(100_000), '{"payload":1}{', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d])]) await expect(400, operation, { raw });
    }
    if (operation.responses[422]) {
      const key = { "idempotency-key": `walk-${operationId}` };
      const first = await call(operation, { headers: key });
      if (first.status === 200) {
        assert.equal(first.headers.get("idempotency-replayed"), null);
        const again = await expect(200, operation, { headers: key });
        assert.equal(again.headers.get("idempotency-replayed"), "true", operationId);
        assert.deepEqual(again.json, first.json);
        await expect(422, operation, { headers: key, query: "?tenant=default" });
      }
      await expect(400, operation, { headers: { "idempotency-key": "x".repeat(101) } });
    }
    for (let tries = 0; !seen.has(`${operationId} 429`); tries += 1) {
      assert.ok(tries < 20, `${operationId} is never refused for its rate`);
      await call(operation, { key: KEYS.slow });
    }
  }

  // What needs more than the usual request.
  if (!ada.connected) ada = await joined("ada", "quay");
  const named = Object.fromEntries(operations.map((operation) => [operation.operationId, operation]));
  for (const operationId of ["listRooms", "showRoom", "readHistory", "showPresence", "joinRoom"]) {
    const ids = { joinRoom: { path: { room: "pier" } } };
    await expect(200, named[operationId], ids[operationId]);
  }
  await expect(404, named.publish, { body: { payload: 1, namespace: "/none" } });
  await expect(404, named.broadcast, { body: { all: true, payload: 1, namespace: "/none" } });
  for (const room of ["a", "b", "c"]) await call(named.joinRoom, { path: { room } });
  await expect(409, named.joinRoom, { path: { room: "d" } });
  await expect(404, named.joinRoom, { path: { user: "nobody" } });
  await expect(200, named.broadcast, { body: { users: ["ada"], event: "x", data: null } });
  await expect(200, named.broadcast, { body: { all: true, payload: 1 } });
  await expect(200, named.batch, { body: { operations: [{ join: { room: "quay", user: "nobody" } }, { disconnectConnection: { connection: "nobody" } }, { broadcast: { rooms: ["quay"], payload: 1 } }] } });
  const listed = await expect(200, named.listConnections, {});
  assert.equal(listed.json.connections.length, 1);
  await expect(200, named.listUserConnections, {});
  await expect(404, named.disconnectConnection, {});
  const key = { "idempotency-key": "walk-end" };
  await expect(200, named.disconnectConnection, { path: { connection: ada.id }, headers: key });
  await expect(422, named.disconnectConnection, { path: { connection: ada.id }, headers: key, query: "?reason=other" });
  await joined("ada", "quay");
  const [connection] = (await call(named.listConnections, {})).json.connections;
  await expect(200, named.disconnectConnection, { path: { connection: connection.id } });

  const missing = [];
  for (const { operationId, responses } of operations) {
    for (const status of Object.keys(responses)) {
      if (NOT_PROVOKED.has(status) || (BY_LUCK.has(status) && operationId !== "joinRoom")) continue;
      if (!seen.has(`${operationId} ${status}`)) missing.push(`${operationId} ${status}`);
    }
  }
  assert.deepEqual(missing, [], "described, and never seen");

  // Of each path the methods that are described are all that there are.
  for (const [path, item] of Object.entries(api.paths)) {
    const methods = Object.keys(item).filter((key) => ["get", "put", "post", "delete", "patch"].includes(key)).map((method) => method.toUpperCase());
    const url = `/realtime${path.replace(/\{(\w+)\}/g, (_, name) => EXAMPLES[name])}`;
    const refused = await request(url, { method: "PATCH" });
    assert.equal(refused.status, 405, url);
    assert.deepEqual(refused.headers.get("allow").split(", ").sort(), methods.sort(), url);
  }
  for (const path of ["", "/", "/nothing", "/rooms/", "/rooms/a/nothing", "/connections/a/b", "/users/a"]) {
    assert.equal((await request(`/realtime${path}`)).status, 404, path);
  }
}
