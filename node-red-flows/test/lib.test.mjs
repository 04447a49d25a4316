import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { difference, newClock, observe } from '../lib/clock.js';
import { count, newCounter } from '../lib/counter.js';
import { newQueue, resumeQueue, step } from '../lib/queue.js';
import { readPayload } from '../lib/reading.js';

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
    assert.deepEqual(values(step(resumeQueue(stored, NOW), {}, settings, NOW)), [1, 2]);
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
  });
});
