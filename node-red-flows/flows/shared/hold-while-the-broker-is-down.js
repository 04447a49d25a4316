// Predictions of readings that wait would have nowhere to go.
export default function holdWhileTheBrokerIsDown({ msg }) {
  return { connected: msg.status.fill === 'green' };
}
