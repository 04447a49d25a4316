// The simulated PLC as a program of its own, and its folder, which goes with this process however the PLC ends.
import { fileURLToPath } from 'node:url';
import { start, temporaryFolder } from './process.mjs';

const program = fileURLToPath(new URL('./plc.mjs', import.meta.url));

export function startPlc(port, ...args) {
  const given = ['--port', String(port), '--folder', temporaryFolder('plc')];
  return start(process.execPath, [program, ...given, ...args], { ready: /listening on/ });
}
