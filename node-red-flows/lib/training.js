// Trains a model on readings of a healthy time.
//
// All readings of that time count, also those that the model before called anomalies: left out at each training, they would make
// the range of normal smaller and smaller. A rate of false alarms sets the threshold, so that it means the same after each
// training, and distances find what lies outside all readings.
import { serverHeaders } from './server.js';

/** The request that trains the model of a tab. */
export function trainingRequest(samples, env) {
  const url = env.get('IFOREST_URL').replace(/\/+$/, '');
  const window = Number(env.get('WINDOW')) || undefined;
  // Judged together, readings need fewer false alarms for the same number a day.
  const rate = Number(env.get('FALSE_ALARM_RATE')) || (window ? 0.001 : 0.01);
  const isNamed = samples[0] !== null && typeof samples[0] === 'object' && !Array.isArray(samples[0]);
  return {
    url: `${url.includes('/models/') ? url : `${url}/models/default`}/retrain`,
    headers: serverHeaders(env),
    payload: {
      samples,
      // The server reads named features by their names.
      ...(isNamed && { feature_names: Object.keys(samples[0]) }),
      false_alarm_rate: rate,
      out_of_range: 'distance',
      ...(window && { window }),
    },
    requestTimeout: 60000,
  };
}
