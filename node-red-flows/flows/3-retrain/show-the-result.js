export default function showTheResult({ msg, node }) {
  const r = msg.payload;
  const result = { payload: Object.assign({ time: new Date().toISOString() }, r) };
  // Progress is published, but kept out of the debug sidebar.
  if (r.learning) {
    node.status({ fill: 'blue', shape: 'dot', text: 'learning from scratch: ' + r.readings + ' of ' + r.of + ' readings' });
    return [result, null];
  }
  const warnings = r.warnings || [];
  const text = r.retrained ? ['retrained on ' + r.samples_used + ' readings'].concat(warnings).join('; ') : 'not retrained: ' + r.reason;
  node.status({
    fill: r.retrained && warnings.length === 0 ? 'green' : 'yellow',
    shape: 'dot',
    text: new Date().toISOString().slice(0, 16) + ' ' + text,
  });
  return [result, result];
}
