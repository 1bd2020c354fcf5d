// The direction of imports (docs/architecture.md): core ← strategies, fleet, router ← adapters ← app ← main.
const production = { pathNot: '\\.test\\.ts$' };
const layer = (name, from, allowed) => ({
  name,
  severity: 'error',
  comment: `${from} may import from itself and: ${allowed.join(', ') || 'nothing else'}`,
  from: { path: `^src/${from}/`, ...production },
  to: { path: '^(src|sim|lab|demo|test|bench)/', pathNot: [from, ...allowed].map((folder) => `^src/${folder}/`) },
});

/** @type {import('dependency-cruiser').IConfiguration} */
export default {
  forbidden: [
    { name: 'no-circles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-orphans', severity: 'error', from: { orphan: true, pathNot: ['\\.test\\.ts$', '\\.d\\.ts$', '^src/main\\.ts$', '^src/app/workers/worker-thread\\.ts$'] }, to: {} },
    layer('core-is-pure', 'core', []),
    layer('strategies-use-core', 'strategies', ['core']),
    layer('fleet-uses-core', 'fleet', ['core']),
    layer('router-uses-core-and-fleet', 'router', ['core', 'fleet']),
    layer('config-compiles-to-policies', 'config', ['core', 'fleet', 'router', 'strategies']),
    ...['extproc', 'telemetry', 'admin', 'redis', 'discovery', 'probes'].map((adapter) =>
      layer(`${adapter}-is-an-adapter`, adapter, ['core', 'fleet', 'router']),
    ),
    {
      name: 'core-has-no-io',
      severity: 'error',
      from: { path: '^src/(core|strategies|fleet|router)/', ...production },
      to: { dependencyTypes: ['core'], pathNot: '^crypto$' },
    },
    {
      name: 'only-app-names-adapters',
      severity: 'error',
      from: { path: '^src/', pathNot: ['^src/(app|main\\.ts)', '\\.test\\.ts$'] },
      to: { path: '^src/app/' },
    },
    {
      name: 'service-without-simulation',
      severity: 'error',
      comment: 'only main.ts offers the simulated servers, as a command',
      from: { path: '^src/', pathNot: ['^src/main\\.ts$', '\\.test\\.ts$'] },
      to: { path: '^(sim|lab|demo|bench|test)/' },
    },
    { name: 'engine-model-is-pure', severity: 'error', from: { path: '^sim/engine/', ...production }, to: { pathNot: '^(sim/engine|src/core)/' } },
    { name: 'not-to-tests', severity: 'error', from: { pathNot: ['\\.test\\.ts$', '^test/'] }, to: { path: '\\.test\\.ts$' } },
    { name: 'not-to-dev-dependencies', severity: 'error', from: { path: '^src/', ...production }, to: { dependencyTypes: ['npm-dev'] } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { extensions: ['.ts', '.mjs', '.js', '.json'], conditionNames: ['import', 'node', 'default'], exportsFields: ['exports'] },
  },
};
