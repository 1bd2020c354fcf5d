// `npm run sim:soak [-- --seed FIRST --runs N --requests MAX]`: random runs until one breaks a rule. Not part of `npm test`.
import { parseArgs } from 'node:util';
import { describeFailure, playRandomRun } from './random-run.ts';

const { values } = parseArgs({
  options: {
    /** First seed; the runs after it take the next ones. */
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    runs: { type: 'string', default: '5000' },
    /** Most requests of a run. */
    requests: { type: 'string', default: '1000' },
  },
});
const [first, runs, requestsMax] = [values.seed, values.runs, values.requests].map(Number);
if (first === undefined || runs === undefined || requestsMax === undefined || ![first, runs, requestsMax].every((value) => Number.isSafeInteger(value) && value >= 0)) {
  process.stderr.write('expected whole numbers: --seed FIRST --runs N --requests MAX\n');
  process.exit(2);
}
let broken = 0;
for (let seed = first; seed < first + runs; seed += 1) {
  const { run, result } = await playRandomRun(seed, requestsMax);
  if (result.violationCount > 0) {
    broken += 1;
    process.stdout.write(`${describeFailure(seed, requestsMax, run, result)}\n`);
  } else if (runs === 1) {
    process.stdout.write(`seed ${seed} breaks no rule: ${run.about}; ${result.requests.length} requests\n`);
  }
  if ((seed - first) % 100 === 99) process.stdout.write(`${seed - first + 1} runs, ${broken} broken\n`);
}
process.stdout.write(`${runs} runs from seed ${first}, ${broken} broken\n`);
process.exitCode = broken > 0 ? 1 : 0;
