// The line between two programs, which can be cut.
import net from 'node:net';
import { freePort } from './process.mjs';

/** Forwards connections to a loopback port. `cut` ends them all and takes no new ones until `mend`. */
export async function startLine(target) {
  const port = await freePort();
  const sockets = new Set();
  const server = net.createServer((near) => {
    const far = net.connect(target, '127.0.0.1');
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.pipe(other);
      one.on('error', () => {}).on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  const mend = () => new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
  const cut = async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  await mend();
  return { port, cut, mend, stop: () => (server.listening ? cut() : undefined) };
}
