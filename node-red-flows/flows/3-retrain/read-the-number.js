import { readPayload } from '../../lib/reading.js';

export default function readTheNumber({ msg, env }) {
  // With a wildcard in READING_TOPIC this flow receives its own messages. A retained reading may be days old.
  const own = [env.get('LEARN_TOPIC').replace(/\/json$/, ''), env.get('RETRAIN_TOPIC')];
  if (msg.retain || own.some((topic) => msg.topic === topic || msg.topic.startsWith(topic + '/'))) return null;
  const { reading } = readPayload(msg.payload, Date.now());
  return { value: reading ? reading.value : null };
}
