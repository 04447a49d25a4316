import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import opcua from 'node-opcua';
import { aedes, client } from '../bed/brokers.mjs';
import { local, nodeNamed, readFlow, startNodeRed } from '../bed/node-red.mjs';
import { freePort, start, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const bridge = readFlow('2-mqtt-bridge.json');
const plcFlow = readFlow('5-plc-opcua.json');
const simulator = readFlow('6-signal-simulator.json');
const plcProgram = fileURLToPath(new URL('../bed/plc.mjs', import.meta.url));
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

// A newcomer without a PLC must see each kind of trouble that a plant has, and what comes of it.
test('the simulated signal has spikes, drift and dropouts, and the bridge judges them', async () => {
  await nodeRed.deploy(bridge, simulator);
  const read = () => us.texts(READINGS).map((text) => JSON.parse(text).value);
  const press = (name) => nodeRed.inject(nodeNamed(simulator, name, 'inject').id);
  await until(() => read().length >= 5 && us.texts(TEXT).length >= 5, 'healthy readings');
  assert.ok(read().every((value) => value >= 1.2 && value <= 3.6), `healthy: ${read()}`);
  assert.ok(us.texts(TEXT).every((text) => text === 'Normal Behaviour'));
  const keys = Object.keys(JSON.parse(us.texts(READINGS)[0]));
  assert.deepEqual(keys, ['value', 'timestamp', 'tagName']);

  await press('spike');
  await until(() => us.texts(TEXT).includes('Anomaly Detected'), 'the verdict on the spike');
  assert.ok(Math.max(...read()) > 7);

  await press('dropout');
  await until(() => read().includes(null), 'the dropout');
  await press('healthy');
  const before = us.texts(TEXT).length;
  await until(() => us.texts(TEXT).length > before + 2, 'verdicts after the dropout');
  assert.deepEqual(us.texts(TEXT).filter((text) => !/^(Normal Behaviour|Anomaly Detected)$/.test(text)), []);

  us.heard.length = 0;
  await press('drift');
  await until(() => us.texts(TEXT).includes('Anomaly Detected'), 'the verdict on the drift', 30);
  assert.ok(read()[0] < 4, 'a drift begins where the signal was');
});

/** What an engineer at the PLC sees and sets. */
async function atThePlc() {
  const connection = opcua.OPCUAClient.create({ endpointMustExist: false, clientCertificateManager: undefined });
  await connection.connect(`opc.tcp://127.0.0.1:${plcPort}`);
  const session = await connection.createSession();
  const node = (name) => `ns=3;s="DB_Machine"."${name}"`;
  return {
    flag: async () => (await session.read({ nodeId: node('bAnomaly') })).value.value,
    vibrate: async (value) => {
      const status = await session.writeSingleNode(node('rVib'), { dataType: opcua.DataType.Float, value });
      assert.equal(status.name, 'Good');
    },
    async leave() {
      await session.close();
      await connection.disconnect();
    },
  };
}

// The way from the PLC's tag through broker, Node-RED and model back into the PLC, and again after the PLC was off.
test('the flag arrives in the PLC, also after a restart of the PLC', async () => {
  const startPlc = () => start(process.execPath, [plcProgram, '--port', String(plcPort), '--hold'], { ready: /listening on/ });
  let plc = await startPlc();
  try {
    await nodeRed.deploy(bridge, plcFlow);
    for (const restarted of [false, true]) {
      if (restarted) {
        await plc.stop('SIGKILL');
        plc = await startPlc();
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
