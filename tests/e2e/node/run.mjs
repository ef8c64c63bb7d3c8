// Runs one scenario: `node run.mjs FILE NAME`. Prints one JSON line with the outcome; the Rust test asserts on it.
import { closeAll, within } from "./lib.mjs";

/** No scenario takes so long; one that hangs is to say so itself. */
const DEADLINE_MS = Number(process.env.TIDEGATE_DEADLINE_MS ?? 200_000);

const [file, name] = process.argv.slice(2);
const outcome = { scenario: `${file}.${name}`, ok: false };
try {
  const scenario = (await import(`./${file}.mjs`))[name];
  if (typeof scenario !== "function") throw new Error("no such scenario");
  outcome.report = await within(scenario(), "the scenario to end", DEADLINE_MS);
  outcome.ok = true;
} catch (error) {
  outcome.error = error?.stack ?? String(error);
}
try {
  await closeAll();
} catch (error) {
  outcome.ok = false;
  outcome.error ??= `closing: ${error?.stack ?? error}`;
}
process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(outcome.ok ? 0 : 1));
