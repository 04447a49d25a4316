import * as learner from '../lib/learner.js';
import { readPayload } from '../lib/reading.js';
import { trainingBody } from '../lib/training.js';

const TICK = 1000;
const TIMEOUT = 60_000;

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
    const state = learner.newLearner();
    // One training at a time: the server trains one after the other, and each body takes memory.
    const waiting = [];
    let isTraining = false;
    let last = '';
    let isClosed = false;

    const carryOut = ({ trainings, messages }) => {
      for (const { model, payload } of messages) {
        const result = { time: new Date().toISOString(), ...payload };
        if ('retrained' in payload)
          last = payload.retrained ? `${model} trained on ${payload.samples_used} readings` : `${model}: ${payload.reason}`;
        this.send({ model, payload: result });
      }
      waiting.push(...trainings);
      if (!isTraining) trainNext();
    };

    const trainNext = async () => {
      const training = waiting.shift();
      if (!training) return;
      isTraining = true;
      const { model, why, scratch, samples } = training;
      const outcome = { why, scratch };
      try {
        if (!server?.client) throw new Error('the node has no server');
        const { status, body } = await server.client.post(
          `/models/${encodeURIComponent(model)}/retrain`,
          trainingBody(samples, config),
          TIMEOUT,
        );
        Object.assign(outcome, { ok: status === 200, body, reason: String(body?.error ?? `status ${status}`), again: status >= 500 });
      } catch (error) {
        Object.assign(outcome, { reason: error.message, again: true });
      }
      isTraining = false;
      if (!isClosed) carryOut(learner.trained(state, model, outcome, Date.now()));
    };

    this.on('input', (msg, send, done) => {
      const now = Date.now();
      const model = config.model || msg.model || 'default';
      const models = model === '*' ? Object.keys(state.machines) : [model];
      if (msg.learn) {
        for (const one of models) carryOut(learner.learn(state, one, msg.learn === 'stop' ? 'stop' : 'start', settings, now));
      } else if (msg.retrain) {
        for (const one of models) carryOut(learner.retrain(state, one, String(msg.retrain), settings));
      } else if (msg.payload && 'prediction' in Object(msg.payload)) {
        if (Number.isFinite(msg.payload.anomaly_score)) learner.observe(state, model, { verdict: msg.payload.prediction }, settings, now);
      } else if (!msg.retain) {
        // A retained reading may be days old.
        const { reading } = readPayload(msg.payload, now);
        carryOut(learner.observe(state, model, { value: reading ? reading.value : null }, settings, now));
      }
      done();
    });

    const timer = setInterval(() => {
      carryOut(learner.tick(state, settings, Date.now()));
      const learning = Object.values(state.machines).filter((one) => one.learning).length;
      const text = learning > 0 ? `learning ${learning} of ${Object.keys(state.machines).length} machines` : last;
      this.status(text ? { fill: learning > 0 ? 'blue' : 'grey', shape: 'dot', text } : {});
    }, TICK);
    this.on('close', () => {
      isClosed = true;
      clearInterval(timer);
    });
  }
  RED.nodes.registerType('iforest-train', IforestTrain);
}

export { register as 'module.exports' };
