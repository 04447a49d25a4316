import { count, newCounter } from '../../lib/counter.js';
import { describe, newQueue, resumeQueue, step } from '../../lib/queue.js';
import { serverHeaders } from '../../lib/server.js';

// Enough to see what is wrong, where a model refuses each reading of a fast machine.
const REPORTS_A_MINUTE = 10;

// The queue is in the context of the flow: without a configured store, Node-RED deletes that of a node at each deployment.
export function start({ context, flow }) {
  const now = Date.now();
  const kept = flow.get('queue');
  flow.set('queue', kept ? resumeQueue(kept, now) : newQueue(now));
  context.set('refused', newCounter());
}

// Three outputs: the request, the predictions, and reports of refused readings.
export default function oneRequestAtATime({ msg, env, node, context, flow }) {
  const q = flow.get('queue');
  const event = { reading: msg.reading, outcome: msg.outcome };
  if (msg.status) event.connected = msg.status.fill === 'green';
  const settings = {
    limit: Number(env.get('QUEUE_LIMIT')),
    batch: Number(env.get('BATCH_LIMIT')),
    maxAge: 1000 * Number(env.get('MAX_AGE')),
  };
  const now = Date.now();
  const { request, predictions, reports, warnings } = step(q, event, settings, now);
  // A store on disk writes what was set.
  if (msg.reading || msg.outcome) flow.set('queue', q);
  warnings.forEach((warning) => node.warn(warning));
  if (msg.tick) {
    const state = describe(q);
    if (state.text !== context.get('shown')) node.status(state);
    context.set('shown', state.text);
  }
  return [
    request && {
      id: request.id,
      count: request.readings.length,
      payload: { values: request.readings.map((reading) => reading.value) },
      headers: serverHeaders(env),
      requestTimeout: 10000,
    },
    predictions,
    reports.flatMap((report) => count(context.get('refused'), report, now, REPORTS_A_MINUTE) ?? []).map((line) => ({ payload: line })),
  ];
}
