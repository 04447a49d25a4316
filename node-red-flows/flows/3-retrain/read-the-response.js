export default function readTheResponse({ msg }) {
  const body = msg.payload || {};
  // A proxy may answer in place of the server.
  const ok = !msg.error && msg.statusCode === 200 && Number.isInteger(body.samples_used);
  const unknown = msg.statusCode === 200 ? 'the response is not of iforest-server' : 'status ' + msg.statusCode;
  const reason = msg.error ? msg.error.message : body.error || unknown;
  const again = Boolean(msg.error) || msg.statusCode === 200 || !(msg.statusCode < 500);
  return { outcome: { why: msg.why, scratch: msg.scratch, ok, body, reason, again } };
}
