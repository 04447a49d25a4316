// The bridge on a plant's network: bad quality, late readings, outages, restarts, wrong settings.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { aedes, brokers, client } from '../bed/brokers.mjs';
import { certificates } from '../bed/certificates.mjs';
import { startLine } from '../bed/line.mjs';
import { local, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, sleep, temporaryFolder, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const flow = readFlow('2-mqtt-bridge.json');
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const TEXT = 'hivemq-edge/machine/s71500/anomaly';
const [WHOLE, FLAG, STATE] = ['json', 'flag', 'state'].map((end) => `${TEXT}/${end}`);
const login = { user: 'node-red', password: 'a password of this test' };
const certs = await certificates();
const onDisk = { contextStorage: { default: { module: 'localfilesystem' } } };

const isUp = (nodeRed, of = flow) => until(() => nodeRed.status(of, 'readings').fill === 'green', 'the bridge to connect');
const values = (us) => us.texts(WHOLE).map((text) => JSON.parse(text).input_value);
const reports = (nodeRed) => nodeRed.debug.map((event) => event.msg);

describe('readings', () => {
  let broker, server, us, nodeRed;
  const send = (reading) => us.publishAsync(READINGS, JSON.stringify(reading), { qos: 1 });

  before(async () => {
    const [brokerPort, serverPort] = [await freePort(), await freePort()];
    broker = await aedes.start(brokerPort);
    server = await startServer(serverPort);
    nodeRed = await startNodeRed(local(brokerPort, serverPort));
    us = await client(`mqtt://127.0.0.1:${brokerPort}`);
    await us.subscribeAsync([TEXT, WHOLE, FLAG, STATE], { qos: 1 });
  });
  after(async () => {
    await nodeRed?.stop();
    await us?.endAsync(true);
    await server?.stop();
    await broker?.stop();
  });
  beforeEach(async () => {
    await nodeRed.deploy(flow);
    await isUp(nodeRed);
    us.heard.length = 0;
  });
  afterEach(() => nodeRed.deploy([]));

  // A broken sensor often sends its last good value, and "Normal Behaviour" for it would reach the PLC.
  test('of bad quality are not judged, and the state is unknown until they are good', async () => {
    const edge = (code, symbol) => ({ value: 2.5, timestamp: Date.now(), metadata: { statusCode: { code, symbol } }, tagName: 'rVib' });
    await send(edge(0, 'Good'));
    await until(() => us.texts(FLAG).length === 1, 'the prediction of a good reading');
    for (let i = 0; i < 20; i += 1) await send(edge(0x808c0000, 'BadSensorFailure'));
    await send({ value: 9, status: { code: 0x40900000 } });
    await send(edge(0, 'Good'));
    await until(() => us.texts(STATE).length === 3 && us.texts(FLAG).length === 2, 'the state and the next prediction');
    assert.deepEqual(us.texts(STATE).map((text) => JSON.parse(text)).map(({ state, reason }) => [state, reason]), [
      ['unknown', 'quality BadSensorFailure'],
      ['unknown', 'quality status 0x40900000'],
      ['known', undefined],
    ]);
    assert.deepEqual(us.texts(TEXT), ['Normal Behaviour', 'Normal Behaviour']);
    await until(() => reports(nodeRed).length === 3, 'the reports');
    assert.deepEqual(reports(nodeRed), ['not judged: quality BadSensorFailure', 'not judged: quality status 0x40900000', 'judged again']);
  });

  // A client that sends nonsense ten times a second filled the debug sidebar.
  test('that are refused a thousand times are reported once and counted', async () => {
    for (let i = 0; i < 1000; i += 1) us.publish(READINGS, `nonsense ${i}`, { qos: 1 });
    const shown = () => nodeRed.status(flow, 'read the number').text ?? '';
    await until(() => shown().startsWith('1000 refused, the last: '), () => `the count, not ${shown()}`);
    assert.deepEqual(reports(nodeRed), ['refused: not a finite number: nonsense 0']);
  });

  // After an outage of the line, flags that were minutes old were written to the PLC.
  test('that are older than MAX_AGE get no flag and no text, and their whole prediction says so', async () => {
    await send({ value: 9, timestamp: Date.now() - 8000 });
    await send({ value: 2.5, timestamp: Date.now() });
    await until(() => us.texts(FLAG).length === 1, 'the flag of the current reading');
    assert.deepEqual(us.texts(FLAG), ['{"value":false}']);
    assert.deepEqual(us.texts(TEXT), ['Normal Behaviour']);
    assert.deepEqual(us.texts(WHOLE).map((text) => JSON.parse(text).late), [true, undefined]);
    await until(() => reports(nodeRed).length === 2, 'the reports');
    assert.match(reports(nodeRed)[0], /^readings are older than 5 s: /);
  });

  // A gateway whose clock is wrong would otherwise never get a flag.
  test('whose clock differs are judged again after ten seconds, and the difference is named', async () => {
    const behind = 41 * 60_000;
    const timer = setInterval(() => send({ value: 2.5, timestamp: Date.now() - behind }), 250);
    try {
      await until(() => us.texts(FLAG).length >= 4, 'flags', 30);
    } finally {
      clearInterval(timer);
    }
    const line = reports(nodeRed).find((text) => text.startsWith('the clocks of the readings'));
    assert.match(line, /differ by 2460(\.\d)? s; ages are measured without this difference$/);
    assert.match(nodeRed.status(flow, 'one request at a time').text, /clocks differ by 2460/);
    // One that is late by this clock is late.
    await until(() => values(us).length === us.heard.filter(({ topic }) => topic === WHOLE).length, 'all predictions');
    us.heard.length = 0;
    await send({ value: 9, timestamp: Date.now() - behind - 8000 });
    await until(() => us.texts(WHOLE).length === 1, 'the late prediction');
    assert.equal(JSON.parse(us.texts(WHOLE)[0]).late, true);
    assert.deepEqual(us.texts(FLAG), []);
  });
});

// aedes keeps no session reliably while it is cut off.
for (const kind of brokers('outages').filter((one) => one !== aedes)) {
  describe(`on ${kind.name}, no reading is lost`, () => {
    let broker, server, us, nodeRed, line, brokerPort, serverPort;
    const sent = Array.from({ length: 600 }, (_, i) => Number((1 + i / 300).toFixed(4)));

    beforeEach(async () => {
      [brokerPort, serverPort] = [await freePort(), await freePort()];
      broker = await kind.start(brokerPort);
      server = await startServer(serverPort);
      line = await startLine(brokerPort);
      us = await client(`mqtt://127.0.0.1:${brokerPort}`);
      await us.subscribeAsync([WHOLE], { qos: 1 });
    });
    afterEach(async () => {
      await nodeRed?.stop();
      await us.endAsync(true);
      await line.stop();
      await server.stop();
      await broker.stop();
    });

    async function publish(at, event) {
      for (const [i, value] of sent.entries()) {
        await us.publishAsync(READINGS, JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
        if (i === at) event();
        await sleep(5);
      }
    }

    test('while the line to the broker is cut for 2.5 seconds', async () => {
      nodeRed = await startNodeRed(local(line.port, serverPort), { flows: flow });
      await isUp(nodeRed);
      let mended;
      await publish(100, () => {
        mended = line.cut().then(() => sleep(2500)).then(line.mend);
      });
      await mended;
      // A message in flight when the line was cut may come twice.
      await until(() => new Set(values(us)).size >= sent.length, () => `600 predictions, have ${new Set(values(us)).size}`);
      assert.deepEqual([...new Set(values(us))], sent);
    });

    test('by a new deployment while the server is down', async () => {
      nodeRed = await startNodeRed(local(brokerPort, serverPort), { flows: flow });
      await isUp(nodeRed);
      await server.stop('SIGKILL');
      const few = sent.slice(0, 50);
      for (const value of few) await us.publishAsync(READINGS, JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
      await until(() => / 50 waiting/.test(nodeRed.status(flow, 'one request at a time').text), 'fifty to wait');
      await nodeRed.deploy(withSettings(flow, { MAX_AGE: 6 }));
      server = await startServer(serverPort);
      await until(() => values(us).length >= few.length, () => `50 predictions, have ${values(us).length}`);
      assert.deepEqual(values(us), few);
    });

    // The predictions of the kept readings would have nowhere to go.
    test('where Node-RED restarts while the broker cannot be reached, with a context store on disk', async () => {
      const userDir = temporaryFolder('node-red');
      nodeRed = await startNodeRed(local(line.port, serverPort), { userDir, more: onDisk, flows: flow });
      await isUp(nodeRed);
      await server.stop('SIGKILL');
      const few = sent.slice(0, 50);
      for (const value of few) await us.publishAsync(READINGS, JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
      await until(() => / 50 waiting/.test(nodeRed.status(flow, 'one request at a time').text), 'fifty to wait');
      await nodeRed.stop();
      server = await startServer(serverPort);
      await line.cut();
      nodeRed = await startNodeRed(local(line.port, serverPort), { userDir, more: onDisk });
      await sleep(3000);
      await line.mend();
      await until(() => values(us).length >= few.length, () => `50 predictions, have ${values(us).length}`);
      assert.deepEqual(values(us), few);
    });

    test('or hardly one, while Node-RED restarts, with a context store on disk', async (t) => {
      const userDir = temporaryFolder('node-red');
      nodeRed = await startNodeRed(local(brokerPort, serverPort), { userDir, more: onDisk, flows: flow });
      await isUp(nodeRed);
      let restarted;
      await publish(100, () => {
        // Readings wait in the queue while Node-RED stops.
        restarted = server
          .stop('SIGKILL')
          .then(() => sleep(500))
          .then(() => nodeRed.stop())
          .then(async () => {
            server = await startServer(serverPort);
            nodeRed = await startNodeRed(local(brokerPort, serverPort), { userDir, more: onDisk });
          });
      });
      await restarted;
      await until(() => values(us).at(-1) === sent.at(-1), () => `the last prediction, have ${values(us).length}`);
      // Node-RED drops what arrives while it closes its nodes, within milliseconds, though it confirms it to the broker.
      const once = [...new Set(values(us))];
      const lost = sent.filter((value) => !once.includes(value));
      assert.ok(lost.length <= 3, `${lost.length} readings are lost`);
      assert.deepEqual(once.sort((a, b) => a - b), sent.filter((value) => !lost.includes(value)));
      t.diagnostic(`${kind.name}: ${lost.length} of 600 lost`);
    });
  });
}

describe('wrong settings of the broker', () => {
  let server, serverPort, port, broker, others;

  before(async () => {
    serverPort = await freePort();
    server = await startServer(serverPort);
    port = await freePort();
    broker = await aedes.start(port, { tls: certs.right, login });
    others = [];
  });
  after(async () => {
    for (const other of [...others, server, broker]) await other?.stop();
  });
  const start = async (tls) => {
    const on = await freePort();
    others.push(await aedes.start(on, { tls, login }));
    return on;
  };

  // All of them read "Connection failed to broker".
  test('are named: name, authority, expiry, login, route', async () => {
    const right = { MQTT_URL: `mqtts://localhost:${port}`, MQTT_CA: certs.authority, MQTT_USER: login.user, MQTT_PASSWORD: login.password };
    const nodeRed = await startNodeRed({ IFOREST_URL: `http://127.0.0.1:${serverPort}` });
    try {
      for (const [wrong, expected] of [
        [{ MQTT_CA: certs.otherAuthority }, /^authority: .*unknown authority; set MQTT_CA/],
        [{ MQTT_CA: '' }, /^authority: /],
        [{ MQTT_CA: '/nowhere/ca.pem' }, /^authority: the file MQTT_CA does not exist/],
        [{ MQTT_URL: `mqtts://localhost:${await start(certs.wrongName)}` }, /^name: the certificate is for another host/],
        [{ MQTT_URL: `mqtts://localhost:${await start(certs.expired)}` }, /^expired: /],
        [{ MQTT_PASSWORD: 'not this one' }, /^refused login: /],
        [{ MQTT_USER: 'nobody' }, /^refused login: /],
        [{ MQTT_URL: `mqtts://localhost:${await freePort()}` }, /^no route: nothing listens on this port/],
        [{ MQTT_URL: 'mqtts://no-such-host.invalid:8883' }, /^no route: the name of the host/],
        [{ MQTT_URL: `mqtt://localhost:${port}` }, /TLS/],
        [{ MQTT_URL: `mqtts://localhost:${await start(undefined)}` }, /TLS/],
      ]) {
        const changed = withSettings(flow, { ...right, ...wrong });
        await nodeRed.deploy(changed);
        const shown = () => nodeRed.status(changed, 'connect to the broker').text ?? '';
        await until(() => expected.test(shown()), () => `${expected} for ${JSON.stringify(wrong)}, not ${shown()}`);
        assert.ok(reports(nodeRed).some((text) => String(text).endsWith(shown())), 'the cause in the debug sidebar');
        assert.notEqual(nodeRed.status(changed, 'readings').fill, 'green');
      }
      const good = withSettings(flow, right);
      await nodeRed.deploy(good);
      await isUp(nodeRed, good);
    } finally {
      await nodeRed.stop();
    }
  });

  // Node-RED reads credentials in a flow only where it is deployed: with a flow file, MQTT_USER had no effect.
  test('do not include a login in the environment of a flow file', async () => {
    const env = {
      MQTT_HOST: 'localhost',
      MQTT_PORT: String(port),
      MQTT_CA: certs.authority,
      MQTT_USER: login.user,
      MQTT_PASSWORD: login.password,
      IFOREST_URL: `http://127.0.0.1:${serverPort}`,
    };
    const all = ['2-mqtt-bridge.json', '3-retrain.json', '6-signal-simulator.json'].flatMap(readFlow);
    const nodeRed = await startNodeRed(env, { flows: all });
    try {
      await isUp(nodeRed);
      for (const [file, name] of [['3-retrain.json', 'retrain command'], ['6-signal-simulator.json', 'readings']]) {
        await until(() => nodeRed.status(readFlow(file), name).fill === 'green', `${file} to connect`);
      }
    } finally {
      await nodeRed.stop();
    }
  });
});

test('a server with keys and https is asked with the key and the authority of the environment', async () => {
  const [brokerPort, serverPort] = [await freePort(), await freePort()];
  const keys = join(temporaryFolder('keys'), 'keys');
  writeFileSync(keys, 'node-red read 3q8Zp0bWn6Xv1LkT\n', { mode: 0o600 });
  const broker = await aedes.start(brokerPort);
  const tls = ['--tls-cert', certs.right.cert, '--tls-key', certs.right.key];
  const server = await startServer(serverPort, '--api-keys', keys, ...tls);
  const us = await client(`mqtt://127.0.0.1:${brokerPort}`);
  const env = { ...local(brokerPort, serverPort), IFOREST_URL: `https://localhost:${serverPort}` };
  const nodeRed = await startNodeRed({ ...env, IFOREST_KEY: '3q8Zp0bWn6Xv1LkT', IFOREST_CA: certs.authority });
  try {
    await us.subscribeAsync(TEXT, { qos: 1 });
    const [bridge, dashboard] = [flow, readFlow('4-dashboard.json')];
    await nodeRed.deploy(bridge, dashboard);
    await isUp(nodeRed);
    await us.publishAsync(READINGS, '9', { qos: 1 });
    await until(() => us.texts(TEXT).length === 1, 'the prediction');
    assert.deepEqual(us.texts(TEXT), ['Anomaly Detected']);
    await until(() => nodeRed.status(dashboard, 'store the model').text === 'server online', 'the dashboard');
    // Without the key, and with another authority, the same flow gets no prediction.
    for (const [wrong, problem] of [[{ IFOREST_KEY: '' }, /key/], [{ IFOREST_CA: certs.otherAuthority }, /certificate/]]) {
      const changed = withSettings(flow, wrong);
      await nodeRed.deploy(changed);
      await isUp(nodeRed, changed);
      await us.publishAsync(READINGS, '9', { qos: 1 });
      const shown = () => nodeRed.status(changed, 'one request at a time').text ?? '';
      await until(() => /^server down: /.test(shown()) && problem.test(shown()), () => `${problem}, not ${shown()}`);
    }
    assert.ok(!nodeRed.program.log.includes('3q8Zp0bWn6Xv1LkT'), 'the key is not in the log');
  } finally {
    await nodeRed.stop();
    await us.endAsync(true);
    await server.stop();
    await broker.stop();
  }
});
