import { describe, expect, it } from 'vitest';
import { crowdedRun, describeFailure, playRandomRun, randomRun, shunning } from './random-run.ts';
import { presetNames } from './simulated-fleet.ts';
import { simulate } from './simulation.ts';

const requestsMax = 100;
const batch = 25;
const starts = Array.from({ length: 8 }, (_, i) => 1 + i * batch);

describe('random runs', () => {
  // `npm run sim:soak` tries more of them, and longer ones.
  it.each(starts)(`break no rule: ${batch} seeds from %i`, { timeout: 120_000 }, async (start) => {
    for (let seed = start; seed < start + batch; seed += 1) {
      const { run, result } = await playRandomRun(seed, requestsMax);
      if (result.violationCount > 0) expect.fail(describeFailure(seed, requestsMax, run, result));
      expect(result.requests.every(({ ending }) => ending !== undefined)).toBe(true);
    }
  });

  // Every policy once.
  it.each(presetNames().map((policy, seed) => [policy, seed] as const))('of more than can be served starve nobody, and show whom a router shuns: %s', async (policy, seed) => {
    const run = crowdedRun(seed, 300);
    expect(run.policy).toBe(policy);
    const { violations, requests } = await simulate(run.options);
    expect(violations, run.about).toEqual([]);
    expect(requests.some(({ ending }) => ending !== 'finished')).toBe(true);
    const shunned = await simulate(shunning(run, '10.0.0.2:8000').options);
    expect(shunned.violations.map(({ rule }) => rule), run.about).toContain('endpoint-starved');
  });

  it('repeat themselves for a seed', async () => {
    const [first, second] = [await playRandomRun(17, requestsMax), await playRandomRun(17, requestsMax)];
    expect(second.run.about).toBe(first.run.about);
    expect(second.result.requests).toEqual(first.result.requests);
    expect(second.result.messages).toBe(first.result.messages);
  });

  it('are different, and try much: faults, several routers, limits, every policy', () => {
    const runs = Array.from({ length: 400 }, (_, seed) => randomRun(seed, requestsMax));
    expect(new Set(runs.map(({ about }) => about)).size).toBeGreaterThan(390);
    const some = (test: (run: (typeof runs)[number]) => boolean): number => runs.filter(test).length;
    for (const fault of ['down', 'restart', 'flap', 'slow', 'hang', 'fail', 'cut', 'absent'] as const) {
      expect(some(({ options }) => options.faults.some(({ kind }) => kind === fault)), fault).toBeGreaterThan(30);
    }
    expect(some(({ options }) => options.faults.some((fault) => 'probesPass' in fault && fault.probesPass))).toBeGreaterThan(50);
    expect(some(({ about }) => about.includes('not probed'))).toBeGreaterThan(50);
    expect(some(({ options }) => options.endpoints.length > 1 && options.endpoints.every(({ address }) => options.faults.some((fault) => fault.address === address)))).toBeGreaterThan(20);
    expect(some(({ options }) => options.routers > 1)).toBeGreaterThan(150);
    expect(some(({ options }) => options.network.outages.length > 0)).toBeGreaterThan(50);
    expect(some(({ about }) => about.includes('at most'))).toBeGreaterThan(50);
    expect(new Set(runs.map(({ policy }) => policy)).size).toBeGreaterThan(5);
  });
});
