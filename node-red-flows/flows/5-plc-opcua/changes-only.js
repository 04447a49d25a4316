import { parseJson } from '../../lib/json.js';

export default function changesOnly({ msg, env, context }) {
  // Writes the flag when it changes, and once a minute in case the PLC restarted.
  const flag = parseJson(msg.payload)?.value;
  if (typeof flag !== 'boolean') return null;
  const now = Date.now();
  const written = context.get('written') || {};
  if (flag === written.flag && now - written.at < 60000) return null;
  context.set('written', { flag: flag, at: now });
  return { topic: env.get('OPCUA_FLAG'), datatype: 'Boolean', payload: flag };
}
