export default function readTheResponse({ msg }) {
  const body = msg.payload || {};
  const reason = msg.error ? msg.error.message : body.error || 'status ' + msg.statusCode;
  const again = Boolean(msg.error) || !(msg.statusCode < 500);
  return { outcome: { why: msg.why, scratch: msg.scratch, ok: !msg.error && msg.statusCode === 200, body, reason, again } };
}
