import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { aedes, client } from '../bed/brokers.mjs';
import { certificates } from '../bed/certificates.mjs';
import { startNodeRed } from '../bed/node-red.mjs';
import { freePort, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { startServer } from '../bed/server.mjs';

const folder = process.env.REFERENCE_FLOWS ?? fileURLToPath(new URL('../../../shared/reference/', import.meta.url));
const file = (name) => `${folder.replace(/\/$/, '')}/${name}`;
const present = ['flow-inject.json', 'flow-mqtt.json'].every((name) => existsSync(file(name)));

// These flows belong to a third party and are not shipped. The tests run if the files are beside the repository.
if (!present) {
  notRun("the tutorial's own flows", 'they are not beside this repository; REFERENCE_FLOWS names their folder');
} else {
  describe("the tutorial's own flows", () => {
    const read = (name) => JSON.parse(readFileSync(file(name), 'utf8'));
    let nodeRed, server, port;

    before(async () => {
      port = await freePort();
      nodeRed = await startNodeRed();
    });
    after(() => nodeRed?.stop());
    beforeEach(async () => {
      server = await startServer(port);
    });
    afterEach(() => server?.stop());

    /** Sets the server's address, as a user must. */
    const withServer = (flow) =>
      flow.map((n) => (n.type === 'http request' ? { ...n, url: n.url.replace('localhost:5000', `localhost:${port}`) } : n));

    // Replacing server.py must not require changes to a flow.
    test('the inject flow shows the whole prediction', async () => {
      const flow = withServer(read('flow-inject.json'));
      await nodeRed.deploy(flow);
      for (const button of flow.filter((n) => n.type === 'inject')) {
        nodeRed.debug.length = 0;
        await nodeRed.inject(button.id);
        await until(() => nodeRed.debug.length > 0, 'the prediction');
        const prediction = JSON.parse(nodeRed.debug[0].msg);
        assert.deepEqual(Object.keys(prediction).sort(), ['anomaly_score', 'input_value', 'prediction', 'scaled_value', 'status']);
        assert.equal(prediction.input_value, Number(button.payload));
        assert.equal(prediction.status, 'Normal Behaviour');
      }
    });

    test('the MQTT flow publishes the status text over TLS with a password', async () => {
      const certs = await certificates();
      const login = { user: 'somebody', password: 'something' };
      const brokerPort = await freePort();
      const broker = await aedes.start(brokerPort, { tls: certs.right, login });
      const us = await client(`mqtts://localhost:${brokerPort}`, {
        ca: [readFileSync(certs.authority)],
        username: login.user,
        password: login.password,
      });
      try {
        const flow = withServer(read('flow-mqtt.json'));
        const config = flow.find((n) => n.type === 'mqtt-broker');
        Object.assign(config, { broker: 'localhost', port: String(brokerPort), credentials: login });
        const topic = (type) => flow.find((n) => n.type === type).topic;
        const input = flow.find((n) => n.type === 'mqtt in');
        await nodeRed.deploy(flow);
        await until(() => nodeRed.statuses.get(input.id)?.fill === 'green', 'the flow to connect');
        await us.subscribeAsync(topic('mqtt out'), { qos: 1 });
        for (const [value, status] of [[2.5, 'Normal Behaviour'], ['9.5', 'Anomaly Detected'], [true, 'Normal Behaviour']]) {
          us.heard.length = 0;
          await us.publishAsync(topic('mqtt in'), JSON.stringify({ value, timestamp: Date.now(), tagName: 'rVib' }), { qos: 1 });
          await until(() => us.heard.length > 0, 'the prediction');
          assert.equal(us.heard[0].text, status);
        }
      } finally {
        await us.endAsync(true);
        await broker.stop();
      }
    });
  });
}
