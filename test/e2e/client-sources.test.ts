import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { renderEnvoyConfig, startEnvoy } from '../../lab/envoy-process.ts';
import { type FairleadProcess, startFairlead } from '../../lab/fairlead-process.ts';
import { HttpClient, tally } from './http-client.ts';
import { RunningParts } from './running-parts.ts';
import { connectionManager, withListeners } from './shared-envoy.ts';

// Sessions made of what a client's requests have in common: its address, as far as nobody can forge it, and digests of headers.
const parts = new RunningParts();
const clients = new Map<string, HttpClient>();
let endpoints: string[];
let fairleads: Record<'attribute' | 'forwarded' | 'hashes', FairleadProcess>;

beforeAll(async () => {
  endpoints = (await parts.addModelServers(5)).map(({ address }) => address);
  const start = (session: readonly object[]): Promise<FairleadProcess> =>
    parts.add(
      startFairlead({
        affinity: { secret: 'one per fleet' },
        facts: { session },
        pools: [
          {
            name: 'chat',
            policy: { preset: 'session-affinity', parameters: { slackRequests: 10_000 } },
            endpoints: endpoints.map((address) => ({ address })),
          },
        ],
      }),
    );
  fairleads = {
    attribute: await start([{ clientIp: true }]),
    forwarded: await start([{ clientIp: { trustedHops: 1, ipv6Prefix: 56 } }]),
    hashes: await start([{ tokenHash: 'authorization' }, { headerHash: ['x-app', 'user-agent'] }]),
  };
  const render = (fairlead: FairleadProcess, trustedHops = 0): ReturnType<typeof renderEnvoyConfig> => {
    const config = renderEnvoyConfig({ clusters: { chat: endpoints }, fairlead: [fairlead.address], messageTimeoutMs: 20_000 });
    connectionManager(config)['xff_num_trusted_hops'] = trustedHops;
    return config;
  };
  const configs = {
    attribute: withListeners({ direct: render(fairleads.attribute), proxied: render(fairleads.attribute, 1) }),
    forwarded: withListeners({ forwarded: render(fairleads.forwarded) }),
    hashes: withListeners({ hashes: render(fairleads.hashes) }),
  };
  for (const config of Object.values(configs)) {
    const envoy = await parts.add(startEnvoy({ config }));
    for (const { name } of config.static_resources.listeners) {
      clients.set(name, await parts.add(Promise.resolve(new HttpClient(`http://127.0.0.1:${envoy.listenerPort(name)}`, 4))));
    }
  }
});
afterAll(() => parts.stop());

async function servedBy(listener: string, headers: Readonly<Record<string, string>>): Promise<string> {
  const answer = await clients.get(listener)!.send({ path: '/headers', headers });
  expect(answer.status).toBe(200);
  return answer.servedBy!;
}

/** The endpoints of many clients, each asking twice; fails where the two differ. */
async function homesOf(listener: string, headersOf: (client: number, turn: number) => Readonly<Record<string, string>>): Promise<string[]> {
  const homes: string[] = [];
  for (let client = 0; client < 40; client += 1) {
    const home = await servedBy(listener, headersOf(client, 0));
    expect(await servedBy(listener, headersOf(client, 1)), `client ${client}`).toBe(home);
    homes.push(home);
  }
  return homes;
}

describe('the address that Envoy made out', () => {
  it('is one and the same whatever the client says of itself', async () => {
    const homes = await homesOf('direct', (client, turn) => ({
      'x-forwarded-for': `198.51.100.${client}, 203.0.113.${turn}`,
      'x-envoy-external-address': `198.51.100.${client}`,
      'x-real-ip': `198.51.100.${client}`,
    }));
    expect(Object.keys(tally(homes))).toHaveLength(1);
  });

  it('is what trusted proxies say, where Envoy trusts some', async () => {
    const homes = await homesOf('proxied', (client, turn) => ({ 'x-forwarded-for': `10.9.9.${turn}, 198.51.100.${client}` }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
  });

  it('stands for its /64 where it is an IPv6 address', async () => {
    const homes = await homesOf('proxied', (client, turn) => ({ 'x-forwarded-for': `2001:db8:0:${client.toString(16)}::${turn + 1}` }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
  });
});

describe('the address by x-forwarded-for', () => {
  it('is the entry before those of the proxies in front, whatever the client wrote before it', async () => {
    // Envoy adds its peer, the one trusted proxy.
    const homes = await homesOf('forwarded', (client, turn) => ({ 'x-forwarded-for': `10.9.9.${turn}, 198.51.100.${client}` }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
    const forged = await homesOf('forwarded', (client, turn) => ({ 'x-forwarded-for': `198.51.100.${client}, 10.0.${turn}.${client}, 192.0.2.1` }));
    expect(Object.keys(tally(forged))).toHaveLength(1);
  });

  it('is cut where it is told', async () => {
    const homes = await homesOf('forwarded', (client, turn) => ({ 'x-forwarded-for': `2001:db8:${client.toString(16)}:${turn.toString(16)}::1` }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
  });

  it('is no session where the request came past the proxies', async () => {
    const before = await fairleads.forwarded.metric('fairlead_decisions_total', { reason: 'no-session' });
    await servedBy('forwarded', {});
    expect(await fairleads.forwarded.metric('fairlead_decisions_total', { reason: 'no-session' })).toBe(before + 1);
  });
});

describe('digests of headers', () => {
  const token = (client: number): string => `Bearer sk-${'x'.repeat(40)}${client}`;

  it('of a token keep its requests together', async () => {
    const homes = await homesOf('hashes', (client, turn) => ({ authorization: token(client), 'x-app': `app ${turn}` }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
  });

  it('of several headers, where all are there', async () => {
    const homes = await homesOf('hashes', (client) => ({ 'x-app': `app ${client}`, 'user-agent': 'curl' }));
    expect(Object.keys(tally(homes)).length).toBeGreaterThanOrEqual(3);
    const before = await fairleads.hashes.metric('fairlead_decisions_total', { reason: 'no-session' });
    await servedBy('hashes', { 'x-app': 'app 1' });
    expect(await fairleads.hashes.metric('fairlead_decisions_total', { reason: 'no-session' })).toBe(before + 1);
  });

  it('let no token into a log or a page', async () => {
    const { hashes } = fairleads;
    const pages = await Promise.all(['/metrics', '/api/v1/fleet', '/api/v1/decisions'].map(async (page) => (await hashes.get(page)).text));
    for (const text of [hashes.log(), ...pages]) expect(text).not.toContain('sk-');
  });
});
