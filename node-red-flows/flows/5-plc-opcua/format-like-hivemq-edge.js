export default function formatLikeHivemqEdge({ msg, env, node, context }) {
  // The OPC UA node also sends the number of its subscription, which is no reading.
  if (msg.topic !== env.get('OPCUA_READING')) return null;

  // The two highest bits of a status: 0 is good, 1 uncertain, 2 and 3 bad. Only good values are current measurements.
  const status = msg.statusCode;
  const good = !status || status.value >>> 30 === 0;
  const quality = good ? 'Good' : status.name || String(status.value);
  const changed = quality !== (context.get('quality') || 'Good');
  context.set('quality', quality);
  if (changed) {
    node.warn(good ? "the PLC's readings are good again" : 'the PLC reports ' + quality + ': readings are left out until they are good');
    node.status({ fill: good ? 'green' : 'yellow', shape: good ? 'dot' : 'ring', text: quality });
  }
  const reading = { value: msg.payload, timestamp: new Date(msg.sourceTimestamp).getTime() || Date.now(), tagName: 'rVib' };
  if (good) return typeof reading.value === 'number' ? { payload: reading } : null;
  // Same message as for a tag without a value, sent once per change of quality.
  reading.value = null;
  reading.quality = quality;
  return changed ? { payload: reading } : null;
}
