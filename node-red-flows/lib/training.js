// Trains a model on readings of a healthy time.
//
// All readings of that time count, also those that the model before called anomalies: left out at each training, they would make
// the range of normal smaller and smaller. A rate of false alarms sets the threshold, so that it means the same after each
// training, and distances find what lies outside all readings.
import { serverHeaders } from './server.js';

/** The body of a training. `window` and `rate` may be empty. */
export function trainingBody(samples, { window, rate }) {
  const size = Number(window) || undefined;
  const isNamed = samples[0] !== null && typeof samples[0] === 'object' && !Array.isArray(samples[0]);
  return {
    samples,
    // The server reads named features by their names.
    ...(isNamed && { feature_names: Object.keys(samples[0]) }),
    // Judged together, readings need fewer false alarms for the same number a day.
    false_alarm_rate: Number(rate) || (size ? 0.001 : 0.01),
    out_of_range: 'distance',
    ...(size && { window: size }),
  };
}

/** The request that trains the model of a tab. */
export function trainingRequest(samples, env) {
  const url = env.get('IFOREST_URL').replace(/\/+$/, '');
  return {
    url: `${url.includes('/models/') ? url : `${url}/models/default`}/retrain`,
    headers: serverHeaders(env),
    payload: trainingBody(samples, { window: env.get('WINDOW'), rate: env.get('FALSE_ALARM_RATE') }),
    requestTimeout: 60000,
  };
}
