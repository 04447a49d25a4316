import { parseJson } from '../../lib/json.js';

export function start({ context }) {
  context.set('collected', { normal: [], recent: [], since: Date.now(), shown: '', busy: false });
}

export default function collectAndDecide({ msg, env, node, context }) {
  const c = context.get('collected');
  const setting = (name) => Number(env.get(name));
  const now = Date.now();
  let why = msg.retrain;

  if (msg.topic === env.get('LEARN_TOPIC')) {
    const prediction = parseJson(msg.payload);
    // With several features input_value is a list.
    if (!prediction || !['number', 'object'].includes(typeof prediction.input_value)) return null;
    if (![prediction.input_value].flat().every(Number.isFinite)) return null;
    c.recent.push(prediction.prediction);
    if (prediction.prediction === 0) c.normal.push(prediction.input_value);
    if (c.recent.length > setting('RETRAIN_SAMPLES')) c.recent.shift();
    if (c.normal.length > setting('RETRAIN_SAMPLES')) c.normal.shift();
    return null;
  }

  if (msg.done) {
    if (!msg.scratch) c.busy = false;
    // Predictions of the old model do not count for the new one. After learning from scratch, the readings it called normal do not either.
    if (msg.retrained) c.recent = [];
    if (msg.retrained && msg.scratch) c.normal = [];
    return null;
  }

  const anomalies = c.recent.filter((p) => p === 1).length;
  const share = c.recent.length ? anomalies / c.recent.length : 0;
  const percent = Math.round(share * 100) + ' %';

  if (msg.tick) {
    const text = c.normal.length + ' normal readings, ' + percent + ' anomalies';
    if (text !== c.shown) node.status({ fill: 'blue', shape: 'dot', text: text });
    c.shown = text;
    const hours = setting('RETRAIN_EVERY_HOURS');
    if (!(hours > 0) || now - c.since < hours * 3600000) return null;
    c.since = now;
    why = 'by schedule';
  }
  if (!why) return null;

  const refuse = (reason) => [null, { payload: { retrained: false, why: why, reason: reason } }];
  // A model that does not fit the machine predicts too few normal readings to retrain on, so the reason names the other way.
  const bad = anomalies + ' of the last ' + c.recent.length + ' readings were anomalies';
  const advice = '; if the machine is healthy, learn from scratch';
  if (c.busy) return refuse('a training is already running');
  if (c.normal.length < setting('RETRAIN_MIN')) {
    const few = 'only ' + c.normal.length + ' normal readings, ' + setting('RETRAIN_MIN') + ' are needed';
    if (c.recent.length === 0) return refuse(few + '; no predictions received yet: for a machine without a model, learn from scratch');
    return refuse(few + (anomalies > 0 ? '; ' + bad + advice : ''));
  }
  if (share > setting('RETRAIN_MAX_SHARE')) {
    return refuse(bad + ' (' + percent + '), at most ' + setting('RETRAIN_MAX_SHARE') * 100 + ' % are allowed' + advice);
  }
  c.busy = true;
  c.since = now;
  return [{ why: why, payload: { samples: c.normal.slice() }, requestTimeout: 60000 }, null];
}
