// Sends one request at a time, so that the predictions keep the order of the readings. All readings that arrive meanwhile go
// into the next request.
import { difference, newClock, observe } from './clock.js';

/** Readings of so many machines have clocks of their own; those of more are taken to be right. */
const MOST_CLOCKS = 10_000;
const MOST_NAMED = 3;

const NO_RESPONSE = 30_000;
const LONGEST_PAUSE = 30_000;
/** Codes of errors that are not the fault of a reading. */
const LATER = ['busy', 'not_ready', 'store_failed', 'internal'];

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
    clocks: {},
  };
}

/** The queue as it goes on after a restart: the response to a request before it never arrives. */
export function resumeQueue(q, now) {
  return {
    ...newQueue(now),
    ...q,
    waiting: [...q.batch, ...q.waiting],
    batch: [],
    id: Math.max(q.id + 1, now),
    connected: true,
    retryAt: 0,
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
  if (event.connected !== undefined) q.connected = event.connected;
  if (outcome && q.batch.length > 0 && outcome.id === q.id) settle(q, outcome, now, { predictions, reports, warnings });
  else if (q.batch.length > 0 && now - q.sentAt > NO_RESPONSE) failed(q, 'no response for 30 seconds', now, warnings);

  const excess = q.waiting.length - settings.limit;
  if (excess > 0) {
    q.waiting.splice(0, excess);
    if (q.dropped === 0) warnings.push('the queue is full; the oldest readings are dropped');
    q.dropped += excess;
  }

  let request = null;
  if (q.connected && q.batch.length === 0 && q.waiting.length > 0 && now >= q.retryAt) {
    // A reading counts once per feature, so that no request becomes too large for the server.
    const features = Object.keys(Object(q.waiting[0].value)).length || 1;
    q.batch = q.waiting.splice(0, Math.max(1, Math.floor(settings.batch / features)));
    q.id += 1;
    q.sentAt = now;
    request = { id: q.id, readings: q.batch };
  } else if (q.dropped > 0 && q.waiting.length === 0 && q.batch.length === 0) {
    warnings.push(`${q.dropped} readings were dropped while the queue was full`);
    q.dropped = 0;
  }

  q.predicted += predictions.length;
  markLate(q, predictions, settings.maxAge, now, warnings);
  return { request, predictions, reports, warnings };
}

/** The state of the queue in a few words, and its colour. */
export function describe(q) {
  let state = { fill: 'green', shape: 'dot', text: `${q.predicted} predicted` };
  if (q.missing) state = { fill: 'yellow', shape: 'ring', text: `no model ${q.missing} yet, ${q.skipped} skipped` };
  if (!q.connected) state = { fill: 'red', shape: 'ring', text: 'broker down' };
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
    hasModel(q, warnings);
    // Removes the refused reading only, so that the others are sent again.
    requeue(q);
    q.waiting.splice(outcome.refused, 1);
    reports.push(`refused by the server: ${outcome.reason}`);
  } else if (!q.connected) {
    requeue(q);
  } else {
    // A reading that the server cannot answer now is sent again; so are the later ones of its model, which fails for all alike.
    const later = outcome.predictions.filter(({ code }) => LATER.includes(code));
    const isLater = (_, i) => LATER.includes(outcome.predictions[i].code);
    outcome.predictions.forEach((prediction, i) => {
      if (!LATER.includes(prediction.code)) predictions.push({ prediction, reading: q.batch[i] });
    });
    q.batch = q.batch.filter(isLater);
    if (later.length > 0) failed(q, later[0].error, now, warnings);
    else answered(q, warnings);
    hasModel(q, warnings);
  }
}

function requeue(q) {
  q.waiting = q.batch.concat(q.waiting);
  q.batch = [];
}

function failed(q, reason, now, warnings) {
  requeue(q);
  if (q.tries === 0) warnings.push(`requests to the server fail: ${reason}`);
  q.problem = reason;
  q.tries += 1;
  q.retryAt = now + Math.min(LONGEST_PAUSE, 250 * 2 ** Math.min(q.tries, 10));
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
  return (q.clocks[model] = { ...newClock(), differs: 0, late: 0 });
}

function markLate(q, predictions, maxAge, now, warnings) {
  const changed = { differ: [], agree: [], late: [], current: [] };
  let counted = 0;
  for (const one of predictions) {
    const name = one.reading.model ?? '';
    const clock = clockOf(q, one.reading);
    const differs = clock ? difference(clock, maxAge) : 0;
    one.late = now - one.reading.timestamp - differs > maxAge;
    if (!clock) continue;
    if ((differs !== 0) !== (clock.differs !== 0)) changed[differs ? 'differ' : 'agree'].push(name);
    clock.differs = differs;
    if (one.late) {
      if (clock.late === 0) changed.late.push(name);
      clock.late += 1;
    } else if (clock.late > 0) {
      changed.current.push(name);
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
