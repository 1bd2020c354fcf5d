import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { projectRoot, runFairlead } from '../../lab/child-process.ts';
import { startFairlead } from '../../lab/fairlead-process.ts';

const fixtures = path.join(projectRoot, 'test/fixtures/explain');
const config = path.join(fixtures, 'fairlead.yaml');
const request = path.join(fixtures, 'small.request.json');
const fleet = path.join(fixtures, 'small.fleet.json');

let folder: string;
let files = 0;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'fairlead-explain-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function fileOf(content: unknown): Promise<string> {
  files += 1;
  const file = path.join(folder, `${files}.json`);
  await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
  return file;
}

async function explain(...args: string[]): Promise<{ code: number | NodeJS.Signals; output: string }> {
  const child = runFairlead(['explain', ...args]);
  const timer = setTimeout(() => child.signal('SIGKILL'), 60_000);
  const code = await child.ended;
  clearTimeout(timer);
  return { code, output: child.log() };
}

async function explainJson(...args: string[]): Promise<Record<string, unknown>> {
  const { code, output } = await explain('--json', ...args);
  expect(code, output).toBe(0);
  return JSON.parse(output) as Record<string, unknown>;
}

describe.concurrent('explain', () => {
  it('prints facts, route, each endpoint with its score or why it fell, what tipped it, and the order', async () => {
    const { code, output } = await explain('-c', config, '-r', request, '-f', fleet);
    expect(output).toMatch(/^routed to 10\.0\.0\.2:8000 in pool small: highest-score$/m);
    expect(output).toMatch(/^model {4}small-1$/m);
    expect(output).toMatch(/^session {2}key [0-9a-f]{32}$/m);
    expect(output).toMatch(/^ {2}tipped by: the only candidate$/m);
    expect(output).toMatch(/^ {2}- {2}10\.0\.0\.1:8000 .*left out by ready: draining$/m);
    expect(output).toMatch(/^ {2}- {2}10\.0\.0\.3:8000 .*left out by within-limits: at-limit$/m);
    expect(output).toMatch(/^ {2}shadow round-robin: agree, 10\.0\.0\.2:8000/m);
    expect(output).toContain('x-fairlead-cluster: small');
    expect(output).toContain('decided on headers and body');
    expect(output).not.toContain('private');
    expect(code).toBe(0);
  });

  it('prints the same as JSON, and the same again', async () => {
    const first = await explainJson('-c', config, '-r', request, '-f', fleet);
    expect(first).toMatchObject({
      outcome: 'route',
      endpoint: '10.0.0.2:8000',
      reason: 'highest-score',
      fallbacks: [],
      bodyRead: true,
      model: 'small-1',
      pools: [{ pool: 'small', endpoints: [{ address: '10.0.0.2:8000', place: 1 }, { leftOut: { filter: 'ready' } }, { leftOut: { filter: 'within-limits', reason: 'at-limit' } }] }],
    });
    expect(await explainJson('-c', config, '-r', request, '-f', fleet)).toEqual(first);
  });

  it('follows the draw where endpoints are equal', async () => {
    const even = await fileOf({ body: { model: 'small-1' } });
    const seen = new Set<unknown>();
    for (const draw of ['0', '0.4', '0.99']) seen.add((await explainJson('-c', config, '-r', even, '--draw', draw))['endpoint']);
    expect(seen.size).toBeGreaterThan(1);
  });

  it('tells a refusal, its status and why nobody could', async () => {
    const nobody = { pools: [{ name: 'small', endpoints: [1, 2, 3].map((i) => ({ address: `10.0.0.${i}:8000`, state: 'not-ready' })) }] };
    expect(await explainJson('-c', config, '-r', request, '-f', await fileOf(nobody))).toMatchObject({
      outcome: 'refuse',
      refused: 'no_ready_endpoint',
      status: 503,
      pools: [{ outcome: 'not-ready', endpoints: [{ leftOut: { reason: 'not-ready' } }, {}, {}] }],
    });
    const unknown = await fileOf({ body: { model: 'other' } });
    expect(await explainJson('-c', config, '-r', unknown)).toMatchObject({ outcome: 'refuse', refused: 'model_not_found', status: 404, pools: [] });
  });

  it('goes by what caches hold: sticky takes the endpoint with the prompt, unless too much waits there', async () => {
    const content = 'tell me more of it, and then some. '.repeat(400);
    const asked = await fileOf({ body: { model: 'large-1', messages: [{ role: 'user', content }] } });
    const fleetWith = (waiting: number): Promise<string> =>
      fileOf({ pools: [{ name: 'large', endpoints: [{ address: '10.0.1.3:8000', cachedTokens: 3_072, fleetUncachedTokensWaiting: waiting, fleetRequestsWaiting: 1, fleetRequestsInFlight: 1 }] }] });
    expect(await explainJson('-c', config, '-r', asked, '-f', await fleetWith(0))).toMatchObject({ endpoint: '10.0.1.3:8000', reason: 'cache-kept' });
    const busy = await explainJson('-c', config, '-r', asked, '-f', await fleetWith(100_000));
    expect(busy['reason']).toBe('cache-left');
    expect(busy['endpoint']).not.toBe('10.0.1.3:8000');
  });

  it('takes what a running router answers, and what `fleet --json` prints', async () => {
    const running = await startFairlead({ pools: [{ name: 'small', endpoints: [{ address: '10.0.0.1:8000' }, { address: '10.0.0.2:8000' }] }] });
    try {
      const answered = await fileOf((await running.get('/api/v1/fleet')).text);
      const child = runFairlead(['fleet', '--json', '--admin', `127.0.0.1:${running.adminPort}`]);
      expect(await child.ended).toBe(0);
      const own = await fileOf('affinity: { secret: x }\npools: [{ name: small, endpoints: [{ address: 10.0.0.1:8000 }, { address: 10.0.0.2:8000 }] }]');
      for (const file of [answered, await fileOf(child.log())]) {
        expect(await explainJson('-c', own, '-r', request, '-f', file)).toMatchObject({ outcome: 'route', notes: [] });
      }
    } finally {
      await running.stop();
    }
  });

  const mistakes: readonly [title: string, args: () => Promise<string[]>, output: RegExp][] = [
    ['a configuration with problems', async () => ['-c', await fileOf('pools: []'), '-r', request], /cannot be used:\n {2}pools: expected at least one pool/],
    ['a request file that is not there', async () => ['-c', config, '-r', path.join(folder, 'none')], /\(file\): cannot be read: ENOENT/],
    ['a request that is no JSON', async () => ['-c', config, '-r', await fileOf('{"path": ')], /\(file\): not valid JSON: /],
    ['an unknown field of the request', async () => ['-c', config, '-r', await fileOf({ header: {} })], /^ {2}header: unknown field$/m],
    ['a path without a slash', async () => ['-c', config, '-r', await fileOf({ path: 'v1' })], /^ {2}path: /m],
    ['a header that is a number', async () => ['-c', config, '-r', await fileOf({ headers: { a: 1 } })], /^ {2}headers\.a: /m],
    ['an unknown field of the fleet', async () => ['-c', config, '-r', request, '-f', await fileOf({ pools: [{ name: 'small', endpoint: [] }] })], /^ {2}pools\[0\]\.endpoint: unknown field$/m],
    ['a state that is none', async () => ['-c', config, '-r', request, '-f', await fileOf({ pools: [{ name: 'small', endpoints: [{ address: '10.0.0.1:8000', state: 'gone' }] }] })], /^ {2}pools\[0\]\.endpoints\[0\]\.state: /m],
    ['a pool that is not configured', async () => ['-c', config, '-r', request, '-f', await fileOf({ pools: [{ name: 'tiny' }] })], /^ {2}pools\[0\]\.name: the configuration has no pool tiny; it has: small, large$/m],
    ['an endpoint that is not configured', async () => ['-c', config, '-r', request, '-f', await fileOf({ pools: [{ name: 'small', endpoints: [{ address: '10.9.9.9:1' }] }] })], /^ {2}pools\[0\]\.endpoints\[0\]\.address: 10\.9\.9\.9:1 is not in pool small/m],
    ['a draw that is none', () => Promise.resolve(['-c', config, '-r', request, '--draw', '1']), /from 0 to below 1/],
    ['no request at all', () => Promise.resolve(['-c', config]), /required option '-r, --request <file>' not specified/],
  ];
  it.each(mistakes)('refuses %s, and says where and why', async (_title, args, expected) => {
    const { code, output } = await explain(...(await args()));
    expect(output).toMatch(expected);
    expect(output).not.toContain('    at ');
    expect(code).toBe(1);
  });

  it('serve refuses a decision log that cannot be opened', async () => {
    const file = path.join(folder, 'none/decisions.jsonl');
    const child = runFairlead(['serve', '--config', await fileOf(`listen: { grpc: 127.0.0.1:0, admin: 127.0.0.1:0 }\ndecisionLog: { sample: 1, file: ${file} }\npools: [{ name: a, endpoints: [{ address: 10.0.0.1:80 }] }]`)]);
    expect(await child.ended).toBe(1);
    expect(child.log()).toContain(`cannot open ${file} (decisionLog.file): ENOENT`);
  });

  it('shows with --help how to use it, by an example that works', async () => {
    const { code, output } = await explain('--help');
    expect(code).toBe(0);
    const [asked, described] = [...output.matchAll(/echo '(\{.*\})'/g)].map(([, json]) => json ?? '');
    const shown = await explainJson('-c', path.join(projectRoot, 'fairlead.example.yaml'), '-r', await fileOf(asked ?? ''), '-f', await fileOf(described ?? ''));
    expect(shown).toMatchObject({ outcome: 'route' });
    expect(shown['endpoint']).not.toBe('127.0.0.1:18001');
  });
});
