// The examples of the package on a plant's network.
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { brokers, client } from '../bed/brokers.mjs';
import { startLine } from '../bed/line.mjs';
import { local, readFlow, startNodeRed } from '../bed/node-red.mjs';
import { userWithPackage } from '../bed/package.mjs';
import { freePort, sleep, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const READINGS = 'hivemq-edge/machine/s71500/rVib';
const WHOLE = 'hivemq-edge/machine/s71500/anomaly/json';
const onDisk = { contextStorage: { default: { module: 'localfilesystem' } } };
const flow = readFlow('examples/bridge.json');
const predict = flow.find(({ type }) => type === 'iforest-predict');

describe('the bridge with the nodes loses no reading', () => {
  let broker, server, us, nodeRed, line, serverPort, userDir;
  const values = () => us.texts(WHOLE).map((text) => JSON.parse(text).input_value);
  const send = (value) => us.publishAsync(READINGS, JSON.stringify({ value, timestamp: Date.now() }), { qos: 1 });
  const begin = async (flows) => {
    nodeRed = await startNodeRed(local(line.port, serverPort), { userDir, more: onDisk, ...(flows && { flows }) });
  };
  const isUp = () => until(() => nodeRed.status(flow, 'readings').fill === 'green', 'the bridge to connect');

  beforeEach(async () => {
    const brokerPort = await freePort();
    serverPort = await freePort();
    broker = await brokers('the examples').at(-1).start(brokerPort);
    server = await startServer(serverPort);
    line = await startLine(brokerPort);
    us = await client(`mqtt://127.0.0.1:${brokerPort}`);
    await us.subscribeAsync([WHOLE], { qos: 1 });
    userDir = userWithPackage();
    await begin(flow);
    await isUp();
  });
  afterEach(async () => {
    await nodeRed?.stop();
    await us.endAsync(true);
    await line.stop();
    await server.stop();
    await broker.stop();
  });

  test('while the line to the broker is cut', async () => {
    const sent = Array.from({ length: 600 }, (_, i) => Number((1 + i / 300).toFixed(4)));
    let mended;
    for (const [i, value] of sent.entries()) {
      await send(value);
      if (i === 100) mended = line.cut().then(() => sleep(2500)).then(line.mend);
      await sleep(5);
    }
    await mended;
    await until(() => new Set(values()).size >= sent.length, () => `600 predictions, have ${new Set(values()).size}`);
  });

  // The predictions of the readings that were kept on disk would have nowhere to go.
  test('where Node-RED restarts while the broker cannot be reached', async () => {
    await server.stop('SIGKILL');
    const sent = Array.from({ length: 50 }, (_, i) => 1 + i / 50);
    for (const value of sent) await send(value);
    await until(() => / 50 waiting/.test(nodeRed.statuses.get(predict.id)?.text), 'fifty to wait');
    await nodeRed.stop();
    server = await startServer(serverPort);
    await line.cut();
    await begin();
    await sleep(3000);
    await line.mend();
    await until(() => values().length >= sent.length, () => `50 predictions, have ${values().length}`);
    assert.deepEqual(values(), sent);
  });
});
