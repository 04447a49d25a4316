// A simulated S7-1500 with an OPC UA server: the vibration to read, the anomaly flag to write.
//   node plc.mjs --port 4840 [--hold] [--folder FOLDER]
//     --hold: the vibration keeps the value written to it
//     --folder: folder for the certificates; the caller removes it, also if this process is killed
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import opcua from 'node-opcua';

const { values: given } = parseArgs({
  options: { port: { type: 'string', default: '4840' }, hold: { type: 'boolean', default: false }, folder: { type: 'string' } },
});

// Creates the certificates at each start, so that none stay on the machine.
const folder = given.folder ?? mkdtempSync(join(tmpdir(), 'iforest-plc-'));
if (!given.folder) process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));

const server = new opcua.OPCUAServer({
  host: '127.0.0.1',
  hostname: '127.0.0.1',
  port: Number(given.port),
  resourcePath: '/',
  buildInfo: { productName: 'Simulated S7-1500' },
  serverCertificateManager: new opcua.OPCUACertificateManager({ rootFolder: folder, automaticallyAcceptUnknownCertificate: true }),
  userCertificateManager: new opcua.OPCUACertificateManager({ rootFolder: join(folder, 'users') }),
  securityPolicies: [opcua.SecurityPolicy.None],
  securityModes: [opcua.MessageSecurityMode.None],
});
await server.initialize();

const space = server.engine.addressSpace;
// Siemens puts the tags of a program in namespace 3.
space.registerNamespace('urn:simulated:2');
const plc = space.registerNamespace('http://www.siemens.com/simatic-s7-opcua');
const block = plc.addObject({ organizedBy: space.rootFolder.objects, browseName: 'DB_Machine', nodeId: 's="DB_Machine"' });
const tag = (name, dataType, value) =>
  plc.addVariable({ componentOf: block, browseName: name, nodeId: `s="DB_Machine"."${name}"`, dataType, value: { dataType, value } });
const vibration = tag('rVib', opcua.DataType.Float, 2.5);
const anomaly = tag('bAnomaly', opcua.DataType.Boolean, false);
anomaly.on('value_changed', (now) => console.log(`bAnomaly is ${now.value.value}`));

if (!given.hold) {
  const started = Date.now();
  setInterval(() => {
    // A loose bolt during the last six of every forty seconds.
    const loose = ((Date.now() - started) / 1000) % 40 > 34;
    const value = (loose ? 7.5 : 2.4) + 1.2 * (Math.random() + Math.random() - 1);
    vibration.setValueFromSource({ dataType: opcua.DataType.Float, value });
  }, 250);
}
await server.start();
console.log(`listening on opc.tcp://127.0.0.1:${given.port}/`);
