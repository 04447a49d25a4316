import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import { findChromium, launch } from '../bed/chromium.mjs';
import { openEditor } from '../bed/editor.mjs';
import { readFlow, startNodeRed } from '../bed/node-red.mjs';
import { notRun } from '../bed/report.mjs';

const folder = new URL('../', import.meta.url);
const files = readdirSync(folder).filter((name) => /^\d-.*\.json$/.test(name));

// Two flows with the same node id cannot both be imported.
test('no two flows share an id', () => {
  const ids = files.flatMap((name) => readFlow(name).map((n) => n.id));
  assert.ok(files.length >= 6);
  assert.equal(new Set(ids).size, ids.length);
});

// A password saved by mistake would be in every copy.
test('credentials are references to the environment', () => {
  for (const name of files) {
    for (const n of readFlow(name)) {
      const given = Object.values(n.credentials ?? {});
      assert.ok(given.every((text) => /^\$\{\w+\}$/.test(text)), `${name}: ${given}`);
    }
  }
});

const executable = findChromium();
if (!executable) {
  notRun("import through Node-RED's editor", 'Chromium is not installed');
} else {
  describe("import through Node-RED's editor", () => {
    let browser, nodeRed;
    before(async () => {
      nodeRed = await startNodeRed();
      browser = await launch(executable);
    });
    after(async () => {
      await browser?.close();
      await nodeRed?.stop();
    });

    // Users import with the editor, which may refuse or strip nodes that the admin API accepts.
    test('all flows are imported and deployed with nothing lost', async () => {
      const { page, importFlow, deploy } = await openEditor(browser, nodeRed);
      for (const name of files) await importFlow(name);
      const invalid = await page.evaluate(() => {
        const bad = [];
        const check = (n) => n.valid === false && bad.push(`${n.type} ${n.name}: ${n.validationErrors}`);
        window.RED.nodes.eachNode(check);
        window.RED.nodes.eachConfig(check);
        return bad;
      });
      assert.deepEqual(invalid, []);
      const deployed = await deploy((flows) => flows.length > 100);
      const byId = new Map(deployed.map((n) => [n.id, n]));
      for (const name of files) {
        for (const n of readFlow(name)) {
          const there = byId.get(n.id);
          assert.ok(there, `${name}: ${n.type} ${n.name ?? n.label} is there`);
          for (const key of ['type', 'func', 'env', 'topic', 'url', 'broker', 'wires', 'qos', 'retain', 'name', 'path', 'z']) {
            assert.deepEqual(there[key], n[key], `${name}: ${key} of ${n.type} ${n.name ?? n.label}`);
          }
        }
      }
      // The editor passes the references of user and password to the runtime, which hides the password.
      const bridge = readFlow('2-mqtt-bridge.json').find((n) => n.type === 'mqtt-broker');
      const kept = await (await fetch(`${nodeRed.url}/credentials/mqtt-broker/${bridge.id}`)).json();
      assert.deepEqual(kept, { user: '${MQTT_USER}', has_password: true });
      await page.close();
    });
  });
}
