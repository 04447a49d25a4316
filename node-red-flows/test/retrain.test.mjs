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
const SCRATCH = `${COMMAND}/from-scratch`;
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
  // Learning from scratch tells of its progress on the same topic.
  const text = await until(() => us.texts(RESULT).find((said) => 'retrained' in JSON.parse(said)), 'the result');
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
  assert.equal(said.reason, '30 of the last 100 readings were anomalies (30 %), 20 % are allowed; if the machine is healthy all the same, learn from scratch');
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

const machine = (count) => Array.from({ length: count }, (_, i) => Number((10 + (2 * ((i * 37) % count)) / count).toFixed(4)));
const button = (name) => nodeRed.inject(nodeNamed(flow, name, 'inject').id);
const learning = () => us.texts(RESULT).map((text) => JSON.parse(text)).filter((said) => said.learning);
/** Starts learning, by button or command, and waits until the flow listens. */
async function learn(how = () => button('learn from scratch')) {
  await how();
  await until(() => learning().length > 0, 'the start');
  // The subscription is on its way to the broker when the flow says so.
  await sleep(200);
}
const publish = async (payloads) => {
  for (const payload of payloads) await us.publishAsync(READINGS, payload === null ? '{"value":null}' : String(payload), { qos: 1 });
};

// To the makers' model each reading of this healthy machine is an anomaly, so it could never be taught by its verdicts.
test('a machine that runs at 10 to 12 is refused, then learned from scratch by the button', async () => {
  await deploy({ ...few, SCRATCH_SAMPLES: 200 });
  await judge(machine(55));
  await button('retrain now');
  const refused = await result();
  assert.equal(refused.retrained, false);
  assert.equal(refused.reason, 'only 0 normal readings, 50 are needed; 55 of the last 55 readings were anomalies; if the machine is healthy all the same, learn from scratch');

  await learn();
  assert.deepEqual([learning()[0].readings, learning()[0].of, learning()[0].minutes_left], [0, 200, 60]);
  await publish([...machine(200).slice(0, 30), null, 'abc', '', '{"value":[', '{"value":{}}']);
  const shown = () => nodeRed.status(flow, 'say it').text;
  await until(() => learning().some((said) => said.readings === 30 && said.left_out === 5), 'the progress');
  await until(() => shown() === 'learning from scratch: 30 of 200 readings', () => `the node to say so, not ${shown()}`);
  const texts = machine(200).slice(30).map((value) => `{"value":"${value}","tagName":"rVib"}`);
  await publish(texts.slice(0, -1));
  // The old model's verdicts come first, so that none of them is counted after the training.
  await until(() => us.texts(WHOLE).length >= 199, 'the verdicts of the old model');
  await publish(texts.slice(-1));
  const { time, ...said } = await result();
  assert.ok(time);
  assert.deepEqual(said, { retrained: true, why: 'from scratch', samples_used: 200, message: 'Model retrained successfully', warnings: [] });
  await until(() => /retrained on 200 readings$/.test(shown()), 'the node to say what came of it');
  const verdicts = await judge([11, 11.5, 20, 2.5]);
  assert.deepEqual(verdicts.map((v) => v.prediction), [0, 0, 1, 1]);
  // The verdicts of the model before count no more: the machine can be retrained in the usual way from here.
  await judge(machine(60));
  await button('retrain now');
  const next = await result();
  assert.deepEqual([next.retrained, next.why], [true, 'by button'], next.reason);
  assert.ok(next.samples_used >= 50 && next.samples_used <= 62, `${next.samples_used} readings, none of before`);
});

test('a new model by name is made by a message, and the verdicts begin', async () => {
  const own = { IFOREST_URL: `http://127.0.0.1:${serverPort}/models/press-1` };
  // A command that the broker keeps would start learning again at each reconnection.
  await us.publishAsync(SCRATCH, 'start', { qos: 1, retain: true });
  await deploy({ ...few, ...own, SCRATCH_SAMPLES: 60 }, own);
  await publish(machine(5));
  await button('retrain now');
  assert.match((await result()).reason, /no verdicts came yet: a machine without a model is learned from scratch/);
  assert.deepEqual(learning(), []);
  await learn(() => us.publishAsync(SCRATCH, 'start', { qos: 1 }));
  await publish(machine(60));
  const said = await result();
  assert.deepEqual([said.retrained, said.why, said.samples_used, said.warnings], [true, 'from scratch', 60, []]);
  assert.deepEqual((await judge([11, 20])).map((v) => v.prediction), [0, 1]);
  const models = await (await fetch(`http://127.0.0.1:${serverPort}/models/default`)).json();
  assert.equal(models.version, null, 'the default model is as it was');
});

// The names of the features must reach the model, or readings by name would be refused ever after.
test('a machine of several features is learned from scratch and retrained', async () => {
  const own = { IFOREST_URL: `http://127.0.0.1:${serverPort}/models/press-2` };
  await deploy({ ...few, ...own, SCRATCH_SAMPLES: 200 }, own);
  await learn();
  const named = (i) => ({ value: { vibration: 2 + ((i * 37) % 200) / 200, temperature: 58 + ((i * 91) % 200) / 40 } });
  const readings = Array.from({ length: 200 }, (_, i) => named(i));
  for (const reading of readings) await us.publishAsync(READINGS, JSON.stringify(reading), { qos: 1 });
  await us.publishAsync(READINGS, '2.5', { qos: 1 });
  assert.equal((await result()).samples_used, 200);
  const model = async () => (await fetch(own.IFOREST_URL)).json();
  assert.deepEqual((await model()).feature_names, ['vibration', 'temperature']);
  await sleep(300);
  const verdicts = await judge(readings.slice(0, 100).map((reading) => JSON.stringify(reading)));
  assert.deepEqual(verdicts[0].input_value, [2, 58]);
  await button('retrain now');
  const said = await result();
  assert.equal(said.retrained, true, said.reason);
  assert.deepEqual([(await model()).version, (await model()).features], [2, 2]);
});

// A slow machine must not keep the engineer waiting for a thousand readings, nor be judged by a handful.
test('learning from scratch ends with its time, and refuses too few', async () => {
  // As one of those who share a topic's readings it would take them away from the bridges, so it takes the whole topic.
  const soon = { ...few, READING_TOPIC: `$share/judges/${READINGS}`, SCRATCH_SAMPLES: 1000, SCRATCH_MINUTES: 3 / 60 };
  await deploy(soon);
  await learn();
  await publish(machine(55));
  assert.deepEqual([(await result()).samples_used], [55]);
  await learn();
  await publish(machine(49));
  const said = await result();
  assert.deepEqual([said.retrained, said.reason], [false, `only 49 readings came on ${READINGS} in 0.05 minutes, 50 are needed`]);
});

test('learning from scratch is stopped by button or message, and not started twice', async () => {
  await deploy({ ...few, SCRATCH_SAMPLES: 60 });
  for (const stop of [() => button('stop learning'), () => us.publishAsync(SCRATCH, 'stop', { qos: 1 })]) {
    await learn();
    await publish(machine(10));
    await until(() => learning().at(-1).readings === 10, 'ten readings');
    await us.publishAsync(SCRATCH, 'start', { qos: 1 });
    assert.equal((await result()).reason, 'learning from scratch is under way');
    await stop();
    assert.equal((await result()).reason, 'learning from scratch was stopped after 10 readings');
  }
  us.heard.length = 0;
  await publish(machine(100));
  await sleep(1500);
  assert.deepEqual(us.texts(RESULT), [], 'nothing is learned after it');
});

// An hour of readings must not be lost because the server was restarted in the minute when they were complete.
test('learning from scratch outlives a broker and a server that are down for a while', async () => {
  await deploy({ ...few, SCRATCH_SAMPLES: 60 });
  await learn();
  await publish(machine(30));
  await until(() => learning().at(-1).readings === 30, 'the first half');
  await broker.stop('SIGKILL');
  broker = await aedes.start(brokerPort);
  await until(() => us.connected && nodeRed.status(flow, 'readings, while it learns').fill === 'green', 'all to connect');
  await us.subscribeAsync([WHOLE, RESULT], { qos: 1 });
  await sleep(300);
  await server.stop('SIGKILL');
  await publish(machine(30));
  const failed = await result();
  assert.equal(failed.retrained, false);
  assert.match(failed.reason, /(ECONNREFUSED|socket hang up|ECONNRESET)[^]*the readings are kept, and sent again in 10 seconds$/);
  server = await startServer(serverPort);
  const said = await result();
  assert.deepEqual([said.retrained, said.samples_used], [true, 60]);
});
