import { isAddress, isKeyId } from '../router/exchange-messages.ts';
import type { ExchangeEvents } from '../router/ports.ts';
import type { ExchangeTransport, StoredPlacement } from '../router/shared-exchange.ts';
import { createClient, describeTarget, explainTrouble, type RedisClient, type RedisTrouble } from './connection.ts';
import { createKeys, type Keys } from './keys.ts';
import { Scripts } from './scripts.ts';
import type { RedisSettings } from './settings.ts';

/** What comes in. */
export interface TransportReceiver {
  /** A message of a pool, or a stored snapshot. */
  receive(pool: string, text: string): void;
  /** Completion reports for this router. */
  receiveForwarded(text: string): void;
  /** Exceptions as they are kept, oldest first. */
  receivePlacements(pool: string, placements: readonly StoredPlacement[]): void;
  /** The exceptions that were kept are gone. */
  retellPlacements(): void;
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
/** Failed sends in a row after which Redis is left alone for a moment, and for how long. */
const failuresMax = 5;
const pauseMs = 250;
/** Longest that a start waits for Redis, in ms. */
const startMsMax = 3_000;
/** Connections closed without a word, while starting, after which the port is taken for one that expects TLS. */
const wordlessClosesMax = 3;
/** Exceptions read at once, and by a router that joins. */
const placementsPage = 5_000;
const placementsJoinMax = 100_000;
/** Routers of a pool whose snapshots are read. */
const routersMax = 10_000;

/** Carries the exchange's messages through Redis. Everything that waits for Redis waits in here; every public send returns at once. */
export class RedisTransport implements ExchangeTransport {
  readonly #options: RedisTransportOptions;
  readonly #keys: Keys;
  readonly #commands: RedisClient;
  readonly #subscriber: RedisClient;
  readonly #scripts: Scripts;
  readonly #where: string;
  readonly #poolOfChannel: ReadonlyMap<string, string>;
  /** Stream id up to which a pool's exceptions were read. */
  readonly #placementsRead = new Map<string, string>();
  #wakeTimer: NodeJS.Timeout | undefined;
  #underWay = 0;
  #failures = 0;
  #pausedUntilMs = 0;
  #trouble: RedisTrouble | undefined;
  #polling = false;
  #stopped = false;

  constructor(options: RedisTransportOptions) {
    const { settings, pools } = options;
    this.#options = options;
    this.#keys = createKeys(settings.keyPrefix);
    this.#where = describeTarget(settings);
    this.#commands = createClient(settings, 'commands');
    this.#subscriber = createClient(settings, 'subscriber');
    this.#scripts = new Scripts(this.#commands, this.#keys);
    this.#poolOfChannel = new Map(pools.map((pool) => [this.#keys.events(pool), pool]));
  }

  /** The scripts, for what else in this process needs Redis. */
  get scripts(): Scripts {
    return this.#scripts;
  }

  /** What is wrong with Redis now; undefined: nothing known. */
  get trouble(): RedisTrouble | undefined {
    return this.#trouble;
  }

  /** Whether commands can be sent. */
  get ready(): boolean {
    return this.#commands.status === 'ready' && performance.now() >= this.#pausedUntilMs;
  }

  publish(pool: string, message: string): void {
    this.send(() => this.#commands.publish(this.#keys.events(pool), message));
  }

  publishSnapshot(pool: string, message: string): void {
    const { settings, routerId } = this.#options;
    this.send(async () => {
      try {
        await this.#scripts.publishSnapshot(pool, routerId, message, 3 * settings.snapshotMs, 20 * settings.snapshotMs);
      } catch (error) {
        // Where nothing can be stored, the message itself may still get through.
        if (/^(OOM|MISCONF)/.test((error as Error).message)) await this.#commands.publish(this.#keys.events(pool), message);
        throw error;
      }
    });
  }

  storePlacements(pool: string, placements: readonly StoredPlacement[]): void {
    for (let at = 0; at < placements.length; at += 1_000) {
      const page = placements.slice(at, at + 1_000);
      this.send(() => this.#scripts.storePlacements(pool, page));
    }
  }

  forward(owner: string, message: string, failed: () => void): void {
    const sent = this.send(async () => {
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
    this.#wakeTimer = setTimeout(() => this.#options.receiver().flush(), 1);
  }

  /**
   * Connects both clients and joins: subscribes, reads what is kept. Resolves even when Redis is away, since routing does not need
   * it and recovery needs no restart. Rejects where waiting cannot help: wrong certificate, wrong user, plain text to a TLS port.
   */
  async start(): Promise<void> {
    for (const client of [this.#commands, this.#subscriber]) client.on('error', (error: Error) => this.#failed(error));
    this.#commands.on('ready', () => this.#recovered());
    this.#subscriber.on('message', (channel: string, text: string) => {
      const pool = this.#poolOfChannel.get(channel);
      if (pool !== undefined) this.#options.receiver().receive(pool, text);
      else this.#options.receiver().receiveForwarded(text);
    });
    const refused = await this.#connect();
    if (refused !== undefined) {
      await this.stop();
      throw new Error(refused.message);
    }
    await this.poll();
  }

  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    clearTimeout(this.#wakeTimer);
    // What was just flushed gets the time to leave.
    await new Promise((resolve) => setTimeout(resolve, 20));
    this.#commands.disconnect(false);
    this.#subscriber.disconnect(false);
  }

  /** The subscription has gone silent: it is made anew. */
  resubscribe(): void {
    if (!this.#stopped && this.#subscriber.status === 'ready') this.#subscriber.disconnect(true);
  }

  /** Reads what is kept: snapshots that the subscription missed, and new exceptions. Never rejects. */
  async poll(): Promise<void> {
    if (this.#polling || this.#stopped || !this.ready) return;
    this.#polling = true;
    try {
      for (const pool of this.#options.pools) {
        await this.#readSnapshots(pool);
        await this.#readPlacements(pool);
      }
    } catch (error) {
      this.#failed(error as Error);
    } finally {
      this.#polling = false;
    }
  }

  async #readSnapshots(pool: string): Promise<void> {
    const { routerId } = this.#options;
    const routers = (await this.#commands.zrange(this.#keys.routers(pool), 0, String(routersMax - 1))).filter((router) => router !== routerId);
    if (routers.length === 0) return;
    for (const text of await this.#commands.mget(routers.map((router) => this.#keys.snapshot(pool, router)))) {
      if (text !== null) this.#options.receiver().receive(pool, text);
    }
  }

  async #readPlacements(pool: string): Promise<void> {
    const key = this.#keys.placements(pool);
    let last = this.#placementsRead.get(pool);
    if (last !== undefined && (await this.#commands.exists(key)) === 0) {
      this.#placementsRead.set(pool, '0-0');
      this.#options.receiver().retellPlacements();
      return;
    }
    for (let read = 0; read < placementsJoinMax; ) {
      const reply = await this.#commands.xread('COUNT', placementsPage, 'STREAMS', key, last ?? '0-0');
      const entries = reply?.[0]?.[1] ?? [];
      this.#options.receiver().receivePlacements(pool, entries.flatMap(([, fields]) => toPlacement(fields)));
      last = entries.at(-1)?.[0] ?? last ?? '0-0';
      read += entries.length;
      this.#placementsRead.set(pool, last);
      if (entries.length < placementsPage) return;
    }
  }

  /** Starts a send, if Redis can take one. Its outcome is noted when it comes; nobody waits for it. */
  send(send: () => Promise<unknown>): boolean {
    if (this.#stopped || !this.ready || this.#underWay >= sendsUnderWayMax) {
      this.#options.events.exchangeDropped();
      return false;
    }
    this.#underWay += 1;
    void send()
      .then(
        () => {
          this.#failures = 0;
          this.#recovered();
        },
        (error: unknown) => {
          this.#failures += 1;
          if (this.#failures >= failuresMax) this.#pausedUntilMs = performance.now() + pauseMs;
          this.#options.events.exchangeDropped();
          this.#failed(error as Error);
        },
      )
      .finally(() => {
        this.#underWay -= 1;
      });
    return true;
  }

  #failed(error: Error & { lastNodeError?: Error }): void {
    if (this.#stopped) return;
    // A cluster wraps the cause.
    const trouble = explainTrouble(error.lastNodeError ?? error, this.#where);
    if (trouble.code === this.#trouble?.code) return;
    // "Not connected" says less than the cause that is known already.
    if (trouble.code === 'other' && this.#trouble !== undefined) return;
    this.#trouble = trouble;
    this.#options.events.exchangeTrouble(trouble);
  }

  #recovered(): void {
    if (this.#trouble === undefined || this.#failures > 0) return;
    this.#trouble = undefined;
    this.#options.events.exchangeRecovered();
  }

  /** Waits until both clients are subscribed and proved, a permanent cause shows, or time is up. */
  async #connect(): Promise<RedisTrouble | undefined> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), startMsMax);
    });
    const refused = new Promise<RedisTrouble>((resolve) => {
      let wordless = 0;
      let greeted = false;
      this.#commands.once('ready', () => (greeted = true));
      this.#commands.on('error', (error: Error & { lastNodeError?: Error }) => {
        const trouble = explainTrouble(error.lastNodeError ?? error, this.#where);
        if (trouble.permanent) resolve(trouble);
      });
      this.#commands.on('connect', () => {
        this.#commands.once('close', () => {
          wordless += greeted ? 0 : 1;
          if (wordless < wordlessClosesMax || this.#trouble?.permanent === true) return;
          const message = `Redis at ${this.#where}: it closes each connection without a word: the port most likely expects TLS. Use rediss:// in state.url.`;
          resolve({ code: 'expects-tls', message, permanent: true });
        });
      });
    });
    const joined = this.#join().catch((error: unknown) => {
      const trouble = explainTrouble(error as Error, this.#where);
      this.#failed(error as Error);
      return trouble.permanent ? trouble : late;
    });
    const outcome = await Promise.race([refused, joined, late]);
    clearTimeout(timer);
    return outcome;
  }

  /** Connects, subscribes, and makes each kind of call once, so that a missing permission shows now and by its name. */
  async #join(): Promise<undefined> {
    const { pools, routerId } = this.#options;
    const channels = [...this.#poolOfChannel.keys(), this.#keys.reports(routerId)];
    // Once the first connection stands, ioredis subscribes again after each reconnection.
    const subscribe = async (): Promise<void> => void (await this.#subscriber.subscribe(...channels));
    this.#subscriber.once('ready', () => void subscribe().catch((error: Error) => this.#failed(error)));
    await Promise.all([connect(this.#commands), connect(this.#subscriber)]);
    await subscribe();
    for (const pool of pools) await this.#readSnapshots(pool);
    return undefined;
  }
}

async function connect(client: RedisClient): Promise<void> {
  await client.connect();
}

function toPlacement(fields: readonly string[]): StoredPlacement[] {
  const [, keyId, , address] = fields;
  if (!isKeyId(keyId)) return [];
  return [{ keyId, address: isAddress(address) ? address : undefined }];
}
