// A router, its streams, and what they did: what every test of the ext_proc adapter starts from.
import { loadConfig } from '../src/config/load.ts';
import type { Policy } from '../src/core/policy.ts';
import { AnswerWriter } from '../src/extproc/answer.ts';
import { FactReader } from '../src/extproc/fact-reader.ts';
import type { ProcessingRequest, ProcessingResponse } from '../src/extproc/messages.ts';
import { decodeProcessingRequest, decodeProcessingResponse, encodeProcessingRequest, encodeProcessingResponse } from '../src/extproc/proto.ts';
import { SessionCookies } from '../src/extproc/session-cookie.ts';
import { type ProcessCall, ProcessStream, type StreamContext } from '../src/extproc/stream.ts';
import { FleetView } from '../src/fleet/fleet-view.ts';
import { createMemoryExchange } from '../src/router/memory-exchange.ts';
import type { RouterEvents, StateExchange } from '../src/router/ports.ts';
import { Router } from '../src/router/router.ts';
import type { RouteTarget } from '../src/router/routing-table.ts';
import type { StreamEvents } from '../src/router/stream-events.ts';

/** Two pools told apart by model; `chat` chooses by session and prompt length. Two of its endpoints share an IP address. */
export const twoPools = `
affinity: { secret: for-the-tests }
pools:
  - name: chat
    policy: { preset: session-affinity }
    endpoints: [{ address: '10.0.0.1:8000' }, { address: '10.0.0.1:8001' }, { address: '10.0.0.2:8000' }, { address: '[fd00::1]:8000' }]
  - name: embed
    cluster: embeddings
    policy: { preset: round-robin }
    endpoints: [{ address: '10.0.1.1:8000' }]
routes:
  - { match: { model: 'chat-*' }, targets: [{ pool: chat }] }
  - { match: { model: 'embed-*' }, targets: [{ pool: embed }] }
`;

/** One pool that takes every request, for requests without a model. */
export const onePool = `
affinity: { secret: for-the-tests }
pools:
  - name: chat
    policy: { preset: session-affinity }
    endpoints: [{ address: '10.0.0.1:8000' }, { address: '10.0.0.2:8000' }]
`;

export interface TrialOptions {
  readonly yaml?: string;
  readonly decideDeadlineMs?: number;
  readonly askForBodyBytesMax?: number;
  readonly scanBytesMax?: number;
  /** Changes each policy, for instance into one that throws. */
  readonly changePolicy?: (policy: Policy) => Policy;
  /** Places on endpoints with an exact limit; absent: this router's own counts are exact. */
  readonly caps?: StateExchange['caps'];
  /** Called with everything that happened, as it happens; may throw. */
  readonly onEvent?: (line: string) => void;
}

/** A router with its streams. */
export interface Trial {
  readonly router: Router;
  readonly fleet: FleetView;
  readonly context: StreamContext;
  /** Moves with the tests alone. */
  readonly clock: { ms: number };
  /** What happened, in order: `decided chat`, `refused overloaded`, `released chat client-abort ext-proc`, `closed completed`, … */
  readonly log: string[];
  open(): { stream: ProcessStream; call: RecordedCall };
}

export function createTrial(options: TrialOptions = {}): Trial {
  const outcome = loadConfig(options.yaml ?? twoPools);
  if (!outcome.ok) throw new Error(JSON.stringify(outcome.problems));
  const { config } = outcome;
  const { changePolicy = (policy: Policy) => policy } = options;
  const changeTarget = (target: RouteTarget): RouteTarget => ({ ...target, pool: { ...target.pool, policy: changePolicy(target.pool.policy) } });
  const table = {
    ...config.table,
    routes: config.table.routes.map((route) => ({
      ...route,
      targets: route.targets.map(changeTarget),
      fallback: route.fallback?.map(changeTarget),
    })),
  };
  const log: string[] = [];
  const tell = (line: string): void => {
    log.push(line);
    options.onEvent?.(line);
  };
  const events: RouterEvents & StreamEvents = {
    decided: ({ pool }) => tell(`decided ${pool.name}`),
    refused: (code) => tell(`refused ${code}`),
    firstToken: (pool, _address, ms) => tell(`first-token ${pool} ${ms}`),
    released: (pool, _address, { ending, signal }) => tell(`released ${pool} ${ending} ${signal}`),
    foreignReport: (owner) => tell(`foreign ${owner}`),
    unknownLease: () => tell('unknown-lease'),
    noCompletionSignal: () => tell('no-completion-signal'),
    noFirstToken: () => {},
    endpointChanged: () => {},
    ejectionWithheld: () => {},
    streamOpened: () => {},
    streamClosed: (ending) => tell(`closed ${ending}`),
    message: () => {},
    answered: (phase, ms) => tell(`answered ${phase} ${ms}`),
    bodyUnusable: (cause) => tell(`body-unusable ${cause}`),
    sessionCookie: (outcome) => tell(`session-cookie ${outcome}`),
    failed: (error) => tell(`failed ${error instanceof Error ? error.message : String(error)}`),
    accessLogRecords: (count, without) => tell(`access-log ${count} ${without}`),
  };
  const clock = { ms: 1_000 };
  const fleet = new FleetView(config.pools);
  const router = new Router({
    id: 'r1',
    table,
    fleet,
    affinitySecret: config.affinitySecret,
    clock: { nowMs: () => clock.ms },
    rng: { draw: () => 0.5 },
    exchange: { ...createMemoryExchange(), caps: options.caps },
    events,
    expireAfterMsMax: 600_000,
    assumedDurationMs: 30_000,
    endpointsMax: 8,
  });
  const { clusterHeader, endpointHeader } = config.settings.outputs;
  // Every issued cookie is another, the same in each run.
  let issued = 0;
  const { cookie } = config.settings.affinity;
  const cookies =
    cookie &&
    new SessionCookies(cookie, {
      secret: config.affinitySecret,
      wallMs: () => clock.ms,
      randomBytes: (count) => new Uint8Array(count).fill((issued += 1)),
    });
  const context: StreamContext = {
    router,
    reader: new FactReader(config.settings.facts, options.scanBytesMax ?? 1_048_576, undefined, table.headers, cookies),
    cookies,
    writer: new AnswerWriter({ clusterHeader, endpointHeader }),
    events,
    clock: { nowMs: () => clock.ms },
    decideDeadlineMs: options.decideDeadlineMs ?? 5_000,
    askForBodyBytesMax: options.askForBodyBytesMax ?? 1_048_576,
  };
  const open = (): { stream: ProcessStream; call: RecordedCall } => {
    const call = new RecordedCall();
    return { stream: new ProcessStream(context, call), call };
  };
  return { router, fleet, context, clock, log, open };
}

/** A call that keeps what was sent, as it arrives at the other end. */
export class RecordedCall implements ProcessCall {
  readonly answers: ProcessingResponse[] = [];
  ended: 'ok' | 'invalid-argument' | 'internal' | undefined;

  send(response: ProcessingResponse): void {
    if (this.ended !== undefined) throw new Error('answer after the end of the call');
    this.answers.push(decodeProcessingResponse(encodeProcessingResponse(response)));
  }

  end(): void {
    if (this.ended !== undefined) throw new Error('second end of the call');
    this.ended = 'ok';
  }

  fail(code: 'invalid-argument' | 'internal'): void {
    if (this.ended !== undefined) throw new Error('second end of the call');
    this.ended = code;
  }

  /** What was sent since the last look, one line each: see {@link summarize}. */
  take(): string[] {
    return this.answers.splice(0).map(summarize);
  }
}

/** Bytes of the message that was received last. */
let lastReceived: Buffer | undefined;

/**
 * The message as it arrives over the wire; to be passed on before the next one is received, which comes in the place of this one: bytes of it that
 * somebody kept are spoiled then.
 */
export function received(request: ProcessingRequest): ProcessingRequest {
  lastReceived?.fill(0xee);
  lastReceived = Buffer.from(encodeProcessingRequest(request));
  return decodeProcessingRequest(lastReceived);
}

const bodyModes = ['NONE', 'STREAMED', 'BUFFERED', 'BUFFERED_PARTIAL', 'FULL_DUPLEX_STREAMED'];
const headerModes = ['default', 'send', 'skip'];
const nameOf = (names: readonly string[], mode = 0): string => names[mode] ?? String(mode);

/**
 * An answer in one line: its phase, then `routed CLUSTER` (headers, metadata and a forgotten route), `told CLUSTER` (metadata alone), `strip` (our
 * headers removed and the route forgotten), `echo BYTES end`, `refused STATUS CODE`, `pass`; and the modes it asks for.
 */
export function summarize(answer: ProcessingResponse): string {
  const { immediate_response: immediate, mode_override: mode } = answer;
  const override =
    mode === undefined
      ? ''
      : ` ask(${nameOf(bodyModes, mode.request_body_mode)}/${nameOf(bodyModes, mode.response_body_mode)} ${nameOf(headerModes, mode.response_header_mode)})`;
  if (immediate !== undefined) {
    const { error } = JSON.parse(immediate.body?.toString() ?? '{}') as { error: { code: string } };
    return `refused ${immediate.status?.code ?? 200} ${error.code}`;
  }
  const phase = answer.response ?? 'nothing';
  const common = (answer.request_headers ?? answer.request_body ?? answer.response_headers ?? answer.response_body)?.response;
  const set = new Map(common?.header_mutation?.set_headers?.map(({ header }) => [header?.key, header?.raw_value?.toString()]));
  const metadata = answer.dynamic_metadata?.fields;
  const told = metadata?.['fairlead']?.structValue?.fields?.['pool']?.stringValue;
  const endpoints = metadata?.['envoy.lb']?.structValue?.fields?.['x-gateway-destination-endpoint']?.stringValue;
  const cluster = set.get('x-fairlead-cluster');
  if (cluster !== undefined) {
    const whole = common?.clear_route_cache === true && endpoints !== undefined && set.get('x-gateway-destination-endpoint') === endpoints;
    return `${phase} ${whole ? 'routed' : 'HALF ROUTED'} ${cluster}${override}`;
  }
  const streamed = common?.body_mutation?.streamed_response;
  const parts = [
    ...(common?.header_mutation?.remove_headers === undefined ? [] : [common.clear_route_cache === true ? 'strip' : 'HALF STRIP']),
    ...(streamed === undefined ? [] : [`echo ${streamed.body?.length ?? 0}${streamed.end_of_stream === true ? ' end' : ''}`]),
    ...(told === undefined ? [] : [`told ${told}`]),
  ];
  return `${phase} ${parts.length === 0 ? 'pass' : parts.join(' ')}${override}`;
}
