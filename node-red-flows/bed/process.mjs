// Child processes, stopped by their process id however the test ends.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const running = new Set();
process.setMaxListeners(0);
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** A folder that is removed when this process exits. */
export function temporaryFolder(name) {
  const folder = mkdtempSync(join(tmpdir(), `iforest-${name}-`));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A loopback port that was free a moment ago. */
export async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts a program and waits until its output matches `ready`. */
export async function start(command, args, { ready, env = {}, seconds = 60 }) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  const gone = new Promise((resolve) => child.once('exit', resolve)).then(() => running.delete(child));
  const program = {
    pid: child.pid,
    log: '',
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await gone;
      clearTimeout(timer);
    },
  };
  await new Promise((resolve, reject) => {
    const giveUp = (why) => {
      child.kill('SIGKILL');
      reject(new Error(`${command} ${why}:\n${program.log}`));
    };
    const timer = setTimeout(() => giveUp(`was not ready in ${seconds} s`), seconds * 1000);
    const hear = (chunk) => {
      program.log += chunk;
      if (ready.test(program.log)) {
        clearTimeout(timer);
        resolve();
      }
    };
    child.stdout.setEncoding('utf8').on('data', hear);
    child.stderr.setEncoding('utf8').on('data', hear);
    child.once('error', (error) => giveUp(error.message));
    child.once('exit', (code) => giveUp(`ended with ${code}`));
  });
  return program;
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until `check` returns a truthy value, and returns it. */
export async function until(check, what, seconds = 20) {
  const end = Date.now() + seconds * 1000;
  for (;;) {
    const result = await check();
    if (result) return result;
    if (Date.now() > end) throw new Error(`waited ${seconds} s for ${typeof what === 'function' ? what() : what}`);
    await sleep(25);
  }
}
