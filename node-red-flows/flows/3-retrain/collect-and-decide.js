import { parseJson } from '../../lib/json.js';
import * as learner from '../../lib/learner.js';
import { trainingRequest } from '../../lib/training.js';

// The tab has one model.
const MODEL = 'model';

export function start({ context }) {
  context.set('learner', learner.newLearner());
  context.set('since', Date.now());
}

// Two outputs: the training, and results or progress.
export default function collectAndDecide({ msg, env, node, context }) {
  const state = context.get('learner');
  const setting = (name) => Number(env.get(name));
  const settings = {
    samples: setting('RETRAIN_SAMPLES'),
    scratch: setting('SCRATCH_SAMPLES'),
    minimum: setting('RETRAIN_MIN'),
    minutes: setting('SCRATCH_MINUTES'),
    maxShare: setting('RETRAIN_MAX_SHARE'),
  };
  const now = Date.now();
  const answer = ({ trainings, messages }) => [
    trainings.map(({ why, scratch, samples }) => ({ why, scratch, ...trainingRequest(samples, env) })),
    messages.map(({ payload }) => ({ payload })),
  ];

  if (msg.outcome) return answer(learner.trained(state, MODEL, msg.outcome, now));
  if (msg.learn) return answer(learner.learn(state, MODEL, msg.learn, settings, now));
  if (msg.retrain) {
    context.set('since', now);
    return answer(learner.retrain(state, MODEL, msg.retrain, settings));
  }
  if (msg.tick) {
    const text = learner.describe(state, MODEL, now);
    if (text !== context.get('shown')) node.status({ fill: 'blue', shape: 'dot', text });
    context.set('shown', text);
    const next = learner.tick(state, settings, now);
    const hours = setting('RETRAIN_EVERY_HOURS');
    if (!(hours > 0) || now - context.get('since') < hours * 3600000) return answer(next);
    context.set('since', now);
    const scheduled = learner.retrain(state, MODEL, 'by schedule', settings);
    return answer({ trainings: [...next.trainings, ...scheduled.trainings], messages: [...next.messages, ...scheduled.messages] });
  }
  if (msg.topic === env.get('LEARN_TOPIC')) {
    const prediction = parseJson(msg.payload);
    if (!Number.isFinite(prediction?.anomaly_score)) return null;
    return answer(learner.observe(state, MODEL, { verdict: prediction.prediction }, settings, now));
  }
  return answer(learner.observe(state, MODEL, { value: msg.value }, settings, now));
}
