// Starts the release build of iforest-server, a new one for each test.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, start } from './process.mjs';

const root = fileURLToPath(new URL('../../', import.meta.url));
const program = process.platform === 'win32' ? 'iforest-server.exe' : 'iforest-server';
/** Where cargo puts the program, whatever its own settings say. */
const built = join(root, 'target', 'release', program);
const BUILD = ['build', '--release', '--target-dir', 'target'];

export function serverBinary() {
  const given = process.env.IFOREST_SERVER_BIN;
  if (given) return given;
  if (!existsSync(built)) execFileSync('cargo', [...BUILD, '--quiet'], { cwd: root, stdio: 'inherit' });
  return built;
}

/** Whether the program must be built before it can start. */
export const mustBuild = () => !process.env.IFOREST_SERVER_BIN && !existsSync(built);

/** Builds the program, with cargo's own lines as progress. Resolves to how cargo failed, or to ''. */
export const build = () => run('cargo', BUILD, { cwd: root });

/** A fixed seed makes failures reproducible. */
export function startServer(port, ...args) {
  const given = ['--host', '127.0.0.1', '--port', String(port), '--store', 'memory:', '--random-state', '7'];
  return start(serverBinary(), [...given, ...args], {
    ready: /listening on/,
  });
}
