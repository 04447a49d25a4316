export default function commandOnly() {
  // The button's own message contains the browser's address, which must not reach the broker.
  return { payload: 'retrain' };
}
