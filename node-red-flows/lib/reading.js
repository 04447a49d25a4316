// Reads what a plant publishes as a reading.
import { parseJson } from './json.js';

// Accepts what server.py accepts: numbers, true and false, and numbers as text.
function numberFrom(value) {
  const isText = typeof value === 'string';
  if (isText && !/^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value)) return NaN;
  return isText || typeof value === 'boolean' ? Number(value) : value;
}

// Several features are a list, or an object by name. Returns null where one of them is not a number.
function valueFrom(value) {
  if (value === null || typeof value !== 'object') {
    const number = numberFrom(value);
    return Number.isFinite(number) ? number : null;
  }
  const numbers = Object.values(value).map(numberFrom);
  if (numbers.length === 0 || !numbers.every(Number.isFinite)) return null;
  return Array.isArray(value) ? numbers : Object.fromEntries(Object.keys(value).map((name, i) => [name, numbers[i]]));
}

// Milliseconds since 1970. A time without an offset is UTC, as PLCs and gateways mean it.
function timeFrom(timestamp) {
  if (typeof timestamp === 'number') return timestamp;
  if (typeof timestamp !== 'string' || !/^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(timestamp)) return NaN;
  return Date.parse(/(Z|[+-]\d\d:?\d\d)$/i.test(timestamp) ? timestamp : `${timestamp}Z`);
}

// The two highest bits of an OPC UA status code: 0 is good, 1 uncertain, 2 and 3 bad. Only good values are current
// measurements. Returns the name of a quality that is not good, else null.
function badQuality({ metadata, status, quality }) {
  if (typeof quality === 'string' && !/^good/i.test(quality)) return quality;
  const given = metadata?.statusCode ?? (status?.code === undefined ? undefined : status);
  if (given === undefined) return null;
  const code = typeof given === 'number' ? given : given?.code;
  const name = given?.symbol ?? given?.name;
  if (Number.isInteger(code) ? code >>> 30 === 0 : /^good/i.test(name)) return null;
  return String(name ?? (Number.isInteger(code) ? `status 0x${(code >>> 0).toString(16).padStart(8, '0')}` : 'unreadable status code'));
}

const isParsed = (payload) => payload !== null && typeof payload === 'object' && !Buffer.isBuffer(payload);
const excerpt = (payload) => (isParsed(payload) ? JSON.stringify(payload) : String(payload)).slice(0, 60) || '(empty)';

/**
 * Reads a payload: HiveMQ Edge's `{"value":…,"timestamp":…,"tagName":…,"metadata":…}`, a bare number, or a number as text; as text,
 * or as a value already.
 *
 * Returns `{ reading: { value, timestamp, tagName } }`; or `{ unknown, timestamp }` with the reason why the machine's state is
 * unknown: the quality is not good, or the tag has no value; or `{ refused }` with what is wrong.
 */
export function readPayload(payload, now) {
  // ".5" and "+5" are not JSON, but they are numbers.
  const sent = isParsed(payload) ? payload : (parseJson(payload) ?? payload);
  const isObject = sent !== null && typeof sent === 'object';
  const time = isObject ? timeFrom(sent.timestamp) : NaN;
  const timestamp = Number.isFinite(time) ? time : now;
  const bad = isObject ? badQuality(sent) : null;
  if (bad) return { unknown: `quality ${bad.slice(0, 60)}`, timestamp };
  if (isObject && sent.value === null) return { unknown: 'the tag has no value', timestamp };
  const value = valueFrom(isObject ? sent.value : sent);
  if (value === null) return { refused: `not a finite number: ${excerpt(payload)}` };
  const reading = { value, timestamp };
  if (isObject && typeof sent.tagName === 'string') reading.tagName = sent.tagName;
  return { reading };
}
