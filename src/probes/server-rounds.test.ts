import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { FleetPool } from '../fleet/fleet-view.ts';
import { type AskedPool, type ModelServer, ServerRounds } from './server-rounds.ts';

interface Settings {
  readonly intervalMs: number;
  readonly port?: number | undefined;
}

const define = (address: string): ConstructorParameters<typeof FleetPool>[0]['endpoints'][number] => ({ address, weight: 1, labels: {}, requestsMax: undefined });
const createPool = (name: string, ...addresses: string[]): FleetPool => new FleetPool({ name, endpoints: addresses.map(define) });
/** As discovery does: what is no longer named has nothing in flight, and is gone at once. */
const setEndpoints = (pool: FleetPool, ...addresses: string[]): void => {
  pool.update(addresses.map(define), 0);
  pool.sweep(0, 0);
};

/** What is not over when a test is. */
const cleanups: (() => void)[] = [];

/** Rounds on a clock that the test turns; every question takes `answerMs`. */
function ask(pools: readonly AskedPool<Settings>[], { answerMs = 10, draw = 0.5, spreadMs = 100 } = {}) {
  const asked: { readonly hostPort: string; readonly atMs: number; readonly count: number }[] = [];
  const forgotten: string[] = [];
  const open = new Map<string, number>();
  let openMax = 0;
  const servers = new Set<ModelServer<Settings>>();
  const took = { answerMs };
  const rounds = new ServerRounds<Settings, { count: number }>({
    pools,
    clock: { nowMs: () => Date.now() },
    rng: { draw: () => draw },
    spreadMs: (_settings, servers) => spreadMs * servers,
    remember: () => ({ count: 0 }),
    forget: ({ hostPort }) => forgotten.push(hostPort),
    ask: async (server, memory) => {
      servers.add(server);
      memory.count += 1;
      asked.push({ hostPort: server.hostPort, atMs: Date.now(), count: memory.count });
      open.set(server.hostPort, (open.get(server.hostPort) ?? 0) + 1);
      openMax = Math.max(openMax, ...open.values());
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, took.answerMs);
        server.signal.addEventListener('abort', () => {
          clearTimeout(timer);
          resolve();
        });
      });
      open.set(server.hostPort, (open.get(server.hostPort) ?? 0) - 1);
      return server.settings.intervalMs;
    },
  });
  cleanups.push(() => rounds.stop());
  rounds.start();
  return { rounds, asked, forgotten, servers, took, openMax: () => openMax, of: (hostPort: string) => asked.filter((one) => one.hostPort === hostPort) };
}

const a = '10.0.0.1:8000';
const b = '10.0.0.2:8000';
const settings = { intervalMs: 1_000 };

describe('ServerRounds', () => {
  beforeEach(() => {
    vi.useFakeTimers({ now: 0 });
  });
  afterEach(() => {
    for (const clean of cleanups.splice(0)) clean();
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  it('asks each server once per interval, from start to start', async () => {
    const { asked } = ask([{ pool: createPool('chat', a), settings }], { answerMs: 400 });
    await vi.advanceTimersByTimeAsync(3_500);
    expect(asked.map(({ atMs }) => atMs)).toEqual([50, 1_050, 2_050, 3_050]);
    expect(asked.map(({ count }) => count)).toEqual([1, 2, 3, 4]);
  });

  it.each([
    [0, 0, 900],
    [0.999, 99, 1_198],
  ])('varies the intervals by a tenth, and the start: drawn %d', async (draw, first, second) => {
    const { asked } = ask([{ pool: createPool('chat', a), settings }], { draw });
    await vi.advanceTimersByTimeAsync(1_300);
    expect(asked.map(({ atMs }) => Math.floor(atMs))).toEqual([first, second]);
  });

  it('spreads the start over more time where there are more servers', async () => {
    const addresses = Array.from({ length: 5 }, (_, i) => `10.0.1.${i}:8000`);
    const { asked } = ask([{ pool: createPool('chat', a), settings }, { pool: createPool('batch', ...addresses), settings }], { draw: 0.9 });
    await vi.advanceTimersByTimeAsync(500);
    expect(asked.map(({ atMs }) => atMs)).toEqual([90, 450, 450, 450, 450, 450]);
  });

  it('lets one that comes to many wait no longer than one that comes to few', async () => {
    const addresses = Array.from({ length: 50 }, (_, i) => `10.0.1.${i}:8000`);
    const pool = createPool('chat', ...addresses);
    const { of } = ask([{ pool, settings: { intervalMs: 60_000 } }], { draw: 0.9 });
    await vi.advanceTimersByTimeAsync(10_000);
    setEndpoints(pool, ...addresses, a);
    await vi.advanceTimersByTimeAsync(200);
    expect(of(a).map(({ atMs }) => atMs)).toEqual([10_190]);
  });

  it('never asks a server again before it has answered, and then at once', async () => {
    const { asked, openMax } = ask([{ pool: createPool('chat', a), settings }], { answerMs: 2_500 });
    await vi.advanceTimersByTimeAsync(8_000);
    // Timers wait for a millisecond at least.
    expect(asked.map(({ atMs }) => atMs)).toEqual([50, 2_551, 5_052, 7_553]);
    expect(openMax()).toBe(1);
  });

  it('asks ranks behind one address as one server, and tells of all of them', async () => {
    const { asked, servers } = ask([{ pool: createPool('chat', `${a}#0`, `${a}#1`, b), settings }]);
    await vi.advanceTimersByTimeAsync(500);
    expect(asked.map(({ hostPort }) => hostPort)).toEqual([a, b]);
    expect([...servers][0]?.endpoints.map(({ address }) => address)).toEqual([`${a}#0`, `${a}#1`]);
  });

  it.each([
    ['10.0.0.1:8000', undefined, '10.0.0.1', 8_000],
    ['10.0.0.1:8000', 9_000, '10.0.0.1', 9_000],
    ['[2001:db8::1]:8000', undefined, '2001:db8::1', 8_000],
    ['[2001:db8::1]:8000#3', 81, '2001:db8::1', 81],
  ])('asks %s, configured with port %s, at %s port %d', async (address, configured, host, port) => {
    const { servers } = ask([{ pool: createPool('chat', address), settings: { ...settings, port: configured } }]);
    await vi.advanceTimersByTimeAsync(500);
    expect([...servers]).toMatchObject([{ host, port }]);
  });

  it('asks the same address in two pools for each', async () => {
    const { asked } = ask([{ pool: createPool('chat', a), settings }, { pool: createPool('batch', a), settings }]);
    await vi.advanceTimersByTimeAsync(500);
    expect(asked).toHaveLength(2);
  });

  it('follows a pool: who comes is asked at once, who is gone no more, and who stays notices nothing', async () => {
    const pool = createPool('chat', a);
    const { of, forgotten } = ask([{ pool, settings }]);
    await vi.advanceTimersByTimeAsync(1_200);
    setEndpoints(pool, a, b);
    await vi.advanceTimersByTimeAsync(250);
    expect(of(b)).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(2_000);
    setEndpoints(pool, b);
    await vi.advanceTimersByTimeAsync(100);
    expect(forgotten).toEqual([a]);
    const asked = of(a);
    expect(asked.map(({ atMs }) => atMs)).toEqual([50, 1_050, 2_050, 3_050]);
    await vi.advanceTimersByTimeAsync(3_000);
    expect(of(a)).toEqual(asked);
    expect(of(b).map(({ count }) => count)).toEqual([1, 2, 3, 4, 5, 6]);
  });

  it('goes on with a server whose ranks come and go', async () => {
    const pool = createPool('chat', `${a}#0`);
    const { servers, of } = ask([{ pool, settings }]);
    await vi.advanceTimersByTimeAsync(200);
    setEndpoints(pool, `${a}#0`, `${a}#1`);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(of(a).map(({ count }) => count)).toEqual([1, 2]);
    expect([...servers].map(({ endpoints }) => endpoints.map(({ address }) => address))).toEqual([[`${a}#0`, `${a}#1`]]);
  });

  it('breaks off the question to a server that goes', async () => {
    const pool = createPool('chat', a, b);
    const { servers } = ask([{ pool, settings }], { answerMs: 5_000 });
    await vi.advanceTimersByTimeAsync(200);
    setEndpoints(pool, b);
    await vi.advanceTimersByTimeAsync(100);
    expect([...servers].map(({ hostPort, signal }) => [hostPort, signal.aborted])).toEqual([
      [a, true],
      [b, false],
    ]);
  });

  it('begins anew with what is asked in another way, and goes on with the rest', async () => {
    const [chat, batch] = [createPool('chat', a), createPool('batch', b)];
    const { rounds, of, forgotten } = ask([{ pool: chat, settings }, { pool: batch, settings }]);
    await vi.advanceTimersByTimeAsync(500);
    rounds.follow([{ pool: chat, settings: { ...settings } }, { pool: batch, settings: { intervalMs: 200 } }]);
    await vi.advanceTimersByTimeAsync(500);
    expect(forgotten).toEqual([b]);
    expect(of(a)).toHaveLength(1);
    expect(of(b).map(({ count }) => count)).toEqual([1, 1, 2, 3]);
  });

  it('takes up pools and lets them go', async () => {
    const [chat, batch] = [createPool('chat', a), createPool('batch', b)];
    const { rounds, of, forgotten } = ask([{ pool: chat, settings }]);
    rounds.follow([{ pool: batch, settings }]);
    await vi.advanceTimersByTimeAsync(1_500);
    expect([of(a).length, of(b).length, forgotten]).toEqual([0, 2, [a]]);
    // Another object of the same name is another pool.
    rounds.follow([{ pool: createPool('batch', b), settings }]);
    await vi.advanceTimersByTimeAsync(60);
    expect(of(b).map(({ count }) => count)).toEqual([1, 2, 1]);
  });

  it('says when each server was asked once', async () => {
    const pool = createPool('chat', a, b);
    const { rounds, took } = ask([{ pool, settings }], { answerMs: 300 });
    const over = vi.fn();
    void rounds.firstRound().then(over);
    took.answerMs = 700;
    await vi.advanceTimersByTimeAsync(700);
    expect(over).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(100);
    expect(over).toHaveBeenCalledOnce();
  });

  it('does not wait for servers that are gone, nor where there are none, nor after it was stopped', async () => {
    const isOver = async ({ rounds }: ReturnType<typeof ask>): Promise<boolean> => {
      const over = vi.fn();
      void rounds.firstRound().then(over);
      await vi.advanceTimersByTimeAsync(0);
      return over.mock.calls.length === 1;
    };
    const pool = createPool('chat', a);
    const waiting = ask([{ pool, settings }], { answerMs: 60_000 });
    await vi.advanceTimersByTimeAsync(500);
    expect(await isOver(waiting)).toBe(false);
    setEndpoints(pool);
    await vi.advanceTimersByTimeAsync(200);
    expect(await isOver(waiting)).toBe(true);
    expect(await isOver(ask([]))).toBe(true);
    const stopped = ask([{ pool: createPool('chat', a), settings }], { answerMs: 60_000 });
    stopped.rounds.stop();
    expect(await isOver(stopped)).toBe(true);
  });

  it('stops at once, for good', async () => {
    const pool = createPool('chat', a);
    const { rounds, asked, servers } = ask([{ pool, settings }], { answerMs: 400 });
    await vi.advanceTimersByTimeAsync(200);
    rounds.stop();
    expect([...servers][0]?.signal.aborted).toBe(true);
    rounds.follow([{ pool, settings }]);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(asked).toHaveLength(1);
  });
});
