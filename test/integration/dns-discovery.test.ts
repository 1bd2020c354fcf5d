import { afterEach, describe, expect, it } from 'vitest';
import { DnsDiscovery, type DnsSettings } from '../../src/discovery/dns-discovery.ts';
import { type FakeNameServer, startFakeNameServer, type Zone } from '../fake-name-server.ts';

const cleanUps: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Trial {
  readonly server: FakeNameServer;
  readonly discovery: DnsDiscovery;
  /** What it told, endpoints as `address×weight`. */
  readonly told: string[];
}

async function start(zone: Zone, settings: Partial<DnsSettings> = {}, intervalMsMin = 60_000): Promise<Trial> {
  const server = await startFakeNameServer(zone);
  const told: string[] = [];
  const discovery = new DnsDiscovery({
    settings: { name: 'chat.example', type: 'A', port: 8000, intervalMs: 600_000, server: server.address, allowEmpty: false, ...settings },
    labels: { zone: 'a' },
    listener: {
      found: (endpoints) => {
        told.push(endpoints.map(({ address, weight }) => (weight === 1 ? address : `${address}×${weight}`)).sort().join(' '));
        for (const { labels } of endpoints) expect(labels).toEqual({ zone: 'a' });
      },
      failed: ({ source, causes }) => told.push(`${source}: ${causes.map(({ message }) => message).join()}`),
    },
    rng: { draw: () => 0 },
    intervalMsMin,
    // A busy machine answers late.
    timeoutMs: 5_000,
  });
  cleanUps.push(
    () => server.stop(),
    () => discovery.stop(),
  );
  await discovery.start();
  return { server, discovery, told };
}

const a = (...addresses: string[]): Zone => ({ 'chat.example': { A: addresses.map((data) => ({ data, ttl: 30 })) } });

describe('A and AAAA', () => {
  it('are the endpoints at the given port, each once', async () => {
    expect((await start(a('10.0.0.2', '10.0.0.1', '10.0.0.2'))).told).toEqual(['10.0.0.1:8000 10.0.0.2:8000']);
    const six = await start({ 'chat.example': { AAAA: [{ data: '2001:db8:0:0::1', ttl: 30 }] } }, { type: 'AAAA' });
    expect(six.told).toEqual(['[2001:db8::1]:8000']);
    expect(six.server.questions).toEqual(['chat.example AAAA']);
  });

  it('are asked for again when the TTL is over', async () => {
    const { server, told } = await start({ 'chat.example': { A: [{ data: '10.0.0.1', ttl: 1 }] } }, {}, 1);
    server.zone = a('10.0.0.2');
    await expect.poll(() => told.at(-1), { timeout: 10_000 }).toBe('10.0.0.2:8000');
  });

  it('are asked for again after the interval, however long the TTL is', async () => {
    const { server, told } = await start({ 'chat.example': { A: [{ data: '10.0.0.1', ttl: 86_400 }] } }, { intervalMs: 50 }, 1);
    server.zone = a('10.0.0.2');
    await expect.poll(() => told.at(-1), { timeout: 10_000 }).toBe('10.0.0.2:8000');
  });
});

describe('SRV', () => {
  const srv = (...targets: [target: string, port: number, weight: number, priority: number][]): Pick<Exclude<Zone[string], string>, 'SRV'> => ({
    SRV: targets.map(([target, port, weight, priority]) => ({ ttl: 30, data: { target, port, weight, priority } })),
  });

  it('are the addresses of the targets of the lowest priority, with their ports, and weights whose mean is 1', async () => {
    const { told } = await start(
      {
        'chat.example': srv(['one.example', 8001, 30, 10], ['two.example', 8002, 10, 10], ['spare.example', 8003, 10, 20]),
        'one.example': { A: [{ data: '10.0.0.1', ttl: 30 }] },
        'two.example': { AAAA: [{ data: '2001:db8::2', ttl: 30 }] },
        'spare.example': { A: [{ data: '10.0.0.3', ttl: 30 }] },
      },
      { type: 'SRV', port: undefined },
    );
    expect(told).toEqual(['10.0.0.1:8001×1.5 [2001:db8::2]:8002×0.5']);
  });

  it('weigh the same where none has a weight', async () => {
    const { told } = await start(
      { 'chat.example': srv(['one.example', 1, 0, 0], ['two.example', 2, 0, 0]), 'one.example': { A: [{ data: '10.0.0.1', ttl: 30 }] }, 'two.example': { A: [{ data: '10.0.0.2', ttl: 30 }] } },
      { type: 'SRV' },
    );
    expect(told).toEqual(['10.0.0.1:1 10.0.0.2:2']);
  });

  it('go without a target that is gone, but not without one of which nobody knows', async () => {
    const { server, discovery, told } = await start(
      { 'chat.example': srv(['one.example', 1, 0, 0], ['gone.example', 2, 0, 0]), 'one.example': { A: [{ data: '10.0.0.1', ttl: 30 }] } },
      { type: 'SRV' },
    );
    expect(told).toEqual(['10.0.0.1:1']);
    server.zone = { ...server.zone, 'gone.example': 'SERVFAIL' };
    discovery.refresh();
    await expect.poll(() => told[1], { timeout: 10_000 }).toBe('chat.example SRV: the name server failed (SERVFAIL)');
  });
});

describe('a look-up that fails', () => {
  it.each<[Zone, string]>([
    [{}, 'there is no such name (NXDOMAIN)'],
    [{ 'chat.example': 'SERVFAIL' }, 'the name server failed (SERVFAIL)'],
    [{ 'chat.example': { AAAA: [] } }, 'the name has no such record; with allowEmpty that means no endpoints'],
  ])('says why, and names no endpoints: %j', async (zone, cause) => {
    expect((await start(zone)).told).toEqual([`chat.example A: ${cause}`]);
  });

  it('says so when the name server does not answer', async () => {
    const server = await startFakeNameServer({ 'chat.example': 'silent' });
    cleanUps.push(() => server.stop());
    const told: string[] = [];
    const discovery = new DnsDiscovery({
      settings: { name: 'chat.example', type: 'A', port: 80, intervalMs: 600_000, server: server.address, allowEmpty: false },
      listener: { found: () => told.push('found'), failed: ({ causes }) => told.push(causes.map(({ message }) => message).join()) },
      rng: { draw: () => 0 },
      timeoutMs: 50,
    });
    cleanUps.push(() => discovery.stop());
    await discovery.start();
    expect(told).toEqual(['the name server does not answer']);
  });

  it('is tried again soon, then less and less often, and good answers count at once', async () => {
    const { server, told } = await start({}, {}, 5);
    await expect.poll(() => told.length, { timeout: 10_000 }).toBeGreaterThanOrEqual(4);
    server.zone = a('10.0.0.1');
    await expect.poll(() => told.at(-1), { timeout: 20_000 }).toBe('10.0.0.1:8000');
  });

  it('means no endpoints where an empty answer may; a name that does not exist never does', async () => {
    expect((await start({ 'chat.example': { AAAA: [] } }, { allowEmpty: true })).told).toEqual(['']);
    expect((await start({ 'chat.example': { A: [] } }, { type: 'SRV', allowEmpty: true })).told).toEqual(['']);
    expect((await start({}, { allowEmpty: true })).told).toEqual(['chat.example A: there is no such name (NXDOMAIN)']);
  });
});

it('tells nothing after it was stopped, also of a look-up under way', async () => {
  const { server, discovery, told } = await start(a('10.0.0.1'));
  server.zone = { 'chat.example': 'silent' };
  discovery.refresh();
  await expect.poll(() => server.questions.length, { timeout: 10_000 }).toBeGreaterThan(1);
  discovery.stop();
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(told).toEqual(['10.0.0.1:8000']);
});
