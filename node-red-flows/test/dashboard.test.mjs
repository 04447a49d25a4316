import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { aedes, client } from '../bed/brokers.mjs';
import { findChromium, launch } from '../bed/chromium.mjs';
import { openEditor } from '../bed/editor.mjs';
import { local, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { startServer } from '../bed/server.mjs';

const bridge = readFlow('2-mqtt-bridge.json');
const retrain = readFlow('3-retrain.json');
const flow = readFlow('4-dashboard.json');
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const TEXT = 'hivemq-edge/machine/s71500/anomaly';
const ALARM = `${TEXT}/alarm`;

const quick = { ALARM_ON: 2, ALARM_OFF: 3, ALARM_COUNT: 3 };
let brokerPort, serverPort, nodeRed, broker, server, us;

before(async () => {
  brokerPort = await freePort();
  serverPort = await freePort();
  nodeRed = await startNodeRed(local(brokerPort, serverPort));
});
after(() => nodeRed?.stop());

beforeEach(async () => {
  broker = await aedes.start(brokerPort);
  server = await startServer(serverPort);
  us = await client(`mqtt://127.0.0.1:${brokerPort}`);
  await us.subscribeAsync([TEXT, ALARM], { qos: 1 });
  const changed = [bridge, withSettings(retrain, { RETRAIN_MIN: 60, RETRAIN_SAMPLES: 100, FALSE_ALARM_RATE: 0.1 }), withSettings(flow, quick)];
  await nodeRed.deploy(...changed);
  for (const [f, name] of [[bridge, 'readings'], [changed[1], 'predictions from the bridge'], [flow, 'predictions from the bridge']]) {
    await until(() => nodeRed.status(f, name).fill === 'green', `${name} to connect`);
  }
});
afterEach(async () => {
  await nodeRed.deploy([]);
  await us.endAsync(true);
  await server.stop();
  await broker.stop();
});

async function predict(values) {
  const seen = us.texts(TEXT).length;
  for (const value of values) await us.publishAsync(READINGS, String(value), { qos: 1 });
  await until(() => us.texts(TEXT).length >= seen + values.length, 'the predictions');
}

const healthy = (count) => Array.from({ length: count }, (_, i) => Number((1.6 + ((i * 37) % 61) / 40).toFixed(3)));

/** Publishes readings for some seconds, so many a second, of which the share is anomalies. */
async function run(seconds, perSecond, isAnomaly, shape = String) {
  const begin = Date.now();
  for (let i = 0; i < seconds * perSecond; i += 1) {
    await sleep(begin + (1000 * i) / perSecond - Date.now());
    const value = isAnomaly(i) ? 9 : healthy(60)[i % 60];
    us.publish(READINGS, shape(value), { qos: 1 });
  }
}

// Operators soon switch off an alarm that every single anomaly raises. The rule counts seconds, at any rate.
for (const perSecond of [2, 50]) {
  test(`single anomalies raise no alarm, two bad seconds do, and it ends after good ones, at ${perSecond} readings a second`, async () => {
    await run(5, perSecond, (i) => i % 8 === 7);
    assert.deepEqual(us.texts(ALARM), []);
    await run(4, perSecond, () => true);
    await until(() => us.texts(ALARM).length === 1, 'the alarm');
    await run(6, perSecond, (i) => i % 8 === 7);
    await until(() => us.texts(ALARM).length === 2, 'the end of the alarm');
    await sleep(500);
    assert.deepEqual(us.texts(ALARM), ['{"value":true}', '{"value":false}']);
  });
}

const executable = findChromium();
if (!executable) {
  notRun('the dashboard in a browser', 'Chromium is not installed');
} else {
  describe('the page in Chromium', () => {
    let browser, page, complaints;

    before(async () => {
      browser = await launch(executable);
    });
    after(() => browser?.close());
    beforeEach(async () => {
      page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
      complaints = [];
      page.on('pageerror', (error) => complaints.push(error.message));
      await page.goto(`${nodeRed.url}/dashboard/vibration`);
    });
    afterEach(() => page.close());

    const shows = (what, text) =>
      until(async () => text.test(await page.locator(what).innerText({ timeout: 10_000 })), async () => `${what} to show ${text}`);
    const picture = async (name) => {
      if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `${name}.png`) });
    };

    // Operators see the lamp from across the hall; it must follow the machine and never stay green without readings.
    test('lamp, counts and charts follow the readings', async () => {
      await shows('[data-test=lamp]', /No readings/);
      await predict(healthy(30));
      await shows('[data-test=lamp]', /Normal/);
      await predict([9]);
      await shows('[data-test=lamp]', /Anomaly/);
      await shows('[data-test=anomalies]', /^1$/);
      await shows('[data-test=counts]', /^of 31 readings since \d\d:\d\d$/);
      await run(4, 10, () => true);
      await shows('[data-test=lamp]', /ALARM/);
      await shows('[data-test=anomalies]', /^41$/);
      await picture('alarm');
      await run(5, 10, () => false);
      await shows('[data-test=lamp]', /Normal/);
      assert.equal(await page.locator('canvas').count(), 2, 'two charts');
      await until(async () => (await charts()).every((colors) => colors > 3), 'the charts to be drawn');
      await shows('[data-test=lamp]', /No readings/);
      assert.deepEqual(complaints, []);
    });

    /** Counts the colours of each chart; an empty chart has only those of its axes. */
    const charts = () =>
      page.locator('canvas').evaluateAll((all) =>
        all.map((canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          const seen = new Map();
          for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] === 255) {
              const color = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
              seen.set(color, (seen.get(color) ?? 0) + 1);
            }
          }
          return [...seen.values()].filter((count) => count > 40).length;
        }),
      );

    // Operators must see a standing alarm though the sensor has fallen silent, and an old value must not look like a current one.
    test('neither silence nor bad quality hides an alarm, and old values say how old they are', async () => {
      await run(4, 10, () => true);
      await shows('[data-test=lamp]', /ALARM\s*since \d\d:\d\d$/);
      await shows('[data-test=lamp]', /ALARM\s*since \d\d:\d\d, no readings for 1\d s/);
      await shows('[data-test=value]', /Last vibration\s*9\.00[^]*1\d s old/);
      await picture('alarm-without-readings');
      const bad = { value: 2.5, timestamp: Date.now(), metadata: { statusCode: { code: 0x808c0000, symbol: 'BadSensorFailure' } } };
      await us.publishAsync(READINGS, JSON.stringify(bad), { qos: 1 });
      await shows('[data-test=lamp]', /ALARM\s*since \d\d:\d\d, now unknown: quality BadSensorFailure/);
      // Good readings end the alarm; then the same quality is shown as what it is.
      await run(5, 10, () => false);
      await shows('[data-test=lamp]', /Normal/);
      // It would be late if Node-RED read the last ones of the run after it was made.
      await sleep(1000);
      await us.publishAsync(READINGS, JSON.stringify({ ...bad, timestamp: Date.now() }), { qos: 1 });
      await shows('[data-test=lamp]', /Unknown\s*not judged: quality BadSensorFailure/);
      await picture('unknown');
      await run(1, 10, () => false);
      await shows('[data-test=lamp]', /Normal/);
      // Late readings are counted, and nothing else.
      for (let i = 0; i < 3; i += 1) await us.publishAsync(READINGS, JSON.stringify({ value: 9, timestamp: Date.now() - 60_000 }), { qos: 1 });
      await shows('[data-test=counts]', /, 3 more came late$/);
      await shows('[data-test=lamp]', /Normal/);
      assert.deepEqual(complaints, []);
    });

    // Charts were empty where readings came more than 1.5 seconds apart.
    test('the charts of a slow machine and of a fast one have curves', async () => {
      await run(16, 0.5, () => false);
      await until(async () => (await charts()).every((colors) => colors > 3), 'the charts of a slow machine to be drawn');
      await picture('slow');
      await run(15, 50, (i) => i % 20 === 19);
      await picture('fast');
      // The page is made for a phone, a desktop and a control room.
      for (const [width, height] of [[390, 844], [1280, 900], [1920, 1080]]) {
        await page.setViewportSize({ width, height });
        await sleep(1000);
        await picture(`at-${width}`);
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
        assert.ok(overflow <= 0, `${overflow} pixels too wide at ${width}`);
      }
      assert.deepEqual(complaints, []);
    });

    // A model with a window has an alarm of its own, which is more than a count.
    test('the alarm of a model with a window is shown as the server says it, after it has warmed up', async () => {
      const samples = Array.from({ length: 400 }, (_, i) => 2 + Math.sin(i / 7) / 4 + ((i * 37) % 61) / 200);
      const body = JSON.stringify({ samples, window: 10, random_state: 1 });
      const url = `http://127.0.0.1:${serverPort}/models/default/retrain`;
      assert.equal((await fetch(url, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body })).status, 200);
      await predict(samples.slice(0, 5));
      await shows('[data-test=lamp]', /Warming up\s*until the model's window is full/);
      await predict(samples.slice(5, 60));
      await shows('[data-test=lamp]', /Normal/);
      await predict([60, 60, 60]);
      await until(() => us.texts(ALARM).length === 1, 'the alarm of the server');
      await shows('[data-test=lamp]', /ALARM/);
      await shows('.if-model', /Alarm at\s+2 of the last 3 readings/);
      assert.deepEqual(complaints, []);
    });

    // The page must never look healthy while the server is down.
    test('the page shows when the server goes down and comes back', async () => {
      await shows('[data-test=server]', /online/);
      await server.stop('SIGKILL');
      await shows('[data-test=server]', /offline/);
      await picture('offline');
      server = await startServer(serverPort);
      await shows('[data-test=server]', /online/);
      assert.deepEqual(complaints, []);
    });

    // Guessed limits are worse than none: the gauge must show the model's limits, before and after a retraining.
    test('the gauge has the limits of the model, and the button retrains it', async () => {
      const model = async () => (await fetch(`http://127.0.0.1:${serverPort}/models/default`)).json();
      const range = (m) => [m.normal_ranges[0][0], m.normal_ranges.at(-1)[1]].map((b) => (b === null ? 'any' : b.toFixed(2))).join(' to ');
      const first = await model();
      await shows('.if-model', new RegExp(`${range(first)} mm/s`));
      await predict(healthy(80));
      await page.getByRole('button', { name: /Retrain/ }).click();
      await shows('.if-result', /Retrained on 80 readings/);
      await shows('[data-test=samples]', /^80$/);
      const learned = await model();
      assert.notEqual(range(learned), range(first));
      await shows('.if-model', new RegExp(`${range(learned)} mm/s`));
      // The gauge shows the ends of its scale, which follow from the limits.
      const bounds = learned.normal_ranges.flat().filter((bound) => bound !== null);
      const ends = await until(async () => {
        const text = (await page.locator('.nrdb-ui-gauge').innerText()).split(/\s+/).map(Number).filter(Number.isFinite);
        return text.length >= 2 && Math.max(...text) >= Math.max(...bounds) && Math.max(...text) <= 3 * Math.max(...bounds) && text;
      }, 'the scale of the gauge');
      assert.ok(Math.min(...ends) <= Math.min(...bounds));
      assert.deepEqual(complaints, []);
    });

    // The page must not look healthy with a model that can never alarm, nor the gauge keep the limits of the model before.
    test('the page warns of a model that can never alarm, and the gauge has no limits then', async () => {
      const gauge = page.locator('.nrdb-ui-gauge');
      await predict(healthy(80));
      await until(async () => /green is normal/.test(await gauge.innerText()), 'the limits of the first model');
      await shows('[data-test=lamp]', /all is well/);
      await fetch(`http://127.0.0.1:${serverPort}/retrain`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ samples: Array(100).fill(2.5) }),
      });
      await shows('[data-test=warnings]', /this model can never alarm/);
      await shows('[data-test=server]', /online\s*see the warning/);
      await predict([1000, 1000]);
      assert.equal(us.texts(TEXT).at(-1), 'Normal Behaviour');
      await until(async () => /the model has no limits[^]*1000/.test(await gauge.innerText()), async () => `a gauge without limits, not ${await gauge.innerText()}`);
      const reds = await gauge.evaluate((node) => (node.outerHTML.match(/#d64545|rgb\(214, 69, 69\)/gi) ?? []).length);
      assert.equal(reds, 0, 'no part of the gauge is red');
      await shows('[data-test=lamp]', /Normal\s*but see the warning/);
      assert.match(await page.locator('[data-test=lamp]').getAttribute('class'), /if-none/, 'the lamp is not green');
      await picture('warning');
      // After a retraining on varied readings the warning is gone.
      await fetch(`http://127.0.0.1:${serverPort}/retrain`, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ samples: healthy(200) }),
      });
      await until(async () => (await page.locator('[data-test=warnings]').count()) === 0, 'the warning to go');
      await until(async () => /green is normal/.test(await gauge.innerText()), 'the limits of the new model');
      const colours = await gauge.evaluate((node) => (node.outerHTML.match(/#d64545|rgb\(214, 69, 69\)/gi) ?? []).length);
      assert.ok(colours > 0, 'the gauge has red again');
      assert.deepEqual(complaints, []);
    });

    // The README promises lamp, counts and score for such a model; without them the page would show no readings.
    test('lamp and counts follow a model with several features', async () => {
      const samples = Array.from({ length: 200 }, (_, i) => [2 + ((i * 37) % 200) / 200, 58 + ((i * 91) % 200) / 40]);
      const body = JSON.stringify({ samples, feature_names: ['vibration', 'temperature'], out_of_range: 'anomaly' });
      const headers = { 'Content-Type': 'application/json' };
      const url = `http://127.0.0.1:${serverPort}/models/default/retrain`;
      assert.equal((await fetch(url, { method: 'POST', headers, body })).status, 200);
      await predict(Array.from({ length: 10 }, () => '{"value":{"vibration":2.5,"temperature":60}}'));
      await shows('[data-test=lamp]', /Normal\s*all is well/);
      await run(4, 5, () => true, () => '{"value":[2.5,90]}');
      await shows('[data-test=lamp]', /ALARM/);
      await shows('[data-test=anomalies]', /^20$/);
      await until(async () => /not for several features/.test(await page.locator('.nrdb-ui-gauge').innerText()), 'the title of the gauge');
      assert.deepEqual(complaints, []);
      assert.doesNotMatch(nodeRed.program.log, /TypeError/);
    });

    // Two dashboards with one URL show an error instead of both pages, and with a wrong topic a machine would learn another's readings.
    test('flows 2, 3 and 4 imported twice serve two machines side by side', async () => {
      await nodeRed.deploy([]);
      const { page: editor, importFlow, deploy } = await openEditor(browser, nodeRed);
      const files = ['2-mqtt-bridge.json', '3-retrain.json', '4-dashboard.json'];
      for (const name of files) await importFlow(name);
      for (const name of files) await importFlow(name, { again: true });
      const ours = (n) => files.some((name) => readFlow(name)[0].label === n.label);
      const imported = await deploy((flows) => flows.filter(ours).length === 6);
      await editor.close();

      // The settings that the README lists for the tabs of the second machine.
      const url = `http://127.0.0.1:${serverPort}/models/press-1`;
      const base = 'plant/press-1';
      const settings = {
        READING_TOPIC: `${base}/vibration`, ANOMALY_TOPIC: `${base}/anomaly`, RETRAIN_TOPIC: `${base}/retrain`, IFOREST_URL: url,
        MACHINE_NAME: 'Press 1', DASHBOARD_PAGE: 'press-1',
      };
      const few = { SCRATCH_SAMPLES: '200', RETRAIN_MIN: '40' };
      const first = files.map((name) => readFlow(name)[0].id);
      for (const tab of imported.filter((n) => n.type === 'tab' && ours(n))) {
        const own = first.includes(tab.id) ? few : { ...few, ...settings };
        for (const entry of tab.env) if (entry.name in own) Object.assign(entry, { type: 'str', value: own[entry.name] });
      }
      await nodeRed.deploy(imported);
      const listening = imported.filter((n) => n.type === 'mqtt in' && n.inputs !== 1).map((n) => n.id);
      assert.equal(listening.length, 14);
      await until(() => listening.every((id) => nodeRed.statuses.get(id)?.fill === 'green'), 'both machines to connect');

      const press = await client(`mqtt://127.0.0.1:${brokerPort}`);
      await press.subscribeAsync([`${base}/anomaly`, `${base}/retrain/result`], { qos: 1 });
      const warm = (count) => healthy(count).map((value) => value + 100);
      const publish = async (topic, values) => {
        for (const value of values) await press.publishAsync(topic, String(value), { qos: 1 });
      };
      await press.publishAsync(`${base}/retrain/from-scratch`, 'start', { qos: 1 });
      await until(() => press.texts(`${base}/retrain/result`).length > 0, 'the start');
      await publish(`${base}/vibration`, warm(100));
      // The other machine runs meanwhile, and its readings must not be used.
      await predict(healthy(30));
      await publish(`${base}/vibration`, warm(100));
      const done = await until(() => press.texts(`${base}/retrain/result`).map((text) => JSON.parse(text)).find((said) => said.retrained), 'the training');
      assert.equal(done.samples_used, 200);
      const [range] = (await (await fetch(url)).json()).training_ranges;
      assert.ok(range[0] > 101, `only readings of the press: ${range}`);

      await predict([2.5, 102.5]);
      await publish(`${base}/vibration`, [102.5, 2.5]);
      await until(() => press.texts(`${base}/anomaly`).at(-1) === 'Anomaly Detected', 'the predictions for the press');
      assert.deepEqual(us.texts(TEXT).slice(-2), ['Normal Behaviour', 'Anomaly Detected']);
      assert.deepEqual(press.texts(`${base}/anomaly`).slice(-2), ['Normal Behaviour', 'Anomaly Detected']);

      await page.goto(`${nodeRed.url}/dashboard/vibration`);
      await shows('.if-head', /Machine S7-1500[^]*102\.50[^]*of 32 readings/);
      assert.equal(await page.title(), 'Machine S7-1500 · vibration');
      const second = await browser.newPage();
      await second.goto(`${nodeRed.url}/dashboard/press-1`);
      await until(async () => /Press 1[^]*2\.50/.test(await second.locator('.if-head').innerText()), 'the page of the press');
      assert.match(await second.locator('.if-model').innerText(), /Training readings\s+200/);
      assert.equal(await second.title(), 'Press 1 · press-1');
      // Its button retrains its own model.
      const before = press.texts(`${base}/anomaly`).length;
      await predict(healthy(60));
      await publish(`${base}/vibration`, warm(60));
      await until(() => press.texts(`${base}/anomaly`).length >= before + 60, 'the predictions to learn from');
      await second.getByRole('button', { name: /Retrain/ }).click();
      const again = await until(() => press.texts(`${base}/retrain/result`).map((text) => JSON.parse(text)).find((said) => said.why === 'by command'), 'the retraining');
      assert.equal(again.retrained, true, again.reason);
      assert.equal((await (await fetch(url)).json()).version, 2);
      assert.equal((await (await fetch(`http://127.0.0.1:${serverPort}/models/default`)).json()).version, null);
      assert.deepEqual(complaints, []);
      await second.close();
      await press.endAsync(true);
    });

    // A plant has more than one machine. A tab that names a model must use, train and show that model, and leave the default unchanged.
    test('tabs that name a model use that model', async () => {
      const url = `http://127.0.0.1:${serverPort}/models/press-1`;
      const model = async (at = url) => (await fetch(at)).json();
      const warm = (count) => healthy(count).map((value) => Number((value + 100).toFixed(3)));
      const own = { IFOREST_URL: url };
      const changed = [bridge, withSettings(retrain, { RETRAIN_MIN: 50, RETRAIN_SAMPLES: 100, SCRATCH_SAMPLES: 200 }), flow];
      await nodeRed.deploy(...changed.map((f) => withSettings(f, own)));
      await until(() => nodeRed.status(bridge, 'readings').fill === 'green', 'the bridge to connect');
      await until(() => nodeRed.status(retrain, 'predictions from the bridge').fill === 'green', 'the retrain flow to connect');
      await until(() => nodeRed.status(flow, 'predictions from the bridge').fill === 'green', 'the dashboard to connect');
      await page.goto(`${nodeRed.url}/dashboard/vibration`);
      // A model that is not trained yet is neither an outage nor healthy.
      await shows('[data-test=server]', /online\s*no model press-1 yet/);
      await shows('[data-test=lamp]', /No readings\s*no model press-1 yet/);
      // Learns the new machine from scratch; the page shows the progress.
      await us.publishAsync('hivemq-edge/machine/s71500/retrain/from-scratch', 'start', { qos: 1 });
      await shows('.if-result', /Learning from scratch: 0 of 200 readings, 60 min left/);
      for (const value of warm(200).slice(0, 120)) await us.publishAsync(READINGS, String(value), { qos: 1 });
      await shows('.if-result', /Learning from scratch: 120 of 200 readings/);
      for (const value of warm(200).slice(120)) await us.publishAsync(READINGS, String(value), { qos: 1 });
      await shows('.if-result', /Retrained on 200 readings\.$/);
      await shows('[data-test=server]', /online\s*model loaded/);
      const seen = us.texts(TEXT).length;
      await predict([2.5, ...warm(80)]);
      assert.equal(us.texts(TEXT)[seen], 'Anomaly Detected');
      assert.equal(us.texts(TEXT).at(-1), 'Normal Behaviour');
      const learned = await model();
      await shows('.if-model', new RegExp(`${learned.normal_ranges[0][0].toFixed(2)} to`));
      await page.getByRole('button', { name: /Retrain/ }).click();
      await shows('.if-result', /Retrained on \d\d readings/);
      assert.equal((await model()).version, learned.version + 1);
      assert.equal((await model(`http://127.0.0.1:${serverPort}/models/default`)).version, null);
      assert.deepEqual(complaints, []);
    });
  });
}
