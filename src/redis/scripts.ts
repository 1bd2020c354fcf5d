import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { CappedEndpoint } from '../router/ports.ts';
import type { StoredPlacement } from '../router/shared-exchange.ts';
import type { RedisClient } from './connection.ts';
import type { Keys } from './keys.ts';

/** Every script, by the name of its file under scripts/, with what each call needs. Test: the file's header says the same. */
export const scriptFiles = ['check-access', 'publish-snapshot', 'store-placements', 'acquire-cap', 'renew-cap', 'release-cap'] as const;
type ScriptName = (typeof scriptFiles)[number];

// In dist/ the build puts the scripts beside the bundle; in src/ they are beside this file.
const folder = path.join(path.dirname(fileURLToPath(import.meta.url)), 'scripts');

/** The text of a script. */
export function readScript(name: ScriptName): string {
  return readFileSync(path.join(folder, `${name}.lua`), 'utf8');
}

/** Exceptions kept per pool, about, and how long after the last one. */
const placementsKept = 100_000;
const placementsKeptMs = 24 * 3_600_000;
/** How long the key that permissions are tried on stays should it not be deleted. */
const checkTtlMs = 1_000;

type Runner = (keyCount: number, ...args: (string | number)[]) => Promise<unknown>;

/** The scripts as typed calls on one client. All return promises that reject when Redis does not answer in time. */
export class Scripts {
  readonly #run: Readonly<Record<ScriptName, Runner>>;
  readonly #keys: Keys;

  constructor(client: RedisClient, keys: Keys) {
    this.#keys = keys;
    const runners = scriptFiles.map((name): [ScriptName, Runner] => {
      client.defineCommand(name, { lua: readScript(name) });
      const command = (client as unknown as Record<string, Runner>)[name];
      if (command === undefined) throw new Error(`script ${name} was not defined`);
      return [name, command.bind(client)];
    });
    this.#run = Object.fromEntries(runners) as Record<ScriptName, Runner>;
  }

  /** Tries every command that the scripts use. Returns what was refused, in the server's words. */
  async checkAccess(pool: string, router: string): Promise<string[]> {
    const reply = await this.#run['check-access'](1, this.#keys.check(pool, router), this.#keys.events(pool), checkTtlMs);
    return Array.isArray(reply) ? reply.map(String) : [];
  }

  /** Stores and tells a snapshot. Returns the number of routers known to Redis. */
  async publishSnapshot(pool: string, router: string, snapshot: string, ttlMs: number, routerTtlMs: number): Promise<number> {
    const keys = [this.#keys.snapshot(pool, router), this.#keys.routers(pool)];
    return toNumber(await this.#run['publish-snapshot'](keys.length, ...keys, router, snapshot, ttlMs, routerTtlMs, this.#keys.events(pool)));
  }

  /** Appends exceptions. */
  async storePlacements(pool: string, placements: readonly StoredPlacement[]): Promise<number> {
    const pairs = placements.flatMap(({ keyId, address }) => [keyId, address ?? '']);
    return toNumber(await this.#run['store-placements'](1, this.#keys.placements(pool), placementsKept, placementsKeptMs, ...pairs));
  }

  /** Takes a place on the first endpoint that has one; undefined: all are full. */
  async acquireCap(pool: string, lease: string, endpoints: readonly CappedEndpoint[], ttlMs: number): Promise<string | undefined> {
    const keys = endpoints.map(({ address }) => this.#keys.cap(pool, address));
    const taken = toNumber(await this.#run['acquire-cap'](keys.length, ...keys, lease, ttlMs, ...endpoints.map(({ requestsMax }) => requestsMax)));
    return endpoints[taken - 1]?.address;
  }

  /** Prolongs places. */
  async renewCap(pool: string, address: string, leases: readonly string[], ttlMs: number): Promise<number> {
    return toNumber(await this.#run['renew-cap'](1, this.#keys.cap(pool, address), ttlMs, ...leases));
  }

  /** Gives places back. */
  async releaseCap(pool: string, address: string, leases: readonly string[]): Promise<number> {
    return toNumber(await this.#run['release-cap'](1, this.#keys.cap(pool, address), ...leases));
  }
}

function toNumber(reply: unknown): number {
  if (typeof reply !== 'number') throw new Error(`expected a number from a script, got ${typeof reply}`);
  return reply;
}
