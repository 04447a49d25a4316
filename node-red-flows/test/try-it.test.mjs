import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { nodeNamed, readFlow, startNodeRed } from '../bed/node-red.mjs';
import { freePort, until } from '../bed/process.mjs';
import { startServer } from '../bed/server.mjs';

const flow = readFlow('1-try-it.json');
let nodeRed, port;

before(async () => {
  port = await freePort();
  nodeRed = await startNodeRed({ IFOREST_URL: `http://127.0.0.1:${port}` });
});
after(() => nodeRed?.stop());

// The first step of a new user: each button must show the correct prediction.
test('each button shows its prediction', async () => {
  const server = await startServer(port);
  try {
    await nodeRed.deploy(flow);
    for (const [button, status] of [
      ['0.25', 'Normal Behaviour'],
      ['0.45', 'Normal Behaviour'],
      ['2.5', 'Normal Behaviour'],
      ['9', 'Anomaly Detected'],
    ]) {
      nodeRed.debug.length = 0;
      await nodeRed.inject(nodeNamed(flow, button).id);
      await until(() => nodeRed.debug.length > 0, `the response to ${button}`);
      const response = JSON.parse(nodeRed.debug[0].msg);
      assert.equal(response.input_value, Number(button));
      assert.equal(response.status, status);
      await until(() => nodeRed.status(flow, 'response').text === `${button}: ${status}`, 'the status');
    }
  } finally {
    await server.stop();
  }
});

// Without a server the flow must show the reason, not an empty response.
test('an unreachable server is reported', async () => {
  await nodeRed.deploy(flow);
  await nodeRed.inject(nodeNamed(flow, '9').id);
  await until(() => nodeRed.debug.some((event) => /^Request failed: .*ECONNREFUSED/.test(event.msg)), 'the reason');
  assert.match(nodeRed.status(flow, 'response').text, /^request failed: /);
});
