import * as learner from '../lib/learner.js';
import { badName, isName } from '../lib/name.js';
import { readPayload } from '../lib/reading.js';
import { trainingBody } from '../lib/training.js';

const TICK = 1000;
const TIMEOUT = 60_000;

// What the nodes of the next deployment go on with, so that it does not end the learning of an hour.
const handedOver = new Map();

function register(RED) {
  /** Trains the models that its messages name on their readings. */
  function IforestTrain(config) {
    RED.nodes.createNode(this, config);
    const server = RED.nodes.getNode(config.server);
    const settings = {
      samples: Number(config.samples) || 1000,
      scratch: Number(config.samples) || 1000,
      minimum: Number(config.minimum) || 200,
      minutes: Number(config.minutes) || 60,
      maxShare: Number(config.maxShare) || 0.1,
    };
    const key = `${this.z}:${this._alias ?? this.id}`;
    const state = learner.resume(handedOver.get(key) ?? learner.newLearner(), Date.now());
    handedOver.delete(key);
    // One training at a time: the server trains one after the other, and each body takes memory.
    const waiting = [];
    let isTraining = false;
    let last = '';
    let shown = '';
    let isClosed = false;

    const carryOut = ({ trainings, messages }) => {
      for (const { model, payload } of messages) {
        const result = { time: new Date().toISOString(), ...payload };
        if ('retrained' in payload)
          last = payload.retrained ? `${model} trained on ${payload.samples_used} readings` : `${model}: ${payload.reason}`;
        this.send({ model, payload: result });
      }
      waiting.push(...trainings);
      if (!isTraining) trainNext().catch((error) => this.error(error));
    };

    const trainNext = async () => {
      const training = waiting.shift();
      if (!training) return;
      isTraining = true;
      const { model, why, scratch, samples } = training;
      const outcome = { why, scratch };
      try {
        if (!server?.client) throw new Error('the node has no server, or one whose address is wrong');
        const { status, body } = await server.client.post(
          `/models/${encodeURIComponent(model)}/retrain`,
          trainingBody(samples, config),
          TIMEOUT,
        );
        // A proxy may answer in place of the server.
        const ok = status === 200 && Number.isInteger(body?.samples_used);
        const reason = String(body?.error ?? (status === 200 ? 'the response is not of iforest-server' : `status ${status}`));
        Object.assign(outcome, { ok, body, reason, again: status === 200 || status >= 500 });
      } catch (error) {
        Object.assign(outcome, { reason: error.message, again: true });
      }
      isTraining = false;
      if (!isClosed) carryOut(learner.trained(state, model, outcome, Date.now()));
    };

    this.on('input', (msg, send, done) => {
      const now = Date.now();
      // A retained reading may be days old, and a retained command would be carried out at each reconnection.
      if (msg.retain) return done();
      const model = String(config.model || (msg.model ?? '')) || 'default';
      const isCommand = Boolean(msg.learn || msg.retrain);
      const isAll = isCommand && model === '*';
      if (!isAll && !isName(model)) return done(isCommand ? new Error(badName(model)) : undefined);
      const models = isAll ? Object.keys(state.machines) : [model];
      if (models.length === 0) return done(new Error('no machine has sent a reading yet, so * means none'));

      if (msg.learn) {
        const action = String(msg.learn).trim().toLowerCase();
        if (action !== 'start' && action !== 'stop') return done(new Error(`learn must be start or stop, got ${action.slice(0, 60)}`));
        for (const one of models) carryOut(learner.learn(state, one, action, settings, now));
      } else if (msg.retrain) {
        for (const one of models) carryOut(learner.retrain(state, one, String(msg.retrain), settings));
      } else if (msg.payload && 'prediction' in Object(msg.payload)) {
        if (Number.isFinite(msg.payload.anomaly_score)) learner.observe(state, model, { verdict: msg.payload.prediction }, settings, now);
      } else {
        const { reading } = readPayload(msg.payload, now);
        carryOut(learner.observe(state, model, { value: reading ? reading.value : null }, settings, now));
      }
      done();
    });

    const timer = setInterval(() => {
      carryOut(learner.tick(state, settings, Date.now()));
      const learning = Object.values(state.machines).filter((one) => one.learning).length;
      const text = learning > 0 ? `learning ${learning} of ${Object.keys(state.machines).length} machines` : last;
      if (text !== shown) this.status(text ? { fill: learning > 0 ? 'blue' : 'grey', shape: 'dot', text } : {});
      shown = text;
    }, TICK);
    this.on('close', (removed, closed) => {
      isClosed = true;
      clearInterval(timer);
      if (!removed) handedOver.set(key, state);
      closed();
    });
  }
  RED.nodes.registerType('iforest-train', IforestTrain);
}

// Node-RED 4 requires this file, and Node-RED 5 imports it.
export { register as default, register as 'module.exports' };
