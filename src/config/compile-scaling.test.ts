import { describe, expect, it } from 'vitest';
import { loadConfig } from './load.ts';

const load = (rest: string, endpoints = "{ address: '10.0.0.1:80' }, { address: '10.0.0.2:80', standby: true }"): ReturnType<typeof loadConfig> =>
  loadConfig(`pools: [{ name: chat, endpoints: [${endpoints}]${rest === '' ? '' : `, ${rest}`} }]`);

describe('how a pool scales', () => {
  it('has a usual answer for everything', () => {
    const outcome = load('');
    expect(outcome).toMatchObject({ ok: true, warnings: [] });
    expect(outcome.ok && outcome.config.scaling).toEqual([
      {
        pool: 'chat',
        tokensPerMs: 45,
        standby: { pressure: { waitMs: 1_000, inFlightShare: 0.9 }, forMs: 2_000, calm: { waitMs: 200, inFlightShare: 0.6, utilization: 0.6 }, calmForMs: 60_000 },
        autoscale: { replicasMin: 1, replicasMax: undefined, utilization: 0.7, requestsPerReplica: undefined, waitMs: 1_000, drainMs: 10_000, stabilizationMs: 300_000 },
      },
    ]);
  });

  it('is as written', () => {
    const outcome = load('prefillTokensPerMs: 5, standby: { forMs: 100, calm: { waitMs: 10 } }, autoscale: { replicasMax: 9, requestsPerReplica: 12.5 }');
    expect(outcome.ok && outcome.config.scaling[0]).toMatchObject({
      tokensPerMs: 5,
      standby: { forMs: 100, calm: { waitMs: 10, inFlightShare: 0.6 } },
      autoscale: { replicasMin: 1, replicasMax: 9, requestsPerReplica: 12.5 },
    });
  });

  it('marks the endpoints of the reserve, every rank of them', () => {
    const outcome = load('', "{ address: '10.0.0.1:80', dpSize: 2 }, { address: '10.0.0.2:80', dpSize: 2, standby: true }");
    expect(outcome.ok && outcome.config.pools[0]?.endpoints.map(({ address, standby }) => [address, standby === true])).toEqual([
      ['10.0.0.1:80#0', false],
      ['10.0.0.1:80#1', false],
      ['10.0.0.2:80#0', true],
      ['10.0.0.2:80#1', true],
    ]);
  });

  it.each<[string, string, string | undefined, RegExp]>([
    ['a reserve of nobody', 'standby: {}', "{ address: '10.0.0.1:80' }", /nobody is in reserve/],
    ['a reserve that goes by what is not noticed', 'observe: { firstToken: false }, policy: { preset: least-requests }', undefined, /called too early/],
  ])('warns of %s', (_what, rest, endpoints, message) => {
    const outcome = load(rest, endpoints);
    expect(outcome).toMatchObject({ ok: true, warnings: [{ path: 'pools[0].standby', message: expect.stringMatching(message) as string }] });
  });
});
