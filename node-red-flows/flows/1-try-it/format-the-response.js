export default function formatTheResponse({ msg }) {
  const body = msg.payload || {};
  if (!msg.error && msg.statusCode === 200) {
    return { payload: body, summary: body.input_value + ': ' + body.status };
  }
  const reason = msg.error ? msg.error.message : body.error || 'status ' + msg.statusCode;
  return { payload: 'Request failed: ' + reason, summary: 'request failed: ' + reason };
}
