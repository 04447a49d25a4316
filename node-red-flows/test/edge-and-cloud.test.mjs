import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { client, hasMosquitto, startMosquittoWith } from '../bed/brokers.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { startServer } from '../bed/server.mjs';

const flow = readFlow('2-mqtt-bridge.json');
const PREDICTIONS = 'hivemq-edge/machine/s71500/anomaly';

if (!hasMosquitto) {
  notRun('edge and cloud bridged, and shared subscriptions', 'mosquitto is not installed');
} else {
  describe('edge and cloud', () => {
    let nodeRed, server, cloud, edge, cloudPort, edgePort, serverPort;

    before(async () => {
      cloudPort = await freePort();
      edgePort = await freePort();
      serverPort = await freePort();
      cloud = await startMosquittoWith('mosquitto-cloud.conf', { 1885: cloudPort });
      edge = await startMosquittoWith('mosquitto-edge.conf', { 1884: edgePort, 1885: cloudPort });
      nodeRed = await startNodeRed(local(cloudPort, serverPort));
    });
    after(async () => {
      await nodeRed?.stop();
      await edge?.stop();
      await cloud?.stop();
    });
    beforeEach(async () => {
      server = await startServer(serverPort);
    });
    afterEach(() => server?.stop());
    const isUp = (of) => until(() => nodeRed.status(of, 'readings').fill === 'green', 'the bridge to connect');

    // The shipped configuration must forward a reading from the machine to the flow and return its predictions, each once.
    test('a reading goes out under the prefix and its predictions return', async (t) => {
      await nodeRed.deploy(flow);
      await isUp(flow);
      const us = await client(`mqtt://127.0.0.1:${edgePort}`);
      await us.subscribeAsync(`${PREDICTIONS}/#`, { qos: 1 });
      await until(() => /Received SUBACK from local\S*cloud|Bridge .* sending CONNECT[^]*Received CONNACK on connection/.test(edge.log), 'the edge to reach the cloud');
      const took = [];
      for (const [value, flag] of [[2.5, false], [9, true], [3, false], [8.5, true]]) {
        us.heard.length = 0;
        const start = Date.now();
        await us.publishAsync('machine/s71500/rVib', JSON.stringify({ value, timestamp: start, tagName: 'rVib' }), { qos: 1 });
        await until(() => us.heard.length >= 3, 'three messages');
        took.push(Date.now() - start);
        assert.deepEqual(us.texts(PREDICTIONS), [flag ? 'Anomaly Detected' : 'Normal Behaviour']);
        assert.deepEqual(us.texts(`${PREDICTIONS}/flag`), [`{"value":${flag}}`]);
        assert.equal(JSON.parse(us.texts(`${PREDICTIONS}/json`)[0]).input_value, value);
      }
      t.diagnostic(`edge, cloud, flow, server and back: ${took.join(', ')} ms`);
      await us.endAsync(true);
    });

    // Scaling out gives up order; it must still predict every reading, exactly once.
    test('two bridges share the readings of one topic', async (t) => {
      const shared = withSettings(flow, { READING_TOPIC: '$share/judges/hivemq-edge/machine/s71500/rVib' });
      const twin = JSON.parse(JSON.stringify(shared).replaceAll(/"([0-9a-f]{16})"/g, (_, id) => `"${id.slice(0, 15)}${id.endsWith('0') ? '1' : '0'}"`));
      await nodeRed.deploy(shared, twin);
      await isUp(shared);
      await isUp(twin);
      const us = await client(`mqtt://127.0.0.1:${cloudPort}`);
      await us.subscribeAsync(`${PREDICTIONS}/json`, { qos: 1 });
      const sent = Array.from({ length: 400 }, (_, i) => Number((1 + i / 400).toFixed(4)));
      for (const value of sent) us.publish('hivemq-edge/machine/s71500/rVib', String(value), { qos: 1 });
      await until(() => us.heard.length >= sent.length, 'all predictions');
      const values = us.texts(`${PREDICTIONS}/json`).map((text) => JSON.parse(text).input_value);
      assert.deepEqual([...values].sort((a, b) => a - b), sent);
      const predicted = async (of) => Number((await until(() => /^[1-9]\d* predicted/.exec(nodeRed.status(of, 'one request at a time').text), 'a share'))[0].split(' ')[0]);
      const shares = [await predicted(shared), await predicted(twin)];
      assert.ok(nodeNamed(twin, 'readings').id !== nodeNamed(shared, 'readings').id);
      const inversions = values.filter((value, i) => i > 0 && value < values[i - 1]).length;
      t.diagnostic(`shared ${shares.join(' and ')}; ${inversions} of 400 predictions out of order`);
      await us.endAsync(true);
    });
  });
}
