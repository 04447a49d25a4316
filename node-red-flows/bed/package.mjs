// The npm package, packed and installed as users do.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { temporaryFolder } from './process.mjs';

const here = fileURLToPath(new URL('..', import.meta.url));
const npm = (args, cwd) => execFileSync('npm', args, { cwd, encoding: 'utf8', shell: process.platform === 'win32' });

/** A folder of a user who has installed the package, and also modules that are installed here. */
export function userWithPackage(...others) {
  const folder = temporaryFolder('node-red');
  const packed = temporaryFolder('packed');
  npm(['pack', '--silent', '--pack-destination', packed], here);
  const [file] = readdirSync(packed);
  const modules = join(folder, 'node_modules');
  mkdirSync(modules);
  npm(['install', '--silent', '--no-audit', '--no-fund', '--offline', '--prefix', folder, join(packed, file)], folder);
  const require = createRequire(import.meta.url);
  for (const name of others) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(dirname(require.resolve(`${name}/package.json`)), join(modules, name), 'junction');
  }
  return folder;
}
