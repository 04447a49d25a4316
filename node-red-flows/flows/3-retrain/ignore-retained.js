export default function ignoreRetained({ msg }) {
  // A retained command would start a retraining at every reconnection.
  return msg.retain ? null : { retrain: 'by command' };
}
