export default function vibration({ msg, env, node, context }) {
  // Length of each fault in ticks.
  const LENGTH = { spike: 3, drift: 100, dropout: 15, healthy: 0 };
  const s = context.get('signal') || { mode: 'healthy', left: 0 };

  function begin(mode) {
    s.mode = mode;
    s.left = LENGTH[mode];
  }

  if (msg.mode) {
    begin(msg.mode);
    context.set('signal', s);
    return null;
  }
  if (s.left === 0) {
    s.mode = 'healthy';
    // Five ticks a second: about one fault in fifteen seconds.
    if (env.get('SIMULATE_FAULTS') !== 'false' && Math.random() < 1 / 75) {
      begin(['spike', 'spike', 'drift', 'dropout'][Math.floor(Math.random() * 4)]);
    }
  }
  let value = 2.4 + 1.2 * (Math.random() + Math.random() - 1);
  if (s.mode === 'spike') value += 6;
  if (s.mode === 'drift') value += 6 * (1 - s.left / LENGTH.drift);
  if (s.mode === 'dropout') value = null;
  s.left = Math.max(0, s.left - 1);
  context.set('signal', s);
  if (s.shown !== s.mode) node.status({ fill: s.mode === 'healthy' ? 'green' : 'red', shape: 'dot', text: s.mode });
  s.shown = s.mode;
  return { payload: { value: value === null ? null : Number(value.toFixed(3)), timestamp: Date.now(), tagName: 'rVib' } };
}
