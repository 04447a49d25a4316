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

// Those flows belong to somebody else and are not shipped; who has them beside the repository proves that they still work.
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

    /** Only what the user must set: the server's address. */
    const atOurs = (flow) =>
      flow.map((n) => (n.type === 'http request' ? { ...n, url: n.url.replace('localhost:5000', `localhost:${port}`) } : n));

    // Whoever replaces server.py must not have to touch a flow.
    test('the inject flow shows the whole answer', async () => {
      const flow = atOurs(read('flow-inject.json'));
      await nodeRed.deploy(flow);
      for (const button of flow.filter((n) => n.type === 'inject')) {
        nodeRed.debug.length = 0;
        await nodeRed.inject(button.id);
        await until(() => nodeRed.debug.length > 0, 'the answer');
        const answer = JSON.parse(nodeRed.debug[0].msg);
        assert.deepEqual(Object.keys(answer).sort(), ['anomaly_score', 'input_value', 'prediction', 'scaled_value', 'status']);
        assert.equal(answer.input_value, Number(button.payload));
        assert.equal(answer.status, 'Normal Behaviour');
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
        const flow = atOurs(read('flow-mqtt.json'));
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
          await until(() => us.heard.length > 0, 'the answer');
          assert.equal(us.heard[0].text, status);
        }
      } finally {
        await us.endAsync(true);
        await broker.stop();
      }
    });
  });
}
