import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { aedes, client } from '../bed/brokers.mjs';
import { startFakeServer } from '../bed/fake-server.mjs';
import { local, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const bridge = readFlow('2-mqtt-bridge.json');
const retrain = readFlow('3-retrain.json');
const dashboard = readFlow('4-dashboard.json');
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const WHOLE = 'hivemq-edge/machine/s71500/anomaly/json';
const RESULT = 'hivemq-edge/machine/s71500/retrain/result';

// The flows must not depend on the wording of an error.
const noModel = { status: 404, body: { error: 'some other wording', code: 'no_model' } };
const refusal = (index, more = {}) => ({
  status: 422,
  body: { error: 'some other wording', code: 'wrong_type', field: 'values', index, ...more },
});
const predictions = (values) => ({
  status: 200,
  body: { predictions: values.map((value) => ({ input_value: value, scaled_value: 0, prediction: 0, anomaly_score: -0.1, status: 'Normal Behaviour' })) },
});
// Responses of a proxy or of a server of another kind. They must count as an outage: the readings stay in the queue.
const foreign = {
  'an HTML page': { status: 404, body: '<html><h1>404 Not Found</h1></html>', type: 'text/html' },
  'an HTML page with status 200': { status: 200, body: '<html>Please log in</html>', type: 'text/html' },
  'a status text that the server does not define': {
    status: 200,
    body: { predictions: [1, 2].map((value) => ({ input_value: value, prediction: 0, anomaly_score: -0.1, status: 'Fine' })) },
  },
  'an empty body': { status: 502, body: '' },
  'a JSON null': { status: 500, body: 'null' },
  'a JSON list': { status: 404, body: ['no_model'] },
  'prose without a code': { status: 404, body: { error: 'there is no model press-1' } },
  'prose with an index but no field': { status: 422, body: { error: 'values[1] must be a finite number' } },
  'an error as an object': { status: 400, body: { error: { message: 'bad gateway' }, code: 400 } },
  'another code': { status: 404, body: { error: 'there is no such path', code: 'not_found' } },
  'an index of another field': { status: 422, body: { error: 'wrong', code: 'wrong_type', field: 'samples', index: 0 } },
  'an index beyond the batch': refusal(7),
  'a negative index': refusal(-1),
  'an index that is text': refusal('0'),
  'a field without an index': { status: 413, body: { error: 'too many', code: 'too_many', field: 'values' } },
};

let brokerPort, serverPort, nodeRed, broker, us, server, respond;

before(async () => {
  brokerPort = await freePort();
  serverPort = await freePort();
  nodeRed = await startNodeRed(local(brokerPort, serverPort));
});
after(() => nodeRed?.stop());

beforeEach(async () => {
  broker = await aedes.start(brokerPort);
  us = await client(`mqtt://127.0.0.1:${brokerPort}`);
  await us.subscribeAsync([WHOLE, RESULT], { qos: 1 });
  server = await startFakeServer(serverPort, (body, request) => respond(body, request));
});
afterEach(async () => {
  await nodeRed.deploy([]);
  await us.endAsync(true);
  await server.stop();
  await broker.stop();
});

const send = (value) => us.publishAsync(READINGS, JSON.stringify({ value }), { qos: 1 });
const reports = () => nodeRed.debug.map((event) => event.msg);
const values = () => us.texts(WHOLE).map((text) => JSON.parse(text).input_value);

describe('the bridge', () => {
  const shown = (flow = bridge) => nodeRed.status(flow, 'one request at a time').text ?? '';
  async function deploy(flow = bridge) {
    await nodeRed.deploy(flow);
    await until(() => nodeRed.status(flow, 'readings').fill === 'green', 'the bridge to connect');
  }

  test('removes the reading that field and index name, and sends the others again', async () => {
    respond = () => ({ status: 503, body: { error: 'wait', code: 'busy' } });
    await deploy();
    for (const value of [1, 2, 3, 4]) await send(value);
    await until(() => /^server down: wait, 4 waiting$/.test(shown()), () => `four to wait, not ${shown()}`);
    respond = ({ values: sent }) => (sent.includes(3) ? refusal(sent.indexOf(3), { feature: 'temperature' }) : predictions(sent));
    await until(() => values().length === 3, 'the predictions');
    assert.deepEqual(values(), [1, 2, 4]);
    await until(() => reports().includes('refused by the server: some other wording'), () => `the report, have ${reports()}`);
  });

  // A model that was trained on other features refuses every reading, fifty times a second.
  test('reports ten refused readings a minute, and loses no other', async () => {
    await deploy();
    respond = ({ values: sent }) => (sent.some((value) => value < 1000) ? refusal(sent.findIndex((value) => value < 1000)) : predictions(sent));
    for (let i = 0; i < 100; i += 1) await send(i % 10 === 9 ? 1000 + i : i);
    await until(() => values().length === 10, () => `the predictions, have ${values()}`);
    assert.deepEqual(values(), Array.from({ length: 10 }, (_, i) => 1009 + 10 * i));
    await sleep(300);
    assert.equal(reports().filter((text) => text.startsWith('refused by the server: ')).length, 10);
  });

  test('recognizes a missing model by its code and names it after its URL', async () => {
    respond = () => noModel;
    for (const [url, name] of [
      [`http://127.0.0.1:${serverPort}/models/press-1`, 'press-1'],
      [`http://127.0.0.1:${serverPort}/models/plant/models/press-2`, 'press-2'],
      [`http://127.0.0.1:${serverPort}`, 'default'],
    ]) {
      const own = withSettings(bridge, { IFOREST_URL: url });
      await deploy(own);
      await send(1);
      await until(() => shown(own) === `no model ${name} yet, 1 skipped, 0 waiting`, () => `the status, not ${shown(own)}`);
    }
  });

  test('keeps its readings when another program responds', async () => {
    respond = () => ({ status: 500, body: '' });
    await deploy();
    for (const [what, response] of Object.entries(foreign)) {
      respond = () => response;
      server.requests.length = 0;
      const seen = values().length;
      await send(1);
      await send(2);
      await until(() => server.requests.length > 0, `a request for ${what}`);
      await until(() => /^server down: .*, 2 waiting$/.test(shown()), () => `an outage with ${what}, not ${shown()}`);
      respond = ({ values: sent }) => predictions(sent);
      await until(() => values().length === seen + 2, `the predictions after ${what}`);
      assert.deepEqual(values().slice(seen), [1, 2], what);
    }
    assert.ok(!reports().some((text) => text.startsWith('refused')), String(reports()));
  });
});

test('the dashboard recognizes a missing model by its code only', async () => {
  const own = withSettings(dashboard, { IFOREST_URL: `http://127.0.0.1:${serverPort}/models/press-1` });
  const shown = () => nodeRed.status(own, 'store the model').text ?? '';
  respond = () => noModel;
  await nodeRed.deploy(own);
  await until(() => shown() === 'no model press-1 yet', () => `the missing model, not ${shown()}`);
  for (const what of ['an HTML page', 'prose without a code', 'an empty body']) {
    respond = () => foreign[what];
    await until(() => shown() === 'server down', () => `${what} as an outage, not ${shown()}`);
    respond = () => noModel;
    await until(() => shown() === 'no model press-1 yet', () => `the missing model, not ${shown()}`);
  }
});

test('the retrain flow publishes the prose of an error, whatever its code', async () => {
  respond = (body) => (body?.values ? predictions(body.values) : { status: 422, body: { error: 'too small', code: 'too_few', field: 'samples' } });
  const own = withSettings(retrain, { RETRAIN_MIN: 2 });
  await nodeRed.deploy(bridge, own);
  await until(() => nodeRed.status(bridge, 'readings').fill === 'green', 'the bridge to connect');
  await until(() => nodeRed.status(own, 'predictions from the bridge').fill === 'green', 'the retrain flow to connect');
  for (const value of [1, 2]) await send(value);
  await until(() => values().length === 2, 'the predictions');
  await us.publishAsync('hivemq-edge/machine/s71500/retrain', 'go', { qos: 1 });
  const [result] = await until(() => us.texts(RESULT).length > 0 && us.texts(RESULT).map((text) => JSON.parse(text)), 'the result');
  assert.deepEqual([result.retrained, result.reason], [false, 'too small']);
  respond = () => foreign['an HTML page'];
  await us.publishAsync('hivemq-edge/machine/s71500/retrain', 'go', { qos: 1 });
  await until(() => us.texts(RESULT).length > 1, 'the second result');
  assert.equal(JSON.parse(us.texts(RESULT)[1]).reason, 'status 404');
});

// The fake responses above must match the real server.
test('the real server sends the fields that the flows read', async () => {
  const port = await freePort();
  const real = await startServer(port);
  try {
    const post = async (path, body) => {
      const headers = { 'Content-Type': 'application/json' };
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
      return { status: response.status, ...(await response.json()) };
    };
    const missing = await post('/models/press-1/predict', { values: [1] });
    assert.deepEqual([missing.status, missing.code], [404, 'no_model']);
    const model = await (await fetch(`http://127.0.0.1:${port}/models/press-1`)).json();
    assert.equal(model.code, 'no_model');
    const refused = await post('/predict', { values: [1, 2, 'x', 4] });
    assert.deepEqual([refused.code, refused.field, refused.index], ['wrong_type', 'values', 2]);
    assert.equal(typeof refused.error, 'string');
  } finally {
    await real.stop();
  }
});
