import { parseJson } from '../../lib/json.js';

export function start({ flow }) {
  flow.set('seen', { total: 0, anomalies: 0, recent: [], alarm: false, alarmSince: 0, last: null, lastAt: 0, worst: null, gap: true });
}

export default function countAndAlarm({ msg, env, node, flow }) {
  const prediction = parseJson(msg.payload);
  // With several features input_value is a list.
  if (!prediction || !Number.isFinite(prediction.anomaly_score) || ![prediction.input_value].flat().every(Number.isFinite)) return null;

  const s = flow.get('seen');
  s.last = prediction;
  s.lastAt = Date.now();
  s.total += 1;
  s.anomalies += prediction.prediction;
  // The page updates twice a second and shows the worst reading of each interval, so that no spike is hidden.
  if (!s.worst || prediction.anomaly_score > s.worst.anomaly_score) s.worst = prediction;
  s.recent.push(prediction.prediction);
  if (s.recent.length > 1000) s.recent.shift();

  // Raising the alarm takes more anomalies than keeping it, so that it does not flicker.
  const window = s.recent.slice(-Number(env.get('ALARM_WINDOW')));
  const bad = window.filter((p) => p === 1).length;
  const was = s.alarm;
  if (bad >= Number(env.get('ALARM_COUNT'))) s.alarm = true;
  if (bad <= Number(env.get('ALARM_CLEAR'))) s.alarm = false;
  if (s.alarm === was) return null;
  s.alarmSince = Date.now();
  node.status({ fill: s.alarm ? 'red' : 'green', shape: 'dot', text: s.alarm ? 'alarm' : 'no alarm' });
  return { payload: { value: s.alarm } };
}
