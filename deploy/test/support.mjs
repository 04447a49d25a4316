// What the tests of this folder share.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../', import.meta.url));
export const binary = process.env.IFOREST_SERVER_BIN ?? join(root, 'target/release/iforest-server');

/** How long to wait for what must happen. */
const PATIENCE_MS = 30_000;

/** The options of a test that needs these programs. */
export function needs(...programs) {
  const missing = programs.filter((program) => spawnSync(program, ['--version']).error);
  // In CI a missing program must fail the tests rather than skip them.
  return { skip: missing.length > 0 && process.env.CI !== 'true' && `NOT RUN: ${missing} does not work here` };
}

const endings = new WeakMap();

/** Does this after the test: first what was added last, so that programs end before their folders. */
export function afterwards(t, action) {
  if (!endings.has(t)) {
    endings.set(t, []);
    t.after(async () => {
      for (const ending of endings.get(t).reverse()) await ending();
    });
  }
  endings.get(t).push(action);
}

/** A folder that is removed after the test. */
export function folder(t) {
  const path = mkdtempSync(join(tmpdir(), 'iforest-deploy-'));
  afterwards(t, () => rmSync(path, { recursive: true, force: true }));
  return path;
}

export const freePort = () => new Promise((resolve) => {
  const server = createServer().listen(0, '127.0.0.1', () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

/** Runs a program to its end and returns what it printed. */
export function run(program, args, options = {}) {
  const ended = spawnSync(program, args, { encoding: 'utf8', ...options });
  assert.equal(ended.error, undefined);
  assert.equal(ended.status, 0, `${program} ${args.join(' ')}\n${ended.stdout}${ended.stderr}`);
  return ended.stdout + ended.stderr;
}

/** Starts a program, waits until it prints where it listens, and ends it after the test. */
export async function start(t, program, args, listening, env = {}) {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, NO_PROXY: '*', ...env } });
  const ended = new Promise((resolve) => child.once('close', resolve).once('error', resolve));
  const stop = async () => {
    child.kill();
    await ended;
  };
  afterwards(t, stop);
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (log += text));
  let over = false;
  ended.then(() => (over = true));
  const address = await eventually(() => {
    assert.ok(!over, `${program} ended:\n${log}`);
    return listening.exec(log)?.[1];
  }, () => `${program} does not listen:\n${log}`);
  return { url: `http://${address}`, address, stop };
}

export const startServer = (t, ...args) =>
  start(t, binary, ['--host', '127.0.0.1', '--port', '0', '--random-state', '7', ...args], /listening on (\S+),/);

export async function startPrometheus(t, config) {
  const args = [`--config.file=${config}`, `--storage.tsdb.path=${folder(t)}`, '--web.listen-address=127.0.0.1:0'];
  const { url } = await start(t, 'prometheus', args, /msg="Listening on" .*address=(\S+)/);
  const get = async (path) => {
    const answer = await fetch(`${url}/api/v1/${path}`);
    const body = await answer.json();
    assert.equal(body.status, 'success', `${path}: ${body.error}`);
    return body.data;
  };
  // Until it has read its configuration, it answers 503 without JSON.
  await eventually(async () => (await fetch(`${url}/-/ready`)).ok, () => 'Prometheus is not ready');
  return {
    url,
    get,
    /** Each series that an expression has now: labels and value. */
    async query(expression) {
      const { result } = await get(`query?query=${encodeURIComponent(expression)}`);
      return result.map(({ metric, value }) => ({ labels: metric, value: Number(value[1]) }));
    },
    /** The one value of an expression, 0 where it has none. */
    async value(expression) {
      const series = await this.query(expression);
      assert.ok(series.length < 2, `${expression} has ${series.length} series`);
      return series[0]?.value ?? 0;
    },
  };
}

export const targetIsUp = (prometheus) => eventually(
  async () => (await prometheus.value('up{job="iforest-server"}')) === 1,
  async () => JSON.stringify((await prometheus.get('targets')).activeTargets),
);

/** Calls until the result is truthy. */
export async function eventually(call, explain) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const result = await call();
    if (result) return result;
    assert.ok(Date.now() < end, await explain());
    await sleep(50);
  }
}
