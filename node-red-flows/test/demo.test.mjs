// The demo as users run it: each thing that can be missing is one line that says what to do, and nothing keeps running.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { freePort, sleep, temporaryFolder, until } from '../bed/process.mjs';
import { notRun } from '../bed/report.mjs';
import { serverBinary } from '../bed/server.mjs';

const folder = fileURLToPath(new URL('..', import.meta.url));
const seesProcesses = process.platform === 'linux';
if (!seesProcesses) notRun('that the demo leaves no programs behind', 'the test reads /proc, which only Linux has');

/** The environment, with the paths of another Node-RED as seen from any folder. */
const inherited = { ...process.env };
for (const name of ['NODE_RED_DIR', 'NODE_RED_NODE']) if (inherited[name]) inherited[name] = resolve(inherited[name]);

/** Runs the demo. Its programs inherit a mark in their environment, by which the test finds them. */
function demo(args = [], { cwd = folder, env = {}, command = [process.execPath, 'demo.mjs'] } = {}) {
  const mark = randomUUID();
  const [program, ...rest] = command;
  const child = spawn(program, [...rest, ...args], {
    cwd,
    env: { ...inherited, IFOREST_SERVER_BIN: serverBinary(), ...env, DEMO_TEST: mark },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own, as a terminal makes one, so that Ctrl+C can be sent to all of it.
    detached: true,
  });
  const result = { child, out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (chunk) => (result.out += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk) => (result.err += chunk));
  const timer = setTimeout(() => process.kill(-child.pid, 'SIGKILL'), 90_000);
  result.ended = new Promise((resolve) => child.once('close', (code) => resolve({ ...result, code }))).finally(() => clearTimeout(timer));
  /** The programs of this demo that still run, as `{ pid, command }`. */
  result.programs = () => {
    if (!seesProcesses) return [];
    const found = [];
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        if (!readFileSync(`/proc/${pid}/environ`, 'utf8').includes(`DEMO_TEST=${mark}`)) continue;
        found.push({ pid: Number(pid), command: readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ') });
      } catch {
        // It has ended meanwhile, or belongs to somebody else.
      }
    }
    return found;
  };
  return result;
}

/** Runs the demo to its end, and expects one line, no stack trace, and no programs left. */
async function fails(expected, { code = 1, args, ...how }) {
  const run = demo(args, how);
  const { code: got, err, out } = await run.ended;
  const lines = err.split('\n').filter((line) => line !== '');
  assert.equal(lines.length, 1, `one line: ${err}\n${out}`);
  assert.match(lines[0], /^demo: /);
  assert.match(lines[0], expected);
  assert.ok(!/^\s+at /m.test(err + out), 'no stack trace');
  assert.equal(got, code);
  assert.deepEqual(run.programs(), []);
  return out;
}

/** A copy of the folder, in one that is removed; `modules` links its packages. */
function copy({ modules = false } = {}) {
  const root = temporaryFolder('demo-copy');
  const copied = join(root, 'node-red-flows');
  cpSync(folder, copied, { recursive: true, filter: (path) => !/[/\\](node_modules|node-red-5|test)$/.test(path) });
  if (modules) symlinkSync(join(folder, 'node_modules'), join(copied, 'node_modules'), 'junction');
  return copied;
}

/** A program for sh. */
function script(name, text) {
  const path = join(temporaryFolder('demo-script'), name);
  writeFileSync(path, `#!/bin/sh\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

describe('the demo', () => {
  before(() => serverBinary());

  test('it shows its options', async () => {
    const { code, out, err } = await demo(['--help']).ended;
    assert.deepEqual([code, err], [0, '']);
    for (const option of ['--plc', '--port', '--picture', '--help', 'IFOREST_SERVER_BIN', 'CHROMIUM'])
      assert.ok(out.includes(option), option);
    // Also where nothing is installed yet.
    assert.equal((await demo(['--help'], { cwd: copy() }).ended).code, 0);
  });

  for (const [args, expected] of [
    [['--prot', '1880'], /Unknown option '--prot': npm run demo -- --help shows the options$/],
    [['--port'], /'--port <value>' argument missing: /],
    [['--port', 'many'], /--port must be a number from 1 to 65535, got "many"$/],
    [['--port', '70000'], /got "70000"$/],
    [['--port', '0'], /got "0"$/],
    // What is left of `npm run demo --port 1880`.
    [['1880'], /unexpected argument "1880": write options after --, as in npm run demo -- --port 1880$/],
    [['--picture', 'page.gif'], /must end with \.png or \.jpg, got "page\.gif"$/],
    [['--picture', 'page.png', '--plc'], /leave out --plc$/],
  ]) {
    test(`wrong use: ${args.join(' ')}`, () => fails(expected, { args, code: 2 }));
  }

  test('Node.js is too old', async () => {
    const cwd = copy();
    const file = join(cwd, 'package.json');
    const content = JSON.parse(readFileSync(file, 'utf8'));
    writeFileSync(file, JSON.stringify({ ...content, engines: { node: '>=99.1' } }));
    await fails(/Node\.js \d+\.\d+\.\d+ is too old: install Node\.js 99\.1 or newer/, { cwd });
  });

  test('the packages are not installed', async () => {
    await fails(/the packages of this folder are not all installed \(.+ is missing\): run npm ci/, { cwd: copy() });
  });

  test('packages are there only in part', async () => {
    const cwd = copy();
    // All are there by name, and none has its content.
    for (const name of Object.keys(JSON.parse(readFileSync(join(cwd, 'package.json'), 'utf8')).devDependencies)) {
      mkdirSync(join(cwd, 'node_modules', name), { recursive: true });
      writeFileSync(join(cwd, 'node_modules', name, 'package.json'), '{"exports":"./index.js"}');
    }
    await fails(/not all installed \(.+ is missing\): run npm ci/, { cwd });
  });

  test('the port is in use', async () => {
    const other = createServer();
    await new Promise((resolve) => other.listen(0, '127.0.0.1', resolve));
    const { port } = other.address();
    try {
      const out = await fails(new RegExp(`port ${port} is in use: stop .+ or choose another port with --port$`), {
        args: ['--port', String(port)],
      });
      assert.equal(out, '', 'nothing was started in vain');
    } finally {
      other.close();
    }
  });

  test("the server's program does not exist", async () => {
    await fails(/IFOREST_SERVER_BIN is \/none\/server, which is no file: set it to/, { env: { IFOREST_SERVER_BIN: '/none/server' } });
    await fails(/which is no file/, { env: { IFOREST_SERVER_BIN: folder } });
  });

  test("the server's program cannot start", { skip: process.platform === 'win32' }, async () => {
    const refused = join(temporaryFolder('demo-server'), 'server');
    writeFileSync(refused, '');
    await fails(/iforest-server cannot be started \(EACCES\); check that IFOREST_SERVER_BIN/, { env: { IFOREST_SERVER_BIN: refused } });
    const ends = script('server', 'echo starting; echo "ERROR cannot open the store" >&2; exit 3');
    await fails(/iforest-server ended with code 3: ERROR cannot open the store; check/, { env: { IFOREST_SERVER_BIN: ends } });
    await fails(/iforest-server ended with code 4, and printed nothing; check/, {
      env: { IFOREST_SERVER_BIN: script('server', 'exit 4') },
    });
  });

  // Server and broker run by then.
  test('Node-RED ends while it starts', async () => {
    const other = temporaryFolder('demo-node-red');
    writeFileSync(join(other, 'red.js'), "console.log('Welcome'); throw new Error('Unsupported version of Node.js');");
    const out = await fails(/Node-RED ended with code 1: Error: Unsupported version of Node\.js; check with node --version/, {
      env: { NODE_RED_DIR: other },
    });
    assert.match(out, /started iforest-server on .*\nstarted an MQTT broker on .*\nstarting Node-RED; this takes some seconds\n/);
  });

  test('Chromium is missing or cannot start', { skip: process.platform === 'win32' }, async () => {
    const args = ['--picture', join(temporaryFolder('demo-picture'), 'page.png')];
    await fails(/--picture needs Chromium, .+ install it, or set CHROMIUM/, { args, env: { CHROMIUM: '', PATH: '/none' } });
    await fails(/CHROMIUM is \/none\/chromium, which is no file/, { args, env: { CHROMIUM: '/none/chromium' } });
    await fails(/Chromium cannot be started \(.+\): set CHROMIUM to/, { args, env: { CHROMIUM: script('chromium', 'exit 1') } });
  });

  test('the folder of the picture is missing', () =>
    fails(/the folder of --picture \/none\/page\.png does not exist: create it/, { args: ['--picture', '/none/page.png'] }));

  describe('without a built server', { skip: process.platform === 'win32' }, () => {
    const withCargo = (text) => ({
      cwd: copy({ modules: true }),
      env: { IFOREST_SERVER_BIN: '', PATH: `${join(script('cargo', text), '..')}:${process.env.PATH}` },
    });

    test('cargo is missing', async () => {
      const out = await fails(/cargo is not installed: install Rust from https:\/\/rustup\.rs, or set IFOREST_SERVER_BIN/, {
        cwd: copy({ modules: true }),
        env: { IFOREST_SERVER_BIN: '', PATH: '/none' },
      });
      assert.match(out, /^building iforest-server with cargo build --release; this takes some minutes/);
    });

    test('the build fails', async () => {
      const run = demo([], withCargo('echo "   Compiling iforest-server" >&2; echo "error: no space" >&2; exit 101'));
      const { code, err } = await run.ended;
      assert.equal(code, 1);
      assert.equal(
        err,
        '   Compiling iforest-server\nerror: no space\ndemo: cargo build ended with code 101, so there is no server: its lines above say why\n',
      );
      assert.deepEqual(run.programs(), []);
    });

    // Minutes without a line look like a program that hangs.
    test("cargo's lines come as it prints them, and Ctrl+C ends the build", async () => {
      const run = demo([], withCargo('echo "   Compiling the first" >&2; sleep 600 & wait'));
      await until(() => run.err.includes('Compiling the first'), "cargo's line");
      if (seesProcesses) await until(() => run.programs().some(({ command }) => command.startsWith('sleep')), 'a program of cargo');
      run.child.kill('SIGINT');
      assert.equal((await run.ended).code, 0);
      await until(() => run.programs().length === 0, 'all to end');
    });

    test('the built server is used', async () => {
      const how = withCargo(`mkdir -p target/release && ln -s '${serverBinary()}' target/release/iforest-server`);
      const run = demo([], how);
      await until(
        () => run.out.includes('Stop with Ctrl+C.'),
        () => `the dashboard: ${run.out}${run.err}`,
        60,
      );
      assert.match(run.out, /^building .*\nbuilt iforest-server\nstarted iforest-server on /);
      // As a terminal sends Ctrl+C: to the demo and all its programs.
      process.kill(-run.child.pid, 'SIGINT');
      const { code, err } = await run.ended;
      assert.deepEqual([code, err], [0, '']);
      assert.deepEqual(run.programs(), []);
    });
  });

  // As the README has it.
  test('it runs until Ctrl+C', { skip: process.platform === 'win32' }, async () => {
    assert.match(readFileSync(join(folder, 'README.md'), 'utf8'), /^ {4}npm ci\n {4}npm run demo$/m);
    const port = await freePort();
    const run = demo(['--', '--port', String(port)], { command: ['npm', 'run', 'demo'] });
    const url = `http://127.0.0.1:${port}`;
    await until(
      () => run.out.includes('Stop with Ctrl+C.'),
      () => `the dashboard: ${run.out}${run.err}`,
      60,
    );
    for (const line of ['starting Node-RED; this takes some seconds', '  Loading palette nodes', `started Node-RED on ${url}`]) {
      assert.ok(run.out.split('\n').includes(line), `${line}: ${run.out}`);
    }
    assert.ok(run.out.includes(`Open the dashboard:  ${url}/dashboard/vibration\n`));
    assert.equal((await fetch(`${url}/dashboard/vibration`)).status, 200);
    process.kill(-run.child.pid, 'SIGINT');
    // npm ends by the signal itself, whatever the demo's code.
    assert.equal((await run.ended).err, '');
    await until(() => run.programs().length === 0, 'all to end');
  });

  test('Ctrl+C while it starts', async () => {
    const run = demo();
    await until(() => run.out.includes('starting Node-RED'), 'the start', 60);
    await sleep(300);
    run.child.kill('SIGINT');
    const { code, err } = await run.ended;
    assert.deepEqual([code, err], [0, '']);
    await until(() => run.programs().length === 0, 'all to end');
  });

  test('a program ends while the demo runs', { skip: !seesProcesses }, async () => {
    const run = demo();
    await until(
      () => run.out.includes('Stop with Ctrl+C.'),
      () => `the dashboard: ${run.out}${run.err}`,
      60,
    );
    process.kill(run.programs().find(({ command }) => command.includes('--random-state')).pid, 'SIGKILL');
    const { code, err } = await run.ended;
    assert.equal(err, 'demo: iforest-server was ended by SIGKILL, so everything is stopped; start the demo again\n');
    assert.equal(code, 1);
    assert.deepEqual(run.programs(), []);
  });
});
