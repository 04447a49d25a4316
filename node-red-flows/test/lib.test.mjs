import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { judge, newAlarm } from '../lib/alarm.js';
import { difference, newClock, observe } from '../lib/clock.js';
import { count, newCounter } from '../lib/counter.js';
import * as fleet from '../lib/fleet.js';
import { scale } from '../lib/gauge.js';
import * as learner from '../lib/learner.js';
import { describe as describeQueue, newQueue, resumeQueue, step } from '../lib/queue.js';
import { readPayload } from '../lib/reading.js';
import { add, isFresh, newTrend, next } from '../lib/trend.js';

const NOW = 1_790_000_000_000;
const DAY = 86_400_000;

describe('quality', () => {
  const read = (more) => readPayload(JSON.stringify({ value: 2.5, timestamp: NOW, ...more }), NOW);

  test('of HiveMQ Edge, of OPC UA and of flow 5 is good where the two highest bits are 0', () => {
    for (const more of [
      {},
      { metadata: {} },
      { metadata: { statusCode: { code: 0, symbol: 'Good' } } },
      { metadata: { statusCode: { code: 0x00a70000, symbol: 'GoodClamped' } } },
      { metadata: { statusCode: { symbol: 'Good' } } },
      { metadata: { statusCode: 0 } },
      { status: { code: 0 } },
      { status: 'running' },
      { quality: 'Good' },
    ]) {
      assert.equal(read(more).reading?.value, 2.5, JSON.stringify(more));
    }
  });

  test('that is not good names its reason', () => {
    for (const [more, reason] of [
      [{ metadata: { statusCode: { code: 2147483648, symbol: 'Bad' } } }, 'quality Bad'],
      [{ metadata: { statusCode: { code: -2147483648 } } }, 'quality status 0x80000000'],
      [{ metadata: { statusCode: { code: 1083113472, symbol: 'UncertainLastUsableValue' } } }, 'quality UncertainLastUsableValue'],
      [{ metadata: { statusCode: { symbol: 'BadSensorFailure' } } }, 'quality BadSensorFailure'],
      [{ metadata: { statusCode: {} } }, 'quality unreadable status code'],
      [{ metadata: { statusCode: null }, status: { code: 0x80310000 } }, 'quality status 0x80310000'],
      [{ status: { code: 0x808c0000, name: 'BadSensorFailure' } }, 'quality BadSensorFailure'],
      [{ value: null }, 'the tag has no value'],
      [{ value: null, quality: 'BadNotConnected' }, 'quality BadNotConnected'],
    ]) {
      assert.deepEqual(read(more), { unknown: reason, timestamp: NOW }, JSON.stringify(more));
    }
  });
});

describe('the clocks', () => {
  const ages = (list) => {
    const clock = newClock();
    for (const [arrived, age] of list) observe(clock, NOW + arrived - age, NOW + arrived);
    return difference(clock, 5000);
  };
  const every = (step, length, age) => Array.from({ length }, (_, i) => [i * step, age(i * step, i)]);

  test('differ where every reading of ten seconds is equally old or from the future', () => {
    assert.equal(ages(every(20, 600, () => 2_460_000)), 2_460_000);
    assert.equal(ages(every(1000, 12, (_, i) => 60_000 + 300 * (i % 3))), 60_300);
    assert.equal(ages(every(15_000, 4, () => 8_000)), 8_000);
    assert.equal(ages(every(1000, 12, () => -3_600_000)), -3_600_000);
  });

  test('agree where readings are current, late for once, or a backlog that is caught up', () => {
    assert.equal(ages(every(20, 600, () => 40)), 0);
    assert.equal(ages(every(1000, 12, (_, i) => (i === 11 ? DAY : 30))), 0);
    // An hour of one reading a second, at a hundred a second.
    assert.equal(ages(every(10, 3600, (at) => 3_600_000 - 99 * at)), 0);
    // Nothing is known before ten seconds have passed.
    assert.equal(ages(every(1000, 8, () => 60_000)), 0);
  });
});

test('the counter reports the first event and one line a minute', () => {
  const counter = newCounter();
  const lines = Array.from({ length: 1000 }, (_, i) => count(counter, `line ${i}`, NOW + 150 * i)).filter(Boolean);
  assert.deepEqual(lines, ['line 0', 'line 400 (and 399 more since the last report)', 'line 800 (and 399 more since the last report)']);
  assert.equal(counter.total, 1000);
  const few = newCounter();
  const first = Array.from({ length: 1000 }, (_, i) => count(few, `line ${i}`, NOW + 100 * i, 3)).filter(Boolean);
  assert.deepEqual(first, ['line 0', 'line 1', 'line 2', 'line 600 (and 597 more since the last report)', 'line 601', 'line 602']);
});

describe('the queue', () => {
  const settings = { limit: 10, batch: 4, maxAge: 5000 };
  const reading = (value, age = 0) => ({ reading: { value, timestamp: NOW - age, arrived: NOW } });
  const normal = { status: 'Normal Behaviour', prediction: 0 };
  const values = ({ request }) => request?.readings.map(({ value }) => value);

  test('sends one request at a time, and all readings that arrive meanwhile in the next', () => {
    const q = newQueue(NOW);
    const first = step(q, reading(1), settings, NOW);
    assert.deepEqual(values(first), [1]);
    for (const value of [2, 3]) assert.equal(step(q, reading(value), settings, NOW).request, null);
    const next = step(q, { outcome: { id: first.request.id, predictions: [normal] } }, settings, NOW);
    assert.deepEqual(values(next), [2, 3]);
    assert.deepEqual(next.predictions.map(({ reading: { value }, late }) => [value, late]), [[1, false]]);
  });

  test('ignores the outcome of a request that it gave up, and repeats its readings', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(1), settings, NOW);
    assert.deepEqual(step(q, {}, settings, NOW + 31_000).warnings, ['requests to the server fail: no response for 30 seconds']);
    assert.deepEqual(step(q, { outcome: { id: request.id, predictions: [normal] } }, settings, NOW + 31_100).predictions, []);
    const again = step(q, {}, settings, NOW + 32_000);
    assert.deepEqual(values(again), [1]);
    assert.notEqual(again.request.id, request.id);
  });

  test('goes on after a restart with the readings of the request that was in flight first', () => {
    const q = newQueue(NOW);
    step(q, reading(1), settings, NOW);
    step(q, reading(2), settings, NOW);
    const stored = JSON.parse(JSON.stringify(q));
    // An earlier release stored clocks of fewer fields, or none.
    stored.clocks = { 'press-1': { seconds: [] } };
    for (const { clocks, ...rest } of [stored, { ...stored, clocks: undefined }]) {
      const resumed = resumeQueue({ ...rest, clocks }, NOW);
      step(resumed, { reading: { model: 'press-1', value: 3, timestamp: NOW - 8000, arrived: NOW } }, { ...settings, batch: 1 }, NOW);
      const again = step(resumed, { outcome: { id: resumed.id, predictions: [normal] } }, settings, NOW);
      assert.deepEqual(values(again), [2, 3]);
      assert.match(step(resumed, { outcome: { id: resumed.id, predictions: [normal, normal] } }, settings, NOW).warnings[0], /^press-1: readings are older/);
    }
  });

  // mqtt out drops what it gets between the break and the moment in which the flow learns of it.
  test('sends the last predictions again when the broker is back, before those that waited', () => {
    const q = newQueue(NOW);
    const answer = (at) => step(q, { outcome: { id: q.id, predictions: q.batch.map(() => normal) } }, settings, at);
    const judged = ({ predictions }) => predictions.map(({ reading: { value }, late }) => [value, late]);
    [1, 2, 3].forEach((value, i) => {
      const at = NOW + 900 * i;
      step(q, reading(value), settings, at);
      answer(at);
    });
    assert.deepEqual(judged(step(q, { connected: false }, settings, NOW + 2000)), []);
    step(q, reading(4), settings, NOW + 2000);
    const resumed = resumeQueue(JSON.parse(JSON.stringify(q)), NOW + 3000);
    for (const one of [q, resumed]) {
      step(one, { connected: false }, settings, NOW + 3000);
      const back = step(one, { connected: true }, settings, NOW + 4000);
      assert.deepEqual([judged(back), values(back), one.predicted], [[[3, false]], [4], 3]);
    }
    // They may have been dropped once more.
    assert.deepEqual(judged(answer(NOW + 4000)), [[4, false]]);
    step(q, { connected: false }, settings, NOW + 4500);
    assert.deepEqual(judged(step(q, { connected: true }, settings, NOW + 4500)), [[3, false], [4, false]]);
    step(q, { connected: false }, settings, NOW + 9000);
    assert.deepEqual(judged(step(q, { connected: true }, settings, NOW + 9000)), []);
  });

  test('sends readings again that the server cannot answer now, and only those', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(0), settings, NOW);
    for (const value of [1, 2, 3]) step(q, reading(value), settings, NOW);
    const next = step(q, { outcome: { id: request.id, predictions: [normal] } }, settings, NOW);
    const busy = { error: 'wait', code: 'busy' };
    const outcome = { id: next.request.id, predictions: [normal, busy, { error: 'no', code: 'wrong_type' }] };
    const after = step(q, { outcome }, settings, NOW);
    assert.deepEqual(after.predictions.map(({ reading: { value } }) => value), [1, 3]);
    assert.deepEqual([after.request, after.warnings], [null, ['requests to the server fail: wait']]);
    assert.deepEqual(values(step(q, {}, settings, NOW + 1000)), [2]);
  });

  // A damaged model of one machine must not hold up the others, up to the limit of the queue.
  test('lets only the model wait that the server cannot ask, and sends its readings in their order later', () => {
    const q = newQueue(NOW);
    const wide = { ...settings, limit: 10_000 };
    const of = (model, value) => ({ reading: { model, value, timestamp: NOW, arrived: NOW } });
    const lost = { error: 'the store cannot be reached', code: 'store_failed' };
    const done = [];
    const warnings = [];
    let isBroken = true;
    let { request } = step(q, of('a', 0), wide, NOW);
    // Ten readings of each of two machines in a second, and a response within a tenth of it.
    for (let i = 1; i < 400; i += 1) {
      const now = NOW + 100 * i;
      isBroken = i < 300;
      const predictions = request?.readings.map(({ model }) => (model === 'a' && isBroken ? lost : normal));
      for (const event of [request ? { outcome: { id: request.id, predictions } } : {}, of('a', i), of('b', i)]) {
        const after = step(q, event, wide, now);
        if (event.outcome || after.request) request = after.request;
        done.push(...after.predictions.map(({ reading: { model, value } }) => [model, value]));
        warnings.push(...after.warnings);
      }
      if (i === 299) {
        assert.ok(done.length > 290 && done.every(([model]) => model === 'b'), `${done.length} of b are predicted`);
        assert.match(describeQueue(q).text, /^not predicted now: a: the store cannot be reached, /);
      }
    }
    for (const model of ['a', 'b']) {
      const values = done.filter(([one]) => one === model).map(([, value]) => value);
      assert.deepEqual(values, Array.from({ length: values.length }, (_, i) => i + (model === 'a' ? 0 : 1)), model);
    }
    assert.deepEqual(warnings.filter((text) => text.startsWith('requests')), [
      'requests to the server fail: a: the store cannot be reached',
      'requests to the server succeed again',
    ]);
    assert.deepEqual(Object.keys(q.paused), []);
  });

  // 500 readings with 1,024 features each are more than the server accepts, and would be sent for ever.
  test('counts the features of each reading, whatever the first one has', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(0), settings, NOW);
    for (const value of [1, [1, 2], { a: 1, b: 2 }, [1, 2, 3, 4, 5], 6]) step(q, reading(value), settings, NOW);
    const sizes = [];
    for (let next = request; next; ) {
      sizes.push(next.readings.length);
      next = step(q, { outcome: { id: next.id, predictions: next.readings.map(() => normal) } }, settings, NOW).request;
    }
    assert.deepEqual(sizes, [1, 2, 1, 1, 1]);
  });

  test('takes any name of a machine, also those that objects have already', () => {
    const names = ['constructor', '__proto__', 'toString'];
    let q = newQueue(NOW);
    for (const stored of [false, true]) {
      if (stored) q = resumeQueue(JSON.parse(JSON.stringify(q)), NOW);
      let { request } = step(q, reading(0), settings, NOW);
      for (const model of names) step(q, { reading: { model, value: 1, timestamp: NOW, arrived: NOW } }, settings, NOW);
      const asked = [];
      while (request) {
        asked.push(...request.readings.map(({ model }) => model));
        ({ request } = step(q, { outcome: { id: request.id, predictions: request.readings.map(() => normal) } }, settings, NOW));
      }
      assert.deepEqual(asked.filter(Boolean), names);
    }
  });

  test('counts as predicted what is predicted', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(0), settings, NOW);
    step(q, { outcome: { id: request.id, predictions: [{ error: 'there is no model press-1', code: 'no_model' }] } }, settings, NOW);
    assert.equal(describeQueue(q).text, '0 predicted, 0 waiting');
  });

  test('asks again soon where the clock was set back meanwhile', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(1), settings, NOW);
    assert.equal(step(q, { outcome: { id: request.id, failed: 'down' } }, settings, NOW).request, null);
    assert.deepEqual(values(step(q, {}, settings, NOW - 3_600_000)), [1]);
  });

  test('says that the server is up again also where it refuses a reading', () => {
    const q = newQueue(NOW);
    const { request } = step(q, reading(1), settings, NOW);
    step(q, { outcome: { id: request.id, failed: 'down' } }, settings, NOW);
    const again = step(q, {}, settings, NOW + 1000);
    const { warnings } = step(q, { outcome: { id: again.request.id, refused: 0, reason: 'no' } }, settings, NOW + 1000);
    assert.deepEqual(warnings, ['requests to the server succeed again']);
    assert.equal(describeQueue(q).text, '0 predicted, 0 waiting');
  });

  test('knows the clock of each machine, and names in one line those that changed', () => {
    const q = newQueue(NOW);
    const wide = { ...settings, limit: 1000, batch: 1000 };
    const send = (model, age, at) => step(q, { reading: { model, value: 1, timestamp: at - age, arrived: at } }, wide, at);
    const warnings = [];
    for (let at = NOW; at < NOW + 15_000; at += 500) {
      let { request } = send('a', 60_000, at);
      for (const model of ['b', 'c', 'd', 'e']) {
        const next = send(model, 10, at);
        request ??= next.request;
      }
      for (let i = 0; request && i < 3; i += 1) {
        const outcome = { id: request.id, predictions: request.readings.map(() => normal) };
        const after = step(q, { outcome }, wide, at);
        warnings.push(...after.warnings);
        request = after.request;
      }
    }
    assert.deepEqual(warnings.slice(0, 2), [
      'a: readings are older than 5 s: only their whole prediction is published, marked late',
      'a: the clocks of the readings and of Node-RED differ by 60 s; ages are measured without this difference',
    ]);
    assert.match(warnings.slice(2).join(), /^a: readings are current again, after \d+ late ones$/);
    const all = ['b', 'c', 'd', 'e'].map((model) => send(model, 9000, NOW + 16_000)).find(({ request }) => request);
    const first = step(q, { outcome: { id: all.request.id, predictions: all.request.readings.map(() => normal) } }, wide, NOW + 16_000);
    const rest = step(q, { outcome: { id: first.request.id, predictions: first.request.readings.map(() => normal) } }, wide, NOW + 16_000);
    assert.match(rest.warnings.join(), /^c, d, e: readings are older than 5 s/);
  });

  test('marks readings late that are older than the limit, and says so once', () => {
    const q = newQueue(NOW);
    const predict = (age) => {
      const { request } = step(q, reading(1, age), settings, NOW);
      return step(q, { outcome: { id: request.id, predictions: [normal] } }, settings, NOW);
    };
    assert.deepEqual(predict(4999).predictions[0].late, false);
    const late = predict(8000);
    assert.equal(late.predictions[0].late, true);
    assert.deepEqual(late.warnings, ['readings are older than 5 s: only their whole prediction is published, marked late']);
    assert.deepEqual(predict(9000).warnings, []);
    assert.deepEqual(predict(0).warnings, ['readings are current again, after 2 late ones']);
    // Of readings that are about as old as the limit, each would be a change.
    for (let i = 0; i < 10; i += 1) assert.deepEqual([...predict(8000).warnings, ...predict(0).warnings], []);
  });
});

describe('learning', () => {
  const settings = { samples: 20, scratch: 20, minimum: 10, minutes: 60, maxShare: 0.1 };
  const say = ({ messages }) => messages.map(({ payload }) => payload.reason ?? payload.learning);

  test('that is being trained on is not stopped in words only', () => {
    const state = learner.newLearner();
    learner.learn(state, 'press-1', 'start', settings, NOW);
    let trainings = [];
    for (let i = 0; i < 20; i += 1) ({ trainings } = learner.observe(state, 'press-1', { value: i }, settings, NOW));
    assert.equal(trainings.length, 1);
    assert.deepEqual(say(learner.learn(state, 'press-1', 'stop', settings, NOW)), ['the training is running and cannot be stopped any more']);
    // The server is down: the readings wait for the next try, and can be thrown away.
    learner.trained(state, 'press-1', { scratch: true, again: true, reason: 'down' }, NOW);
    assert.deepEqual(say(learner.learn(state, 'press-1', 'stop', settings, NOW)), ['learning from scratch was stopped after 20 readings']);
    // A response that never came.
    learner.learn(state, 'press-1', 'start', settings, NOW);
    for (let i = 0; i < 20; i += 1) learner.observe(state, 'press-1', { value: i }, settings, NOW);
    assert.deepEqual(say(learner.learn(state, 'press-1', 'stop', settings, NOW + 121_000)), ['learning from scratch was stopped after 20 readings']);
  });

  test('of one machine too many is refused, and any name can learn', () => {
    const state = learner.newLearner();
    for (const name of ['constructor', '__proto__', ...Array.from({ length: 1998 }, (_, i) => `m-${i}`)]) {
      assert.deepEqual(say(learner.learn(state, name, 'start', settings, NOW)), [true], name);
    }
    assert.match(say(learner.learn(state, 'one-more', 'start', settings, NOW))[0], /^there are 2000 machines already/);
    assert.equal(Object.keys(state.machines).length, 2000);
  });
});

test('a machine whose last reading was bad is unknown, though predictions were on their way', () => {
  const state = fleet.newFleet(NOW);
  const rule = { on: 15, off: 30, count: 5 };
  const good = (timestamp) => ({ input_value: 2.5, anomaly_score: -0.1, prediction: 0, timestamp });
  for (const name of ['press-1', 'constructor']) {
    fleet.predicted(state, name, good(NOW), rule, NOW);
    fleet.notJudged(state, name, { state: 'unknown', reason: 'quality Bad', timestamp: NOW + 200 });
    fleet.predicted(state, name, good(NOW + 100), rule, NOW + 300);
    assert.equal(fleet.page(state, NOW + 400).rows.find((row) => row.name === name).state, 'unknown');
    fleet.predicted(state, name, good(NOW + 300), rule, NOW + 500);
    assert.equal(fleet.page(state, NOW + 600).rows.find((row) => row.name === name).state, 'normal');
  }
});

describe('the scale of the gauge', () => {
  test('covers the normal range and the value', () => {
    const ends = (ranges, value) => {
      const { min, max } = scale(ranges, value);
      return [min, max];
    };
    assert.deepEqual(ends([[0.5, 4.5]], 2), [0, 9]);
    assert.deepEqual(ends([[0.5, 4.5]], 9), [0, 9]);
    assert.deepEqual(ends([[0.5, 4.5]], 40), [0, 72]);
    assert.deepEqual(ends([[100, 104]], 102), [98, 108]);
    assert.deepEqual(ends([[100, 104]], 2), [-52, 108]);
    assert.deepEqual(ends([[-1, 1]], 0), [-2, 3]);
    assert.deepEqual(ends([[null, 4]], null), [0, 8]);
    assert.deepEqual(ends([], 1000), [0, 1000]);
    assert.deepEqual(ends([[null, null]], -3), [-10, 10]);
  });
});

describe('the trend', () => {
  const run = (every, seconds, value = () => 2) => {
    const trend = newTrend();
    const points = [];
    let at = 0;
    for (let now = 0; now < seconds * 1000; now += 20) {
      if (now >= at) {
        add(trend, { value: value(now), score: -0.1 }, NOW + now);
        at += every;
      }
      if (now % 500 === 0) points.push(next(trend, NOW + now));
    }
    return { trend, points: points.filter(Boolean) };
  };

  test('has a point for each half second of a fast machine, with the least, the mean and the greatest', () => {
    const { points } = run(20, 60, (now) => (now % 400 === 0 ? 9 : 1));
    assert.ok(points.length >= 110 && points.length <= 120, `${points.length} points in a minute`);
    assert.deepEqual([points[10].value.min, points[10].value.max], [1, 9]);
    assert.ok(points[10].value.mean > 1.2 && points[10].value.mean < 2, `${points[10].value.mean}`);
  });

  test('has a point for each reading of a slow machine, and no gaps between them', () => {
    for (const every of [1500, 3000, 15_000]) {
      const { points } = run(every, 20 * (every / 1000));
      const gaps = points.filter((point) => point === 'gap').length;
      // Nothing is known of the step before the second reading.
      assert.ok(gaps <= 1, `${gaps} gaps`);
      assert.equal(points.length - gaps, 20);
    }
  });

  test('has one gap where readings stay away, and knows how old the last one is', () => {
    const { trend } = run(1000, 20);
    assert.equal(isFresh(trend, NOW + 25_000), true);
    assert.equal(isFresh(trend, NOW + 40_000), false);
    const later = [20.5, 21, 24, 30, 60].map((s) => next(trend, NOW + s * 1000));
    assert.deepEqual(later.filter((point) => point === 'gap'), ['gap']);
    const slow = run(15_000, 300).trend;
    assert.equal(isFresh(slow, NOW + 320_000), true, 'a slow machine is fresh for longer');
  });
});

describe('the alarm', () => {
  const rule = { on: 15, off: 30, count: 9 };
  /** The times in seconds at which the alarm changes, for readings of a rate, of which some are anomalies. */
  function changes(perSecond, seconds, isAnomaly) {
    const alarm = newAlarm();
    const found = [];
    for (let i = 0; i < seconds * perSecond; i += 1) {
      const at = i / perSecond;
      if (judge(alarm, isAnomaly(at, i), rule, NOW + at * 1000)) found.push([alarm.on, at]);
    }
    assert.ok(alarm.seconds.length <= 31, 'it keeps seconds, not readings');
    return found;
  }
  let state = 7;
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };

  for (const [perSecond, seconds, name] of [[1 / 15, 86_400, 'one reading in 15 s'], [0.7, 864_000, 'seven in 10 s'], [1, 86_400, 'one a second'], [50, 3600, 'fifty a second']]) {
    test(`is not raised by one spike in twenty, at ${name}`, () => {
      assert.deepEqual(changes(perSecond, seconds, (_, i) => i % 20 === 19), []);
      assert.deepEqual(changes(perSecond, seconds, () => random() < 0.05), []);
    });

    test(`is raised once by a fault, and ends though spikes go on, at ${name}`, () => {
      const fault = perSecond < 1 ? 1800 : 120;
      for (const share of [1, 0.8]) {
        const found = changes(perSecond, 3 * fault, (at) => (at >= fault && at < 2 * fault ? random() < share : random() < 0.05));
        assert.deepEqual(found.map(([on]) => on), [true, false], `${share}: ${JSON.stringify(found)}`);
        const [[, raised], [, ended]] = found;
        // A full fault: most of fifteen seconds, or nine readings. The end: most of thirty seconds, or as many readings.
        if (share === 1) assert.ok(raised - fault <= Math.max(16, 10 / perSecond), `raised after ${raised - fault} s`);
        assert.ok(ended - 2 * fault <= Math.max(45, 20 / perSecond), `ended after ${ended - 2 * fault} s`);
      }
    });
  }

  test('goes on after the clock was set back by an hour', () => {
    const alarm = newAlarm();
    const at = (seconds, isAnomaly) => judge(alarm, isAnomaly, rule, NOW + seconds * 1000);
    for (let i = 0; i < 3600; i += 1) at(3600 + i, false);
    const raised = Array.from({ length: 60 }, (_, i) => at(i, true)).indexOf(true);
    assert.ok(raised >= 8 && raised <= 16, `raised after ${raised} s`);
  });

  test('is not raised by a burst that is shorter than its time, at fifty a second', () => {
    assert.deepEqual(changes(50, 120, (at) => at >= 60 && at < 65), []);
    // Not even at the start, where nothing else is known.
    assert.deepEqual(changes(50, 10, () => true), []);
  });
});
