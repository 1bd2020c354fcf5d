import { beforeEach, describe, expect, it } from 'vitest';
import type { EndpointChange } from '../fleet/endpoint-change.ts';
import type { FleetEndpoint } from '../fleet/endpoint.ts';
import { breakerDefaults } from '../fleet/endpoint-health.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import type { HealthRow } from '../fleet/health-row.ts';
import { Reservations } from '../fleet/reservations.ts';
import { judgeEnd } from './measured-times.ts';
import { HealthWatch, type PoolHealthSettings } from './health-watch.ts';
import type { Completion } from './ports.ts';

const addresses = ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80', '10.0.0.4:80'];
const [one = '', two = '', three = '', four = ''] = addresses;
const usual: PoolHealthSettings = {
  passive: { ...breakerDefaults, consecutiveFailures: 3, trials: 2 },
  slow: { factor: 4, samplesMin: 4 },
  ejectedShareMax: 0.5,
  slowStartMs: 5_000,
  isProbed: false,
  observesFirstToken: true,
};

/** One router's watch over a fleet of four, and what it does. */
class Bench {
  readonly fleet: FleetView;
  readonly watch: HealthWatch;
  readonly rows: HealthRow[] = [];
  readonly changes: EndpointChange[] = [];
  readonly withheld: string[][] = [];
  readonly reservations = new Reservations();
  /** Routers that hear at once what this one says. */
  readonly peers: Bench[] = [];
  readonly clock: { ms: number };
  hearsAll = true;
  #leases = 0;

  constructor(id: string, settings: Partial<PoolHealthSettings>, standby: readonly string[] = [], clock = { ms: 1_000 }) {
    this.clock = clock;
    const endpoints = addresses.map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined, standby: standby.includes(address) }));
    this.fleet = new FleetView([{ name: 'chat', endpoints }]);
    this.watch = new HealthWatch({
      routerId: id,
      fleet: this.fleet,
      settings: new Map([['chat', { ...usual, ...settings }]]),
      clock: { nowMs: () => clock.ms },
      hearsAll: () => this.hearsAll,
      publish: (pool, row) => {
        this.rows.push(row);
        for (const peer of this.peers) peer.watch.receive(pool, row);
      },
      changed: (change) => this.changes.push(change),
      withheld: (...told) => this.withheld.push(told),
    });
  }

  endpoint(address: string): FleetEndpoint {
    const endpoint = this.fleet.pool('chat')?.endpoint(address);
    if (endpoint === undefined) throw new Error(`no ${address}`);
    return endpoint;
  }

  states(): string[] {
    return this.fleet.pool('chat')?.endpoints.map(({ state }) => state) ?? [];
  }

  /** Counts a request on an endpoint; returns its lease. */
  send(address: string, { tokens = 90, streams }: { tokens?: number; streams?: boolean | undefined } = { streams: true }): string {
    const pool = this.fleet.pool('chat');
    if (pool === undefined) throw new Error('no pool');
    this.#leases += 1;
    const lease = `r.${this.#leases}`;
    this.watch.dispatched(this.reservations.reserve(lease, pool, this.endpoint(address), { promptTokens: tokens, uncachedTokens: tokens }, this.clock.ms), streams);
    return lease;
  }

  token(lease: string, streams?: boolean): void {
    const held = this.reservations.firstToken(lease, this.clock.ms);
    if (held !== undefined) this.watch.firstToken(held, streams);
  }

  end(lease: string, completion: Partial<Completion> = {}): void {
    const held = this.reservations.release(lease, this.clock.ms);
    if (held === undefined) return;
    const whole: Completion = { ending: 'finished', signal: 'access-log', status: 200, ...completion };
    this.watch.ended(held, whole, judgeEnd(held, whole, this.clock.ms));
  }

  /** A whole request, from dispatch to end. */
  request(address: string, ttftMs: number, completion: Partial<Completion> = {}): void {
    const lease = this.send(address);
    this.clock.ms += ttftMs;
    this.token(lease);
    this.end(lease, completion);
  }

  fail(address: string, times = 3): void {
    for (let i = 0; i < times; i += 1) this.end(this.send(address), { status: 500 });
  }

  /** Lets time pass in steps, as the timer does. */
  wait(ms: number): void {
    const endMs = this.clock.ms + ms;
    while (this.clock.ms < endMs) {
      this.clock.ms = Math.min(endMs, this.clock.ms + 100);
      this.watch.tick();
      for (const peer of this.peers) peer.watch.tick();
    }
  }
}

let bench: Bench;
beforeEach(() => {
  bench = new Bench('a', {});
});

describe('requests that fail', () => {
  it.each<[string, Partial<Completion>]>([
    ['5xx', { status: 503 }],
    ['a reset or no connection', { ending: 'upstream-failure', status: 502 }],
    ['a retry, which went well elsewhere', { attempts: 2, servedBy: two }],
  ])('eject their endpoint, by %s', (_, completion) => {
    for (let i = 0; i < 3; i += 1) bench.end(bench.send(one), completion);
    expect(bench.states()).toEqual(['ejected', 'ready', 'ready', 'ready']);
    expect(bench.changes).toMatchObject([{ pool: 'chat', address: one, from: 'ready', to: 'ejected', cause: 'failures', by: undefined, atMs: 1_000, untilMs: 2_000 }]);
    expect(bench.changes[0]?.detail).toMatch(/^last: /);
  });

  it.each<[string, Partial<Completion>]>([
    ['what the client did wrong', { status: 404 }],
    ['a client that left', { ending: 'client-abort', status: 0 }],
    ['what nobody knows', { ending: 'expired', signal: 'timer' }],
    ['what Envoy answered itself', { ending: 'not-proxied', status: 503 }],
  ])('are not: %s', (_, completion) => {
    for (let i = 0; i < 20; i += 1) bench.end(bench.send(one), completion);
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('count for the one that answered, where Envoy went elsewhere by itself', () => {
    for (let i = 0; i < 3; i += 1) bench.end(bench.send(one), { status: 500, servedBy: two });
    expect(bench.states()).toEqual(['ready', 'ejected', 'ready', 'ready']);
  });

  it('are looked past where the configuration says so', () => {
    bench = new Bench('a', { passive: undefined });
    bench.fail(one, 50);
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('eject no more than the share that may be', () => {
    for (const address of addresses) bench.fail(address, 20);
    expect(bench.states().filter((state) => state === 'ejected')).toHaveLength(2);
    // Nobody has to guess why the others stay.
    expect(new Set(bench.withheld.map(([, address]) => address))).toEqual(new Set([three, four]));
    expect(bench.withheld[0]).toEqual(['chat', three, 'failures: last: status 500']);
    // Those that may not serve anyway do not make the share larger.
    bench = new Bench('a', {});
    bench.watch.operate('chat', one, 'not-ready');
    bench.watch.operate('chat', two, 'draining');
    for (const address of addresses) bench.fail(address, 20);
    expect(bench.states()).toEqual(['not-ready', 'draining', 'ejected', 'ready']);
  });

  it('leave out fewer where the pool shrinks', () => {
    for (const address of [one, two]) bench.fail(address);
    bench.watch.operate('chat', three, 'not-ready');
    bench.wait(100);
    expect(bench.states().filter((state) => state === 'ejected')).toHaveLength(1);
    expect(bench.changes.at(-1)?.cause).toBe('ejection-limit');
  });

  it('of the only one eject nobody, unless all may be', () => {
    for (const [share, state] of [[0.5, 'ready'], [1, 'ejected']] as const) {
      bench = new Bench('a', { ejectedShareMax: share });
      for (const address of [two, three, four]) bench.watch.operate('chat', address, 'not-ready');
      bench.fail(one, 10);
      expect(bench.endpoint(one).state).toBe(state);
    }
  });
});

describe('requests that fail on one endpoint alone', () => {
  beforeEach(() => {
    bench = new Bench('a', { passive: breakerDefaults });
  });
  const servedByPeers = (times: number): void => {
    for (let i = 0; i < times; i += 1) bench.end(bench.send([two, three, four][i % 3] ?? two));
  };

  it('eject it by three in a row, not by five', () => {
    servedByPeers(10);
    bench.fail(one, 2);
    expect(bench.endpoint(one).state).toBe('ready');
    bench.fail(one, 1);
    expect(bench.changes).toMatchObject([{ address: one, to: 'ejected', cause: 'failures' }]);
  });

  it.each<[string, () => void]>([
    ['a peer failed one too', () => bench.fail(three, 1)],
    ['its peers did too little to compare with', () => bench.clock.ms += 20_000],
    ['one in between went well', () => bench.end(bench.send(one))],
  ])('take more where %s', (_, before) => {
    servedByPeers(10);
    bench.fail(one, 2);
    before();
    bench.fail(one, 2);
    expect(bench.endpoint(one).state).toBe('ready');
    bench.fail(one, 1);
    expect(bench.endpoint(one).state).toBe('ejected');
  });
});

describe('an ejected endpoint', () => {
  it('is tried after its back-off, warms up, and is ready again', () => {
    bench.fail(one);
    bench.wait(900);
    expect(bench.endpoint(one).state).toBe('ejected');
    bench.wait(200);
    expect(bench.endpoint(one)).toMatchObject({ state: 'half-open', trialsFree: 2 });
    const trials = [bench.send(one), bench.send(one)];
    expect(bench.endpoint(one).trialsFree).toBe(0);
    for (const trial of trials) bench.token(trial);
    // An endpoint that breaks off its answers gives first tokens, too.
    expect(bench.endpoint(one).state).toBe('half-open');
    for (const trial of trials) bench.end(trial);
    expect(bench.endpoint(one)).toMatchObject({ state: 'warming', readySinceMs: bench.clock.ms });
    bench.wait(5_000);
    expect(bench.endpoint(one).state).toBe('ready');
    expect(bench.changes.map(({ to, cause }) => [to, cause])).toEqual([
      ['ejected', 'failures'],
      ['half-open', 'back-off-over'],
      ['warming', 'trials-passed'],
      ['ready', 'warmed-up'],
    ]);
  });

  it('waits twice as long when a trial fails', () => {
    bench.fail(one);
    bench.wait(1_100);
    bench.fail(one, 1);
    expect(bench.changes.at(-1)).toMatchObject({ to: 'ejected', cause: 'trial-failed', untilMs: bench.clock.ms + 2_000 });
  });

  it('that passes its probes again after it was away starts anew', () => {
    bench = new Bench('a', { isProbed: true });
    for (const address of addresses) bench.watch.probed('chat', address, { kind: 'passing' });
    bench.fail(one);
    bench.watch.probed('chat', one, { kind: 'failing', detail: 'refused' });
    expect(bench.endpoint(one).state).toBe('not-ready');
    bench.watch.probed('chat', one, { kind: 'passing' });
    expect(bench.endpoint(one).state).toBe('warming');
  });

  it('that passes its probes all the while stays ejected', () => {
    bench = new Bench('a', { isProbed: true });
    for (const address of addresses) bench.watch.probed('chat', address, { kind: 'passing' });
    bench.fail(one);
    bench.watch.probed('chat', one, { kind: 'passing' });
    expect(bench.endpoint(one).state).toBe('ejected');
  });
});

describe('probes', () => {
  beforeEach(() => {
    bench = new Bench('a', { isProbed: true });
  });

  it('let nobody in before they have passed, and go easy on nobody that was there before the router', () => {
    expect(bench.states()).toEqual(Array(4).fill('joining'));
    bench.clock.ms += 50;
    bench.watch.probed('chat', one, { kind: 'passing' });
    expect(bench.endpoint(one)).toMatchObject({ state: 'ready', readySinceMs: undefined });
    bench.watch.probed('chat', two, { kind: 'loading', detail: 'status 503' });
    bench.watch.probed('chat', three, { kind: 'failing', detail: 'refused' });
    expect(bench.states()).toEqual(['ready', 'joining', 'not-ready', 'joining']);
    bench.clock.ms += 3_000;
    for (const address of [two, three]) bench.watch.probed('chat', address, { kind: 'passing' });
    // The one whose model was loaded just now starts slowly; what it was before is not known of the other.
    expect(bench.states().slice(1, 3)).toEqual(['ready', 'warming']);
  });

  it('tell what is wrong, once', () => {
    bench.watch.probed('chat', one, { kind: 'failing', detail: 'refused' });
    bench.watch.probed('chat', one, { kind: 'failing', detail: 'timeout' });
    expect(bench.changes).toMatchObject([{ to: 'not-ready', cause: 'probe-failed', detail: 'refused' }]);
    expect(bench.endpoint(one).health.stamps.probe.detail).toBe('timeout');
  });

  it('of one that comes back forget its cache, which is cold', () => {
    const { cache } = bench.fleet.pool('chat')!;
    for (const address of addresses) bench.watch.probed('chat', address, { kind: 'passing' });
    const prompt = { keyId: 'k', promptTokens: 5_000, prefixHashes: [1, 2, 3, 4] };
    for (const address of [one, two]) cache.note(address, prompt);
    bench.watch.probed('chat', one, { kind: 'failing', detail: 'refused' });
    bench.watch.probed('chat', one, { kind: 'passing' });
    expect([...cache.cachedTokens(prompt).keys()]).toEqual([two]);
  });

  it('have an age', () => {
    expect(bench.watch.verdictAgeMs('chat', one)).toBeUndefined();
    bench.watch.probed('chat', one, { kind: 'passing' });
    bench.clock.ms += 70;
    expect(bench.watch.verdictAgeMs('chat', one)).toBe(70);
    bench.watch.probed('chat', one, { kind: 'passing' });
    expect(bench.watch.verdictAgeMs('chat', one)).toBe(0);
    expect(bench.watch.verdictAgeMs('chat', '10.9.9.9:80')).toBeUndefined();
  });
});

describe('a slow endpoint', () => {
  const serve = (times: number, slowMs: number): void => {
    for (let i = 0; i < times; i += 1) for (const address of addresses) bench.request(address, address === one ? slowMs : 60);
    bench.watch.tick();
  };

  it('is found by its first tokens against those of its peers, and is the last resort', () => {
    serve(4, 600);
    expect(bench.states()).toEqual(['slow', 'ready', 'ready', 'ready']);
    expect(bench.changes[0]).toMatchObject({ cause: 'slower-than-peers', detail: expect.stringMatching(/^first tokens take \d+\.\d times/) as string });
  });

  it.each([
    ['half as fast', 130],
    ['slower by what nobody notices', 230],
  ])('is none that is %s', (_, ms) => {
    serve(12, ms);
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('is none that has more to do: what waits there was to be expected', () => {
    for (let round = 0; round < 6; round += 1) {
      for (const address of addresses) {
        const tokens = address === one ? 45_000 : 90;
        const lease = bench.send(address, { tokens, streams: true });
        bench.clock.ms += address === one ? 1_000 : 60;
        bench.token(lease);
        bench.end(lease);
      }
    }
    bench.watch.tick();
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('comes back only with trials that are in time', () => {
    serve(4, 600);
    bench.wait(1_100);
    expect(bench.endpoint(one).state).toBe('half-open');
    const late = bench.send(one);
    bench.clock.ms += 600;
    bench.token(late);
    expect(bench.changes.at(-1)).toMatchObject({ to: 'slow', cause: 'trial-failed' });
    bench.wait(2_100);
    for (let i = 0; i < 2; i += 1) bench.request(one, 60);
    expect(bench.endpoint(one).state).toBe('warming');
  });

  it('is none because of what waits before a request, unheard of when it was sent', () => {
    for (let round = 0; round < 6; round += 1) {
      for (const address of addresses) {
        const leases = Array.from({ length: address === one ? 20 : 1 }, () => bench.send(address));
        for (const lease of leases) {
          bench.clock.ms += 60;
          bench.token(lease);
          bench.end(lease);
        }
      }
    }
    bench.watch.tick();
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('is none while its peers have much to do, and only one of few is', () => {
    for (const address of [two, three]) for (let i = 0; i < 4; i += 1) bench.send(address, { tokens: 20_000, streams: true });
    serve(4, 600);
    expect(bench.states()).toEqual(Array(4).fill('ready'));

    bench = new Bench('a', {});
    serve(4, 600);
    for (let i = 0; i < 6; i += 1) for (const address of [two, three, four]) bench.request(address, address === two ? 600 : 60);
    bench.watch.tick();
    expect(bench.states().slice(1)).toEqual(['ready', 'ready', 'ready']);
  });

  it('is none while not all is heard of what the others send', () => {
    bench.hearsAll = false;
    bench.watch.tick();
    serve(6, 600);
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('on trial is judged by the end of an answer, where nobody has looked whether it is streamed', () => {
    serve(4, 600);
    bench.wait(1_100);
    const late = bench.send(one, {});
    bench.clock.ms += 600;
    bench.token(late);
    expect(bench.endpoint(one).state).toBe('half-open');
    bench.clock.ms += 400;
    bench.end(late);
    expect(bench.changes.at(-1)).toMatchObject({ to: 'slow', cause: 'trial-failed', detail: 'the first token of a trial came late' });
  });

  describe('that has become so', () => {
    /** Its peers go on as they did, while time passes. */
    const work = (ms: number, peers: readonly string[] = [two, three, four]): void => {
      for (let passed = 0; passed < ms; passed += 50) {
        const leases = peers.map((address) => bench.send(address));
        bench.clock.ms += 50;
        for (const lease of leases) bench.token(lease);
        for (const lease of leases) bench.end(lease);
        bench.watch.tick();
      }
    };
    const late = (...leases: readonly string[]): void => {
      for (const lease of leases) bench.token(lease);
      bench.watch.tick();
    };
    beforeEach(() => serve(8, 60));

    it('is found by the second step in a row that comes late, which need not be over', () => {
      const first = bench.send(one);
      work(400);
      bench.send(one);
      bench.send(one);
      work(200);
      late(first);
      work(200);
      expect(bench.endpoint(one).state).toBe('ready');
      work(100);
      expect(bench.changes).toMatchObject([{ address: one, to: 'slow', cause: 'slower-than-peers', detail: 'first tokens came late 2 times in a row, and of few peers' }]);
    });

    it('takes three requests: two may each have their reasons', () => {
      for (const state of ['ready', 'ready', 'slow']) {
        const lease = bench.send(one);
        work(600);
        late(lease);
        expect(bench.endpoint(one).state).toBe(state);
      }
    });

    it('takes two steps: however many wait for one', () => {
      const leases = Array.from({ length: 5 }, () => bench.send(one));
      work(600);
      late(...leases);
      expect(bench.endpoint(one).state).toBe('ready');
      const next = bench.send(one);
      work(600);
      late(next);
      expect(bench.endpoint(one).state).toBe('slow');
    });

    it.each<[string, () => void]>([
      ['a first token in between is in time', () => bench.request(one, 60)],
      [
        "another router's in between is",
        () => {
          bench.endpoint(one).line.join('other', 90, bench.clock.ms);
          bench.clock.ms += 60;
          bench.endpoint(one).line.leave('other', 90, bench.clock.ms, true);
          bench.watch.heardToken('chat', one, 90);
        },
      ],
      ['it was long ago', () => work(11_000)],
      ['its peers are late too', () => [two, three].forEach((peer) => bench.request(peer, 900))],
      ['not all is heard of what others send', () => void (bench.hearsAll = false)],
    ])('is none where %s', (_, between) => {
      const [first, second] = [bench.send(one), bench.send(one)];
      work(600);
      late(first, second);
      between();
      bench.watch.tick();
      const next = bench.send(one);
      work(400, []);
      bench.clock.ms += 400;
      late(next);
      expect(bench.endpoint(one).state).toBe('ready');
    });

    it.each([
      [16, 'slow'],
      [3, 'ready'],
    ])("is found by other routers' first tokens too, where the last %i answers of the pool were streamed", (streamed, state) => {
      bench = new Bench('a', {});
      serve(8, 60);
      const plain = bench.send(two, { streams: false });
      bench.token(plain);
      bench.end(plain);
      for (let i = 0; i < streamed; i += 1) bench.request(two, 60);
      for (let i = 0; i < 3; i += 1) {
        bench.endpoint(one).line.join('other', 90, bench.clock.ms);
        work(600, []);
        bench.endpoint(one).line.leave('other', 90, bench.clock.ms, true);
        bench.watch.heardToken('chat', one, 90);
      }
      expect(bench.endpoint(one).state).toBe(state);
    });

    it('goes by its own pace: one that was slower from the start is not late by as much', () => {
      bench = new Bench('a', {});
      serve(8, 150);
      for (let i = 0; i < 3; i += 1) {
        const lease = bench.send(one);
        work(350);
        late(lease);
      }
      expect(bench.endpoint(one).state).toBe('ready');
    });

    it.each([
      ['is told by the first piece of its answers, where nobody has looked before', true, 'slow'],
      ['is not told by answers in one piece', false, 'ready'],
      ['is not told, or later, by answers of which nothing is known', undefined, 'ready'],
    ])('%s', (_, streams, state) => {
      for (let i = 0; i < 3; i += 1) {
        const lease = bench.send(one, {});
        work(600);
        bench.token(lease, streams);
      }
      expect(bench.endpoint(one).state).toBe(state);
    });

    it.each([
      [16, 'slow'],
      [3, 'ready'],
    ])('takes those that wait for streamed, where the last %i of the pool were', (streamed, state) => {
      for (let i = 0; i < 20; i += 1) bench.request(two, 60);
      // Its first token is not noticed: nobody asks for it.
      bench.end(bench.send(two, { streams: false }));
      for (let i = 0; i < streamed - 1; i += 1) bench.request(two, 60);
      const first = bench.send(one, {});
      bench.send(one, {});
      bench.send(one, {});
      work(300, []);
      bench.clock.ms += 300;
      bench.token(first, true);
      for (let i = 0; i < 3; i += 1) {
        bench.clock.ms += 100;
        bench.watch.tick();
      }
      expect(bench.endpoint(one).state).toBe(state);
    });
  });

  it('is one where requests wait and nothing comes, while others work', () => {
    serve(4, 60);
    bench.send(one);
    for (let i = 0; i < 12; i += 1) {
      bench.wait(100);
      bench.request(two, 10);
    }
    expect(bench.endpoint(one).state).toBe('slow');
    expect(bench.changes.at(-1)).toMatchObject({ cause: 'stalled', detail: expect.stringMatching(/^no first token for \d+ ms$/) as string });
  });

  it('is none while nobody else works either, or something still comes from it', () => {
    bench.send(one);
    bench.wait(10_000);
    expect(bench.states()).toEqual(Array(4).fill('ready'));

    bench = new Bench('a', {});
    bench.send(one);
    for (let i = 0; i < 30; i += 1) {
      bench.wait(100);
      bench.request(two, 10);
      bench.endpoint(one).health.progressMs = bench.clock.ms;
    }
    expect(bench.states()).toEqual(Array(4).fill('ready'));
  });

  it('is none for an answer that comes in one piece', () => {
    bench.send(one, { streams: false });
    for (let i = 0; i < 30; i += 1) {
      bench.wait(100);
      bench.request(two, 10);
    }
    expect(bench.endpoint(one).state).toBe('ready');
  });

  it.each<[string, boolean | undefined, number, Partial<Completion>, string]>([
    ['comes in one piece', false, 0, {}, 'ready'],
    ['comes in one piece, as far as anyone can see', undefined, 10, {}, 'ready'],
    ['comes in one piece, and its end is heard late', undefined, 400, { firstByteMs: 900, answerMs: 905 }, 'ready'],
    ['turns out to be streamed', undefined, 400, {}, 'slow'],
    ['turns out to be streamed, as Envoy tells', undefined, 30, { firstByteMs: 5, answerMs: 95 }, 'slow'],
  ])('is told by an answer only where that is streamed: %s', (_, streams, afterMs, completion, state) => {
    for (let round = 0; round < 5; round += 1) {
      for (const address of addresses) {
        const lease = bench.send(address, streams === undefined ? { streams: undefined } : { streams });
        bench.clock.ms += address === one ? 900 : 60;
        bench.token(lease);
        bench.clock.ms += afterMs;
        bench.end(lease, completion);
      }
    }
    bench.watch.tick();
    expect(bench.endpoint(one).state).toBe(state);
  });

  it('on trial that does not answer is not waited for', () => {
    bench.fail(one);
    bench.wait(1_100);
    bench.send(one);
    for (let i = 0; i < 12; i += 1) {
      bench.wait(100);
      bench.request(two, 10);
    }
    expect(bench.changes.filter(({ cause }) => cause === 'trial-failed')).toMatchObject([{ address: one, to: 'slow' }]);
  });
});

describe('operators and the reserve', () => {
  it('an operator has the last word, and takes it back', () => {
    expect(bench.watch.operate('chat', one, 'draining')).toBe(true);
    expect(bench.watch.operate('chat', '10.9.9.9:80', 'draining')).toBe(false);
    expect(bench.watch.operate('none', one, 'draining')).toBe(false);
    expect(bench.endpoint(one).state).toBe('draining');
    bench.watch.operate('chat', one, 'ready');
    expect(bench.endpoint(one).state).toBe('warming');
    bench.fail(one);
    bench.watch.operate('chat', one, 'ready');
    expect(bench.endpoint(one).state).toBe('warming');
  });

  it('an endpoint that is defined anew joins the reserve, or leaves it', () => {
    const bench = new Bench('a', {});
    bench.endpoint(four).standby = true;
    bench.watch.tick();
    expect(bench.endpoint(four).state).toBe('standby');
    bench.watch.reserve('chat', four, true, 'pressure');
    expect(bench.endpoint(four).state).toBe('warming');
    bench.watch.reserve('chat', four, false, 'calm');
    bench.endpoint(four).standby = false;
    bench.watch.tick();
    expect(bench.changes.at(-1)).toMatchObject({ address: four, from: 'standby', to: 'warming', cause: 'discovered' });
    bench.watch.reserve('chat', four, false, 'calm');
    expect(bench.endpoint(four).state).toBe('warming');
  });

  it('the reserve stands by until it is called, and again when it is sent back', () => {
    bench = new Bench('a', {}, [four]);
    expect(bench.states()).toEqual(['ready', 'ready', 'ready', 'standby']);
    bench.watch.reserve('chat', four, true, 'pressure', 'a wait of 2 s');
    expect(bench.changes.at(-1)).toMatchObject({ address: four, from: 'standby', to: 'warming', cause: 'pressure', detail: 'a wait of 2 s' });
    bench.watch.reserve('chat', four, false, 'calm');
    expect(bench.endpoint(four).state).toBe('standby');
    bench.watch.reserve('chat', one, false, 'calm');
    expect(bench.endpoint(one).state).toBe('ready');
  });
});

describe('endpoints that come and go', () => {
  const named = (list: readonly string[]): { name: string; endpoints: { address: string; weight: number; labels: object; requestsMax: undefined }[] }[] => [
    { name: 'chat', endpoints: list.map((address) => ({ address, weight: 1, labels: {}, requestsMax: undefined })) },
  ];
  const update = (list: readonly string[]): void => {
    for (const change of bench.fleet.update(named(list) as never, bench.clock.ms)) bench.watch.membership(change);
  };

  it('join with a slow start, drain, return, and are gone', () => {
    const fresh = '10.0.0.9:80';
    update([...addresses, fresh]);
    expect(bench.endpoint(fresh)).toMatchObject({ state: 'warming', readySinceMs: 1_000 });
    update([two, three, four, fresh]);
    expect(bench.endpoint(one).state).toBe('draining');
    update([...addresses, fresh]);
    expect(bench.endpoint(one).state).toBe('warming');
    update([two, three, four, fresh]);
    for (const change of bench.fleet.sweep(2_000, 60_000)) bench.watch.membership(change);
    expect(bench.changes.map(({ address, from, to, cause }) => [address, from, to, cause])).toEqual([
      [fresh, undefined, 'warming', 'discovered'],
      [one, 'ready', 'draining', 'removed'],
      [one, 'draining', 'warming', 'returned'],
      [one, 'warming', 'draining', 'removed'],
      [one, 'draining', undefined, 'removed'],
    ]);
  });

  it('are probed before they serve, where the pool is', () => {
    bench = new Bench('a', { isProbed: true });
    update([...addresses, '10.0.0.9:80']);
    expect(bench.endpoint('10.0.0.9:80').state).toBe('joining');
    bench.watch.probed('chat', '10.0.0.9:80', { kind: 'passing' });
    expect(bench.endpoint('10.0.0.9:80').state).toBe('warming');
  });
});

describe('several routers', () => {
  let other: Bench;
  beforeEach(() => {
    other = new Bench('b', {}, [], bench.clock);
    bench.peers.push(other);
    other.peers.push(bench);
  });

  it('agree on what one of them found out, and on when it is tried again', () => {
    bench.fail(one);
    expect(other.endpoint(one).state).toBe('ejected');
    expect(other.changes).toMatchObject([{ address: one, to: 'ejected', cause: 'failures', by: 'a', untilMs: 2_000 }]);
    bench.wait(1_100);
    expect([bench, other].map((router) => router.endpoint(one).state)).toEqual(['half-open', 'half-open']);
    other.fail(one, 1);
    expect(bench.endpoint(one).state).toBe('ejected');
    bench.wait(2_100);
    for (let i = 0; i < 2; i += 1) bench.request(one, 60);
    expect([bench, other].map((router) => router.endpoint(one).state)).toEqual(['warming', 'warming']);
  });

  it('never leave out more than the share, whoever found out what at the same time', () => {
    bench.peers.length = 0;
    other.peers.length = 0;
    bench.fail(one);
    bench.fail(two);
    other.fail(three);
    other.fail(four);
    const [mine, theirs] = [bench.watch.rows('chat'), other.watch.rows('chat')];
    bench.peers.push(other);
    other.peers.push(bench);
    for (const row of theirs) bench.watch.receive('chat', row);
    for (const row of mine) other.watch.receive('chat', row);
    expect(bench.states()).toEqual(other.states());
    expect(bench.states().filter((state) => state === 'ejected').length).toBeLessThanOrEqual(2);
    expect(bench.states().filter((state) => state === 'ejected').length).toBeGreaterThan(0);
  });

  it('that join late learn all from what is told again, in any order, and older words change nothing', () => {
    bench.fail(one);
    bench.watch.operate('chat', two, 'draining');
    bench.wait(1_100);
    for (let i = 0; i < 2; i += 1) bench.request(one, 60);
    const old = bench.rows.slice();
    const late = new Bench('c', {}, [], bench.clock);
    for (const row of [...bench.watch.rows('chat').reverse(), ...old, ...old.reverse()]) late.watch.receive('chat', row);
    expect(late.endpoint(one).health.breaker.state).toBe('closed');
    expect(late.endpoint(two).state).toBe('draining');
  });

  it('take no word on endpoints they do not know, and none of a probe where none is wanted', () => {
    const row: HealthRow = { address: '10.9.9.9:80', aspect: 'breaker', version: 5, by: 'x', value: 'open', ms: 100, strikes: 1, cause: 'failures', detail: undefined };
    bench.watch.receive('chat', row);
    bench.watch.receive('none', { ...row, address: one });
    bench.watch.receive('chat', { ...row, address: one, aspect: 'probe', value: 'failing' });
    bench.watch.receive('chat', { ...row, address: one, aspect: 'reserve', value: 'reserve' });
    expect(bench.changes).toEqual([]);
  });

  it('of two that speak at once the same one is heard by all', () => {
    const row = (by: string, value: string): HealthRow => ({ address: one, aspect: 'operator', version: 1, by, value, ms: 0, strikes: 0, cause: 'operator', detail: undefined });
    const words = [row('x', 'draining'), row('y', 'not-ready')];
    for (const word of words) bench.watch.receive('chat', word);
    other.watch.receive('chat', words[1]!);
    other.watch.receive('chat', words[0]!);
    expect([bench.endpoint(one).state, other.endpoint(one).state]).toEqual(['not-ready', 'not-ready']);
  });
});
