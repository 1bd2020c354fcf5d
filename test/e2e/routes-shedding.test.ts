import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyOptions, type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { type Answer, HttpClient } from './http-client.ts';
import { type RecordingServer, startRecordingServer } from './recording-server.ts';
import { RunningParts } from './running-parts.ts';
import { withListeners } from './shared-envoy.ts';

// Prompts are reckoned with one token a millisecond in `timed`, and hardly drained by the clock in `graded`, so that what waits there is
// what the test has put there, however slow the machine is.
const modes: Readonly<Record<string, EnvoyOptions>> = {
  'none, override allowed': { bodyMode: 'NONE', allowModeOverride: true },
  'full duplex both ways': { bodyMode: 'FULL_DUPLEX_STREAMED', responseBodyMode: 'FULL_DUPLEX_STREAMED' },
};
const names = Object.keys(modes);

const parts = new RunningParts();
let timed: RecordingServer;
let graded: RecordingServer;
let capped: RecordingServer;
let spare: RecordingServer;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
const clients = new Map<string, HttpClient>();

beforeAll(async () => {
  timed = await parts.add(startRecordingServer());
  graded = await parts.add(startRecordingServer());
  capped = await parts.add(startRecordingServer());
  spare = await parts.add(startRecordingServer());
  fairlead = await parts.add(
    startFairlead({
      facts: { priority: [{ header: 'x-priority-of-the-gateway' }] },
      pools: [
        { name: 'timed', prefillTokensPerMs: 1, endpoints: [{ address: timed.address }] },
        { name: 'graded', prefillTokensPerMs: 1e-6, saturation: { waitingTokens: 4_000 }, endpoints: [{ address: graded.address }] },
        { name: 'capped', endpoints: [{ address: capped.address, limits: { requests: 4 } }] },
        { name: 'spare', endpoints: [{ address: spare.address }] },
      ],
      routes: [
        { match: { model: 'timed' }, targets: [{ pool: 'timed' }] },
        { match: { model: 'timed-with-spare' }, targets: [{ pool: 'timed' }], fallback: ['spare'] },
        { match: { model: 'graded' }, targets: [{ pool: 'graded' }] },
        { match: { model: 'capped' }, targets: [{ pool: 'capped' }] },
      ],
    }),
  );
  const clusters = { timed: [timed.address], graded: [graded.address], capped: [capped.address], spare: [spare.address] };
  const configs = Object.entries(modes).map(
    ([name, options]) => [name, renderEnvoyConfig({ ...options, messageTimeoutMs: 10_000, fairlead: [fairlead.address], clusters })] as const,
  );
  envoy = await parts.add(startEnvoy({ config: withListeners(Object.fromEntries(configs)) }));
  for (const name of names) clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 16))));
});
afterAll(() => parts.stop());

const path = '/v1/chat/completions';
const json = { 'content-type': 'application/json' };

let prompts = 0;

/** A chat request with a prompt of so many tokens (4 bytes each), no two of them alike: what an endpoint has cached costs it nothing. */
function prompt(model: string, tokens: number): string {
  prompts += 1;
  return JSON.stringify({ model, max_tokens: 1, messages: [{ role: 'user', content: String(prompts).padStart(4, '0').repeat(tokens) }] });
}

function ask(mode: string, model: string, tokens: number, headers: Readonly<Record<string, string>>): Promise<Answer> {
  return clients.get(mode)!.send({ path, headers: { ...json, ...headers }, body: prompt(model, tokens) });
}

function expectRefused(answer: Answer, status: number, code: string): void {
  expect([answer.status, answer.headers['x-fairlead-refusal']]).toEqual([status, code]);
  expect(Number(answer.headers['retry-after'])).toBeGreaterThanOrEqual(1);
  expect(answer.servedBy).toBeUndefined();
  expect(JSON.parse(answer.body.toString())).toMatchObject({ error: { code, type: status === 429 ? 'rate_limit_error' : 'service_unavailable' } });
}

let occupied = 0;

/** Sends a request that is never answered; returns once it is counted. The result ends it. */
async function occupy(mode: string, model: string, tokens: number, headers: Readonly<Record<string, string>> = {}): Promise<() => void> {
  // Others may be counted for a moment after their answers.
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 10_000 }).toBe(occupied);
  const abort = new AbortController();
  const url = `http://127.0.0.1:${envoy.listenerPort(mode)}${path}`;
  fetch(url, { method: 'POST', headers: { ...json, ...headers, 'x-hang': '1' }, body: prompt(model, tokens), signal: abort.signal }).catch(() => undefined);
  occupied += 1;
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 10_000 }).toBe(occupied);
  return () => abort.abort();
}

async function free(aborts: readonly (() => void)[]): Promise<void> {
  occupied = 0;
  for (const abort of aborts) abort();
  await expect.poll(() => fairlead.requestsInFlight(), { timeout: 15_000 }).toBe(0);
}

describe.each(names)('%s', (mode) => {
  it.each(['x-fairlead-deadline-ms', 'x-llm-d-slo-ttft-ms'])('%s: a prompt that takes too long to compute is refused at once', async (header) => {
    const served = await ask(mode, 'timed', 8_000, { [header]: '60000' });
    expect([served.status, served.servedBy]).toEqual([200, timed.address]);
    expectRefused(await ask(mode, 'timed', 8_001, { [header]: '2000' }), 503, 'deadline_unreachable');
    expect((await ask(mode, 'timed', 8_002, {})).status).toBe(200);
    // Nonsense is no deadline.
    for (const value of ['0', '-5', 'soon', '1e3', '']) expect([value, (await ask(mode, 'timed', 3_000, { [header]: value })).status]).toEqual([value, 200]);
  });

  it('a deadline counts what waits there already, and steers to where it can be held', async () => {
    const aborts = [await occupy(mode, 'timed', 500_000)];
    expectRefused(await ask(mode, 'timed', 10, { 'x-fairlead-deadline-ms': '20000' }), 503, 'deadline_unreachable');
    const steered = await ask(mode, 'timed-with-spare', 10, { 'x-fairlead-deadline-ms': '20000' });
    expect([steered.status, steered.servedBy, steered.headers['x-fairlead-fallback']]).toEqual([200, spare.address, 'spare']);
    await free(aborts);
    expect((await ask(mode, 'timed', 10, { 'x-fairlead-deadline-ms': '20000' })).status).toBe(200);
  });

  it('as more waits, the lower priority is shed first', async () => {
    const to = (priority: string): Record<string, string> => ({ 'x-priority-of-the-gateway': priority });
    const sheds = async (priority: string): Promise<boolean> => {
      const answer = await ask(mode, 'graded', 10, to(priority));
      if (answer.status === 200) return false;
      expectRefused(answer, 429, 'shed_priority');
      return true;
    };
    const shedNow = async (): Promise<string[]> => {
      const shed: string[] = [];
      for (const priority of ['low', '-1', 'normal', 'nonsense', 'high', '1', 'critical']) if (await sheds(priority)) shed.push(priority);
      return shed;
    };
    // Thresholds: low 2000, normal 4000, high 8000, critical 16 000.
    expect(await shedNow()).toEqual([]);
    const aborts = [await occupy(mode, 'graded', 3_000)];
    expect(await shedNow()).toEqual(['low', '-1']);
    aborts.push(await occupy(mode, 'graded', 3_000, to('normal')));
    expect(await shedNow()).toEqual(['low', '-1', 'normal', 'nonsense']);
    aborts.push(await occupy(mode, 'graded', 4_000, to('high')));
    expect(await shedNow()).toEqual(['low', '-1', 'normal', 'nonsense', 'high', '1']);
    // What a client says of itself counts for nothing.
    expectRefused(await ask(mode, 'graded', 10, { 'x-fairlead-priority': 'critical' }), 429, 'shed_priority');
    await free(aborts);
    expect(await shedNow()).toEqual([]);
  });

  it('places are kept for what is not of low priority, until there are none', async () => {
    const low = { 'x-priority-of-the-gateway': 'low' };
    const aborts: (() => void)[] = [];
    for (let i = 0; i < 2; i += 1) aborts.push(await occupy(mode, 'capped', 10, low));
    expectRefused(await ask(mode, 'capped', 10, low), 429, 'shed_priority');
    for (let i = 0; i < 2; i += 1) aborts.push(await occupy(mode, 'capped', 10));
    expectRefused(await ask(mode, 'capped', 10, { 'x-priority-of-the-gateway': 'critical' }), 429, 'overloaded');
    await free(aborts);
  });
});

it('refusals are counted by their reasons', async () => {
  for (const code of ['deadline_unreachable', 'shed_priority', 'overloaded']) {
    expect([code, (await fairlead.metric('fairlead_refusals_total', { code })) > 0]).toEqual([code, true]);
  }
  expect(await fairlead.metric('fairlead_internal_errors_total')).toBe(0);
});
