import type { Context, Hono } from 'hono';
import * as z from 'zod';
import { toHostPort } from '../core/data-parallel-rank.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import type { EndpointListOutcome, FleetMembers } from '../router/fleet-members.ts';
import type { ConfigReload } from '../router/reload-events.ts';
import type { RouteWeights, RouteWeightsChange } from '../router/route-weights.ts';

/** States that an operator can put an endpoint in. */
export type OperatorState = 'ready' | 'draining' | 'not-ready';

/** What an operator can change while the router runs. Held in memory, over no restart; states of endpoints by all routers that share theirs, all else by this one alone. */
export interface Controls {
  /** Sets the state of an endpoint, of all its ranks where it has several. Returns which part of the name was unknown; undefined: done. */
  setEndpointState(pool: string, address: string, state: OperatorState): 'pool' | 'endpoint' | undefined;
  /** Adds an endpoint, as the configuration would name it, with all its ranks; or defines it anew. Returns its address, or what is wrong. */
  addEndpoint(pool: string, written: unknown): EndpointAdded;
  /** Takes an endpoint away (`ip:port`, with all its ranks), whoever names it. Returns which part of the name was unknown; undefined: done. */
  removeEndpoint(pool: string, address: string): 'pool' | 'endpoint' | undefined;
  /** Reads the configuration again. */
  reload(): ConfigReload;
  hasRoute(name: string): boolean;
  /** Returns what is wrong with the change, in words; undefined: it holds from the next request on. */
  setWeights(route: string, change: RouteWeightsChange): string | undefined;
  /** Back to the configuration. */
  resetWeights(route: string): void;
}

/** What came of adding an endpoint. */
export type EndpointAdded =
  | { readonly kind: 'added'; readonly address: string }
  | { readonly kind: 'no-pool' }
  | { readonly kind: 'wrong'; readonly problems: readonly { readonly path: string; readonly message: string }[] };

/** Something that an operator changed, for the log: whoever looks for the cause later finds no configuration that says it. */
export type OperatorChange =
  | { readonly pool: string; readonly endpoint: string; readonly state: OperatorState }
  | { readonly pool: string; readonly endpoint: string; readonly member: 'added' | 'removed' }
  | ({ readonly route: string } & RouteWeightsChange)
  | { readonly route: string; readonly reset: true };

export interface ControlsOptions {
  readonly fleet: FleetView;
  readonly weights: RouteWeights;
  /** Sets an endpoint's state, in all routers that share theirs. False: the pool has no such endpoint. */
  readonly operate: (pool: string, address: string, state: OperatorState) => boolean;
  readonly members: Pick<FleetMembers, 'add' | 'remove'>;
  /** Reads what a caller wrote of an endpoint of a pool, as a list of one: its ranks, or what is wrong. Never throws. */
  readonly parseEndpoint: (pool: string, written: unknown) => EndpointListOutcome;
  readonly reload: () => ConfigReload;
  /** Is told of each change that holds. */
  readonly changed: (change: OperatorChange) => void;
}

/** The controls of one router. */
export function createControls({ fleet, weights, operate, changed, members, parseEndpoint, reload }: ControlsOptions): Controls {
  return {
    setEndpointState: (poolName, address, state) => {
      if (fleet.pool(poolName) === undefined) return 'pool';
      if (!operate(poolName, address, state)) return 'endpoint';
      changed({ pool: poolName, endpoint: address, state });
      return undefined;
    },
    addEndpoint: (pool, written) => {
      if (fleet.pool(pool) === undefined || fleet.isLeaving(pool)) return { kind: 'no-pool' };
      const read = parseEndpoint(pool, written);
      // Their paths begin with the place in the list.
      if (!read.ok) return { kind: 'wrong', problems: read.problems.map(({ path, message }) => ({ path: path.replace(/^\[0\]\.?/, ''), message })) };
      const address = toHostPort(read.endpoints[0]?.address ?? '');
      if (!members.add(pool, read.endpoints)) return { kind: 'no-pool' };
      changed({ pool, endpoint: address, member: 'added' });
      return { kind: 'added', address };
    },
    removeEndpoint: (pool, address) => {
      const unknown = members.remove(pool, address);
      if (unknown === undefined) changed({ pool, endpoint: address, member: 'removed' });
      return unknown;
    },
    reload,
    hasRoute: (name) => weights.has(name),
    setWeights: (route, change) => {
      const wrong = weights.set(route, change);
      if (wrong === undefined) changed({ route, ...change });
      return wrong;
    },
    resetWeights: (route) => {
      weights.reset(route);
      changed({ route, reset: true });
    },
  };
}

const statePath = '/api/v1/pools/:pool/endpoints/:address/state';
const membersPath = '/api/v1/pools/:pool/endpoints';
const memberPath = '/api/v1/pools/:pool/endpoints/:address';
const reloadPath = '/api/v1/reload';
const weightsPath = '/api/v1/routes/:route/weights';

/** What can be changed, by method and path, in words. */
export const controlPages = {
  [`PUT ${statePath}`]: '{"state": "ready" | "draining" | "not-ready"}: whether an endpoint gets new requests',
  [`POST ${membersPath}`]: '{"address", "weight"?, "labels"?, "limits"?, "dpSize"?}: adds an endpoint, until this router restarts',
  [`DELETE ${memberPath}`]: 'takes an endpoint away, whoever names it, until it is added again or this router restarts; it finishes what it has',
  [`POST ${reloadPath}`]: 'reads the configuration again',
  [`PUT ${weightsPath}`]: '{"targets"?: [{"pool", "model"?, "weight"}], "shiftShare"?: 0 to 1}: how a route splits its requests',
  [`DELETE ${weightsPath}`]: 'back to the configured weights and schedule',
} as const;

const stateChange = z.strictObject({ state: z.enum(['ready', 'draining', 'not-ready']) });
const weightsChange = z.strictObject({
  targets: z
    .array(z.strictObject({ pool: z.string(), model: z.string().optional(), weight: z.number() }))
    .min(1)
    .optional(),
  shiftShare: z.number().optional(),
});
/** Largest change taken, in bytes. */
const bodyBytesMax = 65_536;
/** For the answer: whoever reads it may think that it is for good, and for all. */
const holds = 'in this router, until it restarts';

/** Where changes are taken, by method. */
const writable: Readonly<Record<string, RegExp>> = {
  PUT: /^\/api\/v1\/(pools\/[^/]+\/endpoints\/[^/]+\/state|routes\/[^/]+\/weights)$/,
  POST: /^\/api\/v1\/(reload|pools\/[^/]+\/endpoints)$/,
  DELETE: /^\/api\/v1\/(pools\/[^/]+\/endpoints\/[^/]+(\/state)?|routes\/[^/]+\/weights)$/,
};

/** Whether a change may be sent to a path by this method. */
export function isControl(method: string, path: string): boolean {
  return writable[method]?.test(path) === true;
}

/**
 * Adds the pages that change something. Whoever reaches the port may use them, so they are there only where it listens on loopback; and a
 * web page in a browser on this machine may not: its requests carry an origin, or a name of its own for this host.
 */
export function addControls(app: Hono, controls: Controls): void {
  app.put(statePath, async (context) => {
    const parsed = await readJson(context, stateChange);
    if (!parsed.ok) return parsed.answer;
    const { pool, address } = context.req.param();
    const unknown = controls.setEndpointState(pool, address, parsed.value.state);
    if (unknown !== undefined) return fail(context, 404, 'not_found', `There is no such ${unknown}; GET /api/v1/fleet lists them.`);
    return context.json({ pool, address, state: parsed.value.state });
  });
  app.post(membersPath, async (context) => {
    const parsed = await readJson(context, z.unknown());
    if (!parsed.ok) return parsed.answer;
    const { pool } = context.req.param();
    const added = controls.addEndpoint(pool, parsed.value);
    if (added.kind === 'no-pool') return fail(context, 404, 'not_found', 'There is no such pool; GET /api/v1/fleet lists them.');
    if (added.kind === 'wrong') {
      return fail(context, 400, 'bad_change', added.problems.map(({ path, message }) => `${path === '' ? 'body' : path}: ${message}`).join('; '));
    }
    return context.json({ pool, address: added.address, holds });
  });
  app.delete(memberPath, (context) => {
    const { pool, address } = context.req.param();
    const unknown = controls.removeEndpoint(pool, address);
    if (unknown !== undefined) return fail(context, 404, 'not_found', `There is no such ${unknown}; GET /api/v1/fleet lists them.`);
    return context.json({ pool, address, holds });
  });
  app.post(reloadPath, (context) => {
    const { outcome, version, problems } = controls.reload();
    return context.json({ outcome, version: version ?? null, problems }, outcome === 'refused' ? 422 : 200);
  });
  app.put(weightsPath, async (context) => {
    const { route } = context.req.param();
    if (!controls.hasRoute(route)) return noRoute(context);
    const parsed = await readJson(context, weightsChange);
    if (!parsed.ok) return parsed.answer;
    const wrong = controls.setWeights(route, parsed.value);
    return wrong === undefined ? context.json({ route, ...parsed.value }) : fail(context, 400, 'bad_change', `${wrong}.`);
  });
  app.delete(weightsPath, (context) => {
    const { route } = context.req.param();
    if (!controls.hasRoute(route)) return noRoute(context);
    controls.resetWeights(route);
    return context.json({ route });
  });
}

/** Why a change is not taken from this caller; undefined: it is. */
export function refuseCaller(origin: string | undefined, host: string | undefined): string | undefined {
  if (origin !== undefined) return 'Changes are not taken from web pages.';
  const name = (host ?? '').replace(/:\d+$/, '');
  return name === 'localhost' || name === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(name) ? undefined : 'Changes are taken under the names of loopback only.';
}

function noRoute(context: Context): Response {
  return fail(context, 404, 'not_found', 'There is no such route; GET /api/v1/fleet lists them.');
}

function fail(context: Context, status: 400 | 404 | 413 | 415, code: string, message: string): Response {
  return context.json({ error: { code, message } }, status);
}

/**
 * The body, where there is one; not ok: it is larger than any change. Read by hand, since hono's own limit makes another request of one whose
 * length is not declared, which needs the global `Request` to be the server's.
 */
export async function readBody(context: Context): Promise<{ readonly ok: boolean; readonly body?: string }> {
  const { method, raw } = context.req;
  if (method === 'GET' || method === 'HEAD' || raw.body === null) return { ok: true };
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of raw.body as ReadableStream<Uint8Array>) {
    bytes += chunk.byteLength;
    if (bytes > bodyBytesMax) return { ok: false };
    chunks.push(chunk);
  }
  return bytes === 0 ? { ok: true } : { ok: true, body: Buffer.concat(chunks).toString('utf8') };
}

/** The answer to a body that {@link readBody} did not take. */
export function tooLarge(context: Context): Response {
  return fail(context, 413, 'too_large', `A change is at most ${bodyBytesMax} bytes.`);
}

async function readJson<T>(context: Context, schema: z.ZodType<T>): Promise<{ ok: true; value: T } | { ok: false; answer: Response }> {
  if (!/^application\/json\s*(;|$)/i.test(context.req.header('content-type') ?? '')) {
    return { ok: false, answer: fail(context, 415, 'not_json', 'Send JSON, with content-type: application/json.') };
  }
  const { ok, body = '' } = await readBody(context);
  if (!ok) return { ok: false, answer: tooLarge(context) };
  let written: unknown;
  try {
    written = JSON.parse(body);
  } catch {
    return { ok: false, answer: fail(context, 400, 'not_json', 'The body is not JSON.') };
  }
  const parsed = schema.safeParse(written);
  if (parsed.success) return { ok: true, value: parsed.data };
  const [first] = parsed.error.issues;
  return { ok: false, answer: fail(context, 400, 'bad_change', `${first?.path.join('.') ?? ''}: ${first?.message ?? ''}`) };
}
