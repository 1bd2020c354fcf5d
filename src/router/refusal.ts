import type { RefusalCode } from './ports.ts';

/** A request that is answered here instead of being proxied. */
export interface Refusal {
  readonly kind: 'refuse';
  readonly code: RefusalCode;
  readonly status: 400 | 404 | 429 | 503;
  /** For the caller: cause and cure. Never holds what the client sent. */
  readonly message: string;
  readonly retryAfterS: number | undefined;
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
  overloaded: { status: 429, message: 'All model servers for this request are at their limit. Retry later.', retryAfterS: 1 },
  internal_error: { status: 503, message: 'The router failed to decide on this request.', retryAfterS: 1 },
};

/** The refusal of a stable code. */
export function toRefusal(code: RefusalCode): Refusal {
  return { kind: 'refuse', code, ...refusals[code] };
}
