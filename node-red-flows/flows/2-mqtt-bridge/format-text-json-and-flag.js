// Builds new messages: the reading's retain flag and MQTT 5 properties must not be passed on. HiveMQ Edge
// treats a message with its own hop count as a loop and drops it.
export default function formatTextJsonAndFlag({ msg }) {
  const { prediction, reading, late } = msg;
  const whole = { ...prediction, timestamp: reading.timestamp };
  if (reading.tagName) whole.tagName = reading.tagName;
  // A PLC must not act on a late flag.
  if (late) return [null, { payload: { ...whole, late: true } }, null];
  return [{ payload: prediction.status }, { payload: whole }, { payload: { value: prediction.prediction === 1 } }];
}
