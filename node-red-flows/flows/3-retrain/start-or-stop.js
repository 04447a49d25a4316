export default function startOrStop({ msg }) {
  // A retained command would start learning at every reconnection.
  if (msg.retain) return null;
  return { learn: String(msg.payload).trim().toLowerCase() === 'stop' ? 'stop' : 'start' };
}
