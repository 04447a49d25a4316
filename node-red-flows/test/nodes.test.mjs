// The nodes of the package, packed and installed as users do, in a real Node-RED.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startFakeServer } from '../bed/fake-server.mjs';
import { startNodeRed } from '../bed/node-red.mjs';
import { userWithPackage } from '../bed/package.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const id = (n) => `c0ffee000000000${n.toString(16)}`.slice(0, 16);
const [TAB, SERVER, PREDICT, TRAIN, OUT, STATES, TRAINED, READING, TICK] = Array.from({ length: 9 }, (_, i) => id(i));

/** Readings come over HTTP, and what the nodes send is kept in the context of the flow. */
function flow(serverPort, { predict = {}, train = {} } = {}) {
  const keep = (key) => `const kept = flow.get('${key}') || []; kept.push({ topic: msg.topic, model: msg.model, payload: msg.payload }); flow.set('${key}', kept);`;
  const fn = (nodeId, func) => ({ id: nodeId, type: 'function', z: TAB, name: '', func, outputs: 0, libs: [], x: 500, y: 100, wires: [] });
  return [
    { id: TAB, type: 'tab', label: 'test' },
    { id: SERVER, type: 'iforest-server', name: '', url: `http://127.0.0.1:${serverPort}`, tls: '' },
    { id: READING, type: 'http in', z: TAB, name: 'in', url: '/messages', method: 'post', x: 100, y: 100, wires: [[id(9)]] },
    {
      id: id(9),
      type: 'function',
      z: TAB,
      name: 'split',
      func: "node.send([msg.payload.predict || [], msg.payload.train || []].map((list) => list.map((m) => ({ ...m }))));\nreturn [null, null, { payload: {}, res: msg.res, req: msg.req }];",
      outputs: 3,
      libs: [],
      x: 200,
      y: 100,
      wires: [[PREDICT], [TRAIN], [id(10)]],
    },
    { id: id(10), type: 'http response', z: TAB, name: '', statusCode: '', headers: {}, x: 300, y: 200, wires: [] },
    { id: PREDICT, type: 'iforest-predict', z: TAB, name: 'predict', server: SERVER, model: '', limit: 10000, maxAge: 5, x: 300, y: 100, ...predict, wires: [[OUT], [STATES]] },
    { id: TRAIN, type: 'iforest-train', z: TAB, name: 'train', server: SERVER, model: '', samples: 300, minimum: 100, minutes: 1, maxShare: 0.1, rate: '', window: '', x: 300, y: 160, ...train, wires: [[TRAINED]] },
    fn(OUT, keep('predictions')),
    fn(STATES, keep('states')),
    fn(TRAINED, keep('trainings')),
    { id: TICK, type: 'http in', z: TAB, name: 'kept', url: '/kept', method: 'get', x: 100, y: 300, wires: [[id(11)]] },
    {
      id: id(11),
      type: 'function',
      z: TAB,
      name: 'all',
      func: "msg.payload = Object.fromEntries(['predictions', 'states', 'trainings'].map((key) => [key, flow.get(key) || []]));\nreturn msg;",
      outputs: 1,
      libs: [],
      x: 200,
      y: 300,
      wires: [[id(10)]],
    },
  ];
}

// Where Node-RED finds no function in a file, it lists its node as enabled, and waits for its type for ever.
test('the files of the nodes can be required, as by Node-RED 4, and imported, as by Node-RED 5', async () => {
  for (const name of ['iforest-predict', 'iforest-server', 'iforest-train']) {
    const exported = await import(`../nodes/${name}.js`);
    assert.equal(typeof exported.default, 'function', name);
    assert.equal(exported['module.exports'], exported.default, name);
  }
});

describe('the nodes', () => {
  let folder, nodeRed, server, serverPort;
  const post = async (path, body) => {
    const response = await fetch(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    assert.equal(response.status, 200, await response.clone().text());
    return response.json();
  };
  const send = (messages) => post(`${nodeRed.url}/messages`, messages);
  const kept = async () => (await fetch(`${nodeRed.url}/kept`)).json();
  const predictions = async (count) => {
    let all = [];
    await until(async () => (all = (await kept()).predictions).length >= count, () => `${count} predictions, have ${all.length}`);
    return all;
  };
  const train = (model, body) => post(`http://127.0.0.1:${serverPort}/models/${model}/retrain`, { random_state: 1, ...body });
  const spread = (from, count) => Array.from({ length: count }, (_, i) => Number((from + ((i * 37) % count) / count).toFixed(4)));

  before(async () => {
    folder = userWithPackage();
    serverPort = await freePort();
    nodeRed = await startNodeRed({}, { userDir: folder });
  });
  after(() => nodeRed?.stop());
  beforeEach(async () => {
    server = await startServer(serverPort);
  });
  afterEach(async () => {
    await nodeRed.deploy([]);
    await server.stop();
  });

  test('are in the palette, each with its help', async () => {
    const sets = await (await fetch(`${nodeRed.url}/nodes`, { headers: { accept: 'application/json' } })).json();
    const ours = sets.filter((set) => set.module === JSON.parse(readFileSync(join(here, 'package.json'))).name);
    assert.deepEqual(ours.flatMap((set) => set.types).sort(), ['iforest-predict', 'iforest-server', 'iforest-train']);
    assert.ok(ours.every((set) => set.enabled && !set.err), JSON.stringify(ours));
    const html = await (await fetch(`${nodeRed.url}/nodes`, { headers: { accept: 'text/html' } })).text();
    for (const type of ['iforest-predict', 'iforest-server', 'iforest-train']) assert.ok(html.includes(`data-help-name="${type}"`), type);
  });

  test('predict readings of many models in their order, with few requests', async () => {
    await train('press-1', { samples: spread(10, 200) });
    await train('press-2', { samples: spread(20, 200) });
    await nodeRed.deploy(flow(serverPort));
    const sent = Array.from({ length: 2000 }, (_, i) => ({
      topic: `plant/press-${1 + (i % 2)}/vibration`,
      model: `press-${1 + (i % 2)}`,
      payload: { value: 10 * (1 + (i % 2)) + i / 2500, timestamp: Date.now(), tagName: 'rVib' },
    }));
    await send({ predict: sent });
    const all = await predictions(2000);
    assert.deepEqual(all.map(({ topic, model, payload }) => [topic, model, payload.input_value]), sent.map(({ topic, model, payload }) => [topic, model, payload.value]));
    assert.deepEqual(Object.keys(all[0].payload).sort(), ['anomaly_score', 'input_value', 'model', 'prediction', 'scaled_value', 'status', 'tagName', 'timestamp']);
    const metrics = await (await fetch(`http://127.0.0.1:${serverPort}/metrics`)).text();
    const requests = Number(/iforest_http_requests_total\{route="\/predict",status="200"\} (\d+)/.exec(metrics)[1]);
    assert.ok(requests <= 6, `${requests} requests for 2,000 readings of two models`);
    // A message without a model, and a payload as text or as a number, go to default.
    await send({ predict: [{ payload: '9' }, { payload: 2.5 }, { payload: '{"value":"2.5"}' }] });
    const last = (await predictions(2003)).slice(2000);
    assert.deepEqual(last.map(({ model, payload }) => [model, payload.prediction]), [['default', 1], ['default', 0], ['default', 0]]);
  });

  test('say once why a reading is not judged, and that it is judged again', async () => {
    await nodeRed.deploy(flow(serverPort));
    const bad = { value: 2.5, timestamp: Date.now(), metadata: { statusCode: { code: 0x80000000, symbol: 'Bad' } } };
    await send({
      predict: [
        ...Array(5).fill({ model: 'press-9', payload: 1 }),
        ...Array(5).fill({ model: 'default', payload: bad }),
        ...Array(5).fill({ model: 'press-8', payload: 'nonsense' }),
        { model: 'a/b', payload: 1 },
        { model: 'default', payload: 2.5 },
      ],
    });
    await predictions(1);
    await until(async () => (await kept()).states.length >= 5, 'the states');
    const { states } = await kept();
    const found = states.map(({ model, payload }) => `${model} ${payload.state}`).sort();
    assert.deepEqual(found, ['a/b refused', 'default known', 'default unknown', 'press-8 refused', 'press-9 no_model']);
    assert.match(states.find(({ model }) => model === 'press-9').payload.reason, /no model press-9/);
    assert.equal((await fetch(`http://127.0.0.1:${serverPort}/models/press-9`)).status, 404, 'nothing is created');
  });

  test('say what is wrong with the address of the server', async () => {
    for (const [url, text] of [
      ['localhost:5000', 'the address of iforest-server must be like http://localhost:5000 and must begin with http:// or https://, got localhost:5000'],
      ['nonsense', 'the address of iforest-server must be like http://localhost:5000, got nonsense'],
      ['http://localhost:5000/models/press-1', 'the address of iforest-server must be like http://localhost:5000 and must not name a model, got http'],
    ]) {
      const [tab, config, ...rest] = flow(serverPort);
      await nodeRed.deploy([tab, { ...config, url }, ...rest]);
      assert.ok(nodeRed.program.log.includes(text), `${text} in ${nodeRed.program.log.slice(-500)}`);
      await send({ predict: [{ payload: 1 }] });
      const shown = () => nodeRed.statuses.get(PREDICT)?.text;
      await until(() => /^server down: the node has no server, or one whose address is wrong, \d waiting/.test(shown()), () => shown());
    }
  });

  // A sensor that sends nonsense may send another one each time, and names come from topics.
  test('say once a minute that readings are refused, whatever their text, and take any name', async () => {
    await nodeRed.deploy(flow(serverPort));
    const nonsense = Array.from({ length: 200 }, (_, i) => ({ model: 'press-8', payload: `nonsense ${i}` }));
    const wide = Array.from({ length: 200 }, (_, i) => ({ model: 'default', payload: { value: [i, i] } }));
    const names = Array.from({ length: 200 }, (_, i) => ({ model: `press/${i}`, payload: 1 }));
    const odd = ['constructor', '__proto__', 7].map((model) => ({ model, payload: 1 }));
    await send({ predict: [...nonsense, ...wide, ...names, ...odd, { payload: 2.5 }], train: odd });
    await predictions(1);
    const found = (await kept()).states.map(({ model, payload }) => `${model} ${payload.state}`).sort();
    const expected = ['7 no_model', '__proto__ no_model', 'constructor no_model', 'default known', 'default refused', 'press-8 refused', 'press/0 refused'];
    assert.deepEqual(found, expected);
    await until(() => /^1 predicted, .*, 5 models not judged$/.test(nodeRed.statuses.get(PREDICT)?.text), () => JSON.stringify(nodeRed.statuses.get(PREDICT)));
    assert.equal(nodeRed.statuses.get(PREDICT).fill, 'yellow');
  });

  // A sensor that fails often sends nothing after its last, bad reading.
  test('do not let a prediction that was on its way hide a later bad reading', async () => {
    await nodeRed.deploy(flow(serverPort));
    const bad = { value: 2.5, metadata: { statusCode: { code: 0x80000000, symbol: 'Bad' } } };
    await send({ predict: [{ payload: 2.5 }, { payload: 2.6 }, { payload: bad }] });
    await predictions(2);
    await sleep(200);
    const states = async () => (await kept()).states.map(({ payload }) => payload.state);
    assert.deepEqual(await states(), ['unknown']);
    await send({ predict: [{ payload: 2.5 }] });
    await predictions(3);
    assert.deepEqual(await states(), ['unknown', 'known']);
  });

  // A model called .. would be trained at /models/../retrain, which is the address of default.
  test('carry out commands that are meant, for models that can exist', async () => {
    await nodeRed.deploy(flow(serverPort, { train: { samples: 20, minimum: 10, rate: 0.1 } }));
    const healthy = (model) => spread(10, 60).map((payload) => ({ model, payload }));
    await send({ train: [{ model: '*', learn: 'start' }, { model: '..', learn: 'start' }, ...healthy('..')] });
    await send({ train: [{ model: 'press-1', payload: 1 }, { model: 'press-1', learn: 'start', retain: true }, { model: 'press-1', learn: 'halt' }] });
    await send({ train: [{ model: 'press-1', learn: ' START' }, { model: 'press-1', learn: 'Stop' }, ...healthy('press-1')] });
    const trainings = async () => (await kept()).trainings.map(({ model, payload }) => `${model}: ${payload.reason ?? payload.learning}`);
    await until(async () => (await trainings()).length >= 2, 'the answers');
    await sleep(500);
    assert.deepEqual(await trainings(), ['press-1: true', 'press-1: learning from scratch was stopped after 0 readings']);
    const model = await (await fetch(`http://127.0.0.1:${serverPort}/models/default`)).json();
    assert.equal(model.version, null, 'default is not trained');
    for (const text of ['no machine has sent a reading yet', 'the name of a model must be 1 to 128 letters', 'learn must be start or stop, got halt'])
      assert.ok(nodeRed.program.log.includes(text), text);
  });

  // A proxy or another program may answer with status 200. The readings of an hour must not be thrown away for it.
  test('take only the answer of iforest-server for a training, and survive any other', async () => {
    const port = await freePort();
    const answers = ['null', '{}', '<html>', '{"samples_used":"many"}'];
    const fake = await startFakeServer(port, () => ({ status: 200, body: answers.length > 1 ? answers.shift() : answers[0] }));
    try {
      await nodeRed.deploy(flow(port, { train: { samples: 20, minimum: 10 } }));
      const models = answers.map((_, i) => `press-${i}`);
      for (const model of models) await send({ train: [{ model, learn: 'start' }, ...spread(10, 20).map((payload) => ({ model, payload }))] });
      await until(() => fake.requests.length >= models.length, () => `${fake.requests.length} requests`);
      await sleep(300);
      const results = (await kept()).trainings.filter(({ payload }) => 'retrained' in payload).map(({ payload }) => payload);
      assert.deepEqual(results.map(({ retrained }) => retrained), [false, false, false, false]);
      for (const { reason } of results) assert.match(reason, /^the response is not .*; the readings are kept and sent again in 10 seconds$/);
    } finally {
      await fake.stop();
    }
  });

  test('mark late readings, and keep all of them while the server is down', async () => {
    await nodeRed.deploy(flow(serverPort, { predict: { maxAge: 1 } }));
    await send({ predict: [{ payload: { value: 2, timestamp: Date.now() - 3000 } }] });
    assert.equal((await predictions(1))[0].payload.late, true);
    await server.stop('SIGKILL');
    const values = spread(1, 200);
    await send({ predict: values.map((value) => ({ payload: { value, timestamp: Date.now() } })) });
    await until(() => /^server down: .*200 waiting/.test(nodeRed.statuses.get(PREDICT)?.text), () => `the outage, not ${nodeRed.statuses.get(PREDICT)?.text}`);
    await sleep(1500);
    server = await startServer(serverPort);
    const all = (await predictions(201)).slice(1);
    assert.deepEqual(all.map(({ payload }) => payload.input_value), values);
    assert.ok(all.every(({ payload }) => payload.late), 'they are late by now');
  });

  // Users deploy while the plant runs.
  test('keep the queue over a new deployment, and lose and repeat nothing of it', async () => {
    await nodeRed.deploy(flow(serverPort));
    await server.stop('SIGKILL');
    const values = spread(1, 300);
    await send({ predict: values.map((value) => ({ payload: { value, timestamp: Date.now() } })) });
    await until(() => /300 waiting/.test(nodeRed.statuses.get(PREDICT)?.text), 'the outage');
    for (let i = 0; i < 3; i += 1) await nodeRed.deploy(flow(serverPort, { predict: { maxAge: 100 + i } }));
    server = await startServer(serverPort);
    await until(async () => (await kept()).predictions.length >= 300, 'the predictions', 40);
    await sleep(1000);
    assert.deepEqual((await kept()).predictions.map(({ payload }) => payload.input_value), values);
    // Learning goes on too.
    const readings = spread(10, 300).map((payload) => ({ model: 'press-1', payload }));
    await send({ train: [{ model: 'press-1', learn: 'start' }, ...readings.slice(0, 150)] });
    await nodeRed.deploy(flow(serverPort));
    await send({ train: readings.slice(150) });
    await until(async () => (await kept()).trainings.some(({ payload }) => payload.retrained && payload.samples_used === 300), 'the training');
  });

  test('learn models from scratch, one or all, and retrain them', async () => {
    await nodeRed.deploy(flow(serverPort));
    const machines = { 'press-1': 10, 'press-2': 20, 'press-3': 30 };
    const readings = (count) => Object.entries(machines).flatMap(([model, from]) => spread(from, count).map((payload) => ({ model, payload })));
    // One reading each, so that the node knows the machines.
    await send({ train: readings(1) });
    await send({ train: [{ model: '*', learn: 'start' }] });
    await send({ train: readings(300) });
    const results = async (count) => {
      let all = [];
      await until(async () => (all = (await kept()).trainings.filter(({ payload }) => 'retrained' in payload)).length >= count, () => `${count} results, have ${JSON.stringify(all)}`);
      return all;
    };
    const learned = await results(3);
    assert.deepEqual(learned.map(({ model, payload }) => [model, payload.retrained, payload.samples_used]), Object.keys(machines).map((model) => [model, true, 300]));
    for (const [model, from] of Object.entries(machines)) {
      const { false_alarm_rate: rate, out_of_range: out, training_ranges: ranges } = await (await fetch(`http://127.0.0.1:${serverPort}/models/${model}`)).json();
      assert.deepEqual([rate, out, Math.floor(ranges[0][0])], [0.01, 'distance', from]);
    }
    // Retraining: refused while readings are few, then with too many anomalies, then done.
    await send({ train: [{ model: 'press-1', retrain: 'by button' }] });
    assert.match((await results(4))[3].payload.reason, /^only 0 readings, 100 are needed/);
    await send({ train: [...spread(10, 150).map((payload) => ({ model: 'press-1', payload })), ...Array(20).fill({ model: 'press-1', payload: { prediction: 1, anomaly_score: 1 } })] });
    await send({ train: [{ model: 'press-1', retrain: 'by button' }] });
    assert.match((await results(5))[4].payload.reason, /^20 of the last 20 readings were anomalies \(100 %\), at most 10 % are allowed/);
    await send({ train: Array(300).fill({ model: 'press-1', payload: { prediction: 0, anomaly_score: -1 } }) });
    await send({ train: [{ model: 'press-1', retrain: 'by button' }] });
    assert.deepEqual([(await results(6))[5].payload].map(({ retrained, why, samples_used: used }) => [retrained, why, used]), [[true, 'by button', 150]]);
    assert.equal((await (await fetch(`http://127.0.0.1:${serverPort}/models/press-1`)).json()).version, 2);
  });

  test('keep the queue over a restart, with a context store on disk', async () => {
    await nodeRed.stop();
    const more = { contextStorage: { default: { module: 'localfilesystem' } } };
    nodeRed = await startNodeRed({}, { userDir: folder, more });
    await nodeRed.deploy(flow(serverPort));
    await server.stop('SIGKILL');
    const values = spread(1, 50);
    await send({ predict: values.map((value) => ({ payload: { value, timestamp: Date.now() } })) });
    await until(() => /50 waiting/.test(nodeRed.statuses.get(PREDICT)?.text), 'the outage');
    await nodeRed.stop();
    server = await startServer(serverPort);
    nodeRed = await startNodeRed({}, { userDir: folder, more });
    const all = await predictions(50);
    assert.deepEqual(all.map(({ payload }) => payload.input_value), values);
  });
});
