import { count, newCounter } from '../../lib/counter.js';
import { readPayload } from '../../lib/reading.js';

const STATE_EVERY = 60_000;

export function start({ context }) {
  context.set('refused', newCounter());
  context.set('unknown', { reason: '', publishedAt: 0 });
}

// Three outputs: the reading, a report, and the machine's state where readings have no value or bad quality.
export default function readTheNumber({ msg, env, node, context }) {
  // With a wildcard in READING_TOPIC this flow receives its own messages. Predicting them would loop for ever.
  const own = [env.get('ANOMALY_TOPIC'), env.get('JSON_TOPIC'), env.get('FLAG_TOPIC'), env.get('STATE_TOPIC')];
  if (own.includes(msg.topic)) return null;

  const now = Date.now();
  const { reading, unknown, refused, timestamp } = readPayload(msg.payload, now);
  const report = (text) => ({ topic: msg.topic, payload: text });
  if (refused) {
    const counter = context.get('refused');
    const line = count(counter, 'refused: ' + refused, now);
    node.status({ fill: 'yellow', shape: 'ring', text: counter.total + ' refused, the last: ' + refused });
    return [null, line && report(line), null];
  }
  const before = context.get('unknown');
  if (unknown) {
    const isNew = before.reason !== unknown;
    if (!isNew && now - before.publishedAt < STATE_EVERY) return null;
    context.set('unknown', { reason: unknown, publishedAt: now });
    node.status({ fill: 'yellow', shape: 'ring', text: 'not judged: ' + unknown });
    const state = { payload: { state: 'unknown', reason: unknown, timestamp: timestamp } };
    return [null, isNew ? report('not judged: ' + unknown) : null, state];
  }
  reading.arrived = now;
  if (!before.reason) return [{ reading: reading }, null, null];
  context.set('unknown', { reason: '', publishedAt: 0 });
  node.status({});
  const state = { payload: { state: 'known', timestamp: reading.timestamp } };
  return [{ reading: reading }, report('judged again'), state];
}
