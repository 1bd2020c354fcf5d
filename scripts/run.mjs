// `npm run TASK`: makes the checkout ready, then runs the task under Node 24. Plain Node ≥ 18, no packages.
import { spawn } from 'node:child_process';
import path from 'node:path';
import { ensureEnvoy, ensureNode, ensureOfficialProtos, ensurePackages, ensureRedis, root, SetupError } from './setup.mjs';

const bin = (name) => path.join(root, 'node_modules', name);

/** Each task: what it needs besides packages and Node, and the Node command lines it runs in turn. */
const tasks = {
  setup: { envoy: true, protos: true, redis: true, steps: [['scripts/build.mjs']] },
  build: { steps: [['scripts/build.mjs']] },
  demo: { envoy: true, steps: [['scripts/build.mjs'], ['demo/main.ts', '...']] },
  test: { envoy: true, protos: true, redis: true, steps: [[bin('vitest/vitest.mjs'), 'run', '...']] },
  check: {
    protos: true,
    envoy: true,
    steps: [
      [bin('typescript/bin/tsc'), '--noEmit'],
      ['scripts/strategy-docs.ts'],
      ['scripts/metrics-docs.ts'],
      [bin('eslint/bin/eslint.js'), '--max-warnings=0', '.'],
      [bin('dependency-cruiser/bin/dependency-cruiser.mjs'), '--config', '.dependency-cruiser.mjs', 'src', 'sim', 'lab', 'demo', 'bench'],
      [bin('vitest/vitest.mjs'), 'run', '--project', 'fast'],
    ],
  },
  docs: { steps: [['scripts/strategy-docs.ts', '--write'], ['scripts/metrics-docs.ts', '--write']] },
  'check:deploy': { envoy: true, steps: [['scripts/check-deploy.ts', '...']] },
  bench: { envoy: true, redis: true, steps: [['scripts/build.mjs'], ['bench/hot-path/main.ts', '...']] },
  'bench:streams': { envoy: true, redis: true, steps: [['scripts/build.mjs'], ['bench/hot-path/streams.ts', '...']] },
  'soak:hot-path': { envoy: true, redis: true, steps: [['scripts/build.mjs'], ['bench/hot-path/soak.ts', '...']] },
  'bench:micro': { steps: [['bench/micro/main.ts', '...']] },
  'bench:workers': { redis: true, steps: [['scripts/build.mjs'], ['bench/workers.ts', '...']] },
  'bench:routing': { steps: [['bench/routing-quality.ts', '...']] },
  'sim:soak': { steps: [['sim/soak.ts', '...']] },
  'bench:redis': { redis: true, steps: [['scripts/build.mjs'], ['bench/redis-cost.ts', '...']] },
  'soak:redis': { redis: true, steps: [['scripts/build.mjs'], ['bench/soak-redis.ts', '...']] },
  'soak:streams': { envoy: true, redis: true, env: { FAIRLEAD_LONG: '1' }, steps: [[bin('vitest/vitest.mjs'), 'run', 'test/e2e/long-streams.test.ts']] },
  'measure:idle': { steps: [['scripts/build.mjs'], ['scripts/measure-idle.ts', '...']] },
};

function runStep(node, args, env) {
  return new Promise((resolve) => {
    const child = spawn(node, args, { cwd: root, stdio: 'inherit', env });
    // Ctrl-C reaches the child by itself (same terminal); a signal to this process alone is passed on.
    const pass = (signal) => child.kill(signal);
    process.on('SIGTERM', pass);
    process.on('SIGINT', () => {});
    child.on('exit', (code, signal) => resolve(signal ? 128 : (code ?? 1)));
  });
}

async function main([name, ...rest]) {
  const task = tasks[name];
  if (!task) throw new SetupError(`unknown task ${name}; one of: ${Object.keys(tasks).join(', ')}`);
  await ensurePackages();
  const node = await ensureNode();
  // Children that start `node` (vitest workers, bin/fairlead) find the same one.
  const env = { ...process.env, PATH: `${path.dirname(node)}${path.delimiter}${process.env.PATH ?? ''}`, FAIRLEAD_NODE: node, ...task.env };
  if (task.envoy) env.ENVOY_BIN = await ensureEnvoy();
  if (task.redis) env.REDIS_BIN = await ensureRedis();
  if (task.protos) env.FAIRLEAD_OFFICIAL_PROTOS = await ensureOfficialProtos();
  for (const step of task.steps) {
    const args = step.flatMap((word) => (word === '...' ? rest : [word]));
    const code = await runStep(node, args, env);
    if (code !== 0) return code;
  }
  return 0;
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error) => {
    process.stderr.write(`${error instanceof SetupError ? error.message : error.stack}\n`);
    process.exitCode = 1;
  },
);
