import { count, newCounter } from '../../../lib/counter.js';
import { machineOf } from '../../../lib/topic.js';

export function start({ context }) {
  context.set('refused', newCounter());
}

// Two outputs: the reading with the name of its machine, and a report. The model has the name of the machine.
export default function nameTheMachine({ msg, env, context }) {
  const model = machineOf(env.get('READING_TOPIC'), msg.topic);
  if (model) return [{ topic: msg.topic, model, payload: msg.payload, retain: msg.retain }, null];
  const what = 'refused: a machine needs a name of A-Z, a-z, 0-9, ".", "_" and "-", got the topic ' + msg.topic.slice(0, 100);
  const line = count(context.get('refused'), what, Date.now());
  return [null, line && { payload: line }];
}
