// Child processes, stopped by their process id however the test ends.
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
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

/** Below those that systems give to connections of their own, one of which may hold a port when a program is to listen there. */
const PORTS = { first: 11_000, end: 16_000 };
const givenPorts = new Set();

/** A loopback port on which nothing listens, another one each time. */
export async function freePort() {
  while (givenPorts.size < PORTS.end - PORTS.first) {
    const port = randomInt(PORTS.first, PORTS.end);
    if (givenPorts.has(port)) continue;
    givenPorts.add(port);
    const server = createServer();
    const isFree = await new Promise((resolve) => {
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => resolve(true));
    });
    if (!isFree) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
  throw new Error(`no port from ${PORTS.first} to ${PORTS.end - 1} is free`);
}

/** A program that did not start: `why` in a few words, and what it printed. */
export class StartError extends Error {
  constructor(command, why, log) {
    super(`${command} ${why}:\n${log}`);
    Object.assign(this, { command, why, log });
  }
}

const ending = (code, signal) => (code === null ? `was ended by ${signal}` : `ended with code ${code}`);

/**
 * Starts a program and waits until its output matches `ready`. `hear` gets each chunk of its output. The result's `ended` resolves
 * to how it ended, in words.
 */
export async function start(command, args, { ready, env = {}, seconds = 60, hear }) {
  const child = spawn(command, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  const gone = new Promise((resolve) => child.once('exit', (code, signal) => resolve(ending(code, signal))));
  gone.then(() => running.delete(child));
  const program = {
    pid: child.pid,
    log: '',
    ended: gone,
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      const timer = setTimeout(() => child.kill('SIGKILL'), 10_000);
      await gone;
      clearTimeout(timer);
    },
  };
  await new Promise((resolve, reject) => {
    const giveUp = (why) => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new StartError(command, why, program.log));
    };
    const timer = setTimeout(() => giveUp(`was not ready in ${seconds} s`), seconds * 1000);
    const take = (chunk) => {
      program.log += chunk;
      hear?.(chunk);
      if (ready.test(program.log)) {
        clearTimeout(timer);
        resolve();
      }
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    child.once('error', (error) => giveUp(`cannot be started (${error.code ?? error.message})`));
    // All that it printed arrives before "close", not before "exit".
    child.once('close', (code, signal) => giveUp(ending(code, signal)));
  });
  return program;
}

/** Runs a program to its end, with its output on this terminal. Resolves to how it ended, or to '' where it succeeded. */
export function run(command, args, { cwd }) {
  // A group of its own, so that the programs which it starts end with it.
  const isGroup = process.platform !== 'win32';
  const child = spawn(command, args, { cwd, stdio: ['ignore', 'inherit', 'inherit'], detached: isGroup });
  const one = {
    kill(signal) {
      try {
        if (isGroup && child.pid) process.kill(-child.pid, signal);
        else child.kill(signal);
      } catch (error) {
        if (error.code !== 'ESRCH') throw error;
      }
    },
  };
  running.add(one);
  return new Promise((resolve) => {
    const done = (how) => {
      running.delete(one);
      resolve(how);
    };
    child.once('error', (error) => done(`cannot be started (${error.code ?? error.message})`));
    child.once('exit', (code, signal) => done(code === 0 ? '' : ending(code, signal)));
  });
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
