// The whole pipeline on this machine: server, broker, Node-RED with the flows, and the dashboard.
//
// Only what every Node.js has is imported first: what this one and the folder lack is said before the rest is loaded.
import { existsSync, readFileSync, statSync } from 'node:fs';

const HELP = `Starts iforest-server, an MQTT broker, and Node-RED with the flows and a simulated vibration, on this machine.

  npm run demo                                  a simulated signal
  npm run demo -- --plc                         a simulated PLC over OPC UA instead
  npm run demo -- --port 1880                   port of Node-RED; any free port by default
  npm run demo -- --picture docs/dashboard.png  run for a minute, save a picture, stop
  npm run demo -- --help                        this text

IFOREST_SERVER_BIN  path of the server's program; by default the one that cargo builds in the folder above
CHROMIUM            path of Chromium for --picture; by default the one on the PATH

Ctrl+C stops everything.`;
/** Milliseconds; at Ctrl+C a terminal also signals the programs, which may end before this process hears of it. */
const ENDING = 500;
const SEE_HELP = 'npm run demo -- --help shows the options';

/** What is wrong and what to do, in one line; the exit code is 2 where the demo was called wrongly. */
class Problem extends Error {
  constructor(message, code = 1) {
    super(message);
    this.code = code;
  }
}

const here = new URL('./', import.meta.url);
const packageFile = JSON.parse(readFileSync(new URL('package.json', here), 'utf8'));
/** The programs that run, the last one first. */
const running = [];
let stopping = false;

async function stop(code) {
  if (stopping) return;
  stopping = true;
  // A program that cannot be stopped this way is killed when this process exits.
  for (const program of running) await program.stop().catch(() => {});
  process.exit(code);
}

/** Ends the demo with one line; only an error that nobody foresaw shows where it is from. */
async function fail(error) {
  // Requests to a program that has just ended fail too: that it ended is the cause, and is known soon.
  if (!(error instanceof Problem)) await new Promise((resolve) => setTimeout(resolve, 2 * ENDING));
  if (stopping) return;
  const isForeseen = error instanceof Problem || error.syscall;
  console.error(isForeseen ? `demo: ${error.message.split('\n')[0]}` : error);
  await stop(error instanceof Problem ? error.code : 1);
}

function checkNode() {
  const needed = packageFile.engines.node.replace('>=', '');
  const [major, minor] = needed.split('.').map(Number);
  const [ownMajor, ownMinor] = process.versions.node.split('.').map(Number);
  if (ownMajor < major || (ownMajor === major && ownMinor < minor)) {
    throw new Problem(`Node.js ${process.versions.node} is too old: install Node.js ${needed} or newer from https://nodejs.org`);
  }
}

const isFile = (path) => existsSync(path) && statSync(path).isFile();

async function options() {
  const { parseArgs } = await import('node:util');
  const { dirname, extname } = await import('node:path');
  const flag = { type: 'boolean', default: false };
  const text = { type: 'string' };
  let given;
  try {
    given = parseArgs({ options: { plc: flag, help: flag, port: text, picture: text }, allowPositionals: true });
  } catch (error) {
    // Node.js continues with advice about positional arguments, which the demo has none of.
    throw new Problem(`${error.message.split(/\.\s/)[0].replace(/\.$/, '')}: ${SEE_HELP}`, 2);
  }
  const { values, positionals } = given;
  // npm takes an option before -- for itself and passes its value only.
  if (positionals.length > 0) {
    throw new Problem(`unexpected argument "${positionals[0]}": write options after --, as in npm run demo -- --port 1880`, 2);
  }
  const { port, picture } = values;
  if (port !== undefined && !(/^\d+$/.test(port) && port >= 1 && port <= 65_535)) {
    throw new Problem(`--port must be a number from 1 to 65535, got "${port}"`, 2);
  }
  if (picture !== undefined) {
    if (values.plc) throw new Problem('--picture takes the simulated signal: leave out --plc', 2);
    if (!['.png', '.jpg', '.jpeg'].includes(extname(picture))) {
      throw new Problem(`--picture must end with .png or .jpg, got "${picture}"`, 2);
    }
    if (!existsSync(dirname(picture))) {
      throw new Problem(`the folder of --picture ${picture} does not exist: create it, or name another`);
    }
  }
  return { ...values, port: port && Number(port) };
}

const notInstalled = (name) =>
  new Problem(`the packages of this folder are not all installed (${name} is missing): run npm ci in node-red-flows first`);

function checkPackages() {
  const missing = Object.keys(packageFile.devDependencies).find((name) => !existsSync(new URL(`node_modules/${name}/package.json`, here)));
  if (missing) throw notInstalled(missing);
}

async function checkPort(port) {
  const { createServer } = await import('node:net');
  const server = createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(port, '127.0.0.1', resolve)).catch((error) => {
    if (error.code === 'EADDRINUSE') {
      throw new Problem(`port ${port} is in use: stop the program that uses it, or choose another port with --port`);
    }
    if (error.code === 'EACCES') throw new Problem(`this user may not open port ${port}: choose a port from 1024 with --port`);
    throw error;
  });
  await new Promise((resolve) => server.close(resolve));
}

function findBrowser(findChromium) {
  const found = findChromium();
  if (!found) throw new Problem('--picture needs Chromium, which is not on the PATH: install it, or set CHROMIUM to its path');
  if (!isFile(found)) throw new Problem(`CHROMIUM is ${found}, which is no file: set it to the path of Chromium`);
  return found;
}

async function prepareServer({ mustBuild, build }) {
  const given = process.env.IFOREST_SERVER_BIN;
  if (given && !isFile(given)) {
    throw new Problem(`IFOREST_SERVER_BIN is ${given}, which is no file: set it to the path of iforest-server's program`);
  }
  if (!mustBuild()) return;
  console.log('building iforest-server with cargo build --release; this takes some minutes, but only once');
  const failure = await build();
  if (failure.includes('ENOENT')) {
    throw new Problem("cargo is not installed: install Rust from https://rustup.rs, or set IFOREST_SERVER_BIN to the server's program");
  }
  if (failure) throw new Problem(`cargo build ${failure}, so there is no server: its lines above say why`);
  console.log('built iforest-server');
}

/** The line of a log that says best why the program ended. */
function reasonIn(log) {
  const lines = log
    .split('\n')
    .map((line) => line.replace(/^.*? - \[\w+\] /, '').trim())
    // What Node.js prints around the message of an error.
    .filter((line) => /\w/.test(line) && !/^(at |node:|file:|Node\.js v\d|throw )/.test(line));
  const reason =
    // Before the message of an error Node.js prints the line of code that threw it.
    lines.find((line) => /^\w*Error:/.test(line)) ??
    lines.find((line) => /error|cannot|unable|unsupported|not found|denied/i.test(line)) ??
    lines.at(-1);
  return reason ? `: ${reason}` : ', and printed nothing';
}

/** What to do where a program does not start. */
const ADVICE = {
  'iforest-server': process.env.IFOREST_SERVER_BIN
    ? "check that IFOREST_SERVER_BIN is iforest-server's program for this machine"
    : 'build it again with cargo build --release in the folder above',
  'Node-RED': 'check with node --version that it runs on this Node.js, and install it again with npm ci',
};

async function run(given) {
  const modules = ['brokers', 'chromium', 'node-red', 'plcs', 'process', 'server'].map((name) => import(`./bed/${name}.mjs`));
  const [brokers, chromium, bed, plcs, processes, server] = await Promise.all(modules);
  const { local, nodeNamed, readFlow, withSettings } = bed;
  const { freePort, sleep, StartError } = processes;

  const started = async (name, address, starting) => {
    let program;
    try {
      program = await starting;
    } catch (error) {
      if (!(error instanceof StartError)) throw error;
      const reason = error.log || !error.why.startsWith('cannot') ? reasonIn(error.log) : '';
      throw new Problem(`${name} ${error.why}${reason}; ${ADVICE[name] ?? 'install the packages again with npm ci'}`);
    }
    // Where the demo is already stopping, the process ends, and its children with it.
    running.unshift(program);
    console.log(`started ${name} on ${address}`);
    (program.program ?? program).ended?.then(async (how) => {
      await sleep(ENDING);
      if (!stopping) fail(new Problem(`${name} ${how}, so everything is stopped; start the demo again`));
    });
    return program;
  };

  if (given.port) await checkPort(given.port);
  const executable = given.picture && findBrowser(chromium.findChromium);
  await prepareServer(server);
  let browser;
  if (given.picture) {
    // Without these options it would end this process at Ctrl+C before the others are stopped.
    const signals = { handleSIGINT: false, handleSIGTERM: false, handleSIGHUP: false };
    browser = await chromium.launch(executable, signals).catch((error) => {
      throw new Problem(
        `Chromium cannot be started (${error.message.split('\n')[0]}): set CHROMIUM to the path of a Chromium that runs here`,
      );
    });
    running.unshift({ stop: () => browser.close() });
  }
  const [serverPort, brokerPort, plcPort] = [await freePort(), await freePort(), await freePort()];
  await started('iforest-server', `http://127.0.0.1:${serverPort}`, server.startServer(serverPort));
  await started('an MQTT broker', `mqtt://127.0.0.1:${brokerPort}`, brokers.aedes.start(brokerPort));
  if (given.plc) {
    await started('a simulated PLC', `opc.tcp://127.0.0.1:${plcPort}`, plcs.startPlc(plcPort));
  }
  const nodeRedPort = given.port ?? (await freePort());
  console.log('starting Node-RED; this takes some seconds');
  let isUp = false;
  const hear = (chunk) => {
    if (isUp) return;
    const steps = chunk.matchAll(/(?:Node-RED version|Loading palette|Starting flows|Started flows).*/g);
    for (const [step] of steps) console.log(`  ${step.trim()}`);
  };
  const env = { ...local(brokerPort, serverPort), SIMULATE_FAULTS: String(!given.picture), OPCUA_URL: `opc.tcp://127.0.0.1:${plcPort}` };
  const nodeRed = await started('Node-RED', `http://127.0.0.1:${nodeRedPort}`, bed.startNodeRed(env, { port: nodeRedPort, hear }));
  isUp = true;
  console.log('deploying the flows');
  await nodeRed.deploy(
    readFlow('1-try-it.json'),
    readFlow('2-mqtt-bridge.json'),
    // New users press the button within the first minute, before there are 200 readings.
    withSettings(readFlow('3-retrain.json'), { RETRAIN_MIN: 50 }),
    readFlow('4-dashboard.json'),
    readFlow(given.plc ? '5-plc-opcua.json' : '6-signal-simulator.json'),
  );
  console.log(`
Open the dashboard:  ${nodeRed.url}/dashboard/vibration
and the flows:       ${nodeRed.url}/
Stop with Ctrl+C.`);

  if (given.picture) {
    console.log('\nthe picture takes a minute');
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    await page.goto(`${nodeRed.url}/dashboard/vibration`);
    const press = (name) => nodeRed.inject(nodeNamed(readFlow('6-signal-simulator.json'), name, 'inject').id);
    await sleep(15_000);
    await press('spike');
    await sleep(12_000);
    await press('dropout');
    await sleep(10_000);
    await press('drift');
    await sleep(19_000);
    await page.screenshot({ path: given.picture });
    console.log(`saved ${given.picture}`);
    await stop(0);
  }
}

process.on('uncaughtException', fail);
process.on('unhandledRejection', fail);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(0));

try {
  checkNode();
  const given = await options();
  if (given.help) {
    console.log(HELP);
  } else {
    checkPackages();
    await run(given).catch((error) => {
      const name = /Cannot find package '([^']+)'|node_modules[/\\]([^/\\']+)/.exec(error.message);
      throw error.code === 'ERR_MODULE_NOT_FOUND' && name ? notInstalled(name[1] ?? name[2]) : error;
    });
  }
} catch (error) {
  fail(error);
}
