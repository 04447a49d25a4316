export default function tagToRead({ env }) {
  return { topic: env.get('OPCUA_READING') };
}
