// docs/strategies.md, made from the registry: `npm run docs` writes it, `npm run check` fails while it is stale.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { toJSONSchema } from 'zod';
import { presets, type PipelineSpec, type StepSpec } from '../src/strategies/presets.ts';
import { registry } from '../src/strategies/registry.ts';
import type { FilterStrategy, PickerStrategy, ScorerStrategy } from '../src/strategies/strategy.ts';
import { writeOrCheck } from './generated-page.ts';

type AnyStrategy = FilterStrategy | ScorerStrategy | PickerStrategy;

/** What other balancers call the nearest thing they have. `nginx+`: NGINX Plus. */
interface Equivalents {
  readonly nginx?: string;
  readonly envoy?: string;
  readonly aibrix?: string;
  readonly llmd?: string;
  readonly sglang?: string;
  readonly litellm?: string;
}

/** By strategy or preset. Names as their own documentation has them; a strategy left out has no counterpart. */
export const equivalents: Readonly<Record<string, Equivalents>> = {
  'sticky': { aibrix: '`prefix-cache-preble`', llmd: '`prefix-cache-scorer` + `token-load-scorer`', sglang: '`cache_aware`' },
  'round-robin': { nginx: 'default', envoy: '`ROUND_ROBIN`', sglang: '`round_robin`' },
  'weighted-round-robin': { nginx: '`weight=`', envoy: '`ROUND_ROBIN` with weights' },
  'random': { nginx: '`random`', envoy: '`RANDOM`', aibrix: '`random`', llmd: '`random-picker`', sglang: '`random`', litellm: '`simple-shuffle`' },
  'least-requests': { nginx: '`least_conn`', envoy: '`LEAST_REQUEST`, full scan', aibrix: '`least-request`', llmd: '`active-request-scorer`', litellm: '`least-busy`' },
  'weighted-least-requests': { nginx: '`least_conn` with `weight=`', envoy: '`LEAST_REQUEST` with weights', aibrix: '`load-balance`' },
  'power-of-two': { nginx: '`random two least_conn`', envoy: '`LEAST_REQUEST`', aibrix: '`power-of-two`', sglang: '`power_of_two`' },
  'weighted-fair': { aibrix: '`throughput`', litellm: '`usage-based-routing-v2`' },
  'least-tokens': { llmd: '`token-load-scorer`', sglang: '`least_load`' },
  'least-latency': { nginx: '`least_time` (Plus)', aibrix: '`least-latency`', litellm: '`latency-based-routing`' },
  'tail-latency': {},
  'queue-depth': { llmd: '`queue-scorer`' },
  'kv-usage': { aibrix: '`least-kv-cache`', llmd: '`kv-cache-utilization-scorer`' },
  'lora': { llmd: '`lora-affinity-scorer`' },
  'session-affinity': { nginx: '`hash … consistent`, `ip_hash`', envoy: '`RING_HASH`, `MAGLEV`', aibrix: '`session-affinity`', llmd: '`session-affinity-scorer`', sglang: '`consistent_hashing`' },
  'prefix-affinity': { aibrix: '`prefix-cache`', llmd: '`prefix-cache-scorer`', sglang: '`prefix_hash`' },
  'highest-score': { llmd: '`max-score-picker`' },
  'within-limits': { nginx: '`max_conns=`', envoy: 'circuit breakers' },
  'not-ejected': { nginx: '`max_fails=`', envoy: 'outlier detection' },
  'labels': { envoy: 'subset load balancing', aibrix: '`external-filter`', llmd: '`by-label-selector`' },
  'region': { envoy: 'zone-aware routing' },
  'slow-start': { nginx: '`slow_start=` (Plus)', envoy: '`slow_start_config`' },
};
const peers: readonly (readonly [keyof Equivalents, string])[] = [
  ['nginx', 'NGINX'],
  ['envoy', 'Envoy'],
  ['aibrix', 'AIBrix'],
  ['llmd', 'llm-d'],
  ['sglang', 'SGLang'],
  ['litellm', 'LiteLLM'],
];

const kinds = [
  ['Filters', 'Leave endpoints out, each with a stable reason. They come first, in their order; soft ones last, and a soft one that would leave nobody is ignored.', registry.filters],
  ['Scorers', 'Rate every candidate from 0 to 1, higher is better, unknown is 0.5. Their weighted sum is the score that pickers see.', registry.scorers],
  ['Pickers', 'Order the candidates: the first is the choice, the rest are what Envoy tries when it fails.', registry.pickers],
] as const;

/** The whole page. */
export function renderStrategyDocs(): string {
  const all: AnyStrategy[] = kinds.flatMap(([, , strategies]) => [...strategies.values()]);
  const lines = [
    '# Strategies',
    '',
    '<!-- Generated from src/strategies by `npm run docs`. Do not edit. -->',
    '',
    'How a pool chooses: filters, then weighted scorers, then one picker. Name a preset, or write the pipeline yourself:',
    '',
    ...code({ policy: { preset: 'sticky' } }),
    '',
    ...code({ policy: { filters: ['ready', 'within-limits'], scorers: [{ type: 'least-requests', weight: 1 }], picker: 'highest-score' } }),
    '',
    '`fairlead explain` shows what a policy makes of one request; `shadow: { policy: … }` beside a pool\'s `policy` scores another one on live requests.',
    '',
    '## Where to find what you know',
    '',
    'The nearest counterpart elsewhere, where there is one; none of them is the same in everything.',
    '',
    `| here | what it is | ${peers.map(([, title]) => title).join(' | ')} |`,
    `| --- | --- | ${peers.map(() => '---').join(' | ')} |`,
    ...indexed(all).map(({ name, what }) => {
      const cells = peers.map(([peer]) => equivalents[name]?.[peer] ?? '');
      return `| [\`${name}\`](#${anchorOf(name)}) | ${what} | ${cells.join(' | ')} |`;
    }),
    '',
    '## Presets',
    '',
    'A preset\'s `parameters` go to its picker; `filters` written beside it come after its own.',
    '',
    '| preset | filters | scorers | picker |',
    '| --- | --- | --- | --- |',
    ...Object.entries(presets).map(([name, spec]) => `| <a id="preset-${name}"></a>\`${name}\` | ${steps(spec.filters)} | ${steps(spec.scorers)} | ${steps([spec.picker])} |`),
  ];
  for (const [title, text, strategies] of kinds) {
    lines.push('', `## ${title}`, '', text);
    for (const strategy of strategies.values()) lines.push('', ...renderStrategy(strategy));
  }
  return `${lines.join('\n')}\n`;
}

/** Presets, then the strategies that no preset is named after. */
function indexed(all: readonly AnyStrategy[]): { readonly name: string; readonly what: string }[] {
  const named = new Set(Object.keys(presets));
  return [
    ...[...named].map((name) => ({ name, what: 'preset' })),
    ...all.filter(({ type }) => !named.has(type)).map(({ type, kind }) => ({ name: type, what: kind })),
  ];
}

/** Where the page tells of a name: at the strategy where there is one, else at the preset. */
function anchorOf(name: string): string {
  return kinds.some(([, , strategies]) => strategies.has(name)) ? name : `preset-${name}`;
}

function steps(written: readonly StepSpec[]): string {
  return written
    .map(({ type, weight, parameters }) => {
      const set = Object.entries(parameters ?? {}).map(([key, value]) => `${key}: ${JSON.stringify(value)}`);
      return `[\`${type}\`](#${type})${weight === undefined ? '' : ` × ${weight}`}${set.length === 0 ? '' : ` (${set.join(', ')})`}`;
    })
    .join(', ');
}

function renderStrategy(strategy: AnyStrategy): string[] {
  const { type, kind, prefers, wrongWhen, formula, source, needs } = strategy;
  const isSoft = kind === 'filter' && strategy.soft === true;
  return [
    `### ${type}`,
    '',
    `${prefers}${isSoft ? ' (A preference: ignored where it would leave nobody.)' : ''}`,
    '',
    `**Wrong when:** ${wrongWhen}`,
    '',
    `**Formula:** \`${formula.replaceAll('`', "'")}\``,
    '',
    `**Source:** ${source}`,
    '',
    `**Asks for:** ${needs.length === 0 ? 'nothing of the request' : needs.map((need) => `\`${need}\``).join(', ')}${strategy.wantsFirstToken === true ? '; wants first tokens noticed (`observe.firstToken`)' : ''}`,
    '',
    ...renderParameters(strategy),
    ...code({ policy: exampleOf(strategy) }),
  ];
}

/** A JSON schema of one parameter, as far as this page reads it. */
interface ParameterSchema {
  readonly type?: string | readonly string[];
  readonly description?: string;
  readonly default?: unknown;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly anyOf?: readonly ParameterSchema[];
  readonly items?: ParameterSchema;
  readonly additionalProperties?: ParameterSchema | boolean;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly minItems?: number;
}

function renderParameters({ parameters }: AnyStrategy): string[] {
  const schema = toJSONSchema(parameters, { io: 'input', unrepresentable: 'any' }) as { properties?: Record<string, ParameterSchema>; required?: string[] };
  const entries = Object.entries(schema.properties ?? {});
  if (entries.length === 0) return ['It has no parameters.', ''];
  return [
    '| parameter | type | default | range | what it is |',
    '| --- | --- | --- | --- | --- |',
    ...entries.map(([name, parameter]) => {
      const fallback = parameter.default === undefined ? (schema.required?.includes(name) === true ? 'required' : 'none') : `\`${JSON.stringify(parameter.default)}\``;
      return `| \`${name}\` | ${cell(typeOf(parameter))} | ${fallback} | ${rangeOf(parameter)} | ${cell(parameter.description ?? '')} |`;
    }),
    '',
  ];
}

function typeOf({ type, enum: choices, const: single, anyOf, items, additionalProperties }: ParameterSchema): string {
  if (choices !== undefined) return choices.map((choice) => `\`${String(choice)}\``).join(' or ');
  if (single !== undefined) return `\`${JSON.stringify(single)}\``;
  if (anyOf !== undefined) return [...new Set(anyOf.map(typeOf))].join(' or ');
  if (type === 'array') return `list of ${items === undefined ? 'anything' : typeOf(items)}`;
  if (type === 'object') return typeof additionalProperties === 'object' ? `map to ${typeOf(additionalProperties)}` : 'map';
  return typeof type === 'string' ? type : (type ?? ['anything']).join(' or ');
}

/** Bounds that say something: JSON Schema gives integers those of safe ones. */
function rangeOf({ minimum, maximum, exclusiveMinimum, exclusiveMaximum, minItems }: ParameterSchema): string {
  const bounds = [
    ...(exclusiveMinimum === undefined ? [] : [`> ${exclusiveMinimum}`]),
    ...(minimum === undefined || minimum === Number.MIN_SAFE_INTEGER ? [] : [`≥ ${minimum}`]),
    ...(exclusiveMaximum === undefined ? [] : [`< ${exclusiveMaximum}`]),
    ...(maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? [] : [`≤ ${maximum}`]),
    ...(minItems === undefined ? [] : [`at least ${minItems}`]),
  ];
  return bounds.join(', ');
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('\n', ' ');
}

/** The smallest policy that uses a strategy. */
export function exampleOf({ type, kind, example }: AnyStrategy): unknown {
  const step = example === undefined ? type : { type, parameters: example };
  if (kind === 'picker' && Object.hasOwn(presets, type) && presets[type]?.picker.type === type) {
    return { preset: type, ...(example !== undefined && { parameters: example }) };
  }
  const pipeline: Record<keyof PipelineSpec, unknown> = {
    filters: kind === 'filter' ? (type === 'ready' ? ['ready'] : ['ready', step]) : ['ready', 'within-limits'],
    scorers: kind === 'scorer' ? [step] : ['least-requests'],
    picker: kind === 'picker' ? step : 'highest-score',
  };
  return pipeline;
}

function code(value: unknown): string[] {
  return ['```yaml', stringify(value, { flowCollectionPadding: true, collectionStyle: 'any', lineWidth: 0 }).trimEnd(), '```'];
}

if (process.argv[1] !== undefined && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) writeOrCheck('docs/strategies.md', renderStrategyDocs());
