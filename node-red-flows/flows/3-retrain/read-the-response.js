export default function readTheResponse({ msg, env }) {
  const body = msg.payload || {};
  const ok = !msg.error && msg.statusCode === 200;
  const reason = msg.error ? msg.error.message : body.error || 'status ' + msg.statusCode;
  const result = ok
    ? { retrained: true, why: msg.why, samples_used: body.samples_used, message: body.message, warnings: body.warnings }
    : { retrained: false, why: msg.why, reason: reason };
  const retry = msg.error || !(msg.statusCode < 500);
  const done = { done: true, retrained: ok, scratch: msg.scratch, again: Boolean(retry) };
  if (msg.scratch && retry) result.reason += '; the readings are kept and sent again in 10 seconds';
  // The response of /models/NAME/retrain has the warnings; after /retrain they must be fetched from the model.
  if (ok && !body.warnings) {
    const url = env.get('RETRAIN_URL').replace(/\/retrain$/, '/models/default');
    return [null, done, { result: result, url: url, requestTimeout: 5000 }];
  }
  return [{ payload: result }, done, null];
}
