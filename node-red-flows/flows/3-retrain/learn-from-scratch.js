import { trainingRequest } from '../../lib/training.js';

export function start({ context }) {
  context.set('learning', { state: 'idle', samples: [], shape: '', leftOut: 0, until: 0, publishedAt: 0, retryAt: 0, shown: '' });
}

export default function learnFromScratch({ msg, env, node, context }) {
  // Trains on every reading, whatever its prediction: for a machine that its model does not fit, or that has no model yet.
  const s = context.get('learning');
  const now = Date.now();
  const target = Number(env.get('SCRATCH_SAMPLES')) || 1000;
  const minimum = Math.min(target, Number(env.get('RETRAIN_MIN')));
  const minutes = Number(env.get('SCRATCH_MINUTES')) || 60;
  // Subscribes without the share group: as a member of it this flow would take readings away from the bridges.
  const topic = env.get('READING_TOPIC').replace(/^\$share\/[^/]+\//, '');
  const subscription = (action) => ({ action: action, topic: { topic: topic, qos: 1, rap: false } });
  const result = (reason) => ({ payload: { retrained: false, why: 'from scratch', reason: reason } });
  const progress = () => ({
    payload: {
      learning: true,
      why: 'from scratch',
      readings: s.samples.length,
      of: target,
      minutes_left: Math.max(0, Math.ceil((s.until - now) / 60000)),
      left_out: s.leftOut,
    },
  });

  function training() {
    s.retryAt = 0;
    return { scratch: true, why: 'from scratch', ...trainingRequest(s.samples, env) };
  }

  function shapeOf(value) {
    if (Array.isArray(value)) return '[' + value.length + ']';
    return typeof value === 'object' ? '{' + Object.keys(value).sort().join() + '}' : 'number';
  }

  if (msg.learn === 'start') {
    if (s.state !== 'idle') return [null, result('learning from scratch is already running'), null];
    Object.assign(s, {
      state: 'collecting',
      samples: [],
      shape: '',
      leftOut: 0,
      until: now + minutes * 60000,
      publishedAt: now,
      retryAt: 0,
    });
    return [null, progress(), subscription('subscribe')];
  }
  if (msg.learn === 'stop') {
    if (s.state === 'idle') return [null, result('learning from scratch is not running'), null];
    const stopped = result('learning from scratch was stopped after ' + s.samples.length + ' readings');
    Object.assign(s, { state: 'idle', samples: [] });
    return [null, stopped, subscription('unsubscribe')];
  }
  if (msg.done) {
    if (!msg.scratch || s.state !== 'sending') return null;
    // Keeps the readings and retries: an hour of them must not be lost to a short outage of the server.
    if (msg.again) s.retryAt = now + 10000;
    else Object.assign(s, { state: 'idle', samples: [] });
    return null;
  }
  if (s.state === 'collecting' && 'value' in msg) {
    const shape = msg.value === null ? '' : shapeOf(msg.value);
    s.shape = s.shape || shape;
    if (shape && shape === s.shape) s.samples.push(msg.value);
    else s.leftOut += 1;
  }
  if (s.state === 'collecting' && (s.samples.length >= target || now >= s.until)) {
    if (s.samples.length < minimum) {
      const few = result(
        'only ' + s.samples.length + ' readings arrived on ' + topic + ' in ' + minutes + ' minutes, ' + minimum + ' are needed',
      );
      Object.assign(s, { state: 'idle', samples: [] });
      return [null, few, subscription('unsubscribe')];
    }
    s.state = 'sending';
    return [training(), progress(), subscription('unsubscribe')];
  }
  if (!msg.tick) return null;

  const text = {
    idle: 'press to learn from scratch',
    collecting:
      s.samples.length +
      ' of ' +
      target +
      ' readings, ' +
      progress().payload.minutes_left +
      ' min left' +
      (s.leftOut ? ', ' + s.leftOut + ' left out' : ''),
    sending: s.samples.length + ' readings, training',
  }[s.state];
  if (text !== s.shown) node.status({ fill: s.state === 'idle' ? 'grey' : 'blue', shape: 'dot', text: text });
  s.shown = text;
  if (s.state === 'sending' && s.retryAt > 0 && now >= s.retryAt) return [training(), null, null];
  if (s.state !== 'collecting' || now - s.publishedAt < 2000) return null;
  s.publishedAt = now;
  return [null, progress(), null];
}
