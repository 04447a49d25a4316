// The whole pipeline on this machine: server, broker, Node-RED with the flows, and the dashboard.
//   npm run demo                  a simulated signal
//   npm run demo -- --plc         a simulated PLC over OPC UA instead
//   npm run demo -- --port 1880   port of Node-RED; any free port by default
//   npm run demo -- --picture docs/dashboard.png   run for a minute, save a picture, stop
import { parseArgs } from 'node:util';
import { aedes } from './bed/brokers.mjs';
import { findChromium, launch } from './bed/chromium.mjs';
import { local, nodeNamed, readFlow, startNodeRed, withSettings } from './bed/node-red.mjs';
import { startPlc } from './bed/plcs.mjs';
import { freePort, sleep } from './bed/process.mjs';
import { startServer } from './bed/server.mjs';

const { values: given } = parseArgs({ options: { plc: { type: 'boolean', default: false }, port: { type: 'string' }, picture: { type: 'string' } } });

const running = [];
const started = async (what, program) => {
  running.unshift(await program);
  console.log(`started ${what}`);
};
let stopping = false;
async function stop() {
  if (stopping) return;
  stopping = true;
  for (const program of running) await program.stop();
  process.exit(0);
}
process.on('SIGINT', stop);
process.on('SIGTERM', stop);

const [serverPort, brokerPort, plcPort] = [await freePort(), await freePort(), await freePort()];
await started(`iforest-server on http://127.0.0.1:${serverPort}`, startServer(serverPort));
await started(`an MQTT broker on mqtt://127.0.0.1:${brokerPort}`, aedes.start(brokerPort));
if (given.plc) {
  await started(`a simulated PLC on opc.tcp://127.0.0.1:${plcPort}`, startPlc(plcPort));
}
const nodeRed = await startNodeRed(
  {
    ...local(brokerPort, serverPort),
    SIMULATE_FAULTS: String(!given.picture),
    OPCUA_URL: `opc.tcp://127.0.0.1:${plcPort}`,
  },
  { port: given.port && Number(given.port) },
);
running.unshift(nodeRed);
console.log(`started Node-RED on ${nodeRed.url}`);
await nodeRed.deploy(
  readFlow('1-try-it.json'),
  readFlow('2-mqtt-bridge.json'),
  // New users press the button within the first minute, before there are 200 readings.
  withSettings(readFlow('3-retrain.json'), { RETRAIN_MIN: 50 }),
  readFlow('4-dashboard.json'),
  readFlow(given.plc ? '5-plc-opcua.json' : '6-signal-simulator.json'),
);
console.log(`
Open the dashboard:  ${nodeRed.url}/dashboard/vibration
and the flows:       ${nodeRed.url}/
Stop with Ctrl+C.`);

if (given.picture) {
  const browser = await launch(findChromium());
  running.unshift({ stop: () => browser.close() });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await page.goto(`${nodeRed.url}/dashboard/vibration`);
  const press = (name) => nodeRed.inject(nodeNamed(readFlow('6-signal-simulator.json'), name, 'inject').id);
  await sleep(15_000);
  await press('spike');
  await sleep(12_000);
  await press('dropout');
  await sleep(10_000);
  await press('drift');
  await sleep(19_000);
  await page.screenshot({ path: given.picture });
  await stop();
}
