import type { BodyMode } from '../../lab/envoy-process.ts';
import type { ProcessorName } from './processors.ts';
import type { RequestShape } from './requests.ts';

/** One kind of traffic that all processors are put under. */
export interface BenchCase {
  readonly name: string;
  readonly about: string;
  /**
   * How Envoy shows Fairlead the body. FULL_DUPLEX_STREAMED is both ways, with the shipped configuration of an inference gateway; the others
   * use the plain one, in which Fairlead may ask for what it does not get.
   */
  readonly mode: Extract<BodyMode, 'NONE' | 'BUFFERED' | 'FULL_DUPLEX_STREAMED'>;
  /** Baselines run NONE (headers only) or BUFFERED. */
  readonly baselineMode: Extract<BodyMode, 'NONE' | 'BUFFERED'>;
  readonly policy: string;
  readonly endpoints: number;
  /** Whether first tokens are noticed; absent: as the policy has it. */
  readonly firstToken?: boolean;
  readonly requests: RequestShape;
  /** Whether latency is measured too. */
  readonly latency: boolean;
  /** Part of --quick. */
  readonly quick: boolean;
}

/** A number that a case's measurement must not exceed, from the issue that asked for the benchmark. */
export interface Limit {
  readonly caseName: string;
  readonly of: ProcessorName;
  readonly against: ProcessorName;
  /** CPU: of the processor per request. Latency: what is added to the same route without a processor. */
  readonly measure: 'cpu' | 'latencyP50' | 'latencyP99';
  /** Largest ratio. */
  readonly max: number;
}

const kilobyte = 1_000;
const sizes: readonly [label: string, bytes: number, variants: number][] = [
  ['400b', 400, 64],
  ['4k', 4 * kilobyte, 64],
  ['16k', 16 * kilobyte, 64],
  ['220k', 220 * kilobyte, 8],
  ['1m', 1_000 * kilobyte, 4],
];
const quickNames = new Set(['header', 'buffered-4k', 'buffered-220k', 'duplex-4k', 'duplex-220k']);
const latencyNames = new Set(['header', 'buffered-4k', 'buffered-220k']);

function toCase(name: string, about: string, rest: Omit<BenchCase, 'name' | 'about' | 'latency' | 'quick'>): BenchCase {
  return { name, about, ...rest, latency: latencyNames.has(name), quick: quickNames.has(name) };
}

/** Headers only, as the baselines: nothing is asked of the response either, unless the case is about that. */
const headerShape: RequestShape = { bodyBytes: 4 * kilobyte, session: 'header', variants: 256 };
const header = (policy: string, endpoints: number): Omit<BenchCase, 'name' | 'about' | 'latency' | 'quick'> => ({
  mode: 'NONE',
  baselineMode: 'NONE',
  policy,
  endpoints,
  firstToken: false,
  requests: headerShape,
});
const fourKilobytes: RequestShape = { bodyBytes: 4 * kilobyte, session: 'none', variants: 64 };

/** All cases, in the order in which they run. */
export const cases: readonly BenchCase[] = [
  toCase('header', 'session in a header; headers only', header('sticky', 5)),
  toCase('header-first-token', 'the same, and the first token noticed', { ...header('sticky', 5), firstToken: true }),
  toCase('header-1000', 'session in a header, 1000 endpoints', header('sticky', 1_000)),
  toCase('header-session-affinity', 'session in a header, session-affinity', header('session-affinity', 5)),
  toCase('header-round-robin', 'session in a header, round-robin', header('round-robin', 5)),
  ...sizes.map(([label, bodyBytes, variants]) =>
    toCase(`buffered-${label}`, `${label} body, by its prefix, BUFFERED`, {
      mode: 'BUFFERED',
      baselineMode: 'BUFFERED',
      policy: 'sticky',
      endpoints: 5,
      requests: { bodyBytes, session: 'none', variants },
    }),
  ),
  toCase('buffered-4k-1000', '4k body, by its prefix, 1000 endpoints', {
    mode: 'BUFFERED',
    baselineMode: 'BUFFERED',
    policy: 'sticky',
    endpoints: 1_000,
    requests: fourKilobytes,
  }),
  toCase('buffered-4k-stream', '4k body that asks for a stream, whose first token is noticed', {
    mode: 'BUFFERED',
    baselineMode: 'BUFFERED',
    policy: 'sticky',
    endpoints: 5,
    requests: { ...fourKilobytes, stream: true },
  }),
  toCase('buffered-4k-session-affinity', '4k body, by the session in it', {
    mode: 'BUFFERED',
    baselineMode: 'BUFFERED',
    policy: 'session-affinity',
    endpoints: 5,
    requests: { bodyBytes: 4 * kilobyte, session: 'body', variants: 64 },
  }),
  toCase('asked-4k', '4k body, asked for by mode_override', {
    mode: 'NONE',
    baselineMode: 'BUFFERED',
    policy: 'sticky',
    endpoints: 5,
    requests: fourKilobytes,
  }),
  ...sizes.map(([label, bodyBytes, variants]) =>
    toCase(`duplex-${label}`, `${label} body, by its prefix, FULL_DUPLEX both ways`, {
      mode: 'FULL_DUPLEX_STREAMED',
      baselineMode: 'BUFFERED',
      policy: 'sticky',
      endpoints: 5,
      requests: { bodyBytes, session: 'none', variants },
    }),
  ),
];

const latencyLimits = (caseName: string): Limit[] => [
  { caseName, of: 'fairlead', against: 'go', measure: 'latencyP50', max: 1.2 },
  { caseName, of: 'fairlead', against: 'go', measure: 'latencyP99', max: 1.5 },
];

/** What has to hold. Besides, no request may fail. */
export const limits: readonly Limit[] = [
  { caseName: 'header', of: 'fairlead', against: 'go', measure: 'cpu', max: 1 },
  { caseName: 'buffered-4k', of: 'fairlead', against: 'go', measure: 'cpu', max: 0.75 },
  { caseName: 'buffered-4k', of: 'fairlead', against: 'grpc-js', measure: 'cpu', max: 0.6 },
  { caseName: 'buffered-220k', of: 'fairlead', against: 'go', measure: 'cpu', max: 0.3 },
  { caseName: 'duplex-4k', of: 'fairlead', against: 'go', measure: 'cpu', max: 1 },
  { caseName: 'duplex-220k', of: 'fairlead', against: 'go', measure: 'cpu', max: 0.6 },
  ...[...latencyNames].flatMap(latencyLimits),
];
