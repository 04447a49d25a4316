import { describe, newQueue, resumeQueue, step } from '../lib/queue.js';
import { readPayload } from '../lib/reading.js';
import { isNews } from '../lib/states.js';

const TICK = 500;
const TIMEOUT = 10_000;
// The server accepts 10,000 readings in a request; a smaller one is answered sooner.
const BATCH = 500;
const STATUSES = ['Normal Behaviour', 'Anomaly Detected', 'Warming Up'];
const isAnswer = (p) => typeof p?.error === 'string' || (STATUSES.includes(p?.status) && (p.prediction === 0 || p.prediction === 1));

function register(RED) {
  /** Predicts readings, in their order, with the model that each message names. */
  function IforestPredict(config) {
    RED.nodes.createNode(this, config);
    const server = RED.nodes.getNode(config.server);
    const settings = { limit: Number(config.limit) || 10_000, batch: BATCH, maxAge: 1000 * (Number(config.maxAge) || 5) };
    const states = {};
    let shown = '';
    let isClosed = false;
    // A context store on disk keeps the queue over a restart.
    const context = this.context();
    const kept = context.get('queue');
    const q = kept ? resumeQueue(kept, Date.now()) : newQueue(Date.now());

    const change = ({ topic, model }, state, reason, now) => {
      if (state === 'known' && !states[model]) return;
      const isNew = isNews(states, model, `${state} ${reason}`, now);
      if (isNew) this.send([null, { topic, model, payload: { model, state, reason, timestamp: now } }]);
      if (state === 'known') delete states[model];
    };

    const run = (event) => {
      const now = Date.now();
      const { request, predictions, warnings } = step(q, event, settings, now);
      context.set('queue', q);
      warnings.forEach((warning) => this.warn(warning));
      for (const { prediction, reading, late } of predictions) {
        const { topic, model, timestamp, tagName } = reading;
        if (prediction.error) {
          change(reading, prediction.code === 'no_model' ? 'no_model' : 'refused', prediction.error, now);
          continue;
        }
        change(reading, 'known', '', now);
        const payload = { ...prediction, timestamp };
        if (tagName) payload.tagName = tagName;
        if (late) payload.late = true;
        this.send([{ topic, model, payload }, null]);
      }
      if (request) ask(request);
    };

    const ask = async ({ id, readings }) => {
      const content = { readings: readings.map(({ model, value }) => ({ model, value })) };
      const outcome = { id };
      try {
        if (!server?.client) throw new Error('the node has no server');
        const { status, body } = await server.client.post('/predict', content, TIMEOUT);
        const answers = body?.predictions;
        if (status === 200 && Array.isArray(answers) && answers.length === readings.length && answers.every(isAnswer))
          outcome.predictions = answers;
        else outcome.failed = String(body?.error ?? `status ${status}`);
      } catch (error) {
        outcome.failed = error.message;
      }
      // After a new deployment the next node sends the readings again.
      if (!isClosed) run({ outcome });
    };

    this.on('input', (msg, send, done) => {
      const now = Date.now();
      const model = config.model || msg.model || 'default';
      const from = { topic: msg.topic, model };
      const { reading, unknown, refused } = readPayload(msg.payload, now);
      if (reading) run({ reading: { ...reading, ...from, arrived: now } });
      else if (unknown) change(from, 'unknown', unknown, now);
      else change(from, 'refused', refused, now);
      done();
    });

    const timer = setInterval(() => {
      run({});
      const state = describe(q);
      if (state.text !== shown) this.status(state);
      shown = state.text;
    }, TICK);
    this.on('close', () => {
      isClosed = true;
      clearInterval(timer);
    });
  }
  RED.nodes.registerType('iforest-predict', IforestPredict);
}

export { register as 'module.exports' };
