// Starts the release build of iforest-server, a new one for each test.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { start } from './process.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const program = process.platform === 'win32' ? 'iforest-server.exe' : 'iforest-server';

export function serverBinary() {
  const given = process.env.IFOREST_SERVER_BIN;
  if (given) return given;
  const built = `${root}target/release/${program}`;
  if (!existsSync(built)) {
    execFileSync('cargo', ['build', '--release', '--quiet'], { cwd: root, stdio: 'inherit' });
  }
  return built;
}

/** A fixed seed makes failures reproducible. */
export function startServer(port, ...args) {
  const given = ['--host', '127.0.0.1', '--port', String(port), '--store', 'memory:', '--random-state', '7'];
  return start(serverBinary(), [...given, ...args], {
    ready: /listening on/,
  });
}
