import * as z from 'zod';
import type { CompiledConfig } from '../config/load-outcome.ts';
import type { Problem } from '../config/problem.ts';
import { createAccount, type DecisionAccount } from '../core/explain.ts';
import { createPrefixSeed } from '../core/hash.ts';
import { noFacts } from '../core/request-facts.ts';
import { AnswerWriter } from '../extproc/answer.ts';
import { FactReader } from '../extproc/fact-reader.ts';
import { BodySendMode, type HeaderMap, type ProcessingRequest, type ProcessingResponse, toStruct } from '../extproc/messages.ts';
import { SessionCookies } from '../extproc/session-cookie.ts';
import { ProcessStream } from '../extproc/stream.ts';
import { FleetView } from '../fleet/fleet-view.ts';
import { Placements } from '../fleet/placements.ts';
import { createMemoryExchange } from '../router/memory-exchange.ts';
import type { Clock, RefusalCode } from '../router/ports.ts';
import { RouteWeights } from '../router/route-weights.ts';
import type { Routed } from '../router/routed.ts';
import { Router } from '../router/router.ts';
import { combineEvents } from '../telemetry/event-log.ts';
import { applyFleetFile, type CachedRequest, type FleetFile, type FleetNote } from './fleet-file.ts';

const headerValue = z.union([z.string(), z.array(z.string())]);

/** A request to explain: what a client would send. */
export const requestFileSchema = z.strictObject({
  path: z.string().startsWith('/').default('/v1/chat/completions'),
  headers: z.record(z.string().regex(/^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/, { error: 'expected a header name' }), headerValue).default({}),
  /** Sent as JSON, or as it stands where it is a text. */
  body: z.union([z.string(), z.record(z.string(), z.unknown())]).optional(),
  /** The client's address, as Envoy tells it. */
  clientAddress: z.string().optional(),
  /** The only endpoints that the gateway allows. */
  subset: z.array(z.string()).optional(),
});

/** A checked request file. */
export type RequestFile = z.output<typeof requestFileSchema>;

/** A decision, and what it rests on. */
export interface ExplainedRequest {
  readonly account: DecisionAccount;
  /** Whether the body was asked for. */
  readonly bodyRead: boolean;
  /** Undefined: it was routed. */
  readonly refused: RefusalCode | 'internal_error' | undefined;
  readonly routed: Routed | undefined;
  /** Headers of the last answer: for the request, or, where it was refused, for the client. */
  readonly headers: Readonly<Record<string, string>>;
  /** Status sent to the client where it was refused. */
  readonly status: number | undefined;
  readonly notes: readonly FleetNote[];
}

/** Anything that time is counted from: far enough from 0 for ages to fit before it. */
const nowMs = 1e12;

/**
 * Decides on a request as the service would, with the same code from Envoy's messages to the answer, on an idle fleet or one as a file
 * describes it. Envoy here is the shipped one: body mode NONE, and `mode_override` allowed. `draw`, in [0, 1), breaks ties; `wallMs`, since
 * the epoch, moves schedules. Returns problems where the fleet file does not fit the configuration.
 */
export function explainRequest(
  config: CompiledConfig,
  request: RequestFile,
  { fleetFile, draw, wallMs }: { readonly fleetFile: FleetFile | undefined; readonly draw: number; readonly wallMs: number },
): { readonly ok: true; readonly explained: ExplainedRequest } | { readonly ok: false; readonly problems: readonly Problem[] } {
  const clock: Clock = { nowMs: () => nowMs, wallMs: () => wallMs };
  const first = runOnce(config, request, undefined, { keyId: undefined, prefixHashes: [] }, clock, draw);
  if (fleetFile === undefined || !first.ok) return first;
  // Which of its blocks are cached where, and where its session was, can be said only once the request was read.
  const { sessionKey, prefixHashes } = first.explained.account;
  return runOnce(config, request, fleetFile, { keyId: sessionKey, prefixHashes }, clock, draw);
}

function runOnce(
  config: CompiledConfig,
  request: RequestFile,
  fleetFile: FleetFile | undefined,
  cached: CachedRequest,
  clock: Clock,
  draw: number,
): ReturnType<typeof explainRequest> {
  const { settings, table, affinitySecret } = config;
  const fleet = new FleetView(config.pools);
  const weights = new RouteWeights(table);
  const placements = new Placements();
  let notes: readonly FleetNote[] = [];
  if (fleetFile !== undefined) {
    const applied = applyFleetFile(fleetFile, { fleet, weights, nowMs, cached });
    if (applied.problems.length > 0) return { ok: false, problems: applied.problems };
    ({ notes } = applied);
    for (const { name, placedOn } of fleetFile.pools) {
      if (placedOn !== undefined && cached.keyId !== undefined) placements.set(name, cached.keyId, placedOn);
    }
  }

  let account: DecisionAccount = createAccount(undefined, noFacts, undefined);
  let routed: Routed | undefined;
  let refused: ExplainedRequest['refused'];
  const failures: unknown[] = [];
  const events = combineEvents({ failed: (error) => failures.push(error) });
  const router = new Router({
    id: 'explain',
    table,
    fleet,
    placements,
    affinitySecret,
    clock,
    rng: { draw: () => draw },
    exchange: createMemoryExchange(),
    events,
    decisions: {
      decided: (made) => {
        routed = made;
        ({ account } = made);
      },
      refused: (code, how) => {
        refused = code;
        account = how;
      },
      firstToken: () => {},
      ended: () => {},
    },
    expireAfterMsMax: settings.leases.expireAfterMsMax,
    assumedDurationMs: settings.leases.assumedDurationMs,
    endpointsMax: settings.outputs.endpointsMax,
    weights,
  });
  const { clusterHeader, endpointHeader } = settings.outputs;
  const { cookie } = settings.affinity;
  // A session made up here is one of many that could be; the draw chooses which.
  const randomBytes = (count: number): Uint8Array => new Uint8Array(count).fill(Math.floor(draw * 256));
  const cookies = cookie && new SessionCookies(cookie, { secret: affinitySecret, wallMs: () => clock.wallMs?.() ?? 0, randomBytes });
  const answers: ProcessingResponse[] = [];
  const stream = new ProcessStream(
    {
      router,
      reader: new FactReader(settings.facts, settings.limits.scanBytesMax, createPrefixSeed(affinitySecret), table.headers, cookies),
      writer: new AnswerWriter({ clusterHeader, endpointHeader }),
      cookies,
      events,
      clock,
      decideDeadlineMs: settings.limits.decideDeadlineMs,
      askForBodyBytesMax: settings.limits.askForBodyBytesMax,
    },
    { send: (answer) => answers.push(answer), end: () => {}, fail: () => {} },
  );
  const { headers, body, context } = toMessages(request);
  stream.onMessage({ ...context, request_headers: { headers, end_of_stream: body === undefined } });
  const asked = answers[0]?.mode_override?.request_body_mode;
  const bodyRead = body !== undefined && asked !== undefined && asked !== BodySendMode.NONE;
  if (bodyRead) stream.onMessage({ request_body: { body, end_of_stream: true } });
  stream.onEnd();
  const [failure] = failures;
  if (failure !== undefined) throw failure instanceof Error ? failure : new Error('the decision failed');

  const last = answers.at(-1);
  const mutation = (last?.request_headers ?? last?.request_body)?.response?.header_mutation ?? last?.immediate_response?.headers;
  const told = (mutation?.set_headers ?? []).map(({ header }) => [header?.key ?? '', header?.raw_value?.toString('utf8') ?? ''] as const);
  const status = last?.immediate_response?.status?.code;
  return { ok: true, explained: { account, bodyRead, refused, routed, headers: Object.fromEntries(told), status, notes } };
}

/** The messages that the shipped Envoy sends for a request. */
function toMessages({ path, headers: written, body: content, clientAddress, subset }: RequestFile): {
  readonly headers: HeaderMap;
  readonly body: Buffer | undefined;
  readonly context: ProcessingRequest;
} {
  const body = content === undefined ? undefined : Buffer.from(typeof content === 'string' ? content : JSON.stringify(content));
  const named: (readonly [string, string])[] = Object.entries(written).flatMap(([name, value]) =>
    (typeof value === 'string' ? [value] : value).map((single) => [name.toLowerCase(), single] as const),
  );
  const has = (name: string): boolean => named.some(([key]) => key === name);
  const all: (readonly [string, string])[] = [
    [':method', body === undefined ? 'GET' : 'POST'],
    [':path', path],
    ...named,
    ...(body !== undefined && !has('content-type') ? [['content-type', 'application/json'] as const] : []),
    ...(body !== undefined && !has('content-length') ? [['content-length', String(body.length)] as const] : []),
  ];
  return {
    headers: { headers: all.map(([key, value]) => ({ key, raw_value: Buffer.from(value) })) },
    body,
    context: {
      protocol_config: { request_body_mode: BodySendMode.NONE, response_body_mode: BodySendMode.NONE },
      ...(clientAddress !== undefined && { attributes: { 'envoy.filters.http.ext_proc': toStruct({ 'source.address': clientAddress }) } }),
      ...(subset !== undefined && {
        metadata_context: { filter_metadata: { 'envoy.lb.subset_hint': toStruct({ 'x-gateway-destination-endpoint-subset': subset }) } },
      }),
    },
  };
}
