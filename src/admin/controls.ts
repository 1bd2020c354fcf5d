import type { Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import * as z from 'zod';
import { toHostPort } from '../core/data-parallel-rank.ts';
import type { FleetView } from '../fleet/fleet-view.ts';
import type { RouteWeights, RouteWeightsChange } from '../router/route-weights.ts';

/** States that an operator can put an endpoint in. */
export type OperatorState = 'ready' | 'draining' | 'not-ready';

/** What an operator can change while the router runs. Held in memory: a restart, and the other routers, know nothing of it. */
export interface Controls {
  /** Sets the state of an endpoint, of all its ranks where it has several. Returns which part of the name was unknown; undefined: done. */
  setEndpointState(pool: string, address: string, state: OperatorState): 'pool' | 'endpoint' | undefined;
  hasRoute(name: string): boolean;
  /** Returns what is wrong with the change, in words; undefined: it holds from the next request on. */
  setWeights(route: string, change: RouteWeightsChange): string | undefined;
  /** Back to the configuration. */
  resetWeights(route: string): void;
}

/** Something that an operator changed, for the log: whoever looks for the cause later finds no configuration that says it. */
export type OperatorChange =
  | { readonly pool: string; readonly endpoint: string; readonly state: OperatorState }
  | ({ readonly route: string } & RouteWeightsChange)
  | { readonly route: string; readonly reset: true };

export interface ControlsOptions {
  readonly fleet: FleetView;
  readonly weights: RouteWeights;
  readonly nowMs: () => number;
  /** Is told of each change that holds. */
  readonly changed: (change: OperatorChange) => void;
}

/** The controls of one router. */
export function createControls({ fleet, weights, nowMs, changed }: ControlsOptions): Controls {
  return {
    setEndpointState: (poolName, address, state) => {
      const pool = fleet.pool(poolName);
      if (pool === undefined) return 'pool';
      const meant = pool.endpoints.filter((endpoint) => endpoint.address === address || toHostPort(endpoint.address) === address);
      for (const endpoint of meant) endpoint.setState(state, nowMs());
      if (meant.length === 0) return 'endpoint';
      changed({ pool: poolName, endpoint: address, state });
      return undefined;
    },
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
const weightsPath = '/api/v1/routes/:route/weights';

/** What can be changed, by method and path, in words. */
export const controlPages = {
  [`PUT ${statePath}`]: '{"state": "ready" | "draining" | "not-ready"}: whether an endpoint gets new requests',
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
const bodyBytesMax = 65_536;

/** Whether a path is one that can be written to. */
export function isControlPath(path: string): boolean {
  return /^\/api\/v1\/(pools\/[^/]+\/endpoints\/[^/]+\/state|routes\/[^/]+\/weights)$/.test(path);
}

/**
 * Adds the pages that change something. Whoever reaches the port may use them, so they are there only where it listens on loopback; and a
 * web page in a browser on this machine may not: its requests carry an origin, or a name of its own for this host.
 */
export function addControls(app: Hono, controls: Controls): void {
  const limit = bodyLimit({ maxSize: bodyBytesMax, onError: (context) => fail(context, 413, 'too_large', `A change is at most ${bodyBytesMax} bytes.`) });
  app.put(statePath, limit, async (context) => {
    const parsed = await readJson(context, stateChange);
    if (!parsed.ok) return parsed.answer;
    const { pool, address } = context.req.param();
    const unknown = controls.setEndpointState(pool, address, parsed.value.state);
    if (unknown !== undefined) return fail(context, 404, 'not_found', `There is no such ${unknown}; GET /api/v1/fleet lists them.`);
    return context.json({ pool, address, state: parsed.value.state });
  });
  app.put(weightsPath, limit, async (context) => {
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

async function readJson<T>(context: Context, schema: z.ZodType<T>): Promise<{ ok: true; value: T } | { ok: false; answer: Response }> {
  if (!/^application\/json\s*(;|$)/i.test(context.req.header('content-type') ?? '')) {
    return { ok: false, answer: fail(context, 415, 'not_json', 'Send JSON, with content-type: application/json.') };
  }
  let written: unknown;
  try {
    written = JSON.parse(await context.req.text());
  } catch {
    return { ok: false, answer: fail(context, 400, 'not_json', 'The body is not JSON.') };
  }
  const parsed = schema.safeParse(written);
  if (parsed.success) return { ok: true, value: parsed.data };
  const [first] = parsed.error.issues;
  return { ok: false, answer: fail(context, 400, 'bad_change', `${first?.path.join('.') ?? ''}: ${first?.message ?? ''}`) };
}
