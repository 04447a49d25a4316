export default function storeTheModel({ msg, env, node, flow }) {
  const body = msg.payload || {};
  const ok = !msg.error && msg.statusCode === 200 && Number.isFinite(body.threshold);
  if (ok) {
    // A model with several features has no ranges, and older servers send no warnings.
    body.normal_ranges = body.normal_ranges || [];
    body.warnings = body.warnings || [];
    flow.set('server', { up: true, model: body, missing: '' });
    const warned = body.warnings.length > 0;
    node.status({ fill: warned ? 'yellow' : 'green', shape: 'dot', text: warned ? body.warnings.join('; ') : 'server online' });
  } else if (!msg.error && body.code === 'no_model') {
    // A model that is not trained yet is no outage.
    const [, name] = /^.*\/models\/(.+)$/.exec(env.get('IFOREST_URL')) || [null, 'default'];
    const missing = 'no model ' + name + ' yet';
    flow.set('server', { up: true, model: null, missing: missing });
    node.status({ fill: 'yellow', shape: 'ring', text: missing });
  } else {
    const before = flow.get('server') || {};
    flow.set('server', { up: false, model: before.model, missing: before.missing });
    node.status({ fill: 'red', shape: 'ring', text: 'server down' });
  }
  return null;
}
