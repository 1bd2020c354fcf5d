import { describe, expect, it } from 'vitest';
import { SeededRng } from './clock/seeded-rng.ts';
import { engineProfiles } from './engine/engine-profiles.ts';
import type { FaultKind } from './faults.ts';
import { measuredRedis } from './network/network-model.ts';
import { summarise } from './report/summary.ts';
import { applyScenarios, type ScenarioName } from './scenarios.ts';
import { simulatedAddresses, simulatedPool } from './simulated-fleet.ts';
import { simulate, type SimulationOptions, type SimulationResult, undisturbed } from './simulation.ts';
import { generateWorkload, type GeneratorName } from './workloads/generated.ts';
import { chatPath, type Workload } from './workloads/workload.ts';

interface RunOptions extends Partial<SimulationOptions> {
  readonly policy: string;
  readonly count?: number;
  readonly generated?: GeneratorName;
  readonly requests?: number;
  readonly requestsMax?: number;
  readonly scenarios?: readonly ScenarioName[];
}

async function run({ policy, count = 4, generated = 'multi-turn', requests = 400, requestsMax, scenarios = [], ...more }: RunOptions): Promise<SimulationResult> {
  const workload = more.workload ?? generateWorkload(generated, { rng: new SeededRng(1), requests });
  const speed = more.speed ?? 4;
  const durationMs = (workload.requests.at(-1)?.arrivalMs ?? 0) / speed;
  const models = simulatedAddresses(count).map((address) => ({ address, profile: engineProfiles['dynamo-mocker'], slowFactor: 1 }));
  const { endpoints, faults, network, estimateError } = applyScenarios(scenarios, { endpoints: models, network: measuredRedis, durationMs });
  const pool = simulatedPool({ preset: policy, endpoints, tellKvSize: true, seed: 1, requestsMax });
  if (!pool.ok) throw new Error(JSON.stringify(pool.problems));
  return simulate({
    ...undisturbed,
    config: pool.config,
    endpoints,
    workload,
    speed,
    routers: 1,
    seed: 1,
    network,
    faults,
    estimateError,
    ...more,
  });
}

const figures = (result: SimulationResult) => summarise(result, { policy: 'p', speed: 1, routers: 1, objectiveMs: 2_000 });

const request = { promptTokens: 5_120, outputTokens: 10, outputBlockHashes: [], model: undefined, tenant: undefined, path: chatPath };
const workloadOf = (...requests: { arrivalMs: number; blockHashes: number[]; session?: string }[]): Workload => ({
  name: 'w',
  assumptions: [],
  requests: requests.map((more) => ({ ...request, session: undefined, ...more })),
});
const prompt = (name: number): number[] => Array.from({ length: 10 }, (_, i) => name * 100 + i);

describe('simulate', () => {
  it('takes for one request what the engine takes: the step of its prompt', async () => {
    const { requests, endpoints, violations } = await run({ policy: 'round-robin', workload: workloadOf({ arrivalMs: 5, blockHashes: prompt(1) }), speed: 1 });
    // 4.209989e-7·5120² + 0.01518344·5120 + 16.50142
    expect(requests[0]?.ttftMs).toBeCloseTo(105.2768, 3);
    expect(requests[0]).toMatchObject({ arrivalMs: 5, ending: 'finished', sent: 1, address: '10.0.0.1:8000', reason: 'in-turn' });
    expect(endpoints.map((endpoint) => endpoint.requests)).toEqual([1, 0, 0, 0]);
    expect(violations).toEqual([]);
  });

  it('speeds arrivals up, not engines', async () => {
    const { requests } = await run({ policy: 'round-robin', workload: workloadOf({ arrivalMs: 0, blockHashes: prompt(1) }, { arrivalMs: 8_000, blockHashes: prompt(2) }), speed: 4 });
    expect(requests.map(({ arrivalMs }) => arrivalMs)).toEqual([0, 2_000]);
    expect(requests[1]?.ttftMs).toBeCloseTo(105.2768, 3);
  });

  it('finds a prefix where it was computed, and nowhere else', async () => {
    const twice = (gapMs: number): Workload => workloadOf(...[0, 1, 2, 3, 4].map((i) => ({ arrivalMs: i * gapMs, blockHashes: prompt(1), session: 's' })));
    const inTurn = await run({ policy: 'round-robin', workload: twice(1_000), speed: 1 });
    expect(inTurn.requests.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0, 0, 0, 4_608]);
    const sticky = await run({ policy: 'sticky', workload: twice(1_000), speed: 1 });
    expect(sticky.requests.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 4_608, 4_608, 4_608, 4_608]);
  });

  it('keeps from routers what it is told to hide', async () => {
    const workload = generateWorkload('multi-turn', { rng: new SeededRng(1), requests: 300 });
    const reuse = async (hidden: SimulationOptions['hidden']): Promise<number> => figures(await run({ policy: 'sticky', workload, hidden })).reuse;
    const [all, bySession, nothing] = [await reuse(new Set()), await reuse(new Set(['prefix'])), await reuse(new Set(['prefix', 'session']))];
    expect(bySession).toBeGreaterThan(0.9 * all);
    expect(nothing).toBeLessThan(0.7 * all);
  });

  it('routes around a dead endpoint: its requests are lost, the next ones retried, then nobody is sent there', async () => {
    const { requests, violations } = await run({ policy: 'round-robin', scenarios: ['dead-endpoint'], requests: 600 });
    expect(violations).toEqual([]);
    const endMs = requests.at(-1)!.arrivalMs;
    const lost = requests.filter(({ ending }) => ending === 'endpoint-failed');
    const retried = requests.filter(({ sent }) => sent > 1);
    expect(retried.length).toBeGreaterThan(0);
    expect(retried.every(({ ending, address }) => ending === 'finished' && address !== '10.0.0.1:8000')).toBe(true);
    // Lost is what was there when it died, and nothing since.
    expect(lost.length).toBeGreaterThan(0);
    expect(lost.every(({ arrivalMs }) => arrivalMs <= 0.4 * endMs)).toBe(true);
    const whileKnown = requests.filter(({ arrivalMs }) => arrivalMs > 0.4 * endMs + 2_100 && arrivalMs < 0.6 * endMs);
    expect(whileKnown.length).toBeGreaterThan(20);
    expect(whileKnown.every(({ address, sent }) => address !== '10.0.0.1:8000' && sent === 1)).toBe(true);
    expect(requests.some(({ arrivalMs, address }) => arrivalMs > 0.6 * endMs + 2_100 && address === '10.0.0.1:8000')).toBe(true);
  });

  it('keeps a limit over several routers exactly', async () => {
    const limited = await run({ policy: 'least-requests', requestsMax: 2, routers: 3, generated: 'bursts', requests: 200, speed: 10 });
    expect(limited.violations).toEqual([]);
    expect(limited.requests.some(({ ending }) => ending === 'refused: overloaded')).toBe(true);
    expect(Math.max(...limited.samples.flatMap(({ inFlight }) => inFlight))).toBeLessThanOrEqual(2);
  });

  it('leaves no count behind when clients go away, records get lost and leases expire', async () => {
    const { requests, violations } = await run({ policy: 'sticky', routers: 2, abortShare: 0.3, recordLossShare: 0.2, requests: 200 });
    expect(requests.some(({ ending }) => ending === 'client-abort')).toBe(true);
    expect(violations).toEqual([]);
  });

  it('finds a fault in what it is given', async () => {
    await expect(run({ policy: 'sticky', faults: [{ kind: 'down', address: '10.9.9.9:1', fromMs: 0, toMs: 1 }] })).rejects.toThrow('10.9.9.9:1');
  });
});

describe('one endpoint of four', () => {
  const victim = '10.0.0.2:8000';
  const [fromMs, toMs] = [20_000, 32_000];
  /** Chats of one turn, so many a second, for a minute: enough for everybody to be missed. */
  const steady = (promptTokens: number, perSecond: number): Workload => {
    const made = workloadOf(...Array.from({ length: 60 * perSecond }, (_, i) => ({ arrivalMs: (i * 1_000) / perSecond, blockHashes: [i * 2, i * 2 + 1] })));
    return { ...made, requests: made.requests.map((each) => ({ ...each, promptTokens })) };
  };
  /** A first token takes 105 ms as a rule, or half of that. */
  const usual = { promptTokens: 5_120, perSecond: 20, offMs: 2_000 };
  /** Of an even share. Over 24 seeds it is .47 in the middle and .7 at most; without a slow start .9 and more. */
  const warmingShareMax = 0.75;
  const routers = ['sim-0', 'sim-1'];
  /** Trials at a time, of each router. */
  const trials = 3;
  const leftOut: ReadonlySet<string> = new Set(['ejected', 'slow', 'not-ready', 'joining', 'draining']);
  const strikes: [about: string, fault: FaultKind, lost: 'nothing' | 'in flight' | 'reached', of?: Partial<typeof usual>][] = [
    ['is gone', { kind: 'down' }, 'in flight'],
    ['restarts and loads its model', { kind: 'restart', loadMs: 5_000 }, 'in flight'],
    ['hangs', { kind: 'hang', probesPass: false }, 'reached'],
    ['hangs unseen by probes', { kind: 'hang', probesPass: true }, 'reached'],
    ['fails fast, and says so', { kind: 'fail', share: 1, probesPass: false }, 'nothing'],
    ['fails fast, and passes its probes', { kind: 'fail', share: 1, probesPass: true }, 'nothing'],
    ['breaks answers off', { kind: 'cut', probesPass: true }, 'reached'],
    ['is ten times as slow', { kind: 'slow', factor: 10 }, 'nothing', { promptTokens: 2_560, perSecond: 40 }],
    // Three requests have to reach it, which least-requests keeps from it, and their first tokens take a second each.
    ['is ten times as slow, with long prompts and few of them', { kind: 'slow', factor: 10 }, 'nothing', { offMs: 2_300 }],
    ['leaves', { kind: 'absent' }, 'nothing'],
  ];

  it.each(strikes)('%s: traffic is off it in time, and comes back without a stampede', async (_about, kind, lost, of) => {
    const { promptTokens, perSecond, offMs } = { ...usual, ...of };
    const { requests, violations, changes } = await run({ policy: 'least-requests', workload: steady(promptTokens, perSecond), speed: 1, routers: 2, faults: [{ ...kind, address: victim, fromMs, toMs }] });
    expect(violations).toEqual([]);
    const sentToVictim = ({ address, turnedAwayBy }: (typeof requests)[number]): boolean => address === victim || turnedAwayBy === victim;
    const between = (low: number, high: number): typeof requests => requests.filter(({ arrivalMs }) => arrivalMs >= low && arrivalMs < high);
    expect(between(10_000, fromMs).filter(sentToVictim).length).toBeGreaterThan(30);

    const ofVictim = routers.map((router) => changes.filter((change) => change.router === router && change.address === victim && change.atMs >= fromMs));
    const offAtMs = ofVictim.map((own) => own.find(({ to }) => leftOut.has(to ?? 'gone'))?.atMs ?? Infinity);
    expect(Math.max(...offAtMs) - fromMs).toBeLessThanOrEqual(offMs);
    // From then on nothing but trials, while some router tries.
    const halfOpen = ofVictim.flatMap((own) => own.flatMap(({ atMs, to }, i) => (to === 'half-open' ? [[atMs, own[i + 1]?.atMs ?? Infinity] as const] : [])));
    const late = between(Math.max(...offAtMs), toMs).filter(sentToVictim);
    expect(late.filter(({ arrivalMs }) => !halfOpen.some(([low, high]) => arrivalMs >= low && arrivalMs <= high))).toEqual([]);
    for (const [low, high] of halfOpen) {
      if (high < toMs) expect(between(low, high).filter(sentToVictim).length).toBeLessThanOrEqual(routers.length * trials);
    }

    const failed = requests.filter(({ ending }) => ending !== 'finished');
    if (lost === 'nothing') expect(failed).toEqual([]);
    // What was there when it struck; and what came before it was known, or to try it out.
    const unlucky = failed.filter(({ arrivalMs }) => arrivalMs > (lost === 'reached' ? Math.max(...offAtMs) : fromMs));
    expect(unlucky.filter((outcome) => lost !== 'reached' || !late.includes(outcome))).toEqual([]);
    expect(failed.every((outcome) => outcome.address === victim)).toBe(true);

    // Back in the end, and with little of an even share in the first seconds: four of ten seconds' slow start.
    const backMs = Math.min(...ofVictim.map((own) => own.find(({ atMs, to }) => atMs > toMs && (to === 'warming' || to === 'ready'))?.atMs ?? Infinity));
    expect(backMs).toBeLessThan(toMs + 12_000);
    const first = between(backMs, backMs + 4_000);
    expect(first.filter(sentToVictim).length).toBeLessThanOrEqual((warmingShareMax * first.length) / 4);
    expect(between(backMs + 14_000, Infinity).filter(sentToVictim).length).toBeGreaterThan(0);
  });
});

describe('routers that share', () => {
  const busy = { policy: 'sticky', generated: 'bursts', requests: 1_200, speed: 6, count: 4 } as const;

  it('are nearly as good as one; without sharing they are not', { timeout: 60_000 }, async () => {
    const one = figures(await run({ ...busy, generated: 'multi-turn' }));
    const shared = figures(await run({ ...busy, generated: 'multi-turn', routers: 8 }));
    const alone = figures(await run({ ...busy, generated: 'multi-turn', routers: 8, sharing: 'none' }));
    expect(shared.ttftMs.mean / one.ttftMs.mean).toBeLessThan(1.1);
    expect(alone.ttftMs.mean / one.ttftMs.mean).toBeGreaterThan(1.2);
    expect(shared.sameEndpoint).toBeGreaterThan((one.sameEndpoint ?? 1) - 0.05);
    expect(alone.sameEndpoint).toBeLessThan((one.sameEndpoint ?? 0) - 0.1);
  });

  it('keep sessions where they are and load even where many requests come at the same instant', { timeout: 60_000 }, async () => {
    const { requests, ...more } = generateWorkload('multi-turn', { rng: new SeededRng(1), requests: 1_200 });
    const workload = { ...more, requests: requests.map((each) => ({ ...each, arrivalMs: Math.floor(each.arrivalMs / 8_000) * 8_000 })) };
    const one = figures(await run({ ...busy, workload, speed: 10 }));
    const eight = figures(await run({ ...busy, workload, speed: 10, routers: 8 }));
    // 3.3 times, .44 and .35 where routers do not reckon with one another's.
    expect(eight.ttftMs.mean / one.ttftMs.mean).toBeLessThan(1.45);
    expect(eight.sameEndpoint).toBeGreaterThan(0.75);
    expect(eight.reuse).toBeGreaterThan(one.reuse - 0.05);
  });

  it('lose by an outage of Redis while it lasts, and recover', { timeout: 60_000 }, async () => {
    const workload = generateWorkload('multi-turn', { rng: new SeededRng(4), requests: 4_000 });
    const options = { ...busy, workload, routers: 4, speed: 2 };
    const through = await run(options);
    const out = await run({ ...options, scenarios: ['exchange-outage'] });
    expect(out.violations).toEqual([]);
    const midMs = workload.requests.at(-1)!.arrivalMs / options.speed / 2;
    const meanTtftMs = (result: SimulationResult, fromMs: number, toMs: number): number => {
      const inside = result.requests.flatMap(({ arrivalMs, ttftMs }) => (arrivalMs >= fromMs && arrivalMs < toMs ? (ttftMs ?? []) : []));
      expect(inside.length).toBeGreaterThan(100);
      return inside.reduce((sum, ms) => sum + ms, 0) / inside.length;
    };
    // The first seconds of the outage are still fed by what was heard before.
    const lost = [midMs - 10_000, midMs + 30_000] as const;
    expect(meanTtftMs(out, ...lost) / meanTtftMs(through, ...lost)).toBeGreaterThan(1.05);
    const after = [midMs + 50_000, Infinity] as const;
    expect(meanTtftMs(out, ...after) / meanTtftMs(through, ...after)).toBeLessThan(1.1);
  });
});

describe('sticky on unequal and failing fleets', () => {
  const rivals = ['least-requests', 'least-tokens', 'session-affinity'] as const;

  // The same on the public traces: docs/routing-quality.md.
  it.each(['half-speed', 'two-gpus', 'dead-endpoint', 'cold-start', 'estimates-30'] as const)('beats its rivals in mean and p99: %s', { timeout: 60_000 }, async (scenario) => {
    const options = { generated: 'multi-turn', requests: 1_500, speed: 6, count: 4, scenarios: [scenario] } as const;
    const sticky = figures(await run({ ...options, policy: 'sticky' })).ttftMs;
    for (const policy of rivals) {
      const rival = figures(await run({ ...options, policy })).ttftMs;
      expect(sticky.mean, `mean against ${policy}`).toBeLessThan(rival.mean);
      expect(sticky.p99, `p99 against ${policy}`).toBeLessThan(rival.p99);
    }
  });
});
