import { connectionProblem } from '../../lib/connection.js';
import { clientId, login } from '../../lib/login.js';

const PATIENCE = 2_000;
const CHECK_EVERY = 60_000;

export function start({ context }) {
  context.set('down', { since: 0, checkedAt: 0, problem: '' });
}

// Two outputs: the command to connect, and a report why the broker cannot be reached.
export default async function connectToTheBroker({ msg, env, node, context, os, net, tls, fs }) {
  if (msg.connect) {
    const clientid = env.get('MQTT_CLIENT_ID') || clientId(env.get('NR_FLOW_ID'), os.hostname(), env.get('READING_TOPIC'));
    return [{ action: 'connect', broker: { clientid, cleansession: false, autoUnsubscribe: false, ...login(env) } }, null];
  }
  const down = context.get('down');
  const now = Date.now();
  if (msg.status) {
    const connected = msg.status.fill === 'green';
    if (connected && down.since) node.status({});
    if (connected) Object.assign(down, { since: 0, checkedAt: 0, problem: '' });
    else down.since ||= now;
    return null;
  }
  if (!down.since || now - down.since < PATIENCE || now - down.checkedAt < CHECK_EVERY) return null;
  down.checkedAt = now;
  const target = { url: env.get('MQTT_URL'), ca: env.get('MQTT_CA'), user: env.get('MQTT_USER'), password: env.get('MQTT_PASSWORD') };
  const cause = await connectionProblem(target, { net, tls, fs });
  // The connection may have come back meanwhile.
  if (!down.since || !cause || cause === down.problem) return null;
  down.problem = cause;
  const text = 'no connection to ' + target.url + ': ' + cause;
  node.warn(text);
  node.status({ fill: 'red', shape: 'ring', text: cause });
  return [null, { payload: text }];
}
