// The real Node-RED, controlled like an editor: through the admin API and the /comms websocket.
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import WebSocket from 'ws';
import { freePort, start, temporaryFolder, until } from './process.mjs';

const require = createRequire(import.meta.url);

/** Node-RED's start script; NODE_RED_DIR selects the folder of another version. */
function nodeRedScript() {
  const folder = process.env.NODE_RED_DIR ?? dirname(require.resolve('node-red/package.json'));
  return resolve(folder, 'red.js');
}

/** Reads a flow file, unchanged. */
export function readFlow(name) {
  return JSON.parse(readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'));
}

/** The flows' environment for a broker without TLS and a server, both on this machine. */
export const local = (brokerPort, serverPort) => ({
  MQTT_HOST: '127.0.0.1',
  MQTT_PORT: String(brokerPort),
  MQTT_TLS: 'false',
  IFOREST_URL: `http://127.0.0.1:${serverPort}`,
});

/**
 * Starts it with an empty flow, or with the flows of a file. The folder of the user and more settings can be given, as for a
 * restart. `hear` gets each chunk of its log.
 */
export async function startNodeRed(env = {}, { port, userDir = temporaryFolder('node-red'), more = {}, flows, hear } = {}) {
  port ??= await freePort();
  const settings = {
    uiHost: '127.0.0.1',
    uiPort: port,
    userDir,
    flowFile: 'flows.json',
    credentialSecret: false,
    // The default of 15 s would slow down each test of a reconnection.
    mqttReconnectTime: 500,
    telemetry: { enabled: false, updateNotification: false },
    editorTheme: { tours: false },
    logging: { console: { level: 'info', metrics: false, audit: false } },
    ...more,
  };
  const settingsFile = join(userDir, 'settings.cjs');
  writeFileSync(settingsFile, `module.exports = ${JSON.stringify(settings)};\n`);
  const flowFile = join(userDir, 'flows.json');
  if (flows || !existsSync(flowFile)) writeFileSync(flowFile, JSON.stringify(flows ?? []));
  const node = process.env.NODE_RED_NODE ? resolve(process.env.NODE_RED_NODE) : process.execPath;
  const program = await start(node, [nodeRedScript(), '--settings', settingsFile], { ready: /^(?=[^]*Started flows)(?=[^]*Server now running)/, env, hear });
  const url = `http://127.0.0.1:${port}`;

  const debug = [];
  const statuses = new Map();
  const socket = new WebSocket(`${url.replace('http', 'ws')}/comms`);
  socket.on('message', (data) => {
    for (const { topic, data: event } of [JSON.parse(data)].flat()) {
      if (topic === 'debug') debug.push(event);
      if (topic?.startsWith('status/')) statuses.set(topic.slice('status/'.length), event);
    }
  });
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  socket.send(JSON.stringify({ subscribe: 'debug' }));
  socket.send(JSON.stringify({ subscribe: 'status/#' }));

  const call = async (path, options) => {
    const response = await fetch(url + path, options);
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
  };
  const starts = () => program.log.split('Started flows').length;
  return {
    url,
    program,
    debug,
    statuses,
    /** Deploys these nodes in place of all others. */
    async deploy(...flows) {
      const nodes = flows.flat();
      debug.length = 0;
      statuses.clear();
      const before = starts();
      await call('/flows', {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'node-red-deployment-type': 'full' },
        body: JSON.stringify(nodes),
      });
      await until(() => starts() > before, 'the flows to start');
    },
    inject: (id) => call(`/inject/${id}`, { method: 'POST' }),
    /** The status below a node. */
    status: (flow, name) => statuses.get(nodeNamed(flow, name).id) ?? {},
    async stop() {
      socket.close();
      await program.stop();
    },
  };
}

export function nodeNamed(flow, name, type) {
  const found = flow.filter((n) => n.name === name && (!type || n.type === type));
  if (found.length !== 1) throw new Error(`${found.length} nodes are called ${name}`);
  return found[0];
}

/** Returns the flow with other values in its tab's settings, as a user enters them. */
export function withSettings(flow, values) {
  const changed = structuredClone(flow);
  for (const [name, value] of Object.entries(values)) {
    const setting = changed[0].env.find((entry) => entry.name === name);
    if (!setting) throw new Error(`the flow has no setting ${name}`);
    Object.assign(setting, { value: String(value), type: 'str' });
  }
  return changed;
}
