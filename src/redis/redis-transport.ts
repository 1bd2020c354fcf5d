import { isAddress, isKeyId } from '../router/exchange-messages.ts';
import type { ExchangeEvents } from '../router/ports.ts';
import type { ExchangeTransport, StoredPlacement } from '../router/shared-exchange.ts';
import type { Redis } from 'ioredis';
import { createClient, createSubscriber, describeTarget, explainTrouble, findMismatch, isReply, type RedisClient, type RedisTrouble } from './connection.ts';
import { createKeys, type Keys } from './keys.ts';
import { Scripts } from './scripts.ts';
import type { RedisSettings } from './settings.ts';

/** What comes in. */
export interface TransportReceiver {
  /** A message of a pool, or a stored snapshot. */
  receive(pool: string, text: string): void;
  /** Completion reports for this router. */
  receiveReports(text: string): void;
  /** Exceptions as they are kept, oldest first. */
  receivePlacements(pool: string, placements: readonly StoredPlacement[]): void;
  /** A pool's exceptions that were kept are gone. */
  retellPlacements(pool: string): void;
  flush(): void;
}

export interface RedisTransportOptions {
  readonly settings: RedisSettings;
  readonly routerId: string;
  readonly pools: readonly string[];
  readonly receiver: () => TransportReceiver;
  readonly events: Pick<ExchangeEvents, 'exchangeTrouble' | 'exchangeRecovered' | 'exchangeDropped'>;
}

/** Sends under way at most: beyond it Redis is behind, and what is new replaces what is old soon anyway. */
const sendsUnderWayMax = 256;
/** Sends without an answer in a row after which only one at a time is tried, and the time between two tries. */
const failuresMax = 5;
const pauseMs = 250;
/** Longest that a start waits for Redis, in ms, and after which it looks whether one side speaks TLS and the other does not. */
const startMsMax = 3_000;
const mismatchMs = 1_000;
/** Exceptions read at once (each page holds up the process for a moment), and by a router that joins. */
const placementsPage = 1_000;
const placementsJoinMax = 100_000;
/** How long what happens gathers before it is sent, in ms. With 2 ms it takes a third fewer messages, and others hear 0.8 ms later. */
const gatherMs = 1;
/** Routers of a pool whose snapshots are read. */
const routersMax = 10_000;

/** What a call to Redis is for. */
export type Purpose = 'events' | 'snapshot' | 'placements' | 'reports' | 'caps' | 'poll' | 'subscription';

/** Calls that write: one that succeeds shows that the others could. */
const writes: ReadonlySet<Purpose> = new Set<Purpose>(['snapshot', 'placements', 'caps']);

/** Carries the exchange's messages through Redis. Everything that waits for Redis waits in here; every public send returns at once. */
export class RedisTransport implements ExchangeTransport {
  readonly #options: RedisTransportOptions;
  readonly #keys: Keys;
  readonly #commands: RedisClient;
  readonly #subscriber: Redis;
  readonly #scripts: Scripts;
  readonly #where: string;
  #pools: readonly string[];
  #poolOfChannel: ReadonlyMap<string, string>;
  /** Stream id up to which a pool's exceptions were read. */
  readonly #placementsRead = new Map<string, string>();
  /** What is wrong now, by what it stands in the way of: reaching Redis at all, writing anything, or one purpose. */
  readonly #troubles = new Map<'reaching' | 'writing' | Purpose, RedisTrouble>();
  #wakeTimer: NodeJS.Timeout | undefined;
  #underWay = 0;
  #unanswered = 0;
  #triedMs = 0;
  #trying = false;
  #polling = false;
  #stopped = false;

  constructor(options: RedisTransportOptions) {
    const { settings, pools } = options;
    this.#options = options;
    this.#keys = createKeys(settings.keyPrefix);
    this.#where = describeTarget(settings);
    this.#commands = createClient(settings);
    this.#subscriber = createSubscriber(settings, this.#commands);
    this.#scripts = new Scripts(this.#commands, this.#keys);
    this.#pools = pools;
    this.#poolOfChannel = this.#channelsOf(pools);
  }

  #channelsOf(pools: readonly string[]): ReadonlyMap<string, string> {
    return new Map(pools.map((pool) => [this.#keys.events(pool), pool]));
  }

  /**
   * Carries the messages of these pools from now on. Of one that is new the next poll brings what is kept; of one that is gone nothing is
   * read any more, and its keys expire.
   */
  follow(pools: readonly string[]): void {
    const before = this.#poolOfChannel;
    const now = this.#channelsOf(pools);
    const came = [...now.keys()].filter((channel) => !before.has(channel));
    const went = [...before.keys()].filter((channel) => !now.has(channel));
    this.#pools = pools;
    this.#poolOfChannel = now;
    for (const channel of went) this.#placementsRead.delete(before.get(channel) ?? '');
    // While there is no connection nothing is asked of it: the next one subscribes to all that there is then.
    if (this.#stopped || this.#subscriber.status !== 'ready') return;
    if (went.length > 0) this.#subscriber.unsubscribe(...went).catch((error: unknown) => this.#failed('subscription', error as Error));
    if (came.length === 0) return;
    void this.#subscribe().then(
      () => this.poll(),
      () => undefined,
    );
  }

  /** The scripts, for what else in this process needs Redis. */
  get scripts(): Scripts {
    return this.#scripts;
  }

  /** What is wrong with Redis now, the most general first; undefined: nothing known. */
  get trouble(): RedisTrouble | undefined {
    return this.#troubles.get('reaching') ?? this.#troubles.get('writing') ?? [...this.#troubles.values()][0];
  }

  /** Whether Redis is there and answers, so far as known. */
  get ready(): boolean {
    return this.#commands.status === 'ready' && this.#unanswered < failuresMax;
  }

  publish(pool: string, message: string): void {
    this.send('events', () => this.#commands.publish(this.#keys.events(pool), message));
  }

  publishSnapshot(pool: string, message: string): void {
    const { settings, routerId } = this.#options;
    this.send('snapshot', async () => {
      try {
        await this.#scripts.publishSnapshot(pool, routerId, message, 3 * settings.snapshotMs, 20 * settings.snapshotMs);
      } catch (error) {
        // Where nothing can be stored, the message itself may still get through.
        if (isReply(error as Error)) await this.#commands.publish(this.#keys.events(pool), message);
        throw error;
      }
    });
  }

  storePlacements(pool: string, placements: readonly StoredPlacement[], failed: () => void): void {
    for (let at = 0; at < placements.length; at += 1_000) {
      const page = placements.slice(at, at + 1_000);
      const sent = this.send('placements', async () => {
        try {
          await this.#scripts.storePlacements(pool, page);
        } catch (error) {
          failed();
          throw error;
        }
      });
      if (!sent) failed();
    }
  }

  forward(owner: string, message: string, failed: () => void): void {
    const sent = this.send('reports', async () => {
      try {
        const receivers = await this.#commands.publish(this.#keys.reports(owner), message);
        // A cluster's node counts only those that listen at itself.
        if (receivers === 0 && this.#options.settings.cluster === undefined) failed();
      } catch (error) {
        failed();
        throw error;
      }
    });
    if (!sent) failed();
  }

  wake(): void {
    this.#wakeTimer = setTimeout(() => this.#options.receiver().flush(), gatherMs);
  }

  /**
   * Connects both clients and joins: subscribes, reads what is kept. Resolves even when Redis is away, since routing does not need
   * it and recovery needs no restart. Rejects where waiting cannot help: wrong certificate, wrong user, plain text to a TLS port.
   */
  async start(): Promise<void> {
    this.#commands.on('error', (error: Error) => this.#failed('poll', error));
    this.#subscriber.on('error', (error: Error) => this.#failed('subscription', error));
    // After every connection anew: what the client remembers of an earlier subscription it may have from one that never came about.
    this.#subscriber.on('ready', () => void this.#subscribe().catch(() => {}));
    this.#subscriber.on('message', (channel: string, text: string) => {
      const pool = this.#poolOfChannel.get(channel);
      if (pool !== undefined) this.#options.receiver().receive(pool, text);
      else this.#options.receiver().receiveReports(text);
    });
    const refused = await this.#connect();
    if (refused !== undefined) {
      this.stop();
      throw new Error(refused.message);
    }
    if (!this.ready && this.#troubles.size === 0) this.#failed('poll', new Error('connect ETIMEDOUT'));
    await this.poll();
  }

  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    clearTimeout(this.#wakeTimer);
    this.#commands.disconnect(false);
    this.#subscriber.disconnect(false);
  }

  /** The subscription has gone silent: it is made anew. */
  resubscribe(): void {
    if (!this.#stopped && this.#subscriber.status === 'ready') this.#subscriber.disconnect(true);
  }

  /** Reads what is kept: snapshots that the subscription missed, and new exceptions. Never rejects. */
  async poll(): Promise<void> {
    if (this.#polling) return;
    this.#polling = true;
    for (const pool of this.#pools) {
      for (const read of [() => this.#readSnapshots(pool), () => this.#readPlacementsOrHeal(pool)]) {
        if (this.#stopped || !this.ready) break;
        // One key that is not what it should be keeps nobody from reading the others.
        await read().then(
          () => this.#succeeded('poll'),
          (error: unknown) => this.#failed('poll', error as Error),
        );
      }
    }
    this.#polling = false;
  }

  async #readSnapshots(pool: string): Promise<void> {
    const { routerId } = this.#options;
    const routers = (await this.#commands.zrange(this.#keys.routers(pool), 0, String(routersMax - 1))).filter((router) => router !== routerId);
    if (routers.length === 0) return;
    for (const text of await this.#commands.mget(routers.map((router) => this.#keys.snapshot(pool, router)))) {
      if (text !== null) this.#options.receiver().receive(pool, text);
    }
  }

  /** A key that is no stream would stay as it is until a session moves: the script that stores them replaces it, with nothing to store too. */
  async #readPlacementsOrHeal(pool: string): Promise<void> {
    try {
      await this.#readPlacements(pool);
    } catch (error) {
      if (!(error as Error).message.startsWith('WRONGTYPE')) throw error;
      await this.#scripts.storePlacements(pool, []);
      this.#placementsRead.set(pool, firstId);
      this.#options.receiver().retellPlacements(pool);
    }
  }

  async #readPlacements(pool: string): Promise<void> {
    const key = this.#keys.placements(pool);
    let last = this.#placementsRead.get(pool);
    // The entry read last is gone: Redis was wiped, or a replica that lacked it took over.
    if (last !== undefined && last !== firstId && (await this.#commands.xrange(key, last, last)).length === 0) {
      this.#placementsRead.set(pool, firstId);
      this.#options.receiver().retellPlacements(pool);
      return;
    }
    for (let read = 0; read < placementsJoinMax; ) {
      const reply = await this.#commands.xread('COUNT', placementsPage, 'STREAMS', key, last ?? firstId);
      const entries = reply?.[0]?.[1] ?? [];
      this.#options.receiver().receivePlacements(pool, entries.flatMap(([, fields]) => toPlacement(fields)));
      last = entries.at(-1)?.[0] ?? last ?? firstId;
      read += entries.length;
      this.#placementsRead.set(pool, last);
      if (entries.length < placementsPage) return;
    }
  }

  /** Starts a send, if Redis can take one. Its outcome is noted when it comes; nobody waits for it. */
  send(purpose: Purpose, send: () => Promise<unknown>): boolean {
    const trial = !this.ready;
    if (this.#stopped || this.#underWay >= sendsUnderWayMax || (trial && !this.#mayTry())) {
      this.#options.events.exchangeDropped();
      return false;
    }
    if (trial) {
      this.#trying = true;
      this.#triedMs = performance.now();
    }
    this.#underWay += 1;
    void send()
      .then(
        () => this.#succeeded(purpose),
        (error: unknown) => {
          this.#options.events.exchangeDropped();
          this.#failed(purpose, error as Error);
        },
      )
      .finally(() => {
        this.#underWay -= 1;
        if (trial) this.#trying = false;
      });
    return true;
  }

  /** Asks something whose answer someone waits for; undefined: there is none. */
  async ask<T>(purpose: Purpose, ask: () => Promise<T>): Promise<T | undefined> {
    if (this.#stopped || !this.ready) return undefined;
    try {
      const answer = await ask();
      this.#succeeded(purpose);
      return answer;
    } catch (error) {
      this.#failed(purpose, error as Error);
      return undefined;
    }
  }

  /** A server that does not answer is tried by one call at a time, so that nobody else has to find out by waiting. */
  #mayTry(): boolean {
    return this.#commands.status === 'ready' && !this.#trying && performance.now() - this.#triedMs >= pauseMs;
  }

  #succeeded(purpose: Purpose): void {
    if (purpose !== 'subscription') this.#unanswered = 0;
    if (this.#troubles.size === 0) return;
    this.#troubles.delete('reaching');
    this.#troubles.delete(purpose);
    if (writes.has(purpose)) this.#troubles.delete('writing');
    if (this.#troubles.size === 0) this.#options.events.exchangeRecovered();
  }

  #failed(purpose: Purpose, thrown: Error & { lastNodeError?: Error }): void {
    if (this.#stopped) return;
    // A cluster wraps the cause.
    const error = thrown.lastNodeError ?? thrown;
    const answered = isReply(error);
    if (purpose !== 'subscription') this.#unanswered = answered ? 0 : this.#unanswered + 1;
    const trouble = explainTrouble(error, this.#where);
    // That a connection is closed says less than what closed it, which is told by itself.
    if (trouble === undefined) return;
    const of = !answered && purpose !== 'subscription' ? 'reaching' : trouble.code === 'read-only' || trouble.code === 'out-of-memory' ? 'writing' : purpose;
    const known = [...this.#troubles.values()].some(({ code }) => code === trouble.code);
    this.#troubles.set(of, trouble);
    if (!known) this.#options.events.exchangeTrouble(trouble);
  }

  /** Waits until both clients are connected, subscribed and proved, a permanent cause shows, or time is up. */
  async #connect(): Promise<RedisTrouble | undefined> {
    const timers: NodeJS.Timeout[] = [];
    const late = new Promise<undefined>((resolve) => {
      timers.push(setTimeout(() => resolve(undefined), startMsMax));
    });
    const refused = new Promise<RedisTrouble>((resolve) => {
      const look = (error: Error & { lastNodeError?: Error }): void => {
        const trouble = explainTrouble(error.lastNodeError ?? error, this.#where);
        if (trouble?.permanent === true) resolve(trouble);
      };
      this.#commands.on('error', look);
      this.#subscriber.on('error', look);
      const findOut = async (): Promise<void> => {
        if (this.#commands.status === 'ready') return;
        const mismatch = await findMismatch(this.#options.settings, this.#where);
        if (mismatch !== undefined) resolve(mismatch);
      };
      timers.push(setTimeout(() => void findOut(), mismatchMs));
    });
    const joined = this.#join().catch((error: unknown) => {
      this.#failed('subscription', error as Error);
      const trouble = explainTrouble(error as Error, this.#where);
      return trouble?.permanent === true ? trouble : late;
    });
    const outcome = await Promise.race([refused, joined, late]);
    for (const timer of timers) clearTimeout(timer);
    return outcome;
  }

  /** Connects and subscribes, and makes each kind of call once, so that a missing permission shows now and by its name. */
  async #join(): Promise<RedisTrouble | undefined> {
    const { routerId } = this.#options;
    const pools = this.#pools;
    await Promise.all([connected(this.#commands), connected(this.#subscriber)]);
    const calls = pools.flatMap((pool): (() => Promise<unknown>)[] => [
      () => this.#commands.zrange(this.#keys.routers(pool), 0, '0'),
      () => this.#commands.mget(this.#keys.snapshot(pool, routerId)),
      () => this.#commands.xrange(this.#keys.placements(pool), firstId, firstId),
      () => this.#commands.xread('COUNT', 1, 'STREAMS', this.#keys.placements(pool), firstId),
      () => this.#commands.publish(this.#keys.events(pool), ''),
      async () => {
        const refused = await this.#scripts.checkAccess(pool, routerId);
        if (refused.length > 0) throw new Error(`NOPERM in scripts: ${[...new Set(refused)].join('; ')}`);
      },
    ]);
    const all = [
      () => this.#subscribe(),
      () => this.#commands.publish(this.#keys.reports(routerId), '[]'),
      () => this.#commands.info('server'),
      // There is no such script: the answer is one error or another.
      () => this.#commands.evalsha('0'.repeat(40), 0),
      ...calls,
    ];
    const outcomes = await Promise.allSettled(all.map((call) => this.#insist(call)));
    const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason as Error] : []));
    const denied = [...new Set(reasons.map(({ message }) => message).filter((message) => message.includes('NOPERM')))];
    if (denied.length > 0) return explainTrouble(new Error(denied.join('; ')), this.#where);
    const [reason] = reasons.filter((error) => !isReply(error));
    if (reason !== undefined) throw reason;
    return undefined;
  }

  /** Makes a call until there is an answer, for as long as a start may last. A cluster's client is ready before all its nodes are. */
  async #insist(call: () => Promise<unknown>): Promise<void> {
    const untilMs = performance.now() + startMsMax;
    for (;;) {
      try {
        await call();
        return;
      } catch (error) {
        if (isReply(error as Error) || (error as Error).message.includes('NOPERM') || this.#stopped || performance.now() > untilMs) throw error;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  async #subscribe(): Promise<void> {
    const channels = [...this.#poolOfChannel.keys(), this.#keys.reports(this.#options.routerId)];
    try {
      await this.#subscriber.subscribe(...channels);
      this.#succeeded('subscription');
    } catch (error) {
      this.#failed('subscription', error as Error);
      throw error;
    }
  }
}

/** Connects, at the first try or a later one; why it does not, the client's errors tell. */
function connected(client: RedisClient): Promise<void> {
  return new Promise((resolve) => {
    client.once('ready', () => resolve());
    client.connect().catch(() => {});
  });
}

/** Before all entries of a stream. */
const firstId = '0-0';

function toPlacement(fields: readonly string[]): StoredPlacement[] {
  const [, keyId, , address] = fields;
  if (!isKeyId(keyId)) return [];
  if (address === '') return [{ keyId, address: undefined }];
  return isAddress(address) ? [{ keyId, address }] : [];
}
