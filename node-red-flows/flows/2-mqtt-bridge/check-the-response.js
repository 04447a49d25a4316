const STATUSES = ['Normal Behaviour', 'Anomaly Detected', 'Warming Up'];
const isPrediction = (p) => p && STATUSES.includes(p.status) && (p.prediction === 0 || p.prediction === 1);

// Accepts only a complete set of predictions; any other response is retried.
export default function checkTheResponse({ msg, env }) {
  const body = msg.payload || {};
  const isComplete = Array.isArray(body.predictions) && body.predictions.length === msg.count;
  if (!msg.error && msg.statusCode === 200 && isComplete && body.predictions.every(isPrediction)) {
    return { outcome: { id: msg.id, predictions: body.predictions } };
  }
  const unknown = !msg.error && msg.statusCode === 200 ? 'the response has no predictions' : 'status ' + msg.statusCode;
  const reason = msg.error ? msg.error.message : body.error || unknown;
  // A model that is not trained yet is no outage, so there is nothing to retry.
  if (!msg.error && body.code === 'no_model') {
    const [, name] = /^.*\/models\/(.+)$/.exec(env.get('IFOREST_URL')) || [null, 'default'];
    return { outcome: { id: msg.id, missing: name } };
  }
  const isRefusal = body.field === 'values' && Number.isInteger(body.index) && body.index >= 0 && body.index < msg.count;
  if (!msg.error && isRefusal) {
    return { outcome: { id: msg.id, refused: body.index, reason: reason } };
  }
  return { outcome: { id: msg.id, failed: String(reason) } };
}
