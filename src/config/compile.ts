import { randomBytes } from 'node:crypto';
import { tokensPerMsDefault } from '../core/expected-wait.ts';
import type { Filter, Policy, Step } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';
import type { Shadow } from '../router/shadow.ts';
import { createDeadlineGuard, createSaturationGuard } from '../router/guards.ts';
import { metricsStaleIntervals } from '../router/probe-events.ts';
import type { RoutedPool } from '../router/routing-table.ts';
import { presets, type PipelineSpec, type StepSpec } from '../strategies/presets.ts';
import { registry } from '../strategies/registry.ts';
import type { Strategy } from '../strategies/strategy.ts';
import { compileRoutes, type Report, withGuards } from './compile-routes.ts';
import { checkHealth, createSlowStartGuard, toHealthSettings } from './compile-health.ts';
import { checkScaling, toScalingSettings } from './compile-scaling.ts';
import { toEndpoints } from './endpoint-list.ts';
import type { LoadOutcome } from './load-outcome.ts';
import type { FileContents } from './files.ts';
import { type Problem, toPath } from './problem.ts';
import type { Config, PolicyConfig, PoolConfig } from './schema.ts';
import { toWorkerAddresses } from './worker-addresses.ts';

/** Secrets that stand in the shipped examples. */
const exampleSecrets = new Set(['change-me-one-per-fleet']);

/** Checks what a schema cannot (names that must exist, be unique, fit together) and builds policies and routes. */
export function compile(settings: Config, files: FileContents): LoadOutcome {
  const affinitySecret = settings.affinity.secret ?? files.affinitySecret;
  const problems: Problem[] = [];
  const warnings: Problem[] = [];
  const problem = (segments: readonly PropertyKey[], message: string): void => {
    problems.push({ path: toPath(segments), message });
  };

  if (settings.state.kind === 'redis') {
    if (affinitySecret === undefined) {
      problem(['affinity', 'secret'], 'expected a secret of your own, the same for all routers that share state; without it they cannot agree on homes');
    } else if (exampleSecrets.has(affinitySecret)) {
      problem(['affinity', 'secret'], 'expected a secret of your own; this one stands in the examples, so anyone could craft sessions');
    }
    if (settings.state.sentinel !== undefined && settings.state.cluster !== undefined) {
      problem(['state', 'cluster'], 'expected sentinel or cluster, not both');
    }
  }
  checkSessionCookie(settings, affinitySecret, problem, warnings);
  if (settings.explain.header && settings.explain.allow.length === 0 && settings.explain.token === undefined && files.explainToken === undefined) {
    problem(['explain', 'allow'], 'expected networks here, or a token: as it stands nobody may ask');
  }
  if (files.explainToken !== undefined && files.explainToken.length < 16) problem(['explain', 'tokenFile'], 'expected at least 16 characters in it');
  if (settings.outputs.clusterHeader === settings.outputs.endpointHeader) {
    problem(['outputs', 'clusterHeader'], 'expected another header than endpointHeader');
  }

  if (settings.listen.grpc === settings.listen.admin && !settings.listen.grpc.endsWith(':0')) {
    problem(['listen', 'admin'], 'expected another address than listen.grpc');
  }

  const workerAddresses = settings.workers === 'auto' ? [] : toWorkerAddresses(settings.listen, settings.workers);
  if (typeof workerAddresses === 'string') problem(['listen', 'grpc'], workerAddresses);

  const pools = new Map<string, RoutedPool>();
  settings.pools.forEach((pool, index) => {
    if (pools.has(pool.name)) problem(['pools', index, 'name'], `${pool.name} is taken by an earlier pool`);
    checkDiscovery(pool, ['pools', index], problem);
    const addresses = new Set<string>();
    pool.endpoints.forEach(({ address }, at) => {
      if (addresses.has(address)) problem(['pools', index, 'endpoints', at, 'address'], `${address} is in this pool already`);
      addresses.add(address);
    });
    if (new Set(pool.endpoints.map(({ dpSize }) => dpSize)).size > 1) {
      warnings.push({
        path: toPath(['pools', index, 'endpoints']),
        message: 'dpSize differs: once Envoy has tried the endpoints it was told, it may send a request to one that lacks its rank; better a pool for each size',
      });
    }
    const policy = withLengthNeeds(compilePolicy(pool.policy, ['pools', index, 'policy'], problem), pool);
    const observeFirstToken = pool.observe.firstToken ?? policy.wantsFirstToken;
    if (policy.wantsFirstToken && !observeFirstToken) {
      warnings.push({
        path: toPath(['pools', index, 'observe', 'firstToken']),
        message: `false: ${policy.name} takes prompts for waiting until their requests end, and chooses worse; leave it out to have first tokens noticed`,
      });
    }
    checkMetrics(pool, policy, ['pools', index], problem, warnings);
    checkScaling(pool, observeFirstToken, ['pools', index], problem, warnings);
    checkHealth(pool, ['pools', index], problem);
    checkProbe(pool.health, ['pools', index, 'health', 'probe'], problem, warnings);
    const shadow = pool.shadow && compileShadow(pool.shadow, ['pools', index, 'shadow'], { policy, observeFirstToken }, problem, warnings);
    // Only with `readBody` may a shadow have a say in what is asked of a request.
    const needs = pool.shadow?.readBody === true && shadow !== undefined ? new Set([...policy.needs, ...shadow.policy.needs]) : policy.needs;
    const routed = { name: pool.name, cluster: pool.cluster ?? pool.name, policy: { ...policy, needs }, shadow, observeFirstToken };
    pools.set(pool.name, withGuards(routed, { after: [...compileGuards(pool, settings, routed, ['pools', index], warnings), ...createSlowStartGuard(pool, policy.filters)] }));
  });

  const table = compileRoutes(settings, pools, problem, warnings);

  if (problems.length > 0) return { ok: false, problems };
  return {
    ok: true,
    warnings,
    config: {
      settings,
      affinitySecret: affinitySecret ?? randomBytes(32).toString('hex'),
      pools: settings.pools.map(({ name, labels: shared, endpoints }) => ({
        name,
        endpoints: endpoints.flatMap((endpoint) => toEndpoints(endpoint, shared)),
      })),
      scaling: settings.pools.map(toScalingSettings),
      health: new Map(settings.pools.map((pool) => [pool.name, toHealthSettings(pool, pools.get(pool.name)?.observeFirstToken === true)])),
      files,
      table,
    },
  };
}

/** What stands beside a pool's policy: its own saturation, and the deadlines of requests. */
function compileGuards(
  { saturation, prefillTokensPerMs: tokensPerMs = tokensPerMsDefault }: PoolConfig,
  { facts }: Config,
  { policy, observeFirstToken }: RoutedPool,
  at: readonly PropertyKey[],
  warnings: Problem[],
): Step<Filter>[] {
  if (saturation !== undefined && !observeFirstToken) {
    warnings.push({
      path: toPath([...at, 'saturation']),
      message: 'prompts count as waiting until their requests end, since first tokens are not noticed: set observe.firstToken',
    });
  }
  const guards: Step<Filter>[] = [];
  if (saturation !== undefined || facts.priority.length > 0) guards.push(createSaturationGuard({ waitingTokensMax: saturation?.waitingTokens, tokensPerMs }));
  if (facts.deadline.length > 0) guards.push(createDeadlineGuard({ tokensPerMs, seesWaiting: observeFirstToken, seesCaches: policy.needs.has('prefix') }));
  return guards;
}

/** What browsers demand of a cookie (RFC 6265bis, 4.1.3 and 5.6), and what makes its signature worth something. */
function checkSessionCookie({ affinity, facts, state }: Config, affinitySecret: string | undefined, problem: Report, warnings: Problem[]): void {
  const { cookie } = affinity;
  if (cookie === undefined) return;
  const at = ['affinity', 'cookie'];
  const { name, secure, path } = cookie;
  const prefix = /^__(host|secure)-/i.exec(name)?.[1]?.toLowerCase();
  if (!secure && prefix !== undefined) problem([...at, 'secure'], `expected true: browsers refuse a cookie named ${name} otherwise`);
  else if (!secure && cookie.sameSite === 'none') problem([...at, 'secure'], 'expected true: browsers refuse a cookie with SameSite=None otherwise');
  if (path !== '/' && prefix === 'host') problem([...at, 'path'], `expected /: browsers refuse a cookie named ${name} otherwise`);
  if (!facts.session.some((source) => 'cookie' in source && source.cookie === name)) {
    problem(['facts', 'session'], `expected { cookie: ${name} } among the sources: affinity.cookie issues it`);
  }
  if (affinitySecret === undefined) {
    // With Redis that is a problem already.
    if (state.kind === 'memory') {
      warnings.push({ path: 'affinity.secret', message: 'absent: with one made up at each start, cookies of other routers and from before a restart are replaced' });
    }
  } else if (exampleSecrets.has(affinitySecret) && state.kind === 'memory') {
    problem(['affinity', 'secret'], 'expected a secret of your own; this one stands in the examples, so anyone could sign cookies');
  }
}

function checkDiscovery({ endpoints, discovery }: PoolConfig, at: readonly PropertyKey[], problem: Report): void {
  if (discovery === undefined) {
    if (endpoints.length === 0) problem([...at, 'endpoints'], 'expected at least one endpoint, or discovery');
    return;
  }
  const { file, dns } = discovery;
  if (file === undefined && dns === undefined) problem([...at, 'discovery'], 'expected file, dns, or both');
  if (dns === undefined) return;
  if (dns.type === 'SRV' && dns.port !== undefined) problem([...at, 'discovery', 'dns', 'port'], 'expected none: SRV records tell the port');
  if (dns.type !== 'SRV' && dns.port === undefined) problem([...at, 'discovery', 'dns', 'port'], `expected the port of the endpoints: ${dns.type} records tell none`);
}

function checkMetrics({ metrics }: PoolConfig, policy: Policy, at: readonly PropertyKey[], problem: Report, warnings: Problem[]): void {
  if (metrics?.timeoutMs !== undefined && metrics.timeoutMs > metricsStaleIntervals * metrics.intervalMs) {
    const max = metricsStaleIntervals * metrics.intervalMs;
    problem([...at, 'metrics', 'timeoutMs'], `expected at most ${max}, five intervals: what comes later is stale already`);
  }
  const readers = policy.scorers.filter(({ name }) => registry.scorers.get(name)?.wantsMetrics === true).map(({ name }) => name);
  if (metrics === undefined && readers.length > 0) {
    warnings.push({ path: toPath([...at, 'metrics']), message: `absent: ${readers.join(', ')} rates all endpoints the same without what their metrics tell; write metrics: {}` });
  }
}

function checkProbe({ probe }: PoolConfig['health'], at: readonly PropertyKey[], problem: Report, warnings: Problem[]): void {
  if (probe === undefined) return;
  const { path, model, modelsPath, intervalMs, timeoutMs } = probe;
  if (timeoutMs !== undefined && timeoutMs > intervalMs) problem([...at, 'timeoutMs'], `expected at most ${intervalMs}, the interval`);
  if (model === undefined && (path === modelsPath || modelsPath !== '/v1/models')) {
    warnings.push({ path: toPath([...at, 'model']), message: `absent: ${modelsPath} is not looked at for what models it lists; name the one that must be loaded` });
  }
}

/** Compiles a shadow policy, and warns of what it will have to do without. */
function compileShadow(
  { policy: written, sample, readBody }: NonNullable<PoolConfig['shadow']>,
  at: readonly PropertyKey[],
  live: { readonly policy: Policy; readonly observeFirstToken: boolean },
  problem: Report,
  warnings: Problem[],
): Shadow {
  const policy = compilePolicy(written, [...at, 'policy'], problem);
  const unasked = [...policy.needs].filter((fact) => !live.policy.needs.has(fact));
  if (unasked.length > 0 && !readBody) {
    const message = `false: ${policy.name} chooses by ${unasked.join(', ')} as well, which ${live.policy.name} does not ask for; it will know only what turns up`;
    warnings.push({ path: toPath([...at, 'readBody']), message });
  }
  if (policy.wantsFirstToken && !live.observeFirstToken) {
    const message = `${policy.name} goes by first tokens, which are not noticed in this pool: set observe.firstToken, or it will look worse than it is`;
    warnings.push({ path: toPath([...at, 'policy']), message });
  }
  return { policy, sample };
}

function compilePolicy(written: PolicyConfig, at: readonly PropertyKey[], problem: Report): Policy {
  let spec: PipelineSpec;
  /** Filters written beside a preset: they come after its own. */
  let added: readonly StepSpec[] = [];
  let name = 'pipeline';
  if ('preset' in written) {
    const preset = Object.hasOwn(presets, written.preset) ? presets[written.preset] : undefined;
    if (preset === undefined) {
      problem([...at, 'preset'], `no preset is named ${written.preset}; expected one of: ${Object.keys(presets).join(', ')}`);
      spec = { filters: [], scorers: [], picker: { type: 'highest-score' } };
    } else {
      spec = { ...preset, picker: { ...preset.picker, parameters: { ...preset.picker.parameters, ...written.parameters } } };
    }
    name = written.preset;
    added = written.filters ?? [];
  } else {
    spec = written;
  }
  // Problems with a preset's picker are problems with the `parameters` that the user wrote beside `preset`.
  const pickerAt = 'preset' in written ? at : [...at, 'picker'];

  const needs = new Set<FactNeed>();
  const headers = new Set<string>();
  const filterSteps = [...spec.filters.entries(), ...added.entries()];
  const filters = filterSteps.flatMap(([i, step]) => {
    return createStep(registry.filters, step, [...at, 'filters', i], needs, problem).flatMap(({ strategy, parameters, ...made }) => {
      for (const header of strategy.headersOf?.(parameters) ?? []) headers.add(header);
      const preference = strategy.createPreference?.(parameters);
      const whole = { ...made, soft: strategy.soft === true };
      return preference === undefined ? [whole] : [whole, { name: made.name, run: preference, soft: true }];
    });
  });
  const scorers = spec.scorers.flatMap((step, i) =>
    createStep(registry.scorers, step, [...at, 'scorers', i], needs, problem).map(({ name, run }) => ({ name, run, weight: step.weight ?? 1 })),
  );
  const [picker] = createStep(registry.pickers, spec.picker, pickerAt, needs, problem);
  const unusable = (): never => {
    throw new Error('a policy with problems is never run');
  };
  const wantsFirstToken =
    filterSteps.some(([, { type }]) => registry.filters.get(type)?.wantsFirstToken === true) ||
    spec.scorers.some(({ type }) => registry.scorers.get(type)?.wantsFirstToken === true) ||
    registry.pickers.get(spec.picker.type)?.wantsFirstToken === true;
  return { name, filters, scorers, picker: { name: picker?.name ?? 'none', run: picker?.run ?? unusable }, needs, headers, wantsFirstToken };
}

/**
 * Where endpoints have context lengths, keeping within limits takes the prompt's length; and the wanted answer's, for which the body has
 * to be read, where endpoints differ in them, so that there is something to choose.
 */
function withLengthNeeds(policy: Policy, { endpoints, discovery }: PoolConfig): Policy {
  const lengths = new Set(endpoints.map(({ limits }) => limits.contextTokens));
  // Those that a file will name may have any.
  const mayHaveLengths = discovery?.file !== undefined || [...lengths].some((length) => length !== undefined);
  if (!policy.filters.some(({ name }) => name === 'within-limits') || !mayHaveLengths) return policy;
  return { ...policy, needs: new Set([...policy.needs, 'promptTokens', ...(lengths.size > 1 ? (['maxTokens'] as const) : [])]) };
}

/** Makes one step, or reports why not and makes none. */
function createStep<S, K extends Strategy<string, S>>(
  known: ReadonlyMap<string, K & Strategy<string, S>>,
  step: StepSpec,
  at: readonly PropertyKey[],
  needs: Set<FactNeed>,
  problem: Report,
): (Step<S> & { readonly strategy: K; readonly parameters: unknown })[] {
  const strategy = known.get(step.type);
  if (strategy === undefined) {
    problem([...at, 'type'], `no such strategy here: ${step.type}; expected one of: ${[...known.keys()].join(', ')}`);
    return [];
  }
  const parsed = strategy.parameters.safeParse(step.parameters ?? {});
  if (!parsed.success) {
    for (const issue of parsed.error.issues) {
      if (issue.code === 'unrecognized_keys') {
        for (const key of issue.keys) problem([...at, 'parameters', key], `unknown parameter of ${step.type}`);
      } else {
        problem([...at, 'parameters', ...issue.path], issue.message);
      }
    }
    return [];
  }
  for (const need of strategy.needs) needs.add(need);
  return [{ name: step.type, run: strategy.create(parsed.data), strategy, parameters: parsed.data }];
}
