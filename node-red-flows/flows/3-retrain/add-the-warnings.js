export default function addTheWarnings({ msg }) {
  // A server without named models, such as server.py, has no warnings.
  const body = msg.payload || {};
  const known = !msg.error && msg.statusCode === 200 && Array.isArray(body.warnings);
  return { payload: Object.assign({}, msg.result, { warnings: known ? body.warnings : [] }) };
}
