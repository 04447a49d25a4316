export default function reportTheError({ msg }) {
  return { payload: msg.error.source.name + ': ' + msg.error.message };
}
