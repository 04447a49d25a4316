import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { flows } from '../flows/build.mjs';

// Users import the files, and developers change the sources.
test('the flow files are those that the sources build', async () => {
  const built = await flows();
  assert.equal(built.size, 8);
  for (const [name, text] of built) {
    assert.equal(readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'), text, `${name} differs: run npm run build`);
  }
});

test('every wire leads to a node of its flow, and no id is used twice', async () => {
  const seen = new Set();
  for (const [name, text] of await flows()) {
    const nodes = JSON.parse(text);
    const ids = new Set(nodes.map(({ id }) => id));
    for (const { id, type, wires = [], broker, tls } of nodes) {
      assert.match(id, /^[0-9a-f]{16}$/);
      // A dashboard has one of these, whatever flows are imported.
      assert.ok(!seen.has(id) || ['ui-base', 'ui-theme'].includes(type), `${name}: ${id}`);
      seen.add(id);
      for (const target of [...wires.flat(), broker, tls]) {
        if (/^[0-9a-f]{16}$/.test(target ?? '')) assert.ok(ids.has(target), `${name}: ${id} leads to ${target}`);
      }
    }
  }
});
