import { parseJson } from '../../lib/json.js';
import { trainingRequest } from '../../lib/training.js';

export function start({ context }) {
  context.set('collected', { readings: [], verdicts: [], since: Date.now(), shown: '', busy: false });
}

// Keeps the last readings, and decides whether the model may be trained on them.
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
    c.readings.push(prediction.input_value);
    c.verdicts.push(prediction.prediction);
    if (c.readings.length > setting('RETRAIN_SAMPLES')) c.readings.shift();
    if (c.verdicts.length > setting('RETRAIN_SAMPLES')) c.verdicts.shift();
    return null;
  }

  if (msg.done) {
    if (!msg.scratch) c.busy = false;
    // The verdicts of the old model do not count for the new one.
    if (msg.retrained) c.verdicts = [];
    // What the machine did before it was learned from scratch may not be normal.
    if (msg.retrained && msg.scratch) c.readings = [];
    return null;
  }

  const anomalies = c.verdicts.filter((p) => p === 1).length;
  const share = c.verdicts.length ? anomalies / c.verdicts.length : 0;
  const percent = Math.round(share * 100) + ' %';

  if (msg.tick) {
    const text = c.readings.length + ' readings, ' + percent + ' anomalies';
    if (text !== c.shown) node.status({ fill: 'blue', shape: 'dot', text: text });
    c.shown = text;
    const hours = setting('RETRAIN_EVERY_HOURS');
    if (!(hours > 0) || now - c.since < hours * 3600000) return null;
    c.since = now;
    why = 'by schedule';
  }
  if (!why) return null;

  const refuse = (reason) => [null, { payload: { retrained: false, why: why, reason: reason } }];
  if (c.busy) return refuse('a training is already running');
  if (c.readings.length < setting('RETRAIN_MIN')) {
    const few = 'only ' + c.readings.length + ' readings, ' + setting('RETRAIN_MIN') + ' are needed';
    const none = '; no predictions received yet: for a machine without a model, learn from scratch';
    return refuse(few + (c.readings.length === 0 ? none : ''));
  }
  if (share > setting('RETRAIN_MAX_SHARE')) {
    const bad = anomalies + ' of the last ' + c.verdicts.length + ' readings were anomalies (' + percent + ')';
    const most = 'at most ' + setting('RETRAIN_MAX_SHARE') * 100 + ' % are allowed';
    return refuse(bad + ', ' + most + '; if the machine is healthy, learn from scratch');
  }
  c.busy = true;
  c.since = now;
  return [{ why: why, ...trainingRequest(c.readings.slice(), env) }, null];
}
