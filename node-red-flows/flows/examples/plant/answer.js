import { answerTopic } from '../../../lib/topic.js';

// Builds new messages: text, whole prediction and flag, each on the topic of its machine.
export default function answer({ msg, env }) {
  const { payload } = msg;
  const topic = answerTopic(env.get('READING_TOPIC'), env.get('ANSWER_TOPIC'), msg.topic);
  if (payload.state) return { topic: topic + '/state', payload };
  const whole = { topic: topic + '/json', payload };
  // A PLC must not act on a late flag.
  if (payload.late) return whole;
  return [[{ topic, payload: payload.status }, whole, { topic: topic + '/flag', payload: { value: payload.prediction === 1 } }]];
}
