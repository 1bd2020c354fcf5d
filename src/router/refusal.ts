import { countRejections, type Decision } from '../core/decision.ts';
import type { DecisionAccount } from '../core/explain.ts';
import { guardNames } from './guards.ts';
import type { RefusalCode } from './ports.ts';

/** A request that is answered here instead of being proxied. */
export interface Refusal {
  readonly kind: 'refuse';
  readonly code: RefusalCode;
  readonly status: 400 | 404 | 429 | 503;
  /** For the caller: cause and cure. Never holds what the client sent. */
  readonly message: string;
  readonly retryAfterS: number | undefined;
  /** How it came about; absent where nothing was decided, as after an exception. */
  readonly account?: DecisionAccount | undefined;
}

const refusals: Readonly<Record<RefusalCode, Omit<Refusal, 'kind' | 'code'>>> = {
  model_required: {
    status: 400,
    message: 'The request names no model. Send "model" in a JSON body, or the model header that this gateway reads.',
    retryAfterS: undefined,
  },
  model_not_found: { status: 404, message: 'No route of this gateway serves the requested model.', retryAfterS: undefined },
  route_not_found: { status: 404, message: 'No route of this gateway serves this path.', retryAfterS: undefined },
  no_ready_endpoint: { status: 503, message: 'No model server for this request is ready.', retryAfterS: 1 },
  subset_unavailable: { status: 503, message: 'None of the model servers that the gateway allows for this request is ready.', retryAfterS: 1 },
  prompt_too_long: {
    status: 400,
    message: 'The prompt, with the answer it asks for, is longer than any model server for this request takes. Shorten it or lower max_tokens.',
    retryAfterS: undefined,
  },
  residency_unavailable: {
    status: 503,
    message: 'No model server in the places where this request may be served can take it.',
    retryAfterS: 1,
  },
  overloaded: { status: 429, message: 'All model servers for this request are at their limit. Retry later.', retryAfterS: 1 },
  shed_priority: { status: 429, message: 'The model servers for this request are busy with requests of the same or higher priority. Retry later.', retryAfterS: 1 },
  deadline_unreachable: { status: 503, message: 'No model server can give the first token before the deadline of this request.', retryAfterS: 1 },
  body_not_rewritable: {
    status: 400,
    message: 'This request is served by another model than it names, and its body cannot be changed. Send uncompressed JSON that names "model" once.',
    retryAfterS: undefined,
  },
  rewrite_unsupported: {
    status: 503,
    message: 'This request is served by another model than it names, and the gateway does not show its whole body to the router.',
    retryAfterS: undefined,
  },
  internal_error: { status: 503, message: 'The router failed to decide on this request.', retryAfterS: 1 },
};

/** The refusal of a stable code. */
export function toRefusal(code: RefusalCode): Refusal {
  return { kind: 'refuse', code, ...refusals[code] };
}

/** Codes that can come of a pool, from what tells the caller most: first what waiting or another priority would cure. */
const poolCodes = [
  'shed_priority',
  'overloaded',
  'deadline_unreachable',
  'residency_unavailable',
  'no_ready_endpoint',
  'prompt_too_long',
  'subset_unavailable',
] as const satisfies readonly RefusalCode[];
type PoolCode = (typeof poolCodes)[number];

/** Why a pool cannot take a request: the cause that keeps out those endpoints which came closest to taking it. */
export function refusalCodeOf({ cause, trace }: Extract<Decision, { kind: 'none' }>): PoolCode {
  const counts = countRejections(trace);
  const isKeptOutBy = (name: string): boolean => counts.some(({ filter }) => filter === name);
  if (isKeptOutBy(guardNames.saturation)) return 'shed_priority';
  if (cause === 'saturated') return 'overloaded';
  if (isKeptOutBy(guardNames.deadline)) return 'deadline_unreachable';
  if (isKeptOutBy(guardNames.residency)) return 'residency_unavailable';
  return codes[cause];
}

const codes = { 'not-ready': 'no_ready_endpoint', 'too-long': 'prompt_too_long', subset: 'subset_unavailable' } as const;

/** Of the causes of two pools, the one to tell. */
export function moreTelling<C extends RefusalCode>(one: C | undefined, other: PoolCode): C | PoolCode {
  const rank = (code: RefusalCode): number => (poolCodes as readonly RefusalCode[]).indexOf(code);
  return one === undefined || rank(other) < rank(one) ? other : one;
}
