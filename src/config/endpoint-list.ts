import { readFileSync } from 'node:fs';
import { toRankAddress } from '../core/data-parallel-rank.ts';
import type { EndpointDefinition } from '../fleet/endpoint.ts';
import type { EndpointListOutcome } from '../router/fleet-members.ts';
import { type Problem, toPath } from './problem.ts';
import { type EndpointConfig, endpointListSchema } from './schema.ts';
import { toProblems } from './schema-problems.ts';
import { readYaml } from './yaml-text.ts';

/** Reads a file that holds a pool's endpoints. Never throws for what a user can have written. */
export function readEndpointList(file: string, shared: Readonly<Record<string, string>> = {}): EndpointListOutcome {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    return { ok: false, problems: [{ path: '', message: `cannot be read: ${(error as Error).message}` }] };
  }
  return parseEndpointList(text, shared);
}

/**
 * Checks a list of endpoints given as YAML or JSON text, of the same shape as `pools[].endpoints`. An empty list is one; an empty text is
 * not: that is what a file looks like that is being written. `shared`: labels of all endpoints; their own win.
 */
export function parseEndpointList(text: string, shared: Readonly<Record<string, string>> = {}): EndpointListOutcome {
  const read = readYaml(text);
  return read.ok ? toEndpointList(read.value, shared) : read;
}

/** The same, of a list that was read already. */
export function toEndpointList(written: unknown, shared: Readonly<Record<string, string>> = {}): EndpointListOutcome {
  const parsed = endpointListSchema.safeParse(written);
  if (!parsed.success) return { ok: false, problems: parsed.error.issues.flatMap((issue) => toProblems(issue)) };
  const problems: Problem[] = [];
  const addresses = new Set<string>();
  parsed.data.forEach(({ address }, at) => {
    if (addresses.has(address)) problems.push({ path: toPath([at, 'address']), message: `${address} is in this list already` });
    addresses.add(address);
  });
  if (problems.length > 0) return { ok: false, problems };
  return { ok: true, endpoints: parsed.data.flatMap((endpoint) => toEndpoints(endpoint, shared)) };
}

/** An endpoint with several data-parallel ranks is as many endpoints, each with the weight and the limits written. */
export function toEndpoints({ address, dpSize, weight, labels, limits, standby }: EndpointConfig, shared: Readonly<Record<string, string>> = {}): EndpointDefinition[] {
  const addresses = dpSize === 1 ? [address] : Array.from({ length: dpSize }, (_, rank) => toRankAddress(address, rank));
  return addresses.map((id) => ({
    address: id,
    weight,
    labels: { ...shared, ...labels },
    requestsMax: limits.requests,
    contextTokensMax: limits.contextTokens,
    kvTokensMax: limits.kvTokens,
    standby,
  }));
}
