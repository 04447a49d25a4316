import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { promisify } from 'node:util';
import opcua from 'node-opcua';
import { aedes, client } from '../bed/brokers.mjs';
import { local, nodeNamed, readFlow, startNodeRed } from '../bed/node-red.mjs';
import { startPlc } from '../bed/plcs.mjs';
import { freePort, sleep, temporaryFolder, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const bridge = readFlow('2-mqtt-bridge.json');
const plcFlow = readFlow('5-plc-opcua.json');
const simulator = readFlow('6-signal-simulator.json');
const READINGS = 'hivemq-edge/machine/s71500/rVib';
const TEXT = 'hivemq-edge/machine/s71500/anomaly';

let brokerPort, serverPort, plcPort, nodeRed, broker, server, us;

before(async () => {
  brokerPort = await freePort();
  serverPort = await freePort();
  plcPort = await freePort();
  nodeRed = await startNodeRed({
    ...local(brokerPort, serverPort),
    SIMULATE_FAULTS: 'false',
    OPCUA_URL: `opc.tcp://127.0.0.1:${plcPort}`,
  });
});
after(() => nodeRed?.stop());

beforeEach(async () => {
  broker = await aedes.start(brokerPort);
  server = await startServer(serverPort);
  us = await client(`mqtt://127.0.0.1:${brokerPort}`);
  await us.subscribeAsync([READINGS, TEXT], { qos: 1 });
});
afterEach(async () => {
  await nodeRed.deploy([]);
  await us.endAsync(true);
  await server.stop();
  await broker.stop();
});

// A user without a PLC must see each kind of fault and the prediction for it.
test('the simulated signal has spikes, drift and dropouts, and the bridge predicts them', async () => {
  await nodeRed.deploy(bridge, simulator);
  const read = () => us.texts(READINGS).map((text) => JSON.parse(text).value);
  const press = (name) => nodeRed.inject(nodeNamed(simulator, name, 'inject').id);
  await until(() => read().length >= 5 && us.texts(TEXT).length >= 5, 'healthy readings');
  assert.ok(read().every((value) => value >= 1.2 && value <= 3.6), `healthy: ${read()}`);
  assert.ok(us.texts(TEXT).every((text) => text === 'Normal Behaviour'));
  const keys = Object.keys(JSON.parse(us.texts(READINGS)[0]));
  assert.deepEqual(keys, ['value', 'timestamp', 'tagName']);

  await press('spike');
  await until(() => us.texts(TEXT).includes('Anomaly Detected'), 'the prediction for the spike');
  assert.ok(Math.max(...read()) > 7);

  await press('dropout');
  await until(() => read().includes(null), 'the dropout');
  await press('healthy');
  const before = us.texts(TEXT).length;
  await until(() => us.texts(TEXT).length > before + 2, 'predictions after the dropout');
  assert.deepEqual(us.texts(TEXT).filter((text) => !/^(Normal Behaviour|Anomaly Detected)$/.test(text)), []);

  us.heard.length = 0;
  await press('drift');
  await until(() => us.texts(TEXT).includes('Anomaly Detected'), 'the prediction for the drift', 30);
  assert.ok(read()[0] < 4, 'a drift starts at the normal level');
});

/** A client of the PLC that reads the flag and sets the vibration. */
async function atThePlc() {
  const connection = opcua.OPCUAClient.create({ endpointMustExist: false, clientCertificateManager: undefined });
  await connection.connect(`opc.tcp://127.0.0.1:${plcPort}`);
  const session = await connection.createSession();
  const node = (name) => `ns=3;s="DB_Machine"."${name}"`;
  return {
    flag: async () => (await session.read({ nodeId: node('bAnomaly') })).value.value,
    vibrate: async (value, statusCode = opcua.StatusCodes.Good) => {
      const reading = { value: { dataType: opcua.DataType.Float, value }, statusCode };
      const status = await session.write({ nodeId: node('rVib'), attributeId: opcua.AttributeIds.Value, value: reading });
      assert.equal(status.name, 'Good');
    },
    async leave() {
      await session.close();
      await connection.disconnect();
    },
  };
}

// The whole path from the PLC's tag through broker, Node-RED and model back into the PLC, also after a restart.
test('the flag arrives in the PLC, also after a restart of the PLC', async () => {
  let plc = await startPlc(plcPort, '--hold');
  try {
    await nodeRed.deploy(bridge, plcFlow);
    for (const restarted of [false, true]) {
      if (restarted) {
        await plc.stop('SIGKILL');
        plc = await startPlc(plcPort, '--hold');
        us.heard.length = 0;
      }
      const engineer = await atThePlc();
      await until(() => us.texts(READINGS).length > 0, 'the first reading', 60);
      const first = JSON.parse(us.texts(READINGS)[0]);
      assert.deepEqual([first.value, first.tagName], [2.5, 'rVib']);
      assert.equal(await engineer.flag(), false);
      await engineer.vibrate(9);
      await until(() => engineer.flag(), 'the flag in the PLC', 60);
      await engineer.vibrate(2);
      await until(async () => !(await engineer.flag()), 'the flag to go');
      await engineer.leave();
    }
  } finally {
    await plc.stop();
  }
});

// A broken wire leaves the last value or noise in the PLC, with bad quality; neither describes the machine.
test('readings of bad or uncertain quality are reported once and never predicted', async () => {
  const plc = await startPlc(plcPort, '--hold');
  const engineer = await atThePlc();
  try {
    await nodeRed.deploy(bridge, plcFlow);
    await until(() => us.texts(TEXT).length > 0, 'the first prediction', 60);
    for (const quality of ['BadSensorFailure', 'UncertainLastUsableValue']) {
      us.heard.length = 0;
      nodeRed.debug.length = 0;
      for (const value of [9, 9.1, 9.2, 9.3]) {
        await engineer.vibrate(value, opcua.StatusCodes[quality]);
        await sleep(400);
      }
      assert.equal(nodeRed.status(plcFlow, 'format like HiveMQ Edge').text, quality);
      const good = 2 + Math.random() / 10;
      await engineer.vibrate(good);
      await until(() => us.texts(TEXT).length > 0, 'the prediction for the good reading');
      assert.deepEqual(us.texts(TEXT), ['Normal Behaviour'], `one prediction, ${quality}`);
      const [bad, after, ...more] = us.texts(READINGS).map((text) => JSON.parse(text));
      assert.deepEqual([bad.value, bad.quality, bad.tagName, more.length], [null, quality, 'rVib', 0]);
      assert.ok(Math.abs(after.value - good) < 1e-6);
      const reports = () => nodeRed.debug.filter((event) => event.name === 'format like HiveMQ Edge').map((event) => event.msg);
      await until(() => reports().length >= 2, 'the reports');
      assert.deepEqual(reports(), [
        `the PLC reports ${quality}: readings are left out until they are good`,
        "the PLC's readings are good again",
      ]);
    }
  } finally {
    await engineer.leave();
    await plc.stop();
  }
});

// With four readings a second, whole seconds would hide their order and the delay of a prediction.
test('the time of a reading has milliseconds', async () => {
  const plc = await startPlc(plcPort);
  try {
    await nodeRed.deploy(plcFlow);
    await until(() => us.texts(READINGS).length >= 8, 'eight readings', 60);
    const times = us.texts(READINGS).map((text) => JSON.parse(text).timestamp);
    assert.ok(times.some((time) => time % 1000 !== 0), `no whole seconds: ${times}`);
    assert.equal(new Set(times).size, times.length, `each has its own: ${times}`);
    assert.ok(times.every((time) => Math.abs(Date.now() - time) < 60_000));
  } finally {
    await plc.stop();
  }
});

// A killed PLC cannot clean up; private keys must not pile up in the temporary folder.
test('a simulated PLC that is killed leaves no folder behind', async () => {
  const folder = temporaryFolder('plc-test');
  const script = `
    import { readdirSync } from 'node:fs';
    import { startPlc } from ${JSON.stringify(new URL('../bed/plcs.mjs', import.meta.url).href)};
    const plc = await startPlc(${plcPort});
    console.log(readdirSync(process.env.TMPDIR).length);
    await plc.stop('SIGKILL');
    process.exit();`;
  const env = { ...process.env, TMPDIR: folder, TEMP: folder, TMP: folder };
  // Not execFileSync: it would block past Node-RED's keep-alive timeout of 5 s, and the next request would fail.
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '--eval', script], { env, timeout: 60_000 });
  assert.equal(stdout.trim(), '1', 'the PLC has a folder while it runs');
  assert.deepEqual(readdirSync(folder), []);
});

// A connection that happened to get the PLC's port before the PLC listens on it would keep it from starting.
test('a free port is given once, and is not one that the system gives to connections', async () => {
  const free = new Set();
  while (free.size < 50) {
    const port = await freePort();
    assert.ok(!free.has(port), `${port} twice`);
    free.add(port);
  }
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const sockets = [];
  const given = [server.address().port];
  while (given.length < 50) {
    const socket = connect(server.address());
    sockets.push(socket);
    await once(socket, 'connect');
    given.push(socket.localPort);
  }
  sockets.forEach((socket) => socket.destroy());
  server.close();
  assert.ok(Math.max(...free) < Math.min(...given), `${Math.max(...free)} is free, ${Math.min(...given)} was given`);
});
