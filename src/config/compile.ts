import { randomBytes } from 'node:crypto';
import { compileGlob } from '../core/glob.ts';
import type { Policy, Step } from '../core/policy.ts';
import type { FactNeed } from '../core/request-facts.ts';
import type { RoutedPool } from '../router/routing-table.ts';
import { presets, type PipelineSpec, type StepSpec } from '../strategies/presets.ts';
import { registry } from '../strategies/registry.ts';
import type { Strategy } from '../strategies/strategy.ts';
import type { LoadOutcome } from './load-outcome.ts';
import type { FileContents } from './files.ts';
import { type Problem, toPath } from './problem.ts';
import type { Config, PolicyConfig } from './schema.ts';

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
  if (settings.outputs.clusterHeader === settings.outputs.endpointHeader) {
    problem(['outputs', 'clusterHeader'], 'expected another header than endpointHeader');
  }

  if (settings.listen.grpc === settings.listen.admin && !settings.listen.grpc.endsWith(':0')) {
    problem(['listen', 'admin'], 'expected another address than listen.grpc');
  }

  const pools = new Map<string, RoutedPool>();
  settings.pools.forEach((pool, index) => {
    if (pools.has(pool.name)) problem(['pools', index, 'name'], `${pool.name} is taken by an earlier pool`);
    const addresses = new Set<string>();
    pool.endpoints.forEach(({ address }, at) => {
      if (addresses.has(address)) problem(['pools', index, 'endpoints', at, 'address'], `${address} is in this pool already`);
      addresses.add(address);
    });
    const policy = compilePolicy(pool.policy, ['pools', index, 'policy'], problem);
    pools.set(pool.name, { name: pool.name, cluster: pool.cluster ?? pool.name, policy, observeFirstToken: pool.observe.firstToken });
  });

  const first = settings.pools[0]?.name ?? '';
  if (settings.routes === undefined && settings.pools.length > 1) {
    warnings.push({ path: 'routes', message: `absent: all requests go to the first pool (${first}), the others get none` });
  }
  const written: NonNullable<Config['routes']> = settings.routes ?? [
    { match: { model: '*', path: '*' }, targets: [{ pool: first, weight: 100 }] },
  ];
  const routes = written.map(({ match, targets }, index) => {
    const known = targets.flatMap(({ pool: name, weight }, at) => {
      const pool = pools.get(name);
      if (pool === undefined) {
        problem(['routes', index, 'targets', at, 'pool'], `no pool is named ${name}; expected one of: ${[...pools.keys()].join(', ')}`);
        return [];
      }
      return [{ pool, weight }];
    });
    if (!targets.some(({ weight }) => weight > 0)) problem(['routes', index, 'targets'], 'expected a weight above 0');
    return {
      name: `${match.path} ${match.model}`,
      matchesModel: match.model === '*' ? undefined : compileGlob(match.model),
      matchesPath: match.path === '*' ? undefined : compileGlob(match.path),
      targets: known,
      needs: new Set(known.flatMap(({ pool }) => [...pool.policy.needs])),
    };
  });

  if (problems.length > 0) return { ok: false, problems };
  return {
    ok: true,
    warnings,
    config: {
      settings,
      affinitySecret: affinitySecret ?? randomBytes(32).toString('hex'),
      pools: settings.pools.map(({ name, endpoints }) => ({
        name,
        endpoints: endpoints.map(({ address, weight, labels, limits }) => ({ address, weight, labels, requestsMax: limits.requests })),
      })),
      files,
      table: { routes, needs: new Set(routes.flatMap(({ needs }) => [...needs])) },
    },
  };
}

type Report = (segments: readonly PropertyKey[], message: string) => void;

function compilePolicy(written: PolicyConfig, at: readonly PropertyKey[], problem: Report): Policy {
  let spec: PipelineSpec;
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
  } else {
    spec = written;
  }
  // Problems with a preset's picker are problems with the `parameters` that the user wrote beside `preset`.
  const pickerAt = 'preset' in written ? at : [...at, 'picker'];

  const needs = new Set<FactNeed>();
  const filters = spec.filters.flatMap((step, i) => createStep(registry.filters, step, [...at, 'filters', i], needs, problem));
  const scorers = spec.scorers.flatMap((step, i) =>
    createStep(registry.scorers, step, [...at, 'scorers', i], needs, problem).map((made) => ({ ...made, weight: step.weight ?? 1 })),
  );
  const [picker] = createStep(registry.pickers, spec.picker, pickerAt, needs, problem);
  const unusable = (): never => {
    throw new Error('a policy with problems is never run');
  };
  return { name, filters, scorers, picker: picker ?? { name: 'none', run: unusable }, needs };
}

/** Makes one step, or reports why not and makes none. */
function createStep<S>(
  known: ReadonlyMap<string, Strategy<string, S>>,
  step: StepSpec,
  at: readonly PropertyKey[],
  needs: Set<FactNeed>,
  problem: Report,
): Step<S>[] {
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
  return [{ name: step.type, run: strategy.create(parsed.data) }];
}
