import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ChangeReport } from '../../src/admin/change-report.ts';
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
/** Of each pool: six a second to each endpoint, as docs/health.md has it. */
const perSecond = 24;
/** Traffic is off an endpoint within this time of its fault, at this rate (issue: "traffic off it within 2 s"). */
const offMs = 2_000;
/** Requests that try an endpoint out each time that its back-off is over. */
const trials = 3;
/** From a decision to its arrival, and from a change to all that was decided before it, at most: a busy machine's pauses. */
const underWayMs = 250;
/** From a client to the server, at most, while the server takes its connections down. */
const onWireMs = 50;
/** Looked at for so long after the fault: the first back-off is over by then, and trials have begun. The one that restarts is not back yet. */
const watchedMs = 3_000;
const slowStartMs = 4_000;
/** Most of an even share that all of them together get in the first half of their slow start, which asks for a third of it. */
const warmingShareMax = 0.6;

const parts = new RunningParts();
/** How long this process, and all servers with it, stood still at most: what a failure may be due to. */
const pauses = monitorEventLoopDelay({ resolution: 10 });
const servers = {} as Record<CaseName, ModelServer[]>;
let fairlead: FairleadProcess;
let envoy: EnvoyProcess;
let client: HttpClient;
let watch: ReturnType<typeof watchChanges>;

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
  watch = watchChanges();
  pauses.enable();
  await parts.add(Promise.resolve(watch));
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

/** A change of an endpoint's state, at this process's `performance.now()`. */
interface Change extends ChangeReport {
  readonly ms: number;
}

/** Gathers all that `/api/v1/changes` tells, which keeps only the last ones. */
function watchChanges(): { readonly changes: readonly Change[]; stop(): Promise<void> } {
  const changes: Change[] = [];
  const known = new Set<string>();
  let stopped = false;
  const looking = (async () => {
    while (!stopped) {
      const told = JSON.parse((await fairlead.get('/api/v1/changes')).text) as { changes: ChangeReport[] };
      for (const change of told.changes.reverse()) {
        const key = [change.address, change.to, change.atMs].join(' ');
        if (!known.has(key)) changes.push({ ...change, ms: Date.parse(change.time) - performance.timeOrigin });
        known.add(key);
      }
      await sleep(50);
    }
    // Fairlead may be gone by then.
  })().catch(() => undefined);
  return {
    changes,
    stop: async () => {
      stopped = true;
      await looking;
    },
  };
}

const changesOf = ({ address }: ModelServer): readonly Change[] => watch.changes.filter((change) => change.address === address);

const arrivalsMsOf = (server: ModelServer, fromMs: number, toMs = Infinity): number[] => server.control.stats().arrivalsMs.filter((ms) => ms >= fromMs && ms < toMs);
const arrivalsOf = (server: ModelServer, fromMs: number, toMs = Infinity): number => arrivalsMsOf(server, fromMs, toMs).length;

/** From when to when it was tried out. */
const trialTimes = (server: ModelServer, endMs: number): (readonly [fromMs: number, toMs: number])[] =>
  changesOf(server).flatMap(({ ms, to }, i, all) => (to === 'half-open' && ms < endMs ? [[ms, all[i + 1]?.ms ?? endMs] as const] : []));

/** What a failed request says for itself, with Envoy's word on it. */
const told = (records: readonly LoadRecord[]): string => `${JSON.stringify(failuresOf(records).slice(0, 10), undefined, 1)}\n${failuresIn(envoy.log())}`;

/** The change since `sinceMs` that brought a server into one of these states. */
async function until(server: ModelServer, states: readonly string[], sinceMs: number, msMax: number): Promise<Change> {
  const endMs = performance.now() + msMax;
  for (;;) {
    const change = changesOf(server).find(({ ms, to }) => ms >= sinceMs && states.includes(to ?? ''));
    if (change !== undefined) return change;
    if (performance.now() > endMs) throw new Error(`${server.address} is ${changesOf(server).at(-1)?.to ?? 'unheard of'} after ${msMax} ms, not ${states.join(' or ')}`);
    await sleep(20);
  }
}

/** What reached it, and what all of its pool got, in the first half of its slow start. */
const warmed = new Map<CaseName, { readonly mine: number; readonly all: number }>();

/** Takes off what a strike that failed half-way left behind. */
async function heal(name: CaseName): Promise<void> {
  const [victim] = servers[name] as [ModelServer, ...ModelServer[]];
  await victim.control.restart();
  await victim.control.set({ mode: 'ok', slowFactor: 1, healthOk: true, healthHangs: false });
  for (const endMs = performance.now() + 40_000; changesOf(victim).at(-1)?.to !== 'ready' && performance.now() < endMs; ) await sleep(50);
}

/** Strikes one server under load, lets it recover, and follows it until it takes its share again. */
async function strike(name: CaseName): Promise<void> {
  for (const server of servers[name]) await until(server, ['ready'], 0, 20_000);
  const load = startSteadyLoad({ client, perSecond, model: name });
  try {
    await strikeUnder(load, name);
  } finally {
    await load.settled();
  }
}

async function strikeUnder(load: SteadyLoad, name: CaseName): Promise<void> {
  const { switches, restart, mayFail, states }: FaultCase = cases[name];
  const [victim, ...others] = servers[name] as [ModelServer, ...ModelServer[]];
  const startedMs = performance.now();
  // It has its share of the traffic before it is struck; programs that have just started need a moment for that.
  for (const endMs = performance.now() + 20_000; arrivalsOf(victim, startedMs) < 5 && performance.now() < endMs; ) await sleep(50);
  expect(arrivalsOf(victim, startedMs)).toBeGreaterThanOrEqual(5);
  expect(failuresOf(load.records), told(load.records)).toEqual([]);

  const struckMs = performance.now();
  const inFlight = victim.control.stats().inFlight;
  if (restart !== undefined) await victim.control.restart(restart);
  if (switches !== undefined) await victim.control.set(switches);
  const { ms: outMs, to, cause } = await until(victim, out, struckMs, 10_000);
  expect(states).toContain(to);
  expect(outMs - struckMs, `${cause}, with pauses of up to ${Math.round(pauses.max / 1e6)} ms, after`).toBeLessThanOrEqual(offMs);
  await sleep(Math.max(0, watchedMs - (performance.now() - struckMs)));
  const reached = arrivalsOf(victim, struckMs);
  expect(others.every((server) => arrivalsOf(server, struckMs) > 0)).toBe(true);

  // Nothing but what was under way, and trials.
  const healedMs = performance.now();
  const late = arrivalsMsOf(victim, outMs + underWayMs, healedMs);
  const halfOpen = trialTimes(victim, healedMs);
  const astray = late.filter((ms) => !halfOpen.some(([fromMs, toMs]) => ms >= fromMs && ms <= toMs + underWayMs));
  expect(astray.map((ms) => Math.round(ms - outMs)), `reached it, in ms since it was left out, with pauses of up to ${Math.round(pauses.max / 1e6)} ms`).toEqual([]);
  for (const [fromMs, toMs] of halfOpen) expect(arrivalsOf(victim, fromMs, toMs + underWayMs)).toBeLessThanOrEqual(trials);

  // Hung requests are let go by a restart; a restart by itself ends when the model is loaded.
  if (switches?.mode === 'hang') await victim.control.restart();
  if (restart === undefined) await victim.control.set({ mode: 'ok', slowFactor: 1, healthOk: true, healthHangs: false });
  const { ms: backMs } = await until(victim, ['warming', 'ready'], healedMs, 15_000);
  const { ms: readyMs } = await until(victim, ['ready'], healedMs, slowStartMs + 10_000);
  expect(readyMs - backMs).toBeGreaterThan(slowStartMs * 0.5);
  // No stampede: in the first half of its slow start it gets less than an even share, whatever its empty queue promises.
  const halfMs = backMs + slowStartMs / 2;
  const [mine, all] = [arrivalsOf(victim, backMs, halfMs), servers[name].reduce((sum, server) => sum + arrivalsOf(server, backMs, halfMs), 0)];
  warmed.set(name, { mine, all });
  expect(mine, `${mine} of ${all} in the first ${slowStartMs / 2} ms after it came back`).toBeLessThanOrEqual(all / serversEach);
  for (const endMs = performance.now() + 5_000; arrivalsOf(victim, readyMs) === 0 && performance.now() < endMs; ) await sleep(50);
  expect(arrivalsOf(victim, readyMs)).toBeGreaterThan(0);

  const records = await load.settled();
  const failures = failuresOf(records);
  if (mayFail === 'nothing') expect(failures, told(records)).toEqual([]);
  // On it, or on the wire to it, which the server itself does not count yet.
  else if (mayFail === 'in-flight') expect(failures.filter(({ sentMs }) => sentMs > struckMs + onWireMs), told(records)).toEqual([]);
  else expect(failures.length, told(records)).toBeLessThanOrEqual(inFlight + reached);
  // Whoever came after traffic was off saw nothing, but for the trials of what breaks under way.
  const unlucky = failures.filter(({ sentMs }) => sentMs > outMs + underWayMs && sentMs < healedMs);
  expect(unlucky.length, told(unlucky)).toBeLessThanOrEqual(mayFail === 'reached' ? trials * halfOpen.length : 0);
}

describe('one of four endpoints', () => {
  // Each in a pool of its own, all at the same time: what lasts is the waiting.
  const strikes = new Map<CaseName, Promise<void>>();
  beforeAll(() => {
    for (const name of names) {
      // Once more where it did not do: what holds within two seconds must not hang on one pause of a busy machine.
      const struck = strike(name).catch(async () => {
        await heal(name);
        await strike(name);
      });
      struck.catch(() => undefined);
      strikes.set(name, struck);
    }
  });

  it.each(names.map((name) => [cases[name].title, name] as const))('%s', async (_title, name) => {
    await strikes.get(name);
  });

  // One by one they get too few for more than the bound above.
  it(`gets at most ${warmingShareMax} of an even share while it warms, over all of them`, () => {
    const counts = [...warmed.values()];
    const [mine, all] = [counts.reduce((sum, each) => sum + each.mine, 0), counts.reduce((sum, each) => sum + each.all, 0)];
    expect(counts).toHaveLength(names.length);
    expect(mine, `${mine} of ${all}`).toBeLessThanOrEqual((warmingShareMax * all) / serversEach);
    expect(mine).toBeGreaterThan(0);
  });
});
