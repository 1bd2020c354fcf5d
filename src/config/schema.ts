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

const factSource = z.union([z.strictObject({ header: headerName }), z.strictObject({ cookie: name }), z.strictObject({ body: bodyPath })], {
  error: 'expected one of { header: NAME }, { cookie: NAME }, { body: FIELD }',
});
const facts = z.strictObject({
  model: z.array(factSource).default([{ header: 'x-model' }, { body: 'model' }]),
  session: z
    .array(factSource)
    .default([{ header: 'x-session-id' }, { cookie: 'fairlead-session' }, { body: 'prompt_cache_key' }, { body: 'user' }]),
  tenant: z.array(factSource).default([{ header: 'x-tenant-id' }]),
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
    z.strictObject({ preset: z.string(), parameters: parameters.optional() }),
    z.strictObject({ filters: z.array(step).default([]), scorers: z.array(weightedStep).default([]), picker: step }),
  ],
  { error: 'expected { preset: NAME, parameters?: {…} } or a pipeline { filters: […], scorers: […], picker: … }' },
);

const endpoint = z.strictObject({
  address: endpointAddress,
  weight: z.number().positive().max(1_000_000).default(1),
  labels: z.record(z.string(), z.string()).default({}),
  limits: z.strictObject({ requests: z.int().positive().optional() }).default({}),
});
const pool = z.strictObject({
  name,
  cluster: clusterName.optional(),
  policy: policy.default({ preset: 'session-affinity' }),
  observe: z.strictObject({ firstToken: z.boolean().default(false) }).prefault({}),
  endpoints: z.array(endpoint).min(1, { error: 'expected at least one endpoint' }),
});
const glob = z.string().min(1).max(256);
const route = z.strictObject({
  match: z.strictObject({ model: glob.default('*'), path: glob.default('*') }).prefault({}),
  targets: z
    .array(z.strictObject({ pool: z.string(), weight: z.number().min(0).default(100) }))
    .min(1, { error: 'expected at least one target' }),
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

/** The configuration file. Strict: what it does not know is an error. */
export const configSchema = z.strictObject({
  listen: z.strictObject({ grpc: listenAddress.default('127.0.0.1:9002'), admin: listenAddress.default('127.0.0.1:9003') }).prefault({}),
  state: z.discriminatedUnion('kind', [memoryState, redisState]).default({ kind: 'memory' }),
  affinity: z
    .strictObject({ secret: z.string().min(1, { error: 'expected a secret; leave it out to have one made up' }).optional(), secretFile: z.string().optional() })
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
  log: z.strictObject({ level: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'fatal']).default('info') }).prefault({}),
});

/** A checked configuration with every default filled in. */
export type Config = z.output<typeof configSchema>;
/** One pool of it. */
export type PoolConfig = Config['pools'][number];
/** Where a fact is found. */
export type FactSource = z.output<typeof factSource>;
/** A policy as written. */
export type PolicyConfig = PoolConfig['policy'];
