import { isIPv4, isIPv6 } from 'node:net';
import * as z from 'zod';

/** Splits `host:port` or `[v6]:port`; undefined when it is neither. */
export function parseHostPort(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(0|[1-9]\d{0,4})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (match === null || host === undefined || port > 65_535) return undefined;
  if (match[1] !== undefined && !isIPv6(match[1])) return undefined;
  return { host, port };
}

const listenAddress = z
  .string()
  .refine((text) => parseHostPort(text) !== undefined, { error: 'expected host:port, such as 127.0.0.1:9002 or [::1]:9002' });

const grpcAddress = z.string().refine((text) => (text.startsWith('unix:') ? /^unix:\/[^\0]{0,102}$/.test(text) : parseHostPort(text) !== undefined), {
  error: 'expected host:port, such as 127.0.0.1:9002 or [::1]:9002, or unix:/path of at most 103 characters',
});
const listen = z.strictObject({
  grpc: grpcAddress.default('127.0.0.1:9002'),
  admin: listenAddress.default('127.0.0.1:9003'),
  /** What serves gRPC; docs/transport.md. */
  transport: z.enum(['lean', 'http2', 'grpc-js']).default('lean'),
  /** Mode of the file of a Unix socket. */
  socketMode: z.string().regex(/^0?[0-7]{3}$/, { error: "expected a file mode as text, such as '660'" }).default('660'),
  /** PEM files, read again when they change; with clientCaFile, clients have to show a certificate. */
  tls: z.strictObject({ certFile: z.string().min(1), keyFile: z.string().min(1), clientCaFile: z.string().min(1).optional() }).optional(),
  /** Whether calls that are reset before they were answered can end a connection; auto: unless its peer is local or shows a certificate. */
  resetLimit: z.enum(['auto', 'guard', 'none']).default('auto'),
  /** Pings that find connections whose client is gone; 0: none. */
  keepalive: z
    .strictObject({ intervalMs: z.int().min(0).max(86_400_000).default(60_000), timeoutMs: z.int().min(100).max(600_000).default(20_000) })
    .prefault({}),
  /** When clients are asked to connect anew, a tenth sooner or later, and how long their calls may take then; 0: never. */
  connectionAge: z
    .strictObject({ maxMs: z.int().min(0).max(2_000_000_000).default(0), graceMs: z.int().min(0).max(86_400_000).default(30_000) })
    .prefault({}),
});

const endpointAddress = z.string().refine(
  (text) => {
    const parsed = parseHostPort(text);
    return parsed !== undefined && parsed.port > 0 && (isIPv4(parsed.host) || isIPv6(parsed.host));
  },
  { error: "expected ip:port, IPv6 in brackets; a host name never matches the endpoints that Envoy's override_host knows" },
);

const headerName = z
  .string()
  .regex(/^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/, { error: 'expected a header name in lower case, as HTTP/2 carries it' });
const outputHeaderName = headerName.refine((name) => !name.startsWith('x-envoy-'), {
  error: 'expected a header that an external processor may set; Envoy refuses x-envoy-*',
});
const name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, { error: 'expected 1 to 63 letters, digits, dots, dashes or underscores' });
const clusterName = z.string().regex(/^[\x21-\x7e]{1,256}$/, { error: "expected Envoy's cluster name, without spaces" });
const bodyPath = z.string().regex(/^[^.]{1,64}(\.[^.]{1,64}){0,3}$/, { error: 'expected a field of the JSON body, at most four names joined by dots' });

const cookieName = z
  .string()
  .regex(/^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$/, { error: 'expected 1 to 63 letters, digits, dots, dashes or underscores' });

const namedSources = [z.strictObject({ header: headerName }), z.strictObject({ cookie: cookieName }), z.strictObject({ body: bodyPath })] as const;
const namedSource = z.union(namedSources, { error: 'expected one of { header: NAME }, { cookie: NAME }, { body: FIELD }' });
const clientIp = z.union(
  [
    z.literal(true),
    z.strictObject({
      /** Proxies in front of Envoy whose entries in x-forwarded-for are trusted; absent: Envoy's own source.address is taken. */
      trustedHops: z.int().min(0).max(32).optional(),
      /** Bits of an IPv6 address that stand for a client. */
      ipv6Prefix: z.int().min(32).max(128).default(64),
    }),
  ],
  { error: 'expected true or { trustedHops?: 0 to 32, ipv6Prefix?: 32 to 128 }' },
);
const factSource = z.union(
  [
    ...namedSources,
    z.strictObject({ clientIp }),
    z.strictObject({ tokenHash: headerName }),
    z.strictObject({ headerHash: z.array(headerName).min(1).max(16) }),
  ],
  {
    error:
      'expected one of { header: NAME }, { cookie: NAME }, { body: FIELD }, { clientIp: true }, { tokenHash: HEADER }, { headerHash: [HEADER, …] }',
  },
);
const headerSource = z.strictObject({ header: headerName });
const facts = z.strictObject({
  model: z.array(namedSource).default([{ header: 'x-model' }, { body: 'model' }]),
  session: z
    .array(factSource)
    .default([
      // What names one conversation comes first: headers, since they cost no look into the body.
      { header: 'x-session-id' },
      { header: 'x-session-affinity' },
      { header: 'x-claude-code-session-id' },
      { header: 'session_id' },
      { header: 'session-id' },
      { cookie: 'fairlead-session' },
      { body: 'prompt_cache_key' },
      { body: 'conversation' },
      { body: 'conversation.id' },
      // What names only a user, last: all that user's conversations go to one endpoint.
      { body: 'metadata.user_id' },
      { body: 'safety_identifier' },
      { body: 'user' },
      // Not among them: previous_response_id, which is another one on every turn.
    ]),
  tenant: z.array(factSource).default([{ header: 'x-tenant-id' }]),
  /** Headers set by something in front of us that is trusted, never by clients; none by default. */
  priority: z.array(headerSource).default([]),
  deadline: z.array(headerSource).default([{ header: 'x-fairlead-deadline-ms' }, { header: 'x-llm-d-slo-ttft-ms' }]),
});

/** The cookie issued to clients that name no session; absent: none is. */
const sessionCookie = z.strictObject({
  name: cookieName.default('fairlead-session'),
  /** How long clients keep it; one in use is renewed at half of that. 400 days is what browsers allow. */
  maxAgeS: z.int().min(60).max(34_560_000).default(86_400),
  path: z.string().regex(/^\/[\x21-\x3a\x3c-\x7e]{0,255}$/, { error: 'expected a path that begins with / and has no spaces or semicolons' }).default('/'),
  secure: z.boolean().default(true),
  sameSite: z.enum(['strict', 'lax', 'none']).default('lax'),
});

const parameters = z.record(z.string(), z.unknown());
const bare = z.string().transform((type) => ({ type }));
const step = z.union([bare, z.strictObject({ type: z.string(), parameters: parameters.optional() })], {
  error: 'expected the name of a strategy, or { type: NAME, parameters?: {…} }',
});
const weightedStep = z.union([bare, z.strictObject({ type: z.string(), weight: z.number().positive().optional(), parameters: parameters.optional() })], {
  error: 'expected the name of a strategy, or { type: NAME, weight?: …, parameters?: {…} }',
});
const policy = z.union(
  [
    z.strictObject({ preset: z.string(), parameters: parameters.optional(), filters: z.array(step).optional() }),
    z.strictObject({ filters: z.array(step).default([]), scorers: z.array(weightedStep).default([]), picker: step }),
  ],
  { error: 'expected { preset: NAME, parameters?: {…}, filters?: […] } or a pipeline { filters: […], scorers: […], picker: … }' },
);

const endpoint = z.strictObject({
  address: endpointAddress,
  /** Data-parallel ranks behind the address, each chosen on its own; 1: one, or the server divides requests among them itself. */
  dpSize: z.int().min(1).max(128).default(1),
  /** Weight and limits are those of one rank. */
  weight: z.number().positive().max(1_000_000).default(1),
  labels: z.record(z.string(), z.string()).default({}),
  /** Kept in reserve: it serves only while its pool is under pressure; `pools[].standby` says when. */
  standby: z.boolean().optional(),
  limits: z
    .strictObject({
      requests: z.int().positive().optional(),
      /** Longest prompt and answer together that its model takes. */
      contextTokens: z.int().positive().optional(),
      /** Size of its KV cache; where its metrics are scraped, they tell. */
      kvTokens: z.int().positive().optional(),
    })
    .default({}),
});
/** When the reserve of a pool joins and leaves; docs/elasticity.md. */
const standby = z.strictObject({
  /** Either is pressure: a prompt would wait this long, or requests in flight have reached this part of the limits. */
  pressure: z.strictObject({ waitMs: z.number().positive().max(600_000).default(1_000), inFlightShare: z.number().positive().max(1).default(0.9) }).prefault({}),
  forMs: z.int().min(0).max(3_600_000).default(2_000),
  /** What the pool would have to stay within without the one that is to leave. */
  calm: z
    .strictObject({
      waitMs: z.number().min(0).max(600_000).default(200),
      inFlightShare: z.number().min(0).max(1).default(0.6),
      /** Part of what the others can prefill. */
      utilization: z.number().positive().max(1).default(0.6),
    })
    .prefault({}),
  calmForMs: z.int().min(0).max(86_400_000).default(60_000),
});
/** How the number of servers is reckoned that an autoscaler is advised of; docs/elasticity.md. */
const autoscale = z.strictObject({
  replicasMin: z.int().min(1).max(100_000).default(1),
  replicasMax: z.int().min(1).max(100_000).optional(),
  /** Part of what a server can do that is planned for. */
  utilization: z.number().min(0.05).max(1).default(0.7),
  /** Requests in flight that a server is planned to have; absent: `utilization` of its limit, where there is one. */
  requestsPerReplica: z.number().positive().max(100_000).optional(),
  /** Wait of a prompt above which more servers are wanted, whatever the other figures say. */
  waitMs: z.number().positive().max(600_000).default(1_000),
  /** Time in which what waits should be worked off. */
  drainMs: z.int().min(1_000).max(3_600_000).default(10_000),
  /** How long the highest advice stands before a lower one does. */
  stabilizationMs: z.int().min(0).max(3_600_000).default(300_000),
});
/** Endpoints as a file or a call names them. */
export const endpointListSchema = z.array(endpoint).max(10_000, { error: 'expected at most 10000 endpoints' });
/** Where a pool's endpoints come from beside those written; docs/discovery.md. */
const discovery = z.strictObject({
  /** A YAML or JSON file with a list of endpoints, relative to the configuration's folder; watched. */
  file: z.string().min(1).optional(),
  dns: z
    .strictObject({
      name: z.string().regex(/^(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?$/, { error: 'expected a host name' }),
      type: z.enum(['A', 'AAAA', 'SRV']).default('A'),
      /** Of A and AAAA, which tell none. */
      port: z.int().min(1).max(65_535).optional(),
      /** Longest time between two look-ups; a shorter TTL of the answer, down to a second, counts. */
      intervalMs: z.int().min(1_000).max(3_600_000).default(10_000),
      /** `ip:port` of the name server; absent: the machine's. */
      server: endpointAddress.optional(),
      /** Whether an answer without addresses means that there are no endpoints, instead of that something is wrong. */
      allowEmpty: z.boolean().default(false),
    })
    .optional(),
});
const httpPath = z.string().regex(/^\/[\x21-\x7e]{0,255}$/, { error: 'expected a path that begins with / and has no spaces' });
const engineMetrics = z.strictObject({
  /** auto: whichever kind the metrics are named after. */
  kind: z.enum(['auto', 'vllm', 'sglang', 'trtllm', 'triton']).default('auto'),
  /** Absent: where that kind has them, such as /metrics. */
  path: httpPath.optional(),
  /** Absent: the endpoint's own. */
  port: z.int().min(1).max(65_535).optional(),
  /** Each endpoint is asked this often; what is older than five intervals is not used. */
  intervalMs: z.int().min(100).max(60_000).default(1_000),
  /** Absent: a second, or five intervals if that is less. */
  timeoutMs: z.int().min(10).max(60_000).optional(),
});
/** How its model servers are asked whether they can serve; docs/health.md. */
const probe = z.strictObject({
  /** 2xx passes, any other status fails. */
  path: httpPath.default('/health'),
  /** Absent: the endpoint's own. */
  port: z.int().min(1).max(65_535).optional(),
  /** Model that a server must list; absent: it is not asked for its models. */
  model: z.string().min(1).max(256).optional(),
  modelsPath: httpPath.default('/v1/models'),
  intervalMs: z.int().min(100).max(60_000).default(1_000),
  /** For the whole probe; absent: half a second, or the interval if that is less. */
  timeoutMs: z.int().min(10).max(60_000).optional(),
  /** Failed probes in a row that take a server out, and passed ones that let it back in. */
  failures: z.int().min(1).max(100).default(2),
  passes: z.int().min(1).max(100).default(1),
});
/** What tells whether a pool's endpoints can serve. */
const health = z.strictObject({
  /** Absent: they are not probed. */
  probe: probe.optional(),
  /** By what becomes of requests: 5xx, resets, timeouts, no connection. false: endpoints are not judged by it. */
  passive: z
    .union([
      z.literal(false),
      z.strictObject({
        /** Three are enough where no peer fails any. */
        consecutiveFailures: z.int().min(1).max(1_000).default(5),
        /** Share of the requests in the window that failed, from `requestsMin` requests on. */
        failureShare: z.number().min(0).max(1).default(0.5),
        requestsMin: z.int().min(1).max(100_000).default(10),
        windowMs: z.int().min(100).max(600_000).default(10_000),
        /** Doubled each time in succession, up to the longest. */
        backOffMs: z.int().min(10).max(600_000).default(1_000),
        backOffMsMax: z.int().min(10).max(3_600_000).default(30_000),
        /** Trial requests at a time, and successes that close it. */
        trials: z.int().min(1).max(100).default(3),
      }),
    ], { error: 'expected false or { consecutiveFailures?, failureShare?, requestsMin?, windowMs?, backOffMs?, backOffMsMax?, trials? }' })
    .prefault({}),
  /** First tokens so many times slower than the peers', against what was to be expected. false: nobody is found slow. */
  slow: z
    .union([z.literal(false), z.strictObject({ factor: z.number().min(1.5).max(1_000).default(5), samplesMin: z.int().min(2).max(100).default(8) })], {
      error: 'expected false or { factor?: 1.5 or more, samplesMin?: 2 to 100 }',
    })
    .prefault({}),
  /** Most of a pool's endpoints that may be left out for failing or being slow. */
  ejectedShareMax: z.number().min(0).max(1).default(0.5),
});
const pool = z.strictObject({
  name,
  cluster: clusterName.optional(),
  policy: policy.default({ preset: 'sticky' }),
  /** A second policy that is scored on these requests and decides nothing. */
  shadow: z
    .strictObject({
      policy,
      /** Share of decisions that it is scored on. */
      sample: z.number().min(0).max(1).default(1),
      /** Whether bodies are read for facts that only this policy needs; false: it has to do with what the other one asks for. */
      readBody: z.boolean().default(false),
    })
    .optional(),
  /** Absent: first tokens are noticed where the policy wants them. */
  observe: z.strictObject({ firstToken: z.boolean().optional() }).prefault({}),
  /** How its model servers' metrics are read; absent: they are not. */
  metrics: engineMetrics.optional(),
  health: health.prefault({}),
  /** Endpoints that join, or come back, take a growing part of their share. false: all of it at once. */
  slowStart: z
    .union([z.literal(false), z.strictObject({ durationMs: z.int().min(1).max(3_600_000).default(10_000), initialShare: z.number().min(0).max(1).default(0.1) })], {
      error: 'expected false or { durationMs?, initialShare?: 0 to 1 }',
    })
    .prefault({}),
  /** Of all its endpoints; their own win. */
  labels: z.record(z.string(), z.string()).optional(),
  /** When requests are turned away: at this many waiting prompt tokens on every endpoint, for weight 1 and normal priority. */
  saturation: z.strictObject({ waitingTokens: z.int().positive() }).optional(),
  /** Prompt tokens that an endpoint of weight 1 computes in a millisecond: what deadlines and saturation are reckoned with. */
  prefillTokensPerMs: z.number().positive().max(1_000_000).optional(),
  standby: standby.optional(),
  autoscale: autoscale.optional(),
  /** Where endpoints come from beside those written here; absent: from nowhere. */
  discovery: discovery.optional(),
  /** At least one, unless there is `discovery`. */
  endpoints: endpointListSchema.default([]),
});
const glob = z.string().min(1).max(256);
const modelName = z.string().min(1).max(256);
/** Both ends included. */
const tokenRange = z.strictObject({ min: z.int().min(0).default(0), max: z.int().min(0).optional() });
const barePool = z.string().transform((name): { pool: string; model?: string | undefined } => ({ pool: name }));
const poolAndModel = z.union([barePool, z.strictObject({ pool: z.string(), model: modelName.optional() })], {
  error: 'expected the name of a pool, or { pool: NAME, model?: NAME }',
});
const route = z.strictObject({
  /** For the admin API, logs and metrics; absent: made of path and model. */
  name: name.optional(),
  match: z
    .strictObject({
      model: glob.default('*'),
      path: glob.default('*'),
      /** Header → a glob that its value must match, true: it must be there, false: it must not. */
      headers: z.record(headerName, z.union([glob, z.boolean()], { error: 'expected a pattern, or true or false for present or absent' })).optional(),
      promptTokens: tokenRange.optional(),
      maxTokens: tokenRange.optional(),
      tenant: glob.optional(),
    })
    .prefault({}),
  targets: z
    .array(z.strictObject({ pool: z.string(), weight: z.number().min(0).default(100), model: modelName.optional() }))
    .min(1, { error: 'expected at least one target' }),
  /** Moves requests from one pool to another, evenly from `start` on. */
  shift: z
    .strictObject({
      from: z.string(),
      to: poolAndModel,
      start: z.iso.datetime({ offset: true, error: 'expected a time such as 2026-01-31T22:00:00Z' }),
      durationMinutes: z.number().min(0).max(525_600),
    })
    .optional(),
  /** Pools in the order in which they stand in when the target has nobody who can take the request. */
  fallback: z.array(poolAndModel).max(16).optional(),
  /** Endpoints whose label has another value take no request of this route, whatever else fails. */
  residency: z
    .strictObject({
      label: z.string().min(1).max(63),
      values: z.array(z.string()).min(1).optional(),
      /** Tenant glob → the values for it; the first that matches counts. `values` hold for all others. */
      tenants: z.record(glob, z.array(z.string()).min(1)).optional(),
    })
    .optional(),
});

const memoryState = z.strictObject({ kind: z.literal('memory') });
const nodeAddress = z.string().refine(
  (text) => {
    const parsed = parseHostPort(text);
    return parsed !== undefined && parsed.port > 0;
  },
  { error: 'expected host:port' },
);
const redisState = z.strictObject({
  kind: z.literal('redis'),
  url: z
    .string()
    .refine((text) => /^rediss?:\/\//.test(text) && URL.canParse(text), { error: 'expected redis://[user:password@]host:port[/db], or rediss:// for TLS' })
    .default('redis://127.0.0.1:6379'),
  keyPrefix: z.string().regex(/^[\w.:-]{1,64}$/, { error: 'expected 1 to 64 letters, digits, dots, dashes, colons or underscores' }).default('fairlead'),
  username: z.string().optional(),
  password: z.string().optional(),
  passwordFile: z.string().optional(),
  tls: z
    .strictObject({ caFile: z.string().optional(), certFile: z.string().optional(), keyFile: z.string().optional(), serverName: z.string().optional() })
    .optional(),
  sentinel: z
    .strictObject({
      nodes: z.array(nodeAddress).min(1),
      name: z.string().min(1),
      username: z.string().optional(),
      password: z.string().optional(),
    })
    .optional(),
  cluster: z.strictObject({ nodes: z.array(nodeAddress).min(1) }).optional(),
  connectTimeoutMs: z.int().min(10).max(60_000).default(1_000),
  commandTimeoutMs: z.int().min(10).max(60_000).default(500),
  snapshotMs: z.int().min(20).max(5_000).default(100),
  pushEventsPerSecondMax: z.int().min(0).default(20_000),
});

const network = z.union([z.cidrv4(), z.cidrv6(), z.ipv4(), z.ipv6()], { error: 'expected an IP address or network, such as 10.0.0.0/8' });

/** What a pool does that says nothing of its reserve, or of autoscaling. */
export const standbyDefaults = standby.parse({});
export const autoscaleDefaults = autoscale.parse({});

/** What `state: { kind: redis }` means where it says nothing more. */
export const redisStateDefaults = redisState.parse({ kind: 'redis' });

/** Workers of a process at most. */
export const workersMax = 64;

/** The configuration file. Strict: what it does not know is an error. */
export const configSchema = z.strictObject({
  listen: listen.prefault({}),
  /** Threads that decide, each at an address of its own; auto: as many as there are cores. docs/workers.md. */
  workers: z.union([z.int().min(1).max(workersMax), z.literal('auto')], { error: `expected 1 to ${workersMax}, or auto` }).default(1),
  state: z.discriminatedUnion('kind', [memoryState, redisState]).default({ kind: 'memory' }),
  affinity: z
    .strictObject({ secret: z.string().min(1, { error: 'expected a secret; leave it out to have one made up' }).optional(), secretFile: z.string().optional(), cookie: sessionCookie.optional() })
    .prefault({}),
  facts: facts.prefault({}),
  outputs: z
    .strictObject({
      clusterHeader: outputHeaderName.default('x-fairlead-cluster'),
      endpointHeader: outputHeaderName.default('x-gateway-destination-endpoint'),
      endpointsMax: z.int().min(1).max(64).default(8),
    })
    .prefault({}),
  pools: z.array(pool).min(1, { error: 'expected at least one pool' }),
  routes: z.array(route).min(1).optional(),
  leases: z
    .strictObject({
      /** Longest that a request is counted when no sign of its end comes. */
      expireAfterMsMax: z.int().positive().default(1_800_000),
      /** How long a request is counted when nothing ever reports the end of any. */
      assumedDurationMs: z.int().positive().default(30_000),
    })
    .prefault({}),
  limits: z
    .strictObject({
      scanBytesMax: z.int().positive().default(1_048_576),
      /** Largest body asked for in mode NONE; at most Envoy's request_body_buffer_limit, beyond which requests hang or get 413. */
      askForBodyBytesMax: z.int().min(0).default(16_777_216),
      messageBytesMax: z.int().positive().default(67_108_864),
      decideDeadlineMs: z.int().positive().default(5_000),
    })
    .prefault({}),
  drain: z
    .strictObject({ readinessDelayMs: z.int().min(0).default(1_000), deadlineMs: z.int().positive().default(30_000) })
    .prefault({}),
  /** Answers to requests with the header x-fairlead-explain: 1, from these clients, say in a header of that name how they were decided. */
  explain: z
    .strictObject({
      header: z.boolean().default(false),
      /** Clients that may ask, by the address that Envoy tells (source.address in ext_proc's request_attributes). */
      allow: z.array(network).default([]),
      /** Or who sends this in x-fairlead-explain-token. */
      token: z.string().min(16, { error: 'expected at least 16 characters' }).optional(),
      tokenFile: z.string().optional(),
    })
    .prefault({}),
  /** JSON lines that tell of decisions and their outcomes; docs/decision-log.md. */
  decisionLog: z
    .strictObject({
      /** Share of sessions that are recorded; 0: no log. */
      sample: z.number().min(0).max(1).default(0),
      /** Absent: stdout, among the log's lines. */
      file: z.string().min(1).optional(),
      prefixHashes: z.boolean().default(false),
      trace: z.boolean().default(false),
    })
    .prefault({}),
  /** What this file and those it names become while the router runs; docs/reload.md. */
  reload: z
    .strictObject({
      /** Whether changes of the files are taken up by themselves; SIGHUP and the admin API always do it. */
      watch: z.boolean().default(true),
    })
    .prefault({}),
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']).default('info') }).prefault({}),
});

/** A checked configuration with every default filled in. */
export type Config = z.output<typeof configSchema>;
/** One pool of it. */
export type PoolConfig = Config['pools'][number];
/** One endpoint as written. */
export type EndpointConfig = z.output<typeof endpoint>;
/** One route of it. */
export type RouteConfig = NonNullable<Config['routes']>[number];
/** Where a fact is found. */
export type FactSource = z.output<typeof factSource>;
/** A policy as written. */
export type PolicyConfig = PoolConfig['policy'];
