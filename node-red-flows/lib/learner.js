// Collects readings of machines, and decides when a model is trained on them.
//
// Two ways lead to a training. A retraining uses the last readings, unless many of them were anomalies: a fault must not become
// normal. Learning from scratch collects readings from now on, whatever the model says of them: for a new machine, or one
// that its model does not fit.
//
// Each function returns what follows: `trainings` to send, and `messages` about a model.

const PROGRESS_EVERY = 2_000;
const RETRY_AFTER = 10_000;
const LONGEST_TRAINING = 120_000;
/** Names of machines come from outside, so there is a bound on them. */
const MOST = 2_000;

/** The state of all machines: plain data. An object without a prototype has no machine called constructor. */
export const newLearner = () => ({ machines: Object.create(null) });

/** Goes on after a new deployment: the response to a training before it never arrives, so it is sent again. */
export function resume(learner, now) {
  for (const one of Object.values(learner.machines)) {
    one.busy = false;
    if (one.learning?.state === 'sending') one.learning.retryAt = now;
  }
  return learner;
}

const nothing = () => ({ trainings: [], messages: [] });
const say = (model, payload) => ({ trainings: [], messages: [{ model, payload }] });

function machine(learner, model) {
  const known = learner.machines[model];
  if (known || Object.keys(learner.machines).length >= MOST) return known ?? newMachine();
  return (learner.machines[model] = newMachine());
}

const newMachine = () => ({ readings: [], verdicts: [], busy: false, learning: null });

/**
 * Takes a reading, the verdict of the model about one (0 or 1), or both.
 *
 * `settings` are `samples`, the number of readings to retrain on, and `scratch`, the number to learn from scratch; `minimum`, the
 * fewest of both; `minutes` that learning may take; and `maxShare` of anomalies that a retraining accepts.
 */
export function observe(learner, model, { value, verdict }, settings, now) {
  const one = machine(learner, model);
  if (verdict !== undefined) keep(one.verdicts, verdict, settings.samples);
  if (value === undefined) return nothing();
  if (value !== null) keep(one.readings, value, settings.samples);
  const { learning } = one;
  if (learning?.state !== 'collecting') return nothing();
  const shape = value === null ? '' : shapeOf(value);
  learning.shape ||= shape;
  if (shape && shape === learning.shape) learning.samples.push(value);
  else learning.leftOut += 1;
  return learning.samples.length >= learning.of ? finish(one, model, settings, now) : nothing();
}

/** Starts or stops learning from scratch. */
export function learn(learner, model, action, settings, now) {
  const one = machine(learner, model);
  const result = (reason) => say(model, { retrained: false, why: 'from scratch', reason });
  if (action === 'stop') {
    if (!one.learning) return result('learning from scratch is not running');
    // A response that never came, as after a deployment, must not keep the machine in this state.
    const { state, retryAt, sentAt } = one.learning;
    if (state === 'sending' && retryAt === 0 && now - sentAt < LONGEST_TRAINING)
      return result('the training is running and cannot be stopped any more');
    const { length } = one.learning.samples;
    one.learning = null;
    return result(`learning from scratch was stopped after ${length} readings`);
  }
  if (one.learning) return result('learning from scratch is already running');
  if (learner.machines[model] !== one) return result(`there are ${MOST} machines already; deploy again to forget those that are gone`);
  const until = now + settings.minutes * 60_000;
  one.learning = {
    state: 'collecting',
    samples: [],
    shape: '',
    leftOut: 0,
    of: settings.scratch,
    until,
    publishedAt: now,
    retryAt: 0,
    sentAt: 0,
  };
  return say(model, progress(one.learning, now));
}

/** Retrains on the last readings, or says why not. */
export function retrain(learner, model, why, settings) {
  const one = machine(learner, model);
  const refuse = (reason) => say(model, { retrained: false, why, reason });
  const anomalies = one.verdicts.filter((verdict) => verdict === 1).length;
  const share = one.verdicts.length ? anomalies / one.verdicts.length : 0;
  if (one.busy || one.learning?.state === 'sending') return refuse('a training is already running');
  if (one.readings.length < settings.minimum) {
    const none = '; no readings yet: for a machine without a model, learn from scratch';
    return refuse(`only ${one.readings.length} readings, ${settings.minimum} are needed${one.readings.length === 0 ? none : ''}`);
  }
  if (share > settings.maxShare) {
    const bad = `${anomalies} of the last ${one.verdicts.length} readings were anomalies (${Math.round(share * 100)} %)`;
    return refuse(`${bad}, at most ${settings.maxShare * 100} % are allowed; if the machine is healthy, learn from scratch`);
  }
  one.busy = true;
  return { trainings: [{ model, why, scratch: false, samples: one.readings.slice() }], messages: [] };
}

/** Takes the outcome of a training: `{ ok, body }`, or `{ reason, again }` with whether it may succeed later. */
export function trained(learner, model, { why, scratch, ok, body, reason, again }, now) {
  const one = machine(learner, model);
  if (!scratch) one.busy = false;
  if (ok) {
    // The verdicts of the old model do not count for the new one; what the machine did before it was learned may not be normal.
    one.verdicts = [];
    if (scratch) Object.assign(one, { readings: [], learning: null });
    const { samples_used, message, warnings = [] } = body;
    return say(model, { retrained: true, why, samples_used, message, warnings });
  }
  const isKept = scratch && again && one.learning;
  if (isKept) one.learning.retryAt = now + RETRY_AFTER;
  else if (scratch) one.learning = null;
  return say(model, { retrained: false, why, reason: reason + (isKept ? '; the readings are kept and sent again in 10 seconds' : '') });
}

/** The state of one machine in a few words. */
export function describe(learner, model, now) {
  const { readings, verdicts, learning, busy } = machine(learner, model);
  if (learning?.state === 'collecting') {
    const { minutes_left: left, left_out: out } = progress(learning, now);
    return `learning: ${learning.samples.length} of ${learning.of} readings, ${left} min left${out ? `, ${out} left out` : ''}`;
  }
  if (learning || busy) return 'training';
  const share = verdicts.length ? verdicts.filter((verdict) => verdict === 1).length / verdicts.length : 0;
  return `${readings.length} readings, ${Math.round(share * 100)} % anomalies`;
}

/** Lets time pass: ends learning at its limit, repeats trainings, reports progress. Call it about once a second. */
export function tick(learner, settings, now) {
  const all = nothing();
  for (const [model, one] of Object.entries(learner.machines)) {
    const { learning } = one;
    let next = null;
    if (learning?.state === 'collecting' && now >= learning.until) next = finish(one, model, settings, now);
    else if (learning?.state === 'sending' && learning.retryAt > 0 && now >= learning.retryAt) next = send(learning, model, now);
    else if (learning?.state === 'collecting' && now - learning.publishedAt >= PROGRESS_EVERY) {
      learning.publishedAt = now;
      next = say(model, progress(learning, now));
    }
    if (!next) continue;
    all.trainings.push(...next.trainings);
    all.messages.push(...next.messages);
  }
  return all;
}

function keep(list, value, most) {
  list.push(value);
  if (list.length > most) list.shift();
}

function shapeOf(value) {
  if (Array.isArray(value)) return `[${value.length}]`;
  return typeof value === 'object' ? `{${Object.keys(value).sort().join()}}` : 'number';
}

const progress = (learning, now) => ({
  learning: true,
  why: 'from scratch',
  readings: learning.samples.length,
  of: learning.of,
  minutes_left: Math.max(0, Math.ceil((learning.until - now) / 60_000)),
  left_out: learning.leftOut,
});

function finish(one, model, settings, now) {
  const { learning } = one;
  const minimum = Math.min(learning.of, settings.minimum);
  if (learning.samples.length < minimum) {
    one.learning = null;
    const reason = `only ${learning.samples.length} readings arrived in ${settings.minutes} minutes, ${minimum} are needed`;
    return say(model, { retrained: false, why: 'from scratch', reason });
  }
  learning.state = 'sending';
  return { trainings: send(learning, model, now).trainings, messages: [{ model, payload: progress(learning, now) }] };
}

function send(learning, model, now) {
  Object.assign(learning, { retryAt: 0, sentAt: now });
  return { trainings: [{ model, why: 'from scratch', scratch: true, samples: learning.samples }], messages: [] };
}
