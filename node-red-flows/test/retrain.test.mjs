import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { aedes, client } from '../bed/brokers.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const bridge = readFlow('2-mqtt-bridge.json');
const flow = readFlow('3-retrain.json');
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const WHOLE = 'hivemq-edge/machine/s71500/anomaly/json';
const COMMAND = 'hivemq-edge/machine/s71500/retrain';
const RESULT = `${COMMAND}/result`;
const few = { RETRAIN_SAMPLES: 100, RETRAIN_MIN: 50 };

let brokerPort, serverPort, nodeRed, broker, server, us;

before(async () => {
  brokerPort = await freePort();
  serverPort = await freePort();
  nodeRed = await startNodeRed(local(brokerPort, serverPort));
});
after(() => nodeRed?.stop());

// The flow speaks MQTT no differently from the bridge, which is tested on every broker; one is enough here.
beforeEach(async () => {
  broker = await aedes.start(brokerPort);
  server = await startServer(serverPort);
  us = await client(`mqtt://127.0.0.1:${brokerPort}`);
  await us.subscribeAsync([WHOLE, RESULT], { qos: 1 });
});
afterEach(async () => {
  await nodeRed.deploy([]);
  await us.endAsync(true);
  await server.stop();
  await broker.stop();
});

async function deploy(settings, ofTheBridge = {}) {
  const changed = withSettings(flow, settings);
  await nodeRed.deploy(withSettings(bridge, ofTheBridge), changed);
  await until(() => nodeRed.status(bridge, 'readings').fill === 'green', 'the bridge to connect');
  await until(() => nodeRed.status(changed, 'retrain command').fill === 'green', 'the flow to connect');
}

/** Makes or replaces a model by hand. */
async function train(url, samples) {
  const headers = { 'Content-Type': 'application/json' };
  const answer = await fetch(`${url}/retrain`, { method: 'POST', headers, body: JSON.stringify({ samples }) });
  assert.equal(answer.status, 200);
}

async function judge(values) {
  const before = us.texts(WHOLE).length;
  for (const value of values) await us.publishAsync(READINGS, String(value), { qos: 1 });
  await until(() => us.texts(WHOLE).length >= before + values.length, 'the verdicts');
  return us.texts(WHOLE).slice(before).map((text) => JSON.parse(text));
}

async function result() {
  const text = await until(() => us.texts(RESULT)[0], 'the result');
  us.heard.length = 0;
  return JSON.parse(text);
}

const narrow = (count) => Array.from({ length: count }, (_, i) => Number((2 + ((i * 37) % count) / count).toFixed(4)));

// The whole point of retraining: what was normal for the makers' model is not for a machine that never did it.
test('the button retrains on the last normal readings and changes the verdicts', async () => {
  await deploy(few);
  const [before] = await judge([4]);
  assert.equal(before.status, 'Normal Behaviour');
  // The anomaly among them must not be learned, and the 4 from before has left the last hundred.
  await judge([...narrow(60), 9, ...narrow(60)]);
  await nodeRed.inject(nodeNamed(flow, 'retrain now').id);
  const { time, ...said } = await result();
  assert.ok(Math.abs(Date.now() - Date.parse(time)) < 60_000);
  assert.deepEqual(said, { retrained: true, why: 'by button', samples_used: 100, message: 'Model retrained successfully', warnings: [] });
  const [four, middle, nine] = await judge([4, 2.5, 9]);
  assert.equal(four.status, 'Anomaly Detected');
  assert.equal(middle.status, 'Normal Behaviour');
  assert.equal(nine.status, 'Anomaly Detected');
  assert.notEqual(middle.scaled_value, before.scaled_value);
});

// A sensor that is stuck teaches a model that calls everything normal; nobody reads the server's log.
test('a model that can never alarm is told of, under each kind of URL', async () => {
  const press = `http://127.0.0.1:${serverPort}/models/press-1`;
  for (const url of [`http://127.0.0.1:${serverPort}`, press]) {
    if (url === press) await train(press, narrow(200));
    const own = { IFOREST_URL: url };
    await deploy({ ...few, ...own }, own);
    await judge(Array.from({ length: 60 }, () => 2.5));
    await nodeRed.inject(nodeNamed(flow, 'retrain now').id);
    const said = await result();
    assert.deepEqual([said.retrained, said.samples_used, said.warnings.length], [true, 60, 1], url);
    assert.match(said.warnings[0], /^this model can never alarm: /);
    const shown = await until(() => /retrained/.test(nodeRed.status(flow, 'say it').text) && nodeRed.status(flow, 'say it'), 'the node to say so');
    assert.equal(shown.fill, 'yellow');
    assert.match(shown.text, /retrained on 60 readings; this model can never alarm/);
    assert.equal((await judge([1000]))[0].status, 'Normal Behaviour', 'it is as blind as it says');
  }
});

test('a message on the command topic retrains, a retained one does not', async () => {
  // Kept by the broker, it would retrain at every reconnection for as long as nobody clears it.
  await us.publishAsync(COMMAND, 'go', { qos: 1, retain: true });
  await deploy(few);
  await judge(narrow(60));
  await sleep(300);
  assert.deepEqual(us.texts(RESULT), []);
  await us.publishAsync(COMMAND, 'go', { qos: 1 });
  const said = await result();
  assert.deepEqual([said.retrained, said.why, said.samples_used], [true, 'by command', 60]);
});

// Nobody remembers to press a button for a year.
test('a schedule retrains by itself', async () => {
  await deploy({ ...few, RETRAIN_EVERY_HOURS: 2 / 3600 });
  await judge(narrow(60));
  const said = await until(() => us.texts(RESULT).map((text) => JSON.parse(text)).find((r) => r.retrained), 'a training');
  assert.deepEqual([said.why, said.samples_used], ['by schedule', 60]);
});

// Three readings after a restart know nothing of the machine; the model made of them would cry wolf.
test('too few readings are refused', async () => {
  await deploy(few);
  await judge(narrow(49));
  await nodeRed.inject(nodeNamed(flow, 'retrain now').id);
  const said = await result();
  assert.deepEqual([said.retrained, said.reason], [false, 'only 49 normal readings, 50 are needed']);
});

// A bearing that fails slowly would otherwise teach the model that failing is normal.
test('a high share of anomalies is refused', async () => {
  await deploy(few);
  await judge([...narrow(70), ...Array.from({ length: 30 }, () => 9)]);
  await nodeRed.inject(nodeNamed(flow, 'retrain now').id);
  const said = await result();
  assert.equal(said.retrained, false);
  assert.equal(said.reason, '30 % of the readings are anomalies, 20 % are allowed');
});

test('a server that is down is named, and the next try works', async () => {
  await deploy(few);
  await judge(narrow(60));
  await server.stop('SIGKILL');
  await us.publishAsync(COMMAND, 'go', { qos: 1 });
  const said = await result();
  assert.equal(said.retrained, false);
  assert.match(said.reason, /ECONNREFUSED|socket hang up|ECONNRESET/);
  server = await startServer(serverPort);
  await us.publishAsync(COMMAND, 'go', { qos: 1 });
  assert.equal((await result()).samples_used, 60);
});
