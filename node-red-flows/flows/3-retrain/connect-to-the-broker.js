import { login } from '../../lib/login.js';

// Two outputs: the command to connect, and the subscription to the readings.
export default function connectToTheBroker({ env }) {
  // As a member of the share group this flow would take readings away from the bridges.
  const topic = env.get('READING_TOPIC').replace(/^\$share\/[^/]+\//, '');
  return [
    { action: 'connect', broker: login(env) },
    { action: 'subscribe', topic: { topic, qos: 1, rap: true } },
  ];
}
