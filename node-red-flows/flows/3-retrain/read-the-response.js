export default function readTheResponse({ msg }) {
  const body = msg.payload || {};
  const ok = !msg.error && msg.statusCode === 200;
  const reason = msg.error ? msg.error.message : body.error || 'status ' + msg.statusCode;
  const result = ok
    ? { retrained: true, why: msg.why, samples_used: body.samples_used, message: body.message, warnings: body.warnings }
    : { retrained: false, why: msg.why, reason: reason };
  const retry = msg.error || !(msg.statusCode < 500);
  const done = { done: true, retrained: ok, scratch: msg.scratch, again: Boolean(retry) };
  if (msg.scratch && retry) result.reason += '; the readings are kept and sent again in 10 seconds';
  return [{ payload: result }, done];
}
