import { badName, isName } from '../lib/name.js';
import { describe, newQueue, resumeQueue, step } from '../lib/queue.js';
import { readPayload } from '../lib/reading.js';
import { isNews } from '../lib/states.js';

const TICK = 500;
const TIMEOUT = 10_000;
// The server accepts 10,000 readings in a request; a smaller one is answered sooner.
const BATCH = 500;
const LONGEST_NAME = 128;
const STATUSES = ['Normal Behaviour', 'Anomaly Detected', 'Warming Up'];
const isAnswer = (p) => typeof p?.error === 'string' || (STATUSES.includes(p?.status) && (p.prediction === 0 || p.prediction === 1));

// What the nodes of the next deployment go on with: without a configured context store, Node-RED deletes a node's context at each.
const handedOver = new Map();

function register(RED) {
  /** Predicts readings, in their order, with the model that each message names. */
  function IforestPredict(config) {
    RED.nodes.createNode(this, config);
    const server = RED.nodes.getNode(config.server);
    const settings = { limit: Number(config.limit) || 10_000, batch: BATCH, maxAge: 1000 * (Number(config.maxAge) || 5) };
    const states = Object.create(null);
    let arrivals = 0;
    let shown = '';
    let isClosed = false;
    // A context store on disk keeps the queue over a restart.
    const context = this.context();
    const key = `${this.z}:${this._alias ?? this.id}`;
    const kept = handedOver.get(key) ?? context.get('queue');
    handedOver.delete(key);
    const q = kept ? resumeQueue(kept, Date.now()) : newQueue(Date.now());
    for (const reading of q.waiting) reading.order = 0;

    // `kind` is the part of the reason that stays where it repeats. All names that no model can have are one entry.
    const change = ({ topic, model, timestamp, order }, { state, reason = '', kind = reason }, now) => {
      const key = isName(model) ? model : '';
      const before = states[key];
      if (state === 'known' && !before) return;
      // What arrived before it says nothing about a later state.
      if (before && order < before.order) return;
      const isNew = isNews(states, key, `${state} ${kind}`, now);
      if (isNew) this.send([null, { topic, model, payload: { model, state, reason, timestamp } }]);
      if (state === 'known') delete states[key];
      else if (states[key]) states[key].order = order;
    };

    const run = (event) => {
      const now = Date.now();
      const { request, predictions, warnings } = step(q, event, settings, now);
      // A store on disk writes what was set.
      if (event.reading || event.outcome) context.set('queue', q);
      warnings.forEach((warning) => this.warn(warning));
      for (const { prediction, reading, late } of predictions) {
        const { topic, model, timestamp, tagName } = reading;
        if (prediction.error) {
          const { code, error: reason } = prediction;
          change(reading, { state: code === 'no_model' ? 'no_model' : 'refused', reason, kind: code }, now);
          continue;
        }
        change(reading, { state: 'known' }, now);
        const payload = { ...prediction, timestamp };
        if (tagName) payload.tagName = tagName;
        if (late) payload.late = true;
        this.send([{ topic, model, payload }, null]);
      }
      if (request) ask(request).catch((error) => this.error(error));
    };

    const ask = async ({ id, readings }) => {
      const content = { readings: readings.map(({ model, value }) => ({ model, value })) };
      const outcome = { id };
      try {
        if (!server?.client) throw new Error('the node has no server, or one whose address is wrong');
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
      if (typeof msg.connected === 'boolean') {
        run({ connected: msg.connected });
        return done();
      }
      const now = Date.now();
      const model = String(config.model || (msg.model ?? '')).slice(0, LONGEST_NAME + 1) || 'default';
      arrivals += 1;
      const from = { topic: msg.topic, model, order: arrivals };
      const { reading, unknown, refused, timestamp = now } = readPayload(msg.payload, now);
      if (!isName(model)) change({ ...from, timestamp }, { state: 'refused', reason: badName(model), kind: '' }, now);
      else if (reading) run({ reading: { ...reading, ...from, arrived: now } });
      else if (unknown) change({ ...from, timestamp }, { state: 'unknown', reason: unknown }, now);
      else change({ ...from, timestamp }, { state: 'refused', reason: refused, kind: '' }, now);
      done();
    });

    const timer = setInterval(() => {
      run({});
      const state = describe(q);
      const open = Object.keys(states).length;
      if (open > 0) state.text += `, ${open === 1 ? '1 model' : `${open} models`} not judged`;
      if (open > 0 && state.fill === 'green') state.fill = 'yellow';
      if (state.text !== shown) this.status(state);
      shown = state.text;
    }, TICK);
    this.on('close', (removed, closed) => {
      isClosed = true;
      clearInterval(timer);
      if (!removed) handedOver.set(key, q);
      closed();
    });
  }
  RED.nodes.registerType('iforest-predict', IforestPredict);
}

// Node-RED 4 requires this file, and Node-RED 5 imports it.
export { register as default, register as 'module.exports' };
