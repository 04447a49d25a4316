// Sends one request at a time, so that the predictions keep the order of the readings. All readings that arrive meanwhile go
// into the next request.
import { difference, newClock, observe } from './clock.js';

/** Readings of so many machines have clocks of their own; those of more are taken to be right. */
const MOST_CLOCKS = 10_000;
const MOST_NAMED = 3;
const WARN_EVERY = 60_000;

const NO_RESPONSE = 30_000;
const LONGEST_PAUSE = 30_000;
/** A flow learns within this time that the broker is gone; `mqtt out` drops what it gets meanwhile. */
const UNNOTICED = 1_000;
/** Codes of errors that are not the fault of a reading. */
const LATER = ['busy', 'not_ready', 'store_failed', 'internal'];

// Names come from outside, and an object without a prototype has no entry called constructor.
const byName = (entries = []) => entries.reduce((all, [name, value]) => Object.assign(all, { [name]: value }), Object.create(null));

const newMachineClock = () => ({ ...newClock(), differs: 0, late: 0, warnedAt: {} });

/** An empty queue: plain data, so that a context store can keep it over a restart. */
export function newQueue(now) {
  return {
    waiting: [],
    batch: [],
    id: now,
    sentAt: 0,
    connected: true,
    tries: 0,
    retryAt: 0,
    problem: '',
    missing: '',
    skipped: 0,
    dropped: 0,
    predicted: 0,
    // The last predictions, and those that the broker may not have got.
    recent: [],
    unsure: [],
    paused: byName(),
    clocks: byName(),
  };
}

/** The queue as it goes on after a restart: the response to a request before it never arrives. */
export function resumeQueue(q, now) {
  return {
    ...newQueue(now),
    ...q,
    waiting: [...q.batch, ...q.waiting],
    batch: [],
    recent: [],
    id: Math.max(q.id + 1, now),
    connected: true,
    retryAt: 0,
    // The flow may name another model now.
    missing: '',
    skipped: 0,
    paused: byName(),
    // Those that an earlier release stored have fewer fields.
    clocks: byName(Object.entries(q.clocks ?? {}).map(([name, clock]) => [name, { ...newMachineClock(), ...clock }])),
  };
}

/**
 * Takes one event: `{ reading }`, `{ connected }`, `{ outcome }` of a request, or `{}` for the time that passes.
 *
 * `settings` are `limit` of the queue, `batch` size in values, and `maxAge` in milliseconds. Returns the next request's readings
 * or null, the predictions with their readings, reports of single readings, and warnings about the whole.
 */
export function step(q, event, settings, now) {
  const predictions = [];
  const reports = [];
  const warnings = [];
  const { reading, outcome } = event;

  if (reading) {
    q.waiting.push(reading);
    const clock = clockOf(q, reading);
    if (clock) observe(clock, reading.timestamp, reading.arrived);
  }
  const again = changeConnection(q, event.connected, now);
  if (outcome && q.batch.length > 0 && outcome.id === q.id) settle(q, outcome, now, { predictions, reports, warnings });
  else if (q.batch.length > 0 && now - q.sentAt > NO_RESPONSE) failed(q, 'no response for 30 seconds', now, warnings);

  const excess = q.waiting.length - settings.limit;
  if (excess > 0) {
    q.waiting.splice(0, excess);
    if (q.dropped === 0) warnings.push('the queue is full; the oldest readings are dropped');
    q.dropped += excess;
  }

  let request = null;
  const isFree = q.batch.length === 0;
  if (q.connected && q.batch.length === 0 && q.waiting.length > 0 && isDue(q.retryAt, now)) takeBatch(q, settings.batch, now);
  if (isFree && q.batch.length > 0) {
    q.id += 1;
    q.sentAt = now;
    request = { id: q.id, readings: q.batch };
  } else if (q.dropped > 0 && q.waiting.length === 0 && q.batch.length === 0) {
    warnings.push(`${q.dropped} readings were dropped while the queue was full`);
    q.dropped = 0;
  }

  q.predicted += predictions.filter(({ prediction }) => !prediction.error).length;
  predictions.unshift(...again);
  if (predictions.length > 0) {
    const made = predictions.map(({ prediction, reading }) => ({ prediction, reading, at: now }));
    q.recent = q.recent.filter(({ at }) => now - at < UNNOTICED).concat(made);
  }
  markLate(q, predictions, settings.maxAge, now, warnings);
  return { request, predictions, reports, warnings };
}

/**
 * Notes whether the broker can be reached. Returns the predictions that are sent again, because they may have been dropped in the
 * moment in which it could not: some come twice.
 */
function changeConnection(q, connected, now) {
  if (connected === undefined || connected === q.connected) return [];
  q.connected = connected;
  if (connected) return q.unsure.splice(0);
  q.unsure = q.unsure.concat(q.recent.filter(({ at }) => now - at < UNNOTICED).map(({ prediction, reading }) => ({ prediction, reading })));
  q.recent = [];
  return [];
}

/** The state of the queue in a few words, and its colour. */
export function describe(q) {
  let state = { fill: 'green', shape: 'dot', text: `${q.predicted} predicted` };
  if (q.missing) state = { fill: 'yellow', shape: 'ring', text: `no model ${q.missing} yet, ${q.skipped} skipped` };
  if (!q.connected) state = { fill: 'red', shape: 'ring', text: 'broker down' };
  const problem = problemOf(q);
  if (problem) state = { fill: 'yellow', shape: 'ring', text: `not predicted now: ${problem}` };
  if (q.problem) state = { fill: 'red', shape: 'ring', text: `server down: ${q.problem}` };
  state.text += `, ${q.waiting.length + q.batch.length} waiting`;
  if (q.dropped) state.text += `, ${q.dropped} dropped`;
  const clocks = Object.values(q.clocks);
  const late = clocks.reduce((sum, clock) => sum + clock.late, 0);
  if (late) Object.assign(state, { fill: state.fill === 'green' ? 'yellow' : state.fill, text: `${state.text}, ${late} late` });
  const differ = clocks.filter((clock) => clock.differs !== 0);
  if (differ.length > 1) state.text += `, the clocks of ${differ.length} machines differ`;
  else if (differ.length === 1) state.text += `, clocks differ by ${seconds(differ[0].differs)} s`;
  return state;
}

const seconds = (milliseconds) => Number((milliseconds / 1000).toFixed(1));

function settle(q, outcome, now, { predictions, reports, warnings }) {
  if (outcome.failed) {
    failed(q, outcome.failed, now, warnings);
  } else if (outcome.missing) {
    answered(q, warnings);
    // A reading that arrives before its model is dropped: predicted later, it would look like a current one.
    if (!q.missing) warnings.push(`no model ${outcome.missing} yet: readings are skipped until it is trained`);
    q.missing = outcome.missing;
    q.skipped += q.batch.length;
    q.batch = [];
  } else if (outcome.refused !== undefined) {
    answered(q, warnings);
    hasModel(q, warnings);
    // Removes the refused reading only, so that the others are sent again.
    requeue(q);
    q.waiting.splice(outcome.refused, 1);
    reports.push(`refused by the server: ${outcome.reason}`);
  } else if (!q.connected) {
    requeue(q);
  } else {
    const later = byName();
    const kept = [];
    outcome.predictions.forEach((prediction, i) => {
      const reading = q.batch[i];
      if (LATER.includes(prediction.code)) {
        later[reading.model ?? ''] ??= prediction.error;
        kept.push(reading);
      } else predictions.push({ prediction, reading });
    });
    pause(q, later, now, warnings);
    q.waiting = kept.concat(q.waiting);
    q.batch = [];
    hasModel(q, warnings);
  }
}

/** Takes the next readings. One counts once per feature, so that no request becomes too large for the server. */
function takeBatch(q, most, now) {
  const left = [];
  let values = 0;
  let i = 0;
  for (; i < q.waiting.length; i += 1) {
    const reading = q.waiting[i];
    const pause = q.paused[reading.model ?? ''];
    if (pause && !isDue(pause.retryAt, now)) {
      left.push(reading);
      continue;
    }
    values += Object.keys(Object(reading.value)).length || 1;
    if (values > most && q.batch.length > 0) break;
    q.batch.push(reading);
  }
  q.waiting = left.concat(q.waiting.slice(i));
}

// A later time than the longest pause is of a clock that was set back.
const isDue = (retryAt, now) => now >= retryAt || retryAt - now > LONGEST_PAUSE;

/**
 * Lets the models wait that the server cannot ask now, `later` with the error of each, and no others: all readings of such a model
 * are sent again, in their order.
 */
function pause(q, later, now, warnings) {
  const wasFailing = q.tries > 0 || problemOf(q) !== '';
  for (const { model = '' } of q.batch) if (!(model in later)) delete q.paused[model];
  for (const [model, reason] of Object.entries(later)) {
    const tries = (q.paused[model]?.tries ?? 0) + 1;
    q.paused[model] = { tries, retryAt: retryAfter(tries, now), reason };
  }
  Object.assign(q, { tries: 0, problem: '' });
  const problem = problemOf(q);
  if (problem && !wasFailing) warnings.push(`requests to the server fail: ${problem}`);
  if (!problem && wasFailing) warnings.push('requests to the server succeed again');
}

/** Which models the server cannot ask now, and why; or ''. */
function problemOf({ paused }) {
  const models = Object.keys(paused);
  return models.length > 0 ? named(models) + paused[models[0]].reason : '';
}

const retryAfter = (tries, now) => now + Math.min(LONGEST_PAUSE, 250 * 2 ** Math.min(tries, 10));

function requeue(q) {
  q.waiting = q.batch.concat(q.waiting);
  q.batch = [];
}

function failed(q, reason, now, warnings) {
  requeue(q);
  if (q.tries === 0) warnings.push(`requests to the server fail: ${reason}`);
  q.problem = reason;
  q.tries += 1;
  q.retryAt = retryAfter(q.tries, now);
}

function answered(q, warnings) {
  if (q.tries > 0) warnings.push('requests to the server succeed again');
  q.tries = 0;
  q.problem = '';
}

function hasModel(q, warnings) {
  if (q.missing) warnings.push(`the model ${q.missing} is available; ${q.skipped} earlier readings were skipped`);
  q.missing = '';
  q.skipped = 0;
}

/** The clock that timed a reading: that of its machine, which has the name of the model, if it has one. */
function clockOf(q, { model = '' }) {
  const known = q.clocks[model];
  if (known || Object.keys(q.clocks).length >= MOST_CLOCKS) return known;
  return (q.clocks[model] = newMachineClock());
}

function markLate(q, predictions, maxAge, now, warnings) {
  const changed = { differ: [], agree: [], late: [], current: [] };
  // A machine whose readings are about as old as the limit changes with each of them.
  const change = (clock, what, name) => {
    if (now - (clock.warnedAt[what] ?? 0) < WARN_EVERY) return;
    clock.warnedAt[what] = now;
    changed[what].push(name);
  };
  let counted = 0;
  for (const one of predictions) {
    const name = one.reading.model ?? '';
    const clock = clockOf(q, one.reading);
    const differs = clock ? difference(clock, maxAge) : 0;
    one.late = now - one.reading.timestamp - differs > maxAge;
    if (!clock) continue;
    if ((differs !== 0) !== (clock.differs !== 0)) change(clock, differs ? 'differ' : 'agree', name);
    clock.differs = differs;
    if (one.late) {
      if (clock.late === 0) change(clock, 'late', name);
      clock.late += 1;
    } else if (clock.late > 0) {
      change(clock, 'current', name);
      counted += clock.late;
      clock.late = 0;
    }
  }
  const warn = (names, text) => {
    if (names.length > 0) warnings.push(named(names) + text(names[0]));
  };
  const by = (name) => seconds(q.clocks[name].differs);
  warn(
    changed.differ,
    (name) => `the clocks of the readings and of Node-RED differ by ${by(name)} s; ages are measured without this difference`,
  );
  warn(changed.agree, () => 'the clocks of the readings and of Node-RED agree again');
  warn(changed.late, () => `readings are older than ${seconds(maxAge)} s: only their whole prediction is published, marked late`);
  warn(changed.current, () => `readings are current again, after ${counted} late ones`);
}

/** The machines that a warning is about; nothing where there is only one, without a name. */
function named(names) {
  const known = [...new Set(names)].filter(Boolean);
  if (known.length === 0) return '';
  const more = known.length > MOST_NAMED ? ` and ${known.length - MOST_NAMED} more` : '';
  return `${known.slice(0, MOST_NAMED).join(', ')}${more}: `;
}
