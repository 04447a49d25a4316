// Runs the simulated PLC as a process. This process removes its folder, also if the PLC is killed.
import { fileURLToPath } from 'node:url';
import { start, temporaryFolder } from './process.mjs';

const program = fileURLToPath(new URL('./plc.mjs', import.meta.url));

export function startPlc(port, ...args) {
  const given = ['--port', String(port), '--folder', temporaryFolder('plc')];
  return start(process.execPath, [program, ...given, ...args], { ready: /listening on/ });
}
