import { judge, newAlarm } from '../../lib/alarm.js';
import { parseJson } from '../../lib/json.js';
import { add, newTrend } from '../../lib/trend.js';

const SHARE_OF = 1000;

export function start({ flow }) {
  const counts = { since: Date.now(), total: 0, anomalies: 0, late: 0, recent: [] };
  flow.set('seen', { ...counts, alarm: newAlarm(), trend: newTrend(), last: null, unknown: null });
}

// Takes the bridge's predictions and states; sends the alarm when it changes.
export default function countAndAlarm({ msg, env, node, flow }) {
  const said = parseJson(msg.payload);
  const s = flow.get('seen');
  const now = Date.now();
  if (msg.topic === env.get('STATE_TOPIC')) {
    if (said?.state === 'unknown') s.unknown = { reason: String(said.reason), timestamp: said.timestamp };
    else s.unknown = null;
    return null;
  }
  // With several features input_value is a list. While a model with a window warms up, there is no score.
  if (!said || ![said.input_value].flat().every(Number.isFinite)) return null;
  if (said.late) {
    s.late += 1;
    return null;
  }
  const isWarmingUp = said.anomaly_score === null;
  if (!isWarmingUp && !Number.isFinite(said.anomaly_score)) return null;

  // The state is newer than the predictions that were on their way.
  if (s.unknown && !(said.timestamp < s.unknown.timestamp)) s.unknown = null;
  s.last = said;
  s.total += 1;
  add(s.trend, { value: said.input_value, score: said.anomaly_score }, now);
  if (isWarmingUp) return null;
  s.anomalies += said.prediction;
  s.recent.push(said.prediction);
  if (s.recent.length > SHARE_OF) s.recent.shift();

  const rule = { on: Number(env.get('ALARM_ON')), off: Number(env.get('ALARM_OFF')), count: Number(env.get('ALARM_COUNT')) };
  let changed;
  if (typeof said.alarm === 'boolean') {
    // A model with a window has an alarm of its own.
    changed = said.alarm !== s.alarm.on;
    if (changed) Object.assign(s.alarm, { on: said.alarm, since: now });
  } else {
    changed = judge(s.alarm, said.prediction === 1, rule, now);
  }
  if (!changed) return null;
  const { on } = s.alarm;
  node.status({ fill: on ? 'red' : 'green', shape: 'dot', text: on ? 'alarm' : 'no alarm' });
  return { payload: { value: on } };
}
