import { createHash } from 'node:crypto';
import type { CompiledConfig } from '../config/load-outcome.ts';

/** Names under which a configuration may hold a secret, or a URL with one. */
const secretNames: ReadonlySet<string> = new Set(['secret', 'password', 'token', 'url']);

/**
 * Tells configurations apart: 12 hex digits, the same in all routers that run the same. Of all settings, defaults included, but for
 * secrets: a hash that anybody may read would let them be guessed.
 */
export function versionOf({ settings }: Pick<CompiledConfig, 'settings'>): string {
  const text = JSON.stringify(settings, (name, value: unknown) => (secretNames.has(name) && typeof value === 'string' ? 'set' : value));
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}
