import { isFresh, next } from '../../lib/trend.js';

// Four outputs: the summary, the points of both charts, and the value of the gauge.
export default function updateThePage({ env, flow }) {
  const s = flow.get('seen');
  if (!s) return null;
  const server = flow.get('server') || { up: false };
  const model = server.model;
  const now = Date.now();
  // With several features there is no single number to draw; alarm, counts and score work as usual.
  const last = s.last && Number.isFinite(s.last.input_value) ? s.last.input_value : null;
  const fresh = isFresh(s.trend, now);

  // Nothing hides a standing alarm.
  let state = 'normal';
  if (s.last?.anomaly_score === null) state = 'warming';
  else if (s.recent.at(-1) === 1) state = 'anomaly';
  if (!fresh) state = 'none';
  if (s.unknown) state = 'unknown';
  if (s.alarm.on) state = 'alarm';

  const share = s.recent.length ? s.recent.filter((p) => p === 1).length / s.recent.length : 0;
  const hasOwnAlarm = typeof s.last?.alarm === 'boolean';
  const rule = `most readings of ${env.get('ALARM_ON')} s, ${env.get('ALARM_COUNT')} at least`;
  const summary = {
    machine: env.get('MACHINE_NAME'),
    unit: env.get('UNIT'),
    state,
    now,
    fresh,
    alarmSince: s.alarm.since,
    unknown: s.unknown ? s.unknown.reason : '',
    value: last,
    at: s.trend.lastAt,
    since: s.since,
    total: s.total,
    anomalies: s.anomalies,
    late: s.late,
    share,
    of: s.recent.length,
    rule: hasOwnAlarm ? '2 of the last 3 readings' : rule,
    server: server.up,
    model: model || null,
    missing: server.missing || '',
  };

  const interval = next(s.trend, now);
  const gauge = last === null ? null : { payload: Number(last.toFixed(2)) };
  // Without readings the curve gets a gap instead of an interpolated line.
  if (!interval) return [{ payload: summary }, null, null, gauge];

  // The mean comes last, so that it is drawn above the others.
  const points = (of) => ['min', 'max', 'mean'].map((series) => ({ series, x: now, y: of ? of[series] : null }));
  const limit = (series, y) => ({ series, x: now, y });
  const vibration = points(interval.value);
  const score = points(interval.score);
  if (model) {
    score.push(limit('threshold', model.threshold));
    const bounds = model.normal_ranges.flat().filter((bound) => bound !== null);
    if (bounds.length > 0) vibration.push(limit('normal from', Math.min(...bounds)), limit('normal to', Math.max(...bounds)));
  }
  return [{ payload: summary }, { payload: vibration }, { payload: score }, gauge];
}
