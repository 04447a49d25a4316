// The examples of the package: two hundred machines over one connection, and the bridge for one.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { aedes, client } from '../bed/brokers.mjs';
import { findChromium, launch } from '../bed/chromium.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { userWithPackage } from '../bed/package.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { startServer } from '../bed/server.mjs';

const plant = withSettings(readFlow('examples/plant.json'), { ALARM_ON: 3, ALARM_OFF: 5, ALARM_COUNT: 3 });
const MACHINES = 200;
const name = (i) => `press-${i + 1}`;
const normal = (i, n) => 10 + i / 10 + ((n * 37) % 61) / 61;

let brokerPort, serverPort, nodeRed, broker, server, us;

before(async () => {
  brokerPort = await freePort();
  serverPort = await freePort();
  const userDir = userWithPackage('@flowfuse/node-red-dashboard');
  // As the README recommends for a gateway: otherwise Node.js collects garbage when it likes.
  const NODE_OPTIONS = '--max-old-space-size=128 --max-semi-space-size=4';
  nodeRed = await startNodeRed({ ...local(brokerPort, serverPort), NODE_OPTIONS }, { userDir });
});
after(() => nodeRed?.stop());
beforeEach(async () => {
  broker = await aedes.start(brokerPort);
  server = await startServer(serverPort);
  us = await client(`mqtt://127.0.0.1:${brokerPort}`);
});
afterEach(async () => {
  await nodeRed.deploy([]);
  await us.endAsync(true);
  await server.stop();
  await broker.stop();
});

const train = async (model, samples) => {
  const body = JSON.stringify({ samples, false_alarm_rate: 0.01, out_of_range: 'distance', random_state: 1 });
  const headers = { 'Content-Type': 'application/json' };
  const response = await fetch(`http://127.0.0.1:${serverPort}/models/${model}/retrain`, { method: 'POST', headers, body });
  assert.equal(response.status, 200, await response.text());
};
const samplesOf = (i) => Array.from({ length: 200 }, (_, n) => normal(i, n));

describe('two hundred machines', () => {
  let browser;
  const executable = findChromium();
  if (!executable) notRun('the table of machines in a browser', 'Chromium is not installed');
  before(async () => {
    browser = executable && (await launch(executable));
  });
  after(() => browser?.close());

  test('at 5 readings a second each: none lost, in order, one connection, bounded memory, worst first', async (t) => {
    for (let i = 0; i < MACHINES; i += 1) if (i !== 7) await train(name(i), samplesOf(i));
    await nodeRed.deploy(plant);
    await until(() => nodeRed.status(plant, 'readings').fill === 'green', 'the flow to connect');
    const heard = new Map();
    let flags = 0;
    await us.subscribeAsync('plant/#', { qos: 1 });
    us.on('message', (topic, payload) => {
      const [, machine, , kind] = topic.split('/');
      if (kind === 'flag') flags += 1;
      if (kind !== 'json') return;
      if (!heard.has(machine)) heard.set(machine, []);
      heard.get(machine).push(JSON.parse(payload).input_value);
    });
    us.heard.length = 0;

    const sent = new Map(Array.from({ length: MACHINES }, (_, i) => [name(i), []]));
    const begin = Date.now();
    const rounds = 100;
    for (let n = 0; n < rounds; n += 1) {
      for (let i = 0; i < MACHINES; i += 1) {
        // The fourth is at fault, and the number of each reading is in its last digits.
        const value = Number(((i === 3 ? 90 : normal(i, n)) + n / 1e6).toFixed(6));
        sent.get(name(i)).push(value);
        us.publish(`plant/${name(i)}/vibration`, JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
      }
      const early = begin + 200 * (n + 1) - Date.now();
      if (early > 0) await sleep(early);
    }
    const took = Date.now() - begin;
    const judged = () => [...heard.values()].reduce((sum, values) => sum + values.length, 0);
    const expected = (MACHINES - 1) * rounds;
    await until(() => judged() >= expected, () => `${expected} predictions, have ${judged()}`, 60);
    for (const [machine, values] of sent) {
      if (machine === name(7)) assert.equal(heard.get(machine), undefined, 'a machine without a model has no predictions');
      else assert.deepEqual(heard.get(machine), values, `${machine} in order`);
    }
    assert.equal(flags, expected);
    assert.equal((await fetch(`http://127.0.0.1:${serverPort}/models/${name(7)}`)).status, 404, 'nothing is created');
    const connections = nodeRed.program.log.split('Connected to broker').length - 1;
    assert.equal(connections, 1);
    const memory = process.platform === 'linux' ? Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${nodeRed.program.pid}/status`, 'utf8'))[1]) / 1024 : 0;
    assert.ok(memory <= 250, `Node-RED takes ${memory.toFixed(0)} MB`);
    t.diagnostic(`${(MACHINES * rounds * 1000) / took} readings a second, Node-RED takes ${memory.toFixed(0)} MB`);

    if (!browser) return;
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(error.message));
    const picture = (what) => process.env.SCREENSHOTS && page.screenshot({ path: join(process.env.SCREENSHOTS, `plant-${what}.png`) });
    // The machines go on while someone looks at them.
    let n = rounds;
    const running = setInterval(() => {
      n += 1;
      for (let i = 0; i < MACHINES; i += 1) {
        const payload = JSON.stringify({ value: i === 3 ? 90 : normal(i, n), timestamp: Date.now() });
        us.publish(`plant/${name(i)}/vibration`, payload, { qos: 1 });
      }
    }, 500);
    try {
      await page.goto(`${nodeRed.url}/dashboard/plant`);
      const rows = page.locator('.pl-table tbody tr');
      await until(async () => (await rows.count()) === MACHINES, 'all machines in the table');
      await until(async () => /^press-4\s+ALARM since/.test(await rows.first().innerText()), async () => `the alarm first, not ${await rows.first().innerText()}`);
      await until(async () => /^press-8\s+No model yet/.test(await rows.nth(1).innerText()), async () => `then the machine without a model, not ${await rows.nth(1).innerText()}`);
      for (const [width, height] of [[390, 844], [1280, 900], [1920, 1080]]) {
        await page.setViewportSize({ width, height });
        await sleep(700);
        await picture(`table-${width}`);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(overflow <= 0, `${overflow} pixels too wide at ${width}`);
      }
      await page.setViewportSize({ width: 1280, height: 900 });
      await page.getByLabel('Search a machine').fill('press-19');
      await until(async () => (await rows.count()) === 11, 'the machines found');
      await page.getByLabel('Search a machine').fill('');
      // The page of a machine, by keyboard.
      await page.locator('[data-machine=press-4]').focus();
      await page.keyboard.press('Enter');
      await until(async () => (await page.locator('.pl-chart svg').count()) === 2, 'the curves of the machine');
      assert.match(await page.locator('.pl-state').innerText(), /ALARM since/);
      await picture('machine');
      await page.getByRole('button', { name: /All machines/ }).click();
      // Learning takes a second press, and then only the machine without a model learns.
      await page.getByRole('button', { name: 'Learn all machines without a model' }).click();
      await page.getByRole('button', { name: 'Learn', exact: true }).click();
      await until(async () => /press-8\s+Learning: \d+ of 1000 readings/.test(await page.locator('[data-machine=press-8]').innerText()), 'the progress');
      await picture('learning');
      assert.deepEqual(complaints, []);
    } finally {
      clearInterval(running);
      await page.close();
    }
  });

  test('learn all at once, and are judged from then on', async () => {
    const quick = structuredClone(plant);
    Object.assign(quick.find(({ type }) => type === 'iforest-train'), { samples: 60, minimum: 60 });
    await nodeRed.deploy(quick);
    await until(() => nodeRed.status(quick, 'readings').fill === 'green', 'the flow to connect');
    await us.subscribeAsync(['plant/+/anomaly', 'plant/+/anomaly/state'], { qos: 1 });
    const some = 40;
    const publish = async (rounds, from = 0) => {
      for (let n = from; n < from + rounds; n += 1) {
        for (let i = 0; i < some; i += 1) await us.publishAsync(`plant/${name(i)}/vibration`, String(normal(i, n)), { qos: 1 });
      }
    };
    await publish(2);
    const states = () => us.heard.filter(({ topic }) => topic.endsWith('/state')).map(({ text }) => JSON.parse(text));
    await until(() => states().length >= some, 'a state of each machine');
    assert.ok(states().every(({ state }) => state === 'no_model'));
    // As the button of the page.
    const command = { learn: 'start', model: 'no model' };
    const inject = { id: '00000000000000aa', type: 'inject', z: quick[0].id, name: 'learn all', props: Object.entries(command).map(([p, v]) => ({ p, v, vt: 'str' })), repeat: '', once: false, x: 100, y: 500, wires: [[nodeNamed(quick, 'keep the table').id]] };
    await nodeRed.deploy([...quick, inject]);
    await until(() => nodeRed.status(quick, 'readings').fill === 'green', 'the flow to connect');
    await publish(2);
    await until(() => states().length >= 2 * some, 'the states again');
    await sleep(300);
    await nodeRed.inject(inject.id);
    await sleep(300);
    await publish(70);
    const models = async () => (await (await fetch(`http://127.0.0.1:${serverPort}/models`)).json()).models.length;
    await until(async () => (await models()) === some + 1, async () => `40 models and default, have ${await models()}`, 60);
    us.heard.length = 0;
    await publish(1, 70);
    await until(() => us.heard.filter(({ text }) => text === 'Normal Behaviour').length >= some - 3, 'predictions');
  });
});

test('the bridge of nodes answers as the bridge of functions', async () => {
  const bridge = readFlow('examples/bridge.json');
  await nodeRed.deploy(bridge);
  await until(() => nodeRed.status(bridge, 'readings').fill === 'green', 'the bridge to connect');
  const TEXT = 'hivemq-edge/machine/s71500/anomaly';
  await us.subscribeAsync(`${TEXT}/#`, { qos: 1 });
  for (const value of [2.5, 9]) await us.publishAsync('hivemq-edge/machine/s71500/rVib', JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
  await us.publishAsync('hivemq-edge/machine/s71500/rVib', '{"value":null}', { qos: 1 });
  await until(() => us.heard.length >= 7, 'seven messages');
  assert.deepEqual(us.texts(TEXT), ['Normal Behaviour', 'Anomaly Detected']);
  assert.deepEqual(us.texts(`${TEXT}/flag`), ['{"value":false}', '{"value":true}']);
  assert.deepEqual(us.texts(`${TEXT}/json`).map((text) => JSON.parse(text).input_value), [2.5, 9]);
  assert.equal(JSON.parse(us.texts(`${TEXT}/state`)[0]).reason, 'the tag has no value');
});
