// A small MQTT broker for the tests and the demo, so that neither needs an installed one.
//   node broker.mjs --port 1883 [--cert FILE --key FILE] [--user NAME --password TEXT]
import { readFileSync } from 'node:fs';
import net from 'node:net';
import tls from 'node:tls';
import { parseArgs } from 'node:util';
import { Aedes } from 'aedes';

const text = { type: 'string' };
const { values: given } = parseArgs({
  options: { port: { type: 'string', default: '1883' }, cert: text, key: text, user: text, password: text },
});

const broker = await Aedes.createBroker({ concurrency: 1000 });
if (given.user) {
  broker.authenticate = (client, user, password, done) =>
    done(null, user === given.user && password?.toString() === given.password);
}
const server = given.cert
  ? tls.createServer({ cert: readFileSync(given.cert), key: readFileSync(given.key) }, broker.handle)
  : net.createServer(broker.handle);
server.listen(Number(given.port), '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
