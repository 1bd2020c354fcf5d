import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseDocument } from 'yaml';
import { projectRoot, runFairlead } from '../../lab/child-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';

// The configuration that users and other checks rely on, as it was agreed.
const contract = `
listen: { grpc: 127.0.0.1:9002, admin: 127.0.0.1:9003 }
state:  { kind: memory }
affinity: { secret: "one per fleet" }
facts:
  model:   [{ header: x-model }, { body: model }]
  session: [{ header: x-session-id }, { cookie: fairlead-session }, { body: prompt_cache_key }, { body: user }]
  tenant:  [{ header: x-tenant-id }]
outputs: { clusterHeader: x-fairlead-cluster, endpointHeader: x-gateway-destination-endpoint }
pools:
  - name: chat
    cluster: chat
    policy: { preset: session-affinity }
    endpoints: [{ address: "127.0.0.1:18001", weight: 1, labels: { region: eu } }]
routes:
  - { match: { model: "*" }, targets: [{ pool: chat, weight: 100 }] }
`;

let folder: string;
let files = 0;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-cli-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function fileOf(text: string): Promise<string> {
  files += 1;
  const file = path.join(folder, `${files}.yaml`);
  await writeFile(file, text);
  return file;
}

interface Outcome {
  readonly code: number | NodeJS.Signals;
  readonly output: string;
}

/** Runs a command to its end; a command that does not end by itself in time is stopped, and its exit code then is a signal. */
async function run(...args: string[]): Promise<Outcome> {
  const child = runFairlead(args);
  const timer = setTimeout(() => child.signal('SIGKILL'), 20_000);
  const code = await child.ended;
  clearTimeout(timer);
  return { code, output: child.log() };
}

/** A place in a configuration and what to write there; undefined takes it out. */
type Edit = readonly [at: readonly (string | number)[], value: unknown];

/** The contract's configuration after some edits, mostly mistakes. */
async function edited(...edits: readonly Edit[]): Promise<string> {
  const document = parseDocument(contract);
  for (const [at, value] of edits) {
    if (value === undefined) document.deleteIn(at);
    else document.setIn(at, document.createNode(value));
  }
  return fileOf(document.toString());
}

// Each run starts a process of its own: several at a time.
describe.concurrent('check', () => {
  it.each([
    ["the contract's configuration", (): Promise<string> => fileOf(contract)],
    ['one of pools alone', (): Promise<string> => fileOf('pools: [{ name: chat, endpoints: [{ address: "127.0.0.1:18001" }, { address: "[::1]:18001" }] }]')],
    ['the example that ships', (): Promise<string> => Promise.resolve(path.join(projectRoot, 'fairlead.example.yaml'))],
  ])('accepts %s', async (_title, file) => {
    const { code, output } = await run('check', '--config', await file());
    expect(output).toContain(': ok (pools: 1');
    expect(code).toBe(0);
  });

  const endpoint = ['pools', 0, 'endpoints', 0] as const;
  const policy = ['pools', 0, 'policy'] as const;
  const pool = { name: 'chat', endpoints: [{ address: '127.0.0.1:18002' }] };
  const mistakes: readonly [title: string, edits: readonly Edit[], problems: readonly RegExp[]][] = [
    ['an unknown field', [[['lisen'], {}]], [/^ {2}lisen: unknown field$/m]],
    ['an unknown field deep inside', [[[...endpoint, 'wieght'], 2]], [/^ {2}pools\[0\]\.endpoints\[0\]\.wieght: unknown field$/m]],
    ['a host name for an endpoint', [[[...endpoint, 'address'], 'gpu-1:8000']], [/^ {2}pools\[0\]\.endpoints\[0\]\.address: expected ip:port/m]],
    ['no pools', [[['pools'], undefined]], [/^ {2}pools: /m]],
    ['a pool without endpoints', [[['pools', 0, 'endpoints'], []]], [/^ {2}pools\[0\]\.endpoints: expected at least one endpoint/m]],
    ['an endpoint twice', [[['pools', 0, 'endpoints', 1], { address: '127.0.0.1:18001' }]], [/^ {2}pools\[0\]\.endpoints\[1\]\.address: /m]],
    ['two pools of one name', [[['pools', 1], pool]], [/^ {2}pools\[1\]\.name: /m]],
    ['an unknown preset', [[[...policy, 'preset'], 'fastest']], [/^ {2}pools\[0\]\.policy\.preset: .*fastest.*session-affinity/m]],
    ['an unknown parameter', [[[...policy, 'parameters'], { bond: 2 }]], [/^ {2}pools\[0\]\.policy\.parameters\.bond: /m]],
    ['a bound below 1', [[[...policy, 'parameters'], { bound: 0.5 }]], [/^ {2}pools\[0\]\.policy\.parameters\.bound: /m]],
    ['an unknown strategy', [[policy, { picker: 'lottery' }]], [/^ {2}pools\[0\]\.policy\.picker\.type: .*lottery/m]],
    ['a route to nowhere', [[['routes', 0, 'targets', 0, 'pool'], 'chta']], [/^ {2}routes\[0\]\.targets\[0\]\.pool: .*chta.*chat/m]],
    ['a header in capitals', [[['facts', 'model'], [{ header: 'X-Model' }]]], [/^ {2}facts\.model\[0\].*: .*lower case/m]],
    ['one header for both outputs', [[['outputs', 'clusterHeader'], 'x-gateway-destination-endpoint']], [/^ {2}outputs\.clusterHeader: /m]],
    ['a port that is none', [[['listen', 'grpc'], '127.0.0.1:99999']], [/^ {2}listen\.grpc: expected host:port/m]],
    ['an empty secret', [[['affinity', 'secret'], '']], [/^ {2}affinity\.secret: /m]],
    ['a secret file that is not there', [[['affinity'], { secretFile: 'none' }]], [/^ {2}affinity\.secretFile: cannot be read/m]],
    ['a state of no known kind', [[['state'], { kind: 'postgres' }]], [/^ {2}state\.kind: /m]],
    ['shared state without a shared secret', [[['state'], { kind: 'redis' }], [['affinity'], undefined]], [/^ {2}affinity\.secret: /m]],
    [
      'several at once',
      [[['lisen'], {}], [[...endpoint, 'address'], 'nowhere'], [['log'], { level: 'loud' }]],
      [/^.*: 3 problems$/m, /^ {2}lisen: /m, /^ {2}pools\[0\]\.endpoints\[0\]\.address: /m, /^ {2}log\.level: /m],
    ],
  ];
  it.each(mistakes)('refuses %s, and says where', async (_title, edits, problems) => {
    const { code, output } = await run('check', '--config', await edited(...edits));
    for (const problem of problems) expect(output).toMatch(problem);
    expect(output).not.toContain('    at ');
    expect(code).toBe(1);
  });

  it.each([
    ['YAML that is broken', 'pools: [{ name: chat', /\(file\): not valid YAML/],
    ['a key twice', 'pools: []\npools: []\n', /\(file\): not valid YAML/],
    ['nothing at all', '', /pools: /],
    ['a list', '- pools', /\(file\): /],
  ])('refuses %s', async (_title, text, problem) => {
    const { code, output } = await run('check', '--config', await fileOf(text));
    expect(output).toMatch(problem);
    expect(code).toBe(1);
  });

  it('refuses a file that is not there', async () => {
    const { code, output } = await run('check', '--config', path.join(folder, 'none.yaml'));
    expect(output).toMatch(/none\.yaml: 1 problem\n {2}\(file\): cannot be read: /);
    expect(code).toBe(1);
  });
});

describe.concurrent('help', () => {
  it.each([[['--help']], [['help']]])('%j lists the commands', async (args) => {
    const { code, output } = await run(...args);
    for (const word of ['serve', 'check', 'sim-server']) expect(output).toContain(word);
    expect(code).toBe(0);
  });

  it.each([
    [['serve', '--help'], '--config'],
    [['check', '--help'], '--config'],
    [['sim-server', '--help'], '--ports'],
  ])('%j explains the options', async (args, word) => {
    const { code, output } = await run(...args);
    expect(output).toContain(word);
    expect(code).toBe(0);
  });

  it.each([[['serve']], [['check']], [['sreve']], [['serve', '--confg', 'x']], [[]]])('%j is answered with the way out', async (args) => {
    const { code, output } = await run(...args);
    expect(output).toMatch(/--config|--help|Usage:/);
    expect(code).toBe(1);
  });

  it('the version is the package\'s', async () => {
    const { version } = (await import('../../package.json', { with: { type: 'json' } })).default;
    expect(await run('--version')).toEqual({ code: 0, output: `${version}\n` });
  });
});

describe('serve', () => {
  it('refuses a broken configuration as check does', async () => {
    const file = await edited([['lisen'], {}]);
    const { code, output } = await run('serve', '--config', file);
    expect(output).toContain('lisen: unknown field');
    expect(code).toBe(1);
  });

  it.each(['grpc', 'admin'])('says that the %s port is taken, and ends', async (which) => {
    const taken = await new Promise<Server>((resolve) => {
      const server = createServer().listen(0, '127.0.0.1', () => resolve(server));
    });
    const { port } = taken.address() as { port: number };
    const listen = { grpc: '127.0.0.1:0', admin: '127.0.0.1:0', [which]: `127.0.0.1:${port}` };
    const { code, output } = await run('serve', '--config', await edited([['listen'], listen]));
    taken.close();
    expect(output).toContain(`cannot listen on 127.0.0.1:${port} (listen.${which})`);
    expect(output).toMatch(/another port/i);
    expect(output).not.toContain('"msg":"serving"');
    expect(code).toBe(1);
  });

  it('ends also where it shares state, and would go on looking for Redis', async () => {
    const taken = await new Promise<Server>((resolve) => {
      const server = createServer().listen(0, '127.0.0.1', () => resolve(server));
    });
    const { port } = taken.address() as { port: number };
    const state = { kind: 'redis', url: 'redis://127.0.0.1:1' };
    const { code, output } = await run('serve', '--config', await edited([['listen'], { grpc: `127.0.0.1:${port}`, admin: '127.0.0.1:0' }], [['state'], state]));
    taken.close();
    expect(output).toContain(`cannot listen on 127.0.0.1:${port} (listen.grpc)`);
    expect(code).toBe(1);
  });

  it.each(['SIGTERM', 'SIGINT'] as const)('drains on %s and ends with exit code 0, from the moment on that it says it serves', async (signal) => {
    const file = await edited([['listen'], { grpc: '127.0.0.1:0', admin: '127.0.0.1:0' }], [['drain'], { readinessDelayMs: 0, deadlineMs: 1_000 }]);
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        const child = runFairlead(['serve', '--config', file]);
        await child.waitForLine((line) => (line.includes('"msg":"serving"') ? true : undefined));
        child.signal(signal);
        expect(await child.ended).toBe(0);
        const lines = child.log().trim().split('\n');
        // Every line of the log is JSON.
        expect(lines.map((line) => (JSON.parse(line) as { msg: string }).msg)).toEqual(['serving', 'draining: readiness is down', 'stopped']);
      }),
    );
  });
});

describe('the admin port', () => {
  let fairlead: FairleadProcess;
  beforeAll(async () => {
    fairlead = await startFairlead({
      drain: { readinessDelayMs: 1_500, deadlineMs: 2_000 },
      pools: [{ name: 'chat', endpoints: [{ address: '127.0.0.1:18001' }, { address: '127.0.0.1:18002' }] }],
    });
  });
  afterAll(() => fairlead.stop());

  it('tells health, readiness by parts, metrics and the fleet', async () => {
    expect(await fairlead.get('/healthz')).toEqual({ status: 200, text: 'ok\n' });
    const ready = await fairlead.get('/readyz');
    expect(ready.status).toBe(200);
    expect(JSON.parse(ready.text)).toMatchObject({ ready: true, parts: [{ name: 'grpc', ready: true }, { name: 'state' }, { name: 'pool:chat', ready: true }] });
    expect(await fairlead.metric('fairlead_build_info')).toBe(1);
    expect(await fairlead.metric('fairlead_endpoint_state', { state: 'ready' })).toBe(2);
    const endpoint = { state: 'ready', requestsInFlight: 0, promptTokensInFlight: 0, fleetRequestsInFlight: 0 };
    expect(await fairlead.fleet()).toMatchObject({
      router: { id: expect.stringMatching(/^[\w-]+$/) as string },
      pools: [{ name: 'chat', endpoints: [{ address: '127.0.0.1:18001', ...endpoint }, { address: '127.0.0.1:18002', ...endpoint }] }],
    });
  });

  it('is for reading only', async () => {
    const response = await fetch(`http://127.0.0.1:${fairlead.adminPort}/api/v1/fleet`, { method: 'POST', body: '{}' });
    expect(response.status).toBe(405);
    expect((await fairlead.get('/api/v1/nothing')).status).toBe(404);
  });

  it('says not ready while the service drains, and still lives', async () => {
    fairlead.signal('SIGTERM');
    await expect.poll(async () => (await fairlead.get('/readyz')).status, { timeout: 1_000, interval: 20 }).toBe(503);
    expect(JSON.parse((await fairlead.get('/readyz')).text)).toMatchObject({ ready: false, parts: [{ name: 'grpc', ready: false, reason: 'draining' }, {}, {}] });
    expect((await fairlead.get('/healthz')).status).toBe(200);
    expect(await fairlead.ended).toBe(0);
  });
});
