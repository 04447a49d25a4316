import * as fleet from '../../../lib/fleet.js';
import { answerTopic } from '../../../lib/topic.js';

export function start({ context }) {
  context.set('fleet', fleet.newFleet(Date.now()));
}

// Three outputs: what the page shows, alarms that change, and commands to the trainer.
export default function keepTheTable({ msg, env, node, context }) {
  const state = context.get('fleet');
  const now = Date.now();
  if (msg.tick) {
    const shown = fleet.page(state, now);
    const alarms = shown.rows.filter((row) => row.state === 'alarm').length;
    const text = shown.rows.length + ' machines, ' + alarms + ' in alarm';
    if (text !== context.get('shown')) node.status({ fill: alarms > 0 ? 'red' : 'green', shape: 'dot', text });
    context.set('shown', text);
    return [{ payload: shown }, null, null];
  }
  if (msg.open) {
    fleet.open(state, msg.open, now);
    return null;
  }
  if (msg.learn || msg.retrain) {
    if (msg.model !== 'no model') return [null, null, { model: msg.model, learn: msg.learn, retrain: msg.retrain }];
    // All machines that have no model yet.
    const without = Object.entries(state.machines).filter(([, one]) => one.problem?.state === 'no_model');
    return [null, null, without.map(([model]) => ({ model, learn: 'start' }))];
  }
  const { payload } = msg;
  if (payload.learning || 'retrained' in payload) {
    fleet.trained(state, msg.model, payload);
  } else if (payload.state) {
    fleet.notJudged(state, msg.model, payload);
  } else {
    const rule = { on: Number(env.get('ALARM_ON')), off: Number(env.get('ALARM_OFF')), count: Number(env.get('ALARM_COUNT')) };
    const alarm = fleet.predicted(state, msg.model, payload, rule, now);
    if (alarm === null) return null;
    const topic = answerTopic(env.get('READING_TOPIC'), env.get('ANSWER_TOPIC'), msg.topic) + '/alarm';
    return [null, { topic, payload: { value: alarm } }, null];
  }
  return null;
}
