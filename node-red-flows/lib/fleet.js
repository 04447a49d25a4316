// The state of many machines, for a table and a page of each.
import { judge, newAlarm } from './alarm.js';
import { add, isFresh, newTrend, next } from './trend.js';

const MOST = 2_000;
const HISTORY = 240;
/** Worst first. */
export const ORDER = ['alarm', 'unknown', 'none', 'no model', 'learning', 'warming', 'anomaly', 'normal'];

/** The state of all machines: plain data. An object without a prototype has no machine called constructor. */
export const newFleet = (now) => ({ since: now, machines: Object.create(null), refused: 0, open: Object.create(null) });

/** A machine by its name; undefined beyond the greatest number of machines. */
function machine(fleet, name) {
  const known = fleet.machines[name];
  if (known) return known;
  if (Object.keys(fleet.machines).length >= MOST) {
    fleet.refused += 1;
    return undefined;
  }
  fleet.machines[name] = {
    total: 0,
    anomalies: 0,
    late: 0,
    last: null,
    alarm: newAlarm(),
    trend: newTrend(),
    history: [],
    problem: null,
    learning: null,
    result: null,
  };
  return fleet.machines[name];
}

/** Takes a prediction of iforest-predict. Returns true or false where the alarm has changed to that, else null. */
export function predicted(fleet, name, prediction, rule, now) {
  const one = machine(fleet, name);
  if (!one) return null;
  if (prediction.late) {
    one.late += 1;
    return null;
  }
  one.total += 1;
  // The problem is newer than the predictions that were on their way.
  if (one.problem && !(prediction.timestamp < one.problem.timestamp)) one.problem = null;
  one.last = { value: prediction.input_value, verdict: prediction.prediction, score: prediction.anomaly_score };
  add(one.trend, { value: prediction.input_value, score: prediction.anomaly_score }, now);
  if (prediction.anomaly_score === null) return null;
  one.anomalies += prediction.prediction;
  let changed;
  if (typeof prediction.alarm === 'boolean') {
    changed = prediction.alarm !== one.alarm.on;
    if (changed) Object.assign(one.alarm, { on: prediction.alarm, since: now });
  } else {
    changed = judge(one.alarm, prediction.prediction === 1, rule, now);
  }
  return changed ? one.alarm.on : null;
}

/** Takes a reading that is not judged: `{ state, reason }` of iforest-predict. */
export function notJudged(fleet, name, { state, reason, timestamp }) {
  const one = machine(fleet, name);
  if (one) one.problem = state === 'known' ? null : { state, reason, timestamp };
}

/** Takes progress or the result of a training, of iforest-train. */
export function trained(fleet, name, said) {
  const one = machine(fleet, name);
  if (!one) return;
  if (said.learning) {
    one.learning = { readings: said.readings, of: said.of };
    return;
  }
  one.learning = null;
  const { retrained, samples_used: samples, reason, warnings = [], time } = said;
  one.result = { retrained, samples, reason, warnings, time };
}

/** Keeps the page of a machine up to date for a while: a browser shows it. */
export function open(fleet, name, now) {
  if (fleet.machines[name]) fleet.open[name] = now;
}

/** What the table and the open pages show. Call it once a second. */
export function page(fleet, now) {
  const rows = [];
  for (const [name, one] of Object.entries(fleet.machines)) {
    const point = next(one.trend, now);
    if (point) {
      one.history.push({ at: now, ...(point === 'gap' ? {} : point) });
      if (one.history.length > HISTORY) one.history.shift();
    }
    rows.push(row(name, one, now));
  }
  rows.sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || a.name.localeCompare(b.name, 'en', { numeric: true }));
  const pages = {};
  for (const [name, at] of Object.entries(fleet.open)) {
    const one = fleet.machines[name];
    if (now - at > 10_000 || !one) delete fleet.open[name];
    else pages[name] = { history: one.history, result: one.result };
  }
  return { now, since: fleet.since, refused: fleet.refused, rows, pages };
}

function row(name, one, now) {
  const { last, alarm, problem, learning, total, anomalies, late } = one;
  const fresh = isFresh(one.trend, now);
  let [state, text] = ['normal', ''];
  if (last?.verdict === 1) state = 'anomaly';
  if (last?.score === null) state = 'warming';
  if (!fresh) state = 'none';
  if (problem?.state === 'no_model') state = 'no model';
  else if (problem) [state, text] = ['unknown', problem.reason];
  if (learning) [state, text] = ['learning', `${learning.readings} of ${learning.of} readings`];
  // Nothing hides a standing alarm.
  if (alarm.on) state = 'alarm';
  const value = Number.isFinite(last?.value) ? Number(last.value.toPrecision(5)) : null;
  return { name, state, text, value, at: one.trend.lastAt, since: alarm.on ? alarm.since : 0, total, anomalies, late };
}
