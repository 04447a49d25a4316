import { parseJson } from '../../lib/json.js';

export default function formatTheResult({ msg }) {
  const r = parseJson(msg.payload);
  if (!r) return null;
  if (r.learning)
    return { payload: 'Learning from scratch: ' + r.readings + ' of ' + r.of + ' readings, ' + r.minutes_left + ' min left.' };
  const warned = r.warnings && r.warnings.length > 0 ? ' See the warning at the top.' : '';
  return { payload: r.retrained ? 'Retrained on ' + r.samples_used + ' readings.' + warned : 'Not retrained: ' + r.reason + '.' };
}
