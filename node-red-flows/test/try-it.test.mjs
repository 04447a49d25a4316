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

// The first thing that a newcomer does: each button must give the answer that its number deserves.
test('each button shows its verdict', async () => {
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
      await until(() => nodeRed.debug.length > 0, `the answer to ${button}`);
      const answer = JSON.parse(nodeRed.debug[0].msg);
      assert.equal(answer.input_value, Number(button));
      assert.equal(answer.status, status);
      await until(() => nodeRed.status(flow, 'answer').text === `${button}: ${status}`, 'the status');
    }
  } finally {
    await server.stop();
  }
});

// Whoever forgot to start the server must be told so, and not shown an empty answer.
test('a server that is down is named', async () => {
  await nodeRed.deploy(flow);
  await nodeRed.inject(nodeNamed(flow, '9').id);
  await until(() => nodeRed.debug.some((event) => /^No answer: .*ECONNREFUSED/.test(event.msg)), 'the reason');
  assert.match(nodeRed.status(flow, 'answer').text, /^no answer: /);
});
