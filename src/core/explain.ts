import type { CachedTokens } from './cached-tokens.ts';
import { countRejections, type Decision, type NoneCause } from './decision.ts';
import type { RequestFacts } from './request-facts.ts';

/** What a second policy would have done with the same request; see `compareWithShadow`. */
export interface ShadowComparison {
  readonly policy: string;
  /**
   * `agree`: the same endpoint; `differ`: another one; `only-live`, `only-shadow`: only one of the two found an endpoint; `neither`: none
   * did; `failed`: the shadow policy threw.
   */
  readonly outcome: 'agree' | 'differ' | 'only-live' | 'only-shadow' | 'neither' | 'failed';
  /** The shadow's choice; undefined: it found none. */
  readonly address: string | undefined;
  readonly reason: string | undefined;
  /** Expected time to first token at the live and at the shadow's choice, in ms; undefined where one of them found none. */
  readonly expectedTtftMs: { readonly live: number; readonly shadow: number } | undefined;
  /** What the shadow threw. */
  readonly error?: unknown;
}

/** One pool that was asked to take a request. */
export interface Considered {
  readonly pool: string;
  readonly decision: Decision;
  /** Prompt length reckoned with, in tokens. */
  readonly promptTokens: number;
  /** Tokens of the prompt believed to be cached, by address; empty where the policy does not look. */
  readonly cachedTokens: CachedTokens;
  readonly shadow?: ShadowComparison | undefined;
}

/**
 * How a decision came about, fit to be kept and shown: the session by its keyed hash, no tenant, no prompt, no path, and of the model's
 * name only what looks like one.
 */
export interface DecisionAccount {
  /** Undefined: no route matched. */
  readonly route: string | undefined;
  readonly model: string | undefined;
  /** Keyed hash of tenant and session; undefined: the request has no session. */
  readonly sessionKey: string | undefined;
  /** As measured or estimated from the request; undefined: its length was not known. */
  readonly promptTokens: number | undefined;
  readonly maxTokens: number | undefined;
  readonly stream: boolean | undefined;
  /** Chained hashes of the prompt's leading blocks; empty where the body was not read. */
  readonly prefixHashes: readonly number[];
  /** In the order in which they were asked; the last one's decision is what counts. Empty: no pool was asked. */
  readonly considered: readonly Considered[];
}

/** What a model's name looks like; anything else in its place is a client's text. */
const modelName = /^[\w.:/@+-]{1,128}$/;

/** Begins the account of a decision: pools are added as they are asked. */
export function createAccount(
  route: string | undefined,
  { model, promptTokens, maxTokens, stream, prefixHashes }: RequestFacts,
  sessionKey: string | undefined,
): DecisionAccount & { readonly considered: Considered[] } {
  return {
    route,
    model: model === undefined || modelName.test(model) ? model : '(not a name)',
    sessionKey,
    promptTokens,
    maxTokens,
    stream,
    prefixHashes,
    considered: [],
  };
}

/** One endpoint in a decision. */
export interface EndpointExplanation {
  readonly address: string;
  /** Its place in the order in which Envoy is to try them; 1 is the choice. Null: it was left out. */
  readonly place: number | null;
  /** Weighted sum of the scores; null where nothing scores or it was left out. */
  readonly score: number | null;
  /** Each scorer's rating, from 0 to 1. */
  readonly ratings: Readonly<Record<string, number>>;
  /** What the picker reckoned it to cost, lower is better; null where it weighs no costs. */
  readonly cost: number | null;
  /** Tokens of the prompt that it is believed to have cached. */
  readonly cachedTokens: number;
  /** The filter that left it out, and its reason. */
  readonly leftOut: { readonly filter: string; readonly reason: string } | null;
}

/** One pool in a decision. */
export interface PoolExplanation {
  readonly pool: string;
  readonly policy: string;
  /** `route`, or why it could not take the request. */
  readonly outcome: 'route' | NoneCause;
  /** Stable code of what tipped it; null: no endpoint was found. */
  readonly reason: string | null;
  /** The same in words: how far the choice was ahead. */
  readonly tipped: string | null;
  /** The session's first choice by hash, where the policy has one. */
  readonly home: string | null;
  readonly promptTokens: number;
  /** In the order in which they are to be tried, then those left out. */
  readonly endpoints: readonly EndpointExplanation[];
  readonly shadow: {
    readonly policy: string;
    readonly outcome: ShadowComparison['outcome'];
    readonly address: string | null;
    readonly reason: string | null;
    /** Expected time to first token at the live choice less that at the shadow's, in ms. */
    readonly regretMs: number | null;
  } | null;
}

/** A decision explained: plain data, for JSON. */
export interface Explanation {
  readonly route: string | null;
  readonly model: string | null;
  readonly sessionKey: string | null;
  /** Null: the prompt's length was not known, and each pool's mean was reckoned with. */
  readonly promptTokens: number | null;
  readonly maxTokens: number | null;
  readonly stream: boolean | null;
  /** Leading blocks of the prompt whose hashes are known. */
  readonly prefixBlocks: number;
  /** In the order in which they were asked; the last one counts. */
  readonly pools: readonly PoolExplanation[];
}

/** Explains a decision from its account. */
export function explain({ route, model, sessionKey, promptTokens, maxTokens, stream, prefixHashes, considered }: DecisionAccount): Explanation {
  return {
    route: route ?? null,
    model: model ?? null,
    sessionKey: sessionKey ?? null,
    promptTokens: promptTokens ?? null,
    maxTokens: maxTokens ?? null,
    stream: stream ?? null,
    prefixBlocks: prefixHashes.length,
    pools: considered.map(explainPool),
  };
}

function explainPool({ pool, decision, promptTokens, cachedTokens, shadow }: Considered): PoolExplanation {
  const { candidates, rejections, scores, costs, policy } = decision.trace;
  const totals = totalsOf(decision);
  const order = decision.kind === 'route' ? decision.addresses : [];
  const cached = (address: string): number => cachedTokens.get(address) ?? 0;
  const places = new Map(candidates.map((address, i) => [address, i]));
  const tried = order.map((address, i): EndpointExplanation => {
    const at = places.get(address) ?? -1;
    return {
      address,
      place: i + 1,
      score: totals?.[at] ?? null,
      ratings: Object.fromEntries(scores.map(({ scorer, ratings }) => [scorer, ratings[at] ?? 0.5])),
      cost: costs?.[at] ?? null,
      cachedTokens: cached(address),
      leftOut: null,
    };
  });
  const leftOut = rejections.map(({ address, filter, reason }): EndpointExplanation => {
    return { address, place: null, score: null, ratings: {}, cost: null, cachedTokens: cached(address), leftOut: { filter, reason } };
  });
  const ttft = shadow?.expectedTtftMs;
  return {
    pool,
    policy,
    outcome: decision.kind === 'route' ? 'route' : decision.cause,
    reason: decision.kind === 'route' ? decision.reason : null,
    tipped: decision.kind === 'route' ? tellLead(decision) : null,
    home: decision.kind === 'route' ? (decision.home ?? null) : null,
    promptTokens,
    endpoints: [...tried, ...leftOut],
    shadow:
      shadow === undefined
        ? null
        : {
            policy: shadow.policy,
            outcome: shadow.outcome,
            address: shadow.address ?? null,
            reason: shadow.reason ?? null,
            regretMs: ttft === undefined ? null : ttft.live - ttft.shadow,
          },
  };
}

/** Weighted sums of the scores, in the candidates' order; undefined where nothing scores. */
function totalsOf({ trace: { candidates, scores } }: Decision): readonly number[] | undefined {
  if (scores.length === 0) return undefined;
  return candidates.map((_, i) => scores.reduce((sum, { weight, ratings }) => sum + weight * (ratings[i] ?? 0.5), 0));
}

/** How far the choice was ahead of the best of the others. */
function tellLead(decision: Extract<Decision, { kind: 'route' }>): string {
  const { candidates, scores, costs } = decision.trace;
  const chosen = candidates.indexOf(decision.addresses[0] ?? '');
  const others = candidates.map((_, i) => i).filter((i) => i !== chosen);
  if (others.length === 0) return 'the only candidate';
  const bestOf = (values: readonly number[]): number => others.reduce((best, i) => ((values[i] ?? 0) > (values[best] ?? 0) ? i : best));
  if (costs !== undefined) {
    const next = bestOf(costs.map((cost) => -cost));
    return `cost ${toDigits(costs[chosen] ?? 0)}; next ${candidates[next] ?? '?'} with ${toDigits(costs[next] ?? 0)}`;
  }
  const totals = totalsOf(decision);
  if (totals === undefined) return `by the picker; nothing scores in ${decision.trace.policy}`;
  const next = bestOf(totals);
  const lead = (totals[chosen] ?? 0) - (totals[next] ?? 0);
  const compared = `score ${toDigits(totals[chosen] ?? 0)}; next ${candidates[next] ?? '?'} with ${toDigits(totals[next] ?? 0)}`;
  if (lead < 0) return `by the picker, not by score (${compared})`;
  if (lead === 0) return `${compared}: a tie, broken by the picker`;
  const gains = scores.map(({ scorer, weight, ratings }) => ({ scorer, gain: weight * ((ratings[chosen] ?? 0.5) - (ratings[next] ?? 0.5)) }));
  const most = gains.reduce((best, gain) => (gain.gain > best.gain ? gain : best));
  return scores.length === 1 ? compared : `${compared}; most of it by ${most.scorer} (+${toDigits(most.gain)})`;
}

/** A number short enough to read: up to three digits after the point, none where it is large. */
function toDigits(value: number): string {
  return String(Number(value.toFixed(Math.abs(value) >= 1_000 ? 0 : Math.abs(value) >= 10 ? 1 : 3)));
}

/** An explanation as text for a terminal. */
export function formatExplanation(explanation: Explanation): string {
  const { route, model, sessionKey, promptTokens, maxTokens, stream, prefixBlocks, pools } = explanation;
  const lines = [
    `route    ${route ?? 'none matches'}`,
    `model    ${model ?? 'not known'}`,
    `session  ${sessionKey === null ? 'none' : `key ${sessionKey}`}`,
    `prompt   ${promptTokens === null ? 'of unknown length' : `${promptTokens} tokens`}, ${prefixBlocks === 0 ? 'its prefix not read' : `prefix of ${prefixBlocks} blocks`}`,
    `answer   ${maxTokens === null ? 'of any length' : `at most ${maxTokens} tokens`}${stream === true ? ', streamed' : ''}`,
  ];
  for (const pool of pools) lines.push('', ...formatPool(pool));
  return `${lines.join('\n')}\n`;
}

function formatPool({ pool, policy, outcome, reason, tipped, home, promptTokens, endpoints, shadow }: PoolExplanation): string[] {
  const scorers = Object.keys(endpoints.find(({ place }) => place !== null)?.ratings ?? {});
  const hasCosts = endpoints.some(({ cost }) => cost !== null);
  const hasCached = endpoints.some(({ cachedTokens }) => cachedTokens > 0);
  const show = (value: number | null | undefined): string => (value === null || value === undefined ? '' : toDigits(value));
  const head = ['', 'endpoint', ...scorers, ...(scorers.length > 0 ? ['score'] : []), ...(hasCosts ? ['cost'] : []), ...(hasCached ? ['cached'] : []), ''];
  const rows = endpoints.map(({ address, place, score, ratings, cost, cachedTokens, leftOut }) => [
    place === null ? '-' : String(place),
    address,
    ...scorers.map((scorer) => show(ratings[scorer])),
    ...(scorers.length > 0 ? [show(score)] : []),
    ...(hasCosts ? [show(cost)] : []),
    ...(hasCached ? [show(cachedTokens)] : []),
    leftOut === null ? (address === home ? 'home' : '') : `left out by ${leftOut.filter}: ${leftOut.reason}`,
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const last = head.length - 1;
  const print = (cells: readonly string[]): string =>
    `  ${cells.map((cell, i) => (i === 1 || i === last ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ')}`.trimEnd();
  const lines = [
    `pool ${pool}, policy ${policy}, ${promptTokens} prompt tokens: ${outcome === 'route' ? `${endpoints[0]?.address ?? '?'} (${reason ?? '?'})` : `no endpoint (${outcome})`}`,
    ...(tipped === null ? [] : [`  tipped by: ${tipped}`]),
    print(head),
    ...rows.map(print),
  ];
  if (shadow !== null) {
    const regret = shadow.regretMs === null ? '' : `, estimated regret ${toDigits(shadow.regretMs)} ms`;
    lines.push(`  shadow ${shadow.policy}: ${shadow.outcome}${shadow.address === null ? '' : `, ${shadow.address}`}${shadow.reason === null ? '' : ` (${shadow.reason})`}${regret}`);
  }
  return lines;
}

/** Longest that {@link summarize} gives, in characters. */
export const summaryCharsMax = 512;
const filtersShownMax = 6;

/**
 * A decision in one line of printable ASCII, for a response header: `key=value` pairs joined by `; `. `refused`: the code, where the
 * request was refused; `told`: the address told to Envoy, where that may not be the policy's choice (a place on that one was not to be had).
 */
export function summarize(
  { route, considered }: DecisionAccount,
  { refused, told }: { readonly refused?: string | undefined; readonly told?: string | undefined } = {},
): string {
  const parts = refused === undefined ? [] : [`refused=${refused}`];
  const last = considered.at(-1);
  if (last !== undefined) {
    const { pool, decision, cachedTokens, shadow } = last;
    const { policy, candidates, costs } = decision.trace;
    parts.push(`pool=${pool}`, `policy=${policy}`);
    if (decision.kind === 'none') {
      parts.push(`cause=${decision.cause}`);
    } else {
      const [chosen = '', next] = decision.best ?? decision.addresses;
      parts.push(`endpoint=${told ?? chosen}`, `reason=${decision.reason}`);
      if (told !== undefined && told !== chosen) parts.push(`chosen=${chosen}`);
      if (decision.home !== undefined) parts.push(`home=${decision.home}`);
      const cost = costs?.[candidates.indexOf(chosen)];
      if (cost !== undefined) parts.push(`cost=${toDigits(cost)}`);
      const score = totalsOf(decision)?.[candidates.indexOf(chosen)];
      if (score !== undefined) parts.push(`score=${toDigits(score)}`);
      const cached = cachedTokens.get(chosen);
      if (cached !== undefined) parts.push(`cached=${cached}`);
      if (next !== undefined) parts.push(`next=${next}`);
    }
    parts.push(`candidates=${candidates.length}`);
    const counts = countRejections(decision.trace);
    if (counts.length > 0) {
      const shown = counts.slice(0, filtersShownMax).map(({ filter, reason, count }) => `${filter}:${reason}*${count}`);
      parts.push(`left-out=${shown.join(',')}${counts.length > shown.length ? ',...' : ''}`);
    }
    if (considered.length > 1) parts.push(`passed-over=${considered.slice(0, -1).map((earlier) => earlier.pool).join(',')}`);
    if (shadow !== undefined) parts.push(`shadow=${shadow.policy}:${shadow.outcome}`);
  }
  if (route !== undefined) parts.push(`route=${route}`);
  const line = parts.join('; ').replace(/[^\x20-\x7e]/g, '?');
  return line.length > summaryCharsMax ? `${line.slice(0, summaryCharsMax - 3)}...` : line;
}
