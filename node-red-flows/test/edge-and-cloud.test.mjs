import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { appendFileSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { client, hasMosquitto, startMosquittoWith } from '../bed/brokers.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from '../bed/node-red.mjs';
import { freePort, temporaryFolder, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { serverBinary, startServer } from '../bed/server.mjs';

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
  // What the README shows, on free ports of this machine: nothing else is changed.
  test('the commands of the README work as written', { skip: process.platform === 'win32' }, async () => {
    const folder = fileURLToPath(new URL('..', import.meta.url));
    const section = readFileSync(join(folder, 'README.md'), 'utf8').split('\n### Without Edge and Cloud\n')[1].split('\n## ')[0];
    const commands = section.split(/\n\n/).filter((block) => block.startsWith('    ')).map((block) => block.replaceAll(/^ {4}/gm, ''));
    assert.equal(commands.length, 6, commands.join('\n'));

    const root = temporaryFolder('readme');
    const cwd = join(root, 'node-red-flows');
    const [server, edge, cloud, editor] = [await freePort(), await freePort(), await freePort(), await freePort()];
    const moved = (text) => text.replaceAll(/\b188[45]\b/g, (port) => (port === '1884' ? edge : cloud));
    mkdirSync(join(root, 'target', 'release'), { recursive: true });
    symlinkSync(serverBinary(), join(root, 'target', 'release', 'iforest-server'));
    mkdirSync(join(cwd, 'edge'), { recursive: true });
    for (const name of ['2-mqtt-bridge.json', 'package.json']) cpSync(join(folder, name), join(cwd, name));
    symlinkSync(join(folder, 'node_modules'), join(cwd, 'node_modules'));
    for (const name of ['edge/mosquitto-cloud.conf', 'edge/mosquitto-edge.conf']) {
      writeFileSync(join(cwd, name), moved(readFileSync(join(folder, name), 'utf8')));
      // Started as root, mosquitto switches to a user who cannot read this folder.
      if (process.getuid?.() === 0) appendFileSync(join(cwd, name), 'user root\n');
    }

    const terminals = [];
    /** Runs a command like a terminal of its own, whose programs can all be ended together. */
    const type = (text) => {
      const env = { ...process.env, IFOREST_URL: `http://localhost:${server}`, TMPDIR: root };
      env.PATH = [process.env.PATH, '/usr/sbin', '/usr/local/sbin'].join(delimiter);
      const child = spawn('sh', ['-c', text], { cwd, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
      const terminal = { child, text, log: '', gone: new Promise((resolve) => child.once('close', resolve)) };
      child.stdout.setEncoding('utf8').on('data', (chunk) => (terminal.log += chunk));
      child.stderr.setEncoding('utf8').on('data', (chunk) => (terminal.log += chunk));
      terminals.push(terminal);
      return terminal;
    };
    const says = (terminal, expected) => until(() => expected.test(terminal.log), () => `${expected} from: ${terminal.text}\n${terminal.log}`, 60);
    try {
      const [startsServer, startsCloud, startsEdge, startsNodeRed, listens, publishes] = commands;
      await says(type(`${startsServer} --port ${server}`), /listening on/);
      await says(type(startsCloud), /mosquitto version \S+ running/);
      await says(type(startsEdge), /mosquitto version \S+ running/);
      await says(type(moved(startsNodeRed).replace('uiHost=127.0.0.1', `uiHost=127.0.0.1 -D uiPort=${editor}`)), /Connected to broker/);
      const listener = type(moved(listens));
      // It says nothing when it is connected, so the reading is published until its predictions are there.
      await until(
        async () => {
          await type(moved(publishes)).gone;
          return listener.log.includes('anomaly/flag');
        },
        () => `the predictions: ${terminals.map(({ text, log }) => `${text}\n${log}`).join('\n')}`,
        60,
      );
      assert.match(listener.log, /^hivemq-edge\/machine\/s71500\/anomaly Anomaly Detected$/m);
      assert.match(listener.log, /^hivemq-edge\/machine\/s71500\/anomaly\/json \{.*"input_value":9\b.*\}$/m);
      assert.match(listener.log, /^hivemq-edge\/machine\/s71500\/anomaly\/flag \{"value":true\}$/m);
    } finally {
      for (const { child, gone } of terminals.reverse()) {
        if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid, 'SIGINT');
        await gone;
      }
    }
  });
}
