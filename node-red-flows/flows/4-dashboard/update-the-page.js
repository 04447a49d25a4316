export default function updateThePage({ env, flow }) {
  const s = flow.get('seen');
  if (!s) return null;
  const server = flow.get('server') || { up: false };
  const model = server.model;
  const now = Date.now();
  // With several features there is no single number to draw; alarm, counts and score work as usual.
  const number = (prediction) => (prediction && Number.isFinite(prediction.input_value) ? prediction.input_value : null);
  const last = number(s.last);
  const fresh = now - s.lastAt < 10000;

  let state;
  if (s.alarm) state = 'alarm';
  else if (s.recent[s.recent.length - 1] === 1) state = 'anomaly';
  else state = 'normal';
  if (!fresh) state = 'none';

  const share = s.recent.length ? s.recent.filter((p) => p === 1).length / s.recent.length : 0;
  const summary = {
    machine: env.get('MACHINE_NAME'),
    unit: env.get('UNIT'),
    state: state,
    since: s.alarmSince,
    value: last,
    at: s.lastAt,
    total: s.total,
    anomalies: s.anomalies,
    share: share,
    of: s.recent.length,
    rule: env.get('ALARM_COUNT') + ' anomalies in ' + env.get('ALARM_WINDOW') + ' readings',
    server: server.up,
    model: model || null,
    missing: server.missing || '',
  };

  const worst = s.worst;
  s.worst = null;
  // Without readings the curve gets a gap instead of an interpolated line.
  if (!worst && (s.gap || now - s.lastAt < 1500)) return [{ payload: summary }, null, null, null];
  s.gap = !worst;

  const point = (series, y) => ({ series: series, x: now, y: y });
  const vibration = [point('vibration', number(worst))];
  const score = [point('score', worst ? worst.anomaly_score : null)];
  if (model) {
    score.push(point('threshold', model.threshold));
    const bounds = model.normal_ranges.flat().filter((bound) => bound !== null);
    if (bounds.length > 0) {
      vibration.push(point('normal from', Math.min(...bounds)), point('normal to', Math.max(...bounds)));
    }
  }
  return [{ payload: summary }, { payload: vibration }, { payload: score }, last === null ? null : { payload: Number(last.toFixed(2)) }];
}
