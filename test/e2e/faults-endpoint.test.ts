import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type EnvoyProcess, renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import type { ModelServer } from '../../sim/model-server/model-server.ts';
import type { Restart, Switches } from '../../sim/model-server/switches.ts';
import { HttpClient } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { failuresIn, noteFailures } from './shared-envoy.ts';
import { failuresOf, type LoadRecord, type SteadyLoad, startSteadyLoad } from './steady-load.ts';

/** One thing that goes wrong with one of four model servers, and what clients may see of it. */
interface FaultCase {
  readonly title: string;
  readonly switches?: Partial<Switches>;
  readonly restart?: Restart;
  /** What may fail: nothing; what was on the endpoint when it struck; or whatever reached it before it was left alone. */
  readonly mayFail: 'nothing' | 'in-flight' | 'reached';
  /** How its state may be named while it is out. */
  readonly states: readonly string[];
}

const out = ['ejected', 'half-open', 'slow', 'not-ready', 'joining'];
const cases = {
  hang: { title: 'hangs, and its health check too', switches: { mode: 'hang', healthHangs: true }, mayFail: 'reached', states: out },
  stall: { title: 'hangs, and passes its health check', switches: { mode: 'hang' }, mayFail: 'reached', states: ['slow', 'ejected', 'half-open'] },
  'five-hundred': { title: 'answers 500, and says that it is unwell', switches: { mode: 'fail', failStatus: 500, healthOk: false }, mayFail: 'nothing', states: out },
  lies: { title: 'fails fast, and passes its health check', switches: { mode: 'fail', failStatus: 503 }, mayFail: 'nothing', states: ['ejected', 'half-open'] },
  refuse: { title: 'refuses connections', switches: { mode: 'refuse' }, mayFail: 'in-flight', states: out },
  reset: { title: 'resets answers in their middle', switches: { mode: 'reset', resetAfterChunks: 1 }, mayFail: 'reached', states: ['ejected', 'half-open'] },
  slow: { title: 'is ten times as slow', switches: { slowFactor: 10 }, mayFail: 'nothing', states: ['slow', 'ejected', 'half-open'] },
  restart: { title: 'restarts, and loads its model for 3 s', restart: { downMs: 200, loadMs: 3_000 }, mayFail: 'in-flight', states: out },
} as const satisfies Record<string, FaultCase>;
type CaseName = keyof typeof cases;
const names = Object.keys(cases) as CaseName[];

const serversEach = 4;
const perSecond = 16;
/** Traffic is off an endpoint within this time of its fault (issue: "traffic off it within 2 s"). */
const offMs = 2_000;
/** Requests that try an endpoint out after that: three at a time, after 1 s and again after 2 s; and one that was on its way. */
const trialsMax = 7;
const slowStartMs = 4_000;

const parts = new RunningParts();
const servers = {} as Record<CaseName, ModelServer[]>;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
let client: HttpClient;

beforeAll(async () => {
  for (const name of names) servers[name] = await parts.addModelServers(serversEach, { timeScale: 1, model: name, profile: slowPrefill });
  fairlead = await parts.add(
    startFairlead({
      pools: names.map((name) => ({
        name,
        observe: { firstToken: true },
        // Patient probes: on a busy machine a late answer is no fault. What requests tell is quicker anyway.
        health: { probe: { model: name, timeoutMs: 1_000, failures: 3 } },
        slowStart: { durationMs: slowStartMs, initialShare: 0.1 },
        endpoints: servers[name].map(({ address }) => ({ address })),
      })),
      routes: names.map((name) => ({ match: { model: name }, targets: [{ pool: name }] })),
    }),
  );
  const clusters = Object.fromEntries(names.map((name) => [name, servers[name].map(({ address }) => address)]));
  const config = renderEnvoyConfig({ clusters, fairlead: [fairlead.address], messageTimeoutMs: 10_000 });
  envoy = await parts.add(startEnvoy({ config: noteFailures(config), concurrency: 2 }));
  client = await parts.add(Promise.resolve(new HttpClient(envoy.url, 256, 60_000)));
});
afterAll(() => parts.stop());

const slowPrefill = {
  name: 'e2e',
  source: 'invented: 60 ms to the first token, so that ten times that is felt and CPU is not the limit',
  prefill: { quadratic: 0, linear: 0.1, constant: 50 },
  decode: { constant: 3, linear: 0, quadratic: 0 },
  stepTokensMax: 2048,
  sequencesMax: 32,
  queueMax: 1_000,
  blockTokens: 16,
  blocks: 4_000,
} as const;

async function stateOf(pool: CaseName, address: string): Promise<string> {
  const report = await fairlead.fleet();
  return report.pools.find(({ name }) => name === pool)?.endpoints.find((endpoint) => endpoint.address === address)?.state ?? 'unknown';
}

const arrivalsOf = (server: ModelServer, fromMs: number, toMs = Infinity): number => server.control.stats().arrivalsMs.filter((ms) => ms >= fromMs && ms < toMs).length;

/** What a failed request says for itself, with Envoy's word on it. */
const told = (records: readonly LoadRecord[]): string => `${JSON.stringify(failuresOf(records).slice(0, 10), undefined, 1)}\n${failuresIn(envoy.log())}`;

async function until(pool: CaseName, server: ModelServer, states: readonly string[], msMax: number): Promise<void> {
  const endMs = performance.now() + msMax;
  let state = '';
  while (performance.now() < endMs) {
    state = await stateOf(pool, server.address);
    if (states.includes(state)) return;
    await sleep(50);
  }
  throw new Error(`${server.address} of ${pool} is ${state} after ${msMax} ms, not ${states.join(' or ')}`);
}

/** Strikes one server under load, lets it recover, and follows it until it takes its share again. */
async function strike(name: CaseName): Promise<void> {
  const { switches, restart, mayFail, states }: FaultCase = cases[name];
  const [victim, ...others] = servers[name] as [ModelServer, ...ModelServer[]];
  for (const server of servers[name]) await until(name, server, ['ready'], 20_000);
  const load: SteadyLoad = startSteadyLoad({ client, perSecond, model: name });
  // It has its share of the traffic before it is struck; programs that have just started need a moment for that.
  for (const endMs = performance.now() + 20_000; arrivalsOf(victim, 0) < 5 && performance.now() < endMs; ) await sleep(50);
  expect(arrivalsOf(victim, 0)).toBeGreaterThanOrEqual(5);
  expect(failuresOf(load.records), told(load.records)).toEqual([]);

  const struckMs = performance.now();
  const inFlight = victim.control.stats().inFlight;
  if (restart !== undefined) await victim.control.restart(restart);
  if (switches !== undefined) await victim.control.set(switches);
  await until(name, victim, states, 10_000);
  await sleep(Math.max(0, offMs + 1_500 - (performance.now() - struckMs)));
  const late = arrivalsOf(victim, struckMs + offMs);
  expect(late, `${late} requests reached it later than ${offMs} ms after it failed`).toBeLessThanOrEqual(trialsMax);
  const reached = arrivalsOf(victim, struckMs);
  expect(others.every((server) => arrivalsOf(server, struckMs) > 0)).toBe(true);

  // Hung requests are let go by a restart; a restart by itself ends when the model is loaded.
  const healedMs = performance.now();
  if (switches?.mode === 'hang') await victim.control.restart();
  if (restart === undefined) await victim.control.set({ mode: 'ok', slowFactor: 1, healthOk: true, healthHangs: false });
  await until(name, victim, ['warming', 'ready'], 15_000);
  const backMs = performance.now();
  await until(name, victim, ['ready'], slowStartMs + 10_000);
  const readyMs = performance.now();
  expect(readyMs - backMs).toBeGreaterThan(slowStartMs * 0.5);
  // No stampede: in the first half of its slow start it gets less than an even share, whatever its empty queue promises.
  const halfMs = backMs + slowStartMs / 2;
  const [mine, all] = [arrivalsOf(victim, backMs, halfMs), servers[name].reduce((sum, server) => sum + arrivalsOf(server, backMs, halfMs), 0)];
  expect(mine, `${mine} of ${all} in the first ${slowStartMs / 2} ms after it came back`).toBeLessThanOrEqual(all / serversEach);
  await sleep(1_000);
  expect(arrivalsOf(victim, readyMs)).toBeGreaterThan(0);

  const records = await load.settled();
  const failures = failuresOf(records);
  const allowed = mayFail === 'nothing' ? 0 : mayFail === 'in-flight' ? inFlight : inFlight + reached;
  expect(failures.length, told(records)).toBeLessThanOrEqual(allowed);
  // Whoever came after traffic was off saw nothing, but for the trials of what breaks under way.
  const unlucky = failures.filter(({ sentMs }) => sentMs > struckMs + offMs && sentMs < healedMs);
  expect(unlucky.length, told(unlucky)).toBeLessThanOrEqual(mayFail === 'reached' ? trialsMax : 0);
}

describe('one of four endpoints', () => {
  // Each in a pool of its own, all at the same time: what lasts is the waiting.
  const strikes = new Map<CaseName, Promise<void>>();
  beforeAll(() => {
    for (const name of names) {
      const struck = strike(name);
      struck.catch(() => undefined);
      strikes.set(name, struck);
    }
  });

  it.each(names.map((name) => [cases[name].title, name] as const))('%s', async (_title, name) => {
    await strikes.get(name);
  });
});
